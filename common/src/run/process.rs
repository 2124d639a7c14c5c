//! The life of the container's first process: clone, signals while it runs, its exit status; and its exec.
//!
//! Order: [`Signals::block`], [`clone`], [`Child::go`], [`Child::attach`], [`Child::wait`]. The signals are
//! blocked before the clone, so that not even a child that ends at once can end unseen.
//! See clone(2), pid_namespaces(7), signal(7), execve(2).

mod ended;
mod exec;

use std::convert::Infallible;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use rustix::process::WaitOptions;

pub use ended::reap_any;
use ended::{killed_before_exec, reap};
pub use exec::{Environment, exec};

use crate::fs::cgroupfs::Cgroup;
use crate::run::handshake::{self, ChildEnd, ParentEnd};
use crate::run::terminal::{Relay, Terminal};
use crate::sys::call;
use crate::sys::clone::{self as sys, exit_now};
use crate::sys::error::{Error, RUNTIME_FAILED, Result, tell};
use crate::sys::explain;
use crate::sys::signal::{Arrived, block_reserved, heeds, is_ignored, set_default, set_of, wait_for};

pub use crate::sys::clone::fork;
pub use crate::sys::descriptors::{close_descriptors, close_descriptors_on_exec};
pub use crate::sys::memory::wipe_arguments_and_environment;
pub use crate::sys::signal::{SignalNumber, send};

/// The signals that are for the runtime itself. All others are passed on to the container, as Docker does.
const OWN: [Signal; 13] = [
    // No process can catch these two.
    Signal::SIGKILL,
    Signal::SIGSTOP,
    // A fault of the runtime's own. The kernel ends it then, even if it has blocked the signal.
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    // The runtime's own write, of which it hears by EPIPE.
    Signal::SIGPIPE,
    Signal::SIGCHLD,
    // With these a terminal and the caller's shell stop the runtime, as one of the shell's jobs.
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// The signals that a terminal, or the end of one, sends to all processes in its foreground.
const OF_TERMINAL: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGWINCH, Signal::SIGHUP, Signal::SIGCONT];

/// The signals that tell a process that it has reached a limit: a file's size, or CPU time.
const OF_LIMIT: [Signal; 2] = [Signal::SIGXFSZ, Signal::SIGXCPU];

fn is_own(signal: SignalNumber) -> bool {
    OWN.iter().any(|own| signal == *own)
}

/// The blocked signals that [`Child::wait`] waits for.
#[derive(Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Blocks SIGCHLD and the signals that are forwarded. From here on they wait for [`Child::wait`].
    /// Otherwise they would end the runtime, and it would leave the cgroup behind.
    ///
    /// # Errors
    /// None that the arguments can cause.
    pub fn block() -> Result<Signals> {
        // A user who starts the runtime with nohup(1) wants it to outlive the terminal.
        let nohup = is_ignored(Signal::SIGHUP);
        let forwarded = || SignalNumber::all().filter(|&it| !(is_own(it) || nohup && it == Signal::SIGHUP));
        let mut set = set_of(forwarded());
        set.add(Signal::SIGCHLD);
        // After the container's shell had the terminal, we write to it and take it back from the background.
        set.add(Signal::SIGTTOU);
        let open = || OWN.iter().filter(|&&it| !set.contains(it)).map(|it| it.as_str()).collect::<Vec<_>>();
        call(
            "sigprocmask(2)",
            || format!("sigprocmask(SIG_BLOCK, ~[{}])", open().join(" ")),
            || set.thread_block(),
        )?;
        block_reserved()?;
        set.remove(Signal::SIGTTOU);
        Ok(Signals(set))
    }

    /// Waits for the next of them.
    ///
    /// # Errors
    /// None that the arguments can cause.
    pub fn wait(&self) -> Result<SignalNumber> {
        self.wait_until(None).map(|arrived| arrived.map_or(SignalNumber::CHILD, |it| it.signal))
    }

    /// Waits for the next of them that is not about the runtime itself, at most until `deadline`.
    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<Arrived>> {
        loop {
            let arrived = wait_for(&self.0, deadline)?;
            // The runtime has met a limit. It goes on, and its write fails with EFBIG.
            let own_limit = |it: Arrived| {
                (it.from_kernel || it.from_itself) && OF_LIMIT.iter().any(|limit| it.signal == *limit)
            };
            if !arrived.is_some_and(own_limit) {
                return Ok(arrived);
            }
        }
    }
}

/// Refuses to go on without root, before anything on the host has changed.
///
/// # Errors
/// When the effective user is not root.
pub fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("not root: only root may make namespaces and control groups without a user namespace")
        .hint("run it with sudo; step4-users needs no root"))
}

/// Undoes what a parent may have left, SIGCHLD ignored: then the kernel would throw away how a child has
/// ended.
///
/// # Errors
/// None that can be caused.
pub(crate) fn heed_children() -> Result<()> {
    set_default(Signal::SIGCHLD)
}

/// The child, seen from the parent. Dropped before it has ended, it is killed, and with it, as it is PID 1 of
/// its namespace, every process of the container.
#[derive(Debug)]
pub struct Child<'a> {
    pid: Pid,
    parent_end: ParentEnd,
    terminal: &'a Terminal,
    relay: Option<Relay>,
    /// Whether it is PID 1 of a namespace of its own.
    is_first: bool,
    cgroup: Option<&'a Cgroup>,
    stop_signal: Option<SignalNumber>,
    stop_timeout: Option<Duration>,
    ended: bool,
}

/// Makes a child in new namespaces, one for each flag, and lets it run `story`: its own side of the start,
/// which ends in [`exec`]. What the story fails at reaches the parent's [`Child::wait`]. `terminal` says what
/// the child gets of the caller's terminal.
///
/// With `cgroup`, a directory of cgroup v2, the child is born in that cgroup where the kernel can do so
/// (5.7); [`ChildEnd::was_born_in_cgroup`] tells it. Moving it there later costs milliseconds: the kernel
/// waits until no CPU looks at the old state (an RCU grace period).
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`, EAGAIN at a limit of processes, ENOSPC at a limit of namespaces, ENOMEM.
pub fn clone<'a>(
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    terminal: &'a Terminal,
    story: impl FnOnce(&mut ChildEnd) -> Result<Infallible>,
) -> Result<Child<'a>> {
    let (parent_end, mut child_end) = handshake::pair()?;
    let cloned = sys::clone(flags, cgroup)?;
    let Some(pid) = cloned.child else {
        explain::become_child();
        drop(parent_end);
        if let Terminal::Shared(terminal) = terminal {
            terminal.leave_group();
        }
        child_end.set_born_in_cgroup(cloned.in_cgroup);
        let Err(error) = story(&mut child_end);
        child_end.failed(&error);
        exit_now(error.status());
    };
    if let Terminal::Shared(terminal) = terminal {
        terminal.give_to(pid);
    }
    let (relay, cgroup, stop_signal, stop_timeout) = (None, None, None, None);
    let is_first = flags.contains(CloneFlags::CLONE_NEWPID);
    Ok(Child { pid, parent_end, terminal, is_first, relay, cgroup, stop_signal, stop_timeout, ended: false })
}

impl<'a> Child<'a> {
    /// Its number on the host.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the child begin. See [`ParentEnd::go`].
    ///
    /// # Errors
    /// When the child is dead already.
    pub fn go(&mut self) -> Result<()> {
        self.parent_end.go()
    }

    /// Says that with the child all processes of this cgroup end. If the container has its own PID namespace,
    /// nothing is left to do: the kernel ends them before it tells of the child's end.
    pub fn ends_with(&mut self, cgroup: &'a Cgroup) {
        self.cgroup = Some(cgroup).filter(|_| !self.is_first);
    }

    /// Says which signal asks the command to end, where it is not SIGTERM: it gets that one instead. If there
    /// are several such wishes, the first one counts.
    pub fn stop_by(&mut self, signal: Option<SignalNumber>) {
        self.stop_signal = self.stop_signal.or(signal);
    }

    /// Says how long after that signal the container may go on. Then SIGKILL ends it. With `None` it may go
    /// on for ever.
    pub fn stop_within(&mut self, timeout: Option<Duration>) {
        self.stop_timeout = timeout;
    }

    /// If the child is to have a terminal, takes the main end of it, once the child has opened it. Begins to
    /// copy between it and the caller's terminal, which is raw from here on. Waits until the child has come
    /// so far.
    ///
    /// # Errors
    /// When there is no memory, or no descriptor, for it. If the child failed, [`wait`](Child::wait) tells at
    /// what.
    pub fn attach(&mut self) -> Result<()> {
        if let Terminal::Own(streams) = self.terminal
            && streams.any()
            && let Some(main) = self.parent_end.receive_descriptor()?
        {
            self.relay = Some(Relay::start(main, streams, self.pid)?);
        }
        Ok(())
    }

    /// Waits for the command to end and passes signals on to it. Returns its status as a shell tells it: its
    /// exit status, or 128 + n when signal n ended it.
    ///
    /// PID 1 of a namespace gets only signals that it has a handler for, and SIGKILL and SIGSTOP from outside
    /// (pid_namespaces(7)). So Ctrl-C may do nothing. A user who presses it three times gets out.
    ///
    /// # Errors
    /// The child's failure before it became the command, or the signal that ended it there.
    pub fn wait(mut self, signals: &Signals) -> Result<u8> {
        let mut interrupts = 0;
        let stop_signal = self.stop_signal.unwrap_or(Signal::SIGTERM.into());
        let mut deadline = None;
        loop {
            let Some(Arrived { signal, from_kernel, .. }) = signals.wait_until(deadline)? else {
                let seconds = self.stop_timeout.unwrap_or_default().as_secs();
                tell(format_args!("{seconds} s after {stop_signal}: ending the container with SIGKILL"));
                self.send(Signal::SIGKILL);
                deadline = None;
                continue;
            };
            let from_terminal = from_kernel && OF_TERMINAL.iter().any(|it| signal == *it);
            if signal == SignalNumber::CHILD {
                let killed = killed_before_exec(self.pid);
                if let Some(status) = self.reap(WaitOptions::NOHANG)? {
                    let shown = self.restore_terminal();
                    self.parent_end.failure()?;
                    return killed.map_or_else(|| Ok(status_of(status, shown)), Err);
                }
                continue;
            }
            if from_terminal && signal == Signal::SIGINT && !heeds(self.pid, Signal::SIGINT) {
                interrupts += 1;
            }
            if signal == Signal::SIGWINCH
                && let Some(relay) = &self.relay
            {
                relay.resize();
            } else if interrupts == 3 {
                tell(format_args!("Ctrl-C three times: ending the container with SIGKILL"));
                self.send(Signal::SIGKILL);
            } else if from_terminal && signal == Signal::SIGHUP {
                // The terminal is gone, and nobody can reach the container any more.
                self.send(Signal::SIGKILL);
            } else if signal == Signal::SIGTERM {
                self.send(stop_signal);
                let last = self.stop_timeout.and_then(|timeout| Instant::now().checked_add(timeout));
                deadline = deadline.or(last);
            } else if !from_terminal || !self.terminal.reaches_container() {
                self.send(signal);
            }
        }
    }

    fn send(&self, signal: impl Into<SignalNumber>) {
        send(self.pid, signal);
    }

    /// Ends the container's other processes, which could still change what the runtime is about to read,
    /// such as the layer for an image. Then gives the caller's terminal back as it was. The error says that
    /// the end of the container's output was lost.
    fn restore_terminal(&mut self) -> Result<()> {
        self.cgroup.iter().for_each(|cgroup| cgroup.end_processes());
        let shown = self.relay.take().map_or(Ok(()), Relay::end);
        if let Terminal::Shared(terminal) = self.terminal {
            terminal.restore();
        }
        shown
    }

    fn reap(&mut self, options: WaitOptions) -> Result<Option<u8>> {
        let Some((_, status)) = reap(Some(self.pid), options)? else { return Ok(None) };
        self.ended = true;
        explain::line(format_args!("wait4({})", self.pid), format_args!("status {status}"), "wait(2)");
        Ok(Some(status))
    }
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.send(Signal::SIGKILL);
            let _ = self.reap(WaitOptions::empty());
            let _ = self.restore_terminal();
        }
    }
}

/// The runtime's status, by the command's and whether all that it wrote could be shown. That is reported
/// only: what the container has made may still be wanted, as by `--commit`.
fn status_of(status: u8, shown: Result<()>) -> u8 {
    match shown {
        Ok(()) => status,
        Err(error) => {
            tell(format_args!("congo: {error}"));
            RUNTIME_FAILED
        }
    }
}
