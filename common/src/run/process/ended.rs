//! How a process has ended.
//!
//! Kernel object: a process that has ended and for which nobody has waited yet, a zombie. It is still in
//! `/proc`.
//! Man pages: wait(2), proc_pid_stat(5).

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::sys::error::{Error, Result};

/// Of the flags in `/proc/PID/stat`: forked, and not executed anything since. linux/sched.h.
const PF_FORKNOEXEC: u64 = 0x40;

/// How a process ended, as a shell tells it; `None` if it has not.
pub(super) fn shell_status(status: WaitStatus) -> Option<u8> {
    let code = match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => return None,
    };
    Some(code as u8)
}

/// Takes note of a child that has ended: its pid, and how it ended, as a shell tells it. `None` when none
/// has.
///
/// # Errors
/// None that can be caused.
pub fn reap_any() -> Result<Option<(Pid, u8)>> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => Ok(status.pid().zip(shell_status(status))),
        Err(Errno::ECHILD) => Ok(None),
        Err(errno) => Err(Error::from_errno("waitpid(-1)", errno)),
    }
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
