//! Joining the namespaces of another process: `--network container:PID`, `--ipc container:PID`.
//!
//! Kernel objects: the links in `/proc/PID/ns`. An open one keeps the namespace alive. So the parent opens it
//! first, while nothing has been made yet and a wrong PID costs nothing. The child enters it later.
//!
//! An option names a process by its number, and several parts of the runtime look that process up. It may end
//! meanwhile, and the kernel may give the number to a process of another container. The new container would
//! then have the network of one and the memory of the other. So the folder `/proc/PID` is opened once: an
//! open one stays that of the one process, and leads nowhere when that process is gone.
//! See namespaces(7), setns(2), proc(5).

use std::fs::File;
#[cfg(feature = "idmap")]
use std::os::fd::FromRawFd;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
#[cfg(any(feature = "idmap", feature = "network"))]
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, fstat};
#[cfg(feature = "idmap")]
use nix::unistd::Uid;

use crate::sys::clone::generation;
use crate::sys::error::{Context, Error, Result};
use crate::sys::{call, names, open};

/// The folders in /proc of the processes that were asked for. A copy of this process may have closed them, so
/// each belongs to one [`generation`].
static FOLDERS: Mutex<Vec<((u32, i32), OwnedFd)>> = Mutex::new(Vec::new());

/// Lets `look` look into the folder of the process `pid` in /proc: the same process each time.
///
/// # Errors
/// ENOENT when there is no such process; that of `look`.
pub(crate) fn in_folder_of<T>(pid: i32, look: impl FnOnce(&OwnedFd) -> Result<T>) -> Result<T> {
    let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = (generation(), pid);
    let known = folders.iter().position(|(of, _)| *of == wanted);
    let at = known.unwrap_or(folders.len());
    if known.is_none() {
        folders.push((wanted, open(format!("/proc/{pid}"), OFlag::O_PATH | OFlag::O_DIRECTORY)?));
    }
    look(&folders[at].1)
}

/// Opens what the process `pid` has under this name in its folder in /proc, such as `root`.
///
/// # Errors
/// Those of [`in_folder_of`]; ENOENT, ESRCH when the process has ended; EACCES when it is another user's.
pub(crate) fn open_of(pid: i32, name: &str, flags: OFlag) -> Result<OwnedFd> {
    in_folder_of(pid, |folder| {
        let opened = openat(folder, name, flags | OFlag::O_CLOEXEC, Mode::empty());
        opened.context(format_args!("open /proc/{pid}/{name}"))
    })
}

/// Opens a namespace of the process `pid`; `kind` is its name in `/proc/PID/ns`, such as `net`. `option` is
/// what the user wrote, for the error: `--network container:1234`.
///
/// # Errors
/// ESRCH when there is no such process, or one that has ended and was not waited for yet; EACCES when it is
/// another user's.
pub fn open_namespace(pid: i32, kind: &str, option: &str) -> Result<OwnedFd> {
    let name = format!("ns/{kind}");
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let opened = in_folder_of(pid, |folder| {
        call(
            "openat(2), namespaces(7)",
            || format!("openat({}, {name:?}, O_RDONLY|O_CLOEXEC)", folder.as_raw_fd()),
            || openat(folder, &*name, flags, Mode::empty()),
        )
    });
    opened.map_err(|error| cannot_open(error, &format!("/proc/{pid}/{name}"), option))
}

/// The same for a child of the runtime for which it has not waited yet: until then its number is its own.
/// Leaves nothing else open.
///
/// # Errors
/// Those of [`open_namespace`].
#[cfg(feature = "network")]
pub(crate) fn open_namespace_of_child(child: i32, kind: &str, option: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{child}/ns/{kind}");
    open(&path, OFlag::O_RDONLY).map_err(|error| cannot_open(error, &path, option))
}

/// Refuses a PID whose namespace of this kind [`open_namespace`] could not open. Nothing is told of it: the
/// namespace is opened once more later, when it is needed.
///
/// # Errors
/// Those of [`open_namespace`].
#[cfg(feature = "network")]
pub(crate) fn check_namespace(pid: i32, kind: &str, option: &str) -> Result<OwnedFd> {
    let name = format!("ns/{kind}");
    open_of(pid, &name, OFlag::O_RDONLY)
        .map_err(|error| cannot_open(error, &format!("/proc/{pid}/{name}"), option))
}

/// The cookie of this thread's network namespace, which the kernel gives to no other one until the machine is
/// started again: socket(7), `SO_NETNS_COOKIE`. `None` before 5.14.
///
/// # Errors
/// EMFILE, ENOMEM.
#[cfg(feature = "network")]
pub(crate) fn network_cookie() -> Result<Option<u64>> {
    // Of asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::os::unix::net::UnixDatagram::unbound().context("socket(AF_UNIX, SOCK_DGRAM)")?;
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has as many.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    match Errno::result(got) {
        Ok(_) => Ok(Some(cookie)),
        Err(Errno::ENOPROTOOPT) => Ok(None),
        Err(errno) => Err(Error::from_errno("getsockopt(SO_NETNS_COOKIE)", errno)),
    }
}

fn cannot_open(error: Error, path: &str, option: &str) -> Error {
    match error.errno() {
        // The file is missing, but what the user named is the process.
        Some(Errno::ENOENT | Errno::ESRCH) => Error::from_errno(option, Errno::ESRCH)
            .hint("expected the PID of a process that runs, as the host numbers it"),
        Some(errno) => Error::from_errno(format!("{option}: open {path}"), errno).hint(
            "its namespaces may be opened by root, or by its own user; those of an --init by root \
                only: take the PID of its command",
        ),
        None => error,
    }
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

/// Whether this process is in it. `kind` is its name in `/proc/PID/ns`.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn is_own_namespace(namespace: &OwnedFd, kind: &str) -> Result<bool> {
    let path = format!("/proc/self/ns/{kind}");
    let own = File::open(&path).context(format_args!("open {path}"))?;
    is_same_namespace(namespace, &own.into())
}

/// Whether two namespaces are one.
///
/// # Errors
/// None that the arguments can cause.
pub fn is_same_namespace(one: &OwnedFd, other: &OwnedFd) -> Result<bool> {
    let identity = |namespace| fstat(namespace).context("fstat of a namespace");
    let (one, other) = (identity(one)?, identity(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// The user that has made this user namespace, and so may do everything in it.
///
/// # Errors
/// None that the arguments can cause.
#[cfg(feature = "idmap")]
pub fn owner_of(namespace: &OwnedFd) -> Result<Uid> {
    let mut owner: libc::uid_t = 0;
    call(
        "ioctl_ns(2)",
        || format!("ioctl({}, NS_GET_OWNER_UID)", namespace.as_raw_fd()),
        || {
            // SAFETY: the kernel writes one number.
            let result =
                unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_OWNER_UID, &raw mut owner) };
            Errno::result(result).map(drop)
        },
    )?;
    Ok(Uid::from_raw(owner))
}

/// Opens the user namespace around this one: ioctl_ns(2), NS_GET_PARENT.
///
/// # Errors
/// EPERM when it is not in sight: above this process's own.
#[cfg(feature = "idmap")]
pub(crate) fn parent_of(namespace: &OwnedFd) -> Result<OwnedFd> {
    related(namespace, "NS_GET_PARENT", libc::NS_GET_PARENT)
}

/// Opens the user namespace whose root has all rights in this namespace: ioctl_ns(2), NS_GET_USERNS.
///
/// # Errors
/// EPERM when it is not in sight: above this process's own.
#[cfg(all(feature = "idmap", feature = "network"))]
pub(crate) fn users_of(namespace: &OwnedFd) -> Result<OwnedFd> {
    related(namespace, "NS_GET_USERNS", libc::NS_GET_USERNS)
}

#[cfg(feature = "idmap")]
fn related(namespace: &OwnedFd, name: &str, request: libc::Ioctl) -> Result<OwnedFd> {
    let at = namespace.as_raw_fd();
    call(
        "ioctl_ns(2)",
        || format!("ioctl({at}, {name})"),
        || {
            // SAFETY: both calls take no further argument; a new descriptor is returned.
            Errno::result(unsafe { libc::ioctl(at, request) })
                // SAFETY: nobody else knows of it.
                .map(|related| unsafe { OwnedFd::from_raw_fd(related) })
        },
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::unistd::Pid;

    use super::*;
    use crate::sys::clone::Numbered;

    #[test]
    fn a_process_that_has_ended_and_was_not_waited_for() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags).unwrap();
        let error = open_namespace(pid.as_raw(), "net", "--network container:1").unwrap_err();
        child.wait().unwrap();
        assert_eq!(error.errno(), Some(Errno::ESRCH), "{error}");
    }

    #[test]
    fn a_number_that_was_given_anew_is_not_the_process_that_was_named() {
        let (option, mut child) = ("--ipc container:1", Command::new("sleep").arg("600").spawn().unwrap());
        let pid = Pid::from_raw(child.id().cast_signed());
        open_namespace(pid.as_raw(), "net", option).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let Some(other) = Numbered::born_as(pid) else { return };
        let opened = ["net", "ipc"].map(|kind| open_namespace(pid.as_raw(), kind, option));
        drop(other);
        assert_eq!(opened.map(|opened| opened.unwrap_err().errno()), [Some(Errno::ESRCH); 2]);
    }
}
