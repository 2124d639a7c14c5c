//! Extended attributes of a file, of the link itself where it is one.
//!
//! `security.capability` makes a program more than its owner allows, `system.posix_acl_*` are access lists,
//! `user.*` is for everybody; `trusted.overlay.*` is how overlayfs notes whiteouts and opaque folders. See
//! xattr(7).

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// What overlayfs and SELinux note for themselves: it belongs to this machine, not to an image.
pub(super) fn is_machines_own(name: &[u8]) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay.", b"security.selinux"].iter().any(|own| name.starts_with(own))
}

/// The names of a file's attributes; none on a file system that has no attributes.
pub(super) fn list(path: &Path) -> nix::Result<Vec<CString>> {
    let path = c_string(path.as_os_str().as_bytes())?;
    let names = read(|buffer, size| {
        // SAFETY: the path is NUL-terminated, and the kernel writes at most `size` bytes.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), size) }
    });
    match names {
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        names => Ok(names?
            .split_inclusive(|&byte| byte == 0)
            .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
            .map(CStr::to_owned)
            .collect()),
    }
}

/// The value of an attribute.
pub(super) fn get(path: &Path, name: &CStr) -> nix::Result<Vec<u8>> {
    let path = c_string(path.as_os_str().as_bytes())?;
    read(|buffer, size| {
        // SAFETY: both strings are NUL-terminated, and the kernel writes at most `size` bytes.
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer, size) }
    })
}

/// Gives a file an attribute.
pub(super) fn set(path: &Path, name: &[u8], value: &[u8]) -> nix::Result<()> {
    let (path, name) = (c_string(path.as_os_str().as_bytes())?, c_string(name)?);
    // SAFETY: both strings are NUL-terminated, and the kernel reads the value's bytes only.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// Takes an attribute away.
pub(super) fn remove(path: &Path, name: &CStr) -> nix::Result<()> {
    let path = c_string(path.as_os_str().as_bytes())?;
    // SAFETY: both strings are NUL-terminated.
    Errno::result(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}

/// Asks for the size, then for the bytes, until they fit: another process may change them meanwhile.
fn read(call: impl Fn(*mut libc::c_void, usize) -> isize) -> nix::Result<Vec<u8>> {
    loop {
        let size = Errno::result(call(std::ptr::null_mut(), 0))? as usize;
        let mut buffer = vec![0_u8; size];
        if size == 0 {
            return Ok(buffer);
        }
        match Errno::result(call(buffer.as_mut_ptr().cast(), size)) {
            Err(Errno::ERANGE) => {}
            result => {
                buffer.truncate(result? as usize);
                return Ok(buffer);
            }
        }
    }
}

fn c_string(bytes: &[u8]) -> nix::Result<CString> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}
