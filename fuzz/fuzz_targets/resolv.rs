//! The host's `resolv.conf`, of which the container's is made. The first byte says which options there are,
//! and a line with `--` alone stands before the second file, that of systemd-resolved. The container's text
//! has no nameserver that it cannot reach. Made again of itself, it is the same.

#![no_main]

use std::net::IpAddr;

use common::net::resolv::Resolver;
use libfuzzer_sys::fuzz_target;

mod scratch;

fuzz_target!(init: scratch::enter(), |input: &[u8]| {
    let Some((first, text)) = input.split_first() else { return };
    // Any other text is an error, which is told.
    let text = String::from_utf8_lossy(text);
    let (one, other) = text.split_once("\n--\n").unwrap_or((&text, ""));
    scratch::file("/etc/resolv.conf", one.as_bytes());
    scratch::file("/run/systemd/resolve/resolv.conf", other.as_bytes());
    let servers = ["9.9.9.9", "::1"].map(|it| it.parse().expect("an address"));
    let search = ["x.org".to_owned()];
    let options = ["ndots:2".to_owned()];
    let resolver = Resolver {
        servers: if first & 1 > 0 { &servers } else { &[] },
        search: if first & 2 > 0 { &search } else { &[] },
        options: if first & 4 > 0 { &options } else { &[] },
    };
    let reachable = |ip: IpAddr| !ip.is_loopback();
    let made = resolver.on_this_host(reachable);
    assert!(made.text.is_empty() || made.text.ends_with('\n'), "{:?}", made.text);
    let is_server = |line: &&str| line.split(char::is_whitespace).next() == Some("nameserver");
    let lines = || made.text.lines().filter(is_server);
    let unreachable = |line: &str| {
        let address = line.split_whitespace().nth(1).and_then(|it| it.parse().ok());
        address.is_some_and(|it| !reachable(it))
    };
    if resolver.servers.is_empty() {
        assert!(!lines().any(unreachable), "{:?}", made.text);
        assert!(!made.has_lost_servers || lines().count() == 0, "{:?}", made.text);
    } else {
        assert!(lines().count() == 2 && !made.has_lost_servers, "{:?}", made.text);
    }
    scratch::file("/etc/resolv.conf", made.text.as_bytes());
    scratch::file("/run/systemd/resolve/resolv.conf", b"");
    // Of several CRs at the end of a line, each reading takes one away.
    let again = resolver.on_this_host(reachable).text;
    assert_eq!(again.replace('\r', ""), made.text.replace('\r', ""));
});
