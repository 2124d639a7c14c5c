//! Open files: three, and no more. A leaked descriptor of a host directory is a way out of every chroot.
//! open(2).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::container::Container;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "descriptor.none-leaks",
        "The command has only the descriptors 0, 1 and 2, whatever descriptors the runtime had at its start.",
        none_leaks)
        .hint("O_CLOEXEC guards the files that you open yourself. For inherited ones: close_range(2), or a \
               walk over /proc/self/fd."),
    Check::since(0, "descriptor.closed-streams",
        "A runtime that starts with closed streams gives the command no other files in their place.",
        closed_streams)
        .hint("The next file that is opened gets the lowest free number: open /dev/null first."),
];

fn none_leaks(subject: &Subject) -> Checked {
    let (one, other) = UnixStream::pair()?;
    let leaks: [OwnedFd; 4] =
        [File::open("/")?.into(), File::open("/proc/self/status")?.into(), one.into(), other.into()];
    for leak in &leaks {
        inheritable(leak, true)?;
    }
    let container = subject.hold(&[]);
    for leak in &leaks {
        inheritable(leak, false)?;
    }
    expect("the open descriptors of PID 1", BTreeSet::from([0, 1, 2]), container?.first()?.descriptors()?)
}

fn inheritable(file: impl AsFd, yes: bool) -> Checked {
    fcntl(file, FcntlArg::F_SETFD(if yes { FdFlag::empty() } else { FdFlag::FD_CLOEXEC }))?;
    Ok(())
}

fn closed_streams(subject: &Subject) -> Checked {
    // The host's shell closes stdin, which cannot be done for a child in safe Rust.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" <&-"]).arg(subject.binary());
    // Not `exec sleep`: the loader of a new program opens files for a moment.
    command.args(["sh", "-c", "echo ready; sleep 1000; exit 1"]).envs(subject.environment());
    let container = Container::start(&mut command)?;
    container.wait_for("ready")?;
    let first = container.first()?;
    let descriptors = first.descriptors()?;
    ensure(descriptors.is_subset(&[0, 1, 2].into()), || {
        Failure::new("no descriptor above 2", format!("{descriptors:?}"))
    })?;
    match fs::read_link(first.path("fd/0")) {
        Ok(stdin) => expect("stdin, which was closed,", Path::new("/dev/null"), &stdin),
        Err(_) => Ok(()),
    }
}
