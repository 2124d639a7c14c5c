//! What root is here: the host's, or that of a user namespace, which may do less to files.
//!
//! In a user namespace there are no device nodes but whiteouts (since 5.8), no attributes `trusted.*`, and
//! only the ids that are mapped. An overlay notes there as `user.overlay.*` what it else notes as
//! `trusted.overlay.*`: the option `userxattr`, since 5.11. Kernel object: `/proc/self/uid_map`.
//! Man pages: user_namespaces(7), xattr(7); the kernel's filesystems/overlayfs.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::geteuid;

use super::short::read_text;

/// Whether this process was an ordinary user's, and is root only because it has made itself so.
static WAS_ORDINARY: AtomicBool = AtomicBool::new(false);

/// Whether this process, if it is root, is the root of the host or of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// The host's.
    Host,
    /// A user namespace's.
    UserNamespace,
}

impl Privilege {
    /// That of this process.
    pub fn current() -> Privilege {
        // A kernel without user namespaces has no such file.
        read_text("/proc/self/uid_map").map_or(Privilege::Host, |map| Privilege::of(&map))
    }

    /// Whether who called this process is root: not one that became root in a user namespace of its own.
    pub fn caller_is_root() -> bool {
        geteuid().is_root() && !WAS_ORDINARY.load(Ordering::Relaxed)
    }

    /// Whether this process, an ordinary user's, is root of a user namespace of its own.
    pub(crate) fn is_own_root() -> bool {
        WAS_ORDINARY.load(Ordering::Relaxed) && geteuid().is_root()
    }

    /// Remembers that this process was an ordinary user's.
    #[cfg(feature = "idmap")]
    pub(crate) fn became_root() {
        WAS_ORDINARY.store(true, Ordering::Relaxed);
    }

    /// In the first user namespace each id is itself.
    fn of(map: &str) -> Privilege {
        let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
        if all { Privilege::Host } else { Privilege::UserNamespace }
    }

    /// What an overlay's options say beside its layers: off is what makes of a layer something that only this
    /// overlay can read. With `userxattr` the kernel refuses to hear of `redirect_dir=off`, as it then never
    /// redirects.
    pub fn overlay_options(self) -> &'static str {
        match self {
            Privilege::Host => "redirect_dir=off,metacopy=off,index=off",
            Privilege::UserNamespace => "userxattr,metacopy=off,index=off",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_namespace_has_all_ids() {
        assert_eq!(Privilege::of("         0          0 4294967295\n"), Privilege::Host);
        for map in ["", "0 1000 1\n", "0 0 65536\n", "0 0 4294967294\n4294967294 4294967294 1\n"] {
            assert_eq!(Privilege::of(map), Privilege::UserNamespace, "{map:?}");
        }
    }
}
