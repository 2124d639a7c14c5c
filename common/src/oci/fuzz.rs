//! A layer unpacked into a folder, for the fuzz targets: without a process, an overlay and a root of its own.
//!
//! The store unpacks in a process whose root is the layer, so the kernel confines every link. Here nothing
//! does: the target sees a name or a link that this code alone would follow out of the folder.

use std::io::{Error, Read};
use std::path::Path;

use super::apply::{Limits, Tree};
use super::refusal::Refusal;
use super::tar::Entries;
use crate::sys::privilege::Privilege;

/// Unpacks a layer's tar archive above what is in the folder.
///
/// # Errors
/// The archive is damaged, or does what no layer may.
pub fn unpack_into(folder: &Path, archive: impl Read, limits: Limits) -> std::io::Result<()> {
    let refused = |refusal| match refusal {
        Refusal::Rule(rule) => Error::other(rule),
        Refusal::Io(error) => error,
    };
    let mut entries = Entries::new(archive);
    let mut tree = Tree::new(folder, limits, Privilege::Host);
    while let Some(entry) = entries.next_entry()? {
        tree.add(&entry, &mut entries).map_err(refused)?;
    }
    tree.finish().map(drop).map_err(refused)
}
