//! A user's ids, groups and home, as the container's own `/etc/passwd` and `/etc/group` tell them.
//!
//! The two files belong to the container, so they may be anything: a link out of its root, a pipe, gigabytes,
//! wrong lines. So this module opens them beneath the root, and reads them only if they are plain files, up
//! to a limit. It passes over a wrong line. It searches the files as Docker does, and treats a number that
//! stands in neither as Docker does.
//! Man pages: passwd(5), group(5), setgroups(2), path_resolution(7).

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::fs::path::open_beneath;
use crate::sys::error::{Context, Error, Result};
use crate::sys::short::read;
use crate::values::{NameOrId, User};

/// How much of a file is read. A host with 100,000 users has 10 MiB.
const MAX_BYTES: u64 = 16 << 20;
/// As many groups as the kernel takes, NGROUPS_MAX, beside the primary one.
const MAX_GROUPS: usize = 65535;

/// What a process becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its supplementary groups, beside the primary one.
    pub groups: Vec<u32>,
    /// For `HOME`.
    pub home: PathBuf,
}

/// Finds the ids, groups and home of `user` in the container with the open root `root`. If `user` names a
/// group, the user is in that group alone. Otherwise its group is the one of `/etc/passwd`, and the groups of
/// `/etc/group` that list the user are supplementary ones. A number that stands nowhere is itself, in the
/// group 0, at home in `/`.
///
/// # Errors
/// A name that stands nowhere; a file that cannot be read, or is none.
pub fn resolve(root: &OwnedFd, user: &User) -> Result<Identity> {
    let users = read_beneath(root, "/etc/passwd")?;
    let entry = entries(&users).filter_map(Entry::parse).find(|entry| entry.is(&user.user));
    let (uid, gid, home) = match (&entry, &user.user) {
        (Some(entry), _) => (entry.id, entry.gid, entry.home.clone()),
        (None, NameOrId::Id(id)) => (*id, 0, PathBuf::from("/")),
        (None, NameOrId::Name(name)) => return Err(nobody("user", name, "/etc/passwd")),
    };
    let in_group = |gid, groups| Identity { uid, gid, groups, home: home.clone() };
    match (&user.group, &entry) {
        (Some(NameOrId::Id(id)), _) => Ok(in_group(*id, Vec::new())),
        (Some(NameOrId::Name(name)), _) => {
            let groups = read_beneath(root, "/etc/group")?;
            let group = entries(&groups).filter_map(Group::parse).find(|group| group.name == name.as_bytes());
            let group = group.ok_or_else(|| nobody("group", name, "/etc/group"))?;
            Ok(in_group(group.id, Vec::new()))
        }
        (None, Some(entry)) => Ok(in_group(gid, groups_of(&read_beneath(root, "/etc/group")?, entry.name))),
        (None, None) => Ok(in_group(gid, Vec::new())),
    }
}

fn nobody(kind: &str, name: &str, file: &str) -> Error {
    Error::new(format!("--user, or the image's User: no {kind} {name:?} in the container's {file}"))
        .hint("expected NAME|UID[:GROUP|GID]: a name that stands there, or any number")
}

/// The name that the host's own list gives to an id. Only the file is asked: it is for messages and lists of
/// ids.
pub(crate) fn name_on_host(id: u32) -> Option<Vec<u8>> {
    let users = read("/etc/passwd").ok()?;
    entries(&users).filter_map(Entry::parse).find(|entry| entry.id == id).map(|entry| entry.name.to_vec())
}

/// All users and groups of the host's own lists. A list that is not there has none.
///
/// # Errors
/// One cannot be read: a container could get the ids of a user.
pub(crate) fn ids_on_host() -> Result<Vec<u32>> {
    let list = |path: &str| match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        list => list.at("read", path),
    };
    let (users, groups) = (list("/etc/passwd")?, list("/etc/group")?);
    let users = entries(&users).filter_map(Entry::parse).flat_map(|entry| [entry.id, entry.gid]);
    let groups = entries(&groups).filter_map(Group::parse).map(|group| group.id);
    Ok(users.chain(groups).collect())
}

/// A line of `/etc/passwd`: `NAME:PASSWORD:UID:GID:COMMENT:HOME:SHELL`.
#[derive(Debug)]
struct Entry<'a> {
    name: &'a [u8],
    id: u32,
    gid: u32,
    home: PathBuf,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (_password, id, gid) = (fields.next()?, number(fields.next()?)?, number(fields.next()?)?);
        let home = fields.nth(1).filter(|home| home.starts_with(b"/")).unwrap_or(b"/");
        // A variable cannot have it, and a path neither.
        let home = if home.contains(&0) { b"/" } else { home };
        Some(Entry { name, id, gid, home: OsString::from_vec(home.to_vec()).into() })
    }

    fn is(&self, wanted: &NameOrId) -> bool {
        match wanted {
            NameOrId::Name(name) => self.name == name.as_bytes(),
            NameOrId::Id(id) => self.id == *id,
        }
    }
}

/// A line of `/etc/group`: `NAME:PASSWORD:GID:USER,USER…`.
struct Group<'a> {
    name: &'a [u8],
    id: u32,
    users: &'a [u8],
}

impl<'a> Group<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (_password, id) = (fields.next()?, number(fields.next()?)?);
        Some(Group { name, id, users: fields.next().unwrap_or_default() })
    }
}

fn groups_of(text: &[u8], user: &[u8]) -> Vec<u32> {
    let groups = entries(text).filter_map(Group::parse);
    let mut ids: Vec<_> = groups
        .filter(|group| group.users.split(|&byte| byte == b',').any(|listed| listed == user))
        .map(|group| group.id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(MAX_GROUPS);
    ids
}

/// The lines, without white space around them.
fn entries(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.starts_with(b"#"))
}

/// An id: digits only, and not the number that means "none".
pub(crate) fn number(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten().filter(|&id| id != u32::MAX)
}

/// What a file of the container has; nothing when it is not there.
fn read_beneath(root: &OwnedFd, path: &str) -> Result<Vec<u8>> {
    let what = || format!("read the container's {path}");
    let file = match open_beneath(root, Path::new(path)) {
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR)) => return Ok(Vec::new()),
        file => file?,
    };
    let status = fstat(&file).context(what())?;
    if status.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        // A pipe would keep us waiting for ever, and to open a device may do anything.
        return Err(Error::new(format!("{}: it is no file", what()))
            .hint("in a root, it is a list of users or groups"));
    }
    // A file that is open by O_PATH is opened for reading by its link in /proc. That is the same file,
    // whatever its path leads to by now.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = open(link.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).context(what())?;
    let mut text = Vec::new();
    let read = File::from(file).take(MAX_BYTES + 1).read_to_end(&mut text);
    read.context(what())?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::new(format!("{}: more than {} MiB", what(), MAX_BYTES >> 20))
            .hint("no list of users is that long"));
    }
    Ok(text)
}
