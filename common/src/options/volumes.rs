//! The volumes and other mounts in the container's root.

use clap::Args;

use super::bytes;
use crate::sys::error::Result;
use crate::values::{self, Mount, Tmpfs, Volume};

/// The volumes and other mounts in the container's root.
#[derive(Debug, Args)]
#[command(next_help_heading = "Volumes (since step 3)")]
pub struct Volumes {
    /// A host's folder or file, or a volume by name, to mount at a path; repeatable.
    #[arg(
        short, long = "volume",
        value_name = "[SOURCE:]TARGET[:OPTIONS]", allow_hyphen_values = true,
        value_parser = bytes(values::volume)
    )]
    volumes: Vec<Volume>,

    /// The same by keys: type=bind|volume|tmpfs,source=…,target=…,readonly; repeatable.
    #[arg(
        long = "mount",
        value_name = "KEY=VALUE,…", allow_hyphen_values = true,
        value_parser = bytes(values::mount)
    )]
    mounts: Vec<Mount>,

    /// A filesystem in memory at this path; repeatable.
    #[arg(
        long = "tmpfs",
        value_name = "TARGET[:OPTIONS]", allow_hyphen_values = true,
        value_parser = bytes(values::tmpfs)
    )]
    tmpfs: Vec<Tmpfs>,
}

impl Volumes {
    /// Refuses two mounts for one place, and a source of `--mount` that is missing.
    ///
    /// # Errors
    /// One of these.
    pub fn check(&self) -> Result<()> {
        let all = self.all();
        values::check_targets(all.iter().map(Mount::target))?;
        values::check_sources(&all)
    }

    /// The mounts of all three options.
    pub fn all(&self) -> Vec<Mount> {
        let volumes = self.volumes.iter().cloned().map(Mount::Volume);
        let tmpfs = self.tmpfs.iter().cloned().map(Mount::Tmpfs);
        volumes.chain(self.mounts.iter().cloned()).chain(tmpfs).collect()
    }
}
