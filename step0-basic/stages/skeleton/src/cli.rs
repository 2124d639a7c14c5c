//! The options that a user can give.

use std::ffi::OsString;

use clap::Parser;

/// Runs a command in a container, as `docker run` does, without a daemon.
#[derive(Debug, Parser)]
#[command(version, about, args_override_self = true)]
pub struct Cli {
    /// Tell every action on the kernel, in order, with its man page.
    #[arg(long)]
    pub explain: bool,

    /// The command to run, with its arguments.
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        default_value = "/bin/sh",
        help_heading = "Arguments"
    )]
    pub command: Vec<OsString>,
}
