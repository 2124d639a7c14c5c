//! Capabilities: the pieces of root's power, as names, as sets, and as the five sets that a thread has.
//!
//! Kernel objects: the thread's bounding, permitted, effective, inheritable and ambient set. Order: the bounding set
//! first, as dropping from it takes `CAP_SETPCAP` in the effective set; the ambient set last, as it may have only what
//! is permitted and inheritable. Becoming another user than root between the two empties the permitted set, unless
//! [`keep_capabilities`] was called. Man pages: capabilities(7), capset(2), PR_CAPBSET_DROP(2const),
//! PR_CAP_AMBIENT(2const), PR_SET_KEEPCAPS(2const).

use std::fmt;

pub use caps::Capability;

mod sets;
#[cfg(test)]
mod tests;

pub use sets::{Sets, bounding, clear_ambient, drop_bounding, get, keep_capabilities, raise_ambient, set};

/// The capabilities that Docker leaves to root of a container: enough for packages, servers and `su`, and nothing that
/// reaches the kernel's settings or other containers.
const DOCKER: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_MKNOD,
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_SETFCAP,
];

/// A set of capabilities, as the kernel has it: a bit for each.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The empty set.
    pub const NONE: Capabilities = Capabilities(0);

    /// Docker's 14.
    pub fn docker() -> Capabilities {
        DOCKER.into_iter().collect()
    }

    /// All that Congo knows by name, whether or not this kernel has them.
    pub fn all() -> Capabilities {
        caps::all().into_iter().collect()
    }

    /// The set whose bits are these, as `/proc/PID/status` shows them.
    pub fn from_bits(bits: u64) -> Capabilities {
        Capabilities(bits)
    }

    /// A bit for each.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether it is in the set.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bitmask() != 0
    }

    /// What is in one of the two.
    #[must_use]
    pub fn union(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn difference(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }

    /// In the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        let mut all: Vec<_> = caps::all().into_iter().filter(|&it| self.contains(it)).collect();
        all.sort_unstable_by_key(Capability::index);
        all.into_iter()
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(capabilities: T) -> Self {
        Capabilities(capabilities.into_iter().fold(0, |bits, it| bits | it.bitmask()))
    }
}

/// `CAP_CHOWN|CAP_KILL`, or `0`.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(|it| it.to_string()).collect();
        f.write_str(&crate::sys::names(names.iter().map(String::as_str)))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What `--cap-add` and `--cap-drop` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// `ALL`.
    All,
    /// One of them.
    One(Capability),
}

/// The capability of this name, in any case, with or without `CAP_`.
pub fn by_name(name: &str) -> Option<Capability> {
    let name = name.to_ascii_uppercase();
    let bare = name.strip_prefix("CAP_").unwrap_or(&name);
    format!("CAP_{bare}").parse().ok()
}

/// What a container gets: Docker's 14, less what is dropped, and what is added, which wins. With `ALL` added, all of
/// `available` but those that are dropped by name; with `ALL` dropped, those that are added and no other.
pub fn choose(add: &[Named], drop: &[Named], available: Capabilities) -> Capabilities {
    let named = |list: &[Named]| -> Capabilities {
        list.iter()
            .filter_map(|it| if let Named::One(capability) = it { Some(*capability) } else { None })
            .collect()
    };
    let (added, dropped) = (named(add), named(drop));
    if add.contains(&Named::All) {
        available.difference(dropped)
    } else if drop.contains(&Named::All) {
        added
    } else {
        Capabilities::docker().difference(dropped).union(added)
    }
}
