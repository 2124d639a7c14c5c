//! The terminal of the runtime's caller, and what the container gets of it: all of it, or a terminal of its
//! own.
//!
//! Shared: the container's first process gets the caller's terminal, as a job of a shell does. Own: the
//! container has a pseudo-terminal, and this module copies between its main end and the caller's terminal.
//! Order: look before the clone; the rest is called by [`clone`](crate::run::process::clone),
//! [`Child::attach`](crate::run::process::Child::attach) and
//! [`Child::wait`](crate::run::process::Child::wait). Whatever happens, the caller's terminal is given back
//! as it was.
//! Man pages: tty(4), pty(7), termios(3), credentials(7), tcsetpgrp(3).

mod relay;

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{OutputFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getpgrp, setpgid, tcgetpgrp, tcsetpgrp};

use crate::sys::call;
use crate::sys::error::Result;
use crate::sys::pty::{WindowSize, set_window_size, window_size};
pub(crate) use relay::Relay;

/// The terminal, as it was before the container runs, and what the container gets of it.
#[derive(Debug)]
pub enum Terminal {
    /// The container uses it, too.
    Shared(Shared),
    /// The container has one of its own in its place.
    Own(Streams),
}

impl Terminal {
    /// The container gets the caller's terminal. Whoever may write to a terminal may also pretend that its
    /// user types (ioctl_tty(2), TIOCSTI): only for containers that are trusted.
    pub fn shared() -> Terminal {
        Terminal::Shared(Shared::look())
    }

    /// The container gets a terminal of its own wherever a stream of this process is one; with `tty`, for all
    /// three streams. With `interactive`, keys are passed on even when stdout is no terminal.
    pub fn own(interactive: bool, tty: bool) -> Terminal {
        Terminal::Own(Streams::look(interactive, tty))
    }

    /// Whether what the terminal sends, such as a Ctrl-C, reaches the container without our help.
    pub(crate) fn reaches_container(&self) -> bool {
        matches!(self, Terminal::Shared(shared) if shared.reaches_container)
    }
}

/// The settings of the caller's terminal and its foreground process group, which was ours. `None` when the
/// container is not the only one that uses it, as in `step0-basic ls | less`.
///
/// A shell with job control asks which process group has the terminal. Groups of the host have no number in
/// the container, so the group must be one of the container's own. The child becomes the leader of a new
/// group. The runtime joins that group, or it would not hear of a Ctrl-C.
#[derive(Debug)]
pub struct Shared {
    before: Option<(Termios, Pid)>,
    reaches_container: bool,
}

impl Shared {
    /// Looks before the clone, because the child waits for everything that the parent does after the clone.
    fn look() -> Shared {
        let stdin = io::stdin();
        let Ok(foreground) = tcgetpgrp(&stdin) else {
            return Shared { before: None, reaches_container: false };
        };
        let own_group = getpgrp();
        let interactive = io::stdout().is_terminal() && io::stderr().is_terminal() && foreground == own_group;
        let settings = if interactive { tcgetattr(&stdin).ok() } else { None };
        Shared { before: settings.map(|settings| (settings, own_group)), reaches_container: true }
    }

    /// In the child: leaves our process group, where no terminal could cut it off for that. In our group,
    /// `kill 0` in the container would hit whoever called us: groups know no PID namespaces.
    pub(crate) fn leave_group(&self) {
        if !self.reaches_container {
            let itself = Pid::from_raw(0);
            let _ = call("setpgid(2)", || "setpgid(0, 0)".into(), || setpgid(itself, itself));
        }
    }

    /// In the parent: gives the terminal to the child and its new group, which we join.
    pub(crate) fn give_to(&self, child: Pid) {
        if self.before.is_none() {
            return;
        }
        // Ctrl-Z stops no PID 1 that does not want it to. If it stopped us, the user would see a shell's
        // prompt and a container that goes on.
        let _ = SigSet::from(Signal::SIGTSTP).thread_block();
        let join = |pid| {
            call("setpgid(2)", || format!("setpgid({pid}, {child})"), || setpgid(Pid::from_raw(pid), child))
        };
        let foreground =
            || call("tcsetpgrp(3)", || format!("tcsetpgrp(0, {child})"), || tcsetpgrp(io::stdin(), child));
        // A failure costs job control and no more: a session leader, say, cannot change its group.
        let _ = join(child.as_raw()).and_then(|()| foreground()).and_then(|()| join(0));
    }

    /// Gives the terminal back to the user's own shell, in a state that it can work with. A shell in the
    /// container may have died while another group had the terminal, or in raw mode.
    pub(crate) fn restore(&self) {
        if let Some((settings, group)) = &self.before {
            let stdin = io::stdin();
            // The terminal may have been hung up meanwhile: then there is nothing to restore. If nobody else
            // is left in the old group, and it was not ours to name, a new one does as well.
            let this = Pid::from_raw(0);
            let _ = setpgid(this, *group).or_else(|_| setpgid(this, this));
            let _ = tcsetpgrp(&stdin, getpgrp());
            let _ = tcsetattr(&stdin, SetArg::TCSADRAIN, settings);
        }
    }
}

/// What the container gets for a stream of the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The same: a pipe, a file, whatever it is.
    Same,
    /// Its own terminal.
    Own,
    /// Nothing: nobody types for it.
    Empty,
}

/// What the container gets for stdin, stdout and stderr.
#[derive(Debug, Clone)]
pub struct Streams {
    /// For each of the three.
    pub each: [Stream; 3],
    /// Whether the caller's keys go to the container.
    keys: bool,
    /// Which of ours is the caller's terminal.
    caller: Option<Caller>,
    /// What it was set to: what the container's begins with.
    settings: Option<(Termios, WindowSize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Stdin,
    Stdout,
    Stderr,
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Caller::Stdin => rustix::stdio::stdin(),
            Caller::Stdout => rustix::stdio::stdout(),
            Caller::Stderr => rustix::stdio::stderr(),
        }
    }
}

impl Streams {
    fn look(interactive: bool, tty: bool) -> Streams {
        let is_terminal = |stream: Caller| nix::unistd::isatty(stream).unwrap_or(false);
        let all = [Caller::Stdin, Caller::Stdout, Caller::Stderr];
        let asked = all.map(|stream| (stream, is_terminal(stream)));
        let [(_, stdin), (_, stdout), _] = asked;
        // Where another program has the terminal, or shares it with us as in `… | less`, a key may be meant
        // for that.
        let in_front = stdin && tcgetpgrp(Caller::Stdin).is_ok_and(|group| group == getpgrp());
        let keys = in_front && (stdout || tty || interactive);
        let each = asked.map(|(stream, is_terminal)| match stream {
            Caller::Stdin if stdin && !keys => Stream::Empty,
            _ if tty || is_terminal => Stream::Own,
            _ => Stream::Same,
        });
        let caller = asked.into_iter().find_map(|(stream, is_terminal)| is_terminal.then_some(stream));
        let settings = caller.and_then(|caller| Some((tcgetattr(caller).ok()?, window_size(caller).ok()?)));
        Streams { each, keys, caller, settings }
    }

    /// Whether the container has a terminal of its own.
    pub fn any(&self) -> bool {
        self.each.contains(&Stream::Own)
    }

    /// Gives `terminal`, the container's, the settings and the size that the caller's had.
    ///
    /// # Errors
    /// None that the arguments can cause.
    pub fn set_up(&self, terminal: impl AsFd) -> Result<()> {
        let Some((mut settings, size)) = self.settings.clone() else { return Ok(()) };
        if !self.keys {
            // The caller's terminal is not raw then, and makes each line feed a new line itself.
            settings.output_flags.remove(OutputFlags::OPOST);
        }
        call(
            "termios(3)",
            || "tcsetattr(terminal, TCSANOW, as the caller's)".into(),
            || tcsetattr(&terminal, SetArg::TCSANOW, &settings),
        )?;
        set_window_size(terminal, size)
    }
}
