//! Whether a tree of mounts may be written to, and how it shares later mounts with others: changed by
//! descriptor.
//!
//! mount_setattr(2) of 5.12 changes a whole tree at once, all of it or nothing, attached or not. Older
//! kernels change one mount with each mount(2), by path and only where it is attached. For an open descriptor
//! that path is `/proc/self/fd/N`.
//! Man pages: mount_setattr(2), mount(2), proc_pid_mountinfo(5).

use std::os::fd::{AsRawFd, OwnedFd};

#[cfg(feature = "idmap")]
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::mountinfo::{self, Mount};
use crate::sys::error::{Context, Error, Result};
use crate::sys::mount;
use crate::sys::mounts::set_attributes;

/// Makes the tree read-only. `false` when this kernel has no such call.
pub(super) fn make_read_only(tree: &OwnedFd) -> Result<bool> {
    set(tree, true, "attr_set=MOUNT_ATTR_RDONLY", |attributes| attributes.attr_set = libc::MOUNT_ATTR_RDONLY)
}

/// Lets no device in the tree work. `false` when this kernel has no such call.
pub(super) fn forbid_devices(tree: &OwnedFd) -> Result<bool> {
    set(tree, true, "attr_set=MOUNT_ATTR_NODEV", |attributes| attributes.attr_set = libc::MOUNT_ATTR_NODEV)
}

/// Sets the propagation of the tree, or without MS_REC of its topmost mount. `false` when this kernel has no
/// such call.
pub(super) fn set_propagation(tree: &OwnedFd, flags: MsFlags) -> Result<bool> {
    let kind = flags.difference(MsFlags::MS_REC);
    let name = kind.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join("|");
    set(tree, flags.contains(MsFlags::MS_REC), &format!("propagation={name}"), |attributes| {
        attributes.propagation = kind.bits();
    })
}

/// Maps the ids of the topmost mount, as `userns` does. `false` when this kernel, or the file system, cannot.
#[cfg(feature = "idmap")]
pub(super) fn map_ids(tree: &OwnedFd, userns: &OwnedFd) -> Result<bool> {
    let descriptor = userns.as_raw_fd();
    let what = format!("attr_set=MOUNT_ATTR_IDMAP, userns_fd={descriptor}");
    let result = set(tree, false, &what, |attributes| {
        attributes.attr_set = libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = descriptor.cast_unsigned().into();
    });
    match result {
        // EINVAL: not this kind of file system, or not in this kernel. EPERM: mapped already, or attached
        // already.
        Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPERM)) => {
            Ok(false)
        }
        result => result,
    }
}

fn set(
    tree: &OwnedFd,
    recursive: bool,
    what: &str,
    fill: impl FnOnce(&mut libc::mount_attr),
) -> Result<bool> {
    let mut attributes = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    fill(&mut attributes);
    set_attributes(tree, recursive, what, attributes)
}

/// The older way: adds the flags `with` to each mount of an attached tree by itself.
///
/// # Errors
/// EPERM; and when a mount below cannot be reached, as one that stayed writable must not pass for read-only.
pub(super) fn remount_each(tree: &OwnedFd, with: MsFlags) -> Result<()> {
    let (top, below) = mountinfo::of_tree(tree)?;
    remount(tree, &top, with)?;
    below.iter().try_for_each(|mount| remount(&open_mount(mount)?, mount, with))
}

/// Mounts an empty filesystem, which nobody can write to, over each mount right below the topmost one of an
/// attached tree. The mounts below those are then out of reach, too.
pub(super) fn cover_each_below(tree: &OwnedFd) -> Result<()> {
    let (top, below) = mountinfo::of_tree(tree)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mut right_below = below.iter().filter(|mount| mount.parent == top.id);
    right_below.try_for_each(|found| mount("tmpfs", &found.point, "tmpfs", flags, "mode=555,nr_inodes=2"))
}

/// The older way, for an attached tree.
pub(super) fn remount_propagation(tree: &OwnedFd, flags: MsFlags) -> Result<()> {
    mount("none", path_of(tree), "", flags, "")
}

/// Adds flags to one attached mount.
pub(super) fn remount(open: &OwnedFd, listed: &Mount, with: MsFlags) -> Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | with | kept_flags(&listed.options);
    mount("none", path_of(open), "", flags, "")
}

/// A remount replaces all flags of a mount: those that are not named again would be lifted.
fn kept_flags(options: &str) -> MsFlags {
    const NO_SYMLINKS: MsFlags = MsFlags::from_bits_retain(1 << 8);
    let flag = |option| match option {
        "ro" => MsFlags::MS_RDONLY,
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        "nosymfollow" => NO_SYMLINKS,
        _ => MsFlags::empty(),
    };
    let kept: MsFlags = options.split(',').map(flag).collect();
    // With neither, the kernel would choose MS_RELATIME.
    let strict = !kept.intersects(MsFlags::MS_NOATIME | MsFlags::MS_RELATIME);
    if strict { kept | MsFlags::MS_STRICTATIME } else { kept }
}

/// Opens a mount by its path, and makes sure that it is that mount: a folder on the way may have been
/// renamed.
fn open_mount(wanted: &Mount) -> Result<OwnedFd> {
    let what = || format!("remount {}", wanted.point.display());
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = open(&wanted.point, flags, Mode::empty()).context(what())?;
    if mountinfo::id_of(&opened)? == wanted.id {
        return Ok(opened);
    }
    Err(Error::new(format!("{}: something else is there now", what()))
        .hint("another mount covers it; with Linux 5.12 or later, that does not matter"))
}

fn path_of(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}
