//! A port of the host, kept from others.
//!
//! Kernel object: a socket that is bound. On an IPv4 address it does nothing more. On an IPv6 address,
//! [`proxy`](super::proxy) will accept connections and data on it. See bind(2), listen(2), ip(7), ipv6(7).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv6RecvPacketInfo, Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen, setsockopt,
    socket,
};

use super::proxy::Door;
use crate::sys::call;
use crate::sys::error::{Context, Hint, Result, tell};
use crate::values::{PortRequest, Protocol, Publish};

/// Ports of the host, and the sockets that keep them from others.
#[derive(Debug)]
pub struct Reserved {
    /// The ports on IPv4 addresses, each with the port of the host that it got.
    pub ports: Vec<Publish>,
    /// No process listens on them. Without SO_REUSEADDR, no other socket can be bound there either.
    pub sockets: Vec<OwnedFd>,
    /// The ports on IPv6 addresses, each with the socket on which a process is to listen.
    pub doors: Vec<Door>,
    /// The ports that the runtime has chosen, out of several that would do. The user has to be told which
    /// they are.
    chosen: Vec<(PortRequest, u16)>,
}

/// Binds a socket to the host's side of each published port. A port that was left to the runtime is the first
/// free one of its range. Without a range the kernel chooses the port: ip(7), `ip_local_port_range`.
///
/// # Errors
/// - EACCES for an ordinary user's low port
/// - EADDRINUSE when another process has the port, or all of its range
/// - EADDRNOTAVAIL when the host does not have the address
/// - EAFNOSUPPORT where the kernel has no IPv6
pub fn reserve(requests: &[PortRequest]) -> Result<Reserved> {
    all(requests, |_| false)
}

/// Finds the ports that servers could have. As servers do, it passes over connections of a server that has
/// ended, which the kernel remembers for a minute. It keeps no sockets of the ports on IPv4 addresses.
///
/// # Errors
/// Those of [`reserve`].
pub fn find_free(requests: &[PortRequest]) -> Result<Reserved> {
    let mut found = all(requests, |protocol| protocol == Protocol::Tcp)?;
    found.sockets.clear();
    Ok(found)
}

impl Reserved {
    /// Tells the user which ports the runtime has chosen, as `docker port` does.
    pub fn tell(&self) {
        for (PortRequest { host_ip, container_port, protocol, .. }, host_port) in &self.chosen {
            let host = SocketAddr::new(host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), *host_port);
            tell(format_args!("{container_port}/{protocol} -> {host}"));
        }
    }
}

fn all(requests: &[PortRequest], reuse: impl Fn(Protocol) -> bool) -> Result<Reserved> {
    let mut reserved =
        Reserved { ports: Vec::new(), sockets: Vec::new(), doors: Vec::new(), chosen: Vec::new() };
    // First those that can have only one port, so that none of them is chosen for another.
    let (fixed, open): (Vec<_>, Vec<_>) = requests.iter().partition(|port| port.fixed().is_some());
    for request in fixed.into_iter().chain(open) {
        let is_fixed = request.fixed().is_some();
        // Two sockets that both pass over old connections would share a port until one of them listens.
        let (number, socket) = one(request, is_fixed && reuse(request.protocol))?;
        if !is_fixed {
            reserved.chosen.push((request.clone(), number));
        }
        if let Some(port) = request.proxied(number) {
            reserved.doors.push(Door { port, socket });
        } else if let Some(port) = request.published(number) {
            reserved.ports.push(port);
            reserved.sockets.push(socket);
        }
    }
    Ok(reserved)
}

/// The first port of a request's that is free, and its socket.
fn one(request: &PortRequest, reuse: bool) -> Result<(u16, OwnedFd)> {
    // Number 0 leaves the choice to the kernel.
    let numbers = request.host_ports.clone().unwrap_or(0..=0);
    let mut result = bound(request, *numbers.start(), reuse);
    for number in numbers.skip(1) {
        match result {
            Err(error) if error.errno() == Some(Errno::EADDRINUSE) => {
                result = bound(request, number, reuse);
            }
            _ => break,
        }
    }
    let socket = result?;
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).context("getsockname(2)")?;
    let number = address.as_sockaddr_in().map(|ipv4| ipv4.port());
    let number = number.or_else(|| address.as_sockaddr_in6().map(|ipv6| ipv6.port()));
    Ok((number.unwrap_or_default(), socket))
}

fn bound(port: &PortRequest, number: u16, reuse: bool) -> Result<OwnedFd> {
    let kind = match port.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let address = SocketAddr::new(port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), number);
    let make = || match address.ip() {
        IpAddr::V4(_) => {
            let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, ReuseAddr, &reuse)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
            nix::Result::Ok(socket)
        }
        IpAddr::V6(_) => {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Inet6, kind, flags, None)?;
            // Otherwise [::] would be all IPv4 addresses, too.
            setsockopt(&socket, Ipv6V6Only, &true)?;
            if port.protocol == Protocol::Udp {
                // So that an answer can come from the address of its question.
                setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
                bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
            } else {
                // Over connections that have ended. It listens at once, so it shares the port with nobody.
                setsockopt(&socket, ReuseAddr, &true)?;
                bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
                listen(&socket, Backlog::MAXCONN)?;
            }
            Ok(socket)
        }
    };
    call("bind(2)", || format!("--publish {port}: bind({}:{address})", port.protocol), make)
        .hint_if(
            Errno::EACCES,
            "ports below net.ipv4.ip_unprivileged_port_start, which is 1024 by default, are root's: choose a \
         higher one",
        )
        .hint_if(
            Errno::EADDRINUSE,
            "a program of the host, or another container, has this port, or all of the range: choose another \
         one, or none, as in -p 80",
        )
        .hint_if(Errno::EADDRNOTAVAIL, "the address before the port must be one of this host's")
        .hint_if(Errno::EAFNOSUPPORT, "this host has no IPv6: take an IPv4 address, or none")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::testing::skipped;

    fn requests(texts: &[&str]) -> Vec<PortRequest> {
        texts.iter().flat_map(|text| crate::values::publish(text).unwrap().ports()).collect()
    }

    fn chosen(found: &Reserved) -> Vec<Publish> {
        found.chosen.iter().filter_map(|(port, number)| port.published(*number)).collect()
    }

    #[test]
    fn a_free_port_is_chosen() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let one = requests(&[&format!("127.0.0.1:{number}:80")]);
        for reserve in [reserve, find_free] {
            assert_eq!(reserve(&one).unwrap_err().errno(), Some(Errno::EADDRINUSE));
            let found = reserve(&requests(&["127.0.0.1::80", "127.0.0.1::80", "127.0.0.1::80/udp"])).unwrap();
            assert_eq!(chosen(&found), found.ports);
            assert!(found.ports.iter().all(|port| port.host_port != 0 && port.host_port != number));
            assert_ne!(found.ports[0].host_port, found.ports[1].host_port);
        }
    }

    #[test]
    fn a_fixed_port_is_not_chosen_for_another() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().min(65_000);
        let range = format!("127.0.0.1:{free}-{}:80", free + 100);
        for reserve in [reserve, find_free] {
            let found = reserve(&requests(&[&range, &format!("127.0.0.1:{free}:81")])).unwrap();
            assert_eq!((found.ports[0].container_port, found.ports[0].host_port), (81, free));
            assert!(found.ports[1].host_port > free);
            assert_eq!(chosen(&found), found.ports[1..]);
        }
    }

    #[test]
    fn ports_of_ipv6_are_doors() {
        let Ok(taken) = TcpListener::bind("[::1]:0") else { return skipped("this host has no IPv6") };
        let number = taken.local_addr().unwrap().port();
        for reserve in [reserve, find_free] {
            let error = reserve(&requests(&[&format!("[::1]:{number}:80")])).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EADDRINUSE), "{error}");
            let found = reserve(&requests(&["[::1]::80", "[::1]::80", "[::]::53/udp"])).unwrap();
            assert!(found.ports.is_empty() && found.sockets.is_empty());
            let doors: Vec<_> = found.doors.iter().map(|door| door.port.host).collect();
            assert_eq!((doors.len(), found.chosen.len()), (3, 3));
            assert!(doors.iter().all(|host| host.port() != 0 && host.port() != number));
            assert_ne!(doors[0], doors[1]);
            // [::] is no IPv4 address: beside it, the same port is free there.
            let beside = std::net::UdpSocket::bind(("0.0.0.0", doors[2].port()));
            assert!(beside.is_ok(), "{beside:?}");
            // The socket listens, so another one cannot, although it passes over old connections, too.
            assert!(TcpListener::bind(doors[0]).is_err());
        }
    }
}
