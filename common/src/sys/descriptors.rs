//! Which of the runtime's open files nobody else is to have.
//!
//! Kernel object: the table of open descriptors, of which each process has a copy, and which exec keeps but
//! for those that are marked. Man pages: close_range(2), execve(2), proc_pid_fd(5).

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use super::call;
use super::error::{Context, Result};
use super::folder::names_in;

/// Marks every descriptor above 2 close-on-exec, so that the command inherits only stdin, stdout and stderr.
/// A descriptor of a host directory would be a way out of the container.
///
/// # Errors
/// On kernels before 5.11, when `/proc` is not mounted.
pub fn close_descriptors_on_exec() -> Result<()> {
    // Marked, not closed: the socket on which a failure of exec is told must live until exec.
    let result = close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    match result {
        // ENOSYS: before 5.9. EINVAL: before 5.11, which brought the flag.
        Err(error) if matches!(error.errno(), Some(Errno::ENOSYS | Errno::EINVAL)) => {
            for descriptor in open_descriptors()? {
                // SAFETY: the call changes a flag of a descriptor and no memory.
                unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
            Ok(())
        }
        result => result,
    }
}

/// Lets the program have this open file, too: with it, the program has the lock on the file.
#[cfg(feature = "network")]
pub(crate) fn keep_open_in(command: &mut std::process::Command, open: BorrowedFd<'_>) {
    let number = open.as_raw_fd();
    let keep = move || {
        // SAFETY: the call changes a flag of a descriptor and no memory.
        Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
        Ok(())
    };
    // SAFETY: the closure makes one system call, which is async-signal-safe, and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, keep) };
}

/// Closes every descriptor above 2, for a process that goes on without exec: its copies of the runtime's
/// sockets, locks and directories. What owns one of them must not be used or dropped any more.
///
/// # Errors
/// On kernels before 5.9, when `/proc` is not mounted.
pub fn close_descriptors() -> Result<()> {
    close_all_but(None)
}

/// The same, but keeps some.
pub(crate) fn close_all_but<'a>(kept: impl IntoIterator<Item = BorrowedFd<'a>>) -> Result<()> {
    let mut kept: Vec<_> = kept.into_iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for number in kept.iter().map(|kept| kept.cast_unsigned()).filter(|&number| number > 2) {
        if first < number {
            close_range_or_each(first, number - 1)?;
        }
        first = number + 1;
    }
    close_range_or_each(first, libc::c_uint::MAX)
}

fn close_range_or_each(first: libc::c_uint, last: libc::c_uint) -> Result<()> {
    match close_range(first, last, 0) {
        Err(error) if error.errno() == Some(Errno::ENOSYS) => {
            let is_meant = |descriptor: &RawFd| (first..=last).contains(&descriptor.cast_unsigned());
            for descriptor in open_descriptors()?.into_iter().filter(is_meant) {
                // SAFETY: the caller said that nothing of this process uses it any more.
                unsafe { libc::close(descriptor) };
            }
            Ok(())
        }
        result => result,
    }
}

fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> Result<()> {
    call(
        "close_range(2)",
        || {
            let last = if last == libc::c_uint::MAX { "~0U".to_owned() } else { last.to_string() };
            let flags = if flags == 0 { "0" } else { "CLOSE_RANGE_CLOEXEC" };
            format!("close_range({first}, {last}, {flags})")
        },
        || {
            // SAFETY: the call touches no memory; the callers say why the descriptors may go.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
            Errno::result(result).map(drop)
        },
    )
}

/// The open descriptors above 2.
fn open_descriptors() -> Result<Vec<RawFd>> {
    let what = "reading /proc/self/fd to close the descriptors above 2";
    // A descriptor that is not read would stay open.
    let names = names_in("/proc/self/fd").context(what)?.into_iter();
    let numbers = names.filter_map(|name| name.to_str()?.parse().ok());
    Ok(numbers.filter(|&descriptor| descriptor > 2).collect())
}
