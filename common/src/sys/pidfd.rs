//! A process as a descriptor.
//!
//! Kernel object: a descriptor of a process, made by its number. When the process has ended and was waited
//! for, the kernel may give its number to another one. The descriptor then means no process. So a signal by
//! number can reach a stranger, and one by descriptor cannot.
//! Man pages: pidfd_open(2) since Linux 5.3, pidfd_send_signal(2) since 5.1. Where a seccomp filter of a
//! container around this one does not know them, the number has to do.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{self, PidfdFlags};

use super::error::{Context, Result};

/// A process that is open.
#[derive(Debug)]
pub(crate) struct OpenProcess {
    number: Pid,
    /// `None` where a filter forbids the call.
    open: Option<OwnedFd>,
}

impl OpenProcess {
    /// Opens the process that has this number now.
    ///
    /// # Errors
    /// ESRCH when there is none; EMFILE, ENOMEM.
    pub(crate) fn of(number: Pid) -> Result<OpenProcess> {
        let id = process::Pid::from_raw(number.as_raw()).ok_or(Errno::ESRCH).context("pidfd_open(0)")?;
        let open = match process::pidfd_open(id, PidfdFlags::empty()) {
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => None,
            opened => Some(opened.context(format_args!("pidfd_open({number})"))?),
        };
        Ok(OpenProcess { number, open })
    }

    /// Ends it by SIGKILL. That it has ended already is fine.
    pub(crate) fn kill(&self) {
        let _ = match &self.open {
            Some(open) => process::pidfd_send_signal(open, process::Signal::KILL).is_ok(),
            None => kill(self.number, Signal::SIGKILL).is_ok(),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread::{sleep, yield_now};
    use std::time::Duration;

    use super::*;
    use crate::sys::clone::Numbered;

    #[test]
    fn a_number_that_was_given_anew_is_not_killed() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let opened = OpenProcess::of(pid).unwrap();
        opened.kill();
        child.wait().unwrap();
        let Some(other) = Numbered::born_as(pid) else { return };
        opened.kill();
        // A signal would take a moment.
        sleep(Duration::from_millis(50));
        assert!(other.lives());
        OpenProcess::of(pid).unwrap().kill();
        while other.lives() {
            yield_now();
        }
    }

    #[cfg(feature = "seccomp")]
    #[test]
    fn a_process_is_killed_where_a_filter_knows_no_descriptors_of_processes() {
        use nix::libc::{SYS_pidfd_open, SYS_pidfd_send_signal};
        crate::testing::without_calls(&[SYS_pidfd_open, SYS_pidfd_send_signal], || {
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            OpenProcess::of(Pid::from_raw(child.id().cast_signed())).unwrap().kill();
            assert!(!child.wait().unwrap().success());
        });
    }
}
