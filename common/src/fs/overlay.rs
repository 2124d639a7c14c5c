//! What the layers of an overlay say: what was there before the container ran, and what the container has
//! changed.
//!
//! Kernel objects: the folders of an overlay filesystem, read as they lie on the disk. A character device 0/0
//! is a whiteout: the name is removed. An opaque folder hides what the layers below have in it. Nothing is
//! mounted here.
//! Sources: the kernel's filesystems/overlayfs, "whiteouts and opaque directories".

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::tree::{copy_attributes, is_opaque};
use crate::sys::error::{Context, Result};
use crate::sys::folder::names_in;
use crate::sys::mkdir;

/// The file at this path in the lower layers, which are given lowest first. `path` is relative to the root.
/// The topmost layer that says anything about the path counts. No link on the way is followed.
fn before(lower: &[PathBuf], path: &Path) -> Option<Metadata> {
    for layer in lower.iter().rev() {
        match look_up(layer, path) {
            Found::This(there) => return Some(there),
            Found::Nothing => return None,
            Found::AskBelow => {}
        }
    }
    None
}

/// Makes the folder `upper`, the writable layer of an overlay, unless it is there. It gets the owner, mode,
/// time and extended attributes of the layer `below` it.
///
/// A writable layer that is `kept` has its name only when it is complete: the next run takes it as it is.
///
/// # Errors
/// The folder cannot be made, or the attributes cannot be copied: ENOSPC, EPERM, EIO.
pub fn make_upper(upper: &Path, below: Option<&PathBuf>, kept: bool) -> Result<()> {
    if upper.exists() {
        return Ok(());
    }
    let new = if kept { upper.with_extension("new") } else { upper.to_owned() };
    mkdir(&new, 0o755)?;
    if let Some(below) = below {
        copy_attributes(below, &new)?;
    }
    if kept {
        fs::rename(&new, upper).at("make", upper)?;
    }
    Ok(())
}

/// Those of `paths` that none of the layers has. The layers are given lowest first. Each is asked once for
/// what is in its top folder, and mostly that says it. Else a container of a hundred layers would wait for
/// thousands of calls.
pub fn missing<'a, T>(lower: &[PathBuf], paths: &'a [(&str, T)]) -> Vec<&'a (&'a str, T)> {
    let mut open: Vec<usize> = (0..paths.len()).collect();
    let mut missing = Vec::new();
    for (depth, layer) in lower.iter().enumerate().rev() {
        if open.is_empty() {
            break;
        }
        // The lowest one mostly has them all, and then a list of it tells nothing new.
        let listed = if depth > 0 { names(layer).ok() } else { None };
        let is_listed = |path: &Path| {
            listed.as_ref().is_none_or(|listed| {
                path.iter().next().is_some_and(|it| listed.iter().any(|name| name == it))
            })
        };
        let is_opaque = OnceCell::new();
        open.retain(|&which| {
            let path = Path::new(paths[which].0);
            let found = match is_listed(path) {
                true => look_up(layer, path),
                false if *is_opaque.get_or_init(|| self::is_opaque(layer)) => Found::Nothing,
                false => Found::AskBelow,
            };
            if matches!(found, Found::Nothing) {
                missing.push(which);
            }
            matches!(found, Found::AskBelow)
        });
    }
    missing.extend(open);
    missing.sort_unstable();
    missing.into_iter().map(|which| &paths[which]).collect()
}

/// What the container has added (A), changed (C) and deleted (D) in the writable layer `upper` over the lower
/// layers, lowest first. Sorted by path, as `docker diff` lists it.
///
/// # Errors
/// A folder cannot be read: EACCES, EIO.
pub fn changes(lower: &[PathBuf], upper: &Path) -> Result<Vec<(char, PathBuf)>> {
    let mut changes = Vec::new();
    changes_in(lower, upper, Path::new(""), &mut changes)?;
    changes.sort_by(|one, other| one.1.cmp(&other.1));
    Ok(changes)
}

fn changes_in(
    lower: &[PathBuf],
    upper: &Path,
    folder: &Path,
    changes: &mut Vec<(char, PathBuf)>,
) -> Result<()> {
    let real = upper.join(folder);
    for name in names(&real)? {
        let path = folder.join(name);
        let Ok(now) = fs::symlink_metadata(upper.join(&path)) else { continue };
        let kind = match before(lower, &path) {
            _ if is_whiteout(&now) => 'D',
            Some(_) => 'C',
            None => 'A',
        };
        changes.push((kind, Path::new("/").join(&path)));
        if now.is_dir() {
            changes_in(lower, upper, &path, changes)?;
        }
    }
    if is_opaque(&real) {
        // The folder was removed and made again: there are no whiteouts for what it had before.
        let had = lower.iter().filter_map(|layer| names(&layer.join(folder)).ok()).flatten();
        let gone = had
            .map(|name| folder.join(name))
            .filter(|path| before(lower, path).is_some() && fs::symlink_metadata(upper.join(path)).is_err());
        changes.extend(gone.collect::<BTreeSet<_>>().iter().map(|path| ('D', Path::new("/").join(path))));
    }
    Ok(())
}

/// What one layer says about a path.
enum Found {
    This(Metadata),
    /// The path is removed, or a folder on the way is removed or replaced: what the layers below have does
    /// not count.
    Nothing,
    AskBelow,
}

fn look_up(layer: &Path, path: &Path) -> Found {
    let mut here = layer.to_owned();
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        here.push(name);
        match fs::symlink_metadata(&here) {
            Ok(there) if is_whiteout(&there) => return Found::Nothing,
            Ok(there) if names.peek().is_none() => return Found::This(there),
            // A file leads nowhere. A link must not either: the host would follow it to a place outside the
            // layer.
            Ok(there) if !there.is_dir() => return Found::Nothing,
            Ok(_) => {}
            Err(_) => {
                let mut above = here.ancestors().skip(1).take_while(|above| above.starts_with(layer));
                return if above.any(is_opaque) { Found::Nothing } else { Found::AskBelow };
            }
        }
    }
    Found::AskBelow
}

/// Whether this file says "there is nothing here": a character device 0/0.
pub(crate) fn is_whiteout(file: &Metadata) -> bool {
    file.file_type().is_char_device() && file.rdev() == 0
}

/// The names in a folder.
fn names(folder: &Path) -> Result<Vec<OsString>> {
    names_in(folder).at("read", folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_missing_is_what_no_layer_has() {
        let home = tempfile::tempdir().unwrap();
        let layers = ["lowest", "middle", "top"].map(|name| home.path().join(name));
        for folder in ["lowest/etc", "lowest/proc", "lowest/sys", "middle/etc", "middle/usr", "top/tmp"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        fs::write(home.path().join("lowest/etc/hosts"), "").unwrap();
        symlink("/proc/mounts", home.path().join("middle/etc/mtab")).unwrap();
        // A file in the place of a folder hides all that the layers below have in it.
        fs::write(home.path().join("top/sys"), "").unwrap();
        let paths =
            ["dev", "etc/hosts", "etc/hostname", "proc", "etc/mtab", "sys/kernel"].map(|path| (path, ()));
        let found = |lower: &[PathBuf]| missing(lower, &paths).iter().map(|it| it.0).collect::<Vec<_>>();
        assert_eq!(found(&layers), ["dev", "etc/hostname", "sys/kernel"]);
        for lower in [&layers[..], &layers[1..], &layers[..1], &[]] {
            let one_by_one = paths.iter().filter(|(path, ())| before(lower, Path::new(path)).is_none());
            assert_eq!(found(lower), one_by_one.map(|it| it.0).collect::<Vec<_>>());
        }
        // An attribute that a user namespace may set, too.
        if xattr::set(&layers[2], "user.overlay.opaque", b"y").is_ok() {
            assert_eq!(
                found(&layers),
                ["dev", "etc/hosts", "etc/hostname", "proc", "etc/mtab", "sys/kernel"]
            );
        }
    }
}
