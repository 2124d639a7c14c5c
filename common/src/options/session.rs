//! The container's terminal and its PID 1.

use clap::Args;

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
