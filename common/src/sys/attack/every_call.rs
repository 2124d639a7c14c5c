//! Which system calls a process may make: each is made once, with arguments that mean nothing, by a process
//! that ends then.
//!
//! Every argument is -1: no address, no descriptor, no process, and no set of flags. So a call that gets
//! through fails at once, and changes nothing. Those for which that does not hold are left out. Kernel
//! objects: processes.
//! Man pages: syscalls(2), syscall(2), errno(3).

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys::clone::fork;
use crate::sys::error::Result;

/// Not tried:
/// - Calls that end the caller, double it, wait for ever, write all disks, hang up a terminal or end the
///   machine.
/// - Three calls that the kernel makes by itself.
/// - `socket`, because only its first argument says something: see [`try_sockets`].
const LEFT_OUT: [&str; 12] = [
    "exit",
    "exit_group",
    "fork",
    "vfork",
    "pause",
    "sync",
    "vhangup",
    "reboot",
    "rt_sigreturn",
    "restart_syscall",
    "uretprobe",
    "socket",
];

/// Kinds of sockets that a filter may know, by socket(2) and the kernel's include/linux/socket.h.
const FAMILIES: [(&str, libc::c_int); 13] = [
    ("AF_UNIX", libc::AF_UNIX),
    ("AF_INET", libc::AF_INET),
    ("AF_INET6", libc::AF_INET6),
    ("AF_NETLINK", libc::AF_NETLINK),
    ("AF_PACKET", libc::AF_PACKET),
    ("AF_RDS", libc::AF_RDS),
    ("AF_CAN", libc::AF_CAN),
    ("AF_TIPC", libc::AF_TIPC),
    ("AF_BLUETOOTH", libc::AF_BLUETOOTH),
    ("AF_ALG", libc::AF_ALG),
    ("AF_VSOCK", libc::AF_VSOCK),
    ("AF_XDP", libc::AF_XDP),
    ("AF_MCTP", 45),
];

/// One that waits has got through.
const PATIENCE: Duration = Duration::from_millis(300);

/// The answer to each system call of this machine, by name: `ok`, the errno's name, the signal's name or
/// `waits`. This process must have one thread, and be in namespaces of its own: a queue for messages may be
/// left in them.
///
/// # Errors
/// EAGAIN where no process can be made.
pub fn try_system_calls() -> Result<Vec<(&'static str, String)>> {
    #[cfg(target_arch = "aarch64")]
    use syscalls::aarch64::Sysno;
    #[cfg(not(target_arch = "aarch64"))]
    use syscalls::x86_64::Sysno;
    let calls = Sysno::iter().map(|call| (call.name(), libc::c_long::from(call.id())));
    let tried = calls.filter(|(name, _)| !LEFT_OUT.contains(name));
    tried.map(|(name, number)| Ok((name, try_call(number, NOTHING)?))).collect()
}

/// The answer to a request for each kind of socket. No type is given, so it is EINVAL where the kernel looks
/// at the type. So the kernel makes no socket, and loads no module for it.
///
/// # Errors
/// EAGAIN where no process can be made.
pub fn try_sockets() -> Result<Vec<(&'static str, String)>> {
    let tried = FAMILIES.into_iter();
    tried.map(|(name, family)| Ok((name, try_call(libc::SYS_socket, family.into())?))).collect()
}

const NOTHING: libc::c_long = -1;

fn try_call(number: libc::c_long, first: libc::c_long) -> Result<String> {
    let Some(child) = fork()? else {
        // SAFETY: no argument is a valid address, and a call that changes this process changes nothing else.
        let result = unsafe { libc::syscall(number, first, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING) };
        let status = if result == -1 { Errno::last_raw() } else { 0 };
        // SAFETY: _exit(2) ends the process and touches none of its memory.
        unsafe { libc::_exit(status) };
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, 0)) => return Ok("ok".into()),
            Ok(WaitStatus::Exited(_, errno)) => return Ok(format!("{:?}", Errno::from_raw(errno))),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(signal.as_str().into()),
            Err(errno) if errno != Errno::EINTR => return Ok(format!("{errno:?}")),
            _ if Instant::now() > deadline => {
                end(child);
                return Ok("waits".into());
            }
            _ => sleep(Duration::from_micros(200)),
        }
    }
}

fn end(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
    while waitpid(child, None) == Err(Errno::EINTR) {}
}
