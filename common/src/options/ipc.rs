//! With which container the container shares memory and messages, and the settings of its namespaces.

use clap::Args;
use nix::unistd::geteuid;
#[cfg(feature = "idmap")]
use nix::unistd::getpid;

use super::Network;
#[cfg(feature = "idmap")]
use super::Users;
use crate::fs::sysctl;
use crate::run::pids::PidNamespace;
use crate::sys::error::{Error, Result};
#[cfg(feature = "idmap")]
use crate::sys::namespace::users_of;
use crate::sys::namespace::{check_namespace, is_own_namespace};
#[cfg(feature = "idmap")]
use crate::values::UsernsMode;
use crate::values::{self, IpcMode, NetworkMode, PidMode, Sysctl};

/// With which container the container shares memory and messages, and the settings of its namespaces.
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

    /// private, host, or container:PID to be among the processes of another container.
    #[arg(
        long,
        value_name = "MODE", default_value = "private", allow_hyphen_values = true,
        value_parser = values::pid_mode, help_heading = "Processes (since step 2)"
    )]
    pub pid: PidMode,

    /// Change a setting of the kernel for the container alone: net.*, or one of IPC; repeatable.
    #[arg(
        long = "sysctl",
        value_name = "NAME=VALUE", allow_hyphen_values = true,
        value_parser = values::sysctl
    )]
    pub sysctls: Vec<Sysctl>,
}

impl Ipc {
    /// Refuses the PID of no process, settings of a namespace that is the host's, and other PID namespaces
    /// for an ordinary user.
    ///
    /// # Errors
    /// There is no such process, or it is another user's; for `--pid`, it is one of the host's; `--sysctl`
    /// would change the host.
    pub fn check(&self, network: &Network) -> Result<()> {
        if !self.sysctls.is_empty() {
            sysctl::remember_host()?;
        }
        let (shares_network, shares_ipc) = (network_of_host(network)?, self.ipc_of_host()?);
        for sysctl in &self.sysctls {
            let shared = if sysctl.is_of_network() { &shares_network } else { &shares_ipc };
            if let Some(option) = shared {
                let assignment = sysctl.assignment();
                return Err(Error::new(format!("{sysctl}: with {option} it would change the host")).hint(
                    format!("leave one of both out, or change the host itself: sysctl -w '{assignment}'"),
                ));
            }
        }
        // The cgroup ends the processes that such a container leaves, and an ordinary user need not have a
        // cgroup.
        if self.pid != PidMode::Private && !geteuid().is_root() {
            return Err(Error::new(format!("--pid {}: the caller is not root", self.pid))
                .hint("expected private from an ordinary user"));
        }
        PidNamespace::find(self.pid).map(drop)
    }

    /// The option by which the container has the host's IPC namespace, if it has.
    fn ipc_of_host(&self) -> Result<Option<String>> {
        match self.ipc {
            IpcMode::Private => Ok(None),
            IpcMode::Host => Ok(Some("--ipc host".into())),
            IpcMode::Container(pid) => of_host(pid, "ipc", format!("--ipc container:{pid}")),
        }
    }

    /// The containers whose network, memory or processes this one is to share: a PID of each, and the option
    /// that names it. This container may also share the host's processes. Then the PID is the runtime's own.
    ///
    /// # Errors
    /// - `--ipc container:PID` or `--pid container:PID` together with a bridge, unless the container keeps
    ///   the host's users (`--userns host`).
    /// - `--userns host` together with `--pid container:PID`, where that container has users of its own.
    #[cfg(feature = "idmap")]
    pub fn shared_with(&self, network: &Network, users: &Users) -> Result<Vec<(i32, String)>> {
        let not_with_bridge = |option: &str| {
            // The container's network is made after it has joined the other's user namespace. That is too
            // late for a cable.
            if network.network == NetworkMode::Bridge && users.userns != Some(UsernsMode::Host) {
                return Err(Error::new(format!(
                    "{option} --network bridge: not both, with users of its own"
                ))
                .hint("share that container's network, too: --network container:PID; or add --userns host"));
            }
            Ok(())
        };
        let mut shared = Vec::new();
        if let NetworkMode::Container(pid) = network.network {
            shared.push((pid, format!("--network container:{pid}")));
        }
        if let IpcMode::Container(pid) = self.ipc {
            let option = format!("--ipc container:{pid}");
            not_with_bridge(&option)?;
            shared.push((pid, option));
        }
        match self.pid {
            PidMode::Private => {}
            // The runtime is one of the host's processes, and in the user namespace that rules over them.
            PidMode::Host => shared.push((getpid().as_raw(), "--pid host".into())),
            PidMode::Container(pid) => {
                let option = format!("--pid container:{pid}");
                not_with_bridge(&option)?;
                if users.userns == Some(UsernsMode::Host) {
                    refuse_other_users(pid, &option)?;
                }
                shared.push((pid, option));
            }
        }
        Ok(shared)
    }
}

/// Root of the host's users has all rights over a container with users of its own. By /proc/PID/exe it would
/// find the runtime's own file there, and could change it: see `protect_own_program` in step 4.
#[cfg(feature = "idmap")]
fn refuse_other_users(pid: i32, option: &str) -> Result<()> {
    let processes = check_namespace(pid, "pid", option)?;
    if is_own_namespace(&users_of(&processes)?, "user")? {
        return Ok(());
    }
    Err(Error::new(format!("{option} --userns host: not both, as that container has users of its own"))
        .hint("leave --userns host out: then the container has those users, too"))
}

/// The option by which the container has the host's network, if it has.
fn network_of_host(network: &Network) -> Result<Option<String>> {
    match network.network {
        NetworkMode::None | NetworkMode::Bridge => Ok(None),
        NetworkMode::Host => Ok(Some("--network host".into())),
        NetworkMode::Container(pid) => of_host(pid, "net", format!("--network container:{pid}")),
    }
}

/// The option, if the process that it names is in the host's namespace of this kind.
fn of_host(pid: i32, kind: &str, option: String) -> Result<Option<String>> {
    let namespace = check_namespace(pid, kind, &option)?;
    Ok(is_own_namespace(&namespace, kind)?.then_some(option))
}
