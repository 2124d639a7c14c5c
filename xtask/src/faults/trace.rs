//! ptrace(2): stops a runtime, and all that it starts, at system calls, and answers one in the kernel's
//! place.
//!
//! A stop at each call makes a run many times as long. So each run has a seccomp filter that stops it at the
//! calls of one name only, or at none. All runs have one filter, since the command's status tells how many
//! there are.
//!
//! The one file of this tool with unsafe code. The tracer must have one thread, as a process has one tracer,
//! and a tracer is a thread. Kernel objects: the traced processes. Man pages: ptrace(2), waitpid(2),
//! seccomp(2).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::resource::Resource;
use nix::unistd::{ForkResult, Pid, fork};

/// A system call, as the kernel sees it before it acts.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Why a process has stopped, or that it has ended.
#[derive(Debug)]
pub enum Stop {
    /// Before a system call.
    Enter(Call),
    /// After one.
    Exit,
    /// After a clone or fork that has made this process, which begins stopped.
    Born(Pid),
    /// A new program has taken the place of the old one.
    Exec,
    /// It is about to get a signal.
    Signal(i32),
    /// All processes of its job are stopped.
    Group,
    /// It stops without a reason that counts here, such as at its birth.
    Other,
    /// It has ended, with this status as waitpid(2) tells it.
    Ended(i32),
}

/// What a process is to begin with.
#[derive(Debug, Default)]
pub struct Start {
    /// The program and its arguments.
    pub words: Vec<CString>,
    /// Its variables.
    pub environment: Vec<CString>,
    /// The user and group whose rights alone it has, if not root's.
    pub user: Option<u32>,
    /// A terminal that becomes its own.
    pub terminal: bool,
    /// What its caller gives it beside.
    pub condition: Condition,
}

/// What a process inherits from a caller that is not like others.
#[derive(Debug, Clone, Default)]
pub struct Condition {
    /// A soft limit. The hard one stays, for `--ulimit`.
    pub limit: Option<(Resource, u64)>,
    /// A signal that is ignored.
    pub ignored: Option<i32>,
    /// Which of its three streams are closed.
    pub closed: &'static [RawFd],
    /// The `cgroup.procs` of a cgroup in which it is.
    pub cgroup: Option<RawFd>,
}

/// A call at which each process stops of itself: its number, and its first argument, if only that counts.
pub type Watched = (u32, Option<u32>);

/// Starts a program with these three streams, traced with all that it starts. It stops before its exec, and
/// then at the watched calls.
///
/// # Errors
/// EAGAIN at a limit of processes; EPERM for a process that may not trace.
pub fn start(start: &Start, streams: [BorrowedFd<'_>; 3], watched: &[Watched]) -> Result<Pid> {
    let (read, write) = nix::unistd::pipe()?;
    let pointers = |texts: &[CString]| -> Vec<_> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (words, variables) = (pointers(&start.words), pointers(&start.environment));
    let streams = streams.map(|stream| stream.as_raw_fd());
    let filter = filter(watched);
    // SAFETY: this process has one thread, and the copy makes system calls only.
    let ForkResult::Parent { child } = unsafe { fork() }.context("fork")? else {
        // SAFETY: what the pointers lead to is owned by the caller of this function.
        unsafe { become_program(start, streams, &words, &variables, &filter, [&read, &write]) }
    };
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(child, options).context("ptrace(PTRACE_SEIZE)")?;
    ptrace::interrupt(child).context("ptrace(PTRACE_INTERRUPT)")?;
    let stopped = wait_for(child.as_raw(), 0)?;
    ensure!(matches!(stopped, Some((_, Stop::Other | Stop::Signal(_)))), "{child} does not stop");
    go(write)?;
    drop(read);
    Ok(child)
}

/// The copy waits for this byte until its tracer is ready.
fn go(write: OwnedFd) -> Result<()> {
    nix::unistd::write(&write, b"g").context("write to the traced process")?;
    Ok(())
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// A filter that stops a process at the watched calls, and allows all others.
fn filter(watched: &[Watched]) -> Vec<libc::sock_filter> {
    /// Where `struct seccomp_data` has them: the lower half of the first argument.
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    const FIRST: u32 = 16;
    let of = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |at| of(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let unless = |value, skip| of(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    let end = |action| of(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    // Another architecture has other numbers.
    let mut filter = vec![load(ARCH), of(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, ARCHITECTURE)];
    filter.push(end(libc::SECCOMP_RET_ALLOW));
    for &(number, first) in watched {
        filter.push(load(NUMBER));
        match first {
            None => filter.push(unless(number, 1)),
            Some(first) => filter.extend([unless(number, 3), load(FIRST), unless(first, 1)]),
        }
        filter.push(end(libc::SECCOMP_RET_TRACE));
    }
    filter.push(end(libc::SECCOMP_RET_ALLOW));
    filter
}

/// # Safety
/// In a copy of a process with one thread; the pointers are lists that end with a null pointer.
unsafe fn become_program(
    start: &Start,
    streams: [RawFd; 3],
    words: &[*const libc::c_char],
    variables: &[*const libc::c_char],
    filter: &[libc::sock_filter],
    [read, write]: [&OwnedFd; 2],
) -> ! {
    let (read, write) = (read.as_raw_fd(), write.as_raw_fd());
    // SAFETY: system calls with values of this function; see above.
    unsafe {
        libc::close(write);
        let mut byte = 0_u8;
        libc::read(read, (&raw mut byte).cast(), 1);
        libc::close(read);
        let mut all = std::mem::zeroed();
        libc::sigemptyset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if let Some(processes) = start.condition.cgroup {
            libc::write(processes, c"0".as_ptr().cast(), 1);
        }
        if start.terminal {
            libc::setsid();
            libc::ioctl(streams[0], libc::TIOCSCTTY, 0);
        }
        for (stream, to) in streams.into_iter().zip(0..) {
            libc::dup2(stream, to);
        }
        // While it still has the right to do so without giving up set-user-id programs. The program is to
        // have the mitigations that it has without a filter.
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
        if libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) != 0 {
            libc::_exit(98);
        }
        if let Some(id) = start.user {
            libc::setgroups(0, std::ptr::null());
            libc::setresgid(id, id, id);
            libc::setresuid(id, id, id);
        }
        let Condition { limit, ignored, closed, .. } = &start.condition;
        if let Some(signal) = ignored {
            libc::signal(*signal, libc::SIG_IGN);
        }
        for stream in *closed {
            libc::close(*stream);
        }
        // Last: a limit of processes must not stop the change of the user.
        if let Some((resource, most)) = limit {
            let mut limit = std::mem::zeroed::<libc::rlimit>();
            libc::getrlimit(*resource as _, &raw mut limit);
            limit.rlim_cur = *most;
            libc::setrlimit(*resource as _, &raw const limit);
        }
        libc::execve(words[0], words.as_ptr(), variables.as_ptr());
        libc::_exit(99)
    }
}

/// The next process that has stopped or ended, if there is one now.
///
/// # Errors
/// ECHILD when there is no process left.
pub fn next() -> Result<Option<(Pid, Stop)>> {
    wait_for(-1, libc::WNOHANG)
}

/// Whether there is no process left to wait for.
pub fn none_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Errno>() == Some(&Errno::ECHILD)
}

fn wait_for(which: i32, options: i32) -> Result<Option<(Pid, Stop)>> {
    let mut status = 0;
    // SAFETY: `status` is as long as said.
    let result = unsafe { libc::waitpid(which, &raw mut status, options | libc::__WALL) };
    let pid = Pid::from_raw(Errno::result(result)?);
    if pid.as_raw() == 0 {
        return Ok(None);
    }
    if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
        return Ok(Some((pid, Stop::Ended(status))));
    }
    let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
    let stop = match event {
        _ if signal == libc::SIGTRAP | 0x80 => at_call(pid),
        libc::PTRACE_EVENT_SECCOMP => at_call(pid),
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
            let child = ptrace::getevent(pid).unwrap_or_default();
            Stop::Born(Pid::from_raw(i32::try_from(child).unwrap_or_default()))
        }
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => Stop::Group,
        0 => Stop::Signal(signal),
        _ => Stop::Other,
    };
    Ok(Some((pid, stop)))
}

fn at_call(pid: Pid) -> Stop {
    match ptrace::syscall_info(pid) {
        Ok(info) if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says that this is the field that the kernel has written.
            let entry = unsafe { info.u.entry };
            Stop::Enter(Call { number: entry.nr, arguments: entry.args })
        }
        Ok(info) if info.op == libc::PTRACE_SYSCALL_INFO_SECCOMP => {
            // SAFETY: `op` says that this is the field that the kernel has written.
            let entry = unsafe { info.u.seccomp };
            Stop::Enter(Call { number: entry.nr, arguments: entry.args })
        }
        Ok(_) => Stop::Exit,
        // It was killed meanwhile.
        Err(_) => Stop::Other,
    }
}

/// How a process goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It stops at each system call.
    Call,
    /// It stops when it makes a process, and at its exec.
    Event,
    /// It remains stopped with its job.
    Continued,
}

/// Lets a process go on, perhaps with the signal that it was about to get. It may have been killed meanwhile.
pub fn resume(pid: Pid, until: Until, signal: i32) {
    let request = match until {
        Until::Call => libc::PTRACE_SYSCALL,
        Until::Event => libc::PTRACE_CONT,
        Until::Continued => libc::PTRACE_LISTEN,
    };
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the requests read no memory of this process.
    unsafe { libc::ptrace(request, pid.as_raw(), nothing, libc::c_long::from(signal)) };
}

/// Before a system call: the kernel is not to execute it.
///
/// # Errors
/// ESRCH when the process was killed meanwhile.
#[cfg(target_arch = "x86_64")]
pub fn refuse(pid: Pid) -> Result<()> {
    let mut registers = ptrace::getregs(pid)?;
    registers.orig_rax = u64::MAX;
    Ok(ptrace::setregs(pid, registers)?)
}

/// After a system call that was not executed: it has failed with this error.
///
/// # Errors
/// ESRCH when the process was killed meanwhile.
#[cfg(target_arch = "x86_64")]
pub fn answer(pid: Pid, errno: Errno) -> Result<()> {
    let mut registers = ptrace::getregs(pid)?;
    registers.rax = i64::from(-(errno as i32)).cast_unsigned();
    Ok(ptrace::setregs(pid, registers)?)
}

/// Before a system call: the kernel is not to execute it.
///
/// # Errors
/// ESRCH when the process was killed meanwhile.
#[cfg(target_arch = "aarch64")]
pub fn refuse(pid: Pid) -> Result<()> {
    const NT_ARM_SYSTEM_CALL: usize = 0x404;
    let mut none = -1_i32;
    let mut vector = libc::iovec { iov_base: (&raw mut none).cast(), iov_len: size_of::<i32>() };
    // SAFETY: the vector describes `none`.
    let result =
        unsafe { libc::ptrace(libc::PTRACE_SETREGSET, pid.as_raw(), NT_ARM_SYSTEM_CALL, &raw mut vector) };
    Errno::result(result)?;
    Ok(())
}

/// After a system call that was not executed: it has failed with this error.
///
/// # Errors
/// ESRCH when the process was killed meanwhile.
#[cfg(target_arch = "aarch64")]
pub fn answer(pid: Pid, errno: Errno) -> Result<()> {
    let mut registers = ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(pid)?;
    registers.regs[0] = i64::from(-(errno as i32)).cast_unsigned();
    Ok(ptrace::setregset::<ptrace::regset::NT_PRSTATUS>(pid, registers)?)
}

/// Bytes of a process's memory: fewer than asked for at the end of a mapping, none at no mapping.
pub fn memory(pid: Pid, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; length];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length };
    // SAFETY: the local vector describes `bytes`; the kernel checks the remote one.
    let count = unsafe { libc::process_vm_readv(pid.as_raw(), &raw const local, 1, &raw const remote, 1, 0) };
    bytes.truncate(usize::try_from(count).unwrap_or_default());
    bytes
}

/// A text in a process's memory, up to its zero.
pub fn text(pid: Pid, address: u64) -> Option<String> {
    // Within a page, as the next one may not be there.
    let mut bytes = Vec::new();
    while bytes.len() < 4096 {
        let at = address + bytes.len() as u64;
        let more = memory(pid, at, 4096 - (at as usize & 4095));
        let end = more.iter().position(|&byte| byte == 0);
        bytes.extend_from_slice(&more[..end.unwrap_or(more.len())]);
        if end.is_some() {
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        if more.is_empty() {
            return None;
        }
    }
    None
}

/// A pair of ends of a new terminal: the tool's, and the runtime's.
///
/// # Errors
/// When there is no terminal left.
pub fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = nix::pty::openpty(None, None)?;
    Ok((pair.master, pair.slave))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with a filter: loads, comparisons and ends are all that it has.
    fn action(filter: &[libc::sock_filter], architecture: u32, number: u32, first: u32) -> u32 {
        let (mut value, mut at) = (0, 0);
        loop {
            let step = filter[at];
            at += 1;
            match u32::from(step.code) {
                code if code == libc::BPF_RET | libc::BPF_K => return step.k,
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    at += usize::from(if value == step.k { step.jt } else { step.jf });
                }
                _ => value = [number, architecture, 0, 0, first][step.k as usize / 4],
            }
        }
    }

    #[test]
    fn a_run_stops_at_the_watched_calls_only() {
        let (allow, stop) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_TRACE);
        for (watched, number, first, expected) in [
            (&[(5, None), (13, Some(17))][..], 5, 99, stop),
            (&[(5, None), (13, Some(17))], 13, 17, stop),
            (&[(5, None), (13, Some(17))], 13, 2, allow),
            (&[(5, None), (13, Some(17))], 6, 17, allow),
            (&[], 5, 0, allow),
        ] {
            assert_eq!(
                action(&filter(watched), ARCHITECTURE, number, first),
                expected,
                "{watched:?} {number}"
            );
            assert_eq!(action(&filter(watched), ARCHITECTURE + 1, number, first), allow, "other numbers");
        }
    }
}
