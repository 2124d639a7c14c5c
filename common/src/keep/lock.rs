//! Files and folders that stand for something as long as their lock is held.
//!
//! Kernel objects: locks on open files (flock(2)), which the kernel releases when their holder ends, however it ends. A file
//! whose lock is free was left by a process that was killed, and may go. So a name may lead to another file, or to none,
//! as soon as one has looked: whoever has a lock asks [`is_at`] what it is the lock of.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

/// How often a folder is made that others remove at once: each time one of them must have ended just then.
const TRIES: usize = 1000;

/// Makes a folder and those above it, also where others remove them when nothing is in them. Then it may be gone again
/// before anything was put into it.
///
/// # Errors
/// EACCES, EROFS, ENOSPC; EEXIST and ENOTDIR where something else has its name.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut made = fs::create_dir_all(folder);
    for _ in 1..TRIES {
        match made.as_ref().map_err(io::Error::kind) {
            // NotFound: the one above it went after it was made. AlreadyExists: it was there for mkdir(2), and gone when
            // the library looked at what it is.
            Err(io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => made = fs::create_dir_all(folder),
            _ => break,
        }
    }
    made
}

/// Whether the file is the one that is at this path now.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(there)) => identity(file) == identity(there),
        _ => false,
    }
}

/// Waits for a file's lock that only one process has at a time. The file is made, and stays.
///
/// # Errors
/// EACCES, EROFS, ENOSPC; ENOLCK where the file system has no locks.
pub(crate) fn alone(path: &Path) -> io::Result<Flock<File>> {
    // Open for writing, because NFS grants no exclusive lock otherwise.
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_remove_is_made() {
        let home = tempfile::tempdir().unwrap();
        let (above, folder) = (home.path().join("run"), home.path().join("run/ids"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        make_folder(&folder).unwrap();
                        let _ = fs::remove_dir(&folder);
                        let _ = fs::remove_dir(&above);
                    }
                });
            }
        });
    }

    #[test]
    fn what_is_no_folder_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let (file, link) = (home.path().join("file"), home.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for (path, kind) in [
            (&file, io::ErrorKind::AlreadyExists),
            (&file.join("x"), io::ErrorKind::NotADirectory),
            (&link.join("x"), io::ErrorKind::AlreadyExists),
        ] {
            assert_eq!(make_folder(path).unwrap_err().kind(), kind, "{path:?}");
        }
    }

    #[test]
    fn a_lock_is_of_the_file_that_has_the_name() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let lock = alone(&path).unwrap();
        assert!(is_at(&lock, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&lock, &path));
        let other = alone(&path).unwrap();
        assert!(is_at(&other, &path) && !is_at(&lock, &path));
    }
}
