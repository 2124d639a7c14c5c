//! Which namespaces the container has of its own. namespaces(7).

use crate::kernel::myself;
use crate::{Check, Checked, Failure, Subject, ensure};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "namespace.pid", "PID 1 is in a PID namespace of its own.", |it| own(it, "pid"))
        .hint("clone(2) with CLONE_NEWPID."),
    Check::since(0, "namespace.mount", "PID 1 is in a mount namespace of its own.", |it| own(it, "mnt"))
        .hint("clone(2) with CLONE_NEWNS."),
    Check::since(0, "namespace.uts", "PID 1 is in a UTS namespace of its own.", |it| own(it, "uts"))
        .hint("clone(2) with CLONE_NEWUTS."),
    Check::since(2, "namespace.network", "PID 1 is in a network namespace of its own.", |it| own(it, "net"))
        .hint("clone(2) with CLONE_NEWNET."),
    Check::since(2, "namespace.ipc", "PID 1 is in an IPC namespace of its own.", |it| own(it, "ipc"))
        .hint("clone(2) with CLONE_NEWIPC."),
    Check::since(2, "namespace.cgroup", "PID 1 is in a cgroup namespace of its own.", |it| own(it, "cgroup"))
        .hint("unshare(2) with CLONE_NEWCGROUP, by the child."),
    Check::since(
        2,
        "namespace.cgroup-is-root",
        "Inside, /proc/self/cgroup says that the process is at the top of each hierarchy.",
        cgroup_is_root,
    )
    .hint("The namespace's root is the cgroup of the process at that moment: join first, then unshare(2)."),
];

/// Compares PID 1 with the host and with a second container.
fn own(subject: &Subject, kind: &str) -> Checked {
    let (one, other) = (subject.hold(&[])?, subject.hold(&[])?);
    let its = one.first()?.namespace(kind)?;
    for (whose, theirs) in [("the host", myself()), ("another container", other.first()?)] {
        let shared = its == theirs.namespace(kind)?;
        ensure(!shared, || {
            Failure::new(format!("a {kind} namespace of its own"), format!("that of {whose}"))
        })?;
    }
    Ok(())
}

fn cgroup_is_root(subject: &Subject) -> Checked {
    let output = subject.run(&["cat", "/proc/self/cgroup"])?;
    let lines: Vec<_> = output.ok()?.lines().collect();
    let is_root = |line: &&str| line.splitn(3, ':').nth(2) == Some("/");
    ensure(!lines.is_empty() && lines.iter().all(is_root), || {
        Failure::new("each line of /proc/self/cgroup ends with the path /", lines.join(" "))
    })
}
