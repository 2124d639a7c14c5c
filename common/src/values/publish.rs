//! `--publish`: which ports of the host lead to which ports of the container.
//!
//! They end in a socket that reserves the port on the host, and in nft(8)'s rules. The rules send packets for
//! that port on to the container. The text of one [`Publish`] also stands in leases, and other runtimes read
//! it again. So it must be written as it is read.
//!
//! A container has an IPv4 address alone, and no rule can lead a packet of IPv6 there. So a port on an IPv6
//! address is a [`Proxied`] one, and a process carries its bytes. ip(7), ipv6(7), tcp(7), udp(7).

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV6};
use std::ops::RangeInclusive;

use super::{Invalid, whole};
use crate::sys::error::Error;

/// The error for a value of another form.
const EXPECTED: &str =
    "expected [[IP:][HOST]:]CONTAINER[/tcp|udp], such as 8080:80, 127.0.0.1::80, 5000-5009:5000-5009/udp";

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// tcp(7)
    Tcp,
    /// udp(7)
    Udp,
}

/// As nft(8) and the option write it.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// One port of the host that leads to one of the container, on an IPv4 address: the kernel's rules can do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Publish {
    /// At this address of the host; `None`: at every one.
    pub host_ip: Option<Ipv4Addr>,
    /// The port on the host.
    pub host_port: u16,
    /// The port in the container.
    pub container_port: u16,
    /// Ports of TCP and UDP are not the same ones.
    pub protocol: Protocol,
}

/// As the option takes it: `127.0.0.1:8080:80/tcp`.
impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.host_ip {
            write!(f, "{ip}:")?;
        }
        write!(f, "{}:{}/{}", self.host_port, self.container_port, self.protocol)
    }
}

/// One port of the host on an IPv6 address. A process has to carry its data in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proxied {
    /// The host's side. `[::]` is every IPv6 address.
    pub host: SocketAddrV6,
    /// The port in the container.
    pub container_port: u16,
    /// Ports of TCP and UDP are not the same ones.
    pub protocol: Protocol,
}

/// As the option takes it: `[::1]:8080:80/tcp`.
impl fmt::Display for Proxied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.container_port, self.protocol)
    }
}

/// One port of a container, and the ports of the host of which one is to lead there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// At this address of the host; `None`: at every IPv4 address.
    pub host_ip: Option<IpAddr>,
    /// The ports on the host that will do; `None`: any that is free.
    pub host_ports: Option<RangeInclusive<u16>>,
    /// The port in the container.
    pub container_port: u16,
    /// Ports of TCP and UDP are not the same ones.
    pub protocol: Protocol,
}

impl PortRequest {
    /// The port of the host, if only one will do.
    pub fn fixed(&self) -> Option<u16> {
        let ports = self.host_ports.as_ref()?;
        (ports.start() == ports.end()).then(|| *ports.start())
    }

    /// The request, once the port on the host is known; `None` for an IPv6 address.
    pub fn published(&self, host_port: u16) -> Option<Publish> {
        let PortRequest { container_port, protocol, .. } = *self;
        let host_ip = match self.host_ip {
            None => None,
            Some(IpAddr::V4(ip)) => Some(ip),
            Some(IpAddr::V6(_)) => return None,
        };
        Some(Publish { host_ip, host_port, container_port, protocol })
    }

    /// The same for an IPv6 address; `None` for all others.
    pub fn proxied(&self, host_port: u16) -> Option<Proxied> {
        let Some(IpAddr::V6(ip)) = self.host_ip else { return None };
        let host = SocketAddrV6::new(ip, host_port, 0, 0);
        Some(Proxied { host, container_port: self.container_port, protocol: self.protocol })
    }
}

/// As the option takes it: `127.0.0.1:8000-8010:80/tcp`, `80/tcp`.
impl fmt::Display for PortRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            None => {}
        }
        if let Some(port) = self.fixed() {
            write!(f, "{port}:")?;
        } else if let Some(ports) = &self.host_ports {
            write!(f, "{}-{}:", ports.start(), ports.end())?;
        } else if self.host_ip.is_some() {
            f.write_str(":")?;
        }
        write!(f, "{}/{}", self.container_port, self.protocol)
    }
}

/// The value of one `--publish`: a port of the container, or as many of them as the range has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    host_ip: Option<IpAddr>,
    host: Option<RangeInclusive<u16>>,
    container: RangeInclusive<u16>,
    protocol: Protocol,
}

impl Published {
    /// Each port of the container.
    pub fn ports(&self) -> impl Iterator<Item = PortRequest> + use<> {
        let Published { host_ip, host, container, protocol } = self.clone();
        let first = *container.start();
        let is_one = container.len() == 1;
        container.map(move |container_port| {
            let host_ports = host.clone().map(|ports| {
                // The last of the range is a port as well, so nothing overflows.
                let own = *ports.start() + (container_port - first);
                if is_one { ports } else { own..=own }
            });
            PortRequest { host_ip, host_ports, container_port, protocol }
        })
    }
}

/// Reads a value of `--publish`: `[[IP:][HOST]:]CONTAINER[/tcp|udp]`, where both ports may be ranges `A-B`.
///
/// Without HOST, any free port of the host will do. Where HOST is a range and CONTAINER a single port, a free
/// one of that range. The address `0.0.0.0` means every IPv4 address of the host, as no address does. An IPv6
/// address stands in brackets. `[::ffff:127.0.0.1]` is the IPv4 address in another notation.
///
/// # Errors
/// Not of this form, a port that is none, or ranges of different lengths.
pub fn publish(text: &str) -> Result<Published, Invalid> {
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, protocol)) if protocol.eq_ignore_ascii_case("tcp") => (ports, Protocol::Tcp),
        Some((ports, protocol)) if protocol.eq_ignore_ascii_case("udp") => (ports, Protocol::Udp),
        Some(_) => return Err("expected tcp or udp after the ports, as in 8080:80/udp".into()),
    };
    let (rest, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (ip, host) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((ip, host)) => (Some(address(ip)?).filter(|ip| *ip != Ipv4Addr::UNSPECIFIED), host),
    };
    let host = if host.is_empty() { None } else { Some(range(host)?) };
    let container = range(container)?;
    match host.as_ref().map(|host| (host.len(), container.len())) {
        Some((hosts, containers)) if hosts != containers && containers > 1 => Err(format!(
            "{hosts} ports on the host, {containers} in the container; expected ranges of the same length, \
             or one port in the container"
        )
        .into()),
        _ => Ok(Published { host_ip: ip, host, container, protocol }),
    }
}

fn address(text: &str) -> Result<IpAddr, Invalid> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare.unwrap_or(text).parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if bare.is_none() => {
            Err(format!("expected brackets around the IPv6 address: [{ip}]").into())
        }
        Ok(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
            Err("an address that begins with fe80 is another one on each link; expected an address that the \
                 host has once"
                .into())
        }
        // An IPv4 address that is written as one of IPv6 is an IPv4 address.
        Ok(ip) => Ok(ip.to_canonical()),
        Err(_) => {
            Err("expected an address of the host before the ports, an IPv6 address in brackets, as in \
                       127.0.0.1:8080:80 and [::1]:8080:80"
                .into())
        }
    }
}

/// Checks that no port of the host is asked for twice. A range from which the runtime may choose does not
/// count.
///
/// # Errors
/// A port is asked for twice.
pub fn check_ports(ports: &[PortRequest]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let twice = ports
        .iter()
        .find(|port| port.fixed().is_some_and(|fixed| !seen.insert((port.host_ip, fixed, port.protocol))));
    twice.map_or(Ok(()), |port| {
        Err(Error::new(format!("--publish {port}: this port of the host is published twice"))
            .hint("each port of the host can lead to one port of the container"))
    })
}

fn range(text: &str) -> Result<RangeInclusive<u16>, Invalid> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(last) {
        return Err(EXPECTED.into());
    }
    let port = |text| whole(text).filter(|&port: &u16| port > 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(_), Some(_)) => Err("expected a range of ports that begins with the lower one".into()),
        _ => Err("expected ports from 1 to 65535".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::refused;

    fn ports(text: &str) -> Vec<String> {
        publish(text).unwrap().ports().map(|port| port.to_string()).collect()
    }

    #[test]
    fn ports_and_ranges() {
        assert_eq!(ports("8080:80"), ["8080:80/tcp"]);
        assert_eq!(ports("8080:80/tcp"), ["8080:80/tcp"]);
        assert_eq!(ports("53:5353/udp"), ["53:5353/udp"]);
        assert_eq!(ports("127.0.0.1:8080:80"), ["127.0.0.1:8080:80/tcp"]);
        assert_eq!(ports("0.0.0.0:8080:80"), ["8080:80/tcp"]);
        assert_eq!(ports("8000-8002:80-82/udp"), ["8000:80/udp", "8001:81/udp", "8002:82/udp"]);
        assert_eq!(ports("1.2.3.4:9-9:7"), ["1.2.3.4:9:7/tcp"]);
        assert_eq!(ports("65534-65535:1-2"), ["65534:1/tcp", "65535:2/tcp"]);
        assert_eq!(publish("1-65535:1-65535").unwrap().ports().count(), 65535);
        for (text, protocol) in [("8080:80/TCP", "tcp"), ("8080:80/Udp", "udp")] {
            assert_eq!(ports(text), [format!("8080:80/{protocol}")]);
        }
        assert_eq!(ports("[127.0.0.1]:8080:80"), ["127.0.0.1:8080:80/tcp"]);
    }

    #[test]
    fn addresses_of_ipv6() {
        assert_eq!(ports("[::1]:8080:80"), ["[::1]:8080:80/tcp"]);
        assert_eq!(ports("[::]:8080:80"), ["[::]:8080:80/tcp"]);
        assert_eq!(ports("[::1]::80"), ["[::1]::80/tcp"]);
        assert_eq!(ports("[2001:DB8::0:1]:5353:53/udp"), ["[2001:db8::1]:5353:53/udp"]);
        assert_eq!(ports("[::1]:8000-8001:80-81"), ["[::1]:8000:80/tcp", "[::1]:8001:81/tcp"]);
        assert_eq!(ports("[::1]:8000-8010:80"), ["[::1]:8000-8010:80/tcp"]);
        // IPv6 addresses that stand for IPv4 addresses.
        assert_eq!(ports("[::ffff:127.0.0.1]:8080:80"), ["127.0.0.1:8080:80/tcp"]);
        assert_eq!(ports("[::ffff:0.0.0.0]:8080:80"), ["8080:80/tcp"]);
        let of = |text: &str| publish(text).unwrap().ports().next().unwrap();
        assert_eq!(of("[::1]:7:80").proxied(7).unwrap().to_string(), "[::1]:7:80/tcp");
        assert_eq!((of("[::1]:7:80").published(7), of("7:80").proxied(7)), (None, None));
    }

    #[test]
    fn one_of_several_ports() {
        assert_eq!(ports("80"), ["80/tcp"]);
        assert_eq!(ports(":80/udp"), ["80/udp"]);
        assert_eq!(ports("127.0.0.1::80"), ["127.0.0.1::80/tcp"]);
        assert_eq!(ports("0.0.0.0::80"), ["80/tcp"]);
        assert_eq!(ports("80-81"), ["80/tcp", "81/tcp"]);
        assert_eq!(ports("8000-8010:80"), ["8000-8010:80/tcp"]);
        assert_eq!(ports("1.2.3.4:8000-8010:80/udp"), ["1.2.3.4:8000-8010:80/udp"]);
        for text in ["80", "127.0.0.1::80", "8000-8010:80", "1.2.3.4:1-2:3/udp", "7:7", "[::1]::80"] {
            let first = publish(text).unwrap().ports().next().unwrap();
            assert_eq!(publish(&first.to_string()).unwrap().ports().collect::<Vec<_>>(), [first]);
        }
        let request = |text: &str| publish(text).unwrap().ports().next().unwrap();
        assert_eq!(request("80").fixed(), None);
        assert_eq!(request("8000-8010:80").fixed(), None);
        assert_eq!(request("8000-8000:80").fixed(), Some(8000));
        assert_eq!(request("8000-8000:80").to_string(), "8000:80/tcp");
        assert_eq!(request("127.0.0.1::80").published(7).unwrap().to_string(), "127.0.0.1:7:80/tcp");
    }

    #[test]
    fn only_what_is_asked_for_twice_is_refused() {
        let check = |texts: &[&str]| {
            check_ports(&texts.iter().flat_map(|text| publish(text).unwrap().ports()).collect::<Vec<_>>())
        };
        assert_eq!(
            check(&["80", "80", "8080:80", "8080-8081:80", "8080:80/udp", "127.0.0.1:8080:80"]),
            Ok(())
        );
        assert_eq!(check(&["8080:80", "[::]:8080:80", "[::1]:8080:80", "[::1]:8080:80/udp"]), Ok(()));
        let error = check(&["[::1]:8080:80", "[0::1]:8080:81"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--publish [::1]:8080:81/tcp: this port of the host is published twice"
        );
        let error = check(&["8080-8081:80-81", "8081:82"]).unwrap_err();
        assert_eq!(error.to_string(), "--publish 8081:82/tcp: this port of the host is published twice");
    }

    #[test]
    fn what_is_no_port() {
        let no_ports =
            ["0:80", "80:0", "70000:80", "80:70000", "0-1:0-1", "65535-65536:1-2", "99999999999:80"];
        refused(publish, "expected ports from 1 to 65535", &no_ports);
        let one_missing = ["", ":", "80:", "80-:80", "-", "127.0.0.1:80", "127.0.0.1::"];
        refused(publish, "expected [[IP:][HOST]:]CONTAINER", &one_missing);
        let no_numbers = ["a:80", "80:b", "+80:80", "-80:80", "80 :80", "1-2-3:1-3"];
        refused(publish, "expected [[IP:][HOST]:]CONTAINER", &no_numbers);
        refused(publish, "expected a range of ports that begins with the lower one", &["81-80:81-80"]);
        let protocols = ["80:80/", "80:80/sctp", "80:80/tcp/udp", "80/"];
        refused(publish, "expected tcp or udp", &protocols);
        let addresses = [
            "localhost:80:80",
            ":80:80",
            "::80",
            "1.2.3:80:80",
            "[::1:80:80",
            "[::1]:80",
            "[fe80::1%lo]:80:80",
        ];
        refused(publish, "expected an address of the host before the ports", &addresses);
        let bare = ["::1:80:80", "::1::80"];
        refused(publish, "expected brackets around the IPv6 address: [::1]", &bare);
        refused(publish, "an address that begins with fe80", &["[fe80::1]:80:80"]);
        let expected =
            "11 ports on the host, 2 in the container; expected ranges of the same length, or one port";
        refused(publish, expected, &["8000-8010:80-81"]);
        refused(publish, "1 ports on the host, 2 in the container", &["8000:80-81"]);
    }

    proptest! {
        #[test]
        fn a_port_is_written_as_it_is_read(
            ip in prop::option::of(1u32..), host_port in 1u16.., container_port in 1u16.., udp: bool,
        ) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let port = Publish { host_ip: ip.map(Ipv4Addr::from_bits), host_port, container_port, protocol };
            let read: Vec<_> = publish(&port.to_string()).unwrap().ports().collect();
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(read[0].published(host_port), Some(port));
            prop_assert_eq!(read[0].fixed(), Some(host_port));
        }

        #[test]
        fn a_request_is_written_as_it_is_read(
            ip: u128, from in 1u16.., more in prop::option::of(0u16..9), container_port in 1u16.., udp: bool,
        ) {
            let request = PortRequest {
                host_ip: Some(IpAddr::V6(ip.into())),
                host_ports: more.map(|more| from..=from.saturating_add(more)),
                container_port,
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            };
            if let Ok(read) = publish(&request.to_string()) {
                prop_assert_eq!(read.ports().collect::<Vec<_>>(), [request]);
            }
        }

        #[test]
        fn ranges_are_accepted_when_their_lengths_fit(
            a in 1u16..300, b in 1u16..300, c in 1u16..300, d in 1u16..300,
        ) {
            let published = publish(&format!("{a}-{b}:{c}-{d}"));
            let same = a <= b && c <= d && (b - a == d - c || c == d);
            prop_assert_eq!(published.is_ok(), same);
            if let Ok(published) = published {
                let found: Vec<_> = published.ports().collect();
                prop_assert!(found.iter().map(|port| port.container_port).eq(c..=d));
                if c == d {
                    prop_assert_eq!(found[0].host_ports.clone(), Some(a..=b));
                } else {
                    prop_assert!(found.iter().map(|port| port.fixed().unwrap()).eq(a..=b));
                }
            }
        }
    }
}
