//! What remains where the kernel or the file system has no idmapped mounts: a copy whose files belong to the
//! container.
//!
//! It takes the time and the space of a copy, once for each state of a layer and each choice of ids. Kernel
//! objects: files, claims on them (flock(2)), and the time of change of a file, which nobody can set. Order:
//! claim the store, remove copies that nobody needs any more, copy beside, rename(2), claim the copy. So a
//! copy under its name is whole, and stays while it is used.
//!
//! In the store, `WHOSE-STATE/` is a copy, and the link `WHOSE` leads to its layer. WHOSE stands for the
//! layer's path and the ids, STATE for the layer's files.
//! Man pages: chown(2), capabilities(7) on namespaced file capabilities, flock(2), inode(7), rename(2).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::FlockOperation;

use super::{IdMap, IdMaps};
use crate::fs::claim::{Claim, Make, sweep};
use crate::fs::mount::Detached;
use crate::fs::own::{Access, is_folder, own_folder};
use crate::fs::tree::{copy_layer, remove_tree};
use crate::keep::hash::stable;
use crate::sys::error::{Context, Error, Result, tell};
use crate::sys::folder::names_in;

/// The id of an owner that has no place in the maps.
const NOBODY: u32 = 65534;
const UNFINISHED: &str = ".copying";
const LOCK: &str = ".lock";

/// A copy of a layer, which nobody removes as long as the value lives.
#[derive(Debug)]
pub(super) struct ShiftedCopy {
    /// Where it is.
    pub(super) path: PathBuf,
    _claim: Claim,
}

/// The copies of these layers that belong to the container with these maps, in the folder `store`. Each is
/// made if it is missing, or of an earlier state of its layer, and that is said. Must be the host's root.
///
/// # Errors
/// ELOOP when a layer lies in another, or is given twice: overlayfs says the same of layers that are not
/// copied. ENOSPC, EROFS. EOVERFLOW for a file if the maps have neither its user nor nobody (65534).
pub(super) fn shifted_copies<'a>(
    layers: impl Iterator<Item = &'a Path>,
    store: &Path,
    maps: &IdMaps,
) -> Result<Vec<ShiftedCopy>> {
    let real = |layer: &Path| layer.canonicalize().at("open", layer);
    let layers = layers.map(real).collect::<Result<Vec<_>>>()?;
    for (number, one) in layers.iter().enumerate() {
        for other in &layers[..number] {
            if one.starts_with(other) || other.starts_with(one) {
                let what = format!("lay {} over {}", one.display(), other.display());
                return Err(Error::from_errno(what, Errno::ELOOP));
            }
        }
    }
    layers.iter().map(|layer| shifted_copy(layer, store, maps)).collect()
}

/// The copy of one layer. Mounts in `from` are not copied, as they are no part of a layer.
pub(super) fn shifted_copy(from: &Path, store: &Path, maps: &IdMaps) -> Result<ShiftedCopy> {
    let real = from.canonicalize().at("open", from)?;
    let open = File::open(&real).at("open", from)?;
    let layer = Detached::copy_of_open(&open.into())?;
    let ids = [maps.users.to_string(), maps.groups.to_string()];
    let whose = stable([real.as_os_str().as_bytes(), ids[0].as_bytes(), ids[1].as_bytes()]);
    let whose = format!("{whose:016x}");
    let state = state_of(layer.descriptor()).at("read", from)?;
    let copy = store.join(format!("{whose}-{state:016x}"));

    // The programs in it may be set-user-ID. No user of the host may reach them.
    own_folder(store, Access::Owner)?;
    let _store = Claim::wait(Make::File, &store.join(LOCK))?;
    if !is_folder(&copy) {
        sweep(store, |name| is_left(store, name, &whose), |path| remove(store, path))?;
        remember(&store.join(&whose), &real)?;
        let unfinished = store.join(format!("{UNFINISHED}-{}", std::process::id()));
        remove_tree(&unfinished)?;
        let result = copy_to(layer.descriptor(), &unfinished, &|user, group| shifted(maps, user, group))
            .and_then(|()| fs::rename(&unfinished, &copy).at("make", &copy));
        if result.is_err() {
            // The error that is already there says more than one about the clean-up.
            let _ = remove_tree(&unfinished);
        }
        result?;
        tell(format_args!(
            "congo: no idmapped mounts here, so {} was copied for the ids from {} on",
            from.display(),
            maps.root()?.0
        ));
    }
    let claim = Claim::of(&copy, FlockOperation::LockShared)?.ok_or(Errno::ENOENT).at("open", &copy)?;
    Ok(ShiftedCopy { path: copy, _claim: claim })
}

/// Copies a writable layer of the container with these maps to the folder `to`, which it makes. The copy has
/// the ids that the container sees, as an image has them.
///
/// # Errors
/// ENOSPC, EROFS; EEXIST; EOVERFLOW for a file that is of none of the container's users.
pub(super) fn unshifted_copy(from: &Path, to: &Path, maps: &IdMaps) -> Result<()> {
    let layer = File::open(from).at("open", from)?;
    let owners = |user, group| maps.users.to_container(user).zip(maps.groups.to_container(group));
    copy_to(&layer.into(), to, &owners)
}

/// Makes sure that a folder of Congo's own belongs to the container with these maps: an empty one is given to
/// its root. `what` begins the error.
///
/// # Errors
/// It has files of others.
pub fn give(folder: &Path, maps: &IdMaps, what: &str) -> Result<()> {
    let there = fs::symlink_metadata(folder).at("read", folder)?;
    if maps.users.to_container(there.uid()).is_some() && maps.groups.to_container(there.gid()).is_some() {
        return Ok(());
    }
    if !names_in(folder).at("read", folder)?.is_empty() {
        return Err(Error::new(format!("{what}: it has files of other users than the container's")).hint(
            "no idmapped mounts here: take the ids with which it was made, or --userns host, or another name",
        ));
    }
    let (user, group) = maps.root()?;
    std::os::unix::fs::chown(folder, Some(user), Some(group)).at("give away", folder)
}

fn copy_to(from: &OwnedFd, to: &Path, owners: &dyn Fn(u32, u32) -> Option<(u32, u32)>) -> Result<()> {
    fs::create_dir(to).at("make", to)?;
    let opened = File::open(to).at("open", to)?;
    copy_layer(from, &opened.into(), owners)
}

fn shifted(maps: &IdMaps, user: u32, group: u32) -> Option<(u32, u32)> {
    let or_nobody = |map: &IdMap, id| map.to_host(id).or_else(|| map.to_host(NOBODY));
    or_nobody(&maps.users, user).zip(or_nobody(&maps.groups, group))
}

/// Whether an entry of the store is of no use any more, once no container uses it. That is an unfinished
/// copy, a copy of an earlier state of the layer `whose`, or the copy of a layer that is gone. To be asked
/// while the store is claimed.
fn is_left(store: &Path, name: &OsStr, whose: &str) -> bool {
    let name = name.to_string_lossy();
    let of_earlier_state = |of: &str| of == whose || !leads_to_layer(&store.join(of));
    name.starts_with(UNFINISHED) || name.split_once('-').is_some_and(|(of, _state)| of_earlier_state(of))
}

/// Removes a copy, and the link to a layer that is gone.
fn remove(store: &Path, copy: &Path) -> Result<()> {
    remove_tree(copy)?;
    let name = copy.file_name().unwrap_or_default().to_string_lossy();
    let link = store.join(name.split('-').next().unwrap_or_default());
    if leads_to_layer(&link) { Ok(()) } else { remove_tree(&link) }
}

/// Where it cannot be told, the layer may be there.
fn leads_to_layer(link: &Path) -> bool {
    !fs::metadata(link).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Makes the link that leads from a copy to its layer.
fn remember(link: &Path, layer: &Path) -> Result<()> {
    match symlink(layer, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.at("make", link),
    }
}

/// A number that is another one when anything in the tree has changed.
fn state_of(layer: &OwnedFd) -> io::Result<u64> {
    let top = PathBuf::from(format!("/proc/self/fd/{}/.", layer.as_raw_fd()));
    let (mut sum, mut folders) = (state_of_file(OsStr::new(""), &fs::metadata(&top)?), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for name in names_in(top.join(&folder))? {
            let path = folder.join(name);
            let there = fs::symlink_metadata(top.join(&path))?;
            // A sum, as the order in which a folder is read may change.
            sum = sum.wrapping_add(state_of_file(path.as_os_str(), &there));
            if there.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(sum)
}

/// Whatever is done to a file, the kernel notes when.
fn state_of_file(path: &OsStr, there: &fs::Metadata) -> u64 {
    let [changed, nanoseconds] = [there.ctime(), there.ctime_nsec()].map(i64::cast_unsigned);
    let numbers = [there.dev(), there.ino(), there.size(), changed, nanoseconds].map(u64::to_le_bytes);
    stable([path.as_bytes(), numbers.as_flattened()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_no_use_are_swept() {
        let home = tempfile::tempdir().unwrap();
        let (store, layer) = (home.path().join("store"), home.path().join("layer"));
        fs::create_dir(&layer).unwrap();
        // Of a layer that is there, of one that is gone, of nobody knows which, and one unfinished.
        for copy in ["a-1", "a-2", "b-1", "b-2", "c-1", ".copying-7"] {
            fs::create_dir_all(store.join(copy).join("etc")).unwrap();
        }
        fs::write(store.join(LOCK), "").unwrap();
        remember(&store.join("a"), &layer).unwrap();
        remember(&store.join("b"), &home.path().join("gone")).unwrap();
        let used = Claim::of(&store.join("b-2"), FlockOperation::LockShared).unwrap();
        for (whose, left) in [("d", &[LOCK, "a", "a-1", "a-2", "b-2"][..]), ("a", &[LOCK, "a", "b-2"])] {
            sweep(&store, |name| is_left(&store, name, whose), |path| remove(&store, path)).unwrap();
            let entries =
                fs::read_dir(&store).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
            assert_eq!(
                entries.collect::<std::collections::BTreeSet<_>>(),
                left.iter().map(|&it| it.into()).collect()
            );
        }
        drop(used);
        sweep(&store, |name| is_left(&store, name, "d"), |path| remove(&store, path)).unwrap();
        assert!(!store.join("b-2").exists());
    }
}
