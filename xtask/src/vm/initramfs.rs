//! The archive that the guest starts from: programs with their libraries, a busybox, kernel modules and
//! `init.sh`.
//!
//! The kernel unpacks it into its rootfs and starts `/init`. Format: cpio's "newc", as in the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst. It is not compressed: unpacking would cost the
//! emulated processor more time than reading. Man pages: initrd(4), elf(5), ld.so(8).

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use common::fs::rootfs::libraries;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Where the guest has file systems of its own: what the archive has there, it hides.
const MOUNTED_OVER: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

/// Where root's programs lie: a user's PATH often lacks it.
const OF_ROOT: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A cpio archive in memory.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    names: HashSet<String>,
}

impl Archive {
    /// Adds a directory, and those above it.
    pub fn directory(&mut self, path: &str) {
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            if !self.has(&path[..end]) {
                self.entry(&path[..end], DIRECTORY | 0o755, &[]);
            }
        }
    }

    /// Adds a regular file with these permissions.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.parent(path);
        self.entry(path, REGULAR | permissions, content);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parent(path);
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    /// Adds a program to a folder, under its name. Its path is that of a host whose root is `host`: `/`, save
    /// for other architectures.
    ///
    /// What is linked dynamically lies where it does on the host, since it may look for its libraries from
    /// there. They do too, and the folder has a link.
    ///
    /// # Errors
    /// When it cannot be read, or one of its libraries is missing.
    pub fn program(&mut self, folder: &str, host: &Path, source: &Path) -> Result<()> {
        let name = source.file_name().with_context(|| format!("{} is no program", source.display()))?;
        let path = format!("{folder}/{}", text(Path::new(name))?);
        let reading = || format!("reading {}", source.display());
        let real = fs::canonicalize(host.join(source.strip_prefix("/").unwrap_or(source)));
        let root = fs::canonicalize(host).with_context(reading)?;
        let real = real.with_context(reading)?;
        let real = Path::new("/").join(real.strip_prefix(&root).with_context(reading)?);
        let needed = libraries(&root, &real)?;
        if needed.files.is_empty() {
            let content = fs::read(root.join(text(&real)?)).with_context(reading)?;
            self.file(&path, 0o755, &content);
            return Ok(());
        }
        for file in needed.files.iter().chain([&real]) {
            self.host_file(&root, file)?;
        }
        for (at, target) in &needed.links {
            let at = text(at)?;
            if !self.has(at) {
                self.link(at, target.to_str().context("a link is not UTF-8")?);
            }
        }
        // Where the folder is the program's own, the link would take its place.
        if text(&real)? != path {
            self.link(&path, &format!("/{}", text(&real)?));
        }
        Ok(())
    }

    /// Adds a file of the host at its own path, which has no links in it, unless it is there.
    fn host_file(&mut self, root: &Path, file: &Path) -> Result<()> {
        let hidden = MOUNTED_OVER.iter().find(|folder| file.starts_with(folder));
        ensure!(
            hidden.is_none(),
            "{}: the guest has a {} of its own, so it must lie elsewhere on the host",
            file.display(),
            hidden.unwrap_or(&"")
        );
        let path = text(file)?;
        if !self.has(path) {
            let file = root.join(path);
            let reading = || format!("reading {}", file.display());
            let mode = fs::metadata(&file).with_context(reading)?.permissions().mode();
            let content = fs::read(&file).with_context(reading)?;
            // newuidmap(1) is nothing without its set-user-ID bit.
            self.file(path, if mode & 0o111 == 0 { 0o644 } else { 0o755 | mode & 0o6000 }, &content);
        }
        Ok(())
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn has(&self, path: &str) -> bool {
        self.names.contains(path)
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        self.names.insert(path.to_owned());
        let size = u32::try_from(content.len()).expect("newc has 32 bits for a file's size");
        let name = u32::try_from(path.len() + 1).expect("a path is short");
        // ino, mode, uid, gid, nlink, mtime, filesize, device of the file (2), device it stands for (2),
        // namesize, check
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A path as the archive has it: without the slash at its beginning.
pub fn text(path: &Path) -> Result<&str> {
    let text = path.to_str().with_context(|| format!("{}: a path that is not UTF-8", path.display()))?;
    Ok(text.trim_start_matches('/'))
}

/// Where a program lies: on PATH, or where root's are.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(OF_ROOT.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in an archive, in order, each with its mode and content.
    fn entries(archive: Archive) -> Vec<(String, u32, Vec<u8>)> {
        let (bytes, mut at, mut entries) = (archive.finish(), 0, Vec::new());
        while at < bytes.len() {
            assert!(at % 4 == 0 && bytes[at..].starts_with(b"070701"), "no header at {at}");
            let field = |index: usize| {
                let digits = str::from_utf8(&bytes[at + 6 + 8 * index..][..8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, length) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[at + 110..][..length - 1].to_vec()).unwrap();
            let content = (at + 110 + length).next_multiple_of(4);
            entries.push((name, u32::try_from(mode).unwrap(), bytes[content..][..size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
        entries
    }

    #[test]
    fn what_is_put_in_comes_out() {
        let mut archive = Archive::default();
        archive.file("a/b/odd", 0o644, b"12345");
        archive.directory("a/c");
        archive.link("a/link", "b/odd");
        let expected = [
            ("a", DIRECTORY | 0o755, ""),
            ("a/b", DIRECTORY | 0o755, ""),
            ("a/b/odd", REGULAR | 0o644, "12345"),
            ("a/c", DIRECTORY | 0o755, ""),
            ("a/link", LINK | 0o777, "b/odd"),
            ("TRAILER!!!", 0, ""),
        ];
        assert_eq!(entries(archive), expected.map(|(name, mode, text)| (name.into(), mode, text.into())));
    }

    #[test]
    fn a_dynamic_program_lies_at_its_own_path_with_its_libraries_and_a_static_one_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("script"), "#!/bin/sh\n").unwrap();
        let (own, shell) = (folder.path().join("bash"), Path::new("/bin/sh"));
        fs::copy(shell, &own).unwrap();
        let mut archive = Archive::default();
        archive.program("congo", Path::new("/"), &folder.path().join("script")).unwrap();
        archive.program("congo", Path::new("/"), &own).unwrap();
        archive.program("congo", Path::new("/"), shell).unwrap();
        let entries = entries(archive);
        let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        let find = |name: &str| &entries[names.iter().position(|it| *it == name).unwrap()];
        assert_eq!(find("congo/script").2, b"#!/bin/sh\n");
        assert_eq!(find("congo/bash").2, own.canonicalize().unwrap().to_str().unwrap().as_bytes());
        assert_eq!(find(text(&own).unwrap()).2, fs::read(shell).unwrap());
        for file in libraries(Path::new("/"), shell).unwrap().files {
            assert_eq!(find(text(&file).unwrap()).2, fs::read(&file).unwrap());
        }
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} is there twice");
            let parent = name.rsplit_once('/').map(|(parent, _)| parent);
            assert!(parent.is_none_or(|parent| names[..index].contains(&parent)), "{name} comes too early");
        }
    }

    #[test]
    fn what_the_guest_would_hide_is_refused() {
        let mut archive = Archive::default();
        let error = archive.host_file(Path::new("/"), Path::new("/run/x")).unwrap_err().to_string();
        assert!(error.contains("/run of its own"), "{error}");
    }
}
