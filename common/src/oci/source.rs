//! Where an image's bytes are: in a layout's folder, or in the members of an archive, which is never
//! extracted.
//!
//! An archive is read through once, to learn where each member lies. Later the members are read in place. One
//! that is compressed as a whole is decompressed first, into a file without a name. In an archive of
//! `docker save` a layer may be a link to the same layer of another image. Such a link is followed within the
//! archive. See pread(2), tar(5), open(2) on O_TMPFILE.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;

use super::apply::Limits;
use super::digest::Digest;
use super::layer::{Compression, decompress};
use super::model::Descriptor;
use super::name;
use super::refusal::invalid;
use super::tar::{Entries, Kind};
use crate::fs::holes;
use crate::sys::error::{Context, Error, Result};

/// Indexes, manifests and configs are held in memory; registries take no larger ones either.
const MAX_DOCUMENT: u64 = 4 << 20;
/// An image has some hundred members.
const MAX_MEMBERS: usize = 100_000;
/// As many as the kernel follows in a path.
const MAX_LINKS: usize = 40;
/// Where programs put temporary files that may be larger than the memory, and any others: hier(7). Small
/// systems lack the first folder.
const LARGE_FILES: [&str; 2] = ["/var/tmp", "/tmp"];

/// A folder or an archive.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    archive: Option<Archive>,
}

#[derive(Debug)]
struct Archive {
    file: File,
    members: HashMap<PathBuf, Member>,
}

#[derive(Debug)]
enum Member {
    Data { offset: u64, size: u64 },
    Link(PathBuf),
}

/// Some bytes of a file, read from the first to the last.
#[derive(Debug)]
pub(super) struct Blob {
    file: File,
    offset: u64,
    left: u64,
}

impl Blob {
    pub(super) fn size(&self) -> u64 {
        self.left
    }

    /// The first bytes, which are read again later.
    pub(super) fn magic(&self) -> io::Result<[u8; 4]> {
        let mut magic = [0; 4];
        if self.left >= 4 {
            self.file.read_exact_at(&mut magic, self.offset)?;
        }
        Ok(magic)
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        if count == 0 && wanted > 0 {
            // Another process has cut the file since.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Source> {
        if path.is_dir() {
            return Ok(Source { path: path.into(), archive: None });
        }
        let file = open_file(path).at("open the image", path)?;
        let file = match Compression::by_magic(first_bytes(&file)) {
            Compression::None => file,
            compression => {
                let what = format!("decompress the image {}", path.display());
                let folders = large_files(std::env::var_os("TMPDIR"));
                let (folder, whole) = without_name(&what, &folders)?;
                decompressed(file, compression, whole)
                    .context(format_args!("{what} into {}", folder.display()))
                    .map_err(|error| {
                        error.hint(
                            "is the image damaged, or that folder full? TMPDIR names another folder; or \
                             decompress the image yourself",
                        )
                    })?
            }
        };
        let members = members(&file).map_err(|error| {
            let hint = match first_bytes(&file) {
                [b'B', b'Z', b'h', _] | [0xfd, b'7', b'z', b'X'] => {
                    "it is compressed by bzip2 or xz: decompress it first, or use gzip or zstd"
                }
                _ => "expected a tar archive: of an OCI layout, or of docker save",
            };
            Error::from_io(format!("read the image {}: no tar archive", path.display()), &error).hint(hint)
        })?;
        Ok(Source { path: path.into(), archive: Some(Archive { file, members }) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_archive(&self) -> bool {
        self.archive.is_some()
    }

    /// A member, or `None` when there is none of that name.
    pub(super) fn find(&self, name: &str) -> Result<Option<Blob>> {
        let reading = format!("read {name} of the image");
        let Some(archive) = &self.archive else {
            // Names come from here or from a checked digest: none leads out of the folder.
            return match open_file(&self.path.join(name)) {
                Ok(file) => {
                    let left = file.metadata().at(&reading, &self.path)?.len();
                    Ok(Some(Blob { file, offset: 0, left }))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error).at(&reading, &self.path),
            };
        };
        let Ok(mut path) = name::normal(name.as_bytes()) else { return Ok(None) };
        for _ in 0..MAX_LINKS {
            match archive.members.get(&path) {
                None => return Ok(None),
                Some(Member::Link(target)) => path = target.clone(),
                Some(&Member::Data { offset, size }) => {
                    let file = archive.file.try_clone().at(&reading, &self.path)?;
                    return Ok(Some(Blob { file, offset, left: size }));
                }
            }
        }
        Err(Error::new(format!("{name} of the image {}: links in a circle", self.path.display())))
    }

    /// The content of a small member.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(mut blob) = self.find(name)? else { return Ok(None) };
        let what = || format!("read {name} of the image {}", self.path.display());
        if blob.size() > MAX_DOCUMENT {
            return Err(Error::new(format!("{}: {} bytes, more than {MAX_DOCUMENT}", what(), blob.size())));
        }
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).context(what())?;
        Ok(Some(bytes))
    }

    /// The blob that a descriptor describes. Its size is checked here; the reader has to check its digest.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<(Digest, Blob)> {
        let image = self.path.display();
        let digest = Digest::parse(&descriptor.digest, &format!("the image {image}"))?;
        let blob = self.find(&format!("blobs/sha256/{}", digest.hex()))?.ok_or_else(|| {
            Error::new(format!("the image {image} has no blob {digest}"))
                .hint("the image is not complete: copy it again")
        })?;
        if blob.size() != descriptor.size {
            let text = format!(
                "blob {digest} of the image {image}: {} bytes, where {} are declared",
                blob.size(),
                descriptor.size
            );
            return Err(Error::new(text).hint("the image is damaged: copy it again"));
        }
        Ok((digest, blob))
    }

    /// The content of a small blob, with size and digest verified.
    pub(super) fn verified(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let (digest, _) = self.blob(descriptor)?;
        let bytes = self.document(&format!("blobs/sha256/{}", digest.hex()))?.unwrap_or_default();
        let is = Digest::of(&bytes);
        if is == digest {
            Ok(bytes)
        } else {
            Err(wrong_digest(&format!("blob {digest} of the image {}", self.path.display()), is))
        }
    }
}

pub(super) fn wrong_digest(what: &str, is: Digest) -> Error {
    Error::new(format!("{what}: its content has the digest {is}")).hint("the image is damaged: copy it again")
}

/// A pipe under such a name would have us wait for ever.
fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("neither a folder nor a file")) }
}

/// The folders to try for a large temporary file: what the environment says comes first.
fn large_files(tmpdir: Option<OsString>) -> Vec<PathBuf> {
    let chosen = tmpdir.filter(|folder| !folder.is_empty()).map(PathBuf::from);
    chosen.into_iter().chain(LARGE_FILES.map(PathBuf::from)).collect()
}

/// A file without a name in the first of these folders that can have one. The kernel removes the file with
/// its last descriptor.
fn without_name<'a>(what: &str, folders: &'a [PathBuf]) -> Result<(&'a Path, File)> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let mut tried = Vec::new();
    for folder in folders {
        match nix::fcntl::open(folder, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => return Ok((folder, file.into())),
            Err(errno) => tried.push(format!("{}: {errno}", folder.display())),
        }
    }
    Err(Error::new(format!("{what}: no folder takes a temporary file: {}", tried.join("; ")))
        .hint("set TMPDIR to a folder that does, or decompress the image yourself"))
}

/// Decompresses a whole archive into `whole`. Members are read in place, and a compressed stream has no way
/// to do that.
fn decompressed(file: File, compression: Compression, whole: File) -> io::Result<File> {
    let limit = Limits::default().bytes;
    let mut reader = decompress(compression, file)?.take(limit);
    let size = holes::write(&mut reader, &whole, 0)?;
    if size == limit {
        return Err(invalid(format!("it is larger than {limit} bytes")));
    }
    whole.set_len(size)?;
    Ok(whole)
}

fn first_bytes(file: &File) -> [u8; 4] {
    let mut magic = [0; 4];
    _ = file.read_exact_at(&mut magic, 0);
    magic
}

/// Where the members of an archive lie. If two have the same name, the last counts, as in tar.
fn members(file: &File) -> io::Result<HashMap<PathBuf, Member>> {
    let left = file.metadata()?.len();
    if left == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let blob = Blob { file: file.try_clone()?, offset: 0, left };
    let mut entries = Entries::new(io::BufReader::with_capacity(1 << 16, blob));
    let mut members = HashMap::new();
    while let Some(entry) = entries.next_entry()? {
        // A name that no image has is no concern of ours.
        let Ok(path) = name::normal(&entry.name) else { continue };
        let parent = path.parent().unwrap_or(Path::new(""));
        let member = match entry.kind {
            Kind::File if entry.sparse.is_none() => Member::Data { offset: entry.offset, size: entry.size },
            Kind::HardLink => Member::Link(within(Path::new(""), &entry.link)),
            Kind::Symlink => Member::Link(within(parent, &entry.link)),
            _ => continue,
        };
        if members.len() == MAX_MEMBERS {
            return Err(invalid(format!("more than {MAX_MEMBERS} members")));
        }
        members.insert(path, member);
    }
    Ok(members)
}

/// Where a link leads, by its text alone. At the archive's root, `..` stays there.
fn within(folder: &Path, link: &[u8]) -> PathBuf {
    let mut path = folder.to_owned();
    for part in link.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            name => path.push(std::ffi::OsStr::from_bytes(name)),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpdir_is_tried_first() {
        let folders = |tmpdir: &str| large_files(Some(tmpdir.into()));
        assert_eq!(folders("/x"), ["/x", "/var/tmp", "/tmp"].map(PathBuf::from));
        assert_eq!(folders(""), large_files(None));
        assert_eq!(large_files(None), ["/var/tmp", "/tmp"].map(PathBuf::from));
    }

    #[test]
    fn a_folder_that_takes_no_file_is_passed_over_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().to_owned();
        let [missing, file] = ["missing", "file"].map(|name| there.join(name));
        File::create(&file).unwrap();
        let folders = [missing.clone(), file.clone(), there.clone()];
        let (at, temporary) = without_name("x", &folders).unwrap();
        assert_eq!(at, there);
        assert_eq!(temporary.metadata().unwrap().len(), 0);
        assert_eq!(std::fs::read_dir(&there).unwrap().count(), 1, "the new file has no name");
        let error = without_name("x", &folders[..2]).unwrap_err().to_string();
        for words in [&missing, &file].map(|path| format!("{}: E", path.display())) {
            assert!(error.contains(&words), "{error}");
        }
    }
}
