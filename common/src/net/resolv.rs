//! The text of the container's `/etc/resolv.conf`: the host's file, with the options' lines in the place of
//! its own.
//!
//! The C library reads one setting a line. Of several `search` lines it takes the last, and `domain` counts
//! as one; `options` lines add up. resolv.conf(5).

use std::fs;
use std::io;
use std::mem;
use std::net::IpAddr;

use crate::sys::error::Error;

/// Where the host keeps its nameservers. systemd-resolved writes the second, when the first names only
/// itself.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The user's wishes for the resolver. Where a list is empty, the host's lines stay.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resolver<'a> {
    /// `--dns`
    pub servers: &'a [IpAddr],
    /// `--dns-search`: domains, or `.` alone for none.
    pub search: &'a [String],
    /// `--dns-option`
    pub options: &'a [String],
}

/// The text of a container's file.
#[derive(Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// It ends with a newline, unless it is empty.
    pub text: String,
    /// Whether the host has nameservers, but none that the container can reach, and none were asked for.
    pub has_lost_servers: bool,
}

impl Resolver<'_> {
    /// Puts the container's text together. It has those nameservers of the host that are `reachable` from the
    /// container. A file that is not there counts as an empty one. So does one that cannot be read, which is
    /// told.
    pub fn on_this_host(&self, reachable: impl Fn(IpAddr) -> bool) -> ResolvConf {
        let text = |path: &str| match fs::read_to_string(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Error::from_io(format!("reading {path}, for the container's nameservers"), &error)
                    .report("congo");
                String::new()
            }
            text => text.unwrap_or_default(),
        };
        self.on(RESOLV_CONF.map(text), reachable)
    }

    fn on(&self, mut texts: [String; 2], reachable: impl Fn(IpAddr) -> bool) -> ResolvConf {
        let is_server = |line: &str| key(line) == "nameserver";
        let has_server = |text: &String| text.lines().any(is_server);
        let had_server = has_server(&texts[0]);
        let mut lines: Vec<String> = self.servers.iter().map(|ip| format!("nameserver {ip}")).collect();
        let text = if lines.is_empty() {
            // An address with a link, as in fe80::1%eth0, is on no loopback.
            let keeps = |line: &&str| !is_server(line) || address(line).is_none_or(&reachable);
            let kept = |text: String| text.lines().filter(keeps).map(|line| format!("{line}\n")).collect();
            texts = texts.map(kept);
            let chosen = texts.iter().position(has_server).unwrap_or(0);
            mem::take(&mut texts[chosen])
        } else {
            let others = texts[0].lines().filter(|line| !is_server(line));
            others.map(|line| format!("{line}\n")).collect()
        };
        let has_lost_servers = had_server && lines.is_empty() && !has_server(&text);
        let is_replaced = |line: &&str| match key(line) {
            "search" | "domain" => !self.search.is_empty(),
            "options" => !self.options.is_empty(),
            _ => false,
        };
        lines.extend(text.lines().filter(|line| !is_replaced(line)).map(str::to_owned));
        if !self.search.is_empty() && self.search != ["."] {
            lines.push(format!("search {}", self.search.join(" ")));
        }
        if !self.options.is_empty() {
            lines.push(format!("options {}", self.options.join(" ")));
        }
        ResolvConf { text: lines.iter().map(|line| format!("{line}\n")).collect(), has_lost_servers }
    }
}

fn key(line: &str) -> &str {
    // The C library knows a setting only at the beginning of a line.
    line.split(char::is_whitespace).next().unwrap_or_default()
}

/// Text may follow the address.
fn address(line: &str) -> Option<IpAddr> {
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# the host's\nsearch one.test two.test\nnameserver 192.0.2.1\noptions ndots:2\n";

    fn text(asked: Resolver, host: &str) -> String {
        asked.on([host.into(), String::new()], |ip| !ip.is_loopback()).text
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn by_itself_it_is_the_hosts() {
        assert_eq!(text(Resolver::default(), HOST), HOST);
        assert_eq!(text(Resolver::default(), ""), "");
        // Text may follow, and white space is white space.
        let host = "nameserver\t127.0.0.53 # local\nnameserver ::1\nnameserver 192.0.2.1 # real\n";
        assert_eq!(text(Resolver::default(), host), "nameserver 192.0.2.1 # real\n");
    }

    #[test]
    fn servers_take_the_place_of_the_hosts() {
        let servers = ["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        let asked = Resolver { servers: &servers, ..Resolver::default() };
        let expected = "nameserver 192.0.2.53\nnameserver 2001:db8::53\n\
            # the host's\nsearch one.test two.test\noptions ndots:2\n";
        assert_eq!(text(asked, HOST), expected);
        // A loopback that the user names is the container's own.
        let servers = ["127.0.0.1".parse().unwrap()];
        assert_eq!(text(Resolver { servers: &servers, ..asked }, ""), "nameserver 127.0.0.1\n");
    }

    #[test]
    fn a_search_list_takes_the_place_of_the_hosts() {
        let search = words(&["a.test", "b.test"]);
        let asked = Resolver { search: &search, ..Resolver::default() };
        let rest = "# the host's\nnameserver 192.0.2.1\noptions ndots:2\n";
        assert_eq!(text(asked, HOST), format!("{rest}search a.test b.test\n"));
        assert_eq!(text(asked, "domain one.test\nsearch two.test\n"), "search a.test b.test\n");
        let none = words(&["."]);
        assert_eq!(text(Resolver { search: &none, ..asked }, HOST), rest);
        // Beside others it is the domain of the root.
        let both = words(&[".", "a.test"]);
        assert_eq!(text(Resolver { search: &both, ..asked }, ""), "search . a.test\n");
    }

    #[test]
    fn options_take_the_place_of_the_hosts() {
        let options = words(&["ndots:1", "use-vc"]);
        let asked = Resolver { options: &options, ..Resolver::default() };
        let expected =
            "# the host's\nsearch one.test two.test\nnameserver 192.0.2.1\noptions ndots:1 use-vc\n";
        assert_eq!(text(asked, HOST), expected);
        assert_eq!(text(asked, "options a\noptions b\n"), "options ndots:1 use-vc\n");
    }

    #[test]
    fn the_second_file_has_the_servers_behind_a_local_one() {
        let local = "nameserver 127.0.0.53\nsearch one.test\n".to_owned();
        let second = "nameserver 192.0.2.9\nsearch one.test\n".to_owned();
        let on = |asked: Resolver, second: &str| {
            asked.on([local.clone(), second.to_owned()], |ip| !ip.is_loopback())
        };
        let found = on(Resolver::default(), &second);
        assert_eq!(found, ResolvConf { text: second, has_lost_servers: false });
        let lost = on(Resolver::default(), "");
        assert_eq!(lost, ResolvConf { text: "search one.test\n".into(), has_lost_servers: true });
        let servers = ["192.0.2.53".parse().unwrap()];
        assert!(!on(Resolver { servers: &servers, ..Resolver::default() }, "").has_lost_servers);
        let same = Resolver::default().on([local.clone(), String::new()], |_| true);
        assert_eq!(same, ResolvConf { text: local.clone(), has_lost_servers: false });
    }
}
