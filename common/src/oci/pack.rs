//! A folder as the tar archive of a layer: overlay's whiteouts and opaque folders become those of the format
//! again.
//!
//! Equal folders give equal bytes: the entries are sorted by name, and no fact goes in that only this machine
//! knows. Values that are too long for ustar stand in pax records. A large file's holes are listed there,
//! too, and not written out. A socket is left out: without the process behind it, it is useless.
//!
//! Another process may still work in the folder. It could replace a file that was just looked at by a link,
//! or by a pipe whose reader waits for ever. So each file is opened first, without following links (O_PATH).
//! All later questions and reads use that descriptor. Needs /proc.
//! Sources: OCI image specification, layer.md, "Representing Changes"; the kernel's filesystems/overlayfs,
//! "whiteouts and opaque directories"; "Storing Sparse Files" in the GNU tar manual. Man page: open(2) on
//! O_PATH.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::iter;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ::tar::{Builder, EntryType, Header};
use nix::fcntl::{OFlag, readlinkat};

use super::tar::BLOCK;
use crate::fs::holes;
use crate::fs::overlay::is_whiteout;
use crate::fs::path::open_itself;
use crate::fs::xattr;
use crate::sys::error::{Context, Error, Result};
use crate::sys::folder::names_in;
use crate::sys::open;

/// Octal numbers in a header end here; larger ones stand in a pax record.
const MAX_ID: u64 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;
/// Holes in smaller files are written out: that takes less than to list them.
const MAY_HAVE_HOLES: u64 = 1 << 20;

/// What becomes of the holes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holes {
    /// The archive lists them.
    Listed,
    /// They are written out, for an archive whose members are read in place.
    Written,
}

/// Writes the archive.
///
/// # Errors
/// A file cannot be read, or is none that a layer can have.
pub(super) fn pack(folder: &Path, holes: Holes, writer: impl Write) -> Result<()> {
    let top = open(folder, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let mut pack = Pack { folder, top, holes, archive: Builder::new(writer), first_names: HashMap::new() };
    pack.add(Path::new(""))?;
    pack.archive.into_inner().and_then(|mut writer| writer.flush()).at("pack", folder)
}

struct Pack<'a, W: Write> {
    folder: &'a Path,
    /// The same, open.
    top: OwnedFd,
    holes: Holes,
    archive: Builder<W>,
    /// Files with several names: under which the content is, by device and inode.
    first_names: HashMap<(u64, u64), PathBuf>,
}

/// A file of the folder, opened by O_PATH: what is there under its name meanwhile does not matter.
struct Found {
    open: OwnedFd,
    status: Metadata,
}

impl Found {
    /// The file itself, for calls that take a path and follow links.
    fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.open.as_raw_fd().to_string())
    }
}

impl<W: Write> Pack<'_, W> {
    fn add(&mut self, path: &Path) -> Result<()> {
        let at = self.folder.join(path);
        let open = open_itself(&self.top, path).at("read", &at)?;
        let open = File::from(open);
        let status = open.metadata().at("read", &at)?;
        let there = Found { open: open.into(), status };
        let reserved = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh."));
        if reserved {
            return Err(Error::new(format!("pack {}: a name with .wh. at its beginning", at.display()))
                .hint("in an image's layer such a name means that a file is gone, so no file can have it"));
        }
        if is_whiteout(&there.status) {
            return self.marker(&hiding(path)).at("pack", &at);
        }
        if there.status.file_type().is_socket() {
            return Ok(());
        }
        let notes = notes(&there, &at)?;
        self.entry(path, &there, &notes.kept).at("pack", &at)?;
        if there.status.is_dir() {
            if notes.opaque {
                self.marker(&path.join(".wh..wh..opq")).at("pack", &at)?;
            }
            let names = names_in(there.path());
            // One descriptor at a time, however deep the folders are.
            drop(there);
            let mut names = names.at("read", &at)?;
            names.sort();
            for name in names {
                self.add(&path.join(name))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, found: &Found, xattrs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        let there = &found.status;
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        let mut link = None;
        let mut content = None;
        let kind = there.file_type();
        let identity = (there.dev(), there.ino());
        if let Some(first) = self.first_names.get(&identity) {
            // Everything else is said where the content is.
            header.set_entry_type(EntryType::Link);
            link = Some(first.as_os_str().as_bytes().to_vec());
        } else if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            link = Some(readlinkat(&found.open, "")?.as_bytes().to_vec());
        } else if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            // It is a file for sure, so this neither waits nor wakes a device.
            content = Some(Content::of(File::open(found.path())?, there.len(), self.holes)?);
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
        } else {
            header.set_entry_type(if kind.is_block_device() { EntryType::Block } else { EntryType::Char });
            let device = there.rdev();
            header.set_device_major(u32::try_from(nix::sys::stat::major(device)).unwrap_or_default())?;
            header.set_device_minor(u32::try_from(nix::sys::stat::minor(device)).unwrap_or_default())?;
        }
        if there.nlink() > 1 && !kind.is_dir() {
            self.first_names.entry(identity).or_insert_with(|| path.into());
        }
        header.set_mode(there.mode() & 0o7777);
        for (name, value) in xattrs {
            record(&mut pax, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        // A folder's name ends in a slash, as in any tar archive.
        let mut name = path.as_os_str().as_bytes().to_vec();
        if name.is_empty() {
            name = b".".to_vec();
        }
        if kind.is_dir() {
            name.push(b'/');
        }
        if content.as_mut().is_some_and(Content::list_holes) {
            record(&mut pax, b"GNU.sparse.major", b"1");
            record(&mut pax, b"GNU.sparse.minor", b"0");
            record(&mut pax, b"GNU.sparse.name", &name);
            record(&mut pax, b"GNU.sparse.realsize", there.len().to_string().as_bytes());
            // A reader that does not know these records must not take the list for the content.
            name = [b"GNUSparseFile.0/", &name[..]].concat();
        }
        let size = content.as_ref().map_or(0, Content::size);
        describe(&mut header, &mut pax, &name, link.as_deref(), there, size);
        match content {
            Some(content) => self.append(header, &pax, content),
            None => self.append(header, &pax, io::empty()),
        }
    }

    /// An empty file whose name says something.
    fn marker(&mut self, path: &Path) -> io::Result<()> {
        let mut header = empty(EntryType::Regular);
        let name = path.as_os_str().as_bytes();
        let mut pax = Vec::new();
        text(&mut header.as_old_mut().name, &mut pax, "path", name);
        self.append(header, &pax, io::empty())
    }

    /// Writes the records, the header and the content.
    fn append(&mut self, mut header: Header, pax: &[u8], content: impl Read) -> io::Result<()> {
        if !pax.is_empty() {
            let mut before = empty(EntryType::XHeader);
            before.set_path("pax")?;
            before.set_size(pax.len() as u64);
            before.set_cksum();
            self.archive.append(&before, pax)?;
        }
        header.set_cksum();
        self.archive.append(&header, content)
    }
}

/// What a file's entry has as its data.
struct Content {
    file: File,
    size: u64,
    /// Which parts of the file are still to be read.
    parts: VecDeque<Range<u64>>,
    /// The bytes that come before these parts.
    list: io::Cursor<Vec<u8>>,
}

impl Content {
    fn of(file: File, size: u64, holes: Holes) -> io::Result<Content> {
        let whole = || iter::once(0..size).collect();
        let is_whole = size < MAY_HAVE_HOLES || holes == Holes::Written;
        let data = if is_whole { whole() } else { holes::data_in(&file, size)?.into() };
        Ok(Content { file, size, parts: data, list: io::Cursor::default() })
    }

    /// Puts the list of the parts before them, in the form 1.0 of pax: how many, then where each begins and
    /// how long it is. Returns false for a file without holes, which needs none.
    fn list_holes(&mut self) -> bool {
        if self.parts.len() == 1 && self.parts[0] == (0..self.size) {
            return false;
        }
        // A last part without length says where the file ends.
        if self.parts.back().is_none_or(|last| last.end < self.size) {
            self.parts.push_back(self.size..self.size);
        }
        let mut list = format!("{}\n", self.parts.len());
        for part in &self.parts {
            let _ = write!(list, "{}\n{}\n", part.start, part.end - part.start);
        }
        let mut list = list.into_bytes();
        list.resize(list.len().next_multiple_of(BLOCK), 0);
        self.list = io::Cursor::new(list);
        true
    }

    fn size(&self) -> u64 {
        let parts = self.parts.iter().map(|part| part.end - part.start);
        self.list.get_ref().len() as u64 + parts.sum::<u64>()
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let listed = self.list.read(buffer)?;
        if listed > 0 || buffer.is_empty() {
            return Ok(listed);
        }
        while let Some(part) = self.parts.front_mut() {
            let wanted = usize::try_from(part.end - part.start).unwrap_or(usize::MAX).min(buffer.len());
            if wanted == 0 {
                self.parts.pop_front();
                continue;
            }
            let count = self.file.read_at(&mut buffer[..wanted], part.start)?;
            if count == 0 {
                return Err(io::Error::other("it became shorter while it was read"));
            }
            part.start += count as u64;
            return Ok(count);
        }
        Ok(0)
    }
}

/// The header of an entry that belongs to root and is of no time.
fn empty(kind: EntryType) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// Says in the header what the file is, and in pax records what the header has no room for.
fn describe(
    header: &mut Header,
    pax: &mut Vec<u8>,
    name: &[u8],
    link: Option<&[u8]>,
    there: &Metadata,
    size: u64,
) {
    text(&mut header.as_old_mut().name, pax, "path", name);
    if let Some(link) = link {
        text(&mut header.as_old_mut().linkname, pax, "linkpath", link);
    }
    let mut number = |key: &str, value: u64, limit: u64| {
        if value > limit {
            record(pax, key.as_bytes(), value.to_string().as_bytes());
        }
        value.min(limit)
    };
    header.set_size(number("size", size, MAX_SIZE));
    header.set_uid(number("uid", there.uid().into(), MAX_ID));
    header.set_gid(number("gid", there.gid().into(), MAX_ID));
    let (seconds, nanoseconds) = (there.mtime(), there.mtime_nsec());
    header.set_mtime(u64::try_from(seconds).unwrap_or(0).min(MAX_SIZE));
    if nanoseconds != 0 || !(0..=MAX_SIZE.cast_signed()).contains(&seconds) {
        // The fraction counts upwards, also before 1970.
        let text = if seconds < 0 && nanoseconds != 0 {
            format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
        } else {
            format!("{seconds}.{nanoseconds:09}")
        };
        record(pax, b"mtime", text.as_bytes());
    }
}

/// A file's extended attributes: those that belong to it, and what overlayfs has noted.
struct Notes {
    kept: Vec<(Vec<u8>, Vec<u8>)>,
    opaque: bool,
}

fn notes(found: &Found, at: &Path) -> Result<Notes> {
    const READ: &str = "read the attributes of";
    let mut notes = Notes { kept: Vec::new(), opaque: false };
    let path = found.path();
    for name in xattr::list_of_target(&path).at(READ, at)? {
        let value = || xattr::get_of_target(&path, &name).at(READ, at);
        match name.as_bytes() {
            b"trusted.overlay.opaque" | b"user.overlay.opaque" => notes.opaque = value()? == b"y",
            b"trusted.overlay.redirect"
            | b"trusted.overlay.metacopy"
            | b"user.overlay.redirect"
            | b"user.overlay.metacopy" => {
                let what =
                    format!("pack {}: overlayfs has noted that its content is elsewhere", at.display());
                return Err(Error::new(what)
                    .hint("mount the layer without redirect_dir=on and metacopy=on: then it is whole"));
            }
            own if xattr::is_machines_own(own) => {}
            kept => notes.kept.push((kept.to_vec(), value()?)),
        }
    }
    notes.kept.sort();
    Ok(notes)
}

/// The name that says that `path` is gone.
fn hiding(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    path.with_file_name(OsStr::from_bytes(&[b".wh.", name].concat()))
}

/// Puts a text into its field, and into a record if it is longer.
fn text(field: &mut [u8], pax: &mut Vec<u8>, key: &str, value: &[u8]) {
    let fits = value.len().min(field.len());
    field[..fits].copy_from_slice(&value[..fits]);
    if value.len() > fits {
        record(pax, key.as_bytes(), value);
    }
}

/// Adds a pax record. Its length counts the digits of the length, too.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(format!("{length} ").as_bytes());
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

    use super::super::tar::Entries;
    use super::super::tar::pax::Extra;
    use super::*;
    use crate::fs::xattr::set;

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("folder");
        let [file, other, secret] = ["folder/file", "other", "secret"].map(|name| home.path().join(name));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "of the container").unwrap();
        fs::write(&secret, "of the host").unwrap();
        symlink(&secret, &other).unwrap();
        let stop = AtomicBool::new(false);
        let found = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    renameat2(AT_FDCWD, &file, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).unwrap();
                }
            });
            let found = (0..5000).find(|_| {
                let mut archive = Vec::new();
                pack(&folder, Holes::Listed, &mut archive).is_ok()
                    && archive.windows(11).any(|part| part == b"of the host")
            });
            stop.store(true, Ordering::Relaxed);
            found
        });
        assert_eq!(found, None, "in which of the archives the secret is");
    }

    #[test]
    fn holes_and_links_are_read_as_they_were_written() {
        let home = tempfile::tempdir().unwrap();
        let holes = File::create(home.path().join("holes")).unwrap();
        holes.set_len(1 << 30).unwrap();
        holes.write_all_at(b"data", 1 << 20).unwrap();
        symlink("/nowhere", home.path().join("link")).unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            set(&home.path().join("link"), "trusted.note", b"of the link").unwrap();
        }
        let mut archive = Vec::new();
        pack(home.path(), Holes::Listed, &mut archive).unwrap();
        assert!(archive.len() < 1 << 17, "{} bytes", archive.len());
        let mut entries = Entries::new(&archive[..]);
        entries.next_entry().unwrap();
        let file = entries.next_entry().unwrap().unwrap();
        let sparse = file.sparse.unwrap();
        assert_eq!((file.name.as_slice(), sparse.size), (&b"holes"[..], 1 << 30));
        assert_eq!(sparse.pieces, [(1 << 20, 1 << 16), (1 << 30, 0)]);
        let link = entries.next_entry().unwrap().unwrap();
        assert_eq!((link.name, link.link), (b"link".to_vec(), b"/nowhere".to_vec()));
        assert_eq!(link.xattrs.len(), usize::from(is_root));
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(value in proptest::collection::vec(any::<u8>(), 0..1100)) {
            let mut pax = Vec::new();
            record(&mut pax, b"path", &value);
            record(&mut pax, b"uid", b"70000");
            let mut extra = Extra::default();
            extra.read_pax(&pax).unwrap();
            prop_assert_eq!((extra.name, extra.uid), (Some(value), Some(70000)));
        }
    }
}
