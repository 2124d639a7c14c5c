//! Which mounts there are, and which lie below which: `/proc/thread-self/mountinfo`.
//!
//! Read as bytes, as a path may be any. A thread may have a mount namespace of its own, so its list is read
//! and not that of the process. Man page: proc_pid_mountinfo(5).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::sys::error::{Context, Error, Hint, Result};
use crate::sys::mounts::mount_id;
use crate::sys::short;

const LIST: &str = "/proc/thread-self/mountinfo";

/// A mount, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its number in this list.
    pub(super) id: u64,
    pub(super) parent: u64,
    /// What part of the filesystem it shows: `/` for all of it.
    pub(crate) root: PathBuf,
    /// Where it is attached, as this process sees it.
    pub(crate) point: PathBuf,
    /// Its own options: `rw,nosuid,relatime`.
    pub(super) options: String,
    /// The kind of its filesystem.
    pub(crate) kind: String,
    /// The options of its filesystem: `rw,cpu,cpuacct`.
    pub(crate) super_options: String,
    /// Whether it tells others of what is mounted in it, and gets what is mounted in others.
    pub(super) shared: bool,
    /// Whether it gets what is mounted in others.
    pub(super) slave: bool,
}

/// In which mount an open file lies, if that is attached.
pub(super) fn of_file(open: &OwnedFd) -> Result<Option<Mount>> {
    let id = id_of(open)?;
    Ok(read()?.into_iter().find(|mount| mount.id == id))
}

/// The attached mount in which an open file lies.
pub(super) fn of(open: &OwnedFd) -> Result<Mount> {
    of_file(open)?.ok_or_else(|| Error::new(format!("{LIST}: an open file's mount is not in it")))
}

/// Where the mount of an open file is attached, if it is shared. The kernel repeats in others what is mounted
/// in a shared one.
pub(crate) fn shared_around(open: &OwnedFd) -> Result<Option<PathBuf>> {
    let mount = of(open)?;
    Ok(mount.shared.then_some(mount.point))
}

/// The attached mount that is open, and those below it.
pub(super) fn of_tree(open: &OwnedFd) -> Result<(Mount, Vec<Mount>)> {
    let id = id_of(open)?;
    let mut rest = read()?;
    let Some(top) = rest.iter().position(|mount| mount.id == id).map(|index| rest.remove(index)) else {
        return Err(Error::new(format!("{LIST}: the mount {id} is not in it")));
    };
    // A mount may have a lower number than the one in which it lies, when that was moved: so look until
    // nothing is new.
    let (mut tree, mut below) = (BTreeSet::from([id]), Vec::new());
    loop {
        let (found, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|mount| tree.contains(&mount.parent));
        if found.is_empty() {
            return Ok((top, below));
        }
        tree.extend(found.iter().map(|mount| mount.id));
        below.extend(found);
        rest = others;
    }
}

/// A mount below this path of the host, or on it.
///
/// # Errors
/// EACCES, ELOOP where the path cannot be followed. That nothing is there is fine.
pub(crate) fn beneath(path: &Path) -> Result<Option<PathBuf>> {
    let real = match real_path(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        real => real.at("follow", path)?,
    };
    Ok(read()?.into_iter().map(|mount| mount.point).find(|point| point.starts_with(&real)))
}

/// A path without links. The kernel tells it of what is open, in one call for all its names.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let open = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    path_of(&open)
}

/// Where an open file lies, as this process sees it: `/proc/self/fd/N`.
///
/// # Errors
/// When `/proc` is not mounted.
pub(crate) fn path_of(open: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

/// The number of the mount in which an open file lies. Since 5.8 the kernel tells it for the asking. Before,
/// it stands in a file that a process whose ids have changed may not read in a user namespace.
pub(crate) fn id_of(open: &OwnedFd) -> Result<u64> {
    if let Some(id) = mount_id(open) {
        return Ok(id);
    }
    let path = format!("/proc/thread-self/fdinfo/{}", open.as_raw_fd());
    let text = fs::read_to_string(&path)
        .context(format_args!("read {path}"))
        .hint_if(Errno::EACCES, "in a user namespace, this needs Linux 5.8 or later")?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| Error::new(format!("{path}: no mnt_id")))
}

/// All mounts of this mount namespace.
pub(crate) fn read() -> Result<Vec<Mount>> {
    parse_all(&short::read(LIST).context(format_args!("read {LIST}"))?)
}

/// If the list left out a mount, the mount would pass for one that is not there. Then the tree around it
/// could be removed, or be taken for read-only. So a line that cannot be read is an error.
fn parse_all(list: &[u8]) -> Result<Vec<Mount>> {
    let lines = list.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mount = |line: &[u8]| {
        let unknown = || Error::new(format!("{LIST}: a line that is none of a mount: {}", text(line)));
        parse(line).ok_or_else(unknown)
    };
    lines.map(mount).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`. The last two may be missing.
pub(crate) fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
    let (root, point) = (unescape(fields.nth(1)?), unescape(fields.next()?));
    let options = text(fields.next()?);
    // Any number of fields, up to a dash.
    let tags: Vec<_> = fields.by_ref().take_while(|field| *field != b"-").collect();
    let kind = text(fields.next()?);
    // Between the two: the device or whatever the mount was made of.
    let super_options = fields.nth(1).map(text).unwrap_or_default();
    let has = |tag: &[u8]| tags.iter().any(|field| field.starts_with(tag));
    let (shared, slave) = (has(b"shared:"), has(b"master:"));
    Some(Mount { id, parent, root, point, options, kind, super_options, shared, slave })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Space, tab, newline and backslash stand there as octal numbers.
fn unescape(field: &[u8]) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.get(..3)).flatten();
        let number = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(number.unwrap_or(byte));
        rest = if number.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_tell_the_same_number() {
        for path in ["/", "/proc/self", "/dev/null"] {
            let open: OwnedFd = fs::File::open(path).unwrap().into();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", open.as_raw_fd())).unwrap();
            let id =
                text.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap().trim().parse().unwrap();
            assert_eq!(id_of(&open), Ok(id), "{path}");
            assert!(mount_id(&open).is_none_or(|it| it == id), "{path}");
        }
    }

    #[test]
    fn no_line_is_lost() {
        let list = b"36 35 98:0 / /a rw - ext3 /dev/root rw\n37 36 0:9 / /a/b rw - tmpfs\n";
        assert_eq!(parse_all(list).unwrap().len(), 2);
        for unknown in [&b"36 35\n"[..], b"36 x 98:0 / /a rw - ext3 /dev/root rw\n", b"36 35 98:0 / /a rw\n"]
        {
            assert!(parse_all(unknown).is_err());
        }
        assert!(beneath(Path::new("/proc/self/exe/below")).is_err(), "ENOTDIR");
    }

    #[test]
    fn a_line_is_read() {
        let line = b"36 35 98:0 / /a\\040b\\134c\\012\xff rw,noatime master:1 - ext3 /dev/root rw";
        let point = OsString::from_vec(b"/a b\\c\n\xff".to_vec()).into();
        let (options, kind, super_options) = ("rw,noatime".into(), "ext3".into(), "rw".into());
        let root = "/".into();
        let (shared, slave) = (false, true);
        let mount = Mount { id: 36, parent: 35, root, point, options, kind, super_options, shared, slave };
        assert_eq!(parse(line), Some(mount));
        let line = b"36 35 98:0 / /a rw shared:2 - ext3 master:1 rw";
        assert_eq!(parse(line).map(|mount| (mount.shared, mount.slave)), Some((true, false)));
        assert_eq!(parse(b""), None);
        for short in [&b"36 35 98:0 / /a rw - ext3"[..], b"36 35 98:0 / /a rw - ext3 /dev/root"] {
            let mount = parse(short).unwrap();
            assert_eq!((mount.kind.as_str(), mount.super_options.as_str()), ("ext3", ""));
        }
        assert_eq!(unescape(b"/x\\"), Path::new("/x\\"));
    }
}
