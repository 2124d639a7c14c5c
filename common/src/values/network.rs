//! The network: `--network`, `--bridge`, `--subnet`, `--ip`, `--dns`, `--add-host`.
//!
//! They end in requests to the kernel (rtnetlink(7)), in the rules of nft(8), in `/etc/hosts` and `/etc/resolv.conf`.
//! A subnet's first address is the gateway's, which the bridge itself has on the host; its very first and its last
//! belong to nobody: the network's own and the broadcast address.
//! network_namespaces(7), ip(7), hosts(5), resolv.conf(5).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::namespace::container;
use super::{hostname, whole};
use crate::error::{Error, Result};

/// The kernel's `IFNAMSIZ`, less the NUL at the end.
const LONGEST_NAME: usize = 15;

/// Addresses that are no host's, or only this host's: "this network", loopback, multicast and what is above it.
const UNUSABLE: [(Ipv4Addr, u8); 3] =
    [(Ipv4Addr::new(0, 0, 0, 0), 8), (Ipv4Addr::new(127, 0, 0, 0), 8), (Ipv4Addr::new(224, 0, 0, 0), 3)];

/// Which network namespace a container is in, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// One of its own, with nothing but loopback.
    None,
    /// That of the runtime.
    Host,
    /// One of its own, with a link to a bridge.
    Bridge,
    /// That of the process with this PID.
    Container(i32),
}

/// As the option takes it.
impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkMode::None => f.write_str("none"),
            NetworkMode::Host => f.write_str("host"),
            NetworkMode::Bridge => f.write_str("bridge"),
            NetworkMode::Container(pid) => write!(f, "container:{pid}"),
        }
    }
}

/// Reads the value of `--network`: `none`, `host`, `bridge` or `container:PID`.
///
/// # Errors
///
/// None of these, or a PID that no process can have.
pub fn network_mode(text: &str) -> Result<NetworkMode, String> {
    match text {
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        "bridge" => Ok(NetworkMode::Bridge),
        _ => container(text)
            .unwrap_or_else(|| Err("expected none, host, bridge or container:PID".into()))
            .map(NetworkMode::Container),
    }
}

/// Checks that options about a bridge came with `--network bridge`. Each is given by its name, and whether the user
/// gave it: without the check it would do nothing, in silence.
///
/// # Errors
///
/// One was given, and the network is another one.
pub fn check_bridge_options(network: NetworkMode, options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) if network != NetworkMode::Bridge => {
            Err(Error::new(format!("{option}: not with --network {network}"))
                .hint("it is about a bridge: add --network bridge"))
        }
        _ => Ok(()),
    }
}

/// Reads the value of `--bridge`: 1 to 15 letters, digits, `-`, `.` and `_`, not beginning with `-` or `.`.
///
/// The kernel takes nearly all bytes, but a `%` in a name is a pattern to it, `/` and white space it refuses, and so
/// it does with `all` and `default`, which are folders beside those of the links in `/proc/sys/net`.
///
/// # Errors
///
/// Empty, too long, with another character, or one of those two.
pub fn bridge_name(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !(1..=LONGEST_NAME).contains(&text.len()) {
        Err(format!("has {} bytes; expected 1 to {LONGEST_NAME}", text.len()))
    } else if !is_plain || text.starts_with(['-', '.']) {
        Err("expected letters, digits, '-', '.' and '_', not beginning with '-' or '.'".into())
    } else if ["all", "default", "lo"].contains(&text) {
        Err(format!("the kernel uses {text} itself; expected another name, such as congo0"))
    } else {
        Ok(text.into())
    }
}

/// Reads the value of `--subnet`: an IPv4 network such as `10.44.0.0/16`, with a prefix from 8 to 30.
///
/// A prefix of 31 or 32 leaves no address for a container beside the gateway.
///
/// # Errors
///
/// Not such a network, a prefix out of range, bits set behind the prefix, or addresses that no container can have.
pub fn subnet(text: &str) -> Result<Ipv4Net, String> {
    let expected = || "expected an IPv4 network such as 10.44.0.0/16".to_owned();
    let (address, prefix) = text.split_once('/').ok_or_else(expected)?;
    let address: Ipv4Addr = address.parse().map_err(|_| expected())?;
    let prefix: u8 = whole(prefix).ok_or_else(expected)?;
    if !(8..=30).contains(&prefix) {
        return Err("expected a prefix from 8 to 30, as in 10.44.0.0/16".into());
    }
    let subnet = Ipv4Net::new(address, prefix).map_err(|_| expected())?;
    let unusable = |(network, prefix): (Ipv4Addr, u8)| {
        // A subnet within one of these, or around it: then the wider one has the other's first address.
        let wider = prefix.min(subnet.prefix_len());
        let cut = |address: Ipv4Addr| address.to_bits() >> (32 - wider);
        cut(network) == cut(address)
    };
    if address != subnet.network() {
        Err(format!("has bits set behind the prefix; the network of this address is {}", subnet.trunc()))
    } else if UNUSABLE.into_iter().any(unusable) {
        Err("expected addresses that hosts can have, such as 10.44.0.0/16".into())
    } else {
        Ok(subnet)
    }
}

/// The gateway's address, which the bridge has on the host: the first of the subnet.
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.network().to_bits() + 1)
}

/// The first and the last address that a container may have.
pub fn container_addresses(subnet: Ipv4Net) -> (Ipv4Addr, Ipv4Addr) {
    let beside =
        |address: Ipv4Addr, step: i32| Ipv4Addr::from_bits(address.to_bits().wrapping_add_signed(step));
    (beside(subnet.network(), 2), beside(subnet.broadcast(), -1))
}

/// Reads the value of `--ip`: an IPv4 address. Whether a container can have it, [`check_ip`] says.
///
/// # Errors
///
/// Not such an address.
pub fn ip(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| "expected an IPv4 address such as 10.44.0.2".into())
}

/// Checks `--ip` against `--subnet`, once both are known.
///
/// # Errors
///
/// The address is outside, or nobody's, or the gateway's.
pub fn check_ip(ip: Ipv4Addr, subnet: Ipv4Net) -> Result<()> {
    let wrong = if !subnet.contains(&ip) {
        format!("outside the subnet {subnet}")
    } else if ip == subnet.network() {
        format!("the address of the network {subnet} itself")
    } else if ip == gateway(subnet) {
        format!("the gateway's address in {subnet}")
    } else if ip == subnet.broadcast() {
        format!("the broadcast address of {subnet}")
    } else {
        return Ok(());
    };
    let (first, last) = container_addresses(subnet);
    Err(Error::new(format!("--ip {ip}: {wrong}")).hint(format!("a container can have {first} to {last}")))
}

/// Reads the value of `--dns`: the address of a name server, IPv4 or IPv6.
///
/// # Errors
///
/// Not an address. A name server's own name nobody could look up.
pub fn dns(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "expected the IP address of a name server, such as 9.9.9.9".into())
}

/// The address of an entry in `/etc/hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAddress {
    /// This one.
    Ip(IpAddr),
    /// The gateway of the bridge, at which containers reach the host.
    Gateway,
}

/// A name, and its address.
pub type ExtraHost = (String, HostAddress);

/// Reads a value of `--add-host`: `NAME:IP`, where the IP may be `host-gateway`.
///
/// An IPv6 address may stand in brackets, as in Docker.
///
/// # Errors
///
/// Not of this form, not a name, or not an address.
pub fn add_host(text: &str) -> Result<ExtraHost, String> {
    let (name, address) = text.split_once(':').ok_or("expected NAME:IP, such as db:10.44.0.5")?;
    let name = hostname(name).map_err(|error| format!("the name before ':': {error}"))?;
    let bare =
        address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|bare| bare.contains(':'));
    let address = match address {
        "host-gateway" => HostAddress::Gateway,
        _ => HostAddress::Ip(
            bare.unwrap_or(address)
                .parse()
                .map_err(|_| "expected an IP address after NAME:, or host-gateway".to_owned())?,
        ),
    };
    Ok((name, address))
}
