//! A layer's entries, made into files.
//!
//! This runs in a process whose root directory is the layer (see [`store`](super::store)). So the kernel
//! resolves every link inside the layer. The process sees the layers below merged with this one. So it simply
//! removes a file of a layer below: the kernel makes the whiteout.
//!
//! Order for each file: content, owner, attributes, mode, time. chown(2) takes setuid bits and capabilities
//! away, so the owner comes first. The times of folders come last of all, because each new file in a folder
//! changes the folder's time. See path_resolution(7), inode(7).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{linkat, symlinkat};

use super::lost::Lost;
use super::name::{self, Whiteout, whiteout};
use super::refusal::Refusal;
use super::tar::{Entries, Entry, Kind};
use crate::fs::holes;
use crate::fs::tree::remove_all;
use crate::fs::xattr;
use crate::sys::folder::names_in;
use crate::sys::privilege::Privilege;

type Time = (i64, u32);

/// As many as the kernel follows in a path.
const MAX_LINKS: usize = 40;

/// How large a layer may become. A few kilobytes of gzip can be petabytes of zeroes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of its tar archive, and of one file in it with its holes.
    pub bytes: u64,
    /// Files, folders and whiteouts.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 64 << 30, entries: 4_000_000 }
    }
}

/// The part that this layer has in a path.
#[derive(Debug, Clone, Copy)]
enum Made {
    /// A folder of the layers below in which something was made: its time is given back.
    Below(Time),
    Folder(Time),
    Symlink,
    Other,
}

/// A layer in the making, beneath `root`.
pub(super) struct Tree<'a> {
    root: &'a Path,
    limits: Limits,
    made: HashMap<PathBuf, Made>,
    entries: u64,
    lost: Lost,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: &'a Path, limits: Limits, privilege: Privilege) -> Self {
        Tree { root, limits, made: HashMap::new(), entries: 0, lost: Lost::new(privilege) }
    }

    /// Makes what the entry says, from the data that `entries` is at.
    pub(super) fn add(&mut self, entry: &Entry, data: &mut Entries<impl Read>) -> Result<(), Refusal> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(format!("more than {} entries, which is the limit", self.limits.entries).into());
        }
        let path = name::normal(&entry.name)?;
        if let Some(whiteout) = whiteout(&path)? {
            return self.white_out(whiteout);
        }
        let path = self.place(&path, true)?;
        let at = self.at(&path);
        if entry.kind == Kind::Folder {
            return self.folder(entry, path, &at);
        }
        if path.as_os_str().is_empty() {
            return Err("the root is something else than a folder".into());
        }
        if entry.kind == Kind::HardLink {
            return self.hard_link(entry, path, &at);
        }
        self.remove(&path)?;
        match entry.kind {
            Kind::File => self.file(entry, data, &at)?,
            Kind::Symlink => symlinkat(std::ffi::OsStr::from_bytes(&entry.link), AT_FDCWD, &at)?,
            _ if !self.lost.device(entry.kind, device(entry, &at))? => return Ok(()),
            _ => {}
        }
        let kind = if entry.kind == Kind::Symlink { Made::Symlink } else { Made::Other };
        self.made.insert(path, kind);
        attributes(entry, &at, &mut self.lost)?;
        Ok(set_time(&at, entry.mtime, true)?)
    }

    fn white_out(&mut self, whiteout: Whiteout) -> Result<(), Refusal> {
        let (Whiteout::Opaque(path) | Whiteout::Gone(path)) = &whiteout else { return Ok(()) };
        let place = match whiteout {
            // The marker lies in the folder, which a link may lead to.
            Whiteout::Opaque(_) => self.place(&path.join(".wh..wh..opq"), false).map(|mut marker| {
                marker.pop();
                marker
            }),
            _ => self.place(path, false),
        };
        let path = match place {
            // Some tools also white out what was in a folder that is gone as a whole, or a file by now.
            Err(refusal) if refusal.is_missing() => return Ok(()),
            place => place?,
        };
        for folder in path.ancestors().skip(1) {
            self.note(folder)?;
        }
        // What this layer itself has made stays: a whiteout is about the layers below.
        let is_opaque = matches!(whiteout, Whiteout::Opaque(_));
        if !is_opaque && !self.made.contains_key(&path) {
            return self.remove(&path);
        }
        let is_below = matches!(self.made.get(&path), Some(Made::Below(_)));
        let has_own = self.clear(&path)?;
        // The whole folder is from below, and something in it was taken away before.
        if is_below && !has_own && !is_opaque { self.remove(&path) } else { Ok(()) }
    }

    /// Gives the folders their times. The deepest may be first or last: nothing is made any more. Returns
    /// what could not be made here.
    pub(super) fn finish(self) -> Result<Lost, Refusal> {
        for (path, made) in &self.made {
            match made {
                Made::Below(time) => set_time(&self.at(path), *time, false)?,
                Made::Folder(time) => set_time(&self.at(path), *time, true)?,
                Made::Symlink | Made::Other => {}
            }
        }
        Ok(self.lost)
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Where a path of the archive lies, with links in it followed: one file has one path here, however it is
    /// called. Folders that are missing are made if `make` says so; the times of those above are noted.
    ///
    /// Links are followed beneath the root, those of the layers below and the layer's own alike, as `bin` may
    /// be one to `usr/bin`. That one may come later in the archive.
    fn place(&mut self, path: &Path, make: bool) -> Result<PathBuf, Refusal> {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Ok(path.into()) };
        let (mut real, mut links) = (PathBuf::new(), 0);
        // The parts of the way that are left. The next part is the last one here.
        let mut left: Vec<_> = parts(parent).collect();
        while let Some(part) = left.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let next = real.join(part);
            if matches!(self.made.get(&next), Some(Made::Folder(_) | Made::Below(_))) {
                real = next;
                continue;
            }
            real = match fs::symlink_metadata(self.at(&next)) {
                Ok(there) if there.is_dir() => next,
                Ok(there) if there.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP.into());
                    }
                    let to = fs::read_link(self.at(&next))?;
                    left.extend(parts(&to));
                    if to.is_absolute() { PathBuf::new() } else { real }
                }
                Ok(_) => return Err(Errno::ENOTDIR.into()),
                Err(error) if make && error.kind() == io::ErrorKind::NotFound => {
                    if next.components().count() > name::MAX_DEPTH {
                        return Err("a link to a name of more than 512 parts".into());
                    }
                    self.note(&real)?;
                    fs::create_dir(self.at(&next))?;
                    fs::set_permissions(self.at(&next), Permissions::from_mode(0o755))?;
                    next
                }
                Err(error) => return Err(error.into()),
            };
        }
        if make {
            for folder in real.ancestors() {
                self.note(folder)?;
            }
        }
        Ok(real.join(name))
    }

    /// Notes a folder's time before something is made in it.
    fn note(&mut self, folder: &Path) -> Result<(), Refusal> {
        if !self.made.contains_key(folder) {
            let there = fs::metadata(self.at(folder))?;
            let nanoseconds = u32::try_from(there.mtime_nsec()).unwrap_or_default();
            self.made.insert(folder.into(), Made::Below((there.mtime(), nanoseconds)));
        }
        Ok(())
    }

    /// Removes the file or folder at this path, even if this layer has made it.
    fn remove(&mut self, path: &Path) -> Result<(), Refusal> {
        let at = self.at(path);
        match fs::symlink_metadata(&at) {
            Ok(there) if there.is_dir() => {
                self.made.retain(|made, _| made == path || !made.starts_with(path));
                remove_all(&at)?;
            }
            Ok(_) => fs::remove_file(&at)?,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
            Err(error) => return Err(error.into()),
        }
        self.made.remove(path);
        Ok(())
    }

    /// Removes the files of the layers below in a folder. Returns whether this layer has made anything there.
    fn clear(&mut self, folder: &Path) -> Result<bool, Refusal> {
        let at = self.at(folder);
        match fs::symlink_metadata(&at) {
            Ok(there) if there.is_dir() => {}
            _ => return Ok(true),
        }
        self.note(folder)?;
        let mut has_own = false;
        for path in names_in(&at)?.into_iter().map(|name| folder.join(name)) {
            match self.made.get(&path) {
                None => self.remove(&path)?,
                Some(Made::Below(_)) => match self.clear(&path)? {
                    true => has_own = true,
                    false => self.remove(&path)?,
                },
                Some(Made::Folder(_)) => {
                    self.clear(&path)?;
                    has_own = true;
                }
                Some(Made::Symlink | Made::Other) => has_own = true,
            }
        }
        Ok(has_own)
    }

    fn folder(&mut self, entry: &Entry, path: PathBuf, at: &Path) -> Result<(), Refusal> {
        match fs::symlink_metadata(at) {
            Ok(there) if there.is_dir() => {}
            _ => {
                self.remove(&path)?;
                fs::create_dir(at)?;
            }
        }
        attributes(entry, at, &mut self.lost)?;
        self.made.insert(path, Made::Folder(entry.mtime));
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, path: PathBuf, at: &Path) -> Result<(), Refusal> {
        let target =
            name::normal(&entry.link).map_err(|rule| Refusal::from(format!("a hard link to {rule}")))?;
        let missing =
            || Refusal::from(format!("a hard link to {}, which is not in this image", target.display()));
        let existing = match self.place(&target, false) {
            Err(Refusal::Io(_)) => return Err(missing()),
            place => place?,
        };
        let existing = self.at(&existing);
        // Look before the file in the way is removed: it may be the target itself.
        let there = fs::symlink_metadata(&existing).map_err(|_| missing())?;
        if there.is_dir() || existing.starts_with(at) {
            return if existing == at && !there.is_dir() {
                Ok(())
            } else {
                Err("a hard link to a folder".into())
            };
        }
        self.remove(&path)?;
        linkat(AT_FDCWD, &existing, AT_FDCWD, at, AtFlags::empty())?;
        self.made.insert(path, if there.is_symlink() { Made::Symlink } else { Made::Other });
        Ok(())
    }

    fn file(&self, entry: &Entry, data: &mut Entries<impl Read>, at: &Path) -> Result<(), Refusal> {
        let size = entry.sparse.as_ref().map_or(entry.size, |sparse| sparse.size);
        if size > self.limits.bytes {
            return Err(Refusal::from(format!("{size} bytes, and {} is the limit", self.limits.bytes)));
        }
        // A new file only: nothing that is there, whatever it is, is ever written to.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(at)?;
        match &entry.sparse {
            None => drop(holes::write(data, &file, 0)?),
            Some(sparse) => {
                for &(offset, length) in &sparse.pieces {
                    holes::write(data.take(length), &file, offset)?;
                }
            }
        }
        // What follows the last block that was written is a hole.
        if size > 0 { Ok(file.set_len(size)?) } else { Ok(()) }
    }
}

/// The names in a path, and its `..`, the last one first.
fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    let is_part = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().rev().filter(is_part).map(|part| part.as_os_str().to_owned())
}

fn device(entry: &Entry, at: &Path) -> Result<(), Refusal> {
    let (major, minor) = entry.device;
    let kind = match entry.kind {
        Kind::CharDevice if entry.device == (0, 0) => {
            return Err("the device 0:0, which is overlayfs's whiteout".into());
        }
        Kind::CharDevice => SFlag::S_IFCHR,
        Kind::BlockDevice => SFlag::S_IFBLK,
        Kind::Fifo => SFlag::S_IFIFO,
        Kind::Other(byte) => {
            return Err(Refusal::from(format!(
                "an entry of the type {:?}, which no layer has",
                char::from(byte)
            )));
        }
        kind => return Err(Refusal::from(format!("an entry of the type {kind:?}"))),
    };
    Ok(mknod(at, kind, Mode::from_bits_truncate(0o600), makedev(major.into(), minor.into()))?)
}

/// Owner, extended attributes, mode.
fn attributes(entry: &Entry, at: &Path, lost: &mut Lost) -> Result<(), Refusal> {
    lost.owner(std::os::unix::fs::lchown(at, Some(entry.uid), Some(entry.gid)))?;
    // A folder that was there has attributes already. A new file gets some from its folder's default access
    // list. Neither of these belongs to the image.
    for there in xattr::list(at)?.into_iter().filter(|there| !xattr::is_machines_own(there.as_bytes())) {
        if !entry.xattrs.iter().any(|(name, _)| name == there.as_bytes()) {
            xattr::remove(at, &there)?;
        }
    }
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| !xattr::is_machines_own(name)) {
        match xattr::set(at, OsStr::from_bytes(name), value) {
            // Without its capabilities a program fails later, where a user does not look for the cause.
            Err(Errno::EOPNOTSUPP) if name != b"security.capability" => {}
            Err(Errno::EPERM) if lost.attribute(name) => {}
            result => result.map_err(|errno| {
                io::Error::other(format!("its attribute {}: {errno:?}", String::from_utf8_lossy(name)))
            })?,
        }
    }
    if entry.kind != Kind::Symlink {
        fs::set_permissions(at, Permissions::from_mode(entry.mode))?;
    }
    Ok(())
}

fn set_time(at: &Path, (seconds, nanoseconds): Time, accessed: bool) -> nix::Result<()> {
    let time = TimeSpec::new(seconds, nanoseconds.into());
    let access = if accessed { time } else { TimeSpec::new(0, libc::UTIME_OMIT) };
    match utimensat(AT_FDCWD, at, &access, &time, UtimensatFlags::NoFollowSymlink) {
        // Removed since.
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}
