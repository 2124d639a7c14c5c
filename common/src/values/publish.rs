//! `--publish`: which ports of the host lead to which ports of the container.
//!
//! They end in a socket that reserves the port on the host, and in nft(8)'s rules. The rules send packets for
//! that port on to the container. The text of one [`Publish`] also stands in leases, and other runtimes read
//! it again. So it must be written as it is read. ip(7), tcp(7), udp(7).

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::{Invalid, whole};
use crate::sys::error::Error;

/// The error for a value of another form.
const EXPECTED: &str =
    "expected [IP:]HOST:CONTAINER[/tcp|udp], such as 8080:80 or 127.0.0.1:5000-5009:5000-5009/udp";

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

/// One port of the host that leads to one of the container.
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

/// The value of one `--publish`: a port, or as many of them as the ranges have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    first: Publish,
    count: u16,
}

impl Published {
    /// Each port of the ranges.
    pub fn ports(&self) -> impl Iterator<Item = Publish> + use<> {
        let first = self.first;
        // The last of the range is a port as well, so nothing overflows.
        (0..self.count).map(move |step| Publish {
            host_port: first.host_port + step,
            container_port: first.container_port + step,
            ..first
        })
    }
}

/// Reads a value of `--publish`: `[IP:]HOST:CONTAINER[/tcp|udp]`, where both ports may be ranges `A-B`.
///
/// The address `0.0.0.0` means every one of the host, as no address does.
///
/// # Errors
/// Not of this form, a port that is none, or ranges of different lengths.
pub fn publish(text: &str) -> Result<Published, Invalid> {
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err("expected tcp or udp after the ports, as in 8080:80/udp".into()),
    };
    let (rest, container) = ports.rsplit_once(':').ok_or(EXPECTED)?;
    let (host_ip, host) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((ip, host)) => {
            let ip =
                ip.parse().map_err(|_| "expected an IPv4 address of the host before the ports".to_owned())?;
            (Some(ip).filter(|ip: &Ipv4Addr| !ip.is_unspecified()), host)
        }
    };
    let (host, container) = (range(host)?, range(container)?);
    if host.len() != container.len() {
        return Err(format!(
            "{} ports on the host, {} in the container; expected ranges of the same length",
            host.len(),
            container.len()
        )
        .into());
    }
    let first = Publish { host_ip, host_port: *host.start(), container_port: *container.start(), protocol };
    Ok(Published { first, count: host.len() as u16 })
}

/// Checks that no port of the host is published twice.
///
/// # Errors
/// One is.
pub fn check_ports(ports: &[Publish]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let twice = ports.iter().find(|port| !seen.insert((port.host_ip, port.host_port, port.protocol)));
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
    }

    #[test]
    fn what_is_no_port() {
        let no_ports =
            ["0:80", "80:0", "70000:80", "80:70000", "0-1:0-1", "65535-65536:1-2", "99999999999:80"];
        refused(publish, "expected ports from 1 to 65535", &no_ports);
        let one_missing = ["", "80", ":", "80:", ":80", "80-:80"];
        refused(publish, "expected [IP:]HOST:CONTAINER", &one_missing);
        let no_numbers = ["a:80", "80:b", "+80:80", "-80:80", "80 :80", "1-2-3:1-3"];
        refused(publish, "expected [IP:]HOST:CONTAINER", &no_numbers);
        refused(publish, "expected a range of ports that begins with the lower one", &["81-80:81-80"]);
        let protocols = ["80:80/", "80:80/sctp", "80:80/tcp/udp", "80:80/TCP"];
        refused(publish, "expected tcp or udp", &protocols);
        let addresses = ["localhost:80:80", ":80:80", "[::1]:80:80", "1.2.3:80:80", "::1:80:80"];
        refused(publish, "expected an IPv4 address", &addresses);
        let expected = "11 ports on the host, 1 in the container; expected ranges of the same length";
        refused(publish, expected, &["8000-8010:80"]);
    }

    proptest! {
        #[test]
        fn a_port_is_written_as_it_is_read(
            ip in prop::option::of(1u32..), host_port in 1u16.., container_port in 1u16.., udp: bool,
        ) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let port = Publish { host_ip: ip.map(Ipv4Addr::from_bits), host_port, container_port, protocol };
            let read: Vec<_> = publish(&port.to_string()).unwrap().ports().collect();
            prop_assert_eq!(read, [port]);
        }

        #[test]
        fn ranges_are_accepted_when_they_are_of_one_length(
            a in 1u16..300, b in 1u16..300, c in 1u16..300, d in 1u16..300,
        ) {
            let published = publish(&format!("{a}-{b}:{c}-{d}"));
            let same = a <= b && c <= d && b - a == d - c;
            prop_assert_eq!(published.is_ok(), same);
            if let Ok(published) = published {
                let pairs = published.ports().map(|port| (port.host_port, port.container_port));
                prop_assert!(pairs.eq((a..=b).zip(c..=d)));
            }
        }
    }
}
