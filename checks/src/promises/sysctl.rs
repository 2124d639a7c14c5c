//! `--sysctl`: settings of the kernel that a container has for itself, and the host keeps its own.
//! sysctl(8), network_namespaces(7), ipc_namespaces(7).

use super::bad_input::{each, refused};
use super::security_files::host_users;
use crate::kernel::{myself, read};
use crate::{Check, Checked, Failure, Subject, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "sysctl.network",
        "--sysctl changes settings of the container's network. The host's stay, and so do those of another \
         container.", of_network)
        .hint("Write to /proc/sys/net when the process is in its network namespace."),
    Check::since(2, "sysctl.ipc",
        "--sysctl changes limits of the container's IPC namespace, and the host's stay.", of_ipc)
        .hint("Write to /proc/sys/kernel when the process is in its IPC namespace. Before Linux 6.9, root of \
               a user namespace may not."),
    Check::since(2, "sysctl.container",
        "With --network container:PID, --sysctl changes the settings of the network that is shared.", shared)
        .hint("Join first, then write."),
    Check::since(2, "bad.sysctl",
        "A setting of the host, one that would be the host's, and a value that the kernel does not take are \
         refused.", bad)
        .hint("Outside of net.*, fs.mqueue.* and eight of kernel.*, each setting exists once. And with \
               --network host, those of net.* are the host's."),
];

/// In `/proc/sys`, as this process sees it: it is of the process's own namespaces.
fn setting(path: &str) -> Result<String, Failure> {
    Ok(read(format!("/proc/sys/{path}"))?.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn of_network(subject: &Subject) -> Checked {
    // The second one has another value in a namespace of its own, which the runtime itself has set.
    let paths =
        ["net/ipv4/conf/all/forwarding", "net/ipv4/ip_unprivileged_port_start", "net/ipv4/ip_default_ttl"];
    let look = || paths.into_iter().map(setting).collect::<Result<Vec<_>, Failure>>();
    let before = look()?;
    let options = [
        "--sysctl",
        "net.ipv4.conf.all.forwarding=1",
        "--sysctl",
        "net/ipv4/ip_unprivileged_port_start=81",
        "--sysctl",
        // Before Linux 6.9 the network of a user namespace has no net.core.
        "net.ipv4.ip_default_ttl=123",
    ];
    let script = format!("cd /proc/sys; cat {}", paths.join(" "));
    let run = subject.sh(&options, &script)?;
    expect("the settings inside", vec!["1", "81", "123"], run.ok()?.lines().collect())?;
    expect("the host's settings", before, look()?)?;
    let other = subject.sh(&[], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")?;
    expect("the setting in a container without the option", "0", other.ok()?)
}

/// Whether root of a user namespace may change the limits of its IPC namespace: since Linux 6.9.
fn root_inside_may() -> Result<bool, Failure> {
    let name = nix::sys::utsname::uname()?;
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|it: char| !it.is_ascii_digit()).map(|it| it.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok(version >= (6, 9))
}

fn of_ipc(subject: &Subject) -> Checked {
    let paths = ["kernel/msgmax", "kernel/sem", "fs/mqueue/msg_max"];
    let look = || paths.into_iter().map(setting).collect::<Result<Vec<_>, Failure>>();
    let before = look()?;
    let options = [
        "--sysctl",
        "kernel.msgmax=4321",
        "--sysctl",
        "kernel.sem=200 20000 20 100",
        "--sysctl",
        "fs.mqueue.msg_max=7",
    ];
    let script = format!("cd /proc/sys; cat {}", paths.join(" "));
    let owner = if root_inside_may()? { &[] } else { host_users(subject) };
    if subject.step() >= 4 && !root_inside_may()? && owner.is_empty() {
        return refused(subject, &[&options[..], &["true"]].concat(), &["--sysctl", "msgmax", "6.9"]);
    }
    let run = subject.sh(&[owner, &options].concat(), &script)?;
    let words = run.ok()?.split_whitespace().collect::<Vec<_>>().join(" ");
    expect("the settings inside", "4321 200 20000 20 100 7", &*words)?;
    expect("the host's settings", before, look()?)
}

fn shared(subject: &Subject) -> Checked {
    let one = subject.hold(&[])?;
    let network = format!("container:{}", one.first()?);
    let options = ["--network", &network, "--sysctl", "net.ipv4.ip_unprivileged_port_start=82"];
    subject.run(&[&options[..], &["true"]].concat())?.ok()?;
    let network = crate::network::Network::of(one.first()?)?;
    let found = network.run(|| setting("net/ipv4/ip_unprivileged_port_start"))?;
    expect("the setting in the network of both", "82", &*found)
}

fn bad(subject: &Subject) -> Checked {
    let of_host = ["kernel.core_pattern=x", "vm.swappiness=60", "kernel.hostname=x", "fs.file-max=9"];
    each(subject, "--sysctl", &of_host, &["net.*", "fs.mqueue.*", "kernel.msgmax", "kernel.shmmni"])?;
    let elsewhere = ["net/../kernel/core_pattern=x", "net.//.kernel.sysrq=1", "/net/core/somaxconn=1"];
    each(subject, "--sysctl", &elsewhere, &["net.*"])?;
    each(subject, "--sysctl", &["net.core.somaxconn", ""], &["NAME=VALUE"])?;
    each(subject, "--sysctl", &["net.core.somaxconn="], &["value"])?;
    refused(subject, &["--sysctl=net.core.somaxconn=1\n2", "true"], &["--sysctl", "somaxconn=1", "value"])?;
    // What the host has already, should it be written all the same.
    let (backlog, size) = (setting("net/core/somaxconn")?, setting("kernel/msgmax")?);
    let (backlog, size) = (format!("net.core.somaxconn={backlog}"), format!("kernel.msgmax={size}"));
    let with = |options: &[&str], sysctl: &str, words: &[&str]| {
        refused(subject, &[options, &["--sysctl", sysctl, "true"]].concat(), words)
    };
    with(&["--network", "host"], &backlog, &["--sysctl", "somaxconn", "--network host"])?;
    with(&["--ipc", "host"], &size, &["--sysctl", "msgmax", "--ipc host"])?;
    if subject.step() < 4 {
        let of_host = format!("container:{}", myself());
        with(&["--network", &of_host], &backlog, &["--sysctl", "somaxconn", "--network container"])?;
        with(&["--ipc", &of_host], &size, &["--sysctl", "msgmax", "--ipc container"])?;
    }
    with(&[], "net.ipv4.no_such_setting=1", &["--sysctl", "no_such_setting", "ENOENT"])?;
    with(&[], "net.ipv4.conf.all.forwarding=much", &["--sysctl", "forwarding=much", "EINVAL"])
}
