//! How the container finds names: /etc/hosts, /etc/hostname and /etc/resolv.conf. hosts(5), resolv.conf(5).

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::bad_input::refused;
use super::bridge::{GATEWAY, Member};
use crate::kernel::read;
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "names.hosts",
        "/etc/hosts has localhost and the container's own name, with its domain and without.", hosts)
        .hint("One line with 127.0.0.1, one with ::1, one with the name that --hostname gives."),
    Check::since(2, "names.own-address",
        "On a bridge, /etc/hosts has the container's name with its address.", own_address)
        .needs(&[Need::Bridge])
        .hint("Programs look up their own name, to tell others where to find them."),
    Check::since(2, "names.add-host",
        "--add-host NAME:IP or NAME=IP adds a line; host-gateway is the bridge's gateway.", add_host)
        .needs(&[Need::Bridge])
        .hint("Docker writes the address first, then the name: hosts(5)."),
    Check::since(2, "names.hostname", "/etc/hostname has the container's name.", hostname)
        .hint("One line. hostname(5)."),
    Check::since(2, "names.dns", "--dns gives the name servers in /etc/resolv.conf.", dns)
        .hint("One line `nameserver ADDRESS` for each."),
    Check::since(2, "names.dns-search",
        "The host's search list stays beside other name servers, and where no server is left, the runtime \
         says so.", dns_search)
        .needs(&[Need::Bridge])
        .hint("Only the lines `nameserver` are the runtime's to choose. Text may follow the address."),
    Check::since(2, "names.search",
        "--dns-search gives the search list, or takes it away with a single dot; --dns-option and --dns-opt \
         give the options. What is not given is the host's.", search)
        .hint("One line `search`, and one line `options`, in the place of the host's. `domain` is a search \
               list of one: resolv.conf(5)."),
    Check::since(2, "names.dns-of-the-host",
        "Without --dns the container has the host's name servers, but not those on the host's loopback \
         interface.", dns_of_the_host)
        .needs(&[Need::Bridge])
        .hint("127.0.0.53 is systemd's resolver on the host; in the container no process listens there."),
    Check::since(2, "names.shared",
        "With --network container:PID the container has that one's /etc/hosts, /etc/resolv.conf and host \
         name. Options that would change them are refused.", shared)
        .hint("Docker shares both files with the network. Read them beneath /proc/PID/root: a link in there \
               must not lead to a file of the host. The host name is that of the UTS namespace."),
    Check::since(2, "names.root-keeps-its-own",
        "The root's own files at these paths keep their content.", root_keeps_its_own)
        .hint("Bind-mount files that were made for the container: other containers may use the root on disk, \
               too."),
    Check::since(2, "names.any-root",
        "A root works if these files, or /etc itself, are missing, or if one is a link without a target.",
        any_root)
        .hint("systemd makes /etc/resolv.conf a link to ../run/systemd/resolve/stub-resolv.conf. A mount \
               point must exist, a file for a file; and mount(2) follows links."),
    Check::since(2, "names.no-way-to-the-host",
        "An absolute link at one of these paths does not lead to the host's file.", no_way_to_the_host)
        .not_new()
        .hint("A process that resolves a link before chroot(2) follows it on the host."),
];

/// The names, with their addresses, that a hosts file has.
fn entries(text: &str) -> Vec<(String, String)> {
    let without_comments = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let of_line = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let address = words.next().unwrap_or_default();
        words.map(|name| (name, address.clone())).collect::<Vec<_>>()
    };
    without_comments.flat_map(of_line).collect()
}

/// Fails unless the hosts file that PID 1 sees has the name with this address.
fn has(text: &str, name: &str, address: &str) -> Checked {
    let found = entries(text).contains(&(name.into(), address.into()));
    ensure(found, || {
        Failure::new(format!("{name} with the address {address} in /etc/hosts"), format!("{text:?}"))
    })
}

fn hosts(subject: &Subject) -> Checked {
    let output = subject.run(&["--hostname", "web.example", "--network", "none", "cat", "/etc/hosts"])?;
    let text = output.ok()?;
    has(text, "localhost", "127.0.0.1")?;
    has(text, "localhost", "::1")?;
    ["web.example", "web"].into_iter().try_for_each(|own| {
        let found = entries(text).iter().any(|(name, _)| name == own);
        ensure(found, || Failure::new(format!("the name {own} in /etc/hosts"), format!("{text:?}")))
    })
}

fn own_address(subject: &Subject) -> Checked {
    let member = Member::new(subject, &["--hostname", "web", "--ip", "10.44.3.4"])?;
    has(&read(member.first.path("root/etc/hosts"))?, "web", "10.44.3.4")
}

fn add_host(subject: &Subject) -> Checked {
    let options = ["--add-host", "db.example:192.0.2.77", "--add-host", "host.example:host-gateway"];
    let six = ["--add-host", "six.example:2001:db8::1", "--add-host", "eight.example=[2001:db8::8]"];
    let options = [&options[..], &six, &["--add-host", "seven.example=192.0.2.7"]].concat();
    let member = Member::new(subject, &options)?;
    let text = read(member.first.path("root/etc/hosts"))?;
    has(&text, "db.example", "192.0.2.77")?;
    has(&text, "host.example", GATEWAY)?;
    has(&text, "six.example", "2001:db8::1")?;
    has(&text, "seven.example", "192.0.2.7")?;
    has(&text, "eight.example", "2001:db8::8")
}

fn hostname(subject: &Subject) -> Checked {
    expect("/etc/hostname", "congo", subject.run(&["cat", "/etc/hostname"])?.ok()?)?;
    let output = subject.run(&["--hostname", "web.example", "cat", "/etc/hostname"])?;
    expect("/etc/hostname with --hostname", "web.example", output.ok()?)
}

fn nameservers(text: &str) -> Vec<String> {
    let address = |line: &str| Some(line.strip_prefix("nameserver")?.trim().to_owned());
    text.lines().filter_map(address).collect()
}

fn dns(subject: &Subject) -> Checked {
    let options = ["--dns", "192.0.2.53", "--dns", "2001:db8::53", "cat", "/etc/resolv.conf"];
    let output = subject.run(&options)?;
    expect(
        "the name servers",
        vec!["192.0.2.53".to_owned(), "2001:db8::53".into()],
        nameservers(output.ok()?),
    )
}

/// A file in the place of the host's /etc/resolv.conf, until it is dropped. The checks have a mount namespace
/// of their own.
struct OfTheHost(&'static str);

impl OfTheHost {
    fn new(subject: &Subject, text: &str) -> Result<OfTheHost, Failure> {
        let folder = subject.file("etc-of-the-host");
        fs::create_dir_all(&folder)?;
        let file = folder.join("resolv.conf");
        fs::write(&file, text)?;
        let path = "/etc/resolv.conf";
        if Path::new(path).exists() {
            mount(Some(&file), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            return Ok(OfTheHost(path));
        }
        // Nothing can be mounted on a file that is missing: an overlay puts one beside the others.
        let layers = format!("lowerdir={}:/etc", folder.display());
        mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(layers.as_str()))?;
        Ok(OfTheHost("/etc"))
    }
}

impl Drop for OfTheHost {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

fn dns_search(subject: &Subject) -> Checked {
    let rest = "search example.test\noptions ndots:2\n";
    let of_the_host = OfTheHost::new(subject, &format!("{rest}nameserver 127.0.0.53 # of the host\n"))?;
    let given = subject.run(&["--dns", "192.0.2.53", "cat", "/etc/resolv.conf"])?;
    let none_left = subject.run(&["--network", "bridge", "cat", "/etc/resolv.conf"])?;
    drop(of_the_host);
    expect("the file with --dns", format!("nameserver 192.0.2.53\n{rest}").trim(), given.ok()?.trim())?;
    // The file of systemd-resolved may have others.
    if !Path::new("/run/systemd/resolve/resolv.conf").exists() {
        expect("the file without a name server", rest.trim(), none_left.ok()?.trim())?;
        let says = none_left.stderr.contains("--dns");
        ensure(says, || Failure::new("a line on stderr about --dns", &none_left.stderr))?;
    }
    Ok(())
}

fn search(subject: &Subject) -> Checked {
    let host = "nameserver 192.0.2.1\ndomain old.test\nsearch one.test two.test\noptions ndots:2\n";
    let _of_the_host = OfTheHost::new(subject, host)?;
    let server = "nameserver 192.0.2.1";
    let of_the_host = "domain old.test\nsearch one.test two.test";
    for (options, lines) in [
        (
            &["--dns-search", "a.test", "--dns-search=b.test"][..],
            [server, "search a.test b.test", "options ndots:2"].join("\n"),
        ),
        (&["--dns-search", "."], [server, "options ndots:2"].join("\n")),
        (
            &["--dns-option", "ndots:1", "--dns-opt", "use-vc"],
            [server, of_the_host, "options ndots:1 use-vc"].join("\n"),
        ),
        (
            &["--dns", "192.0.2.53", "--dns-search", "a.test", "--dns-opt=rotate"],
            "nameserver 192.0.2.53\nsearch a.test\noptions rotate".into(),
        ),
    ] {
        let output = subject.run(&[options, &["cat", "/etc/resolv.conf"]].concat())?;
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        // The order is the runtime's.
        expect(format!("the file with {options:?}"), sorted(&lines), sorted(output.ok()?))?;
    }
    Ok(())
}

fn dns_of_the_host(subject: &Subject) -> Checked {
    // The host's own list, but for what nobody in the container could reach. A scope, as in fe80::1%eth0, is
    // a link.
    let is_elsewhere = |server: &String| {
        let address = server.split('%').next().and_then(|text| text.parse::<IpAddr>().ok());
        address.is_some_and(|address| !address.is_loopback() && address != IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    };
    let mut servers = nameservers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    servers.retain(is_elsewhere);
    for mode in ["none", "bridge"] {
        let output = subject.run(&["--network", mode, "cat", "/etc/resolv.conf"])?;
        let found = nameservers(output.ok()?);
        // With none left, some well-known server may stand in.
        let as_the_host = found == servers || (servers.is_empty() && found.iter().all(is_elsewhere));
        ensure(as_the_host, || {
            Failure::new(format!("with --network {mode} the name servers {servers:?}"), format!("{found:?}"))
        })?;
    }
    Ok(())
}

fn shared(subject: &Subject) -> Checked {
    let names = ["--hostname", "web.example", "--add-host", "db.example:192.0.2.77", "--dns", "192.0.2.53"];
    let one = subject.hold(&[&names[..], &["--dns-search", "a.test"]].concat())?;
    let first = one.first()?;
    let network = format!("container:{first}");
    let other = subject.hold(&["--network", &network])?;
    expect("the host name of the second container", "web.example", other.first()?.hostname()?.as_str())?;
    for path in ["root/etc/hosts", "root/etc/hostname", "root/etc/resolv.conf"] {
        let (expected, found) = (read(first.path(path))?, read(other.first()?.path(path))?);
        expect(format!("{path} of the second container"), expected, found)?;
    }
    has(&read(other.first()?.path("root/etc/hosts"))?, "db.example", "192.0.2.77")?;
    other.output()?.status_is(0)?;
    for (option, value) in [
        ("--dns", "192.0.2.1"),
        ("--dns-search", "a.test"),
        ("--dns-option", "ndots:1"),
        ("--add-host", "db:192.0.2.1"),
        ("--hostname", "other"),
        ("--publish", "8080:80"),
    ] {
        refused(subject, &["--network", &network, option, value, "true"], &[option, &network])?;
    }
    Ok(())
}

const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// An `etc` in the copy of the root, arranged by a check and put back as it was when dropped.
struct Etc {
    path: PathBuf,
    kept: PathBuf,
}

impl Etc {
    fn new(subject: &Subject) -> Result<Etc, Failure> {
        let path = Path::new(subject.root()?).join("etc");
        let kept = path.with_file_name("etc-kept");
        fs::rename(&path, &kept)?;
        Ok(Etc { path, kept })
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        // Whatever stands there now, a run made it or the check.
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::rename(&self.kept, &self.path);
    }
}

fn root_keeps_its_own(subject: &Subject) -> Checked {
    let etc = Etc::new(subject)?;
    fs::create_dir(&etc.path)?;
    for name in FILES {
        fs::write(etc.path.join(name), format!("{name} of the root\n"))?;
    }
    for name in FILES {
        let seen = subject.run(&["--rootfs", subject.root()?, "cat", &format!("/etc/{name}")])?;
        let hidden = !seen.ok()?.contains("of the root");
        ensure(hidden, || Failure::new(format!("/etc/{name} made for the container"), "that of the root"))?;
    }
    for name in FILES {
        let text = read(etc.path.join(name))?;
        expect(format!("{name} in the root after the run"), format!("{name} of the root\n"), text)?;
    }
    Ok(())
}

/// Fails unless all three are there and are the container's.
fn works(subject: &Subject, which: &str) -> Checked {
    let options = ["--hostname", "web", "--dns", "192.0.2.53", "--rootfs", subject.root()?];
    let output = subject.sh(&options, "cat /etc/hosts /etc/hostname /etc/resolv.conf")?;
    let text = output.ok().map_err(|failure| failure.of(format_args!("with {which}")))?;
    let all = ["localhost", "web", "nameserver 192.0.2.53"].iter().all(|word| text.contains(word));
    ensure(all, || {
        Failure::new(format!("with {which}, all three files for the container"), format!("{text:?}"))
    })
}

fn any_root(subject: &Subject) -> Checked {
    // Opened first, as the other way round would leave the root without its /etc.
    let etc = Etc::new(subject)?;
    works(subject, "no /etc")?;
    let _ = fs::remove_dir_all(&etc.path);
    fs::create_dir(&etc.path)?;
    works(subject, "an empty /etc")?;
    for target in ["../run/systemd/resolve/stub-resolv.conf", "/run/no/such/file"] {
        let _ = fs::remove_dir_all(&etc.path);
        fs::create_dir(&etc.path)?;
        symlink(target, etc.path.join("resolv.conf"))?;
        works(subject, &format!("/etc/resolv.conf -> {target}"))?;
    }
    Ok(())
}

fn no_way_to_the_host(subject: &Subject) -> Checked {
    // Under a path that is in the host's root only.
    let of_host = PathBuf::from(subject.write("hosts-of-the-host", "of the host\n")?);
    let etc = Etc::new(subject)?;
    for name in FILES {
        let _ = fs::remove_dir_all(&etc.path);
        fs::create_dir(&etc.path)?;
        symlink(&of_host, etc.path.join(name))?;
        // It may be refused, too. Meanwhile the host must not see another file there.
        let script = "cat /etc/hosts /etc/hostname /etc/resolv.conf; echo ready; cat";
        let container = subject.hold_sh(&["--rootfs", subject.root()?], script);
        expect("the host's file while the container runs", "of the host\n", &read(&of_host)?)?;
        let container = container?;
        let text = container.stdout();
        ensure(!text.contains("of the host"), || {
            Failure::new(format!("/etc/{name} made for the container"), "the host's file, through a link")
        })?;
        container.output()?;
        expect("the host's file after the run", "of the host\n", &read(&of_host)?)?;
    }
    Ok(())
}
