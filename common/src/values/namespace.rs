//! `--ipc` and `--pid`, and what they have in common with `--network`: joining the namespace of another
//! process.
//!
//! They end in clone(2) with or without the flag of the namespace, or in setns(2). Docker's `container:`
//! takes a container's name. A runtime without a daemon knows no names, so here it is the PID of any process
//! in the container. namespaces(7), ipc_namespaces(7), pid_namespaces(7).

use std::fmt;

use nix::sched::CloneFlags;

use super::{Invalid, whole};

/// Which IPC namespace a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpcMode {
    /// One of its own.
    Private,
    /// That of the runtime.
    Host,
    /// That of the process with this PID.
    Container(i32),
}

/// Reads the value of `--ipc`: `private`, `host` or `container:PID`.
///
/// # Errors
/// None of these, or a PID that no process can have.
pub fn ipc_mode(text: &str) -> Result<IpcMode, Invalid> {
    match text {
        "private" => Ok(IpcMode::Private),
        "host" => Ok(IpcMode::Host),
        _ => container(text)
            .unwrap_or_else(|| Err("expected private, host or container:PID".into()))
            .map(IpcMode::Container),
    }
}

/// Which PID namespace a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidMode {
    /// One of its own, in which its first process is PID 1.
    Private,
    /// That of the runtime: its processes are the host's.
    Host,
    /// That of the process with this PID.
    Container(i32),
}

impl PidMode {
    /// The namespace that the clone has to make.
    pub fn namespace(self) -> CloneFlags {
        if self == PidMode::Private { CloneFlags::CLONE_NEWPID } else { CloneFlags::empty() }
    }
}

/// As the user writes it.
impl fmt::Display for PidMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PidMode::Private => f.write_str("private"),
            PidMode::Host => f.write_str("host"),
            PidMode::Container(pid) => write!(f, "container:{pid}"),
        }
    }
}

/// Reads the value of `--pid`: `private`, `host` or `container:PID`.
///
/// # Errors
/// None of these, or a PID that no process can have.
pub fn pid_mode(text: &str) -> Result<PidMode, Invalid> {
    match text {
        "private" => Ok(PidMode::Private),
        "host" => Ok(PidMode::Host),
        _ => container(text)
            .unwrap_or_else(|| Err("expected private, host or container:PID".into()))
            .map(PidMode::Container),
    }
}

/// The PID in `container:PID`; `None` for a text that does not begin like that.
pub(super) fn container(text: &str) -> Option<Result<i32, Invalid>> {
    let pid = whole(text.strip_prefix("container:")?).filter(|&pid| pid > 0);
    Some(pid.ok_or_else(|| "expected the PID of a process after container:, as the host numbers it".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::refused;

    #[test]
    fn pid_modes() {
        for (text, mode, flag) in [
            ("private", PidMode::Private, CloneFlags::CLONE_NEWPID),
            ("host", PidMode::Host, CloneFlags::empty()),
            ("container:77", PidMode::Container(77), CloneFlags::empty()),
        ] {
            assert_eq!(pid_mode(text), Ok(mode));
            assert_eq!(mode.to_string(), text);
            assert_eq!(mode.namespace(), flag);
        }
        let others = ["", "none", "Host", "private ", "container", "shareable", "host:1"];
        refused(pid_mode, "expected private, host or container:PID", &others);
        refused(
            pid_mode,
            "expected the PID",
            &["container:", "container:0", "container:-1", "container:web"],
        );
    }

    #[test]
    fn ipc_modes() {
        assert_eq!(ipc_mode("private"), Ok(IpcMode::Private));
        assert_eq!(ipc_mode("host"), Ok(IpcMode::Host));
        assert_eq!(ipc_mode("container:1"), Ok(IpcMode::Container(1)));
        assert_eq!(ipc_mode("container:2147483647"), Ok(IpcMode::Container(i32::MAX)));
        let others = ["", "none", "Host", "private ", "container", "shareable", "host:1"];
        refused(ipc_mode, "expected private, host or container:PID", &others);
        let no_pids = ["container:", "container:0", "container:-1", "container:+1", "container:web"];
        refused(ipc_mode, "expected the PID", &no_pids);
        refused(ipc_mode, "expected the PID", &["container:2147483648"]);
    }
}
