//! The container's terminal and its PID 1.

use std::io::{self, IsTerminal};

use clap::Args;

use crate::sys::error::{Error, Result};

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
}

impl Session {
    /// Refuses `--tty` without a terminal at stdin: nobody could type.
    ///
    /// # Errors
    /// There is none.
    pub fn check(&self) -> Result<()> {
        if self.tty && !io::stdin().is_terminal() {
            return Err(Error::new("-t, --tty: stdin is no terminal, so nobody could type")
                .hint("leave -t out: then the streams are passed as they are"));
        }
        Ok(())
    }
}
