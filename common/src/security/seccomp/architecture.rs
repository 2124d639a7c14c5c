//! The machines for which there is a filter: the numbers of their system calls, and how the kernel names
//! them.
//!
//! A number means another call on each machine, and even on one machine in each ABI. So a filter looks at the
//! ABI first.
//! Man pages: syscall(2), seccomp(2); the kernel's include/uapi/linux/audit.h.

use syscalls::{aarch64, x86_64};

/// A machine, which means its 64-bit ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// This machine's.
    pub(super) fn native() -> Option<Architecture> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Architecture::X86_64),
            "aarch64" => Some(Architecture::Aarch64),
            _ => None,
        }
    }

    /// `seccomp_data.arch` of a call: `AUDIT_ARCH_*`, which is the ELF machine, 64-bit and little-endian.
    pub(super) fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 => 0xC000_003E,
            Architecture::Aarch64 => 0xC000_00B7,
        }
    }

    /// As `arches` in a profile names it: as the language Go does.
    pub(super) fn name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "amd64",
            Architecture::Aarch64 => "arm64",
        }
    }

    /// The number of its call of this name, if it has one.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let number = match self {
            Architecture::X86_64 => name.parse::<x86_64::Sysno>().ok()?.id(),
            // The kernel, libseccomp and strace call it by this name; the table does not.
            Architecture::Aarch64 if name == "newfstatat" => aarch64::Sysno::fstatat.id(),
            Architecture::Aarch64 => name.parse::<aarch64::Sysno>().ok()?.id(),
        };
        Some(number.cast_unsigned())
    }
}
