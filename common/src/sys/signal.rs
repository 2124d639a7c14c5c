//! Signals: waiting for them, and what a process does about them.
//!
//! Kernel objects: for each process a mask of blocked signals, and for each signal an action. Both pass to a
//! child, and through exec, except that a handler becomes the default action. Man pages: signal(7),
//! sigwaitinfo(2), sigaction(2).

use std::fmt;
use std::time::{Duration, Instant};
use std::{fs, mem, ptr};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid};

use super::error::{Context, Error, Result};
use super::explain;
use super::short::read_text;

/// A signal by its number. nix's `Signal` has no real-time ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignalNumber(libc::c_int);

impl SignalNumber {
    /// SIGCHLD: a child has ended.
    pub const CHILD: SignalNumber = SignalNumber(libc::SIGCHLD);

    /// The signal of this number, if a program can have it. The C library keeps those between the classic and
    /// the real-time ones for itself.
    pub fn new(number: i32) -> Option<SignalNumber> {
        let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
        let known = Signal::try_from(number).is_ok() || real_time.contains(&number);
        known.then_some(SignalNumber(number))
    }

    /// All signals of this system, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = SignalNumber> {
        (1..=libc::SIGRTMAX()).filter_map(SignalNumber::new)
    }

    /// The real-time signal `above` places above SIGRTMIN, if there are so many.
    pub fn real_time(above: i32) -> Option<SignalNumber> {
        let number = libc::SIGRTMIN().checked_add(above).filter(|_| above >= 0)?;
        SignalNumber::new(number)
    }

    /// How many real-time signals there are above SIGRTMIN.
    pub fn real_time_above() -> i32 {
        libc::SIGRTMAX() - libc::SIGRTMIN()
    }
}

impl From<Signal> for SignalNumber {
    fn from(signal: Signal) -> SignalNumber {
        SignalNumber(signal as libc::c_int)
    }
}

impl PartialEq<Signal> for SignalNumber {
    fn eq(&self, other: &Signal) -> bool {
        self.0 == *other as libc::c_int
    }
}

/// As signal(7) names it: `SIGTERM`, `SIGRTMIN+3`.
impl fmt::Display for SignalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (Signal::try_from(self.0), self.0 - libc::SIGRTMIN()) {
            (Ok(signal), _) => f.write_str(signal.as_str()),
            (Err(_), 0) => f.write_str("SIGRTMIN"),
            (Err(_), above) => write!(f, "SIGRTMIN+{above}"),
        }
    }
}

/// The set of these signals.
pub(crate) fn set_of(signals: impl IntoIterator<Item = SignalNumber>) -> SigSet {
    // SAFETY: sigemptyset makes the set valid, and the numbers are those of signals.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for SignalNumber(number) in signals {
            libc::sigaddset(&raw mut set, number);
        }
        SigSet::from_sigset_t_unchecked(set)
    }
}

/// Blocks the signals between the classic and the real-time ones. The C library sends them from one thread of
/// a process to another, and keeps them out of each set of its own. From outside they would end this process.
/// Only the kernel's own call can block them: rt_sigprocmask(2).
///
/// # Errors
/// None that can be caused.
pub(crate) fn block_reserved() -> Result<()> {
    let last_classic = libc::SIGSYS;
    let reserved = (last_classic + 1..libc::SIGRTMIN()).fold(0, |set, number| set | 1_u64 << (number - 1));
    let (how, none) = (libc::SIG_BLOCK, ptr::null_mut::<u64>());
    // SAFETY: the kernel reads a set of eight bytes, and writes none where there is no place for one.
    let blocked = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const reserved, none, mem::size_of::<u64>())
    };
    Errno::result(blocked).map(drop).context("rt_sigprocmask(SIG_BLOCK, the C library's own)")
}

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Which one.
    pub(crate) signal: SignalNumber,
    /// Whether the kernel sent it: for a terminal, say, of which somebody pressed Ctrl-C.
    pub(crate) from_kernel: bool,
    /// Whether this process caused it itself: by a write above its limit, say.
    pub(crate) from_itself: bool,
}

/// Waits for the next of these signals, which must be blocked; `None` when none has come until `deadline`.
/// sigwaitinfo(2), sigtimedwait(2).
///
/// # Errors
/// None that the arguments can cause.
pub(crate) fn wait_for(signals: &SigSet, deadline: Option<Instant>) -> Result<Option<Arrived>> {
    loop {
        let left = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        // SAFETY: a siginfo_t of zeroes is valid, and the kernel writes no more than one. The sender's number
        // is read only where there is one.
        let (number, info) = unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            let limit = left.as_ref().map_or(ptr::null(), ptr::from_ref);
            (libc::sigtimedwait(signals.as_ref(), &raw mut info, limit), info)
        };
        match (number, Errno::last()) {
            (1.., _) => {
                let from_kernel = info.si_code == libc::SI_KERNEL;
                // SAFETY: SI_USER says that there is a sender.
                let from_itself =
                    info.si_code == libc::SI_USER && unsafe { info.si_pid() } == getpid().as_raw();
                return Ok(Some(Arrived { signal: SignalNumber(number), from_kernel, from_itself }));
            }
            (_, Errno::EAGAIN) => return Ok(None),
            (_, Errno::EINTR) => {}
            (_, errno) => return Err(Error::from_errno("sigtimedwait", errno)),
        }
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    let seconds = duration.as_secs().try_into().unwrap_or(libc::time_t::MAX);
    libc::timespec { tv_sec: seconds, tv_nsec: duration.subsec_nanos().into() }
}

/// Sets a signal's default action: sigaction(2).
///
/// # Errors
/// EINVAL for SIGKILL and SIGSTOP, which have no other.
pub(crate) fn set_default(signal: impl Into<SignalNumber>) -> Result<()> {
    let signal = signal.into();
    // SAFETY: the default action is no handler that could break an invariant.
    let before = unsafe { libc::signal(signal.0, libc::SIG_DFL) };
    Errno::result(before).map(drop).context(format_args!("signal({signal}, SIG_DFL)"))
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

/// The signals that this thread ignores; `None` when `/proc` does not tell.
pub(crate) fn ignored() -> Option<Vec<SignalNumber>> {
    let status = read_text("/proc/thread-self/status").ok()?;
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let set = u64::from_str_radix(set.trim(), 16).ok()?;
    Some(SignalNumber::all().filter(|signal| set >> (signal.0 - 1) & 1 == 1).collect())
}

/// Sends a signal. That the process may have ended is no failure: SIGCHLD comes next.
pub fn send(process: Pid, signal: impl Into<SignalNumber>) {
    let signal = signal.into();
    // SAFETY: sending a signal touches no memory of this process.
    let sent = Errno::result(unsafe { libc::kill(process.as_raw(), signal.0) });
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

/// Lets the kernel kill the program when the thread that starts it ends, and so when this process is killed.
#[cfg(feature = "network")]
pub(crate) fn end_with_parent(command: &mut std::process::Command) {
    let parent = nix::unistd::getpid();
    let ask = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the request.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: the closure makes two system calls, which are async-signal-safe, and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, ask) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_the_name_of_the_man_page() {
        let names = [(1, "SIGHUP"), (15, "SIGTERM"), (31, "SIGSYS")];
        for (number, name) in names {
            assert_eq!(SignalNumber::new(number).unwrap().to_string(), name);
        }
        assert_eq!(SignalNumber::real_time(0).unwrap().to_string(), "SIGRTMIN");
        assert_eq!(SignalNumber::real_time(3).unwrap().to_string(), "SIGRTMIN+3");
        for number in [i32::MIN, -1, 0, 32, libc::SIGRTMIN() - 1, libc::SIGRTMAX() + 1, i32::MAX] {
            assert_eq!(SignalNumber::new(number), None, "{number}");
        }
        assert_eq!(SignalNumber::real_time(-1), None);
        assert_eq!(SignalNumber::real_time(i32::MAX), None);
    }

    #[test]
    fn what_the_c_library_keeps_for_itself_ends_nobody() {
        // A process of its own, as a signal ends all threads.
        let ended_by = |signal: libc::c_int, blocked: bool| {
            // SAFETY: the child makes system calls alone, and ends.
            let child = unsafe {
                match libc::fork() {
                    0 => {
                        // The process that began the tests may ignore it: rt_sigaction(2), SIG_DFL.
                        let default = [0_u64; 4];
                        let none = ptr::null_mut::<u64>();
                        libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8);
                        if blocked {
                            let _ = block_reserved();
                        }
                        libc::syscall(libc::SYS_kill, libc::getpid(), signal);
                        libc::_exit(0)
                    }
                    child => child,
                }
            };
            let child = rustix::process::Pid::from_raw(child);
            let ended = rustix::process::waitpid(child, rustix::process::WaitOptions::empty());
            ended.unwrap().unwrap().1.terminating_signal()
        };
        for signal in libc::SIGSYS + 1..libc::SIGRTMIN() {
            assert_eq!((ended_by(signal, true), ended_by(signal, false)), (None, Some(signal)));
        }
    }

    #[test]
    fn real_time_signals_are_waited_for_with_and_without_a_deadline() {
        // The mask is this thread's, and the signal goes to it alone.
        let signal = SignalNumber::real_time(5).unwrap();
        let set = set_of([signal]);
        set.thread_block().unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(20));
        assert_eq!(wait_for(&set, soon()), Ok(None));
        // SAFETY: the signal is blocked.
        unsafe { libc::raise(signal.0) };
        let arrived = wait_for(&set, soon()).unwrap().unwrap();
        assert_eq!((arrived.signal, arrived.from_kernel), (signal, false));
        // SAFETY: the same.
        unsafe { libc::raise(signal.0) };
        assert_eq!(wait_for(&set, None).unwrap().unwrap().signal, signal);
    }
}
