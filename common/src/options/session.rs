//! The container's terminal and its PID 1.

use std::cell::OnceCell;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nix::unistd::{getegid, geteuid};

use crate::run::cidfile::{self, Caller};
use crate::run::process::{Child, SignalNumber};
use crate::sys::error::{Error, Result};
use crate::values::{self, Limit};

/// The container's terminal and its PID 1.
#[derive(Debug, Args)]
#[command(next_help_heading = "Terminal and PID 1 (since step 2)")]
pub struct Session {
    /// Pass keys on even if the output goes elsewhere.
    #[arg(short, long)]
    pub interactive: bool,

    /// A terminal for all three streams [default: for those that are one].
    #[arg(short, long)]
    pub tty: bool,

    /// Let a small init be PID 1, which reaps orphans and forwards signals.
    #[arg(long)]
    pub init: bool,

    /// The signal that stops the command, in place of SIGTERM, such as QUIT.
    #[arg(
        long,
        value_name = "SIGNAL", allow_hyphen_values = true,
        value_parser = values::signal
    )]
    stop_signal: Option<SignalNumber>,

    /// Seconds from that signal to SIGKILL, or -1 for none [default: -1].
    #[arg(
        long,
        value_name = "SECONDS", allow_hyphen_values = true,
        value_parser = values::stop_timeout
    )]
    stop_timeout: Option<Limit>,

    /// Write the PID of the container's first process to this new file, for container:PID.
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,

    /// The caller's ids, as long as this process has them.
    #[arg(skip)]
    caller: OnceCell<Caller>,
}

impl Session {
    /// Refuses `-i` and `-t` together without a terminal at stdin: nobody could type. With `-t` alone nobody
    /// wants to. Refuses a `--cidfile` that is there.
    ///
    /// # Errors
    /// One of these.
    pub fn check(&self) -> Result<()> {
        let _ = self.caller.set((geteuid(), getegid()));
        self.cidfile.as_deref().map_or(Ok(()), cidfile::check)?;
        if self.interactive && self.tty && !io::stdin().is_terminal() {
            return Err(Error::new("-i, -t: the input device is not a TTY: stdin is no terminal")
                .hint("leave -t out: then the streams are passed as they are"));
        }
        Ok(())
    }

    /// Says how this container is to be stopped, before an image has a say in it, and writes its PID to
    /// `--cidfile`.
    ///
    /// # Errors
    /// As [`OpenOptions::open`](std::fs::OpenOptions::open) for a file that must be new; ENOSPC.
    pub fn begin(&self, child: &mut Child<'_>) -> Result<()> {
        child.stop_by(self.stop_signal);
        child.stop_within(match self.stop_timeout {
            Some(Limit::AtMost(seconds)) => Some(Duration::from_secs(seconds)),
            Some(Limit::Unlimited) | None => None,
        });
        let Some(path) = &self.cidfile else { return Ok(()) };
        cidfile::write(path, child.pid(), *self.caller.get_or_init(|| (geteuid(), getegid())))
    }
}
