//! `--ipc`, and what it has in common with `--network`: joining the namespace of another process.
//!
//! They end in clone(2) with or without the flag of the namespace, or in setns(2). Docker's `container:`
//! takes a container's name. A runtime without a daemon knows no names, so here it is the PID of any process
//! in the container. namespaces(7), ipc_namespaces(7).

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

/// The PID in `container:PID`; `None` for what does not begin like that.
pub(super) fn container(text: &str) -> Option<Result<i32, Invalid>> {
    let pid = whole(text.strip_prefix("container:")?).filter(|&pid| pid > 0);
    Some(pid.ok_or_else(|| "expected the PID of a process after container:, as the host numbers it".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::refused;

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
