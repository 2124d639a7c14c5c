//! Limits by number: `--pids-limit` on the container, `--ulimit` on each of its processes.
//!
//! The first ends in `pids.max`, which cgroup v1 and v2 share. The second ends in setrlimit(2): the child
//! calls it before exec, because limits are inherited. getrlimit(2); kernel documentation: cgroup-v1/pids.

use nix::sys::resource::{RLIM_INFINITY, Resource, rlim_t};

use super::{Invalid, Limit, whole};

/// The kernel's `PID_MAX_LIMIT` on 64 bits: no host has more processes, and `pids.max` refuses more
/// (`EINVAL`).
const PID_MAX_LIMIT: u64 = 4 * 1024 * 1024;

/// Reads the value of `--pids-limit`: `-1` or `0` for no limit, as in Docker, or a number of processes.
///
/// Threads count as processes: a cgroup counts tasks.
///
/// # Errors
/// Not a whole number, below -1, or more than the kernel can have.
pub fn pids_limit(text: &str) -> Result<Limit, Invalid> {
    match whole(text) {
        Some(0) => Ok(Limit::Unlimited),
        Some(processes) if processes <= PID_MAX_LIMIT => Ok(Limit::AtMost(processes)),
        _ if text == "-1" => Ok(Limit::Unlimited),
        _ => Err(format!(
            "expected a number of processes from 1 to {PID_MAX_LIMIT}, or -1 (or 0) for unlimited"
        )
        .into()),
    }
}

/// What setrlimit(2) takes: one `--ulimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// The name as in the option, for messages.
    pub name: &'static str,
    /// Which resource.
    pub resource: Resource,
    /// What holds now; a process may raise it up to `hard`. In the resource's unit, [`RLIM_INFINITY`] for
    /// unlimited.
    pub soft: rlim_t,
    /// How far `soft` may go. To raise it takes CAP_SYS_RESOURCE, and `nofile` cannot exceed
    /// `/proc/sys/fs/nr_open`, not even for root: there is no "unlimited" for it.
    pub hard: rlim_t,
}

/// Docker's names. `as` is not among them: an address space that is limited before exec starves the runtime.
const RESOURCES: [(&str, Resource); 15] = [
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// Reads a value of `--ulimit`: `name=soft[:hard]`, `-1` for unlimited; without `hard` both are `soft`.
///
/// The numbers go to the kernel as they are, in the unit of the resource. It is bytes for core, data, fsize,
/// memlock, msgqueue, rss and stack, seconds for cpu, and microseconds for rttime. For nice it is 20 minus
/// the nice value, and for the others a count. It is never the kilobytes of the shell's `ulimit`.
///
/// # Errors
/// Another form, an unknown name, or a soft limit above the hard one, which the kernel would refuse.
pub fn ulimit(text: &str) -> Result<Ulimit, Invalid> {
    let expected =
        || "expected name=soft[:hard], numbers or -1 for unlimited, such as nofile=1024:2048".to_owned();
    let (name, limits) = text.split_once('=').ok_or_else(expected)?;
    let &(name, resource) = RESOURCES.iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let names: Vec<_> = RESOURCES.iter().map(|(name, _)| *name).collect();
        format!("unknown name; expected one of {}", names.join(", "))
    })?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let limit = |text| if text == "-1" { Some(RLIM_INFINITY) } else { whole::<rlim_t>(text) };
    let (soft, hard) = limit(soft).zip(limit(hard)).ok_or_else(expected)?;
    // RLIM_INFINITY is the largest number of all, so this also refuses an unlimited soft limit.
    if soft > hard {
        return Err(
            "the soft limit is above the hard limit; expected name=soft:hard with soft at most hard".into()
        );
    }
    Ok(Ulimit { name, resource, soft, hard })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::refused;

    #[test]
    fn pids_limits() {
        assert_eq!(pids_limit("-1"), Ok(Limit::Unlimited));
        assert_eq!(pids_limit("0"), Ok(Limit::Unlimited));
        assert_eq!(pids_limit("1"), Ok(Limit::AtMost(1)));
        assert_eq!(pids_limit("4194304"), Ok(Limit::AtMost(4_194_304)));
        let others =
            ["", "-", "-2", "-0", "+1", "4194305", "1.5", "20m", "max", "abc", "99999999999999999999"];
        refused(pids_limit, "expected a number of processes from 1 to 4194304, or -1", &others);
    }

    #[test]
    fn ulimits() {
        let limit =
            |text: &str| ulimit(text).map(|limit| (limit.name, limit.resource, limit.soft, limit.hard));
        assert_eq!(limit("nofile=1024:2048"), Ok(("nofile", Resource::RLIMIT_NOFILE, 1024, 2048)));
        assert_eq!(limit("nproc=5"), Ok(("nproc", Resource::RLIMIT_NPROC, 5, 5)));
        assert_eq!(limit("core=0:-1"), Ok(("core", Resource::RLIMIT_CORE, 0, RLIM_INFINITY)));
        assert_eq!(limit("stack=-1"), Ok(("stack", Resource::RLIMIT_STACK, RLIM_INFINITY, RLIM_INFINITY)));
    }

    #[test]
    fn what_is_no_ulimit() {
        let no_number = ["nofile=", "nofile=a", "nofile=1:", "nofile=:1", "nofile=1:2:3", "nofile= 1"];
        refused(ulimit, "expected name=soft[:hard]", &no_number);
        let other_number = ["nofile=-2", "nofile=+1", "nofile=1k", "nofile=99999999999999999999999"];
        refused(ulimit, "expected name=soft[:hard]", &other_number);
        refused(ulimit, "expected name=soft[:hard]", &["", "nofile"]);
        let no_name = ["=1", "as=1", "NOFILE=1", "files=1", " nofile=1"];
        refused(ulimit, "unknown name; expected one of core, cpu", &no_name);
        refused(ulimit, "the soft limit is above", &["nofile=2:1", "nofile=-1:5"]);
    }

    #[test]
    fn each_name_is_the_kernels_name() {
        for (name, resource) in RESOURCES {
            assert_eq!(format!("{resource:?}"), format!("RLIMIT_{}", name.to_uppercase()));
        }
    }

    proptest! {
        #[test]
        fn a_ulimit_keeps_its_numbers(index in 0usize..15, a in 0..i64::MAX as u64, b in 0..i64::MAX as u64) {
            let (name, resource) = RESOURCES[index];
            let (soft, hard) = (a.min(b), a.max(b));
            let expected = Ulimit { name, resource, soft, hard };
            prop_assert_eq!(ulimit(&format!("{name}={soft}:{hard}")), Ok(expected));
            prop_assert_eq!(ulimit(&format!("{name}={hard}:{soft}")).is_ok(), soft == hard);
        }

        #[test]
        fn a_pids_limit_keeps_its_number(processes in 1..=PID_MAX_LIMIT) {
            prop_assert_eq!(pids_limit(&processes.to_string()), Ok(Limit::AtMost(processes)));
        }
    }
}
