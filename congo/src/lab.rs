//! `cargo congo vm`: the lab, a virtual machine where nothing can break. It is a tool of `cargo xtask`, which
//! is built when it is first asked for: what a learner builds each day stays small without it.

use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::workspace;

/// Start the lab: a shell, or one command, in a virtual machine of another kernel and cgroup layout.
///
/// It takes the options of `cargo xtask vm`; `--help` after `vm` lists them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// The lab's options and its command.
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<std::ffi::OsString>,
}

impl Args {
    /// Becomes the lab.
    ///
    /// # Errors
    /// When cargo cannot be started.
    pub fn run(&self) -> Result<ExitCode> {
        Err(command().args(&self.arguments).exec()).context("starting cargo")
    }
}

/// The command that starts the lab, without the lab's options. The current folder stays: paths among the
/// options are meant from there.
pub fn command() -> Command {
    let mut cargo = workspace::cargo();
    cargo.arg("run").args((!io::stderr().is_terminal()).then_some("--quiet"));
    cargo.args(["--package", "xtask", "--manifest-path"]).arg(workspace::root().join("Cargo.toml"));
    // What cargo set for this program is not meant for the other one.
    cargo.args(["--", "vm"]).env_remove("CARGO_MANIFEST_DIR");
    cargo
}
