//! The layers of a container whose users have other ids on the host than the files on the disk.
//!
//! The kernel can show files with other owners: an idmapped mount. Where the kernel or the file system has no
//! such mounts, copies take the place of the layers. `ShiftedLayers` decides between the two. With copies,
//! the writable layer has the host's ids on the disk, and needs a way back before it becomes an image.
//! Man pages: mount_setattr(2), user_namespaces(7).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::IdMaps;
use super::shifted::{ShiftedCopy, give, shifted_copies, unshifted_copy};
use crate::fs::mount::{Detached, can_map_ids};
use crate::keep::state::OwnVolume;
use crate::sys::error::{Context, Result};

/// Each layer is mapped by itself. Of two that overlap, one would be mapped twice, which the kernel refuses
/// with an errno that says less than overlayfs's.
fn refuse_overlap(layers: &[PathBuf]) -> Result<()> {
    let follow = |path: &PathBuf| path.canonicalize().at("follow", path);
    let real = layers.iter().map(follow).collect::<Result<Vec<_>>>()?;
    let lies_in_another = |number: usize| {
        let mut others = real.iter().enumerate().filter(|(other, _)| *other != number);
        others.any(|(_, other)| real[number].starts_with(other))
    };
    match (0..layers.len()).find(|&number| lies_in_another(number)) {
        Some(number) => Err(Errno::ELOOP).at("mount the layer", &layers[number]),
        None => Ok(()),
    }
}

/// The maps of a container and its user namespace, where its ids are not those on the disk.
type Shift<'a> = Option<(&'a IdMaps, &'a OwnedFd)>;

/// The lower layers of an overlay as they are to be mounted: the layers themselves, or copies of them that
/// belong to the container.
#[derive(Debug)]
pub struct ShiftedLayers {
    paths: Vec<PathBuf>,
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
    /// copied. ENOSPC, EROFS. EOVERFLOW for a file of a user whom the maps do not have. It is not an error if
    /// they have the user nobody (65534), who then owns the file.
    pub fn of(layers: &[PathBuf], state: &Path, shift: Shift<'_>) -> Result<ShiftedLayers> {
        let folders = || layers.iter().map(PathBuf::as_path);
        let copies = match shift {
            Some((maps, namespace)) if !can_map_ids(folders().chain([state]), namespace)? => {
                Some(shifted_copies(folders(), &state.join("shifted"), maps)?)
            }
            Some(_) => {
                refuse_overlap(layers)?;
                None
            }
            None => None,
        };
        let paths = match &copies {
            Some(copies) => copies.iter().map(|copy| copy.path.clone()).collect(),
            None => layers.to_owned(),
        };
        Ok(ShiftedLayers { paths, copies })
    }

    /// The folders to be mounted, in the order of the layers.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Whether the files in them have the container's ids on the disk already, so that no idmapped mount is
    /// needed.
    pub fn are_copies(&self) -> bool {
        self.copies.is_some()
    }

    /// Makes sure that the writable layer at `upper`, which was kept as `name`, belongs to this container. A
    /// new one is given to the container's root. Layers that are not copied need nothing: an idmapped mount
    /// shows any owner.
    ///
    /// # Errors
    /// It has files of other users.
    pub fn claim(&self, upper: &Path, name: &str, shift: Shift<'_>) -> Result<()> {
        match shift {
            Some((maps, _)) if self.are_copies() => give(upper, maps, &format!("--keep {name}")),
            _ => Ok(()),
        }
    }

    /// The writable layer with the ids that the container sees, as an image has them. Where copies of the
    /// layers were mounted, this is a copy at `to`, else `upper` itself.
    ///
    /// # Errors
    /// ENOSPC, EROFS; EEXIST for `to`; EOVERFLOW for a file that is of none of the container's users.
    pub fn for_image(&self, upper: PathBuf, to: PathBuf, shift: Shift<'_>) -> Result<PathBuf> {
        match shift {
            Some((maps, _)) if self.are_copies() => unshifted_copy(&upper, &to, maps).map(|()| to),
            _ => Ok(upper),
        }
    }
}

/// Mounts a volume of Congo's own, attached nowhere yet, for a container with other ids (`shift`). An
/// idmapped mount shows root's files as those of the container's root. Where there are no idmapped mounts, a
/// volume that is empty is given to that root for good. `target` is for the error.
///
/// # Errors
/// Without idmapped mounts, when the volume has files of other users.
pub fn mount_own(volume: &mut OwnVolume, shift: Shift<'_>, target: &Path) -> Result<Detached> {
    let mut mount = Detached::copy_of(&volume.path)?;
    if let Some((maps, namespace)) = shift {
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
