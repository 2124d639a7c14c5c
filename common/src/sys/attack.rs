//! What an attacker in a container would ask of the kernel. The checks try each attack twice: on the step
//! that is open to it, and on the step that is not.
//!
//! Safe functions around calls that `nix` does not have. No runtime uses them. Kernel objects: terminals,
//! System V shared memory. Man pages: TIOCSTI(2const), shmget(2), shmctl(2), sysvipc(7).

mod calls;
mod every_call;
pub mod handle;

use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use nix::errno::Errno;

pub use calls::{add_key, attempt, call_32_bit, find_key, trace};
pub use every_call::{try_sockets, try_system_calls};

/// Puts a character into a terminal's input, as if somebody had typed it: ioctl(2), `TIOCSTI`.
///
/// # Errors
/// EPERM when it is not the controlling terminal and the caller lacks `CAP_SYS_ADMIN`, EIO where
/// `/proc/sys/dev/tty/legacy_tiocsti` is 0 and it lacks that, ENOTTY.
pub fn push_character(terminal: impl AsFd, character: u8) -> nix::Result<()> {
    // SAFETY: the kernel reads one byte behind the pointer, which lives until the call returns.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSTI, ptr::from_ref(&character)) };
    Errno::result(result).map(drop)
}

/// Makes a System V shared memory segment in this thread's IPC namespace, and returns its id: shmget(2).
///
/// # Errors
/// ENOSPC at the limits of `/proc/sys/kernel/shmmni` and `shmall`.
pub fn make_segment(bytes: usize) -> nix::Result<i32> {
    // SAFETY: the call takes numbers only.
    Errno::result(unsafe { libc::shmget(libc::IPC_PRIVATE, bytes, libc::IPC_CREAT | 0o600) })
}

/// Removes a segment of this thread's IPC namespace: shmctl(2), `IPC_RMID`.
///
/// # Errors
/// EINVAL when there is none of this id.
pub fn remove_segment(id: i32) -> nix::Result<()> {
    // SAFETY: IPC_RMID ignores the pointer.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
}
