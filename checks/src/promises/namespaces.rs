//! Which namespaces the container has of its own. namespaces(7).

use crate::{Check, Checked, Failure, Subject, ensure, host};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "namespace.pid", "PID 1 is in a PID namespace of its own.", |it| own(it, "pid"))
        .hint("clone(2) with CLONE_NEWPID."),
    Check::since(0, "namespace.mount", "PID 1 is in a mount namespace of its own.", |it| own(it, "mnt"))
        .hint("clone(2) with CLONE_NEWNS."),
    Check::since(0, "namespace.uts", "PID 1 is in a UTS namespace of its own.", |it| own(it, "uts"))
        .hint("clone(2) with CLONE_NEWUTS."),
];

/// Compares PID 1 with the host and with a second container.
fn own(subject: &Subject, kind: &str) -> Checked {
    let (one, other) = (subject.hold(&[])?, subject.hold(&[])?);
    let its = one.first()?.namespace(kind)?;
    for (whose, theirs) in [("the host", host::myself()), ("another container", other.first()?)] {
        let shared = its == theirs.namespace(kind)?;
        ensure(!shared, || {
            Failure::new(format!("a {kind} namespace of its own"), format!("that of {whose}"))
        })?;
    }
    Ok(())
}
