//! /sys, which shows the kernel's objects. sysfs(5).

use std::collections::BTreeSet;

use super::bridge::Member;
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "sys.read-only", "/sys is a sysfs that cannot be written.", read_only)
        .hint("MS_RDONLY: most files there belong to the host."),
    Check::since(2, "sys.own-links", "/sys/class/net has the container's own network links.", own_links)
        .needs(&[Need::Bridge])
        .hint("A sysfs shows the network namespace of the process that mounts it: the child must mount it, \
               after the clone."),
    Check::since(2, "sys.host-network",
        "With the host's network /sys shows the host's links, but none of the host's mounts below /sys.",
        host_network)
        .hint("Without AT_RECURSIVE: the host's cgroups, tracefs and more are mounted below /sys."),
];

/// Lists what must not be seen below /sys, and a link that must.
pub(super) const LOOK_BELOW: &str = "ls -A /sys/fs/cgroup /sys/kernel/debug /sys/kernel/tracing 2>/dev/null \
                                     | grep -v : ; cat /sys/class/net/lo/address";

/// What it prints where nothing is mounted there.
pub(super) const NOTHING_BELOW: &str = "00:00:00:00:00:00";

fn host_network(subject: &Subject) -> Checked {
    let seen = subject.sh(&["--network", "host"], LOOK_BELOW)?;
    expect("what /sys shows beside the link lo", NOTHING_BELOW, seen.ok()?.trim())
}

fn read_only(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    let sys = container.first()?.mount_at("/sys")?;
    expect("the filesystem at /sys", "sysfs", sys.kind.as_str())?;
    ensure(sys.has("ro"), || Failure::new("/sys is mounted ro", &sys.options))?;
    // A file with which every host sends its own power state.
    // What it is already: where it can be written, nothing changes.
    let script =
        "read -r mtu < /sys/class/net/lo/mtu; echo $mtu 2>/dev/null > /sys/class/net/lo/mtu || echo refused";
    let output = subject.sh(&[], script)?;
    expect("what writing to /sys comes to", "refused", output.ok()?)
}

fn own_links(subject: &Subject) -> Checked {
    let listed = |options: &[&str]| -> Result<BTreeSet<String>, Failure> {
        // A file there is no link: bonding_masters.
        let output = subject.sh(options, "cd /sys/class/net && for link in */; do echo $link; done")?;
        Ok(output.ok()?.lines().map(|name| name.trim_end_matches('/').to_owned()).collect())
    };
    let alone = listed(&[])?;
    let with_bridge = listed(&["--network", "bridge"])?;
    let has = |links: &BTreeSet<String>, name: &str| links.iter().any(|link| link == name);
    ensure(has(&alone, "lo") && !has(&alone, "eth0"), || {
        Failure::new("lo, and no eth0", format!("{alone:?}"))
    })?;
    // The host has a bridge and another link now, and the container must not see them.
    let _member = Member::new(subject, &[])?;
    let expected: BTreeSet<_> = alone.into_iter().chain(["eth0".to_owned()]).collect();
    expect("the links of a container on a bridge", &expected, &with_bridge)?;
    expect("the links of a container beside another", &expected, &listed(&["--network", "bridge"])?)
}
