//! How a process has ended.
//!
//! Kernel object: a process that has ended and for which nobody has waited yet, a zombie. It is still in
//! `/proc`.
//! Man pages: wait(2), proc_pid_stat(5).

use std::fs;

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{self, WaitOptions};

use crate::sys::error::{Context, Error, Result};

/// Of the flags in `/proc/PID/stat`: forked, and not executed anything since. linux/sched.h.
const PF_FORKNOEXEC: u64 = 0x40;

/// How a process ended, as a shell tells it; `None` if it has not.
fn shell_status(status: process::WaitStatus) -> Option<u8> {
    // By its number: it may be a real-time signal, of which nix's `waitpid` would only say EINVAL.
    let by_signal = status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or(by_signal).map(|code| code as u8)
}

/// Takes note of a child that has ended, this one or any: its pid, and how it ended, as a shell tells it.
/// `None` when none has, and `options` does not wait.
///
/// # Errors
/// ECHILD when there is no such child.
pub(super) fn reap(child: Option<Pid>, options: WaitOptions) -> Result<Option<(Pid, u8)>> {
    let id = child.and_then(|pid| process::Pid::from_raw(pid.as_raw()));
    loop {
        let waited = match id {
            Some(_) => process::waitpid(id, options),
            None => process::wait(options),
        };
        match waited {
            Err(Errno::INTR) => {}
            // As for a child that goes on.
            Err(Errno::CHILD) if child.is_none() => return Ok(None),
            waited => {
                let ended = waited.context("waitpid")?;
                let of = |(pid, status): (process::Pid, _)| {
                    Some((Pid::from_raw(pid.as_raw_pid()), shell_status(status)?))
                };
                return Ok(ended.and_then(of));
            }
        }
    }
}

/// Takes note of a child that has ended: its pid, and how it ended, as a shell tells it. `None` when none
/// has.
///
/// # Errors
/// None that can be caused.
pub fn reap_any() -> Result<Option<(Pid, u8)>> {
    reap(None, WaitOptions::NOHANG)
}

/// The signal that has ended a copy of the runtime which was to become a command, as the error that it is.
/// Its exit status alone could be the command's. But SIGKILL is somebody's wish, or the end of the memory, of
/// which the cgroup tells.
pub(super) fn killed_before_exec(child: Pid) -> Option<Error> {
    // WNOWAIT: it stays a zombie.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let Ok(WaitStatus::Signaled(_, signal, _)) = waitid(Id::Pid(child), look) else { return None };
    if signal == Signal::SIGKILL || !is_before_exec(child) {
        return None;
    }
    Some(Error::new(format!("{signal} ended the runtime in the container")).hint(
        "a seccomp profile has to let through what the runtime still does: execve(2); more with --init, or \
         with no-new-privileges=false",
    ))
}

fn is_before_exec(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // After the name in brackets, which may hold anything: field 9.
    let flags =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_FORKNOEXEC != 0)
}
