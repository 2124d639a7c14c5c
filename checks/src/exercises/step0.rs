//! The exercises of step 0: what its files already begin. Kernel objects: a tmpfs, a cgroup's limit of swap,
//! the UTS namespace. Man pages: tmpfs(5), cgroups(7), uts_namespaces(7).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use super::Exercise;
use crate::container::Container;
use crate::{Checked, Need, Subject, expect};

pub(super) const EXERCISES: &[Exercise] = &[
    Exercise {
        id: "step0.private-tmp",
        step: 0,
        sentence: "Give the container a /tmp of its own that disappears with the container.",
        hint: "A tmpfs with mode 1777, mounted where /proc is; mount_namespaces(7) says why it needs no \
               unmount.",
        needs: &[],
        run: private_tmp,
    },
    Exercise {
        id: "step0.no-swap",
        step: 0,
        sentence: "Let the container use no swap: 128 MiB of memory must be its limit.",
        hint: "v1: memory.memsw.limit_in_bytes counts memory and swap together. v2: memory.swap.max counts \
               swap alone.",
        needs: &[Need::Controller("memory"), Need::SwapAccounting],
        run: no_swap,
    },
    Exercise {
        id: "step0.domainname",
        step: 0,
        sentence: "Set the NIS domain name in the container to \"congo\", and leave the host's alone.",
        hint: "uts_namespaces(7) says what else is in a UTS namespace; /proc/sys/kernel/domainname can be \
               written.",
        needs: &[],
        run: domainname,
    },
];

fn private_tmp(subject: &Subject) -> Checked {
    // The caller's umask must not reach the mode: some users have a strict one.
    for umask in ["umask 022", "umask 077"] {
        let command = &mut subject.command_after(umask, &["sh", "-c", "touch /tmp/first && echo ready; cat"]);
        let container = Container::start(command.stdin(Stdio::piped()))?;
        container.wait_for("ready")?;
        let first = container.first()?;
        expect("the filesystem at /tmp", "tmpfs", &*first.mount_at("/tmp")?.kind)?;
        let mode = fs::metadata(first.path("root/tmp/."))?.mode() & 0o7777;
        expect("the mode of /tmp", "1777", &*format!("{mode:o}")).map_err(|failure| failure.of(umask))?;
    }
    expect("what the next container finds in /tmp", "", subject.run(&["ls", "-A", "/tmp"])?.ok()?)
}

fn no_swap(subject: &Subject) -> Checked {
    subject.in_cgroup(&[], |cgroup| {
        let memory = cgroup.limit("memory.limit_in_bytes", "memory.max")?;
        let limit = cgroup.limit("memory.memsw.limit_in_bytes", "memory.swap.max")?;
        match cgroup.folder("memory")?.join("memory.memsw.limit_in_bytes").exists() {
            true => expect("the limit of memory and swap", memory, limit),
            false => expect("the limit of swap", Some(0), limit),
        }
    })
}

fn domainname(subject: &Subject) -> Checked {
    let of_host = || crate::kernel::read("/proc/sys/kernel/domainname");
    let before = of_host()?;
    let inside = subject.run(&["cat", "/proc/sys/kernel/domainname"])?;
    expect("the domain name inside", "congo", inside.ok()?)?;
    expect("the host's domain name", before, of_host()?)
}
