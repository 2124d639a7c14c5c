//! The few words of rtnetlink that the checks need to build networks around a runtime: links, addresses,
//! routes. Not those of `common`, since the checks must not share a runtime's mistakes.
//!
//! Each acts in the network namespace of the thread that calls it. Kernel objects: links, addresses, routes.
//! Man pages: netlink(7), rtnetlink(7), veth(4).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// The loopback interface is the first link of every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// Of linux/veth.h; libc does not have it.
const VETH_INFO_PEER: u16 = 1;

/// Sends one request, and reads the kernel's answer to it.
pub(crate) fn request(protocol: SockProtocol, kind: i32, flags: i32, body: &[u8]) -> nix::Result<()> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let short = |number: i32| u16::try_from(number).unwrap_or_default().to_ne_bytes();
    // struct nlmsghdr: length, type, flags, sequence number, port.
    let mut message = u32::try_from(16 + body.len()).unwrap_or_default().to_ne_bytes().to_vec();
    message.extend([short(kind), short(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK)].concat());
    message.extend([0; 8]);
    message.extend(body);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 8192];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let error = answer[..length].get(16..20).filter(|_| answer[4..6] == short(libc::NLMSG_ERROR));
    // A negative errno; 0 is an acknowledgement.
    match error.and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        errno => Err(nix::Error::from_raw(-errno)),
    }
}

/// struct rtattr: length, number, value, and what fills up to four bytes.
pub(crate) fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), number.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn route(kind: u16, flags: i32, body: &[u8]) -> nix::Result<()> {
    request(SockProtocol::NetlinkRoute, i32::from(kind), flags, body)
}

/// struct ifinfomsg: the link's number, and which of its flags become what.
fn link(index: u32, flags: i32, change: i32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

fn name(text: &str) -> Vec<u8> {
    attribute(libc::IFLA_IFNAME, &[text.as_bytes(), &[0]].concat())
}

/// Sets a link up or down.
pub(crate) fn set_up(index: u32, up: bool) -> nix::Result<()> {
    let flags = if up { libc::IFF_UP } else { 0 };
    route(libc::RTM_NEWLINK, 0, &link(index, flags, libc::IFF_UP))
}

/// Makes a bridge of this name and number.
pub(crate) fn add_bridge(title: &str, index: u32) -> nix::Result<()> {
    let kind = attribute(libc::IFLA_INFO_KIND, b"bridge");
    let body = [link(index, 0, 0), name(title), attribute(libc::IFLA_LINKINFO, &kind)].concat();
    route(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
}

/// Makes a veth pair: one end here, the other in a network namespace, both of the same number.
pub(crate) fn add_veth(here: &str, there: &str, index: u32, namespace: BorrowedFd<'_>) -> nix::Result<()> {
    let descriptor = namespace.as_raw_fd().to_ne_bytes();
    let end = [link(index, 0, 0), name(there), attribute(libc::IFLA_NET_NS_FD, &descriptor)].concat();
    let peer = attribute(libc::IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &end));
    let info = [attribute(libc::IFLA_INFO_KIND, b"veth"), peer].concat();
    let body = [link(index, 0, 0), name(here), attribute(libc::IFLA_LINKINFO, &info)].concat();
    route(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
}

/// Removes a link.
pub(crate) fn delete(title: &str) -> nix::Result<()> {
    route(libc::RTM_DELLINK, 0, &[link(0, 0, 0), name(title)].concat())
}

/// Gives a link an address.
pub(crate) fn add_address(index: u32, address: Ipv4Addr, prefix: u8) -> nix::Result<()> {
    let body = address_of(index, address, prefix);
    route(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
}

/// Takes an address from a link.
pub(crate) fn delete_address(index: u32, address: Ipv4Addr, prefix: u8) -> nix::Result<()> {
    route(libc::RTM_DELADDR, 0, &address_of(index, address, prefix))
}

fn address_of(index: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let family = u8::try_from(libc::AF_INET).unwrap_or_default();
    // struct ifaddrmsg: family, prefix, flags, scope, link.
    let mut body = vec![family, prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    for number in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        body.extend(attribute(number, &address.octets()));
    }
    body
}

/// Sends what goes to a network through a gateway.
pub(crate) fn add_route(network: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> nix::Result<()> {
    let family = u8::try_from(libc::AF_INET).unwrap_or_default();
    // struct rtmsg: family, lengths of destination and source, type of service, table, protocol, scope, type,
    // flags.
    let mut body = vec![
        family,
        prefix,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
    ];
    body.extend([0; 4]);
    body.extend(attribute(libc::RTA_DST, &network.octets()));
    body.extend(attribute(libc::RTA_GATEWAY, &gateway.octets()));
    route(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
}
