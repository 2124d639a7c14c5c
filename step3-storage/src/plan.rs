//! From the command line to everything that a container needs, in three phases.
//!
//! | phase | what it does | if it fails |
//! | --- | --- | --- |
//! | [`Plan::of`] | checks what the user asks for; makes nothing | there is nothing to undo |
//! | [`Plan::ready`] | may take long, or wait; Ctrl-C ends the runtime | the next run uses what is there |
//! | [`Ready::make`] | makes what must be undone | each object undoes itself when it is dropped |

use std::ffi::OsString;
use std::path::PathBuf;

use common::Result;
use common::fs::cgroupfs::Cgroup;
use common::fs::rootfs;
use common::keep::state::Volumes;
use common::oci::{Config, Image};
use common::run::process::{Environment, Signals};
use common::run::terminal::Terminal;
use common::values::Mount;

use crate::cli::Cli;
use crate::ipc::Ipc;
use crate::network::Network;
use crate::overlay::Layers;
use crate::volume::Opened;
use crate::{cgroup, environment, image, names, volume};

/// The user's options, checked.
pub struct Plan<'a> {
    pub cli: &'a Cli,
    pub environment: Environment,
    pub image: Option<Image>,
    pub config: Config,
    pub command: Vec<OsString>,
    pub workdir: PathBuf,
    mounts: Vec<Mount>,
}

/// The plan, when nothing is left that could take long.
pub struct Ready<'a> {
    plan: Plan<'a>,
    state: PathBuf,
    named: Volumes,
    lower: Vec<PathBuf>,
    terminal: Terminal,
    ipc: Ipc,
}

/// The plan, with the objects that must be removed from the host when the container has ended.
pub struct Made<'a> {
    pub plan: Plan<'a>,
    pub layers: Layers,
    _named: Volumes,
    pub terminal: Terminal,
    pub ipc: Ipc,
    pub network: Network,
    pub files: [names::File; 3],
    pub cgroup: Cgroup,
    pub signals: Signals,
}

/// The mounts that the child takes along from the host. None is attached anywhere yet.
pub struct Mounts {
    pub volumes: Vec<Opened>,
}

impl<'a> Plan<'a> {
    /// Refuses options that cannot be had. Reads files of the host, such as `--env-file`, and makes nothing.
    pub fn of(cli: &'a Cli) -> Result<Plan<'a>> {
        cli.limits.check()?;
        cli.network.check(&cli.world)?;
        cli.ipc.check(&cli.network)?;
        cli.session.check()?;
        cli.volumes.check()?;
        cli.root.check()?;
        let image = cli.root.image.as_ref().map(Image::open).transpose()?;
        let config = image.as_ref().map_or_else(Config::default, |image| image.config.clone());
        config.tell_other_user();
        let environment = environment::build(&cli.world, &config.env)?;
        let (command, workdir) = (image::command(cli, &config), image::workdir(cli, &config));
        let mounts = image::mounts(cli, &config);
        Ok(Plan { cli, environment, image, config, command, workdir, mounts })
    }

    /// Does the slow work: the first run makes a root of the host's programs, or unpacks the image.
    pub fn ready(self) -> Result<Ready<'a>> {
        let state = rootfs::state_dir()?;
        // Waits while another runtime fills one of the named volumes.
        let named = volume::lock(&self.mounts, &state)?;
        // Lowest first: the root, then the layers that the user puts on top of it.
        let mut lower = match &self.image {
            Some(image) => image.unpack(&state)?,
            None => vec![self.cli.world.rootfs.clone().map_or_else(rootfs::default_root, Ok)?],
        };
        lower.extend(self.cli.root.layers.iter().cloned());
        // A terminal of the container's own, wherever the caller has one.
        let terminal = Terminal::own(self.cli.session.interactive, self.cli.session.tty);
        let ipc = Ipc::prepare(&self.cli.ipc)?;
        Ok(Ready { plan: self, state, named, lower, terminal, ipc })
    }
}

impl<'a> Ready<'a> {
    /// Makes the objects that must be undone, and the mounts that the child takes along.
    pub fn make(self) -> Result<(Made<'a>, Mounts)> {
        let Ready { plan, state, named, lower, terminal, ipc } = self;
        // First: from here on Ctrl-C is for the container. If it ended the runtime, nothing would clean up.
        let signals = Signals::block()?;
        let network = Network::prepare(&plan.cli.network)?;
        let files = names::build(plan.cli.world.hostname(), &plan.cli.network, &network)?;
        // Before there is a process to limit: a process can outrun a limit that comes later.
        let cgroup = cgroup::create(&plan.cli.limits)?;
        let layers = Layers::make(&state, lower, plan.cli.root.keep.as_deref())?;
        let opened = volume::open(&plan.mounts, &named, &layers.folder.path)?;
        let mounts = Mounts { volumes: opened };
        let made = Made { plan, layers, _named: named, terminal, ipc, network, files, cgroup, signals };
        Ok((made, mounts))
    }
}
