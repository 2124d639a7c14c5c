//! The PID namespace of the container, where it is not a new one: the host's, or another container's.
//!
//! Kernel object: for each process, the PID namespace in which its children are born. setns(2) with
//! CLONE_NEWPID changes only that. The process itself stays in its own namespace and keeps its number. Order:
//! enter, clone, leave. Otherwise the helpers of the runtime would be born in the container.
//!
//! PID 1 of a namespace takes all other processes of it along. A container without a PID 1 of its own has a
//! cgroup, and the runtime kills what is in it: see [`Child::ends_with`](super::process::Child::ends_with).
//! Man pages: pid_namespaces(7), setns(2).

use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use crate::sys::error::{Error, Result};
use crate::sys::namespace::{enter, is_own_namespace, open_namespace};
use crate::sys::{open, set_not_dumpable};
use crate::values::PidMode;

/// Where the children of this process are born, until it is dropped.
#[derive(Debug)]
pub struct PidNamespace {
    /// The namespace of this process itself, to come back to.
    home: Option<OwnedFd>,
}

impl PidNamespace {
    /// Opens the namespace that `--pid` names, if it is another container's.
    ///
    /// # Errors
    /// ESRCH when there is no such process; it is in the host's namespace.
    pub(crate) fn find(mode: PidMode) -> Result<Option<OwnedFd>> {
        let PidMode::Container(pid) = mode else { return Ok(None) };
        let option = format!("--pid {mode}");
        let namespace = open_namespace(pid, "pid", &option)?;
        if is_own_namespace(&namespace, "pid")? {
            return Err(Error::new(format!("{option}: that is a process of the host"))
                .hint("expected a process of a container; --pid host is for the host's"));
        }
        Ok(Some(namespace))
    }

    /// In the parent, before the clone: has its children born in the namespace that `--pid` names.
    ///
    /// # Errors
    /// Those of `--pid`, once more: the process may have ended. EPERM without `CAP_SYS_ADMIN` there.
    pub fn enter(mode: PidMode) -> Result<PidNamespace> {
        let Some(namespace) = PidNamespace::find(mode)? else { return Ok(PidNamespace { home: None }) };
        // The container's processes see the child while it is still the runtime, and has the host's files
        // open. None may look into it then (CVE-2016-9962). The child inherits this.
        set_not_dumpable()?;
        let home = open("/proc/self/ns/pid", OFlag::O_RDONLY)?;
        enter(&namespace, CloneFlags::CLONE_NEWPID)?;
        Ok(PidNamespace { home: Some(home) })
    }

    /// In the parent, after the clone: has its later children born where it is itself.
    ///
    /// # Errors
    /// None that the caller can cause.
    pub fn leave(mut self) -> Result<()> {
        self.home.take().map_or(Ok(()), |home| enter(&home, CloneFlags::CLONE_NEWPID))
    }
}

impl Drop for PidNamespace {
    fn drop(&mut self) {
        // This is the way out after a failure, and that failure gets reported.
        let _ = self.home.take().map(|home| enter(&home, CloneFlags::CLONE_NEWPID));
    }
}
