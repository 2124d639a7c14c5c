//! Names and addresses: `--dns`, `--add-host`.
//!
//! They end in `/etc/resolv.conf` and `/etc/hosts` of the container, which the C library reads: one entry a
//! line, with white space between its parts. So neither a name nor an address may have any. resolv.conf(5),
//! hosts(5).

use std::net::IpAddr;

use super::{Invalid, hostname};

/// Reads the value of `--dns`: the address of a name server, IPv4 or IPv6.
///
/// # Errors
/// Not an address. A name server's own name nobody could look up.
pub fn dns(text: &str) -> Result<IpAddr, Invalid> {
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
/// Not of this form, not a name, or not an address.
pub fn add_host(text: &str) -> Result<ExtraHost, Invalid> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::refused;

    #[test]
    fn name_servers() {
        assert_eq!(dns("9.9.9.9"), Ok([9, 9, 9, 9].into()));
        assert_eq!(dns("2620:fe::9").unwrap().to_string(), "2620:fe::9");
        let others = ["", "dns.example", "9.9.9.9:53", "[::1]", "9.9.9", "1.1.1.1,9.9.9.9", "fe80::1%eth0"];
        refused(dns, "expected the IP address", &others);
    }

    #[test]
    fn extra_hosts() {
        let host = |name: &str, ip: &str| Ok((name.to_owned(), HostAddress::Ip(ip.parse().unwrap())));
        assert_eq!(add_host("db:10.44.0.5"), host("db", "10.44.0.5"));
        assert_eq!(add_host("db:fd00::5"), host("db", "fd00::5"));
        assert_eq!(add_host("db:[fd00::5]"), host("db", "fd00::5"));
        assert_eq!(add_host("up.example:host-gateway"), Ok(("up.example".into(), HostAddress::Gateway)));
        let others =
            ["db:", "db:web", "db:host-Gateway", "db:[10.0.0.1]", "db: 10.0.0.1", "db:10.0.0.1 other"];
        refused(add_host, "expected an IP address after NAME:, or host-gateway", &others);
        refused(add_host, "expected NAME:IP", &["db"]);
        let others = [":10.0.0.1", "a b:10.0.0.1", "a\nb:10.0.0.1", "#:10.0.0.1", "::1"];
        refused(add_host, "the name before ':': ", &others);
    }
}
