//! The archive that the guest starts from: Congo's programs, a busybox, kernel modules and `init.sh`.
//!
//! The kernel unpacks it into its rootfs and starts `/init`. Format: cpio's "newc", as in the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst. It is not compressed: unpacking would cost the
//! emulated processor more time than reading.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// A cpio archive in memory.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory; those above it must have been added before.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// Adds a regular file with these permissions.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, content);
    }

    /// Adds a program of the host.
    ///
    /// # Errors
    /// When it cannot be read, or is dynamically linked: the guest has no shared libraries.
    pub fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        ensure!(
            !is_dynamic(&content),
            "{} is linked dynamically, and the guest has no shared libraries: link it statically (gcc -static, or \
             RUSTFLAGS=\"-C target-feature=+crt-static\")",
            source.display()
        );
        self.file(path, 0o755, &content);
        Ok(())
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("newc has 32 bits for a file's size");
        let name = u32::try_from(path.len() + 1).expect("a path is short");
        // ino, mode, uid, gid, nlink, mtime, filesize, device of the file (2), device it stands for (2), namesize, check
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

/// Whether an ELF file asks for a dynamic loader: it has a program header of type PT_INTERP. Source: elf(5).
fn is_dynamic(file: &[u8]) -> bool {
    const PT_INTERP: u16 = 3;
    let number = |at: usize| file.get(at..at + 2).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]));
    // Little endian, and no table of headers lies beyond 64 KiB.
    let (headers, size, count) = (number(0x20), number(0x36), number(0x38));
    let at = |index: u16| usize::from(headers) + usize::from(index) * usize::from(size);
    file.starts_with(b"\x7fELF") && (0..count).any(|index| number(at(index)) == PT_INTERP)
}

/// The host's busybox: all of the guest's programs besides Congo's.
///
/// # Errors
/// When there is no static one; the error says which package has it.
pub fn busybox() -> Result<PathBuf> {
    let found = ["busybox.static", "busybox"]
        .into_iter()
        .filter_map(on_path)
        .find(|path| fs::read(path).is_ok_and(|content| !is_dynamic(&content)));
    match found {
        Some(path) => Ok(path),
        None => bail!("no static busybox on PATH: install it (Debian, Ubuntu: apt install busybox-static)"),
    }
}

/// Where on PATH a program lies.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_begins_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/odd", 0o644, b"12345");
        let bytes = archive.finish();
        let headers: Vec<_> =
            bytes.windows(6).enumerate().filter(|(_, window)| window == b"070701").collect();
        assert_eq!(headers.len(), 3);
        assert!(headers.iter().all(|(at, _)| at % 4 == 0));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_dynamic_program_is_known() {
        assert!(is_dynamic(&fs::read("/proc/self/exe").unwrap()) != cfg!(target_feature = "crt-static"));
        assert!(!is_dynamic(b"#!/bin/sh\n"));
        assert!(!is_dynamic(b"\x7fELF"));
    }
}
