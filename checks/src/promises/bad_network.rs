//! Bad input about networks, names, shared memory and the terminal, refused as all bad input is.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use super::bad_input::{each, error, refused, with_mounts};
use super::bridge::{BRIDGE, Member};
use crate::needs::Need;
use crate::network::Network;
use crate::{Check, Checked, Failure, Subject, ensure, netlink};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "bad.network", "A network mode that does not exist is refused.", |it| {
        each(it, "--network", &["foo", "", "Bridge", "none,host"], &["none", "host", "bridge", "container"])
    })
    .hint("The error lists the modes."),
    Check::since(2, "bad.network-container", "`container:` takes the PID of a process that lives.", |it| {
        each(it, "--network", &["container:", "container:abc", "container:0", "container:-1"], &["PID"])?;
        dead(it, "--network")
    })
    .hint("ESRCH helps nobody: name the PID."),
    Check::since(2, "bad.ipc",
        "An IPC mode that does not exist, and the PID of a dead process, are refused.", |it| {
        each(it, "--ipc", &["foo", ""], &["private", "host", "container"])?;
            each(it, "--ipc", &["container:", "container:abc"], &["PID"])?;
        dead(it, "--ipc")
    })
    .hint("private, host, container:PID."),
    Check::since(2, "bad.stop",
        "A signal that does not exist, and a timeout that is no number of seconds, are refused.", |it| {
        each(it, "--stop-signal", &["", "0", "65", "NOSUCH", "RTMIN+99", "-1"], &["QUIT", "RTMIN"])?;
        each(it, "--stop-timeout", &["", "1s", "abc", "1.5"], &["-1"])
    })
    .hint("A name with or without SIG, or a number from 1 to 64."),
    Check::since(2, "bad.cidfile",
        "A --cidfile is refused where something is already, a link to nothing included, and in no folder.",
        cidfile)
        .hint("lstat(2), before anything is made: O_EXCL follows no link, and does not overwrite."),
    Check::since(2, "bad.needs-bridge",
        "Options of a bridge without --network bridge are refused.", needs_bridge)
        .hint("An option that is ignored promises something false: name both options."),
    Check::since(2, "bad.subnet",
        "A subnet with host bits, a subnet that is too small or too large, and words are refused.", |it| {
        let bad = ["10.44.0.1/16", "10.0.0.0/7", "10.44.0.0/31", "10.44.0.0", "300.0.0.0/16", "fd00::/64",
            "abc", ""];
        of_bridge(it, "--subnet", &bad, &[])?;
        of_bridge(it, "--subnet", &["10.0.0.0/7", "10.44.0.0/31"], &["8", "30"])?;
        // The error can easily name the intended value.
        of_bridge(it, "--subnet", &["10.44.3.1/16"], &["10.44.0.0/16"])
    })
    .hint("The prefix is 8 to 30. For a subnet with host bits, the error names the network around it."),
    Check::since(2, "bad.ip",
        "An address outside the subnet, the gateway's, the network's own and the broadcast address are \
         refused.", |it| {
        of_bridge(it, "--ip", &["10.99.0.5", "10.44.0.1", "10.44.0.0", "10.44.255.255"], &["10.44.0.0/16"])?;
        of_bridge(it, "--ip", &["abc", "", "10.44.0", "::1"], &[])
    })
    .hint("The error names the subnet."),
    Check::since(2, "bad.ip-taken", "An address that another container has is refused.", ip_taken)
        .needs(&[Need::Bridge])
        .hint("The lease of a living runtime shows that the address is in use."),
    Check::since(2, "bad.bridge",
        "A bridge's name that is empty or too long, or has `/` or blanks, is refused.", |it| {
        of_bridge(it, "--bridge", &["", "a/b", "a b", ".", ".."], &[])?;
        of_bridge(it, "--bridge", &["sixteen-letters-"], &["15"])
    })
    .hint("IFNAMSIZ is 16, with the zero byte."),
    Check::since(2, "bad.bridge-other-subnet", "A bridge that has another subnet is refused.", other_subnet)
        .needs(&[Need::Bridge])
        .hint("The error names both subnets."),
    Check::since(2, "bad.bridge-foreign",
        "A link of the bridge's name that Congo did not make is refused, and left alone.", foreign)
        .needs(&[Need::Bridge])
        .hint("No lease mentions the link, so another program has made it."),
    Check::since(2, "bad.publish",
        "Ports out of range, ranges of different lengths and other protocols are refused.", |it| {
        let bad = ["0:80", "80:0", "70000:80", "80:70000", "8000-8002:80-81", "8002-8000:80-82",
            "80:80/sctp"];
        of_bridge(it, "--publish", &bad, &[])?;
        of_bridge(it, "--publish", &["abc", "", "80:", "127.0.0.1:80", "300.1.1.1:80:80", "a:80:80",
            "80:80/"], &[])?;
        of_bridge(it, "--publish", &["::1:8080:80", "::1::80"], &["[::1]"])?;
        of_bridge(it, "--publish", &["[fe80::1]:8080:80", "[fe80::1%lo]:8080:80", "[::1:8080:80"], &[])?;
        of_bridge(it, "--publish", &["0:80", "80:70000"], &["1", "65535"])?;
        let twice = ["--network", "bridge", "-p", "8080:80", "--publish", "8080:81", "true"];
        refused(it, &twice, &["--publish", "8080:81", "twice"])
    })
    .hint("[[IP:][HOST]:]CONTAINER[/tcp|udp], ports 1 to 65535. An IPv6 address stands in brackets."),
    Check::since(2, "bad.no-nft", "Where nft is not installed, the error says so.", no_nft)
        .needs(&[Need::Bridge])
        .hint("ENOENT from starting it: name the package, too."),
    Check::since(2, "bad.tty", "-i and -t together are refused without a terminal at stdin.", |it| {
        refused(it, &["-it", "true"], &["-t", "not a TTY"])?;
        refused(it, &["--interactive=true", "--tty", "true"], &["-t", "not a TTY"])
    })
    .hint("isatty(3) before anything is made."),
    Check::since(2, "bad.shm-size", "A malformed size of /dev/shm is refused.", |it| {
        each(it, "--shm-size", &["0", "-1", "abc", "", "1.5.5g"], &[])
    })
    .hint("For tmpfs, size=0 would mean no limit."),
    Check::since(2, "bad.dns", "A name server that is not an address is refused.", |it| {
        each(it, "--dns", &["abc", "", "1.2.3", "1.2.3.4 5.6.7.8"], &[])
    })
    .hint("resolv.conf(5) takes addresses only."),
    Check::since(2, "bad.add-host", "A host without a name or without an address is refused.", |it| {
        each(it, "--add-host", &["x", "x:", ":1.2.3.4", "x:abc", "", "a b:1.2.3.4"], &[])?;
        each(it, "--add-host", &["x=", "=1.2.3.4", "x=abc", "a:b=1.2.3.4"], &[])
    })
    .hint("NAME:IP or NAME=IP."),
    Check::since(2, "bad.dns-search", "A search domain that is none is refused, and an option of two lines.",
        |it| {
        each(it, "--dns-search", &["", "a b", "-a.test", "a..b"], &["."])?;
        each(it, "--dns-option", &["", "a b"], &["ndots:2"])?;
        // Of a value in two lines, the error makes one.
        let lines = "a\nnameserver 1.2.3.4";
        refused(it, &["--dns-search", lines, "true"], &["--dns-search", "a nameserver 1.2.3.4"])?;
        refused(it, &["--dns-option", lines, "true"], &["--dns-option", "a nameserver 1.2.3.4"])
    })
    .hint("Both end in a line of resolv.conf(5): white space would begin another word, or another line."),
];

/// Options of `--network bridge`.
fn cidfile(subject: &Subject) -> Checked {
    let (file, target) = (subject.write("cidfile-there", "1")?, subject.file("cidfile-target"));
    refused(subject, &["--cidfile", &file, "true"], &["--cidfile", &file, "already"])?;
    ensure(fs::read(&file)? == b"1", || Failure::new("the file that was there is unchanged", "it is not"))?;
    let link = subject.file("cidfile-link");
    let _ = fs::remove_file(&link);
    symlink(&target, &link)?;
    let link = link.to_string_lossy();
    refused(subject, &["--cidfile", &link, "true"], &["--cidfile", &link, "already"])?;
    ensure(!target.exists(), || Failure::new("nothing where the link leads to", "a file"))?;
    refused(subject, &["--cidfile", "/no/such/file", "true"], &["--cidfile", "/no/such/file", "folder"])
}

fn of_bridge(subject: &Subject, option: &str, values: &[&str], accepted: &[&str]) -> Checked {
    for value in values {
        let arguments = ["--network", "bridge", &format!("{option}={value}"), "true"];
        refused(subject, &arguments, &[&[option, value], accepted].concat())?;
    }
    Ok(())
}

/// Names a process that has just ended.
pub(super) fn dead(subject: &Subject, option: &str) -> Checked {
    let mut child = Command::new("true").spawn()?;
    let pid = child.id().to_string();
    child.wait()?;
    refused(subject, &[option, &format!("container:{pid}"), "true"], &[option, &pid])
}

fn needs_bridge(subject: &Subject) -> Checked {
    for (option, value) in
        [("--publish", "8080:80"), ("--ip", "10.44.0.9"), ("--subnet", "10.45.0.0/16"), ("--bridge", "lab1")]
    {
        refused(subject, &[option, value, "true"], &[option, "--network bridge"])?;
        refused(subject, &["--network", "host", option, value, "true"], &[option, "--network bridge"])?;
    }
    let gateway = "up.example:host-gateway";
    refused(subject, &["--add-host", gateway, "true"], &["--add-host", gateway, "--network bridge"])?;
    Ok(())
}

fn ip_taken(subject: &Subject) -> Checked {
    let _member = Member::new(subject, &["--ip", "10.44.0.9"])?;
    of_bridge(subject, "--ip", &["10.44.0.9"], &[])
}

fn other_subnet(subject: &Subject) -> Checked {
    let member = Member::new(subject, &[])?;
    of_bridge(subject, "--subnet", &["10.50.0.0/16"], &["--bridge", BRIDGE, "10.44.0.0/16"])?;
    let listener = member.network.tcp("0.0.0.0:80")?;
    Network::of_host()?.reaches(&member.port(80), &listener).map(|_| ())
}

fn foreign(subject: &Subject) -> Checked {
    const NUMBER: u32 = 30_001;
    for name in ["lab1", BRIDGE] {
        let made = netlink::add_bridge(name, NUMBER)
            .and_then(|()| netlink::add_address(NUMBER, Ipv4Addr::new(10, 44, 0, 1), 16));
        let result = of_bridge(subject, "--bridge", &[name], &[]);
        let there = Network::of_host()?.link(name);
        let _ = netlink::delete(name);
        made.map_err(|errno| Failure::new("a bridge of the check's own", errno))?;
        result?;
        there?;
    }
    Ok(())
}

/// Hides the program, wherever a runtime may look for it, in a mount namespace of its own.
fn no_nft(subject: &Subject) -> Checked {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let hide = || {
        for folder in std::env::split_paths(&path).chain(system) {
            let file = folder.join("nft");
            if file.is_file() {
                mount(Some("/dev/null"), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            }
        }
        Ok(())
    };
    let mut command = subject.command(&["--network", "bridge", "true"]);
    command.env("PATH", subject.file("no-such-folder"));
    error(&with_mounts(&mut command, hide)?, 125, &["nft", "not installed"])
}
