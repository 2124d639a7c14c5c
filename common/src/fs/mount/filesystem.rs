//! A new filesystem as a descriptor: fsopen(2), fsconfig(2), fsmount(2), of Linux 5.2.
//!
//! Kernel objects: a filesystem context, and a mount that is attached nowhere.
//! Source: the kernel's filesystems/mount_api.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

use crate::sys::call;
use crate::sys::error::{Error, Hint, Result};

pub(super) fn create(kind: &str, read_only: bool) -> Result<OwnedFd> {
    let name = CString::new(kind).map_err(|_| Error::new(format!("{kind:?}: a NUL byte in a name")))?;
    let context = call(
        "fsopen(2)",
        || format!("fsopen({kind:?}, FSOPEN_CLOEXEC)"),
        || {
            // SAFETY: the name is a NUL-terminated string; a new descriptor is returned.
            new_descriptor(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), libc::FSOPEN_CLOEXEC) })
        },
    )?;
    let at = context.as_raw_fd();
    let null = ptr::null::<libc::c_char>();
    call(
        "fsconfig(2)",
        || format!("fsconfig({at}, FSCONFIG_CMD_CREATE, NULL, NULL, 0)"),
        || {
            // SAFETY: this command takes no key and no value.
            let result =
                unsafe { libc::syscall(libc::SYS_fsconfig, at, libc::FSCONFIG_CMD_CREATE, null, null, 0) };
            Errno::result(result).map(drop)
        },
    )
    .hint_if(Errno::EPERM, "the container around this one may not mount it")?;
    let safe = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let (attributes, names) = if read_only {
        (safe | libc::MOUNT_ATTR_RDONLY, "NOSUID|NODEV|NOEXEC|RDONLY")
    } else {
        (safe, "NOSUID|NODEV|NOEXEC")
    };
    call(
        "fsmount(2)",
        || format!("fsmount({at}, FSMOUNT_CLOEXEC, MOUNT_ATTR_{names})"),
        || {
            // SAFETY: the call takes numbers; a new descriptor is returned.
            new_descriptor(unsafe { libc::syscall(libc::SYS_fsmount, at, libc::FSMOUNT_CLOEXEC, attributes) })
        },
    )
    .hint_if(
        Errno::EPERM,
        "a user namespace may show it only where the host's own hides nothing: not in most containers",
    )
}

fn new_descriptor(result: libc::c_long) -> nix::Result<OwnedFd> {
    // SAFETY: nobody else knows of it.
    Errno::result(result).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}
