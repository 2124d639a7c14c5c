//! The machines for which there is a filter: the numbers of their system calls, and how the kernel names
//! them.
//!
//! The compiler looks up the names of the built-in profile, so that no start of a container has to.
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
                let mut place = place(call.name().as_bytes());
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
    const fn number(self, name: &[u8]) -> Option<u32> {
        match self {
            Architecture::X86_64 => find(&OF_X86_64, name),
            Architecture::Aarch64 => match find(&OF_AARCH64, name) {
                // The kernel, libseccomp and strace call it by this name; the table does not.
                None if is_same(name, b"newfstatat") => find(&OF_AARCH64, b"fstatat"),
                found => found,
            },
        }
    }
}

/// Some system calls, by their numbers on each machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    x86_64: Numbers,
    aarch64: Numbers,
}

/// A bit for each number.
type Numbers = [u64; 8];
const _: () = assert!(x86_64::Sysno::last().id() < 512 && aarch64::Sysno::last().id() < 512);

impl Calls {
    /// None yet.
    pub(super) const fn none() -> Calls {
        Calls { x86_64: [0; 8], aarch64: [0; 8] }
    }

    /// The calls of these names, for constants. Between two names is white space.
    ///
    /// # Panics
    /// Neither machine has a call of one of the names: in a constant, that is an error of the compiler.
    pub(super) const fn named(names: &[&str]) -> Calls {
        let (mut calls, mut next) = (Calls::none(), 0);
        while next < names.len() {
            assert!(calls.add_all(names[next]), "no machine has a system call of this name");
            next += 1;
        }
        calls
    }

    /// Adds the calls of these names. Returns whether each name is a call of at least one machine.
    const fn add_all(&mut self, names: &str) -> bool {
        let (mut rest, mut all_are_known) = (names.as_bytes(), true);
        while !rest.is_empty() {
            let mut end = 0;
            while end < rest.len() && !rest[end].is_ascii_whitespace() {
                end += 1;
            }
            let (name, behind) = rest.split_at(end);
            all_are_known &= self.add(name) || name.is_empty();
            rest = if let [_, next @ ..] = behind { next } else { behind };
        }
        all_are_known
    }

    /// Adds the call of this name. Returns whether one of the machines has it.
    pub(super) const fn add(&mut self, name: &[u8]) -> bool {
        let numbers = (Architecture::X86_64.number(name), Architecture::Aarch64.number(name));
        if let Some(number) = numbers.0 {
            self.x86_64[number as usize / 64] |= 1 << (number % 64);
        }
        if let Some(number) = numbers.1 {
            self.aarch64[number as usize / 64] |= 1 << (number % 64);
        }
        numbers.0.is_some() || numbers.1.is_some()
    }

    /// Their numbers on this machine, in order.
    pub(super) fn on(&self, machine: Architecture) -> impl Iterator<Item = u32> {
        let numbers = match machine {
            Architecture::X86_64 => self.x86_64,
            Architecture::Aarch64 => self.aarch64,
        };
        (0..).zip(numbers).flat_map(|(word, bits)| {
            // Each step takes the lowest bit away.
            let left = std::iter::successors(Some(bits), |bits| Some(bits & bits.saturating_sub(1)));
            left.take_while(|bits| *bits != 0).map(move |bits| word * 64 + bits.trailing_zeros())
        })
    }
}

/// The calls of these names. Between two names is white space. A name that no machine has is passed over.
impl From<&str> for Calls {
    fn from(names: &str) -> Calls {
        let mut calls = Calls::none();
        calls.add_all(names);
        calls
    }
}

/// The calls of a machine by their names, each at the place that its name gives, or behind that. The crate
/// compares a name with each of its names in turn, which is slow.
type Table = [Option<(&'static str, u32)>; PLACES];

/// Far more than there are calls, so that most are at their place. A power of two.
const PLACES: usize = 1 << 10;

static OF_X86_64: Table = table!(x86_64);
static OF_AARCH64: Table = table!(aarch64);

const fn find(table: &Table, name: &[u8]) -> Option<u32> {
    let mut place = place(name);
    while let Some((other, number)) = table[place] {
        if is_same(name, other.as_bytes()) {
            return Some(number);
        }
        place = (place + 1) % PLACES;
    }
    None
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut next = 0;
    while next < one.len() && next < other.len() && one[next] == other[next] {
        next += 1;
    }
    next == one.len() && next == other.len()
}

/// Fowler, Noll and Vo's hash, FNV-1a.
const fn place(name: &[u8]) -> usize {
    let (mut hash, mut next) = (0x811c_9dc5_u32, 0);
    while next < name.len() {
        hash = (hash ^ name[next] as u32).wrapping_mul(0x0100_0193);
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
            assert_eq!(Architecture::X86_64.number(call.name().as_bytes()), Some(number as u32), "{call}");
        }
        for number in 0..=aarch64::Sysno::last().id() {
            let Some(call) = aarch64::Sysno::new(number as usize) else { continue };
            assert_eq!(Architecture::Aarch64.number(call.name().as_bytes()), Some(number as u32), "{call}");
        }
        for name in ["", "none", "READ", "read ", "reads", "rea"] {
            assert_eq!(Architecture::X86_64.number(name.as_bytes()), None);
        }
        assert_eq!((find(&OF_X86_64, b"read"), find(&OF_AARCH64, b"newfstatat")), (Some(0), None));
        assert_eq!(Architecture::Aarch64.number(b"newfstatat"), Some(79));
    }

    #[test]
    fn names_become_numbers() {
        let on = |calls: Calls, machine| calls.on(machine).collect::<Vec<_>>();
        // munlockall is 152 on one machine, and 231 on the other.
        let calls = Calls::from(" munlockall  no_such_call\nread open\t");
        assert_eq!(on(calls, Architecture::X86_64), [0, 2, 152]);
        assert_eq!(on(calls, Architecture::Aarch64), [63, 231]);
        assert!(on(Calls::from(""), Architecture::X86_64).is_empty());
        assert!(std::panic::catch_unwind(|| Calls::named(&["read", "write no_such_call"])).is_err());
    }
}
