//! Extended attributes of a file, of the link itself where it is one.
//!
//! `security.capability` makes a program more than its owner allows. `system.posix_acl_*` are access lists,
//! and `user.*` is for everybody. In `trusted.overlay.*` overlayfs notes whiteouts and opaque folders.
//! Man pages: xattr(7), listxattr(2), getxattr(2), setxattr(2).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::sys::error::errno;

/// Which user one is in a copy.
pub(crate) type Users<'a> = &'a dyn Fn(u32) -> Option<u32>;

/// The label that SELinux gives by place.
const LABEL: &[u8] = b"security.selinux";
const CAPABILITY: &str = "security.capability";

/// What belongs to the place and not to the file: SELinux's label, and the notes of overlayfs.
pub(crate) fn is_machines_own(name: &[u8]) -> bool {
    [LABEL, b"trusted.overlay.", b"user.overlay."].iter().any(|own| name.starts_with(own))
}

/// The names of a file's attributes; none on a file system that has no attributes.
pub(crate) fn list(path: &Path) -> nix::Result<Vec<OsString>> {
    match xattr::list(path).map_err(|error| errno(&error)) {
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        names => Ok(names?.collect()),
    }
}

/// The names of the attributes of the file to which a link leads.
#[cfg(feature = "image")]
pub(crate) fn list_of_target(path: &Path) -> nix::Result<Vec<OsString>> {
    match xattr::list_deref(path).map_err(|error| errno(&error)) {
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        names => Ok(names?.collect()),
    }
}

/// The value of an attribute of the file to which a link leads. ENODATA without it.
#[cfg(feature = "image")]
pub(crate) fn get_of_target(path: &Path, name: impl AsRef<OsStr>) -> nix::Result<Vec<u8>> {
    xattr::get_deref(path, name).map_err(|error| errno(&error))?.ok_or(Errno::ENODATA)
}

/// The value of an attribute. ENODATA without it.
pub(crate) fn get(path: &Path, name: impl AsRef<OsStr>) -> nix::Result<Vec<u8>> {
    xattr::get(path, name).map_err(|error| errno(&error))?.ok_or(Errno::ENODATA)
}

/// Gives a file an attribute.
pub(crate) fn set(path: &Path, name: impl AsRef<OsStr>, value: &[u8]) -> nix::Result<()> {
    xattr::set(path, name, value).map_err(|error| errno(&error))
}

/// Takes an attribute away.
#[cfg(feature = "image")]
pub(crate) fn remove(path: &Path, name: impl AsRef<OsStr>) -> nix::Result<()> {
    xattr::remove(path, name).map_err(|error| errno(&error))
}

/// Gives `to` the attributes of `from`. Neither is followed when it is a link. A file system that has none of
/// a kind gets none. With other `users` it is a layer that is copied, which needs the overlay's notes.
pub(crate) fn copy(from: &Path, to: &Path, users: Option<Users<'_>>) -> nix::Result<()> {
    for name in list(from)? {
        let bytes = name.as_bytes();
        if if users.is_some() { bytes.starts_with(LABEL) } else { is_machines_own(bytes) } {
            continue;
        }
        let read = get(from, &name).and_then(|value| match users {
            Some(users) if name == CAPABILITY => of_root(value, users).ok_or(Errno::EOVERFLOW),
            _ => Ok(value),
        });
        match read.and_then(|value| set(to, &name, &value)) {
            Err(Errno::EOPNOTSUPP | Errno::ENODATA) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Capabilities for the programs of another root: `struct vfs_ns_cap_data` of the kernel, version 3, which is
/// version 2 with the id of that root behind it. They count only in the container of that root.
fn of_root(mut value: Vec<u8>, users: Users<'_>) -> Option<Vec<u8>> {
    const VERSION_2: u8 = 2;
    const VERSION_3: u8 = 3;
    let root = match (value.get(3), value.len()) {
        (Some(&VERSION_2), 20) => 0,
        (Some(&VERSION_3), 24) => u32::from_le_bytes(value.split_off(20).try_into().ok()?),
        // What the kernel has no longer written since 2008.
        _ => return Some(value),
    };
    value[3] = VERSION_3;
    value.extend(users(root)?.to_le_bytes());
    Some(value)
}
