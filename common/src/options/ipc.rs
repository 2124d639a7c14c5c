//! With which container the container shares memory and messages.

use clap::Args;

use super::Network;
use crate::sys::error::{Error, Result};
use crate::sys::namespace::check_namespace;
use crate::values::{self, IpcMode, NetworkMode};

/// With which container the container shares memory and messages.
#[derive(Debug, Args)]
#[command(next_help_heading = "IPC (since step 2)")]
pub struct Ipc {
    /// private, host, or container:PID to share another container's.
    #[arg(
        long,
        value_name = "MODE", default_value = "private", allow_hyphen_values = true,
        value_parser = values::ipc_mode
    )]
    pub ipc: IpcMode,

    /// The size of /dev/shm: bytes, or with a unit.
    #[arg(
        long,
        value_name = "SIZE", default_value = "64m", allow_hyphen_values = true,
        value_parser = values::shm_size
    )]
    pub shm_size: u64,
}

impl Ipc {
    /// Refuses the PID of no process.
    ///
    /// # Errors
    /// There is none, or it is another user's.
    pub fn check(&self) -> Result<()> {
        let IpcMode::Container(pid) = self.ipc else { return Ok(()) };
        check_namespace(pid, "ipc", &format!("--ipc container:{pid}"))
    }

    /// The containers whose network or memory this one is to share: a PID of each, and the option that names
    /// it.
    ///
    /// # Errors
    /// `--ipc container:PID` together with a bridge.
    pub fn shared_with(&self, network: &Network) -> Result<Vec<(i32, String)>> {
        let mut shared = Vec::new();
        if let NetworkMode::Container(pid) = network.network {
            shared.push((pid, format!("--network container:{pid}")));
        }
        if let IpcMode::Container(pid) = self.ipc {
            if network.network == NetworkMode::Bridge {
                // The container's network is made when it has joined the other's user namespace. That is too
                // late for a cable.
                return Err(Error::new(format!("--ipc container:{pid} --network bridge: not both"))
                    .hint(format!("share that container's network, too: --network container:{pid}")));
            }
            shared.push((pid, format!("--ipc container:{pid}")));
        }
        Ok(shared)
    }
}
