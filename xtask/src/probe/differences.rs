//! In what a container of Congo's differs from Docker's on purpose.

/// A figure that is not the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Difference<'a> {
    pub(super) name: &'a str,
    pub(super) ours: &'a str,
    pub(super) theirs: &'a str,
}

/// Whether the call did not get as far as to its arguments.
pub(super) fn is_refused(result: &str) -> bool {
    ["EPERM", "ENOSYS", "SIGSYS"].contains(&result)
}

/// Patterns for what came of a call.
const REFUSED: &str = "refused";
const THROUGH: &str = "let through";

/// One that is meant. A `*` at the end of a pattern stands for anything.
#[derive(Debug)]
pub(super) struct Known {
    names: &'static [&'static str],
    ours: &'static str,
    theirs: &'static str,
    pub(super) why: &'static str,
}

impl Known {
    pub(super) fn explains(&self, difference: &Difference<'_>) -> bool {
        self.names.iter().any(|pattern| fits(pattern, difference.name))
            && fits(self.ours, difference.ours)
            && fits(self.theirs, difference.theirs)
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    match pattern {
        REFUSED => return is_refused(text),
        THROUGH => return text != "absent" && !is_refused(text),
        _ => {}
    }
    pattern.strip_suffix('*').map_or(pattern == text, |begin| text.starts_with(begin))
}

/// All of them. What is not here is a failure. Those about profiles are of two that packages of Debian have:
/// Docker's of 2023, and Podman's.
pub(super) const KNOWN: &[Known] = &[
    Known {
        names: &["namespace user", "uid_map", "gid_map"],
        ours: "*",
        theirs: "*",
        why: "Congo's root is nobody on the host; Docker's is the host's root, unless its daemon is told \
              otherwise",
    },
    Known {
        names: &["NoNewPrivs"],
        ours: "1",
        theirs: "0",
        why: "Congo's default; Docker wants --security-opt no-new-privileges for it",
    },
    Known {
        names: &["call landlock_restrict_self"],
        ours: THROUGH,
        theirs: REFUSED,
        why: "both profiles let it through, and the kernel wants no_new_privs for it",
    },
    Known {
        names: &["socket AF_ALG", "socket AF_VSOCK"],
        ours: REFUSED,
        theirs: THROUGH,
        why: "the kernel's ciphers and the hypervisor, which no program in a container needs; Docker \
              refuses AF_VSOCK by now",
    },
    Known {
        names: &["call io_uring_*"],
        ours: REFUSED,
        theirs: THROUGH,
        why: "Docker refuses io_uring since its version 25, for its many holes; the profile here is older",
    },
    Known {
        names: &[
            "call cachestat",
            "call fchmodat2",
            "call futex_*",
            "call getxattrat",
            "call listmount",
            "call listxattrat",
            "call mseal",
            "call removexattrat",
            "call setxattrat",
            "call statmount",
        ],
        ours: THROUGH,
        theirs: REFUSED,
        why: "newer than the profile or the libseccomp of crun here; they can do no more than older calls \
              that are let through",
    },
    Known {
        names: &["call name_to_handle_at", "call pkey_*", "call process_vm_*"],
        ours: THROUGH,
        theirs: REFUSED,
        why: "Docker's profile lets them through by now; the one here is older",
    },
    Known {
        names: &["call io_pgetevents", "call vmsplice"],
        ours: THROUGH,
        theirs: REFUSED,
        why: "Docker's profile lets them through; Podman's does not",
    },
    Known {
        names: &[
            "call clone",
            "call clone3",
            "call fsconfig",
            "call get_mempolicy",
            "call keyctl",
            "call mbind",
            "call mount",
            "call mount_setattr",
            "call open_tree",
            "call pidfd_getfd",
            "call set_mempolicy",
            "call setns",
            "call umount2",
            "call unshare",
        ],
        ours: REFUSED,
        theirs: THROUGH,
        why: "Docker's profile refuses them to who may not mount, as Congo's does; Podman's leaves that to \
              the kernel",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_holds_in_one_direction() {
        let explained = |ours, theirs| {
            let difference = Difference { name: "NoNewPrivs", ours, theirs };
            KNOWN.iter().any(|known| known.explains(&difference))
        };
        assert!(explained("1", "0"));
        assert!(!explained("0", "1"));
        let mount = |ours, theirs| {
            let difference = Difference { name: "call mount", ours, theirs };
            KNOWN.iter().any(|known| known.explains(&difference))
        };
        assert!(mount("EPERM", "EFAULT"));
        assert!(!mount("EFAULT", "EPERM") && !mount("absent", "EPERM"));
    }
}
