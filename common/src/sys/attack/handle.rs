//! File handles: numbers by which a file is opened without a path, and so without regard to anybody's root.
//!
//! Kernel object: a handle, which is mostly an inode's number, of a file system. Man page:
//! open_by_handle_at(2).

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// The longest handle of today's kernels, in bytes.
const LONGEST: usize = 128;

/// The kernel's `struct file_handle`, with room for its last field.
#[repr(C)]
struct Raw {
    length: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; LONGEST],
}

/// A handle: its kind, and the bytes that only the file system understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// Which form the bytes have.
    pub kind: i32,
    /// The handle itself.
    pub bytes: Vec<u8>,
}

/// The handle of a file: name_to_handle_at(2). Everybody may ask who can name it.
///
/// # Errors
/// ENOENT; EOPNOTSUPP for a file system that has none.
pub fn of(path: &Path) -> nix::Result<Handle> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let mut raw = Raw { length: LONGEST as libc::c_uint, kind: 0, bytes: [0; LONGEST] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path ends with a NUL; the kernel writes to the two others no more than they have room for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut raw,
            &raw mut mount,
            0,
        )
    };
    Errno::result(result)?;
    Ok(Handle { kind: raw.kind, bytes: raw.bytes[..raw.length as usize].to_vec() })
}

/// Opens the file that has this handle, to read, on the file system on which `at` lies: open_by_handle_at(2).
///
/// # Errors
/// EPERM without `CAP_DAC_READ_SEARCH` in the first user namespace, or where a filter forbids it; ESTALE when
/// there is no such file.
pub fn open(at: impl AsFd, handle: &Handle) -> nix::Result<OwnedFd> {
    let mut raw = Raw { length: handle.bytes.len() as libc::c_uint, kind: handle.kind, bytes: [0; LONGEST] };
    raw.bytes.get_mut(..handle.bytes.len()).ok_or(Errno::EINVAL)?.copy_from_slice(&handle.bytes);
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the kernel reads the structure, which says how long it is; a new descriptor is returned.
    let result =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, at.as_fd().as_raw_fd(), &raw const raw, flags) };
    // SAFETY: nobody else knows of it.
    Errno::result(result).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}
