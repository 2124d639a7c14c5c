//! The life of the container's first process: clone, signals while it runs, its exit status; and its exec.
//!
//! Order: [`Signals::block`], [`clone`], [`Child::go`], [`Child::attach`], [`Child::wait`]. The signals are blocked before
//! the clone, so that not even a child that ends at once can end unseen.
//! See clone(2), pid_namespaces(7), signal(7), execve(2).

mod descriptors;
mod ended;
mod exec;

use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{fs, mem, ptr};

use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

pub(crate) use descriptors::close_all_but;
pub use descriptors::{close_descriptors, close_descriptors_on_exec};
pub use ended::reap_any;
use ended::{killed_before_exec, shell_status};
pub use exec::{Environment, exec};

use crate::run::handshake::{self, ChildEnd, ParentEnd};
use crate::run::terminal::{Relay, Terminal};
use crate::sys::error::{Context, Error, Result, tell};
use crate::sys::explain::{self, Turn};
use crate::sys::{call, names};

/// The signals that are passed on to the container.
const FORWARDED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// clone3(2). `libc` has it in a type that is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The blocked signals that [`Child::wait`] waits for.
#[derive(Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Blocks the signals that are forwarded, and SIGCHLD: from here on they wait for [`Child::wait`] instead
    /// of ending the runtime, which would leave the cgroup behind.
    ///
    /// # Errors
    /// None that the arguments can cause.
    pub fn block() -> Result<Signals> {
        // Who starts us with nohup(1) wants us to outlive the terminal.
        let nohup = ignores(Signal::SIGHUP);
        let mut set: SigSet = FORWARDED.into_iter().filter(|&it| it != Signal::SIGHUP || !nohup).collect();
        set.add(Signal::SIGCHLD);
        // After the container's shell had the terminal, we write to it and take it back from the background.
        set.add(Signal::SIGTTOU);
        call(
            "sigprocmask(2)",
            || format!("sigprocmask(SIG_BLOCK, [{}])", names(set.iter().map(Signal::as_str))),
            || set.thread_block(),
        )?;
        set.remove(Signal::SIGTTOU);
        Ok(Signals(set))
    }

    /// Waits for the next of them.
    ///
    /// # Errors
    /// None that the arguments can cause.
    pub fn wait(&self) -> Result<Signal> {
        self.next().map(|(signal, _)| signal)
    }

    /// The next signal, and whether the terminal sent it.
    fn next(&self) -> Result<(Signal, bool)> {
        loop {
            // SAFETY: a siginfo_t of zeroes is valid, and the kernel writes no more than one.
            let (number, info) = unsafe {
                let mut info: libc::siginfo_t = mem::zeroed();
                (libc::sigwaitinfo(self.0.as_ref(), &raw mut info), info)
            };
            match Signal::try_from(number) {
                Ok(signal) => return Ok((signal, info.si_code == libc::SI_KERNEL)),
                Err(_) if Errno::last() == Errno::EINTR => {}
                Err(_) => return Err(Error::from_errno("sigwaitinfo", Errno::last())),
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

/// Undoes what a parent may have left, SIGCHLD ignored: then the kernel would throw away how a child has ended.
///
/// # Errors
/// None that can be caused.
pub(crate) fn heed_children() -> Result<()> {
    // SAFETY: the default action is no handler that could break an invariant.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map(drop).context("signal(SIGCHLD, SIG_DFL)")
}

/// Whether a signal is ignored, as our parent left it.
fn ignores(signal: Signal) -> bool {
    // SAFETY: a sigaction of zeroes is valid, and the call only writes what is set now into it.
    let action = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal as libc::c_int, ptr::null(), &raw mut action);
        action
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// Whether a process does something about a signal: it has a handler, or has it blocked in order to wait for it.
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

/// Makes a copy of this process, which must have one thread: fork(2). Returns the copy's pid, and `None` in the copy.
///
/// # Errors
/// EAGAIN at a limit of processes, ENOMEM.
pub fn fork() -> Result<Option<Pid>> {
    let turn = Turn::take();
    // SAFETY: with one thread, no lock is held by another one that the copy does not have.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Child) => {
            // The turn is the parent's: it tells of the fork.
            mem::forget(turn);
            Ok(None)
        }
        Ok(ForkResult::Parent { child }) => {
            if let Some(turn) = turn {
                turn.line("fork()", child, "fork(2)");
            }
            Ok(Some(child))
        }
        Err(errno) => Err(Error::from_errno("fork()", errno)
            .hint("a limit of processes is reached: ulimit -u, pids.max, or kernel.pid_max")),
    }
}

/// The child, seen from the parent. Dropped before it has ended, it is killed, and with it, as it is PID 1 of
/// its namespace, every process of the container.
#[derive(Debug)]
pub struct Child<'a> {
    pid: Pid,
    socket: ParentEnd,
    terminal: &'a Terminal,
    relay: Option<Relay>,
    stop_signal: Signal,
    ended: bool,
}

/// Makes a child in new namespaces, one for each flag, and lets it run `story`: its own side of the start, which
/// ends in [`exec`]. What the story fails at reaches the parent's [`Child::wait`]. `terminal` says what the child gets of
/// the caller's terminal.
///
/// With `cgroup`, a directory of cgroup v2, the child is born in that cgroup where the kernel can do so (5.7);
/// [`ChildEnd::was_born_in_cgroup`] tells it. Moving it there later costs milliseconds: the kernel waits until no CPU
/// looks at the old state (an RCU grace period).
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
    let turn = Turn::take();
    let (pid, in_cgroup) = raw_clone(flags, cgroup)?;
    let Some(pid) = pid else {
        // The turn is the parent's: it tells of the clone.
        mem::forget(turn);
        explain::become_child();
        drop(parent_end);
        if let Terminal::Shared(terminal) = terminal {
            terminal.leave_group();
        }
        child_end.set_born_in_cgroup(in_cgroup);
        let Err(error) = story(&mut child_end);
        child_end.failed(&error);
        // No destructors and no buffers: both belong to the parent, of which this is a copy.
        // SAFETY: _exit(2) ends the process and touches none of its memory.
        unsafe { libc::_exit(error.status().into()) };
    };
    if let Some(turn) = turn {
        turn.line(clone_line(flags, in_cgroup), pid, "clone(2), namespaces(7)");
    }
    if let Terminal::Shared(terminal) = terminal {
        terminal.give_to(pid);
    }
    Ok(Child { pid, socket: parent_end, terminal, relay: None, stop_signal: Signal::SIGTERM, ended: false })
}

fn clone_line(flags: CloneFlags, in_cgroup: bool) -> String {
    let flags = names(flags.iter_names().map(|(name, _)| name).chain(["SIGCHLD"]));
    if in_cgroup { format!("clone3({flags}, CLONE_INTO_CGROUP)") } else { format!("clone({flags})") }
}

/// Forks into new namespaces. Returns the child's pid, or `None` in the child; and whether the child was born in
/// `cgroup`.
fn raw_clone(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> Result<(Option<Pid>, bool)> {
    let fork = |pid: libc::c_long| match Errno::result(pid) {
        Ok(0) => Ok(None),
        Ok(pid) => Ok(Some(Pid::from_raw(pid as libc::pid_t))),
        Err(errno) => Err(errno),
    };
    let flags_only = u64::from(flags.bits().cast_unsigned());
    if let Some(cgroup) = cgroup {
        // SAFETY: every field may be zero.
        let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
        arguments.flags = flags_only | CLONE_INTO_CGROUP;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
        // SAFETY: without CLONE_VM this is a fork: the child goes on with a copy of all memory and this stack.
        // This process has one thread, so no lock is held by another one that the child does not have.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
        match fork(pid) {
            // ENOSYS: no clone3 (before 5.3, or forbidden by a seccomp filter of a container around us).
            // E2BIG, EINVAL: no CLONE_INTO_CGROUP yet (before 5.7).
            Err(Errno::ENOSYS | Errno::E2BIG | Errno::EINVAL) => {}
            result => return result.map(|pid| (pid, true)).map_err(|errno| clone_failed(flags, true, errno)),
        }
    }
    let flags_and_signal = flags_only | libc::SIGCHLD as u64;
    // SAFETY: as above. A null stack means "a copy of mine"; the other arguments belong to flags not given.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags_and_signal, 0, 0, 0, 0) };
    fork(pid).map(|pid| (pid, false)).map_err(|errno| clone_failed(flags, false, errno))
}

fn clone_failed(flags: CloneFlags, in_cgroup: bool, errno: Errno) -> Error {
    let error = Error::from_errno(clone_line(flags, in_cgroup), errno);
    match errno {
        Errno::EPERM => error.hint("new namespaces need root, or the container around us forbids them"),
        Errno::ENOSPC => error.hint("a limit in /proc/sys/user/max_*_namespaces is reached"),
        Errno::EAGAIN => {
            error.hint("a limit of processes is reached: ulimit -u, pids.max, or kernel.pid_max")
        }
        Errno::EINVAL => error.hint("this kernel was built without one of these namespaces"),
        _ => error,
    }
}

impl Child<'_> {
    /// Its number on the host.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the child begin. See [`ParentEnd::go`].
    ///
    /// # Errors
    /// When the child is dead already.
    pub fn go(&mut self) -> Result<()> {
        self.socket.go()
    }

    /// Says which signal asks the command to end, where it is not SIGTERM: it gets that one instead.
    pub fn stop_by(&mut self, signal: Option<Signal>) {
        self.stop_signal = signal.unwrap_or(Signal::SIGTERM);
    }

    /// Takes the main end of the terminal that the child opens, if it is to have one, and begins to copy between it and
    /// the caller's, which is raw from here on. Waits until the child has come so far.
    ///
    /// # Errors
    /// When there is no memory, or no descriptor, for it. What the child failed at, [`wait`](Child::wait) tells.
    pub fn attach(&mut self) -> Result<()> {
        if let Terminal::Own(streams) = self.terminal
            && streams.any()
            && let Some(main) = self.socket.receive_descriptor()?
        {
            self.relay = Some(Relay::start(main, streams, self.pid)?);
        }
        Ok(())
    }

    /// Waits for the command to end, passes signals on to it, and returns its status as a shell tells it: its
    /// exit status, or 128 + n when signal n ended it.
    ///
    /// PID 1 of a namespace gets only signals that it has a handler for, and SIGKILL and SIGSTOP from outside
    /// (pid_namespaces(7)). So who presses Ctrl-C in vain gets out by pressing it three times.
    ///
    /// # Errors
    /// What the child failed at before it became the command, or the signal that ended it there.
    pub fn wait(mut self, signals: &Signals) -> Result<u8> {
        let mut interrupts = 0;
        loop {
            let (signal, from_terminal) = signals.next()?;
            if signal == Signal::SIGCHLD {
                let killed = killed_before_exec(self.pid);
                if let Some(status) = self.reap(WaitPidFlag::WNOHANG)? {
                    self.restore_terminal();
                    self.socket.failure()?;
                    return killed.map_or(Ok(status), Err);
                }
                continue;
            }
            if from_terminal && signal == Signal::SIGINT && !heeds(self.pid, signal) {
                interrupts += 1;
            }
            if let (Signal::SIGWINCH, Some(relay)) = (signal, &self.relay) {
                relay.resize();
            } else if interrupts == 3 {
                tell(format_args!("Ctrl-C three times: ending the container with SIGKILL"));
                self.send(Signal::SIGKILL);
            } else if from_terminal && signal == Signal::SIGHUP {
                // The terminal is gone, and nobody can reach the container any more.
                self.send(Signal::SIGKILL);
            } else if signal == Signal::SIGTERM {
                self.send(self.stop_signal);
            } else if !from_terminal || !self.terminal.reaches_container() {
                self.send(signal);
            }
        }
    }

    fn send(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// Gives the caller's terminal back as it was.
    fn restore_terminal(&mut self) {
        self.relay = None;
        if let Terminal::Shared(terminal) = self.terminal {
            terminal.restore();
        }
    }

    fn reap(&mut self, flags: WaitPidFlag) -> Result<Option<u8>> {
        let status = loop {
            match waitpid(self.pid, Some(flags)) {
                Err(Errno::EINTR) => {}
                result => break result.context("waitpid")?,
            }
        };
        let Some(code) = shell_status(status) else { return Ok(None) };
        self.ended = true;
        let how = match status {
            WaitStatus::Signaled(_, signal, _) => signal.as_str(),
            _ => "exited",
        };
        explain::line(format_args!("wait4({})", self.pid), format_args!("{how}, status {code}"), "wait(2)");
        Ok(Some(code))
    }
}

/// Sends a signal. That the process may have ended is no failure: SIGCHLD comes next.
pub fn send(process: Pid, signal: Signal) {
    let sent = kill(process, signal);
    let result = sent.err().map_or("0".into(), |errno| format!("-1 {errno:?}"));
    explain::line(format_args!("kill({process}, {signal})"), result, "kill(2), pid_namespaces(7)");
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.send(Signal::SIGKILL);
            let _ = self.reap(WaitPidFlag::empty());
            self.restore_terminal();
        }
    }
}

/// Writes zeroes over this process's arguments and variables, as they lie in its memory since its own exec, and `name` in
/// their place: `/proc/PID/cmdline` and `/proc/PID/environ` show that memory. For a process that needs none of them any more.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn wipe_arguments_and_environment(name: &str) -> Result<()> {
    let stat = fs::read_to_string("/proc/self/stat");
    let stat = stat.context("reading /proc/self/stat")?;
    // After the name in brackets, which may hold anything: fields 48 to 51 of proc_pid_stat(5).
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(45);
    let addresses: Vec<usize> = fields.take(4).filter_map(|field| field.parse().ok()).collect();
    // As much of it as the first argument has room for; of the variables nothing is left.
    for (range, name) in addresses.chunks_exact(2).zip([name, ""]) {
        if range[0] == 0 || range[1] <= range[0] {
            continue;
        }
        // SAFETY: the kernel put the arguments, or the variables, between these addresses, on the stack above all frames; nobody in this
        // process, which has one thread, holds a reference into them.
        unsafe { ptr::write_bytes(range[0] as *mut u8, 0, range[1] - range[0]) };
        let length = name.len().min(range[1] - range[0] - 1);
        // SAFETY: within what was written just now.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr(), range[0] as *mut u8, length) };
    }
    Ok(())
}
