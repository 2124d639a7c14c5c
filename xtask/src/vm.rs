//! `cargo xtask vm`: a Linux of another kernel and cgroup layout, where nothing can break.
//!
//! Boots a kernel in QEMU with Congo's programs, a busybox and a few tools of the host; needs no root. `vm
//! test` runs the checks of every step in a matrix of such guests. The pieces: `kernel` (where it comes
//! from), `initramfs` (what the guest starts from), `guest` (one machine), `matrix` (all of them), `init.sh`
//! (process 1 of the guest).

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::workspace::{self, Build};
use guest::{Cgroup, Guest};
use kernel::Kernel;

mod guest;
mod initramfs;
mod kernel;
mod matrix;

/// A lab in a virtual machine: a shell, or one command, under another kernel and cgroup layout.
///
/// All that the guest has lies in its memory: `exit`, and it is gone. The steps' programs are on its PATH.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    tool: Option<Tool>,
    /// The kernel: 5.10, 6.1 or 6.12 (packages of Debian, fetched once), or the path of a vmlinuz, of a
    /// linux-image .deb, or of a folder with boot/ and lib/modules/ [default: the host's own, else 6.1]
    #[arg(long, value_name = "VERSION|PATH")]
    kernel: Option<String>,
    /// Which cgroup file systems are mounted
    #[arg(long, value_enum, default_value_t = Cgroup::V2)]
    cgroup: Cgroup,
    /// Be uid 1000 instead of root; with v2 in a cgroup delegated to that user
    #[arg(long)]
    user: bool,
    /// Give the command up after so many seconds [default: 300]
    #[arg(long, value_name = "SECONDS", requires = "command")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// The guest's memory, in which its files lie too
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// A program of yours, which the guest gets on its PATH together with its shared libraries, or a script
    #[arg(long, value_name = "FILE")]
    copy: Vec<PathBuf>,
    /// Leave the steps' programs out, which are built for the guest otherwise
    #[arg(long)]
    without_steps: bool,
    /// What to run; its exit status becomes that of `cargo xtask vm` [default: a shell]
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(clap::Subcommand)]
enum Tool {
    Test(matrix::Args),
    /// Say which kernels are there, and which would be fetched
    Kernels,
}

/// Runs the tool; the exit status is that of the command in the guest.
///
/// # Errors
/// When the guest cannot be made, or ends without a status.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.tool {
        Some(Tool::Test(args)) => matrix::run(args),
        Some(Tool::Kernels) => kernels(),
        None => lab(args),
    }
}

fn lab(args: &Args) -> Result<ExitCode> {
    let kernel = Kernel::find(args.kernel.as_deref())?;
    let steps = if args.without_steps { Vec::new() } else { steps_programs()? };
    let programs = [steps, args.copy.clone()].concat();
    let guest = Guest { kernel, cgroup: args.cgroup, user: args.user, memory: args.memory, programs };
    if args.command.is_empty() && io::stdin().is_terminal() {
        guest.shell()?;
        return Ok(ExitCode::SUCCESS);
    }
    let shell = ["sh".to_owned()];
    let command = if args.command.is_empty() { &shell } else { args.command.as_slice() };
    let limit = Duration::from_secs(args.timeout.unwrap_or(300));
    let status = guest.run(command, io::stdin(), &mut io::stdout(), &mut io::stderr(), limit)?;
    Ok(ExitCode::from(status))
}

/// Builds the steps, statically, and returns their programs.
fn steps_programs() -> Result<Vec<PathBuf>> {
    let steps = workspace::steps()?;
    let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    let folder = workspace::build(&names, Build::StaticLab)?;
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

fn kernels() -> Result<ExitCode> {
    match Kernel::of_host() {
        Ok(kernel) => println!("{:8} {} ({})", "host", kernel.release, kernel.image.display()),
        Err(error) => println!("{:8} {error:#}", "host"),
    }
    for (version, suite) in kernel::PACKAGED {
        match kernel::cached(version) {
            Some(kernel) => println!("{version:8} {} ({})", kernel.release, kernel.image.display()),
            None => println!("{version:8} would be fetched from Debian {suite}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}
