//! What the layers of an overlay say: what was there before the container ran, and what the container has
//! changed.
//!
//! Kernel objects: the folders of an overlay filesystem, read as they lie on the disk. A character device 0/0
//! is a whiteout: the name is removed. An opaque folder hides what the layers below have in it. Nothing is
//! mounted here.
//! Sources: the kernel's filesystems/overlayfs, "whiteouts and opaque directories".

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::tree::is_opaque;
use crate::sys::error::{Context, Result};

/// The file at this path in the lower layers, which are given lowest first. `path` is relative to the root.
/// The topmost layer that says anything about the path counts. No link on the way is followed.
pub fn before(lower: &[PathBuf], path: &Path) -> Option<Metadata> {
    for layer in lower.iter().rev() {
        match look_up(layer, path) {
            Found::This(there) => return Some(there),
            Found::Nothing => return None,
            Found::AskBelow => {}
        }
    }
    None
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
    let (mut here, mut hidden) = (layer.to_owned(), false);
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        hidden |= is_opaque(&here);
        here.push(name);
        match fs::symlink_metadata(&here) {
            Ok(there) if is_whiteout(&there) => return Found::Nothing,
            Ok(there) if names.peek().is_none() => return Found::This(there),
            // A file leads nowhere. A link must not either: the host would follow it to a place outside the
            // layer.
            Ok(there) if !there.is_dir() => return Found::Nothing,
            Ok(_) => {}
            Err(_) if hidden => return Found::Nothing,
            Err(_) => return Found::AskBelow,
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
    let entries =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    entries.at("read", folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::{Mode, SFlag, mknod};

    use super::*;
    use crate::testing::skipped;

    /// Two layers and a writable one; the folder in which they lie goes with the value.
    fn layers() -> (tempfile::TempDir, Vec<PathBuf>, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let [low, high, upper] = ["low", "high", "upper"].map(|name| home.path().join(name));
        for (layer, files) in [
            (&low, &["etc/hosts", "etc/motd", "bin/sh", "way/in", "var/a", "var/b"][..]),
            (&high, &["etc/motd", "srv/x"]),
            (&upper, &["etc/motd", "new/file", "var/b", "var/c"]),
        ] {
            for file in files {
                let path = layer.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, file).unwrap();
            }
        }
        symlink("/etc", high.join("way")).unwrap();
        (home, vec![low, high], upper)
    }

    #[test]
    fn the_topmost_layer_that_says_anything_counts() {
        let (_home, lower, _) = layers();
        for (path, size) in [
            ("etc/hosts", Some("etc/hosts".len())),
            ("bin/sh", Some("bin/sh".len())),
            ("srv/x", Some("srv/x".len())),
            ("way", Some("/etc".len())),
            // The link stands for the folder, and leads nowhere.
            ("way/in", None),
            ("way/hosts", None),
            ("etc/none", None),
        ] {
            let found = before(&lower, Path::new(path)).map(|there| there.len());
            assert_eq!(found, size.map(|size| size as u64), "{path}");
        }
    }

    #[test]
    fn changes_are_listed_as_docker_diff_does() {
        if !nix::unistd::geteuid().is_root() {
            return skipped("only root may make whiteouts");
        }
        let (_home, lower, upper) = layers();
        fs::create_dir(upper.join("bin")).unwrap();
        mknod(&upper.join("bin/sh"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
        let opaque = xattr::set(upper.join("var"), "trusted.overlay.opaque", b"y");
        opaque.unwrap();
        let found = changes(&lower, &upper).unwrap();
        let found: Vec<_> = found.iter().map(|(kind, path)| format!("{kind} {}", path.display())).collect();
        assert_eq!(
            found,
            [
                "C /bin",
                "D /bin/sh",
                "C /etc",
                "C /etc/motd",
                "A /new",
                "A /new/file",
                "C /var",
                "D /var/a",
                "C /var/b",
                "A /var/c",
            ]
        );
    }
}
