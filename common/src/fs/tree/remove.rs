//! Removing a tree, however deep it is, and whoever is still at work in it.
//!
//! Kernel objects: directories, a few of them open at a time, as a container can nest more of them than a
//! process may have open. The way up is the open directory. Below those it is `..`, which counts only when it
//! leads to where the walk came from: somebody may have moved the directory meanwhile. Then the walk begins
//! again at the top, and opens each name beneath it without following it. So nothing outside of the tree is
//! ever removed. A mount in the tree is outside of it: the kernel (5.6) does not open it for the
//! walk. Order: the files of a directory, its folders, itself. Needs no /proc.
//! Man pages: unlinkat(2), openat2(2), readdir(3).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::mem::replace;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use rustix::fs::FileType;

use super::DIRECTORY;
use crate::sys::error::errno;
use crate::sys::folder::entries_of;

/// How often the walk begins again without having removed anything since.
const MAX_TRIES: usize = 64;

/// Removes a directory with all that is in it, or a file. Follows no links; that nothing is there is fine.
/// EXDEV, when the directory or one in it is a mount, where the walk [stops at mounts](stops_at_mounts).
pub(crate) fn remove_all(path: &Path) -> nix::Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => open_top(path)
            .and_then(|folder| remove_contents(&folder))
            .and_then(|()| unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir)),
        Ok(_) => unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir),
        Err(error) => Err(errno(&error)),
    };
    ignore(Errno::ENOENT, gone)
}

/// A folder by its path. Only its last name may not be a mount, so the kernel is asked for that name alone.
fn open_top(path: &Path) -> nix::Result<OwnedFd> {
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) if !above.as_os_str().is_empty() => {
            let above = open(above, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            open_below(&above, name)
        }
        _ => open_below(AT_FDCWD, path.as_os_str()),
    }
}

/// A folder in a folder: no link, and nothing that is mounted there.
fn open_below(above: impl AsFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(DIRECTORY).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    match openat2(&above, name, how) {
        // Then only `remove_tree` spares what is mounted: it has looked for mounts.
        Err(Errno::ENOSYS | Errno::EPERM) => openat(&above, name, DIRECTORY, Mode::empty()),
        opened => opened,
    }
}

/// Whether the walk stops at mounts: since Linux 5.6, unless a seccomp filter of a container around this one
/// does not know the call. Such a filter may answer EPERM.
pub(crate) fn stops_at_mounts() -> bool {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    !matches!(openat2(AT_FDCWD, ".", how), Err(Errno::ENOSYS | Errno::EPERM))
}

/// Removes all that is in a directory, which stays.
pub(crate) fn remove_contents(top: &OwnedFd) -> nix::Result<()> {
    let mut tries = 0;
    loop {
        let mut removed = 0;
        if walk(top, &mut removed)? {
            return Ok(());
        }
        tries = if removed == 0 { tries + 1 } else { 0 };
        if tries == MAX_TRIES {
            return Err(Errno::EBUSY);
        }
    }
}

/// How many directories on the way stay open. A container may nest more than a process may have open.
const MAX_OPEN: usize = 16;

/// A directory on the way from the top to where the walk is.
struct Level {
    name: OsString,
    back: Back,
    /// Those in it that remain.
    folders: Vec<OsString>,
}

/// How to come back to a directory.
enum Back {
    Open(OwnedFd),
    /// By `..`, if that leads to the same directory.
    Same((u64, u64)),
}

/// Goes through the tree once. Returns whether it is gone: somebody may have added to it, or moved a part of
/// it.
fn walk(top: &OwnedFd, removed: &mut usize) -> nix::Result<bool> {
    let mut here = openat(top, ".", DIRECTORY, Mode::empty())?;
    let (mut name, mut folders) = (OsString::new(), files(&here, removed)?);
    let mut above: Vec<Level> = Vec::new();
    loop {
        if let Some(next) = folders.pop() {
            let below = match open_below(&here, &next) {
                Ok(below) => below,
                // Not a folder any more.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(false),
                Err(errno) => return Err(errno),
            };
            let in_it = files(&below, removed)?;
            let back = match above.len() < MAX_OPEN {
                true => Back::Open(here),
                false => Back::Same(identity(&here)?),
            };
            let (name, folders) = (replace(&mut name, next), replace(&mut folders, in_it));
            above.push(Level { name, back, folders });
            here = below;
            continue;
        }
        let Some(parent) = above.pop() else { return Ok(true) };
        here = match parent.back {
            Back::Open(parent) => parent,
            Back::Same(it) => {
                let there = openat(&here, "..", DIRECTORY, Mode::empty())?;
                if identity(&there)? != it {
                    return Ok(false);
                }
                there
            }
        };
        match unlinkat(&here, &*name, UnlinkatFlags::RemoveDir) {
            Ok(()) => *removed += 1,
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        (name, folders) = (parent.name, parent.folders);
    }
}

/// Removes what is no folder from a directory, and returns the folders.
fn files(directory: &OwnedFd, removed: &mut usize) -> nix::Result<Vec<OsString>> {
    let mut folders = Vec::new();
    // All names first: which ones are still listed after a removal is for the file system to decide.
    for (name, kind) in entries_of(directory).map_err(|error| errno(&error))? {
        // Not every file system tells the type. A folder may be empty, and then one call does. If it is not,
        // or that fails, the walk goes into it, and meets what is wrong there.
        let gone = match kind {
            FileType::Directory => match unlinkat(directory, &*name, UnlinkatFlags::RemoveDir) {
                Err(errno) if errno != Errno::ENOENT => Err(Errno::EISDIR),
                gone => gone,
            },
            _ => unlinkat(directory, &*name, UnlinkatFlags::NoRemoveDir),
        };
        match gone {
            Ok(()) => *removed += 1,
            Err(Errno::EISDIR) => folders.push(name),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(folders)
}

fn identity(open: &OwnedFd) -> nix::Result<(u64, u64)> {
    fstat(open).map(|status| (status.st_dev, status.st_ino))
}

fn ignore(ignored: Errno, result: nix::Result<()>) -> nix::Result<()> {
    if result == Err(ignored) { Ok(()) } else { result }
}
