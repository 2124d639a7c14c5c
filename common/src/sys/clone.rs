//! How a process comes into being: clone(2) with new namespaces, and fork(2).
//!
//! # Why the child of a clone is PID 1
//!
//! A process keeps its PID for as long as it lives, because other processes know it by that number. So the
//! kernel cannot move a running process into another PID namespace, where it would need another number.
//! `CLONE_NEWPID` therefore acts on the child: the kernel makes an empty PID namespace and gives the child
//! the first free number in it, which is 1. The child also gets a number in the namespace of its parent.
//! `clone` returns that one to the parent; getpid(2) in the child says 1. The call unshare(2) with
//! `CLONE_NEWPID` does not change this. The caller stays in its namespace, and its next child becomes PID 1.
//!
//! Three rules of the kernel hold for PID 1. It becomes the parent of every orphan in its namespace. Signals
//! from inside the namespace reach it only if it has a handler for them. When it ends, the kernel kills all
//! other processes of the namespace. A container runtime relies on the third rule: to end the container, it
//! ends PID 1.
//!
//! # What clone does with its flags
//!
//! Without flags, `clone` makes a copy of the process that shares all namespaces with it. Each `CLONE_NEW…`
//! flag takes one kind of namespace out of that sharing:
//!
//! | flag | what the child begins with |
//! | --- | --- |
//! | `CLONE_NEWPID` | an empty namespace, in which it is PID 1 |
//! | `CLONE_NEWNS` | a copy of the parent's mounts |
//! | `CLONE_NEWUTS` | a copy of the parent's host name |
//! | `CLONE_NEWNET` | no network device but a loopback that is down |
//! | `CLONE_NEWIPC` | no System V objects and no POSIX message queues |
//! | `CLONE_NEWUSER` | no ids at all, until somebody writes `uid_map` and `gid_map`, but all capabilities |
//!
//! The kernel makes the user namespace first, whatever the order of the flags. The other new namespaces then
//! belong to it, and so an ordinary user may make them. The lowest byte of the flags is no flag: it names the
//! signal that tells the parent of the child's end, `SIGCHLD`. `CLONE_VM` is left out, so the child has its
//! own copy of the memory. It continues in the same line of the program as its parent, as after fork(2); only
//! the returned number differs.
//!
//! Man pages: clone(2), fork(2), namespaces(7), pid_namespaces(7), user_namespaces(7).

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(feature = "idmap")]
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
#[cfg(feature = "idmap")]
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::CloneFlags;
#[cfg(feature = "idmap")]
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};

#[cfg(feature = "idmap")]
use super::error::Context;
use super::error::{Error, Result};
use super::explain::Turn;
use super::names;

/// clone3(2). `libc` has it in a type that is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

const TOO_MANY: &str = "a limit of processes is reached: ulimit -u, pids.max, or kernel.pid_max";

/// In a copy of a process, how many processes its memory has come from.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Tells a process from those of which it is a copy, also where both are PID 1 of their namespaces.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// What clone(2) has made, as either process sees it.
#[derive(Debug)]
pub(crate) struct Cloned {
    /// The child's number in the parent's PID namespace. `None` in the child.
    pub(crate) child: Option<Pid>,
    /// Whether the child was born in the cgroup that the parent had asked for.
    pub(crate) in_cgroup: bool,
}

/// Makes a copy of this process, which must have one thread, in new namespaces, one for each flag. Returns in
/// both processes.
///
/// With `cgroup`, a directory of cgroup v2, the child is born in that cgroup where the kernel can do so
/// (5.7).
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`, EAGAIN at a limit of processes, ENOSPC at a limit of namespaces, ENOMEM.
pub(crate) fn clone(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    let turn = Turn::take();
    let cloned = match cgroup.map(|cgroup| clone_into(flags, cgroup)) {
        // ENOSYS: no clone3 (before 5.3, or forbidden by a seccomp filter of a container around us).
        // E2BIG, EINVAL: no CLONE_INTO_CGROUP yet (before 5.7).
        None | Some(Err(Errno::ENOSYS | Errno::E2BIG | Errno::EINVAL)) => clone_anywhere(flags)
            .map(|child| Cloned { child, in_cgroup: false })
            .map_err(|errno| clone_failed(flags, false, errno))?,
        Some(result) => result
            .map(|child| Cloned { child, in_cgroup: true })
            .map_err(|errno| clone_failed(flags, true, errno))?,
    };
    tell(turn, cloned.child, || clone_line(flags, cloned.in_cgroup), "clone(2), namespaces(7)");
    Ok(cloned)
}

/// Makes a copy of this process, which must have one thread: fork(2). Returns the copy's pid, and `None` in
/// the copy.
///
/// # Errors
/// EAGAIN at a limit of processes, ENOMEM.
pub fn fork() -> Result<Option<Pid>> {
    let turn = Turn::take();
    // SAFETY: with one thread, no lock is held by another one that the copy does not have.
    let child = match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Child) => None,
        Ok(ForkResult::Parent { child }) => Some(child),
        Err(errno) => return Err(Error::from_errno("fork()", errno).hint(TOO_MANY)),
    };
    tell(turn, child, || "fork()".into(), "fork(2)");
    Ok(child)
}

/// A process that does nothing. It keeps the namespaces in which it was born, until the value is dropped or
/// this process ends.
///
/// No copy of this process as other helpers are: it has the same memory. A copy costs more than all that is
/// done with the namespaces, as both sides then pay for each page that they write to.
#[cfg(feature = "idmap")]
#[derive(Debug)]
pub(crate) struct Placeholder {
    process: Pid,
    _shared: Box<Shared>,
    /// The process reads the end of the pipe when this is closed.
    alive: Option<OwnedFd>,
}

/// The part of this process's memory that the placeholder uses until it has ended: a stack and both ends of
/// the pipe. The stack is enough for its system calls, and aligned as calling conventions want it.
#[cfg(feature = "idmap")]
#[derive(Debug)]
#[repr(C, align(16))]
struct Shared {
    stack: [u8; 16 << 10],
    ends: [RawFd; 2],
}

#[cfg(feature = "idmap")]
impl Placeholder {
    /// Makes one in new namespaces, one for each flag: clone(2) with `CLONE_VM`.
    ///
    /// # Errors
    /// As [`clone`]; EMFILE.
    pub(crate) fn born_in(flags: CloneFlags) -> Result<Placeholder> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("pipe2(O_CLOEXEC)")?;
        let ends = [read.as_raw_fd(), write.as_raw_fd()];
        let mut shared = Box::new(Shared { stack: [0; 16 << 10], ends });
        let turn = Turn::take();
        let what = flags.bits() | libc::CLONE_VM | libc::SIGCHLD;
        let (stack, ends) = (shared.stack.as_mut_ptr_range().end, shared.ends.as_mut_ptr());
        // SAFETY: the function makes system calls only, and so takes no lock of this process. What it uses
        // lives until it has ended, as `drop` waits for that.
        let process = Errno::result(unsafe { libc::clone(hold, stack.cast(), what, ends.cast()) })
            .map(Pid::from_raw)
            .map_err(|errno| clone_failed(flags, false, errno))?;
        // From here on its end is waited for, whatever happens: it uses this memory.
        let placeholder = Placeholder { process, _shared: shared, alive: Some(write) };
        if let Some(turn) = turn {
            turn.line(clone_line(flags | CloneFlags::CLONE_VM, false), process, "clone(2), namespaces(7)");
        }
        Ok(placeholder)
    }

    /// Its number.
    pub(crate) fn process(&self) -> Pid {
        self.process
    }

    /// Tells the process to end, and does not wait for that.
    pub(crate) fn end(&mut self) {
        self.alive = None;
    }
}

#[cfg(feature = "idmap")]
impl Drop for Placeholder {
    fn drop(&mut self) {
        self.end();
        while waitpid(self.process, None) == Err(Errno::EINTR) {}
    }
}

/// What a placeholder does: it waits for the end of the pipe. That comes when the parent closes its own end,
/// and also when the parent is killed.
#[cfg(feature = "idmap")]
extern "C" fn hold(ends: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `ends` are the two numbers of `Shared`, and `byte` is as long as said. With the memory this
    // process shares the parent's `errno`, but none of these calls fails.
    unsafe {
        let [read, write] = *ends.cast::<[RawFd; 2]>();
        // Its own copy would keep the pipe from ending.
        libc::close(write);
        let mut byte = 0_u8;
        libc::read(read, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}

/// Ends this process at once: _exit(2). A copy of a process has no other way to end. Destructors and buffers
/// belong to the original process, and would do their work twice.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: the call ends the process and touches none of its memory.
    unsafe { libc::_exit(status.into()) }
}

/// The parent tells of its child, and the child counts itself.
fn tell(turn: Option<Turn>, child: Option<Pid>, line: impl Fn() -> String, man: &str) {
    if child.is_none() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    match (turn, child) {
        (Some(turn), Some(child)) => turn.line(line(), child, man),
        // The turn is the parent's, and this is the child's copy of it: to drop it would end the parent's
        // turn.
        (turn, None) => mem::forget(turn),
        (None, Some(_)) => {}
    }
}

fn clone_line(flags: CloneFlags, in_cgroup: bool) -> String {
    let flags = names(flags.iter_names().map(|(name, _)| name).chain(["SIGCHLD"]));
    if in_cgroup { format!("clone3({flags}, CLONE_INTO_CGROUP)") } else { format!("clone({flags})") }
}

/// clone3(2), which alone can say in which cgroup the child is to be born.
fn clone_into(flags: CloneFlags, cgroup: BorrowedFd<'_>) -> nix::Result<Option<Pid>> {
    // SAFETY: every field may be zero.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = u64::from(flags.bits().cast_unsigned()) | CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM this is a fork: the child goes on with a copy of all memory and this stack.
    // This process has one thread, so no lock is held by another one that the child does not have.
    child_of(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) })
}

fn clone_anywhere(flags: CloneFlags) -> nix::Result<Option<Pid>> {
    let flags_and_signal = u64::from(flags.bits().cast_unsigned()) | libc::SIGCHLD as u64;
    // SAFETY: as above. A null stack means "a copy of mine"; the other arguments belong to flags not given.
    child_of(unsafe { libc::syscall(libc::SYS_clone, flags_and_signal, 0, 0, 0, 0) })
}

/// The child gets 0, and the parent the child's number.
fn child_of(returned: libc::c_long) -> nix::Result<Option<Pid>> {
    let pid = Errno::result(returned)?;
    Ok((pid != 0).then(|| Pid::from_raw(pid as libc::pid_t)))
}

fn clone_failed(flags: CloneFlags, in_cgroup: bool, errno: Errno) -> Error {
    let error = Error::from_errno(clone_line(flags, in_cgroup), errno);
    match errno {
        Errno::EPERM | Errno::ENOSPC if flags.contains(CloneFlags::CLONE_NEWUSER) => {
            error.hint("user namespaces are switched off, or used up: see /proc/sys/user/max_user_namespaces")
        }
        Errno::EPERM => error.hint("new namespaces need root, or the container around us forbids them"),
        Errno::ENOSPC => error.hint("a limit in /proc/sys/user/max_*_namespaces is reached"),
        Errno::EAGAIN => error.hint(TOO_MANY),
        Errno::EINVAL => error.hint("this kernel was built without one of these namespaces"),
        _ => error,
    }
}

/// A process with a number that a test has chosen. It waits until the value is dropped.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Numbered(Pid);

#[cfg(test)]
impl Numbered {
    /// Makes it: clone3(2) with `set_tid`. `None` where that may not be, which is said.
    pub(crate) fn born_as(number: Pid) -> Option<Numbered> {
        let numbers = [number.as_raw()];
        // SAFETY: every field may be zero.
        let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
        arguments.exit_signal = libc::SIGCHLD as u64;
        (arguments.set_tid, arguments.set_tid_size) = (numbers.as_ptr() as u64, 1);
        // SAFETY: without CLONE_VM this is a fork, and the child makes one system call, again and again.
        let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
        match child_of(child) {
            Ok(None) => loop {
                // SAFETY: it touches no memory.
                unsafe { libc::pause() };
            },
            Ok(Some(pid)) => Some(Numbered(pid)),
            Err(errno) => {
                crate::testing::skipped(&format!("no process of a chosen number: clone3: {errno}"));
                None
            }
        }
    }

    /// Whether it lives.
    pub(crate) fn lives(&self) -> bool {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(self.0), look) == Ok(WaitStatus::StillAlive)
    }
}

#[cfg(test)]
impl Drop for Numbered {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}
