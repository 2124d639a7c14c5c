//! The processor of a guest: what QEMU, Debian, Rust and the kernel call it, and what a machine of it has.
//!
//! A guest is as a rule of the host's architecture. One of the other is emulated all the same, since the lab
//! never uses the host's processor; but its programs must be built and fetched for it. Man pages:
//! qemu-system(1), rustup's and Debian's documentation of cross compilation.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::initramfs::on_path;

/// Of which architecture a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    /// Intel's and AMD's 64 bits, which Debian calls amd64
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// ARM's 64 bits, which Debian calls arm64: a Mac with Apple silicon, a Raspberry Pi
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

impl Architecture {
    /// The host's.
    ///
    /// # Errors
    /// When the lab has no machine for it.
    pub fn of_host() -> Result<Architecture> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Architecture::X86_64),
            "aarch64" => Ok(Architecture::Aarch64),
            other => bail!("the lab is for x86-64 and arm64, and this host is {other}: give --arch"),
        }
    }

    /// Whether programs of this host run on it.
    pub fn is_host(self) -> bool {
        Architecture::of_host().is_ok_and(|host| host == self)
    }

    /// As `--arch` names it.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "aarch64",
        }
    }

    /// As Debian names it.
    pub fn debian(self) -> &'static str {
        match self {
            Architecture::X86_64 => "amd64",
            Architecture::Aarch64 => "arm64",
        }
    }

    /// The program that emulates it, and the package of Debian that has the program.
    pub fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Architecture::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Architecture::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    /// QEMU's words for the machine and its processor.
    pub fn machine(self) -> [&'static str; 4] {
        match self {
            // Not with these two: they tell the kernel to copy and clear memory by `rep movsb`, which the
            // emulator does byte by byte. Linux 5.10 then starts a container in twice the time.
            Architecture::X86_64 => ["-machine", "pc", "-cpu", "max,-erms,-fsrm"],
            // The processor of a Raspberry Pi 4. It runs 32-bit programs, too. A newer one signs pointers,
            // which takes the emulator much time.
            Architecture::Aarch64 => ["-machine", "virt", "-cpu", "cortex-a72"],
        }
    }

    /// The guest's serial line, below /dev.
    pub fn console(self) -> &'static str {
        match self {
            Architecture::X86_64 => "ttyS0",
            Architecture::Aarch64 => "ttyAMA0",
        }
    }

    /// For what the guest's programs are built: Rust's name of another machine than the host.
    ///
    /// # Errors
    /// When this host cannot build for it; the error says what to install.
    pub fn target(self) -> Result<Option<&'static str>> {
        if self.is_host() {
            return Ok(None);
        }
        let (tuple, compiler) = match self {
            Architecture::X86_64 => ("x86_64-unknown-linux-gnu", "x86_64-linux-gnu-gcc"),
            Architecture::Aarch64 => ("aarch64-unknown-linux-gnu", "aarch64-linux-gnu-gcc"),
        };
        ensure!(
            on_path(compiler).is_some(),
            "{compiler} is not on PATH: install it (Debian, Ubuntu: apt install gcc-{}-linux-gnu \
             libc6-dev-{}-cross)",
            self.name().replace('_', "-"),
            self.debian()
        );
        let output = Command::new("rustc").args(["--print=target-libdir", "--target", tuple]).output();
        let output = output.context("starting rustc")?;
        let folder = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && Path::new(folder.trim()).is_dir(),
            "Rust has no library for {tuple}: install it (rustup target add {tuple})"
        );
        Ok(Some(tuple))
    }
}
