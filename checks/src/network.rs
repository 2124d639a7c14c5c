//! Network namespaces that the checks enter: a container's, the host's, and that of a host outside.
//!
//! A thread enters the namespace and makes a socket there. The socket stays in it, wherever it is used
//! afterwards, so that no container needs a program to be talked to. Every wait has a time limit. Kernel
//! objects: network namespaces, a veth pair. Man pages: setns(2), network_namespaces(7), veth(4).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::kernel::{Process, eventually, read};
use crate::netlink::{self, LOOPBACK};
use crate::{Checked, Failure, ensure};

/// For what should arrive. Generous: the machine may be busy, and nothing waits for it when all is well.
const LONG: Duration = Duration::from_secs(8);

/// For what should not arrive: all of it is waited for.
const SHORT: Duration = Duration::from_millis(800);

/// Types of ICMP messages, of linux/icmp.h.
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// A ping: type, code, checksum, and this number as identifier and sequence number. RFC 792, RFC 1071.
fn echo_request(number: u8) -> [u8; 8] {
    let mut packet = [ECHO_REQUEST, 0, 0, 0, b'C', number, b'c', number];
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16));
    [packet[2], packet[3]] = [sum.to_be_bytes()[2], sum.to_be_bytes()[3]];
    packet
}

/// A network namespace, which is there as long as this value is.
#[derive(Debug)]
pub struct Network(File);

impl Network {
    /// The network namespace of a process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(process: Process) -> Result<Network, Failure> {
        Ok(Network(File::open(process.path("ns/net"))?))
    }

    /// The network namespace of the checks' own host.
    ///
    /// # Errors
    /// When there is no /proc.
    pub fn of_host() -> Result<Network, Failure> {
        Ok(Network(File::open(Process::this_thread().join("ns/net"))?))
    }

    /// A new one, with its loopback interface up.
    ///
    /// # Errors
    /// EPERM without `CAP_SYS_ADMIN`.
    pub fn new() -> Result<Network, Failure> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            netlink::set_up(LOOPBACK, true)?;
            Network::of_host()
        })
    }

    /// Does something in it.
    ///
    /// # Errors
    /// When it cannot be entered, or what `action` fails at.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
        in_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            action()
        })
    }

    /// Listens in it on a TCP port.
    ///
    /// # Errors
    /// When the port is taken or the address is not there.
    pub fn tcp(&self, address: &str) -> Result<TcpListener, Failure> {
        self.run(|| {
            let listener = TcpListener::bind(address)
                .map_err(|error| Failure::new(format!("a listener on {address}"), error))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
    }

    /// A UDP socket in it.
    ///
    /// # Errors
    /// When the port is taken or the address is not there.
    pub fn udp(&self, address: &str) -> Result<UdpSocket, Failure> {
        self.run(|| {
            let socket = UdpSocket::bind(address)
                .map_err(|error| Failure::new(format!("a UDP socket on {address}"), error))?;
            socket.set_read_timeout(Some(Duration::from_millis(300)))?;
            Ok(socket)
        })
    }

    /// Its links.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub fn links(&self) -> Result<Vec<Link>, Failure> {
        self.run(|| {
            let mut links: Vec<Link> = vec![];
            for found in nix::ifaddrs::getifaddrs()? {
                let name = found.interface_name;
                let known = links.iter().position(|link| link.name == name);
                let link = known.unwrap_or_else(|| {
                    let up = found.flags.contains(InterfaceFlags::IFF_UP);
                    links.push(Link { name, up, addresses: vec![], hardware: None });
                    links.len() - 1
                });
                let ipv4 = |part: &Option<nix::sys::socket::SockaddrStorage>| {
                    part.as_ref().and_then(|it| it.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
                };
                if let Some(address) = ipv4(&found.address) {
                    let mask = ipv4(&found.netmask).map_or(0, u32::from);
                    links[link].addresses.push(format!("{address}/{}", mask.leading_ones()));
                }
                let hardware = found.address.as_ref().and_then(|it| it.as_link_addr()?.addr());
                links[link].hardware = links[link].hardware.or(hardware);
            }
            Ok(links)
        })
    }

    /// The link of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn link(&self, name: &str) -> Result<Link, Failure> {
        let links = self.links()?;
        let found = || links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
        let link = links.iter().find(|link| link.name == name).cloned();
        link.ok_or_else(|| Failure::new(format!("a network link {name}"), found()))
    }

    /// Fails unless a TCP connection from here to `to` arrives at the listener, and carries bytes both ways.
    /// Returns where it comes from, as the listener sees it.
    ///
    /// # Errors
    /// With what happened instead.
    pub fn reaches(&self, to: &str, listener: &TcpListener) -> Result<IpAddr, Failure> {
        self.talk(to, listener)
            .map_err(|error| Failure::new(format!("a TCP connection to {to} works"), error))
    }

    fn talk(&self, to: &str, listener: &TcpListener) -> io::Result<IpAddr> {
        let mut client = self.connect(to, LONG)?;
        // At once: a program between the two may wait for it before it connects to the other side.
        client.write_all(b"ping")?;
        let mut accepted = None;
        eventually(LONG, || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let nobody = || io::Error::other("connected, but to somebody else than who should listen there");
        let (mut server, source) = accepted.ok_or_else(nobody)?;
        server.set_nonblocking(false)?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(LONG))?;
        }
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes)?;
        server.write_all(b"pong")?;
        client.read_exact(&mut bytes)?;
        if &bytes == b"pong" { Ok(source.ip()) } else { Err(io::Error::other(format!("{bytes:?}"))) }
    }

    /// Fails if a TCP connection from here to `to` is accepted by anybody.
    ///
    /// # Errors
    /// When it is.
    pub fn does_not_reach(&self, to: &str) -> Checked {
        let connected = self.connect(to, SHORT).is_ok();
        ensure(!connected, || Failure::new(format!("no connection to {to} is possible"), "one was made"))
    }

    fn connect(&self, to: &str, limit: Duration) -> io::Result<TcpStream> {
        let address: SocketAddr = to.parse().map_err(io::Error::other)?;
        let mut result = Err(io::Error::other("the namespace cannot be entered"));
        let entered = self.run(|| {
            result = TcpStream::connect_timeout(&address, limit);
            Ok(())
        });
        entered.map_err(|failure| io::Error::other(failure.found))?;
        result
    }

    /// Fails unless a ping from here to `to`, an IPv4 address, is answered. icmp(7).
    ///
    /// # Errors
    /// When it is not, or without `CAP_NET_RAW`.
    pub fn pings(&self, to: &str) -> Checked {
        let address: Ipv4Addr = to.parse().map_err(io::Error::other)?;
        let answered = self.run(|| {
            // Not a ping socket: the groups that may have one are a setting of the namespace.
            let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
            setsockopt(&raw, ReceiveTimeout, &TimeVal::milliseconds(300))?;
            for number in 0..12 {
                let echo = echo_request(number);
                // An error that an earlier packet brought back: the next one may do.
                let to = SockaddrIn::from(SocketAddrV4::new(address, 0));
                let _ = sendto(raw.as_raw_fd(), &echo, &to, MsgFlags::empty());
                let mut packet = [0; 128];
                while let Ok(length) = recv(raw.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                    // The socket gets the IP header, too, and every ICMP packet of the namespace.
                    let header = usize::from(packet[0] & 0xf) * 4;
                    let found = packet[..length].get(header..header + 8).unwrap_or_default();
                    if found.first() == Some(&ECHO_REPLY) && found.get(4..) == Some(&echo[4..]) {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        })?;
        ensure(answered, || Failure::new(format!("a ping to {to} is answered"), "no answer"))
    }

    /// Fails unless a UDP packet from here to `to` arrives at the server, and its answer comes back from
    /// `to`. Returns where it comes from, as the server sees it.
    ///
    /// # Errors
    /// With what did not arrive.
    pub fn reaches_by_udp(&self, to: &str, server: &UdpSocket) -> Result<IpAddr, Failure> {
        // Each try has its own text, since a packet of the one before may still be under way.
        static TRY: AtomicU32 = AtomicU32::new(0);
        let client = self.udp(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
        // Connected, it takes answers from this address only.
        self.run(|| Ok(client.connect(to)?))?;
        let mut arrived = false;
        let mut buffer = [0; 64];
        for _ in 0..12 {
            let text = format!("ping {}", TRY.fetch_add(1, Ordering::Relaxed));
            // An error that an ICMP message brought back is told by the next call: the try after may do.
            let _ = client.send(text.as_bytes());
            while let Ok((length, source)) = server.recv_from(&mut buffer) {
                if &buffer[..length] != text.as_bytes() {
                    continue;
                }
                arrived = true;
                server.send_to(text.as_bytes(), source)?;
                if client.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == text.as_bytes()) {
                    return Ok(source.ip());
                }
                break;
            }
        }
        let found = if arrived { "no answer from there" } else { "no packet arrives" };
        Err(Failure::new(format!("a UDP packet to {to} is answered"), found))
    }
}

/// A link of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Its IPv4 addresses, as `10.44.0.2/16`.
    pub addresses: Vec<String>,
    /// Its hardware address, if it has one.
    pub hardware: Option<[u8; 6]>,
}

/// The gateway of the default route of the network namespace of a process.
///
/// # Errors
/// When the process is gone.
pub fn default_gateway(process: Process) -> Result<Option<Ipv4Addr>, Failure> {
    let routes = process.read("net/route")?;
    let gateway = routes.lines().find_map(|line| {
        // Interface, destination, gateway, in the byte order of the machine.
        let mut fields = line.split_whitespace().skip(1);
        (fields.next()? == "00000000").then_some(())?;
        u32::from_str_radix(fields.next()?, 16).ok()
    });
    Ok(gateway.map(|number| Ipv4Addr::from(number.to_ne_bytes())))
}

/// Whether this thread's network namespace passes packets on.
///
/// # Errors
/// When the kernel does not tell.
pub fn forwarding() -> Result<bool, Failure> {
    Ok(read(FORWARDING)?.trim() != "0")
}

/// Lets this thread's network namespace pass packets on, or not.
///
/// # Errors
/// When /proc/sys cannot be written.
pub fn set_forwarding(on: bool) -> Checked {
    Ok(fs::write(FORWARDING, if on { "1" } else { "0" })?)
}

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// The tables of packet filter rules in this thread's network namespace, as `nft` lists them.
///
/// # Errors
/// When `nft` cannot be run.
pub fn tables() -> Result<String, Failure> {
    let output = std::process::Command::new("nft").args(["list", "tables"]).output()?;
    ensure(output.status.success(), || {
        Failure::new("`nft list tables` works", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Puts a network namespace's loopback addresses out of use, and sends packets for them to the gateway. A
/// container has to do this to forge them. Acts on this thread's namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn forge_loopback(gateway: Ipv4Addr) -> Checked {
    // Set down, the link would keep its route.
    netlink::delete_address(LOOPBACK, Ipv4Addr::LOCALHOST, 8)?;
    for link in ["all", "eth0"] {
        let folder = Path::new("/proc/sys/net/ipv4/conf").join(link);
        fs::write(folder.join("route_localnet"), "1")?;
        fs::write(folder.join("rp_filter"), "0")?;
    }
    Ok(netlink::add_route(Ipv4Addr::new(127, 0, 0, 0), 8, gateway)?)
}

/// A host outside: a network namespace on the other end of a cable to the checks' host.
#[derive(Debug)]
pub struct Outside {
    /// Its network namespace.
    pub network: Network,
    link: String,
}

impl Outside {
    /// The address of the checks' host on this cable.
    pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The outside host's own address.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// The same two on another cable, for a second one.
    const OTHER: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2)];

    /// Makes it, with a route to 10.0.0.0/8 through the checks' host.
    ///
    /// # Errors
    /// When the kernel has no veth links.
    pub fn new() -> Result<Outside, Failure> {
        Outside::on(Outside::HOST, Outside::ADDRESS)
    }

    /// Makes two on different cables, each with a route to the other through the checks' host. The address of
    /// the second is 198.51.100.2.
    ///
    /// # Errors
    /// When the kernel has no veth links.
    pub fn two() -> Result<(Outside, Outside), Failure> {
        let [host, address] = Outside::OTHER;
        let (one, other) = (Outside::new()?, Outside::on(host, address)?);
        one.network.run(|| Ok(netlink::add_route(Ipv4Addr::new(198, 51, 100, 0), 24, Outside::HOST)?))?;
        other.network.run(|| Ok(netlink::add_route(Ipv4Addr::new(192, 0, 2, 0), 24, host)?))?;
        Ok((one, other))
    }

    fn on(host: Ipv4Addr, address: Ipv4Addr) -> Result<Outside, Failure> {
        static NUMBER: AtomicU32 = AtomicU32::new(20_000);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Network::new()?;
        let outside = Outside { link: format!("cable{number}"), network };
        let of_cable = |errno| Failure::new("a veth pair", errno);
        netlink::add_veth(&outside.link, "eth0", number, outside.network.0.as_fd()).map_err(of_cable)?;
        netlink::add_address(number, host, 24)?;
        netlink::set_up(number, true)?;
        outside.network.run(|| {
            netlink::add_address(number, address, 24)?;
            netlink::set_up(number, true)?;
            Ok(netlink::add_route(Ipv4Addr::new(10, 0, 0, 0), 8, host)?)
        })?;
        Ok(outside)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Should it be gone, the guard has nothing to find.
        let _ = netlink::delete(&self.link);
    }
}

fn in_thread<T: Send>(action: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    thread::scope(|scope| scope.spawn(action).join())
        .unwrap_or_else(|_| Err(Failure::new("the check works", "its thread broke off")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs::Need;

    #[test]
    fn hosts_outside_are_reached_and_what_nobody_listens_on_is_not() {
        if let Some(reason) = crate::needs::lacking(&[Need::Namespace("net")], 0) {
            return eprintln!("skipped: {reason}");
        }
        let test = || {
            let host = Network::of_host()?;
            let outside = Outside::new()?;
            let listener = outside.network.tcp("0.0.0.0:80")?;
            assert_eq!(host.reaches("192.0.2.2:80", &listener)?, Outside::HOST);
            let server = host.udp("0.0.0.0:80")?;
            assert_eq!(outside.network.reaches_by_udp("192.0.2.1:80", &server)?, Outside::ADDRESS);
            host.does_not_reach("192.0.2.2:81")?;
            assert!(outside.network.does_not_reach("192.0.2.1:81").is_ok());
            assert!(host.does_not_reach("192.0.2.2:80").is_err());
            let cable = outside.network.link("eth0")?;
            assert_eq!((cable.up, cable.addresses), (true, vec!["192.0.2.2/24".to_owned()]));
            drop(outside);
            assert!(host.links()?.iter().all(|link| link.name == "lo" || !link.up));
            Ok(())
        };
        Network::new().unwrap().run(test).unwrap();
    }
}
