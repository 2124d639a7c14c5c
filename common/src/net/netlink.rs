//! Links, addresses and routes, as the program `ip` makes them: requests to the kernel over a netlink socket.
//!
//! Kernel objects: a socket of `AF_NETLINK`. It speaks to the network namespace of the thread that opened it,
//! wherever the thread goes later. Each request waits for the kernel's answer. So when the function returns,
//! the kernel has done the work.
//! See netlink(7), rtnetlink(7), veth(4); ip-link(8) and its neighbours for the same by hand.

mod wire;

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::net::netdevice::name_to_index;

use crate::keep::hash::stable;
use crate::sys::error::{Context, Error, Hint, Result};
use crate::sys::{Returned, call};
use wire::Answer;
pub(super) use wire::uninterrupted;

const MAN: &str = "rtnetlink(7)";

/// How long the kernel may take to begin to remove a link by itself. A container has configured its link
/// through a netlink socket. Only some milliseconds after that was closed, when no processor can use it any
/// more, the kernel lets go of it, and of the network namespace. To be asked to remove the link takes the
/// kernel longer.
const GRACE: Duration = Duration::from_millis(20);

/// A socket to the kernel's network configuration, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket to the kernel.
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub fn open() -> Result<Netlink> {
        let open = || -> std::io::Result<Socket> {
            let socket = Socket::new(NETLINK_ROUTE)?;
            // To the kernel, port 0, and from nobody else: any process may write to a netlink socket.
            socket.connect(&SocketAddr::new(0, 0))?;
            // Asks the kernel to say in words what was wrong (since 4.12), and not to repeat our own request
            // before that. A kernel that cannot do it still tells the errno.
            let _ = socket.set_cap_ack(true).and_then(|()| socket.set_ext_ack(true));
            Ok(socket)
        };
        let socket =
            call("netlink(7)", || "socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE)".into(), open)?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// The number of a link, by which requests name it; `None` when there is no such link: netdevice(7),
    /// SIOCGIFINDEX. A request of rtnetlink(7) would wait as long as the kernel changes any link, such as
    /// those of a network namespace that has ended.
    ///
    /// # Errors
    /// None that the arguments can cause, except ENODEV for a name that no link can have.
    pub fn index_of(&mut self, name: &str) -> Result<Option<u32>> {
        match name_to_index(&self.socket, name) {
            Ok(index) => Ok(Some(index)),
            Err(rustix::io::Errno::NODEV) => Ok(None),
            Err(errno) => Err(Error::from_errno(
                format!("ioctl(SIOCGIFINDEX, {name:?})"),
                Errno::from_raw(errno.raw_os_error()),
            )),
        }
    }

    /// Waits until the kernel is not changing links for anybody. Until then, a write to some settings of the
    /// network repeats itself in the kernel, and takes all of a processor: `restart_syscall` after
    /// `rtnl_trylock`.
    ///
    /// # Errors
    /// None that the arguments can cause.
    pub fn wait_for_others(&mut self) -> Result<()> {
        let mut message = LinkMessage::default();
        // Loopback is number 1 in every namespace. With an empty change mask it stays as it is.
        message.header.index = 1;
        let exchanged = self.exchange(RouteNetlinkMessage::SetLink(message), NLM_F_ACK);
        exchanged.map(drop).map_err(|refusal| refusal.error("RTM_SETLINK(link 1, no change)".into()))
    }

    /// The same for a link that must be there.
    ///
    /// # Errors
    /// ENODEV when there is no such link.
    pub fn index(&mut self, name: &str) -> Result<u32> {
        self.index_of(name)?.ok_or(Errno::ENODEV).context(format_args!("find the link {name}"))
    }

    /// Makes a bridge: a switch in the kernel, which is a link of this namespace as well.
    ///
    /// The bridge gets an Ethernet address of its own. A bridge without one takes the lowest address of its
    /// ports. Each container that comes or goes could change that, and the others would go on sending to the
    /// old address.
    ///
    /// # Errors
    /// EEXIST when the name is taken, EPERM without `CAP_NET_ADMIN` in the namespace, EOPNOTSUPP when the
    /// kernel has no bridges.
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(ethernet_address(name).into()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let what =
            || format!("RTM_NEWLINK(name {name:?}, kind bridge, address {})", colons(ethernet_address(name)));
        self.change(what, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
            .hint_if(Errno::EEXIST, "another link has this name: choose another one")
            .hint_if(Errno::EOPNOTSUPP, "this kernel has no bridges: modprobe bridge")
    }

    /// Makes a veth pair: two links joined by a cable. The first is here, as a port of the bridge with this
    /// index. The other, `peer`, is in the network namespace of the process `pid`. Both are down. The peer's
    /// Ethernet address follows from `name`. The next container with this name must get the same address, or
    /// its neighbours would go on sending to the old one.
    ///
    /// # Errors
    /// - EEXIST when one of the names is taken
    /// - ESRCH when the process has ended
    /// - ENODEV without such a bridge
    /// - EPERM without `CAP_NET_ADMIN` in both namespaces
    /// - EOPNOTSUPP when the kernel has no veth pairs
    pub fn add_veth(&mut self, name: &str, bridge: u32, peer: &str, pid: Pid) -> Result<()> {
        let mut other = LinkMessage::default();
        let address = ethernet_address(name);
        other.attributes = vec![
            LinkAttribute::IfName(peer.into()),
            LinkAttribute::Address(address.into()),
            LinkAttribute::NetNsPid(pid.as_raw().cast_unsigned()),
        ];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Controller(bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
            ]),
        ];
        let what = || {
            format!(
                "RTM_NEWLINK(name {name:?}, kind veth, master {bridge}, peer {{name {peer:?}, address {}, \
                 netns of {pid}}})",
                colons(address)
            )
        };
        self.change(what, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
            .hint_if(Errno::EOPNOTSUPP, "this kernel has no veth pairs: modprobe veth")
            .hint_if(Errno::ESRCH, "the container ended meanwhile")
    }

    /// Gives a link an address, and with it a route to the subnet of this prefix.
    ///
    /// # Errors
    /// EEXIST when it has the address, ENODEV without such a link, EPERM without `CAP_NET_ADMIN` in the
    /// namespace.
    pub fn add_address(&mut self, link: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let subnet = subnet(address, prefix)?;
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = link;
        message.attributes = vec![
            AddressAttribute::Local(IpAddr::V4(address)),
            AddressAttribute::Address(IpAddr::V4(address)),
            AddressAttribute::Broadcast(subnet.broadcast()),
        ];
        let what = || format!("RTM_NEWADDR(link {link}, {subnet}, broadcast {})", subnet.broadcast());
        self.change(what, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The IPv4 addresses of a link, each with the prefix of its subnet.
    ///
    /// # Errors
    /// None that the arguments can cause.
    pub fn addresses(&mut self, link: u32) -> Result<Vec<Ipv4Net>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let request = RouteNetlinkMessage::GetAddress(message);
        let answers = loop {
            match self.exchange(request.clone(), NLM_F_DUMP) {
                // Somebody else changed addresses while the list was read: it may lack one that was there.
                Err(refusal) if refusal.errno == Errno::EINTR => {}
                Err(refusal) => return Err(refusal.error("RTM_GETADDR".into())),
                Ok(answers) => break answers,
            }
        };
        let of_link = answers.iter().filter(|answer| answer.index() == Some(link));
        Ok(of_link.filter_map(Answer::address).collect())
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// ENODEV without such a link, EPERM without `CAP_NET_ADMIN` in the namespace.
    pub fn set_up(&mut self, link: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link;
        message.header.flags = LinkFlags::Up;
        // Which flags to change; the others stay.
        message.header.change_mask = LinkFlags::Up;
        let what = || format!("RTM_NEWLINK(link {link}, IFF_UP)");
        self.change(what, RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Switches a link off: from then on it carries no packet. One that is gone already is fine.
    ///
    /// # Errors
    /// EPERM without `CAP_NET_ADMIN` in the namespace.
    pub fn set_down(&mut self, name: &str) -> Result<()> {
        let Some(link) = self.index_of(name)? else { return Ok(()) };
        let mut message = LinkMessage::default();
        message.header.index = link;
        // The flag itself is left out.
        message.header.change_mask = LinkFlags::Up;
        let what = || format!("RTM_NEWLINK(link {link}, no IFF_UP)");
        unless_gone(self.change(what, RouteNetlinkMessage::NewLink(message), 0))
    }

    /// Lets a bridge send a packet out of the port through which it came, which a bridge never does
    /// otherwise.
    ///
    /// # Errors
    /// ENODEV without such a link, EPERM without `CAP_NET_ADMIN` in the namespace.
    pub fn set_hairpin(&mut self, port: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = port;
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ])];
        let what = || format!("RTM_NEWLINK(link {port}, bridge port, hairpin mode)");
        self.change(what, RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Sends all packets that have no other route to `gateway`, which must be in the subnet of a link that is
    /// up.
    ///
    /// # Errors
    /// ENETUNREACH when the gateway is in no link's subnet, EEXIST when there is a default route.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> Result<()> {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        route.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
        let what = || format!("RTM_NEWROUTE(default via {gateway})");
        self.change(what, RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL)
            .hint_if(Errno::ENETUNREACH, "the gateway must be in the subnet of a link that is up")
    }

    /// Removes a link that the kernel may be about to remove, such as the cable of a container that has just
    /// ended. To wait a little for the kernel takes less time than to remove the link as well.
    ///
    /// # Errors
    /// Those of [`remove_link`](Netlink::remove_link).
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let end = Instant::now() + GRACE;
        while self.index_of(name)?.is_some() && Instant::now() < end {
            sleep(Duration::from_millis(1));
        }
        self.remove_link(name)
    }

    /// Removes a link; of a veth pair, both ends. One that is gone already is fine. The kernel waits until
    /// all processors have let go of it, which takes some 20 milliseconds.
    ///
    /// # Errors
    /// EPERM without `CAP_NET_ADMIN` in the namespace, EOPNOTSUPP for a link that cannot be removed.
    pub fn remove_link(&mut self, name: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.into())];
        if self.index_of(name)?.is_none() {
            return Ok(());
        }
        let what = || format!("RTM_DELLINK(name {name:?})");
        unless_gone(self.change(what, RouteNetlinkMessage::DelLink(link), 0))
    }

    /// Asks for a change, tells it, and gives a refusal its name and the kernel's words.
    fn change(&mut self, what: impl Fn() -> String, request: RouteNetlinkMessage, flags: u16) -> Result<()> {
        let mut words = None;
        let result = call(MAN, what, || match self.exchange(request, NLM_F_ACK | flags) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                words = refusal.words;
                Err(refusal.errno)
            }
        });
        result.map_err(|error| match words {
            Some(words) => error.hint(format!("the kernel says: {words}")),
            None => error,
        })
    }
}

impl Returned for Socket {
    fn number(&self) -> usize {
        usize::try_from(self.as_raw_fd()).unwrap_or_default()
    }
}

/// The link may have gone meanwhile, as with its network namespace.
fn unless_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
        result => result,
    }
}

fn subnet(address: Ipv4Addr, prefix: u8) -> Result<Ipv4Net> {
    Ipv4Net::new(address, prefix).map_err(|_| Error::new(format!("{address}/{prefix}: no prefix of IPv4")))
}

/// The same for the same name, and marked as given by hand ("locally administered"), for one station.
fn ethernet_address(name: &str) -> [u8; 6] {
    let [a, b, c, d, e, ..] = stable([name.as_bytes()]).to_le_bytes();
    [0x02, a, b, c, d, e]
}

fn colons(bytes: [u8; 6]) -> String {
    bytes.iter().enumerate().fold(String::new(), |mut text, (index, byte)| {
        let _ = write!(text, "{}{byte:02x}", if index == 0 { "" } else { ":" });
        text
    })
}

#[cfg(test)]
mod tests;
