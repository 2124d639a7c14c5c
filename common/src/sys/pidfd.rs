//! A process as a descriptor.
//!
//! Kernel object: a descriptor of a process, made by its number. When the process has ended and was waited
//! for, the kernel may give its number to another one. The descriptor then means no process. So a signal by
//! number can reach a stranger, and one by descriptor cannot.
//! Man pages: pidfd_open(2), pidfd_send_signal(2), both since Linux 5.3.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;
use rustix::process::{self, PidfdFlags, Signal};

use super::error::{Context, Result};

/// A process that is open.
#[derive(Debug)]
pub(crate) struct OpenProcess(OwnedFd);

impl OpenProcess {
    /// Opens the process that has this number now.
    ///
    /// # Errors
    /// ESRCH when there is none; EMFILE, ENOMEM.
    pub(crate) fn of(number: Pid) -> Result<OpenProcess> {
        let what = || format!("pidfd_open({number})");
        let id = process::Pid::from_raw(number.as_raw()).ok_or(nix::errno::Errno::ESRCH).context(what())?;
        process::pidfd_open(id, PidfdFlags::empty()).map(OpenProcess).context(what())
    }

    /// Ends it by SIGKILL. That it has ended already is fine.
    pub(crate) fn kill(&self) {
        let _ = process::pidfd_send_signal(&self.0, Signal::KILL);
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
}
