//! Names and addresses: `--dns`, `--dns-search`, `--dns-option`, `--add-host`.
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

/// Reads the value of `--dns-search`: a domain, or `.` for none.
///
/// # Errors
/// Not a domain: labels of letters, digits and `-`, with dots between them, and a letter somewhere.
pub fn dns_search(text: &str) -> Result<String, Invalid> {
    let is_label = |label: &str| {
        let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(is_inside) && !label.starts_with('-') && !label.ends_with('-')
    };
    // A dot at the end says that the domain is complete.
    let mut labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let has_letter = text.bytes().any(|byte| byte.is_ascii_alphabetic());
    if text == "." || (text.len() < 255 && has_letter && labels.all(is_label)) {
        Ok(text.into())
    } else {
        Err("expected a domain, such as example.com, or . for no search list".into())
    }
}

/// Reads the value of `--dns-option`: an option of the resolver, such as `ndots:2`. Which ones there are, the
/// container's C library knows.
///
/// # Errors
/// Empty, or with anything but printable ASCII, which a line of the file could not hold.
pub fn dns_option(text: &str) -> Result<String, Invalid> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.into())
    } else {
        Err("expected an option of the resolver, such as ndots:2".into())
    }
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

/// Reads a value of `--add-host`: `NAME:IP` or `NAME=IP`, where the IP may be `host-gateway`.
///
/// An IPv6 address may stand in brackets, as in Docker.
///
/// # Errors
/// Not of this form, not a name, or not an address.
pub fn add_host(text: &str) -> Result<ExtraHost, Invalid> {
    let expected = "expected NAME:IP or NAME=IP, such as db:10.44.0.5";
    // An address has no '='.
    let separator = if text.contains('=') { '=' } else { ':' };
    let (name, address) = text.split_once(separator).ok_or(expected)?;
    let name = hostname(name).map_err(|error| format!("the name before '{separator}': {error}"))?;
    let bare =
        address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|bare| bare.contains(':'));
    let address = match address {
        "host-gateway" => HostAddress::Gateway,
        _ => HostAddress::Ip(
            bare.unwrap_or(address)
                .parse()
                .map_err(|_| format!("expected an IP address after NAME{separator}, or host-gateway"))?,
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
    fn search_domains() {
        let long = format!("{}.example", "a.".repeat(130));
        for text in ["example.com", "example.com.", "corp", "a-b.c1", "1.example", ".", "EXAMPLE.org"] {
            assert_eq!(dns_search(text).as_deref(), Ok(text));
        }
        let others =
            ["", "a b", "a\nb", "a_b.example", "-x.y", "x-.y", "a..b", ".a", "..", "123", "1.2", &long];
        refused(dns_search, "expected a domain, such as example.com, or . for no search list", &others);
    }

    #[test]
    fn options_of_the_resolver() {
        for text in ["ndots:2", "use-vc", "edns0"] {
            assert_eq!(dns_option(text).as_deref(), Ok(text));
        }
        let others =
            ["", " ", "ndots:2 rotate", "ndots:2\nnameserver 192.0.2.1", "a\tb", "\u{1b}[2J", "\u{e9}"];
        refused(dns_option, "expected an option of the resolver, such as ndots:2", &others);
    }

    #[test]
    fn extra_hosts() {
        let host = |name: &str, ip: &str| Ok((name.to_owned(), HostAddress::Ip(ip.parse().unwrap())));
        assert_eq!(add_host("db:10.44.0.5"), host("db", "10.44.0.5"));
        assert_eq!(add_host("db:fd00::5"), host("db", "fd00::5"));
        assert_eq!(add_host("db:[fd00::5]"), host("db", "fd00::5"));
        assert_eq!(add_host("db=10.44.0.5"), host("db", "10.44.0.5"));
        assert_eq!(add_host("db=fd00::5"), host("db", "fd00::5"));
        assert_eq!(add_host("db=[::1]"), host("db", "::1"));
        assert_eq!(add_host("up=host-gateway"), Ok(("up".into(), HostAddress::Gateway)));
        assert_eq!(add_host("up.example:host-gateway"), Ok(("up.example".into(), HostAddress::Gateway)));
        let others =
            ["db:", "db:web", "db:host-Gateway", "db:[10.0.0.1]", "db: 10.0.0.1", "db:10.0.0.1 other"];
        refused(add_host, "expected an IP address after NAME:, or host-gateway", &others);
        refused(add_host, "expected NAME:IP or NAME=IP", &["", "db"]);
        refused(
            add_host,
            "expected an IP address after NAME=, or host-gateway",
            &["db=", "db=web", "a=b:10.0.0.1"],
        );
        refused(add_host, "the name before '=': ", &["=10.0.0.1", "a b=10.0.0.1", "a:b=10.0.0.1"]);
        let others = [":10.0.0.1", "a b:10.0.0.1", "a\nb:10.0.0.1", "#:10.0.0.1", "::1"];
        refused(add_host, "the name before ':': ", &others);
    }
}
