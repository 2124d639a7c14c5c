//! Paths as a host sees them: symbolic links followed inside the host's own root, one by one.
//!
//! A copy of a program is only found under its name (`/bin/sh`) if every link on the way (`/bin -> usr/bin`,
//! `sh -> dash`) is copied too. So the way matters, not only its end, and `realpath(3)` is not enough.
//! Man pages: path_resolution(7), symlink(7).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows before it says ELOOP.
const MAX_LINKS: usize = 40;

/// A directory that is taken for a host's `/`.
pub(super) struct Host<'a> {
    pub(super) root: &'a Path,
}

/// Where a path leads: all paths are the host's, absolute.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The path without any link in it.
    pub(super) real: PathBuf,
    /// Every link on the way, as it is (where it stands, what it says).
    pub(super) links: Vec<(PathBuf, PathBuf)>,
}

impl Host<'_> {
    /// The path on this machine of a path of the host.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Follows `path` to its end; none if there is nothing.
    pub(super) fn resolve(&self, path: &Path) -> Option<Found> {
        let mut found = Found { real: PathBuf::from("/"), links: Vec::new() };
        let mut todo = Vec::new();
        push_names(&mut todo, path);
        while let Some(name) = todo.pop() {
            if name == ".." {
                found.real.pop();
                continue;
            }
            let next = found.real.join(name);
            if !fs::symlink_metadata(self.path(&next)).ok()?.is_symlink() {
                found.real = next;
                continue;
            }
            let target = fs::read_link(self.path(&next)).ok()?;
            if target.is_absolute() {
                found.real = PathBuf::from("/");
            }
            push_names(&mut todo, &target);
            found.links.push((next, target));
            if found.links.len() > MAX_LINKS {
                return None;
            }
        }
        Some(found)
    }

    /// The content of a regular file. Of anything else an error: to open a FIFO would wait for ever.
    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = self.path(path);
        if !fs::metadata(&path)?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The text of a configuration file; empty if it is not there.
    pub(super) fn read_text(&self, path: &str) -> String {
        let found = self.resolve(Path::new(path));
        let bytes = found.and_then(|found| self.read(&found.real).ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Puts the names of `path` on a stack, the first on top.
fn push_names(stack: &mut Vec<OsString>, path: &Path) {
    stack.extend(path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    }));
}

/// The text of a link in the directory `parent` that leads to `target`. The link never leaves the root, even
/// when a process outside the root follows it.
///
/// The runtime itself is such a process: it looks whether the root has a `/bin/sh`. An absolute link would
/// lead it to the host's own file. So would a link with one `..` more than there are directories.
pub(super) fn inward(parent: &Path, target: &Path) -> PathBuf {
    if let (true, Some(name)) = (target.parent() == Some(parent), target.file_name()) {
        return name.into();
    }
    let mut depth = parent.components().count() - 1;
    let mut link = PathBuf::new();
    if target.is_absolute() {
        link.extend(std::iter::repeat_n("..", depth));
        depth = 0;
    }
    for component in target.components() {
        match component {
            Component::Normal(name) => {
                depth += 1;
                link.push(name);
            }
            Component::ParentDir if depth > 0 => {
                depth -= 1;
                link.push("..");
            }
            _ => {}
        }
    }
    if link.as_os_str().is_empty() {
        link.push(".");
    }
    link
}
