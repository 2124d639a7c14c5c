//! Copying and removing a tree of files as it is: to fill a volume with what the image has at its place.
//!
//! Kernel objects: directories, each opened once and then used by descriptor, so no link is ever followed.
//! Order, for each file: owner, then extended attributes, then mode, then times. Each of them changes one
//! that comes later: chown(2) takes the set-user-ID bit and `security.capability` away. Needs /proc.
//! Man pages: openat(2), chown(2), xattr(7), utimensat(2), hier(7).

mod remove;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, fchownat, linkat, symlinkat};

#[cfg(feature = "idmap")]
use nix::unistd::geteuid;

use crate::fs::holes;
use crate::fs::mount::mounts_beneath;
use crate::fs::xattr;
use crate::sys::error::{Context, Error, Result, errno};
use crate::sys::folder::names_in;
use remove::stops_at_mounts;
pub(crate) use remove::{remove_all, remove_contents};

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Copies the content of the directory `from` into the empty directory `to`, and gives `to` the owner, mode
/// and times of `from`. Files keep their owners, modes, times and extended attributes. Links stay links, and
/// hard links among them stay hard links. Devices, pipes and sockets are copied as such. Mounts below `from`
/// are copied as if they belonged to it.
///
/// # Errors
/// ENOSPC, EROFS, EACCES. EPERM when devices or owners may not be made. Files that were copied until then
/// remain.
pub fn copy_contents(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    copy_with(from, to, None)
}

/// The owner and group of a copied file, by those of the original. `None` when they have no place there.
type Owners<'a> = &'a dyn Fn(u32, u32) -> Option<(u32, u32)>;

/// Copies a layer of an overlay, with the overlay's own notes, for a container whose users are others on the
/// host. A program with capabilities has them there only when they name that container's root:
/// capabilities(7), "namespaced".
///
/// # Errors
/// As [`copy_contents`]; EOVERFLOW for a file whose owner has no place.
#[cfg(feature = "idmap")]
pub(crate) fn copy_layer(from: &OwnedFd, to: &OwnedFd, owners: Owners<'_>) -> Result<()> {
    copy_with(from, to, Some(owners))
}

fn copy_with(from: &OwnedFd, to: &OwnedFd, owners: Option<Owners<'_>>) -> Result<()> {
    let mut copy = Copy { to, owners, links: HashMap::new() };
    copy.contents(from, to, Path::new("")).map_err(|(path, errno)| {
        Error::from_errno(format!("copy {}", Path::new("/").join(path).display()), errno)
    })
}

/// Gives the directory `to` the owner, mode, times and extended attributes of the directory `from`, and
/// nothing that is in it. The root of an overlay looks like that of its uppermost layer: a new one must look
/// like the layer below.
///
/// # Errors
/// ENOENT, EPERM, EROFS.
pub fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let open = |path: &Path| open(path, DIRECTORY & !OFlag::O_NOFOLLOW, Mode::empty());
    let copy = || {
        let (from, to) = (open(from)?, open(to)?);
        let copy = Copy { to: &to, owners: None, links: HashMap::new() };
        copy.attributes(&from, OsStr::new("."), &to, &fstat(&from)?)
    };
    copy().map_err(|errno| {
        Error::from_errno(format!("give {} what {} has", to.display(), from.display()), errno)
    })
}

/// Whether a folder in an overlay's layer hides the content that the layers below have for it. The attribute
/// `trusted.overlay.opaque` says so, or `user.overlay.opaque` when the overlay was mounted in a user
/// namespace.
pub fn is_opaque(path: &Path) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| xattr::get(path, name).is_ok_and(|it| it == b"y"))
}

/// Removes a directory with all that is in it, however deep, or a file. Follows no links; that nothing is
/// there is fine. What an ordinary user's containers have made may belong to its subordinate ids: that is
/// removed in a user namespace.
///
/// # Errors
/// When something is mounted in it: what is mounted stays, but not all that lies beside it. EBUSY when
/// somebody goes on adding to it; EACCES, EROFS, EPERM for an immutable file.
pub fn remove_tree(path: &Path) -> Result<()> {
    if !stops_at_mounts() {
        nothing_mounted_in(path)?;
    }
    match remove_all(path) {
        #[cfg(feature = "idmap")]
        Err(Errno::EACCES | Errno::EPERM) if !geteuid().is_root() => {
            crate::ids::idmap::in_own_namespace(|| remove_tree(path))
        }
        // EBUSY: a mount on a file, or on an empty folder.
        Err(errno @ (Errno::EXDEV | Errno::EBUSY)) => {
            nothing_mounted_in(path)?;
            Err(errno).at("remove", path)
        }
        result => result.at("remove", path),
    }
}

/// Refuses to remove a tree in which somebody has mounted something.
///
/// # Errors
/// Something is mounted there; the list of mounts cannot be read.
pub(crate) fn nothing_mounted_in(path: &Path) -> Result<()> {
    let Some(mount) = mounts_beneath(path)? else { return Ok(()) };
    let mount = mount.display();
    Err(Error::new(format!("remove {}: something is mounted on {mount}", path.display()))
        .hint(format!("umount {mount}")))
}

/// Whether a directory is empty.
///
/// # Errors
/// None that the caller can cause.
pub fn is_empty(directory: &OwnedFd) -> Result<bool> {
    entries(directory).map(|names| names.is_empty()).context("read a folder")
}

/// Where in the tree, and why not.
type Failed = (PathBuf, Errno);

struct Copy<'a> {
    to: &'a OwnedFd,
    owners: Option<Owners<'a>>,
    /// Files with several names, by device and inode, and the name under which each was copied first.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copy<'_> {
    fn contents(&mut self, from: &OwnedFd, to: &OwnedFd, path: &Path) -> Result<(), Failed> {
        let here = |errno| (path.to_owned(), errno);
        // It may be open by O_PATH only, which does not allow to read it.
        let from = openat(from, ".", DIRECTORY, Mode::empty()).map_err(here)?;
        for name in entries(&from).map_err(here)? {
            self.entry(&from, to, &name, &path.join(&name))?;
        }
        // Last, as each new name sets the time of its directory.
        self.attributes(&from, OsStr::new("."), to, &fstat(&from).map_err(here)?).map_err(here)
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Failed> {
        let here = |errno| (path.to_owned(), errno);
        let status = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(here)?;
        let kind = SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            let below = openat(from, name, DIRECTORY, Mode::empty()).map_err(here)?;
            mkdirat(to, name, Mode::S_IRWXU).map_err(here)?;
            let copied = openat(to, name, DIRECTORY, Mode::empty()).map_err(here)?;
            return self.contents(&below, &copied, path);
        }
        if status.st_nlink > 1 {
            if let Some(first) = self.links.get(&(status.st_dev, status.st_ino)) {
                return linkat(self.to, first, to, name, LinkatFlags::empty()).map_err(here);
            }
            self.links.insert((status.st_dev, status.st_ino), path.to_owned());
        }
        match kind {
            SFlag::S_IFREG => copy_file(from, to, name),
            SFlag::S_IFLNK => readlinkat(from, name).and_then(|text| symlinkat(text.as_os_str(), to, name)),
            _ => mknodat(to, name, kind, Mode::empty(), status.st_rdev),
        }
        .and_then(|()| self.attributes(from, name, to, &status))
        .map_err(here)
    }

    /// Gives the copy what the original has beside its content.
    fn attributes(&self, from: &OwnedFd, name: &OsStr, to: &OwnedFd, status: &FileStat) -> nix::Result<()> {
        let owner_of = |owners: Owners<'_>| owners(status.st_uid, status.st_gid).ok_or(Errno::EOVERFLOW);
        let (owner, group) = self.owners.map_or(Ok((status.st_uid, status.st_gid)), owner_of)?;
        let (owner, group) = (Uid::from_raw(owner), Gid::from_raw(group));
        fchownat(to, name, Some(owner), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        // The file's own group has a place.
        let user_of = |user| self.owners.and_then(|owners| owners(user, status.st_gid)).map(|(user, _)| user);
        let users = self.owners.is_some().then_some(&user_of as xattr::Users<'_>);
        xattr::copy(&path_of(from, name), &path_of(to, name), users)?;
        // A symbolic link has no mode. The copy here is no link, so fchmodat(2) follows nothing.
        if status.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits() {
            let mode = Mode::from_bits_truncate(status.st_mode & 0o7777);
            fchmodat(to, name, mode, FchmodatFlags::FollowSymlink)?;
        }
        let accessed = TimeSpec::new(status.st_atime, status.st_atime_nsec);
        let modified = TimeSpec::new(status.st_mtime, status.st_mtime_nsec);
        utimensat(to, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)
    }
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    // Not to wait for a writer, if there is a pipe by now.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let source = fs::File::from(openat(from, name, flags, Mode::empty())?);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let copied = fs::File::from(openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    holes::copy(&source, &copied).map_err(|error| errno(&error))
}

/// The names in a directory: all at once, as names may be added while they are read.
fn entries(directory: &OwnedFd) -> nix::Result<Vec<OsString>> {
    names_in(path_of(directory, OsStr::new("."))).map_err(|error| errno(&error))
}

/// A path that begins at an open directory, for calls that take no descriptor.
fn path_of(directory: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}
