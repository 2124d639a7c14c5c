//! Signals: waiting for them, and what a process does about them.
//!
//! Kernel objects: for each process a mask of blocked signals, and for each signal an action. Both pass to a
//! child, and through exec, except that a handler becomes the default action. Man pages: signal(7),
//! sigwaitinfo(2), sigaction(2).

use std::{fs, mem, ptr};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill};
use nix::unistd::Pid;

use super::error::{Context, Error, Result};
use super::explain;

/// Waits for the next of these signals, which must be blocked, and says whether the kernel sent it: a
/// terminal, say, of which somebody pressed Ctrl-C. sigwaitinfo(2).
///
/// # Errors
/// None that the arguments can cause.
pub(crate) fn wait_for(signals: &SigSet) -> Result<(Signal, bool)> {
    loop {
        // SAFETY: a siginfo_t of zeroes is valid, and the kernel writes no more than one.
        let (number, info) = unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            (libc::sigwaitinfo(signals.as_ref(), &raw mut info), info)
        };
        match Signal::try_from(number) {
            Ok(signal) => return Ok((signal, info.si_code == libc::SI_KERNEL)),
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => return Err(Error::from_errno("sigwaitinfo", Errno::last())),
        }
    }
}

/// Sets a signal's default action: sigaction(2).
///
/// # Errors
/// EINVAL for SIGKILL and SIGSTOP, which have no other.
pub(crate) fn set_default(signal: Signal) -> Result<()> {
    // SAFETY: the default action is no handler that could break an invariant.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }
        .map(drop)
        .context(format_args!("signal({signal}, SIG_DFL)"))
}

/// Whether a signal is ignored, as our parent left it.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    // SAFETY: a sigaction of zeroes is valid, and the call only writes what is set now into it.
    let action = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal as libc::c_int, ptr::null(), &raw mut action);
        action
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// Those of the signals that end a program by which a user or a service manager asks it to end.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Those that this thread has blocked and does not ignore. They do not end it, so where it waits for others,
/// it has to look whether one of them [is pending](pending_of).
pub(crate) fn blocked_endings() -> Vec<Signal> {
    let blocked = SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty());
    ENDING.into_iter().filter(|&signal| blocked.contains(signal) && !is_ignored(signal)).collect()
}

/// The first of these signals that was sent to this process, or thread, and is blocked: sigpending(2).
pub(crate) fn pending_of(signals: &[Signal]) -> Option<Signal> {
    // SAFETY: a sigset_t of zeroes is valid, and the call writes no more than one.
    let pending = unsafe {
        let mut pending: libc::sigset_t = mem::zeroed();
        libc::sigpending(&raw mut pending);
        pending
    };
    // SAFETY: the set is valid, and the numbers are those of signals.
    signals
        .iter()
        .copied()
        .find(|&signal| unsafe { libc::sigismember(&raw const pending, signal as i32) } == 1)
}

/// Whether a process does something about a signal: it has a handler, or has it blocked in order to wait for
/// it.
pub(crate) fn heeds(process: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let bit = 1 << (signal as u64 - 1);
    status.lines().filter_map(|line| line.strip_prefix("SigCgt:").or(line.strip_prefix("SigBlk:"))).any(
        |set| {
            let set = u64::from_str_radix(set.trim(), 16).unwrap_or(0);
            set & bit != 0
        },
    )
}

/// Sends a signal. That the process may have ended is no failure: SIGCHLD comes next.
pub fn send(process: Pid, signal: Signal) {
    let sent = kill(process, signal);
    let result = sent.err().map_or("0".into(), |errno| format!("-1 {errno:?}"));
    explain::line(format_args!("kill({process}, {signal})"), result, "kill(2), pid_namespaces(7)");
}

/// Lets the program get all signals. The runtime blocks SIGINT, SIGTERM and others, and a program that
/// inherits that could be ended only with SIGKILL.
#[cfg(feature = "network")]
pub(crate) fn unblock_in(command: &mut std::process::Command) {
    let unblock = || Ok(SigSet::empty().thread_set_mask()?);
    // SAFETY: the closure makes one system call, which is async-signal-safe, and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, unblock) };
}
