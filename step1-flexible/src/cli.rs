//! What a user can ask for.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser};
use common::values::{self, Cpus, Cpuset, Limit, Ulimit, Variable};

/// Runs a command in a container, as `docker run` does, without a daemon.
#[derive(Debug, Parser)]
#[command(version, about, args_override_self = true)]
pub struct Cli {
    /// Tell every action on the kernel, in order, with its man page.
    #[arg(long)]
    pub explain: bool,

    /// What the container finds: its root, its name, its variables.
    #[command(flatten)]
    pub world: World,

    /// What the container may use.
    #[command(flatten)]
    pub limits: Limits,

    /// The command to run, with its arguments.
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        default_value = "/bin/sh",
        help_heading = "Arguments"
    )]
    pub command: Vec<OsString>,
}

/// What the container finds.
#[derive(Debug, Args)]
#[command(next_help_heading = "The container's world (since step 1)")]
pub struct World {
    /// The directory to use as the root [default: one that Congo makes from this host's programs].
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().try_map(values::directory))]
    pub rootfs: Option<PathBuf>,

    /// The host name inside.
    #[arg(long, value_name = "NAME", default_value = "congo", allow_hyphen_values = true, value_parser = values::hostname)]
    pub hostname: String,

    /// The working directory, absolute; made if it is missing.
    #[arg(
        short,
        long,
        value_name = "DIR", default_value = "/", allow_hyphen_values = true,
        value_parser = OsStringValueParser::new().try_map(values::workdir)
    )]
    pub workdir: PathBuf,

    /// Set a variable, or pass on the host's; repeatable.
    #[arg(
        short,
        long,
        value_name = "NAME[=VALUE]", allow_hyphen_values = true,
        value_parser = OsStringValueParser::new().try_map(values::env)
    )]
    pub env: Vec<Variable>,

    /// Set the variables that a file has, one a line; repeatable.
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
}

/// What the container may use at the most. The defaults are what was fixed in step 0.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits (since step 1)")]
pub struct Limits {
    /// Memory: bytes, or with a unit, such as 64m, 1.5g, "128 MiB".
    #[arg(
        short,
        long,
        value_name = "SIZE", default_value = "128m", allow_hyphen_values = true,
        value_parser = values::memory
    )]
    pub memory: u64,

    /// Memory and swap together, or -1 for unlimited swap [default: twice the memory].
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = values::memory_swap)]
    pub memory_swap: Option<Limit>,

    /// CPU time, as a number of CPUs.
    #[arg(long, value_name = "NUMBER", default_value = "0.5", allow_hyphen_values = true, value_parser = values::cpus)]
    pub cpus: Cpus,

    /// The share of CPU time when CPUs are scarce, from 2 to 262144, where others have 1024.
    #[arg(short, long, value_name = "WEIGHT", allow_hyphen_values = true, value_parser = values::cpu_shares)]
    pub cpu_shares: Option<u64>,

    /// The CPUs to run on, such as 0-2,4.
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, value_parser = values::cpuset)]
    pub cpuset_cpus: Option<Cpuset>,

    /// Processes and threads, or -1 for unlimited.
    #[arg(
        long, value_name = "NUMBER", default_value = "64", allow_hyphen_values = true,
        value_parser = values::pids_limit
    )]
    pub pids_limit: Limit,

    /// A resource limit of the command and each of its children; repeatable.
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", allow_hyphen_values = true, value_parser = values::ulimit)]
    pub ulimits: Vec<Ulimit>,
}
