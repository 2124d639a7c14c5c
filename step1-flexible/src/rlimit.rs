//! Resource limits, which belong to a process and not to a group: each child gets a copy, and counts for
//! itself.
//!
//! Older than cgroups, and still the only way to limit, say, open files or the size of a core dump. Order: by
//! the process itself, before it becomes the command, while it has the right to raise them.
//! Man page: getrlimit(2). The limits of a process: `/proc/PID/limits`.

use common::sys::setrlimit;
use common::values::Ulimit;
use common::{Hint, Result};
use nix::errno::Errno;

/// Sets these limits for this process and all that it will start.
pub fn set(limits: &[Ulimit]) -> Result<()> {
    limits.iter().try_for_each(|limit| {
        setrlimit(limit.resource, limit.soft, limit.hard).hint_if(
            Errno::EPERM,
            "--ulimit: more than this host allows; for nofile see /proc/sys/fs/nr_open",
        )
    })
}
