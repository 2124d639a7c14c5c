//! The machines for which there is a filter: the numbers of their system calls, and how the kernel names
//! them.
//!
//! A number means another call on each machine, and even on one machine in each ABI. So a filter looks at the
//! ABI first.
//! Man pages: syscall(2), seccomp(2); the kernel's include/uapi/linux/audit.h.

use syscalls::{aarch64, x86_64};

/// The compiler fills the table.
macro_rules! table {
    ($machine:ident) => {{
        let (mut table, mut id): (Table, _) = ([None; PLACES], 0);
        while id <= $machine::Sysno::last().id() {
            if let Some(call) = $machine::Sysno::new(id as usize) {
                let mut place = place(call.name());
                while table[place].is_some() {
                    place = (place + 1) % PLACES;
                }
                table[place] = Some((call.name(), id.cast_unsigned()));
            }
            id += 1;
        }
        table
    }};
}

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
        match self {
            Architecture::X86_64 => find(&OF_X86_64, name),
            // The kernel, libseccomp and strace call it by this name; the table does not.
            Architecture::Aarch64 if name == "newfstatat" => find(&OF_AARCH64, "fstatat"),
            Architecture::Aarch64 => find(&OF_AARCH64, name),
        }
    }
}

/// The calls of a machine by their names, each at the place that its name gives, or behind that. The crate
/// compares a name with each of its names in turn. For all names of the built-in profile, this would take a
/// third of the instructions that a start itself takes.
type Table = [Option<(&'static str, u32)>; PLACES];

/// Far more than there are calls, so that most are at their place. A power of two.
const PLACES: usize = 1 << 10;

static OF_X86_64: Table = table!(x86_64);
static OF_AARCH64: Table = table!(aarch64);

fn find(table: &Table, name: &str) -> Option<u32> {
    let mut place = place(name);
    while let Some((other, number)) = table[place] {
        if name == other {
            return Some(number);
        }
        place = (place + 1) % PLACES;
    }
    None
}

/// Fowler, Noll and Vo's hash, FNV-1a.
const fn place(name: &str) -> usize {
    let (bytes, mut hash, mut next) = (name.as_bytes(), 0x811c_9dc5_u32, 0);
    while next < bytes.len() {
        hash = (hash ^ bytes[next] as u32).wrapping_mul(0x0100_0193);
        next += 1;
    }
    (hash ^ (hash >> 16)) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_number() {
        for number in 0..=x86_64::Sysno::last().id() {
            let Some(call) = x86_64::Sysno::new(number as usize) else { continue };
            assert_eq!(Architecture::X86_64.number(call.name()), Some(number as u32), "{call}");
        }
        for number in 0..=aarch64::Sysno::last().id() {
            let Some(call) = aarch64::Sysno::new(number as usize) else { continue };
            assert_eq!(Architecture::Aarch64.number(call.name()), Some(number as u32), "{call}");
        }
        for name in ["", "none", "READ", "read "] {
            assert_eq!(Architecture::X86_64.number(name), None);
        }
        assert_eq!((find(&OF_X86_64, "read"), find(&OF_AARCH64, "newfstatat")), (Some(0), None));
        assert_eq!(Architecture::Aarch64.number("newfstatat"), Some(79));
    }
}
