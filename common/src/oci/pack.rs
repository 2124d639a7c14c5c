//! A folder as the tar archive of a layer: overlay's whiteouts and opaque folders become those of the format
//! again.
//!
//! Equal folders give equal bytes: the entries are sorted by name, and no fact goes in that only this machine
//! knows. Values that are too long for ustar stand in pax records. A socket is left out: without the process
//! behind it, it is useless.
//! Sources: OCI image specification, layer.md, "Representing Changes"; the kernel's filesystems/overlayfs,
//! "whiteouts and opaque directories".

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ::tar::{Builder, EntryType, Header};

use crate::fs::overlay::is_whiteout;
use crate::fs::xattr;
use crate::sys::error::{Context, Error, Result};

/// Octal numbers in a header end here; larger ones stand in a pax record.
const MAX_ID: u64 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// Writes the archive.
///
/// # Errors
/// A file cannot be read, or is none that a layer can have.
pub(super) fn pack(folder: &Path, writer: impl Write) -> Result<()> {
    let mut pack = Pack { folder, archive: Builder::new(writer), first_names: HashMap::new() };
    pack.add(Path::new(""))?;
    pack.archive.into_inner().and_then(|mut writer| writer.flush()).at("pack", folder)
}

struct Pack<'a, W: Write> {
    folder: &'a Path,
    archive: Builder<W>,
    /// Files with several names: under which the content is, by device and inode.
    first_names: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Pack<'_, W> {
    fn add(&mut self, path: &Path) -> Result<()> {
        let at = self.folder.join(path);
        let there = fs::symlink_metadata(&at).at("read", &at)?;
        let reserved = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh."));
        if reserved {
            return Err(Error::new(format!("pack {}: a name with .wh. at its beginning", at.display()))
                .hint("in an image's layer such a name means that a file is gone, so no file can have it"));
        }
        if is_whiteout(&there) {
            return self.marker(&hiding(path)).at("pack", &at);
        }
        if there.file_type().is_socket() {
            return Ok(());
        }
        let notes = notes(&at)?;
        self.entry(path, &at, &there, &notes.kept).at("pack", &at)?;
        if there.is_dir() {
            if notes.opaque {
                self.marker(&path.join(".wh..wh..opq")).at("pack", &at)?;
            }
            let names = fs::read_dir(&at)
                .and_then(|entries| entries.map(|it| Ok(it?.file_name())).collect::<io::Result<Vec<_>>>());
            let mut names = names.at("read", &at)?;
            names.sort();
            for name in names {
                self.add(&path.join(name))?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &Path,
        at: &Path,
        there: &Metadata,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        let mut link = None;
        let mut size = 0;
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
            link = Some(fs::read_link(at)?.into_os_string().as_bytes().to_vec());
        } else if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            size = there.len();
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
        describe(&mut header, &mut pax, &name, link.as_deref(), there, size);
        if size == 0 {
            return self.append(header, &pax, io::empty());
        }
        let mut content = File::open(at)?.take(size);
        self.append(header, &pax, &mut content)?;
        match content.limit() {
            0 => Ok(()),
            _ => Err(io::Error::other("it became shorter while it was read")),
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

fn notes(at: &Path) -> Result<Notes> {
    const READ: &str = "read the attributes of";
    let mut notes = Notes { kept: Vec::new(), opaque: false };
    for name in xattr::list(at).at(READ, at)? {
        let value = || xattr::get(at, &name).at(READ, at);
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

    use super::super::tar::pax::Extra;
    use super::*;

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
