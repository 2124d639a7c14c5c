//! Folders of Congo's own: their owner, and the rights of other users to them.
//!
//! Congo removes and overwrites files in its state folder, with root's rights if root has called it. Another
//! user with a symbolic link there, such as `volumes`, would choose those files. A user with the right to
//! open a file, or a folder, can also lock it, and so keep every container waiting. So each of these folders
//! must be no link, belong to root or the caller, and be writable for no other user.
//!
//! Kernel objects: folders, looked at without following a link, and changed by a descriptor. The folders
//! above are not looked at. A user with the right to rename there can put another folder in the place
//! of this one. The next run refuses that one. Man pages: open(2) on `O_NOFOLLOW`, inode(7),
//! path_resolution(7).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::geteuid;

use crate::sys::error::{Context, Error, Result};
use crate::sys::privilege::Privilege;
use crate::sys::what_is_at;

/// How often a folder is made that others remove at once: each time one of them must have ended just then.
pub(super) const TRIES: usize = 1000;

/// The users that may look into a folder of Congo's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its owner. Programs in it may be set-user-ID, or somebody waits for locks in it.
    Owner,
    /// All users of the host.
    All,
}

impl Access {
    pub(super) fn mode(self) -> u32 {
        match self {
            Access::Owner => 0o700,
            Access::All => 0o755,
        }
    }
}

/// Makes a folder where it is missing, and those above it. Takes from others the rights to a folder that is
/// there already: an earlier version may have given them.
///
/// # Errors
/// It is a link or no folder, belongs to somebody else, or others may write to it; EACCES, EROFS, ENOSPC.
pub(crate) fn own_folder(folder: &Path, access: Access) -> Result<PathBuf> {
    let folder = without_slash(folder);
    let mut made = false;
    for _ in 0..TRIES {
        // Mostly one look is all that it takes.
        let there = look(&folder)?;
        if !made
            && let Some(there) = &there
            && there.mode() & 0o777 & !access.mode() == 0
        {
            return Ok(folder);
        }
        if let Some(open) = open_folder(&folder)? {
            take(&open, &folder, access.mode())?;
            if made {
                // The caller's umask may be strict.
                open.set_permissions(Permissions::from_mode(access.mode())).at("set the mode of", &folder)?;
            }
            return Ok(folder);
        }
        make(&folder, access.mode()).at("make", &folder)?;
        made = true;
    }
    Err(Error::from_errno(format!("make {}", folder.display()), Errno::ENOENT))
}

/// Refuses a folder that is not Congo's own. That it is missing is fine.
///
/// # Errors
/// As [`own_folder`], but nothing is made or changed.
pub(crate) fn check_own(folder: PathBuf) -> Result<PathBuf> {
    let folder = without_slash(&folder);
    look(&folder)?;
    Ok(folder)
}

/// Refuses a symbolic link in the place of what a container may change, such as the mode of its root.
///
/// # Errors
/// It is one; or that cannot be told.
pub(crate) fn refuse_link(path: &Path) -> Result<()> {
    let is_link = what_is_at(path)?.is_some_and(|kind| kind.is_symlink());
    if is_link { Err(refused(path, "it is a symbolic link")) } else { Ok(()) }
}

/// Whether a folder is there, and no link to one.
#[cfg(any(feature = "idmap", feature = "image"))]
pub(crate) fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| there.is_dir())
}

/// Looks whether an open file or folder is Congo's own, and takes from others what is not in `mode`. Returns
/// what it was before.
///
/// # Errors
/// As [`own_folder`].
pub(super) fn take(open: &File, path: &Path, mode: u32) -> Result<fs::Metadata> {
    let there = open.metadata().at("read", path)?;
    check(path, &there)?;
    // Root's are not an ordinary user's to change.
    if there.mode() & 0o777 & !mode != 0 && there.uid() == geteuid().as_raw() {
        open.set_permissions(Permissions::from_mode(there.mode() & mode)).at("set the mode of", path)?;
    }
    Ok(there)
}

/// Makes a folder with this mode, and those above it, also where others remove them when nothing is in them.
/// Then it may be gone again before anything was put into it.
///
/// # Errors
/// EACCES, EROFS, ENOSPC; EEXIST and ENOTDIR where something else has its name.
pub(super) fn make(folder: &Path, mode: u32) -> io::Result<()> {
    let make = || {
        // Those above may be anybody's, such as `/srv`: they get the mode that the caller's umask gives them.
        folder.parent().filter(|above| !above.exists()).map_or(Ok(()), fs::create_dir_all)?;
        DirBuilder::new().recursive(true).mode(mode).create(folder)
    };
    let mut made = make();
    for _ in 1..TRIES {
        match made.as_ref().map_err(io::Error::kind) {
            // NotFound: the one above it went after it was made. AlreadyExists: it was there for mkdir(2),
            // and gone when the library looked at what it is.
            Err(io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => made = make(),
            _ => break,
        }
    }
    made
}

/// Looks at a folder, which must be Congo's own; `None` when there is none.
fn look(folder: &Path) -> Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(there) if !there.is_dir() => Err(no_folder(folder)),
        there => {
            let there = there.at("read", folder)?;
            check(folder, &there)?;
            Ok(Some(there))
        }
    }
}

fn no_folder(path: &Path) -> Error {
    Error::from_errno(format!("{}: a symbolic link or a file", path.display()), Errno::ENOTDIR).hint(REMEDY)
}

/// Opens a folder; `None` when there is none.
fn open_folder(folder: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
    let open = match options.open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // By both flags, a link is no folder.
        Err(_) if fs::symlink_metadata(folder).is_ok_and(|there| !there.is_dir()) => {
            return Err(no_folder(folder));
        }
        opened => opened.at("open", folder)?,
    };
    Ok(Some(open))
}

fn check(path: &Path, there: &fs::Metadata) -> Result<()> {
    let (owner, mode) = (there.uid(), there.mode() & 0o7777);
    // Mostly it is root's, and then nothing has to be asked.
    if owner != 0 && !is_ours(owner, geteuid().as_raw(), Privilege::is_own_root()) {
        return Err(refused(path, &format!("it belongs to user {owner}, its mode is {mode:04o}")));
    }
    if mode & 0o022 != 0 {
        let what = format!("{}: others may write to it: user {owner}'s, mode {mode:04o}", path.display());
        return Err(Error::new(what).hint(format!("chmod go-w {}", path.display())));
    }
    Ok(())
}

/// Root's, or the caller's. Where an ordinary user's runtime has become root of a user namespace, all ids of
/// that namespace are the caller's. Only nobody is not: that id stands for all other users of the host.
fn is_ours(owner: u32, caller: u32, has_subordinate_ids: bool) -> bool {
    const NOBODY: u32 = 65534;
    owner == 0 || owner == caller || (has_subordinate_ids && owner != NOBODY)
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(format!("{}: {why}", path.display())).hint(REMEDY)
}

const REMEDY: &str = "Congo's state must be in folders, no links, of root or of you, and writable for nobody \
                      else: chmod go-w, or another CONGO_HOME";

/// With a `/` at the end of its path, a link to a folder would be followed.
fn without_slash(folder: &Path) -> PathBuf {
    folder.components().collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn what_was_wider_becomes_the_owners() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("above/it");
        for access in [Access::All, Access::Owner] {
            assert_eq!(own_folder(&folder, access).unwrap(), folder);
            assert_eq!(mode(&folder), access.mode());
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o500)).unwrap();
        own_folder(&folder, Access::All).unwrap();
        assert_eq!(mode(&folder), 0o500, "nothing is given");
    }

    #[test]
    fn what_others_can_change_is_refused_and_stays() {
        let home = tempfile::tempdir().unwrap();
        let (folder, link, file) =
            (home.path().join("it"), home.path().join("link"), home.path().join("file"));
        assert_eq!(check_own(folder.clone()).unwrap(), folder, "none is there yet");
        fs::create_dir(&folder).unwrap();
        symlink(&folder, &link).unwrap();
        fs::write(&file, "").unwrap();
        for path in [&link, &link.join(""), &link.join("."), &file] {
            for result in [own_folder(path, Access::Owner), check_own(path.clone())] {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("symbolic link or a file"), "{error}");
            }
        }
        assert_ne!(mode(&folder), 0o700, "the link was not followed");
        for others in [0o777, 0o1777, 0o775, 0o757] {
            fs::set_permissions(&folder, Permissions::from_mode(others)).unwrap();
            let error = own_folder(&folder, Access::Owner).unwrap_err().to_string();
            assert!(error.contains(&format!("{others:04o}")), "{error}");
            assert_eq!(mode(&folder), others);
        }
    }

    #[test]
    fn root_the_caller_and_its_subordinate_ids_are_trusted() {
        for (owner, caller, has_subordinate_ids, ours) in [
            (0, 0, false, true),
            (1000, 0, false, false),
            (0, 1000, false, true),
            (1000, 1000, false, true),
            (1001, 1000, false, false),
            (100_000, 1000, false, false),
            (1000, 0, true, true),
            (65534, 0, true, false),
        ] {
            assert_eq!(is_ours(owner, caller, has_subordinate_ids), ours, "{owner} for {caller}");
        }
    }
}
