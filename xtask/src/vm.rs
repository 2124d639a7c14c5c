//! `cargo xtask vm`: a Linux of another kernel and cgroup layout, where nothing can break.
//!
//! Boots a kernel in QEMU with Congo's programs, a busybox and a few tools of the host; needs no root. `vm
//! test` runs the checks of every step in a matrix of such guests. The pieces: `architecture` (x86-64 or
//! arm64), `kernel` and `programs` (where they come from), `apt` (packages of Debian), `initramfs` (what the
//! guest starts from), `guest` (one machine), `matrix` (all of them), `init.sh` (process 1 of the guest).

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::workspace::{self, Build};
use architecture::Architecture;
use guest::{Cgroup, Guest};
use kernel::Kernel;

mod apt;
mod architecture;
mod guest;
mod initramfs;
mod kernel;
mod matrix;
mod programs;

/// A lab in a virtual machine: a shell, or one command, under another kernel and cgroup layout.
///
/// All that the guest has lies in its memory: `exit`, and it is gone. The steps' programs are on its PATH.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    tool: Option<Tool>,
    /// The guest's architecture [default: the host's]
    #[arg(long, value_enum, global = true)]
    arch: Option<Architecture>,
    #[command(flatten)]
    lab: Lab,
}

/// What is for the lab alone: the tools take none of it.
#[derive(clap::Args, Default, PartialEq, Eq)]
struct Lab {
    /// The kernel: 5.10, 6.1 or 6.12 (packages of Debian, fetched once), or the path of a vmlinuz, of a
    /// linux-image .deb, or of a folder with boot/ and lib/modules/ [default: the host's own, else 6.1]
    #[arg(long, value_name = "VERSION|PATH")]
    kernel: Option<String>,
    /// Which cgroup file systems are mounted [default: v2]
    #[arg(long, value_enum)]
    cgroup: Option<Cgroup>,
    /// Be uid 1000 instead of root; with v2 in a cgroup delegated to that user
    #[arg(long)]
    user: bool,
    /// Give the command up after so many seconds [default: 300]
    #[arg(long, value_name = "SECONDS", requires = "command")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// The guest's memory, in which its files lie too [default: 1024]
    #[arg(long, value_name = "MIB")]
    #[arg(value_parser = clap::value_parser!(u32).range(256..))]
    memory: Option<u32>,
    /// A program of yours, which the guest gets on its PATH together with its shared libraries, or a script
    #[arg(long, value_name = "FILE", value_parser = |path: &str| std::path::absolute(path))]
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
    let architecture = args.arch.map_or_else(Architecture::of_host, Ok)?;
    // Not clap's `args_conflicts_with_subcommands`: with it, `--arch` could not stand before the tool.
    ensure!(
        args.tool.is_none() || args.lab == Lab::default(),
        "options of the lab's stand before `test` or `kernels`, which take none of them: see \
         `cargo xtask vm test --help`"
    );
    match &args.tool {
        Some(Tool::Test(args)) => matrix::run(args, architecture),
        Some(Tool::Kernels) => kernels(architecture),
        None => lab(&args.lab, architecture),
    }
}

fn lab(args: &Lab, architecture: Architecture) -> Result<ExitCode> {
    let kernel = Kernel::find(args.kernel.as_deref(), architecture)?;
    let steps = if args.without_steps { Vec::new() } else { steps_programs(architecture)? };
    let programs = [steps, args.copy.clone()].concat();
    let guest = Guest {
        kernel,
        cgroup: args.cgroup.unwrap_or(Cgroup::V2),
        user: args.user,
        memory: args.memory.unwrap_or(1024),
        programs,
    };
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

/// Where a guest has a program that it was given.
pub(crate) fn place_of(program: &Path) -> PathBuf {
    Path::new("/congo").join(program.file_name().unwrap_or_default())
}

/// Runs a command as root in a guest of Linux 6.1 and cgroup v2, which gets these programs. Returns what it
/// wrote to stdout and to stderr.
///
/// # Errors
/// When the guest cannot be made, or the command does not end within five minutes.
pub(crate) fn output(programs: Vec<PathBuf>, command: &[String]) -> Result<(Vec<u8>, Vec<u8>)> {
    let kernel = Kernel::find(Some("6.1"), Architecture::of_host()?)?;
    let guest = Guest { kernel, cgroup: Cgroup::V2, user: false, memory: matrix::MEMORY, programs };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    guest.run(command, io::empty(), &mut stdout, &mut stderr, Duration::from_secs(300))?;
    Ok((stdout, stderr))
}

/// Builds the steps, statically, and returns their programs.
fn steps_programs(architecture: Architecture) -> Result<Vec<PathBuf>> {
    let steps = workspace::steps()?;
    let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    let folder = workspace::build(&names, Build::StaticLab(architecture.target()?))?;
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

fn kernels(architecture: Architecture) -> Result<ExitCode> {
    if architecture.is_host() {
        match Kernel::of_host() {
            Ok(kernel) => println!("{:8} {} ({})", "host", kernel.release, kernel.image.display()),
            Err(error) => println!("{:8} {error:#}", "host"),
        }
    }
    for (version, suite) in kernel::PACKAGED {
        match kernel::cached(version, architecture) {
            Some(kernel) => println!("{version:8} {} ({})", kernel.release, kernel.image.display()),
            None => println!("{version:8} would be fetched from Debian {suite}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_program_to_copy_may_be_named_from_the_working_directory() {
        let line = Line::parse_from(["vm", "--copy", "target/my-runtime", "--", "my-runtime"]);
        assert_eq!(line.args.lab.copy, [std::env::current_dir().unwrap().join("target/my-runtime")]);
    }
}
