//! The file of `--cidfile`, by which another program finds the container: `container:PID` is its name.
//!
//! Kernel object: a file that is made in the parent when the container's first process is there, and that
//! holds its PID. Order: [`check`] before anything is made, [`write`] before the command begins.
//! Man pages: open(2) on `O_EXCL`, user_namespaces(7), chown(2).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Pid, Uid};

use crate::sys::error::{Context, Error, Hint, Result};
use crate::sys::explain;

/// The user and the group that called the runtime, by their numbers on the host.
pub(crate) type Caller = (Uid, Gid);

/// Refuses a path at which something is already, and one in no folder.
///
/// # Errors
/// One of these; EACCES.
pub(crate) fn check(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(taken(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            match fs::metadata(folder.unwrap_or(Path::new("."))) {
                Ok(there) if there.is_dir() => return Ok(()),
                Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    return Err(error).context(doing(path));
                }
                _ => {}
            }
            Err(Error::new(format!("{}: there is no such folder", doing(path)))
                .hint("the runtime makes the file, but no folder for it"))
        }
        Err(error) => Err(error).context(doing(path)),
    }
}

/// Makes the file, with the PID in it and no newline, as Docker writes its id. It belongs to the caller, and
/// no link is followed.
///
/// # Errors
/// Something has come to be at the path; EACCES, ENOSPC, EROFS.
pub(crate) fn write(path: &Path, pid: Pid, caller: Caller) -> Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    let mut file = match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(taken(path)),
        made => made.context(doing(path)).hint_if(
            Errno::EACCES,
            "the folder must let the user itself, or all users, make files: an ordinary user's runtime has \
             given up the user's groups by now",
        )?,
    };
    explain::line(format_args!("open({path:?}, O_WRONLY|O_CREAT|O_EXCL, 0644)"), 0, "open(2)");
    let written = give_to(&file, caller).and_then(|()| file.write_all(pid.to_string().as_bytes()));
    if written.is_err() {
        // A file without a PID would only be in the way of the next run.
        let _ = fs::remove_file(path);
    }
    written.context(doing(path))
}

fn doing(path: &Path) -> String {
    format!("--cidfile {}", path.display())
}

fn taken(path: &Path) -> Error {
    Error::new(format!("{}: the file is there already", doing(path)))
        .hint("another container may be named in it: remove it, or give another path")
}

/// With `--userns keep-id` the runtime has become a user of its namespace that is not the caller. As its root
/// it may give files to the caller.
fn give_to(file: &File, (user, group): Caller) -> io::Result<()> {
    let inside = |map: &str, outside: u32| Ok::<_, io::Error>(inside(&fs::read_to_string(map)?, outside));
    let user = inside("/proc/self/uid_map", user.as_raw())?;
    let group = inside("/proc/self/gid_map", group.as_raw())?;
    let there = file.metadata()?;
    let differs = |id: Option<u32>, now| id.filter(|&id| id != now);
    match (differs(user, there.uid()), differs(group, there.gid())) {
        (None, None) => Ok(()),
        (user, group) => fchown(file, user, group),
    }
}

/// The number inside of an id outside, by a map of `/proc`: lines of inside, outside and count.
fn inside(map: &str, outside: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (inside, first, count) = (next()?, next()?, next()?);
        let distance = outside.checked_sub(first).filter(|&distance| distance < count)?;
        inside.checked_add(distance)
    })
}

#[cfg(test)]
mod tests {
    use nix::unistd::{getegid, geteuid};

    use super::*;

    #[test]
    fn the_file_is_made_once_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cid");
        let caller = (geteuid(), getegid());
        check(&path).unwrap();
        write(&path, Pid::from_raw(4711), caller).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711");
        for refused in [check(&path), write(&path, Pid::from_raw(1), caller)] {
            assert!(refused.unwrap_err().to_string().contains("there already"));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711");
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        check(&link).unwrap_err();
        write(&link, Pid::from_raw(1), caller).unwrap_err();
        assert!(!target.exists());
        let missing = check(&folder.path().join("no/cid")).unwrap_err().to_string();
        assert!(missing.contains("no such folder"), "{missing}");
        check(Path::new("no-such-file-here")).unwrap();
    }

    #[test]
    fn a_map_translates_the_ids_that_it_has() {
        let map = "         0     100000       1000\n      1000       1000          1\n";
        let all =
            [(100_000, Some(0)), (100_999, Some(999)), (1000, Some(1000)), (999, None), (101_000, None)];
        for (outside, expected) in all {
            assert_eq!(inside(map, outside), expected);
        }
        assert_eq!(inside("0 0 4294967295\n", 0), Some(0));
        assert_eq!(inside("x", 0), None);
    }
}
