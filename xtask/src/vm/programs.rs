//! Where the guest's programs come from: the host, or for another architecture packages of Debian.
//!
//! The packages are fetched once into Congo's cache, with all that they need, and unpacked there into a root
//! folder. In it the programs find their libraries. Nothing of it is ever run on the host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use common::fs::rootfs::libraries;

use super::apt::Apt;
use super::architecture::Architecture;
use super::initramfs::on_path;
use super::kernel;

/// The release of Debian, and its packages that have the guest's programs.
const SUITE: &str = "bookworm";
const PACKAGES: [&str; 9] = [
    "busybox-static",
    "dash",
    "iproute2",
    "nftables",
    "passt",
    "slirp4netns",
    "strace",
    "uidmap",
    "util-linux",
];

/// Where Debian has programs.
const FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// The programs that a guest can get.
pub struct Programs {
    /// The folder that is their `/`.
    pub root: PathBuf,
}

impl Programs {
    /// Those for guests of this architecture.
    ///
    /// # Errors
    /// When packages cannot be fetched; what to do then is to run the lab on a host of the architecture.
    pub fn of(architecture: Architecture) -> Result<Programs> {
        if architecture.is_host() {
            return Ok(Programs { root: "/".into() });
        }
        let root = kernel::cache()?.join(format!("programs-{}", architecture.debian()));
        if !root.exists() {
            let debian = architecture.debian();
            eprintln!(
                "xtask: fetching the guest's programs of Debian {SUITE} for {debian}, once, into {}",
                root.display()
            );
            Apt::new(&kernel::cache()?, SUITE, architecture)
                .and_then(|apt| apt.unpack_with_needs(&PACKAGES, &root))
                .with_context(|| format!("the programs for a guest of {debian} cannot be fetched"))?;
        }
        Ok(Programs { root })
    }

    /// Where a program lies, as its root names it.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        if self.root == Path::new("/") {
            return on_path(program);
        }
        FOLDERS.iter().map(|folder| Path::new(folder).join(program)).find(|file| self.path(file).is_file())
    }

    /// The path on the host of a file of the root.
    pub fn path(&self, file: &Path) -> PathBuf {
        self.root.join(file.strip_prefix("/").unwrap_or(file))
    }

    /// The busybox: most of the guest's programs, and those that it starts with.
    ///
    /// # Errors
    /// When there is no static one; the error says which package has it.
    pub fn busybox(&self) -> Result<PathBuf> {
        let is_static =
            |path: &PathBuf| libraries(&self.root, path).is_ok_and(|needed| needed.files.is_empty());
        match ["busybox.static", "busybox"].into_iter().filter_map(|name| self.find(name)).find(is_static) {
            Some(path) => Ok(self.path(&path)),
            None => {
                bail!("no static busybox on PATH: install it (Debian, Ubuntu: apt install busybox-static)")
            }
        }
    }
}
