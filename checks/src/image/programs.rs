//! What every image made by hand stands on: a shell and a few programs of the host, with what they need.
//!
//! Of the host and not of the runtime's own root: an image that is to be run needs nothing of the runtime.
//! They lie in `/commands`, where no other layer has anything. Man page: ld.so(8).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::fs::rootfs::libraries;

use super::{Archive, Entry, Layer};
use crate::Failure;
use crate::installed::program;

/// What the base of an image has: enough to wait and to answer.
const PROGRAMS: [&str; 3] = ["sh", "cat", "sleep"];

/// A link that runtimes make where an image lacks it, and where it leads.
const MTAB: (&str, &str) = ("etc/mtab", "/proc/mounts");

/// Those programs, as files and links.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    files: BTreeMap<PathBuf, PathBuf>,
    links: BTreeMap<PathBuf, PathBuf>,
}

impl Programs {
    /// Those of this host.
    ///
    /// # Errors
    /// One is missing.
    pub(crate) fn of_host() -> Result<Programs, Failure> {
        let mut found = Programs::default();
        for name in PROGRAMS {
            let lacks = |why| Failure::new(format!("the host has {name}"), why);
            let real = fs::canonicalize(program(name).map_err(lacks)?)?;
            let needs = libraries(Path::new("/"), &real).map_err(|error| lacks(error.to_string()))?;
            let relative = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_owned();
            found.files.extend(needs.files.iter().map(|file| (relative(file), file.clone())));
            found.links.extend(needs.links.into_iter().map(|(link, to)| (relative(&link), to)));
            found.files.insert(relative(&real), real.clone());
            found.links.insert(Path::new("commands").join(name), real);
        }
        Ok(found)
    }

    /// As an archive, with the folders that every container has.
    pub(crate) fn archive(&self) -> Result<Archive, Failure> {
        // Each named, as tools do not agree about the times of folders that are not.
        let paths = self.files.keys().chain(self.links.keys());
        let above: BTreeSet<_> = paths.flat_map(|path| path.ancestors().skip(1)).collect();
        let folders = ["dev", "proc", "sys", "etc"].map(Path::new).into_iter().chain(above);
        let mut archive = folders
            .fold(Archive::default(), |archive, folder| archive.folder(&format!("./{}", folder.display())));
        for name in ["hosts", "hostname", "resolv.conf"] {
            archive = archive.file(&format!("etc/{name}"), "");
        }
        archive = archive.symlink(MTAB.0, MTAB.1);
        for (link, to) in &self.links {
            archive = archive.symlink(&link.to_string_lossy(), &to.to_string_lossy());
        }
        for (path, file) in &self.files {
            let (name, data) = (path.as_os_str().as_bytes(), fs::read(file)?);
            archive = archive.entry(&Entry { name, data: &data, mode: 0o755, ..Entry::default() });
        }
        Ok(archive)
    }

    /// The same as files in a root.
    pub(crate) fn install(&self, root: &Path) -> Result<(), Failure> {
        for folder in ["dev", "proc", "sys", "etc", "commands"] {
            fs::create_dir_all(root.join(folder))?;
        }
        for name in ["hosts", "hostname", "resolv.conf"] {
            fs::write(root.join("etc").join(name), "")?;
        }
        symlink(MTAB.1, root.join(MTAB.0))?;
        for (path, file) in &self.files {
            fs::create_dir_all(root.join(path).parent().unwrap_or(root))?;
            fs::copy(file, root.join(path))?;
        }
        for (link, to) in &self.links {
            fs::create_dir_all(root.join(link).parent().unwrap_or(root))?;
            symlink(to, root.join(link))?;
        }
        Ok(())
    }
}

/// The lowest layer of an image: `sh`, `cat` and `sleep` in `/commands`, and what they need.
pub(crate) fn base() -> Result<Layer, Failure> {
    Ok(Layer::plain(Programs::of_host()?.archive()?))
}
