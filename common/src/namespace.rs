//! Joining the namespaces of another process: `--network container:PID`, `--ipc container:PID`.
//!
//! Kernel objects: the links in `/proc/PID/ns`. An open one keeps the namespace alive, so it is opened first, while
//! nothing has been made yet and a wrong PID costs nothing, and entered later, by the child.
//! See namespaces(7), setns(2).

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::error::{Error, Result};
use crate::syscall::{call, names};

/// Opens a namespace of the process `pid`; `kind` is its name in `/proc/PID/ns`, such as `net`. `option` is what the
/// user wrote, for the error: `--network container:1234`.
///
/// # Errors
/// ESRCH when there is no such process, or one that has ended and was not waited for yet; EACCES when it is another
/// user's.
pub fn open_namespace(pid: i32, kind: &str, option: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{kind}");
    let opened = call(
        "open(2), namespaces(7)",
        || format!("open({path:?}, O_RDONLY|O_CLOEXEC)"),
        || {
            let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            File::open(&path).map(OwnedFd::from).map_err(errno)
        },
    );
    opened.map_err(|error| match error.errno() {
        // The file is missing, but what the user named is the process.
        Some(Errno::ENOENT | Errno::ESRCH) => Error::from_errno(option, Errno::ESRCH)
            .hint("expected the PID of a process that runs, as the host numbers it"),
        Some(errno) => Error::from_errno(format!("{option}: open {path}"), errno)
            .hint("its namespaces may be opened by root, or by its own user"),
        None => error,
    })
}

/// Moves this process, which must have one thread for some kinds, into the namespace: setns(2). `kind` guards
/// against a namespace of another kind.
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN` in the namespace's user namespace, EINVAL when it is of another kind.
pub fn enter(namespace: &OwnedFd, kind: CloneFlags) -> Result<()> {
    call(
        "setns(2)",
        || format!("setns({}, {})", namespace.as_raw_fd(), names(kind.iter_names().map(|(name, _)| name))),
        || nix::sched::setns(namespace, kind),
    )
}
