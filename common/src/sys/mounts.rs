//! The newer mount calls, one function each: a mount is a descriptor before it is anywhere.
//!
//! open_tree(2), move_mount(2), fsopen(2), fsconfig(2) and fsmount(2) came with Linux 5.2, mount_setattr(2)
//! with 5.12. The module [`fs::mount`](crate::fs::mount) says what they are good for.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::error::{Hint, Result};
use super::{call, names};

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// Copies the mount in which `path` lies, with all that is mounted below: open_tree(2). The copy is attached
/// nowhere.
///
/// # Errors
/// ENOENT; EPERM without `CAP_SYS_ADMIN`; EINVAL when it must not be copied or lies in another mount
/// namespace.
pub(crate) fn copy_mounts(path: &Path) -> Result<OwnedFd> {
    call(
        "open_tree(2)",
        || format!("open_tree(AT_FDCWD, {path:?}, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE)"),
        || rustix::mount::open_tree(CWD, path, CLONE | OpenTreeFlags::AT_RECURSIVE),
    )
}

/// Copies the mount of a directory that is open, without what is mounted below: open_tree(2). `named` is how
/// the narration calls it.
///
/// # Errors
/// As [`copy_mounts`].
pub(crate) fn copy_mount(directory: impl AsFd, named: &str) -> Result<OwnedFd> {
    call(
        "open_tree(2)",
        || format!("open_tree({named}, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)"),
        || rustix::mount::open_tree(&directory, c"", CLONE | OpenTreeFlags::AT_EMPTY_PATH),
    )
}

/// Attaches a mount at a path of this process: move_mount(2).
///
/// # Errors
/// ENOENT, ENOTDIR, EPERM without `CAP_SYS_ADMIN`.
pub(crate) fn attach(tree: &OwnedFd, target: &str) -> Result<()> {
    let at = tree.as_raw_fd();
    call(
        "move_mount(2)",
        || format!("move_mount({at}, \"\", AT_FDCWD, {target:?}, MOVE_MOUNT_F_EMPTY_PATH)"),
        || rustix::mount::move_mount(tree, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH),
    )
}

/// Attaches a mount at what is open: move_mount(2).
///
/// # Errors
/// EINVAL when one is a directory and the other is not, or the target is in another mount namespace; EPERM
/// without `CAP_SYS_ADMIN`.
pub(crate) fn attach_at(tree: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let (from, to) = (tree.as_raw_fd(), target.as_raw_fd());
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    call(
        "move_mount(2)",
        || {
            let flags = names(flags.iter_names().map(|(name, _)| name));
            format!("move_mount({from}, \"\", {to}, \"\", {flags})")
        },
        || rustix::mount::move_mount(tree, c"", target, c"", flags),
    )
}

/// Makes a new filesystem of this kind, attached nowhere, in which no device works, and no program or
/// set-user-ID bit: fsopen(2), fsconfig(2), fsmount(2).
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN` in the namespace that it shows, and in a container that hides a part of its
/// own.
pub(crate) fn new_filesystem(kind: &str, read_only: bool) -> Result<OwnedFd> {
    let context = open_filesystem(kind)?;
    create(&context).hint_if(Errno::EPERM, "the container around this one may not mount it")?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    let named = if read_only { "NOSUID|NODEV|NOEXEC|RDONLY" } else { "NOSUID|NODEV|NOEXEC" };
    mount_of(&context, attributes, named).hint_if(
        Errno::EPERM,
        "a user namespace may show it only where the host's own hides nothing: not in most containers",
    )
}

/// Makes a new overlay, attached nowhere, in which no device works: fsopen(2), fsconfig(2), fsmount(2).
/// `options` are those of mount(8). The lower layers are set one by one, as the kernel takes at most 256
/// bytes for one value.
///
/// # Errors
/// EINVAL before Linux 6.7, and before 6.15 when a layer is attached nowhere; those of mount(2).
#[cfg(feature = "idmap")]
pub(crate) fn new_overlay(options: &str) -> Result<OwnedFd> {
    let context = open_filesystem("overlay")?;
    for option in options.split(',') {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                layers.split(':').try_for_each(|layer| set(&context, "lowerdir+", Some(layer)))?;
            }
            Some((key, value)) => set(&context, key, Some(value))?,
            None => set(&context, option, None)?,
        }
    }
    create(&context)?;
    mount_of(&context, MountAttrFlags::MOUNT_ATTR_NODEV, "NODEV")
}

fn open_filesystem(kind: &str) -> Result<OwnedFd> {
    call(
        "fsopen(2)",
        || format!("fsopen({kind:?}, FSOPEN_CLOEXEC)"),
        || rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC),
    )
}

/// Sets an option of a filesystem that is not made yet.
#[cfg(feature = "idmap")]
fn set(context: &OwnedFd, key: &str, value: Option<&str>) -> Result<()> {
    let at = context.as_raw_fd();
    call(
        "fsconfig(2)",
        || match value {
            Some(value) => format!("fsconfig({at}, FSCONFIG_SET_STRING, {key:?}, {value:?}, 0)"),
            None => format!("fsconfig({at}, FSCONFIG_SET_FLAG, {key:?}, NULL, 0)"),
        },
        || match value {
            Some(value) => rustix::mount::fsconfig_set_string(context, key, value),
            None => rustix::mount::fsconfig_set_flag(context, key),
        },
    )
}

fn create(context: &OwnedFd) -> Result<()> {
    let at = context.as_raw_fd();
    call(
        "fsconfig(2)",
        || format!("fsconfig({at}, FSCONFIG_CMD_CREATE, NULL, NULL, 0)"),
        || rustix::mount::fsconfig_create(context),
    )
}

fn mount_of(context: &OwnedFd, attributes: MountAttrFlags, named: &str) -> Result<OwnedFd> {
    let at = context.as_raw_fd();
    call(
        "fsmount(2)",
        || format!("fsmount({at}, FSMOUNT_CLOEXEC, MOUNT_ATTR_{named})"),
        || rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes),
    )
}

/// Changes the attributes of a mount, attached or not, with `recursive` of the whole tree at once:
/// mount_setattr(2). `what` is how the narration shows the attributes. `false` when this kernel has no such
/// call.
///
/// # Errors
/// EINVAL for what this mount cannot have; EPERM without `CAP_SYS_ADMIN`.
pub(crate) fn set_attributes(
    tree: &OwnedFd,
    recursive: bool,
    what: &str,
    attributes: libc::mount_attr,
) -> Result<bool> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let (at, size) = (tree.as_raw_fd(), size_of_val(&attributes));
    let result = call(
        "mount_setattr(2)",
        || {
            let names = if recursive { "AT_EMPTY_PATH|AT_RECURSIVE" } else { "AT_EMPTY_PATH" };
            format!("mount_setattr({at}, \"\", {names}, {{{what}}}, {size})")
        },
        || {
            let (call, attributes) = (libc::SYS_mount_setattr, &raw const attributes);
            // SAFETY: the path is a NUL-terminated string, and the kernel reads `size` bytes of the
            // structure.
            Errno::result(unsafe { libc::syscall(call, at, c"".as_ptr(), flags, attributes, size) }).map(drop)
        },
    );
    match result {
        Err(error) if error.errno() == Some(Errno::ENOSYS) => Ok(false),
        result => result.map(|()| true),
    }
}

/// The number of the mount in which an open file lies: statx(2), `STATX_MNT_ID`. `None` before Linux 5.8.
pub(crate) fn mount_id(open: &OwnedFd) -> Option<u64> {
    let status = rustix::fs::statx(open, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let told = StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::MNT_ID);
    told.then_some(status.stx_mnt_id)
}
