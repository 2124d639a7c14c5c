//! From the command line to everything that a container needs, in three phases.
//!
//! | phase | what it does | if it fails |
//! | --- | --- | --- |
//! | [`Plan::of`] | checks what the user asks for; makes nothing | there is nothing to undo |
//! | [`Plan::ready`] | may take long, or wait; Ctrl-C ends the runtime | the next run uses what is there |
//! | [`Ready::make`] | makes what must be undone | each object undoes itself when it is dropped |

use std::path::PathBuf;

use common::Result;
use common::fs::cgroupfs::Cgroup;
use common::fs::rootfs;
use common::run::process::{Environment, Signals};
use common::run::terminal::Terminal;

use crate::cli::Cli;
use crate::ipc::Ipc;
use crate::network::Network;
use crate::{cgroup, environment, names};

/// The user's options, checked.
pub struct Plan<'a> {
    pub cli: &'a Cli,
    pub environment: Environment,
}

/// The plan, when nothing is left that could take long.
pub struct Ready<'a> {
    plan: Plan<'a>,
    root: PathBuf,
    terminal: Terminal,
    ipc: Ipc,
}

/// The plan, with the objects that must be removed from the host when the container has ended.
pub struct Made<'a> {
    pub plan: Plan<'a>,
    pub root: PathBuf,
    pub terminal: Terminal,
    pub ipc: Ipc,
    pub network: Network,
    pub files: [names::File; 3],
    pub cgroup: Cgroup,
    pub signals: Signals,
}

impl<'a> Plan<'a> {
    /// Refuses options that cannot be had. Reads files of the host, such as `--env-file`, and makes nothing.
    pub fn of(cli: &'a Cli) -> Result<Plan<'a>> {
        cli.limits.check()?;
        cli.network.check(&cli.world)?;
        cli.ipc.check(&cli.network)?;
        cli.session.check()?;
        Ok(Plan { cli, environment: environment::build(&cli.world)? })
    }

    /// Does the slow work: the first run makes a root of the host's programs.
    pub fn ready(self) -> Result<Ready<'a>> {
        let root = self.cli.world.rootfs.clone().map_or_else(rootfs::default_root, Ok)?;
        // A terminal of the container's own, wherever the caller has one.
        let terminal = Terminal::own(self.cli.session.interactive, self.cli.session.tty);
        let ipc = Ipc::prepare(&self.cli.ipc)?;
        Ok(Ready { plan: self, root, terminal, ipc })
    }
}

impl<'a> Ready<'a> {
    /// Makes the objects that must be undone.
    pub fn make(self) -> Result<Made<'a>> {
        let Ready { plan, root, terminal, ipc } = self;
        // First: from here on Ctrl-C is for the container. If it ended the runtime, nothing would clean up.
        let signals = Signals::block()?;
        let network = Network::prepare(&plan.cli.network)?;
        let files = names::build(plan.cli.world.hostname(), &plan.cli.network, &network)?;
        // Before there is a process to limit: a process can outrun a limit that comes later.
        let cgroup = cgroup::create(&plan.cli.limits)?;
        Ok(Made { plan, root, terminal, ipc, network, files, cgroup, signals })
    }
}
