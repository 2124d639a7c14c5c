//! The volumes and other mounts in the container's root.

use clap::Args;

use super::bytes;
use nix::unistd::geteuid;

use crate::sys::error::{Error, Result};
use crate::values::{self, Mount, Source, Tmpfs, Volume};

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
    /// Refuses two mounts for one place, a source of `--mount` that is missing, and `idmap` from an ordinary
    /// user.
    ///
    /// # Errors
    /// One of these.
    pub fn check(&self) -> Result<()> {
        let all = self.all();
        values::check_targets(all.iter().map(Mount::target))?;
        values::check_sources(&all)?;
        let idmapped = all.iter().find_map(|mount| match mount {
            Mount::Volume(Volume { source: Source::Host(path), idmap: true, .. }) => Some(path),
            _ => None,
        });
        match idmapped.filter(|_| !geteuid().is_root()) {
            Some(path) => {
                Err(Error::new(format!("--volume {}: idmap: the caller is not root", path.display())).hint(
                    "leave it out: your files belong to the container's root anyway, \
                     and nobody can give you those of other users",
                ))
            }
            None => Ok(()),
        }
    }

    /// The mounts of all three options.
    pub fn all(&self) -> Vec<Mount> {
        let volumes = self.volumes.iter().cloned().map(Mount::Volume);
        let tmpfs = self.tmpfs.iter().cloned().map(Mount::Tmpfs);
        volumes.chain(self.mounts.iter().cloned()).chain(tmpfs).collect()
    }
}
