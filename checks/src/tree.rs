//! The content of a folder: everything that makes two trees of files the same or not.
//!
//! For images: the tree in the container must be the one that another tool unpacks. Two equal trees must
//! compare equal even if one lies on an overlay, and the other on another file system. So a tree has no
//! property of a file system: no inode, no size of a folder, no device. Links are not followed. Man pages:
//! inode(7), xattr(7).

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Checked, Failure, ensure};

/// The facts about all files of a folder, by path relative to it.
pub type Tree = BTreeMap<PathBuf, Facts>;

/// The facts about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `file`, `folder`, `link` …
    pub kind: &'static str,
    /// The permission bits, with setuid, setgid and the sticky bit.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// When it was modified, in seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// The size of a file; major and minor number of a device in one.
    pub size: u64,
    /// SHA-256 of a file's content; what a link says.
    pub content: String,
    /// Extended attributes, less those that belong to the machine.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path of the same file, if it has several.
    pub same_as: Option<PathBuf>,
}

/// Reads a folder.
///
/// # Errors
/// A file cannot be read.
pub fn read(root: &Path) -> io::Result<Tree> {
    read_without(root, &[])
}

/// Reads a folder without these files and folders directly in it.
///
/// # Errors
/// A file cannot be read.
pub fn read_without(root: &Path, left_out: &[&str]) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut names = BTreeMap::new();
    tree.insert(PathBuf::new(), facts(root, &fs::symlink_metadata(root)?)?);
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if !left_out.iter().any(|it| name == *it) {
            walk(root, Path::new(&name), &mut tree, &mut names)?;
        }
    }
    // Not the first in the order of reading, but in that of the alphabet.
    for paths in names.into_values().filter(|paths: &Vec<PathBuf>| paths.len() > 1) {
        let first = paths.iter().min().cloned();
        for path in &paths {
            if let Some(facts) = tree.get_mut(path) {
                facts.same_as.clone_from(&first);
            }
        }
    }
    Ok(tree)
}

fn walk(
    root: &Path,
    path: &Path,
    tree: &mut Tree,
    names: &mut BTreeMap<(u64, u64), Vec<PathBuf>>,
) -> io::Result<()> {
    let at = root.join(path);
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", at.display()));
    let there = fs::symlink_metadata(&at).map_err(told)?;
    tree.insert(path.into(), facts(&at, &there).map_err(told)?);
    if there.is_dir() {
        for entry in fs::read_dir(&at).map_err(told)? {
            walk(root, &path.join(entry?.file_name()), tree, names)?;
        }
    } else {
        names.entry((there.dev(), there.ino())).or_default().push(path.into());
    }
    Ok(())
}

fn facts(at: &Path, there: &fs::Metadata) -> io::Result<Facts> {
    let kind = there.file_type();
    let (kind, size, content) = if kind.is_file() {
        let mut hash = Sha256::new();
        io::copy(&mut File::open(at)?, &mut Hashing(&mut hash))?;
        ("file", there.len(), hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    } else if kind.is_symlink() {
        ("link", there.len(), fs::read_link(at)?.as_os_str().as_bytes().escape_ascii().to_string())
    } else if kind.is_dir() {
        ("folder", 0, String::new())
    } else if kind.is_fifo() {
        ("pipe", 0, String::new())
    } else if kind.is_socket() {
        ("socket", 0, String::new())
    } else {
        (if kind.is_char_device() { "character device" } else { "block device" }, there.rdev(), String::new())
    };
    let mut xattrs = BTreeMap::new();
    let names = match xattr::list(at) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32) => None,
        names => Some(names?),
    };
    for name in names.into_iter().flatten() {
        let text = name.to_string_lossy().into_owned();
        if !["trusted.overlay.", "security.selinux"].iter().any(|own| text.starts_with(own)) {
            xattrs.insert(text, xattr::get(at, &name)?.unwrap_or_default());
        }
    }
    Ok(Facts {
        kind,
        mode: there.mode() & 0o7777,
        owner: (there.uid(), there.gid()),
        mtime: (there.mtime(), there.mtime_nsec()),
        size,
        content,
        xattrs,
        same_as: None,
    })
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.update(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A path about which two trees do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: PathBuf,
    /// What the first tree has there.
    pub first: Option<Facts>,
    /// What the second one has.
    pub second: Option<Facts>,
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = Path::new("/").join(&self.path);
        match (&self.first, &self.second) {
            (Some(first), Some(second)) => {
                write!(f, "{}: {first:?} and {second:?}", path.display())
            }
            (Some(_), None) => write!(f, "{}: only in the first", path.display()),
            _ => write!(f, "{}: only in the second", path.display()),
        }
    }
}

/// The differences of two trees.
pub fn differences(first: &Tree, second: &Tree) -> Vec<Difference> {
    let mut paths: Vec<_> = first.keys().chain(second.keys()).collect();
    paths.sort();
    paths.dedup();
    let both = paths.into_iter().map(|path| (path, first.get(path), second.get(path)));
    both.filter(|(_, first, second)| first != second)
        .map(|(path, first, second)| Difference {
            path: path.clone(),
            first: first.cloned(),
            second: second.cloned(),
        })
        .collect()
}

/// Fails unless both trees are the same.
pub(crate) fn same(what: &str, first: &Tree, second: &Tree) -> Checked {
    let differences: Vec<_> = differences(first, second).iter().map(ToString::to_string).collect();
    ensure(differences.is_empty(), || {
        Failure::new(format!("{what}: the same tree"), format!("{:.900}", differences.join("; ")))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn each_fact_makes_a_difference() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        let make = |root: &Path| {
            fs::create_dir(root).unwrap();
            for name in ["a", "b"] {
                fs::write(root.join(name), name).unwrap();
                File::options().write(true).open(root.join(name)).unwrap().set_times(time).unwrap();
            }
            File::open(root).unwrap().set_times(time).unwrap();
        };
        make(&one);
        let changes: [fn(&Path); 8] = [
            |root| fs::write(root.join("a"), "x").unwrap(),
            |root| fs::write(root.join("c"), "").unwrap(),
            |root| fs::remove_file(root.join("a")).unwrap(),
            |root| fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o4755)).unwrap(),
            |root| File::open(root.join("a")).unwrap().set_modified(std::time::SystemTime::now()).unwrap(),
            |root| xattr::set(root.join("a"), "user.x", b"1").unwrap(),
            |root| {
                fs::remove_file(root.join("a")).unwrap();
                symlink("b", root.join("a")).unwrap();
            },
            |root| {
                fs::remove_file(root.join("a")).unwrap();
                fs::hard_link(root.join("b"), root.join("a")).unwrap();
            },
        ];
        let first = read(&one).unwrap();
        make(&two);
        assert_eq!(differences(&first, &read(&two).unwrap()), []);
        for change in changes {
            fs::remove_dir_all(&two).unwrap();
            make(&two);
            change(&two);
            File::open(&two).unwrap().set_times(time).unwrap();
            assert!(!differences(&first, &read(&two).unwrap()).is_empty());
        }
    }
}
