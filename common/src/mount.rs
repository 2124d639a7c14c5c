//! The newer mount calls (5.2): a mount as a descriptor, which is attached to a place later.
//!
//! Kernel object: a mount that is attached nowhere, until it is. So what is found by the host's paths can be put into a
//! root in which they mean nothing. Man pages: open_tree(2), move_mount(2), setns(2).

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

use crate::error::{Error, Result};
use crate::namespace::enter;
use crate::syscall::call;

/// A copy of a mount, attached nowhere yet. Dropped before it is, it is gone.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Copies the mount in which the directory `path` lies, as a bind mount of that directory.
    ///
    /// # Errors
    /// ENOENT, EPERM without `CAP_SYS_ADMIN`.
    pub fn copy_of(path: &str) -> Result<Detached> {
        let root = File::open("/").map_err(|error| Error::from_io("open /", &error))?;
        Detached::beneath(root.as_fd(), path.trim_start_matches('/'))
    }

    /// The same for a directory of a container: `pid` is one of its processes, `path` begins at its root. This process,
    /// which must have one thread, visits that container's mount namespace for it, as the kernel copies mounts of the
    /// caller's namespace only. It comes back to `/`.
    ///
    /// # Errors
    /// ESRCH when the process has ended; ENOTDIR, ELOOP when a part of the path is no directory: a link could lead out
    /// of that container.
    pub fn copy_in_container(pid: i32, path: &str) -> Result<Detached> {
        let open =
            |path: String| File::open(&path).map_err(|error| Error::from_io(format!("open {path}"), &error));
        let root = open(format!("/proc/{pid}/root"))?;
        let (here, there) = (open("/proc/self/ns/mnt".into())?, open(format!("/proc/{pid}/ns/mnt"))?);
        enter(&there.into(), CloneFlags::CLONE_NEWNS)?;
        let copy = Detached::beneath(root.as_fd(), path);
        enter(&here.into(), CloneFlags::CLONE_NEWNS)?;
        copy
    }

    /// Follows no links.
    fn beneath(root: BorrowedFd<'_>, path: &str) -> Result<Detached> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = root.try_clone_to_owned().map_err(|error| Error::from_io("dup", &error))?;
        for name in path.split('/') {
            directory = openat(&directory, name, flags, Mode::empty())
                .map_err(|errno| Error::from_errno(format!("open {name} of {path}"), errno))?;
        }
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
        let tree = call(
            "open_tree(2)",
            || format!("open_tree({path:?}, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)"),
            || {
                // SAFETY: the path is a NUL-terminated string; a new descriptor is returned.
                let result =
                    unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), c"".as_ptr(), flags) };
                // SAFETY: nobody else knows of it.
                Errno::result(result).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
            },
        )?;
        Ok(Detached(tree))
    }

    /// Attaches it at the directory `target`.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EPERM without `CAP_SYS_ADMIN`.
    pub fn attach(self, target: &str) -> Result<()> {
        let path =
            CString::new(target).map_err(|_| Error::new(format!("{target:?}: a NUL byte in a path")))?;
        call(
            "move_mount(2)",
            || {
                format!(
                    "move_mount({}, \"\", AT_FDCWD, {target:?}, MOVE_MOUNT_F_EMPTY_PATH)",
                    self.0.as_raw_fd()
                )
            },
            || {
                // SAFETY: both paths are NUL-terminated strings.
                let result = unsafe {
                    libc::syscall(
                        libc::SYS_move_mount,
                        self.0.as_raw_fd(),
                        c"".as_ptr(),
                        libc::AT_FDCWD,
                        path.as_ptr(),
                        libc::MOVE_MOUNT_F_EMPTY_PATH,
                    )
                };
                Errno::result(result).map(drop)
            },
        )
    }
}
