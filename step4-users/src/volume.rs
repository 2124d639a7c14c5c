//! Volumes: folders and files that are not part of the container's root, and outlive it.
//!
//! Kernel objects: bind mounts, and tmpfs for what must not last. Order: the sources are opened as mounts
//! that are attached nowhere, while the host is in sight. They are attached when the host is out of sight. So
//! no link in the container's root can lead a path to the host. Man pages: open_tree(2), move_mount(2),
//! openat2(2), mount_setattr(2), tmpfs(5).

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use common::fs::mount::{Detached, check_propagation};
use common::fs::path::{self, Kind};
use common::ids::idmap::mount_own;
use common::keep::state::{OwnVolume, Volumes, make_source};
use common::sys::mount;
use common::values::{Mount, Source, Tmpfs, Volume};
use common::{Context, Result};
use nix::mount::MsFlags;

use crate::user_namespace::UserNamespace;

/// A volume whose source is open.
pub enum Opened {
    /// A mount that is attached nowhere yet; and Congo's own volume, which may be filled.
    Volume(Volume, Detached, Option<OwnVolume>),
    /// A tmpfs needs no source.
    Tmpfs(Tmpfs),
}

/// In the parent, for as long as it lives: locks the named volumes. Another runtime may be filling one.
pub fn lock(mounts: &[Mount], state: &Path) -> Result<Volumes> {
    let names = mounts.iter().filter_map(|mount| match mount {
        Mount::Volume(Volume { source: Source::Named(name), .. }) => Some(name.as_str()),
        _ => None,
    });
    Volumes::lock(state, names)
}

/// In the parent, with the host in sight: opens the sources, and makes those that may be made. The child
/// inherits them. Volumes without a name lie in the container's own `folder`.
pub fn open(mounts: &[Mount], named: &Volumes, folder: &Path, users: &UserNamespace) -> Result<Vec<Opened>> {
    let mounts = mounts.iter().enumerate();
    mounts
        .map(|(number, mount)| match mount {
            Mount::Tmpfs(tmpfs) => Ok(Opened::Tmpfs(tmpfs.clone())),
            Mount::Volume(volume) => {
                let mut own = match &volume.source {
                    Source::Host(path) => return open_host(volume, path, users),
                    Source::Named(name) => named.open(name)?,
                    // It has no name by which another run could find it, so it goes with the container.
                    Source::Anonymous => OwnVolume::anonymous(folder, number)?,
                };
                // In a volume of Congo's own, the files of the container's root are root's on the disk. The
                // next container has other ids. A folder of the host keeps its owners.
                let source = mount_own(&mut own, users.shift(), &volume.target)?;
                prepare(volume, source).map(|source| Opened::Volume(volume.clone(), source, Some(own)))
            }
        })
        .collect()
}

fn open_host(volume: &Volume, path: &Path, users: &UserNamespace) -> Result<Opened> {
    check_propagation(path, volume.propagation.flags())?;
    if volume.create_source && !path.exists() {
        make_source(path)?;
    }
    let source = Detached::copy_of(path)?;
    // Where the container has no ids of its own, they are the host's anyway.
    let source = match users.shift() {
        Some(shift) if volume.idmap => source.must_map_ids(shift.namespace, path)?,
        _ => source,
    };
    Ok(Opened::Volume(volume.clone(), prepare(volume, source)?, None))
}

/// Before the mount is attached: afterwards there would be a moment in which it is writable, or shared.
fn prepare(volume: &Volume, mut source: Detached) -> Result<Detached> {
    source.set_propagation(volume.propagation.flags())?;
    if volume.read_only {
        source.make_read_only()?;
    }
    // A folder may hold any device of the host, and with --userns host even root in here can make one. A
    // volume that is a device itself was asked for, and so were those of /dev.
    if source.is_directory()? && !source.is_of_dev()? {
        source.forbid_devices()?;
    }
    Ok(source)
}

/// In the child, in its root: attaches them, in the order in which they were asked for.
pub fn attach(volumes: Vec<Opened>) -> Result<()> {
    let root: OwnedFd = File::open("/").context("open /")?.into();
    for volume in volumes {
        match volume {
            Opened::Tmpfs(tmpfs) => attach_tmpfs(&root, &tmpfs)?,
            Opened::Volume(volume, source, own) => {
                let kind = if source.is_directory()? { Kind::Directory } else { Kind::File };
                let hides = path::open_beneath(&root, &volume.target).is_ok();
                // By descriptor: between a look at a path and the mount, a process that shares this root
                // could put a link in its place (CVE-2021-30465).
                let target = path::make_beneath(&root, &volume.target, kind)?;
                path::check_target(&root, &target, &volume.target)?;
                match own {
                    // An empty volume begins with the files that it is about to hide.
                    Some(own) if volume.copy && hides => own.fill(&target)?,
                    Some(own) => own.release()?,
                    None => {}
                }
                source.attach_at(&target)?;
            }
        }
    }
    Ok(())
}

fn attach_tmpfs(root: &OwnedFd, tmpfs: &Tmpfs) -> Result<()> {
    let hides = path::open_beneath(root, &tmpfs.target).ok();
    let target = path::make_beneath(root, &tmpfs.target, Kind::Directory)?;
    path::check_target(root, &target, &tmpfs.target)?;
    let read_only = if tmpfs.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let place = format!("/proc/self/fd/{}", target.as_raw_fd());
    mount("tmpfs", place, "tmpfs", tmpfs.flags | read_only, &tmpfs.options_over(hides.as_ref())?)
}
