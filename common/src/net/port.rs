//! A port of the host, kept from others.
//!
//! Kernel object: a socket that is bound and does nothing. See bind(2), ip(7).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket,
};

use crate::sys::call;
use crate::sys::error::{Context, Hint, Result, tell};
use crate::values::{PortRequest, Protocol, Publish};

/// Ports of the host, and the sockets that keep them from others.
#[derive(Debug)]
pub struct Reserved {
    /// Each with the port of the host that it got.
    pub ports: Vec<Publish>,
    /// Nobody listens on them; and without SO_REUSEADDR, no other socket can be bound there either.
    pub sockets: Vec<OwnedFd>,
    /// Those for which another port would have done, too: only their user does not know which it is.
    chosen: Vec<Publish>,
}

/// Binds a socket to the host's side of each published port. A port that was left to the runtime is the first
/// free one of its range, or of all the one that the kernel chooses: ip(7), `ip_local_port_range`.
///
/// # Errors
/// EACCES for an ordinary user's low port, EADDRINUSE when somebody has it or all of its range, EADDRNOTAVAIL
/// when the address is none of this host's.
pub fn reserve(requests: &[PortRequest]) -> Result<Reserved> {
    all(requests, |_| false)
}

/// Finds the ports that servers could have. As servers do, it passes over connections of one that has ended,
/// which the kernel remembers for a minute. Nothing is kept.
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
        for Publish { host_ip, host_port, container_port, protocol } in &self.chosen {
            let ip = host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
            tell(format_args!("{container_port}/{protocol} -> {ip}:{host_port}"));
        }
    }
}

fn all(requests: &[PortRequest], reuse: impl Fn(Protocol) -> bool) -> Result<Reserved> {
    let mut reserved = Reserved { ports: Vec::new(), sockets: Vec::new(), chosen: Vec::new() };
    // First those that can have only one port, so that none of them is chosen for another.
    let (fixed, open): (Vec<_>, Vec<_>) = requests.iter().partition(|port| port.fixed().is_some());
    for request in fixed.into_iter().chain(open) {
        let is_fixed = request.fixed().is_some();
        // Two sockets that both pass over old connections would share a port until one of them listens.
        let (port, socket) = one(request, is_fixed && reuse(request.protocol))?;
        reserved.ports.push(port);
        reserved.sockets.push(socket);
        if !is_fixed {
            reserved.chosen.push(port);
        }
    }
    Ok(reserved)
}

/// The first port of a request's that is free, and its socket.
fn one(request: &PortRequest, reuse: bool) -> Result<(Publish, OwnedFd)> {
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
    let address: SockaddrIn = getsockname(socket.as_raw_fd()).context("getsockname(2)")?;
    Ok((request.at(address.port()), socket))
}

fn bound(port: &PortRequest, number: u16, reuse: bool) -> Result<OwnedFd> {
    let kind = match port.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let address = SocketAddrV4::new(port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), number);
    call(
        "bind(2)",
        || format!("--publish {port}: bind({}:{address})", port.protocol),
        || {
            let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, ReuseAddr, &reuse)?;
            bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
            nix::Result::Ok(socket)
        },
    )
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
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn requests(texts: &[&str]) -> Vec<PortRequest> {
        texts.iter().flat_map(|text| crate::values::publish(text).unwrap().ports()).collect()
    }

    #[test]
    fn a_free_port_is_chosen() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let one = requests(&[&format!("127.0.0.1:{number}:80")]);
        for reserve in [reserve, find_free] {
            assert_eq!(reserve(&one).unwrap_err().errno(), Some(Errno::EADDRINUSE));
            let found = reserve(&requests(&["127.0.0.1::80", "127.0.0.1::80", "127.0.0.1::80/udp"])).unwrap();
            assert_eq!(found.chosen, found.ports);
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
            assert_eq!(found.chosen, found.ports[1..]);
        }
    }
}
