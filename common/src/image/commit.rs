//! A container's writable layer as a new image: `--commit`.
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Image, Reference};
use crate::error::{Error, Result};

/// What the new layer goes on top of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Base<'a> {
    /// The image, if there was one: its layers and its config go on.
    pub image: Option<&'a Image>,
    /// The other lower layers, lowest first: `--rootfs` or the default root, and each `--layer`.
    pub folders: &'a [PathBuf],
}

/// Todo
///
/// # Errors
/// x
pub fn commit(target: &Reference, base: Base<'_>, upper: &Path, created_by: &[OsString]) -> Result<()> {
    let _ = (target, base, upper, created_by);
    Err(Error::new("--commit: not yet"))
}
