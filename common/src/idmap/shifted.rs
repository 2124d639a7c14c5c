//! What remains where the kernel or the file system has no idmapped mounts: a copy whose files belong to the container.
//!
//! It takes the time and the space of a copy, once for each layer and range of ids. Kernel objects: files, and a flock(2).
//! Order: lock, remove what a killed copy left, copy beside, rename(2). So a copy under its name is whole.
//! Man pages: chown(2), capabilities(7) on namespaced file capabilities, flock(2), rename(2).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::IdMaps;
use crate::error::{Error, Result, tell};
use crate::tree::{copy_layer, remove_tree};

/// The id that stands for whom there is no place.
const NOBODY: u32 = 65534;

/// The copy of the layer or root `from` that belongs to the container with these maps: in the folder `store`, under `name`,
/// which says what `from` has, such as its digest, and the ids. Makes it if it is missing, and says so. Must be the host's
/// root.
///
/// # Errors
/// ENOSPC, EROFS; EOVERFLOW for a file of a user whom the maps do not have, when they do not have nobody (65534) either.
pub fn shifted_copy(from: &Path, store: &Path, name: &str, maps: &IdMaps) -> Result<PathBuf> {
    let (user, group) = maps.root()?;
    let copy = store.join(format!("{name}@{user}-{group}"));
    if copy.is_dir() {
        return Ok(copy);
    }
    fs::create_dir_all(store).map_err(|error| cannot("make", store, &error))?;
    // The programs in it may be set-user-ID. No user of the host may reach them.
    let closed = fs::set_permissions(store, PermissionsExt::from_mode(0o700));
    closed.map_err(|error| cannot("make", store, &error))?;
    let _lock = lock(&store.join(".lock"))?;
    // Another process may have made it while this one waited.
    if copy.is_dir() {
        return Ok(copy);
    }
    let unfinished = store.join(".copying");
    remove_tree(&unfinished)?;
    let result = copy_to(from, &unfinished, maps)
        .and_then(|()| fs::rename(&unfinished, &copy).map_err(|error| cannot("make", &copy, &error)));
    if result.is_err() {
        // The error that is already there says more than one about the clean-up.
        let _ = remove_tree(&unfinished);
    }
    result?;
    tell(format_args!(
        "congo: no idmapped mounts here, so {} was copied for the ids from {user} on",
        from.display()
    ));
    Ok(copy)
}

fn copy_to(from: &Path, to: &Path, maps: &IdMaps) -> Result<()> {
    fs::create_dir(to).map_err(|error| cannot("make", to, &error))?;
    let open = |path: &Path| File::open(path).map_err(|error| cannot("open", path, &error));
    let or_nobody = |map: &super::IdMap, id| map.to_host(id).or_else(|| map.to_host(NOBODY));
    let owners = |user, group| or_nobody(&maps.users, user).zip(or_nobody(&maps.groups, group));
    copy_layer(&open(from)?.into(), &open(to)?.into(), &owners)
}

/// The kernel releases it when its holder ends, however it ends.
fn lock(path: &Path) -> Result<Flock<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| cannot("write", path, &error))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::from_errno(format!("lock {}", path.display()), errno))
}

fn cannot(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::from_io(format!("{verb} {}", path.display()), error)
}
