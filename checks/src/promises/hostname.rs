//! The host name, inside and outside. uts_namespaces(7), sethostname(2).

use crate::{Check, Checked, Subject, expect, host};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "hostname.is-congo", "The container's host name is \"congo\".", is_congo)
        .hint("sethostname(2), called by the child."),
    Check::since(
        0,
        "hostname.host-unchanged",
        "The host keeps its name, whatever the container does.",
        host_unchanged,
    )
    .hint("clone(2) with CLONE_NEWUTS, and sethostname(2) by the child, not the parent."),
    Check::since(1, "hostname.option", "--hostname sets the name, and the variable HOSTNAME.", option)
        .hint("Both come from one value: sethostname(2) and the environment."),
    Check::since(1, "hostname.short", "-h NAME sets the name, too.", short)
        .hint("As for `docker run`; help is --help alone."),
    Check::since(1, "hostname.longest", "A host name may have 64 bytes.", longest)
        .hint("HOST_NAME_MAX is 64, without the zero byte."),
];

fn is_congo(subject: &Subject) -> Checked {
    expect("the host name inside", "congo", &subject.hold(&[])?.first()?.hostname()?)
}

fn host_unchanged(subject: &Subject) -> Checked {
    let before = host::hostname();
    let container = subject.hold_sh(subject.as_host_root(), "hostname other; echo ready; cat")?;
    expect("the name that the container gave itself", "other", &container.first()?.hostname()?)?;
    expect("the host's name", before, host::hostname())
}

fn option(subject: &Subject) -> Checked {
    let container = subject.hold(&["--hostname", "web.example"])?;
    let first = container.first()?;
    expect("the host name inside", "web.example", &first.hostname()?)?;
    let variable = first.environment()?.into_iter().find(|variable| variable.starts_with("HOSTNAME="));
    expect("the variable", Some("HOSTNAME=web.example".into()), variable)
}

fn short(subject: &Subject) -> Checked {
    expect("the host name inside", "web", &subject.hold(&["-h", "web"])?.first()?.hostname()?)?;
    expect("the host name inside", "web", &subject.hold(&["-hweb"])?.first()?.hostname()?)
}

fn longest(subject: &Subject) -> Checked {
    let name = "h".repeat(64);
    expect("the host name inside", &name, &subject.hold(&["--hostname", &name])?.first()?.hostname()?)
}
