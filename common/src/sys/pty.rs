//! The system calls of a pseudo-terminal, one function each.
//!
//! Kernel object: a pair of ends. Bytes that are written to the *main* end (the kernel's "master") count as
//! typed by the user. The other end is the terminal itself. Both belong to the devpts filesystem in which the
//! main end was opened, and the terminal has its name there. Order: open the main end, unlock, open the
//! terminal.
//! Man pages: pty(7), ioctl_tty(2), setsid(2).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use rustix::pty::OpenptFlags;

use crate::sys::call;
use crate::sys::error::{Hint, Result};

/// Rows and columns of a terminal.
pub use rustix::termios::Winsize as WindowSize;

/// Opens the main end of a new pseudo-terminal by the `ptmx` of a devpts filesystem, and unlocks the
/// terminal.
///
/// # Errors
/// ENOENT without that file, ENOSPC when all pseudo-terminals are in use: `/proc/sys/kernel/pty/max`.
pub fn open_main_end(ptmx: &str) -> Result<OwnedFd> {
    let main = call(
        "pts(4)",
        || format!("open({ptmx:?}, O_RDWR|O_NOCTTY|O_CLOEXEC)"),
        || open(ptmx, OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty()),
    )
    .hint_if(Errno::ENOSPC, "all pseudo-terminals are in use: /proc/sys/kernel/pty/max")?;
    call("ioctl_tty(2)", || "ioctl(main end, TIOCSPTLCK, 0)".into(), || rustix::pty::unlockpt(&main))?;
    Ok(main)
}

/// Opens the terminal of a main end without its name, which somebody could have put something else behind
/// (4.13).
///
/// # Errors
/// EIO before it is unlocked.
pub fn open_terminal_of(main: impl AsFd) -> Result<OwnedFd> {
    call(
        "ioctl_tty(2)",
        || "ioctl(main end, TIOCGPTPEER, O_RDWR|O_NOCTTY|O_CLOEXEC)".into(),
        || {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            rustix::pty::ioctl_tiocgptpeer(&main, flags)
        },
    )
}

/// Makes this process the leader of a new session, without a terminal, and of a new process group.
///
/// # Errors
/// EPERM when it leads a process group already.
pub fn setsid() -> Result<()> {
    call("setsid(2)", || "setsid()".into(), || nix::unistd::setsid().map(drop))
}

/// Makes `terminal` the controlling terminal of this session: `/dev/tty` means it, and the session gets its
/// Ctrl-C. Only a session's leader may.
///
/// # Errors
/// EPERM when this process leads no session, or either has a terminal or a session already.
pub fn set_controlling_terminal(terminal: impl AsFd) -> Result<()> {
    call(
        "ioctl_tty(2)",
        || "ioctl(terminal, TIOCSCTTY, 0)".into(),
        || rustix::process::ioctl_tiocsctty(&terminal),
    )
}

/// Puts `file` in the place of stdin, stdout or stderr: dup2(2) to 0, 1 or 2.
///
/// # Errors
/// None that the arguments can cause.
///
/// # Panics
/// For another number.
pub fn use_as_stream(file: impl AsFd, stream: usize) -> Result<()> {
    call(
        "dup2(2)",
        || format!("dup2({}, {stream})", file.as_fd().as_raw_fd()),
        || match stream {
            0 => nix::unistd::dup2_stdin(&file),
            1 => nix::unistd::dup2_stdout(&file),
            2 => nix::unistd::dup2_stderr(&file),
            _ => unreachable!("there are three streams"),
        },
    )
}

/// The size of a terminal's window: TIOCGWINSZ.
///
/// # Errors
/// ENOTTY, EIO when it was hung up.
pub fn window_size(terminal: impl AsFd) -> Result<WindowSize> {
    call("ioctl_tty(2)", || "ioctl(terminal, TIOCGWINSZ)".into(), || rustix::termios::tcgetwinsize(&terminal))
}

/// Sets it, and tells the terminal's foreground processes by SIGWINCH: TIOCSWINSZ.
///
/// # Errors
/// As [`window_size`].
pub fn set_window_size(terminal: impl AsFd, size: WindowSize) -> Result<()> {
    let what = || format!("ioctl(terminal, TIOCSWINSZ, {{{} rows, {} columns}})", size.ws_row, size.ws_col);
    call("ioctl_tty(2)", what, || rustix::termios::tcsetwinsize(&terminal, size))
}
