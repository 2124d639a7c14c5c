//! The names in a folder.
//!
//! Kernel object: a directory. The standard library's `ReadDir` panics when closedir(3) fails, as it can on a
//! file system that a network or a program serves. A runtime that panics leaves its cgroup behind. And
//! opendir(3) makes four calls around each getdents64(2), which a start would pay in every folder. Man pages:
//! getdents64(2), readdir(3).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use rustix::fs::{FileType, RawDir};

/// What getdents64(2) fills at once: room for all names of most folders.
const BUFFER: usize = 16 << 10;

/// All of them, but `.` and `..`, in no order.
///
/// # Errors
/// ENOENT, ENOTDIR, EACCES, EMFILE.
pub(crate) fn names_in(folder: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder: OwnedFd = open(folder.as_ref(), flags, Mode::empty())?;
    Ok(entries_of(&folder)?.into_iter().map(|(name, _)| name).collect())
}

/// The same for a folder that is open for reading, of which nothing was read yet. Each name comes with its
/// type, which not every file system tells.
///
/// # Errors
/// ENOENT when the folder has been removed; EIO.
pub(crate) fn entries_of(folder: impl AsFd) -> io::Result<Vec<(OsString, FileType)>> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut listed = RawDir::new(folder, buffer.spare_capacity_mut());
    let mut entries = Vec::new();
    while let Some(entry) = listed.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            entries.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(entries)
}

#[cfg(all(test, feature = "seccomp"))]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::security::capability::Capabilities;
    use crate::security::seccomp::{Action, Profile, fails_with};
    use crate::sys::set_no_new_privs;

    #[test]
    fn a_folder_that_cannot_be_closed_is_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let path = folder.path().to_owned();
        // A filter holds for its thread, and the thread ends.
        let names = std::thread::spawn(move || {
            let mut profile = Profile::new();
            profile.newer_calls(Action::Allow);
            profile.other_calls(Action::Allow);
            profile.refuse("close", fails_with(Errno::EIO));
            set_no_new_privs().unwrap();
            profile.compile(&Capabilities::new()).unwrap().load().unwrap();
            names_in(path).unwrap()
        });
        assert_eq!(names.join().unwrap(), ["file"]);
    }
}
