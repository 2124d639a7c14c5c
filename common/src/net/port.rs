//! A port of the host, kept from others.
//!
//! Kernel object: a socket that is bound and does nothing. See bind(2), ip(7).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket};

use crate::sys::call;
use crate::sys::error::{Hint, Result};
use crate::values::{Protocol, Publish};

/// Binds a socket to the host's side of a published port. Nobody listens on it; and without SO_REUSEADDR, no
/// other socket can be bound there either.
///
/// # Errors
/// EACCES for an ordinary user's low port, EADDRINUSE when somebody has it, EADDRNOTAVAIL when the address is
/// none of this host's.
pub fn reserve(port: &Publish) -> Result<OwnedFd> {
    bound(port, false)
}

/// Whether a server could have the port. As servers do, it passes over connections of one that has ended,
/// which the kernel remembers for a minute.
///
/// # Errors
/// Those of [`reserve`].
pub fn is_free(port: &Publish) -> Result<()> {
    bound(port, port.protocol == Protocol::Tcp).map(drop)
}

fn bound(port: &Publish, reuse: bool) -> Result<OwnedFd> {
    let kind = match port.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let address = SocketAddrV4::new(port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host_port);
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
        "a program of the host, or another container, has this port: choose another one",
    )
    .hint_if(Errno::EADDRNOTAVAIL, "the address before the port must be one of this host's")
}
