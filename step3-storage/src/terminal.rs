//! A terminal of its own, in the place of the caller's.
//!
//! Kernel objects: a session, and a pseudo-terminal in the container's own devpts. A process that may write
//! to a terminal can change its settings, and even pretend that its user types (ioctl_tty(2), TIOCSTI). With
//! the caller's terminal, a container could command the caller's shell (CVE-2017-5226, in bubblewrap).
//! Order: after /dev/pts is mounted, and last of all, as this process then writes to the new terminal.
//! Man pages: pty(7), setsid(2), ioctl_tty(2), credentials(7).

use common::Result;
use common::run::handshake::ChildEnd;
use common::run::terminal::{Stream, Terminal};
use common::sys::open;
use common::sys::pty::{open_main_end, open_terminal_of, set_controlling_terminal, setsid, use_as_stream};
use nix::fcntl::OFlag;

/// In the child: begins a new session. If the caller has a terminal, opens a pseudo-terminal in its place.
/// The main end goes to the parent, which copies between the two.
pub fn open_own(terminal: &Terminal, parent: &mut ChildEnd) -> Result<()> {
    // A session without a terminal: /dev/tty leads to none, Ctrl-C at the caller's does not reach it, and
    // `kill 0` reaches no process outside.
    setsid()?;
    let Terminal::Own(streams) = terminal else { return Ok(()) };
    for (number, stream) in streams.each.iter().enumerate() {
        if *stream == Stream::Empty {
            use_as_stream(open("/dev/null", OFlag::O_RDONLY)?, number)?;
        }
    }
    if !streams.any() {
        return Ok(());
    }
    // By our own ptmx: the terminal gets its name in the devpts of its main end, and `tty` looks for it in
    // /dev/pts.
    let main_end = open_main_end("/dev/pts/ptmx")?;
    let own = open_terminal_of(&main_end)?;
    streams.set_up(&own)?;
    // Now Ctrl-C and Ctrl-Z here become signals for our process groups, and a shell has job control.
    set_controlling_terminal(&own)?;
    for (number, stream) in streams.each.iter().enumerate() {
        if *stream == Stream::Own {
            use_as_stream(&own, number)?;
        }
    }
    parent.send_descriptor(main_end)
}
