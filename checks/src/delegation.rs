//! A part of cgroup v2 that belongs to an ordinary user, as systemd gives one: cgroups(7), "Delegation".
//!
//! Kernel objects: a cgroup at the top of v2 belongs to the user, with the files that the user may write to.
//! In it lies a second cgroup, for the processes that start there. A cgroup that passes controllers on has no
//! processes of its own.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use crate::kernel::eventually;
use crate::needs::{DELEGATED, delegable};
use crate::{Failure, cgroups};

/// The user's part. Dropped, it goes.
#[derive(Debug)]
pub(crate) struct Delegated(PathBuf);

impl Delegated {
    /// Makes it. For root only.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn new(user: u32) -> Result<Delegated, Failure> {
        let top = delegable().map_err(|why| Failure::new("a part of cgroup v2", why))?;
        let words = DELEGATED.map(|name| format!("+{name}")).join(" ");
        fs::write(top.join("cgroup.subtree_control"), &words)?;
        let delegated = Delegated(top.join(format!("congo-checks-delegated-{}", std::process::id())));
        for folder in [&delegated.0, &delegated.started()] {
            fs::create_dir(folder)?;
            for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
                chown(folder.join(file), Some(user), Some(user))?;
            }
        }
        Ok(delegated)
    }

    /// Where the cgroups of its containers are to be.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    fn started(&self) -> PathBuf {
        self.0.join("started")
    }

    /// Starts something there: the checks are in it themselves for as long.
    ///
    /// # Errors
    /// When they cannot go there, or what `start` fails at.
    pub(crate) fn within<T>(&self, start: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        cgroups::while_in(&self.started(), start)?
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // The processes that started there are about to end.
        for folder in [self.started(), self.0.clone()] {
            eventually(std::time::Duration::from_secs(5), || fs::remove_dir(&folder).is_ok());
        }
    }
}
