//! The life of the container's first process: clone, signals and terminal while it runs, its exit status, exec.
//!
//! Order: [`Signals::block`], [`clone`], [`Child::go`], [`Child::wait`]. The signals are blocked before the clone, so that not even a child that ends at once can end unseen.
//! See clone(2), pid_namespaces(7), signal(7), execve(2).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io::IsTerminal;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io, mem, ptr};

use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, setpgid, tcgetpgrp, tcsetpgrp};

use crate::error::{CANNOT_EXECUTE, Error, NOT_FOUND, Result, tell};
use crate::explain::{self, Turn};
use crate::handshake::{self, ChildEnd, ParentEnd};
use crate::syscall::{call, list, names};

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
        // A parent may have left SIGCHLD ignored. Then the kernel would throw away our child's exit status.
        // SAFETY: the default action is no handler that could break an invariant.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }
            .map_err(|errno| Error::from_errno("signal(SIGCHLD, SIG_DFL)", errno))?;
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

/// The child, seen from the parent. Dropped before it has ended, it is killed, and with it, as it is PID 1 of
/// its namespace, every process of the container.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    socket: ParentEnd,
    terminal: Terminal,
    ended: bool,
}

/// Makes a child in new namespaces, one for each flag, and lets it run `story`: its own side of the start, which
/// ends in [`exec`]. What the story fails at reaches the parent's [`Child::wait`].
///
/// With `cgroup`, a directory of cgroup v2, the child is born in that cgroup where the kernel can do so (5.7);
/// `story` is told whether it was. Moving it there later costs milliseconds: the kernel waits until no CPU
/// looks at the old state (an RCU grace period).
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`, EAGAIN at a limit of processes, ENOSPC at a limit of namespaces, ENOMEM.
pub fn clone(
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    story: impl FnOnce(&mut ChildEnd, bool) -> Result<Infallible>,
) -> Result<Child> {
    let (parent_end, mut child_end) = handshake::pair()?;
    let terminal = Terminal::look();
    let turn = Turn::take();
    let (pid, in_cgroup) = raw_clone(flags, cgroup)?;
    let Some(pid) = pid else {
        // The turn is the parent's: it tells of the clone.
        mem::forget(turn);
        explain::become_child();
        drop(parent_end);
        terminal.leave_group();
        let Err(error) = story(&mut child_end, in_cgroup);
        child_end.failed(&error);
        // No destructors and no buffers: both belong to the parent, of which this is a copy.
        // SAFETY: _exit(2) ends the process and touches none of its memory.
        unsafe { libc::_exit(error.status().into()) };
    };
    if let Some(turn) = turn {
        turn.line(clone_line(flags, in_cgroup), pid, "clone(2), namespaces(7)");
    }
    terminal.give_to(pid);
    Ok(Child { pid, socket: parent_end, terminal, ended: false })
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

impl Child {
    /// Lets the child begin. See [`ParentEnd::go`].
    ///
    /// # Errors
    /// When the child is dead already.
    pub fn go(&mut self) -> Result<()> {
        self.socket.go()
    }

    /// Waits for the command to end, passes signals on to it, and returns its status as a shell tells it: its
    /// exit status, or 128 + n when signal n ended it.
    ///
    /// PID 1 of a namespace gets only signals that it has a handler for, and SIGKILL and SIGSTOP from outside
    /// (pid_namespaces(7)). So who presses Ctrl-C in vain gets out by pressing it three times.
    ///
    /// # Errors
    /// What the child failed at before it became the command.
    pub fn wait(mut self, signals: &Signals) -> Result<u8> {
        let mut interrupts = 0;
        loop {
            let (signal, from_terminal) = signals.next()?;
            if signal == Signal::SIGCHLD {
                if let Some(status) = self.reap(WaitPidFlag::WNOHANG)? {
                    self.terminal.restore();
                    self.socket.failure()?;
                    return Ok(status);
                }
                continue;
            }
            if from_terminal && signal == Signal::SIGINT {
                interrupts += 1;
            }
            if interrupts == 3 {
                tell(format_args!("Ctrl-C three times: ending the container with SIGKILL"));
                self.send(Signal::SIGKILL);
            } else if from_terminal && signal == Signal::SIGHUP {
                // The terminal is gone, and nobody can reach the container any more.
                self.send(Signal::SIGKILL);
            } else if !from_terminal || !self.terminal.reaches_container {
                self.send(signal);
            }
        }
    }

    fn send(&self, signal: Signal) {
        // It may have ended in between: then SIGCHLD comes next.
        let sent = kill(self.pid, signal);
        let result = sent.err().map_or("0".into(), |errno| format!("-1 {errno:?}"));
        explain::line(format_args!("kill({}, {signal})", self.pid), result, "kill(2), pid_namespaces(7)");
    }

    fn reap(&mut self, flags: WaitPidFlag) -> Result<Option<u8>> {
        let status = loop {
            match waitpid(self.pid, Some(flags)) {
                Err(Errno::EINTR) => {}
                result => break result.map_err(|errno| Error::from_errno("waitpid", errno))?,
            }
        };
        let code = match status {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            _ => return Ok(None),
        };
        self.ended = true;
        let how = match status {
            WaitStatus::Signaled(_, signal, _) => signal.as_str(),
            _ => "exited",
        };
        explain::line(format_args!("wait4({})", self.pid), format_args!("{how}, status {code}"), "wait(2)");
        Ok(Some(code as u8))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            self.send(Signal::SIGKILL);
            let _ = self.reap(WaitPidFlag::empty());
            self.terminal.restore();
        }
    }
}

/// The terminal as it was before the container ran: its settings, and its foreground process group, which was
/// ours. `None` when the container is not the only one that uses it, as in `step0-basic ls | less`.
///
/// A shell with job control asks which process group has the terminal. Groups of the host have no number in the
/// container, so it must be one of the container's own: the child becomes the leader of a new group. The
/// runtime joins it, or it would not hear of a Ctrl-C. See setpgid(2), tcsetpgrp(3), credentials(7).
#[derive(Debug)]
struct Terminal {
    before: Option<(Termios, Pid)>,
    /// Whether what the terminal sends, such as a Ctrl-C, reaches the container without our help.
    reaches_container: bool,
}

impl Terminal {
    /// Looks before the clone: what comes after it, the child waits for.
    fn look() -> Terminal {
        let stdin = io::stdin();
        let Ok(foreground) = tcgetpgrp(&stdin) else {
            return Terminal { before: None, reaches_container: false };
        };
        let own_group = getpgrp();
        let interactive = io::stdout().is_terminal() && io::stderr().is_terminal() && foreground == own_group;
        let settings = if interactive { tcgetattr(&stdin).ok() } else { None };
        Terminal { before: settings.map(|settings| (settings, own_group)), reaches_container: true }
    }

    /// In the child: leaves our process group, where no terminal could cut it off for that. In our group, `kill 0` in
    /// the container would hit whoever called us: groups know no PID namespaces.
    fn leave_group(&self) {
        if !self.reaches_container {
            let itself = Pid::from_raw(0);
            let _ = call("setpgid(2)", || "setpgid(0, 0)".into(), || setpgid(itself, itself));
        }
    }

    /// In the parent: gives the terminal to the child and its new group, which we join.
    fn give_to(&self, child: Pid) {
        if self.before.is_none() {
            return;
        }
        // Ctrl-Z stops no PID 1 that does not want it to. If it stopped us, the user would see a shell's prompt
        // and a container that goes on.
        let _ = SigSet::from(Signal::SIGTSTP).thread_block();
        let join = |pid| {
            call("setpgid(2)", || format!("setpgid({pid}, {child})"), || setpgid(Pid::from_raw(pid), child))
        };
        let foreground =
            || call("tcsetpgrp(3)", || format!("tcsetpgrp(0, {child})"), || tcsetpgrp(io::stdin(), child));
        // A failure costs job control and no more: a session leader, say, cannot change its group.
        let _ = join(child.as_raw()).and_then(|()| foreground()).and_then(|()| join(0));
    }

    /// Gives the terminal back to the user's own shell, in a state that it can work with: a shell in the container
    /// may have died while another group had it, or in raw mode.
    fn restore(&self) {
        if let Some((settings, group)) = &self.before {
            let stdin = io::stdin();
            // The terminal may have been hung up meanwhile: then there is nothing to restore. If nobody else is
            // left in the old group, and it was not ours to name, a new one does as well.
            let this = Pid::from_raw(0);
            let _ = setpgid(this, *group).or_else(|_| setpgid(this, this));
            let _ = tcsetpgrp(&stdin, getpgrp());
            let _ = tcsetattr(&stdin, SetArg::TCSADRAIN, settings);
        }
    }
}

/// Marks every descriptor above 2 close-on-exec, so that the command inherits only stdin, stdout and stderr. A
/// descriptor of a host directory would be a way out of the container.
///
/// # Errors
/// On kernels before 5.11, when `/proc` is not mounted.
pub fn close_descriptors_on_exec() -> Result<()> {
    let result = call(
        "close_range(2)",
        || "close_range(3, ~0U, CLOSE_RANGE_CLOEXEC)".into(),
        || {
            // Marked, not closed: the socket on which a failure of exec is told must live until exec.
            // SAFETY: the call changes a flag of descriptors and no memory.
            let result = unsafe {
                libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
            };
            Errno::result(result).map(drop)
        },
    );
    match result {
        // ENOSYS: before 5.9. EINVAL: before 5.11, which brought the flag.
        Err(error) if matches!(error.errno(), Some(Errno::ENOSYS | Errno::EINVAL)) => mark_one_by_one(),
        result => result,
    }
}

fn mark_one_by_one() -> Result<()> {
    let what = "reading /proc/self/fd to close the descriptors above 2";
    for entry in fs::read_dir("/proc/self/fd").map_err(|error| Error::from_io(what, &error))? {
        let entry = entry.map_err(|error| Error::from_io(what, &error))?;
        if let Some(descriptor) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && descriptor > 2
        {
            // SAFETY: the call changes a flag of a descriptor and no memory.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// The variables of a command by name, and so sorted: the same options always give the same environment.
pub type Environment = BTreeMap<OsString, OsString>;

/// Becomes the command: execve(2). A name without `/` is looked for in the `PATH` of `environment`, as
/// execvp(3) does. Signals are as in a new process again.
///
/// # Errors
/// With Docker's exit status: 127 when there is no such command, 126 when it cannot be executed.
pub fn exec(command: &[OsString], environment: &Environment) -> Result<Infallible> {
    let name = command.first().map_or(OsStr::new(""), OsString::as_os_str);
    let file = find(name, environment)?;
    default_signals()?;

    let nul = |_| Error::new(format!("{name:?}: a NUL byte in an argument or in the environment"));
    let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(nul);
    let c_file = c_string(file.as_os_str().as_bytes().to_vec())?;
    let arguments = command.iter().map(|argument| c_string(argument.as_bytes().to_vec()));
    let arguments = arguments.collect::<Result<Vec<_>>>()?;
    let variables =
        environment.iter().map(|(key, value)| c_string([key.as_bytes(), b"=", value.as_bytes()].concat()));
    let variables = variables.collect::<Result<Vec<_>>>()?;
    let pointers = |strings: &[CString]| -> Vec<_> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };

    let line = || format!("execve({file:?}, {}, {} variables)", list(command), environment.len());
    // Told before it is done: nobody is left to tell it afterwards.
    explain::line(line(), "(the command runs)", "execve(2)");
    // SAFETY: both lists are null-terminated arrays of NUL-terminated strings that live until the call returns,
    // which it does only when it failed.
    unsafe { libc::execve(c_file.as_ptr(), pointers(&arguments).as_ptr(), pointers(&variables).as_ptr()) };
    Err(exec_failed(&file, line(), Errno::last()))
}

/// Undoes what a new program would inherit: the runtime's blocked signals, and signals that are ignored. The standard
/// library ignores SIGPIPE, and a shell cannot change what was ignored when it began: `yes | head -1` in it would
/// end with an error message.
fn default_signals() -> Result<()> {
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action is no handler that could break an invariant.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }
            .map_err(|errno| Error::from_errno(format!("signal({signal}, SIG_DFL)"), errno))?;
    }
    explain::line("sigaction(each signal, SIG_DFL)", 0, "sigaction(2)");
    call(
        "sigprocmask(2)",
        || "sigprocmask(SIG_SETMASK, [])".into(),
        || sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None),
    )
}

/// The file that a command's name means.
fn find(name: &OsStr, environment: &Environment) -> Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Ok(name.into());
    }
    let path = environment.get(OsStr::new("PATH")).map_or(&b""[..], |path| path.as_bytes());
    let candidates =
        path.split(|&byte| byte == b':').map(|folder| Path::new(OsStr::from_bytes(folder)).join(name));
    let there: Vec<_> = candidates.filter(|file| file.is_file()).collect();
    let executable = |file: &&PathBuf| nix::unistd::access(*file, nix::unistd::AccessFlags::X_OK).is_ok();
    // As a shell: the first that may be executed, else the first that is there, whose exec says why not.
    there.iter().find(executable).or(there.first()).cloned().ok_or_else(|| {
        Error::new(format!("{name:?}: command not found"))
            .hint(format!("looked in the container's PATH, {}", String::from_utf8_lossy(path)))
            .with_status(NOT_FOUND)
    })
}

fn exec_failed(file: &Path, line: String, errno: Errno) -> Error {
    let error = Error::from_errno(line, errno);
    match errno {
        Errno::ENOENT if file.exists() => error
            .hint("the file is there, but not the interpreter of its first line, or its dynamic loader")
            .with_status(NOT_FOUND),
        Errno::ENOENT | Errno::ENOTDIR => {
            error.hint("the container's root has no such file").with_status(NOT_FOUND)
        }
        Errno::EACCES if file.is_dir() => error.hint("it is a directory").with_status(CANNOT_EXECUTE),
        Errno::EACCES => error.hint("it has no execute permission: chmod +x").with_status(CANNOT_EXECUTE),
        Errno::ENOEXEC => error
            .hint("no program of this machine's architecture, and no \"#!\" line")
            .with_status(CANNOT_EXECUTE),
        _ => error.with_status(CANNOT_EXECUTE),
    }
}
