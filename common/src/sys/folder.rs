//! The names in a folder.
//!
//! Kernel object: a directory. The standard library's `ReadDir` panics when closedir(3) fails, as it can on a
//! file system that a network or a program serves, and a runtime that panics leaves its cgroup behind. Man
//! pages: readdir(3), closedir(3).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// All of them, but `.` and `..`, in no order.
///
/// # Errors
/// ENOENT, ENOTDIR, EACCES, EMFILE.
pub(crate) fn names_in(folder: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::open(folder.as_ref(), flags, Mode::empty())?.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
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
