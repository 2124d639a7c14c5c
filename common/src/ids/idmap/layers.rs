//! The layers of a container whose users have other ids on the host than the files on the disk.
//!
//! The kernel can show files with other owners: an idmapped mount. Where the kernel or the file system has no
//! such mounts, copies take the place of the layers. `ShiftedLayers` decides between the two. With copies,
//! the writable layer has the host's ids on the disk, and needs a way back before it becomes an image.
//! Man pages: mount_setattr(2), user_namespaces(7).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::IdMaps;
use super::shifted::{ShiftedCopy, give, shifted_copies, unshifted_copy};
use crate::fs::mount::{Detached, Site, mountinfo};
use crate::fs::own::{Access, own_folder};
use crate::keep::state::OwnVolume;
use crate::sys::clone::Placeholder;
use crate::sys::error::{Context, Result};
use crate::sys::open;

/// Shows the files of the disk with the owners that a container has for them.
#[derive(Debug, Clone, Copy)]
pub struct Shift<'a> {
    /// Which ids of the host the container's are.
    pub maps: &'a IdMaps,
    /// The user namespace that has these maps, for idmapped mounts.
    pub namespace: &'a OwnedFd,
    pub(super) early: &'a RefCell<Early>,
}

/// What the search for the ids has made. The layers take it over.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// Folders that were mounted to see whether they can be. Each mount that is closed instead of used makes
    /// the runtime wait for the kernel.
    pub(super) mounts: Vec<(PathBuf, Detached)>,
    /// The process that made the user namespace. It has been told to end. To drop it is to wait for that,
    /// which takes no time when it is done late.
    pub(super) _placeholder: Option<Placeholder>,
}

/// The lower layers of an overlay as they are to be mounted: the layers themselves, or copies of them that
/// belong to the container.
#[derive(Debug)]
pub struct ShiftedLayers {
    paths: Vec<PathBuf>,
    /// Where they have the container's owners, by idmapped mounts if they are no copies.
    site: Site,
    /// Each copy is locked, so that no other runtime removes it.
    copies: Option<Vec<ShiftedCopy>>,
}

impl ShiftedLayers {
    /// Decides how the container gets its ids (`shift`): by idmapped mounts of the layers and of `state`,
    /// where the writable layer will be. If one of them cannot be mounted so, all layers are copied to a
    /// folder in `state`. A copy takes time, is made once, and then kept. Only the host's root may call this
    /// with a `shift`.
    ///
    /// # Errors
    /// ELOOP when a layer lies in another, or is given twice: overlayfs says the same of layers that are not
    /// copied. ENOSPC, EROFS. EOVERFLOW for a file if the maps do not have its user. If they have the user
    /// nobody (65534), that is no error, and nobody owns the file.
    pub fn of(layers: &[PathBuf], state: &Path, shift: Option<Shift<'_>>) -> Result<ShiftedLayers> {
        let Some(Shift { maps, namespace, early }) = shift else {
            return Ok(ShiftedLayers { paths: layers.to_owned(), site: Site::default(), copies: None });
        };
        // Their real paths tell which of them lie in one folder.
        let places = layers.iter().map(|path| Place::of(path)).collect::<Result<Vec<_>>>()?;
        let paths: Vec<_> = places.iter().map(|place| place.path.clone()).collect();
        refuse_overlap(&paths)?;
        // The first container of all comes before the folder.
        own_folder(state, Access::All)?;
        let real_state = Place::of(state)?;
        let named = |path: PathBuf| match path.strip_prefix(&real_state.path) {
            Ok(below) => state.join(below),
            Err(_) => path,
        };
        let mut there = early.take().mounts;
        let mut mounts = Vec::new();
        for folder in folders_of(&places, &real_state)? {
            let name = named(folder);
            let mount = match there.iter().position(|(path, _)| *path == name) {
                Some(found) => Some(there.swap_remove(found).1),
                None => Detached::mapped(&name, namespace)?,
            };
            mounts.push(mount.map(|mount| (name, mount)));
        }
        // Mounts that no layer needs: they must not be open in the child.
        drop(there);
        if let Some(mounts) = mounts.into_iter().collect() {
            let paths = paths.into_iter().map(named).collect();
            return Ok(ShiftedLayers { paths, site: Site::new(mounts), copies: None });
        }
        let copies = shifted_copies(paths.iter().map(PathBuf::as_path), &state.join("shifted"), maps)?;
        let paths = copies.iter().map(|copy| copy.path.clone()).collect();
        Ok(ShiftedLayers { paths, site: Site::default(), copies: Some(copies) })
    }

    /// Puts an overlay of them together by `build`, out of the host's sight, and returns it attached nowhere.
    /// A kernel that takes only layers that are attached (before 6.15) answers EINVAL. Then a helper calls
    /// `build` once more, in a mount namespace of its own. This process must have one thread.
    ///
    /// # Errors
    /// What `build` fails at; EPERM without `CAP_SYS_ADMIN`.
    pub fn build_overlay(&self, build: impl Fn() -> Result<Detached>) -> Result<Detached> {
        self.site.build(build)
    }

    /// For [`build_overlay`](ShiftedLayers::build_overlay): opens a folder with the container's owners.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR.
    pub fn open(&self, folder: &Path) -> Result<OwnedFd> {
        self.site.open(folder)
    }

    /// For [`build_overlay`](ShiftedLayers::build_overlay): mounts an overlay, in which no device works.
    /// `place` is a folder over which the helper may mount it for a moment.
    ///
    /// # Errors
    /// As [`mount_overlay`](crate::fs::mount::mount_overlay).
    pub fn overlay(&self, place: &Path, options: &str) -> Result<Detached> {
        self.site.overlay(place, options)
    }

    /// The folders to be mounted, in the order of the layers.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    fn are_copies(&self) -> bool {
        self.copies.is_some()
    }

    /// Makes sure that the writable layer at `upper`, which was kept as `name`, belongs to this container. A
    /// new one is given to the container's root. Layers that are not copied need nothing: an idmapped mount
    /// shows any owner.
    ///
    /// # Errors
    /// It has files of other users.
    pub fn claim(&self, upper: &Path, name: &str, shift: Option<Shift<'_>>) -> Result<()> {
        match shift {
            Some(Shift { maps, .. }) if self.are_copies() => give(upper, maps, &format!("--keep {name}")),
            _ => Ok(()),
        }
    }

    /// The writable layer with the ids that the container sees, as an image has them. Where copies of the
    /// layers were mounted, this is a copy at `to`, else `upper` itself.
    ///
    /// # Errors
    /// ENOSPC, EROFS; EEXIST for `to`; EOVERFLOW for a file that is of none of the container's users.
    pub fn for_image(&self, upper: PathBuf, to: PathBuf, shift: Option<Shift<'_>>) -> Result<PathBuf> {
        match shift {
            Some(Shift { maps, .. }) if self.are_copies() => unshifted_copy(&upper, &to, maps).map(|()| to),
            _ => Ok(upper),
        }
    }
}

/// Of two layers that overlap, a file would be in the overlay twice. The kernel refuses that, but only when
/// it mounts the overlay.
fn refuse_overlap(layers: &[PathBuf]) -> Result<()> {
    // In sorted order, a path in a folder comes right after the folder.
    let mut sorted: Vec<_> = layers.iter().collect();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair[1].starts_with(pair[0])) {
        Some(pair) => Err(Errno::ELOOP).at("mount the layer", pair[1]),
        None => Ok(()),
    }
}

/// Where a folder is.
#[derive(Debug)]
struct Place {
    /// Without links.
    path: PathBuf,
    /// The number of the mount in which it lies.
    mount: u64,
}

impl Place {
    fn of(path: &Path) -> Result<Place> {
        let open = open(path, OFlag::O_PATH)?;
        Ok(Place { path: mountinfo::path_of(&open).at("follow", path)?, mount: mountinfo::id_of(&open)? })
    }
}

/// The folders that have to be mounted so that all layers are. One mount serves all layers in `state`, and
/// one the layers that lie together in another folder. A hundred mounts would take more time than the
/// overlay.
fn folders_of(layers: &[Place], state: &Place) -> Result<BTreeSet<PathBuf>> {
    let mut together = BTreeMap::<_, Vec<_>>::new();
    for Place { path, mount } in layers {
        // Something else may be mounted at a layer, or on the way to it.
        together.entry((path.parent(), *mount)).or_default().push(path);
    }
    let mut folders = BTreeSet::from([state.path.clone()]);
    for ((above, mount), layers) in together {
        match above.filter(|above| *above != Path::new("/")) {
            Some(above) if mount == state.mount && above.starts_with(&state.path) => {}
            Some(above) if layers.len() > 1 && Place::of(above)?.mount == mount => {
                folders.insert(above.to_owned());
            }
            _ => folders.extend(layers.into_iter().cloned()),
        }
    }
    Ok(folders)
}

/// Mounts a volume of Congo's own, attached nowhere yet, for a container with other ids (`shift`). An
/// idmapped mount shows root's files as those of the container's root. Where there are no idmapped mounts, a
/// volume that is empty is given to that root for good. `target` is for the error.
///
/// # Errors
/// Without idmapped mounts, when the volume has files of other users.
pub fn mount_own(volume: &mut OwnVolume, shift: Option<Shift<'_>>, target: &Path) -> Result<Detached> {
    let mut mount = Detached::copy_of(&volume.path)?;
    if let Some(Shift { maps, namespace, .. }) = shift {
        // The volume is filled through another mount, as this one may become read-only.
        let mut filled = Detached::copy_of(&volume.path)?;
        if mount.map_ids(namespace)? {
            // Or the files in one of them would be nobody's.
            filled = filled.must_map_ids(namespace, &volume.path)?;
        } else {
            give(&volume.path, maps, &format!("the volume at {}", target.display()))?;
        }
        volume.data = filled.open_directory()?;
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mount_is_for_all_layers_of_a_folder() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let folder = |name: &str| {
            let path = home.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let state = folder("state");
        let layers = ["state/layers/a", "state/layers/b", "many/a", "many/b", "single/a"].map(folder);
        // Another mount than that of the folder in which it lies.
        let mounted = Path::new("/proc");
        let all = [&layers[..], &[mounted.to_owned()]].concat();
        let expected = ["many", "single/a", "state"].map(folder).into_iter().chain([mounted.to_owned()]);
        let places: Vec<_> = all.iter().map(|path| Place::of(path).unwrap()).collect();
        assert_eq!(folders_of(&places, &Place::of(&state).unwrap()).unwrap(), expected.collect());
    }

    #[test]
    fn layers_that_overlap_are_refused() {
        let refused = |layers: &[&str]| {
            let layers: Vec<_> = layers.iter().map(PathBuf::from).collect();
            refuse_overlap(&layers).err().and_then(|error| error.errno())
        };
        assert_eq!(refused(&["/b", "/a", "/a-b", "/ab"]), None);
        assert_eq!(refused(&["/a/b", "/a-b", "/a"]), Some(Errno::ELOOP));
        assert_eq!(refused(&["/a", "/b", "/a"]), Some(Errno::ELOOP));
    }
}
