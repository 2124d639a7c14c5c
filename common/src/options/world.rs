//! What the container finds: its root, its name, its directory, its variables, devices of the host.

use std::cell::OnceCell;
use std::path::PathBuf;

use clap::Args;

use super::{Taken, bytes};
use crate::values::{self, Devices, Variable};

/// The host name, where none is given.
const HOSTNAME: &str = "congo";

/// What the container finds.
#[derive(Debug, Args)]
// `-h` is the host name here: see `run::cli`.
#[command(next_help_heading = "The container's world (since step 1)", disable_help_flag = true)]
pub struct World {
    /// The directory to use as the root [default: one that Congo makes from this host's programs].
    #[arg(long, value_name = "DIR", value_parser = bytes(values::directory))]
    pub rootfs: Option<PathBuf>,

    /// The host name inside [default: congo].
    #[arg(
        short = 'h', long,
        value_name = "NAME", allow_hyphen_values = true,
        value_parser = values::hostname
    )]
    pub(super) hostname: Option<String>,

    /// The host name of the container whose network is shared.
    #[arg(skip)]
    pub(super) shared_hostname: OnceCell<String>,

    /// The working directory, absolute; made if it is missing [default: /].
    #[arg(
        short, long,
        value_name = "DIR", allow_hyphen_values = true,
        value_parser = bytes(values::workdir)
    )]
    pub workdir: Option<PathBuf>,

    /// Set a variable, or pass on the host's; repeatable.
    #[arg(
        short, long,
        value_name = "NAME[=VALUE]", allow_hyphen_values = true,
        value_parser = bytes(values::env)
    )]
    pub env: Vec<Variable>,

    /// Set the variables that a file has, one a line; repeatable.
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,

    /// A device of the host, or a folder of devices, perhaps at another path; repeatable.
    #[arg(
        long = "device",
        value_name = "HOST[:PATH]", allow_hyphen_values = true,
        value_parser = bytes(values::devices)
    )]
    pub devices: Vec<Devices>,

    /// What `docker run` has, and what changes nothing here.
    #[command(flatten)]
    _taken: Taken,
}

impl World {
    /// The host name: `--hostname`, or that of the container whose network is shared, or congo.
    pub fn hostname(&self) -> &str {
        let shared = self.shared_hostname.get().or(self.hostname.as_ref());
        shared.map_or(HOSTNAME, String::as_str)
    }
}
