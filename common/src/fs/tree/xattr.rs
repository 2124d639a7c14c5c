//! Extended attributes of files, links and directories: which there are, and copying them.
//!
//! POSIX ACLs (`system.posix_acl_access`) and file capabilities (`security.capability`) are such attributes, too.
//! Man pages: xattr(7), listxattr(2), getxattr(2), setxattr(2).

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Which user one is in a copy.
pub(super) type Users<'a> = &'a dyn Fn(u32) -> Option<u32>;

/// What belongs to the place and not to the file: the label that SELinux gives by place, and the overlay's own notes.
const LEFT: [&[u8]; 3] = [b"security.selinux", b"trusted.overlay.", b"user.overlay."];
const CAPABILITY: &[u8] = b"security.capability";

/// Gives `to` the attributes of `from`. Neither is followed when it is a link. A file system that has none of a kind gets
/// none. With other `users` it is a layer that is copied, which needs the overlay's notes.
pub(super) fn copy(from: &Path, to: &Path, users: Option<Users<'_>>) -> nix::Result<()> {
    let (from, to) = (text(from)?, text(to)?);
    let left = if users.is_some() { &LEFT[..1] } else { &LEFT[..] };
    for name in list(&from)? {
        if left.iter().any(|prefix| name.to_bytes().starts_with(prefix)) {
            continue;
        }
        let read = get(&from, &name).and_then(|value| match users {
            Some(users) if name.to_bytes() == CAPABILITY => of_root(value, users).ok_or(Errno::EOVERFLOW),
            _ => Ok(value),
        });
        match read.and_then(|value| set(&to, &name, &value)) {
            Err(Errno::EOPNOTSUPP | Errno::ENODATA) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Capabilities for the programs of another root: `struct vfs_ns_cap_data` of the kernel, version 3, which is version 2 with
/// the id of that root behind it. Whose container that is, they are worth something in; anywhere else they are not.
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

/// The names of a file's attributes.
fn list(path: &CStr) -> nix::Result<Vec<CString>> {
    let names = match grow(|buffer| {
        // SAFETY: the kernel reads the string, and writes at most `len` bytes, or none when that is 0.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    }) {
        Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
        result => result?,
    };
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

fn get(path: &CStr, name: &CStr) -> nix::Result<Vec<u8>> {
    grow(|buffer| {
        // SAFETY: as above, with two strings.
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

fn set(path: &CStr, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: the kernel reads two strings and `len` bytes.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// Asks how much there is, and reads it; again, when it has become more meanwhile.
fn grow(read: impl Fn(&mut [u8]) -> libc::ssize_t) -> nix::Result<Vec<u8>> {
    loop {
        let mut buffer = vec![0; Errno::result(read(&mut []))? as usize];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match Errno::result(read(&mut buffer)) {
            Err(Errno::ERANGE) => {}
            length => {
                buffer.truncate(length? as usize);
                return Ok(buffer);
            }
        }
    }
}

fn text(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

/// All attributes of a file, for tests.
#[cfg(test)]
pub(super) fn all(path: &Path) -> std::collections::BTreeMap<CString, Vec<u8>> {
    let path = text(path).unwrap();
    list(&path).unwrap().into_iter().map(|name| (name.clone(), get(&path, &name).unwrap())).collect()
}

/// Gives a file an attribute, for tests.
#[cfg(test)]
pub(super) fn give(path: &Path, name: &CStr, value: &[u8]) {
    set(&text(path).unwrap(), name, value).unwrap();
}
