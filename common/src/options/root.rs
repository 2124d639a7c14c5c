//! The layers of the container's root, and what becomes of it afterwards.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::bytes;
use crate::oci::{self, Reference};
use crate::sys::error::Result;
use crate::values;

/// Of which layers the container's root is made, and what becomes of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Root and layers (since step 3)")]
pub struct Root {
    /// An OCI layout folder, an OCI archive or a docker save archive, and perhaps :TAG.
    #[arg(
        long,
        value_name = "PATH[:TAG]", allow_hyphen_values = true, conflicts_with = "rootfs",
        value_parser = bytes(oci::reference)
    )]
    pub image: Option<Reference>,

    /// A folder to put on top of the root, read-only; repeatable, lowest first.
    #[arg(long = "layer", value_name = "DIR", value_parser = bytes(values::directory))]
    pub layers: Vec<PathBuf>,

    /// Keep the writable layer under this name, and go on with it next time.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true, value_parser = values::keep_name)]
    pub keep: Option<String>,

    /// Run this in the place of the image's Entrypoint; "" for none.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub entrypoint: Option<OsString>,

    /// Afterwards, list what the container added, changed and deleted, on stderr.
    #[arg(long)]
    pub changes: bool,

    /// Afterwards, make an image of it: a layout folder, or an archive if the path ends in .tar.
    #[arg(
        long,
        value_name = "PATH[:TAG]", allow_hyphen_values = true,
        value_parser = bytes(oci::target)
    )]
    pub commit: Option<Reference>,

    /// The platform of the image: this machine's.
    #[arg(long, value_name = "OS/ARCHITECTURE", hide = true, value_parser = oci::platform)]
    _platform: Option<String>,

    /// Mount the root read-only.
    #[arg(long)]
    pub read_only: bool,
}

impl Root {
    /// Refuses a place for `--commit` where no image can be made, before the container has run for nothing.
    ///
    /// # Errors
    /// Something else is there already, or there is no folder for it.
    pub fn check(&self) -> Result<()> {
        self.commit.as_ref().map_or(Ok(()), oci::check_target)
    }
}
