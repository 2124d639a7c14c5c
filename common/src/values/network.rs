//! The network: `--network`, `--bridge`, `--subnet`, `--ip`.
//!
//! They end in requests to the kernel (rtnetlink(7)) and in the rules of nft(8). The gateway has a subnet's
//! first address, and on the host the bridge itself is the gateway. Two addresses of a subnet belong to no
//! host: the lowest is the network's own, the highest is the broadcast address. network_namespaces(7), ip(7).

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::namespace::container;
use super::{Invalid, whole};
use crate::sys::error::{Error, Result};

/// Addresses that belong to no host, or to this host only: "this network", loopback, multicast and all
/// addresses above it.
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
/// None of these, or a PID that no process can have.
pub fn network_mode(text: &str) -> Result<NetworkMode, Invalid> {
    match text {
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        "bridge" => Ok(NetworkMode::Bridge),
        _ => container(text)
            .unwrap_or_else(|| Err("expected none, host, bridge or container:PID".into()))
            .map(NetworkMode::Container),
    }
}

/// Checks that options about a bridge came with `--network bridge`. Each is given by its name, and whether
/// the user gave it: without the check it would do nothing, in silence.
///
/// # Errors
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

/// Reads the value of `--subnet`: an IPv4 network such as `10.44.0.0/16`, with a prefix from 8 to 30.
///
/// A prefix of 31 or 32 leaves no address for a container beside the gateway.
///
/// # Errors
/// Not such a network, a prefix out of range, bits set behind the prefix, or addresses that no container can
/// have.
pub fn subnet(text: &str) -> Result<Ipv4Net, Invalid> {
    let expected = || "expected an IPv4 network such as 10.44.0.0/16".to_owned();
    let (address, prefix) = text.split_once('/').ok_or_else(expected)?;
    let address: Ipv4Addr = address.parse().map_err(|_| expected())?;
    let prefix: u8 = whole(prefix).ok_or_else(expected)?;
    if !(8..=30).contains(&prefix) {
        return Err("expected a prefix from 8 to 30, as in 10.44.0.0/16".into());
    }
    let subnet = Ipv4Net::new(address, prefix).map_err(|_| expected())?;
    // None of these has a longer prefix than a subnet may have, so a subnet is within one of them or apart
    // from it.
    let unusable = |(network, prefix): (Ipv4Addr, u8)| {
        let cut = |address: Ipv4Addr| address.to_bits() >> (32 - prefix);
        cut(network) == cut(address)
    };
    if address != subnet.network() {
        let trunc = subnet.trunc();
        Err(format!("has bits set behind the prefix; the network of this address is {trunc}").into())
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
/// Not such an address.
pub fn ip(text: &str) -> Result<Ipv4Addr, Invalid> {
    text.parse().map_err(|_| "expected an IPv4 address such as 10.44.0.2".into())
}

/// Checks `--ip` against `--subnet`, once both are known.
///
/// # Errors
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::refused;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn network_modes() {
        for (text, mode) in [
            ("none", NetworkMode::None),
            ("host", NetworkMode::Host),
            ("bridge", NetworkMode::Bridge),
            ("container:77", NetworkMode::Container(77)),
        ] {
            assert_eq!(network_mode(text), Ok(mode));
            assert_eq!(mode.to_string(), text);
        }
        let others = ["", "None", "default", "bridge:congo0", "container"];
        refused(network_mode, "expected none, host, bridge or container:PID", &others);
        refused(network_mode, "expected the PID", &["container:", "container:web", "container:0"]);
    }

    #[test]
    fn options_about_a_bridge_need_one() {
        let options = [("--ip", false), ("--publish", true)];
        assert_eq!(check_bridge_options(NetworkMode::Bridge, &options), Ok(()));
        assert_eq!(check_bridge_options(NetworkMode::Host, &options[..1]), Ok(()));
        for (mode, name) in [(NetworkMode::None, "none"), (NetworkMode::Container(5), "container:5")] {
            let error = check_bridge_options(mode, &options).unwrap_err();
            assert_eq!(error.to_string(), format!("--publish: not with --network {name}"));
            assert_eq!(error.status(), 125);
        }
    }

    #[test]
    fn subnets() {
        for text in
            ["10.44.0.0/16", "10.0.0.0/8", "192.168.1.4/30", "11.0.0.0/8", "126.0.0.0/8", "223.255.255.0/24"]
        {
            assert_eq!(subnet(text), Ok(net(text)));
        }
        let expected = "expected an IPv4 network such as 10.44.0.0/16";
        let no_prefix = ["", "10.44.0.0", "10.44.0.0/", "10.44.0.0/+16", "10.44.0.0/-1", "10.44.0.0/16/8"];
        refused(subnet, expected, &no_prefix);
        let no_address =
            ["/16", "10.44/16", "10.44.0.0 /16", "010.44.0.0/16", "10.44.0.256/24", "a.b.c.d/16"];
        refused(subnet, expected, &no_address);
        refused(subnet, expected, &["10.44.0.0/255.255.0.0", "fd00::/64"]);
        let prefixes = ["0.0.0.0/0", "10.0.0.0/7", "10.44.0.0/31", "10.44.0.0/32", "10.44.0.0/33"];
        refused(subnet, "expected a prefix from 8 to 30", &prefixes);
        let expected = "has bits set behind the prefix; the network of this address is 10.44.0.0/16";
        refused(subnet, expected, &["10.44.0.1/16"]);
        let no_hosts =
            ["0.0.0.0/8", "0.1.0.0/16", "127.0.0.0/8", "127.1.0.0/16", "224.0.0.0/8", "240.0.0.0/8"];
        refused(subnet, "expected addresses that hosts", &no_hosts);
        refused(subnet, "expected addresses that hosts", &["255.255.255.0/24"]);
    }

    #[test]
    fn addresses_of_a_subnet() {
        let addresses = |text: &str| {
            let (first, last) = container_addresses(net(text));
            [gateway(net(text)), first, last].map(|address| address.to_string())
        };
        assert_eq!(addresses("10.44.0.0/16"), ["10.44.0.1", "10.44.0.2", "10.44.255.254"]);
        assert_eq!(addresses("10.44.0.4/30"), ["10.44.0.5", "10.44.0.6", "10.44.0.6"]);
    }

    #[test]
    fn an_address_for_a_container() {
        assert_eq!(ip("10.44.0.2"), Ok(Ipv4Addr::new(10, 44, 0, 2)));
        let others = ["", "10.44.0", "10.44.0.2/16", "::1", "host", "10.44.0.02", " 10.44.0.2"];
        refused(ip, "expected an IPv4 address such as 10.44.0.2", &others);
        let check =
            |text| check_ip(ip(text).unwrap(), net("10.44.0.0/16")).map_err(|error| error.to_string());
        assert_eq!(check("10.44.0.2"), Ok(()));
        assert_eq!(check("10.44.1.0"), Ok(()));
        assert_eq!(check("10.44.255.254"), Ok(()));
        for (ip, why) in [
            ("10.45.0.2", "outside the subnet 10.44.0.0/16"),
            ("10.44.0.0", "the address of the network 10.44.0.0/16 itself"),
            ("10.44.0.1", "the gateway's address in 10.44.0.0/16"),
            ("10.44.255.255", "the broadcast address of 10.44.0.0/16"),
        ] {
            assert_eq!(check(ip), Err(format!("--ip {ip}: {why}")));
        }
    }

    proptest! {
        #[test]
        fn a_subnet_is_written_as_it_is_read(address in any::<u32>(), prefix in 0u8..=32) {
            let net = Ipv4Net::new(Ipv4Addr::from_bits(address), prefix).unwrap().trunc();
            match subnet(&net.to_string()) {
                Ok(read) => {
                    prop_assert_eq!(read, net);
                    let (first, last) = container_addresses(net);
                    prop_assert!((8..=30).contains(&prefix) && gateway(net) < first && first <= last);
                    prop_assert!(check_ip(first, net).is_ok() && check_ip(last, net).is_ok());
                    prop_assert!(!first.is_loopback() && !last.is_multicast() && last < net.broadcast());
                }
                Err(error) => {
                    let is_no_hosts = error.to_string().contains("that hosts can have");
                    prop_assert!(!(8..=30).contains(&prefix) || is_no_hosts);
                }
            }
        }

        #[test]
        fn a_container_has_any_address_but_three(ip: u32, network: u32, prefix in 8u8..=30) {
            let net = Ipv4Net::new(Ipv4Addr::from_bits(network), prefix).unwrap().trunc();
            // Half of them inside.
            let inside = net.network().to_bits() | ip & net.hostmask().to_bits();
            let ip = Ipv4Addr::from_bits(if ip % 2 == 0 { ip } else { inside });
            let (first, last) = container_addresses(net);
            prop_assert_eq!(check_ip(ip, net).is_ok(), (first..=last).contains(&ip));
        }
    }
}
