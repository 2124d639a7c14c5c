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
use common::fs::mount::Detached;
use common::fs::rootfs;
use common::ids::idmap;
use common::keep::state::Volumes;
use common::oci::{Config, Image};
use common::run::process::{Environment, Signals};
use common::run::terminal::Terminal;
use common::security::capability::Capabilities;
use common::security::seccomp::Filter;
use common::values::{Mount, Security, User};

use crate::cli::Cli;
use crate::ipc::Ipc;
use crate::network::Network;
use crate::overlay::Layers;
use crate::user_namespace::UserNamespace;
use crate::volume::Opened;
use crate::{capabilities, filesystem, seccomp, user};
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
    shared: Vec<(i32, String)>,
    pub user: Option<User>,
    pub rights: Rights,
}

/// The rights of the container's processes.
pub struct Rights {
    pub no_new_privileges: bool,
    pub capabilities: Capabilities,
    pub filter: Option<Filter>,
}

/// The plan, when nothing is left that could take long.
pub struct Ready<'a> {
    plan: Plan<'a>,
    roots: PathBuf,
    state: PathBuf,
    named: Volumes,
    users: UserNamespace,
    lower: Vec<PathBuf>,
    terminal: Terminal,
    ipc: Ipc,
}

/// The plan, with the objects that must be removed from the host when the container has ended.
pub struct Made<'a> {
    pub plan: Plan<'a>,
    pub users: UserNamespace,
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
    pub root: Detached,
    pub devices: Vec<(&'static str, Detached)>,
    pub sys: Option<Detached>,
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
        let shared = cli.ipc.shared_with(&cli.network, &cli.users)?;
        cli.users.check(&shared)?;
        cli.root.check()?;
        let image = cli.root.image.as_ref().map(Image::open).transpose()?;
        let config = image.as_ref().map_or_else(Config::default, |image| image.config.clone());
        let user = user::choose(cli, &config)?;
        let rights = Rights::of(cli)?;
        let environment = environment::build(&cli.world, &config.env)?;
        let (command, workdir) = (image::command(cli, &config), image::workdir(cli, &config));
        let mounts = image::mounts(cli, &config);
        Ok(Plan { cli, environment, image, config, command, workdir, mounts, shared, user, rights })
    }

    /// Does the slow work: the first run makes a root of the host's programs, or unpacks the image.
    pub fn ready(self) -> Result<Ready<'a>> {
        let state = rootfs::state_dir()?;
        // Waits while another runtime fills one of the named volumes.
        let named = volume::lock(&self.mounts, &state)?;
        let (world, layers) = (&self.cli.world, &self.cli.root.layers);
        let roots = idmap::roots(self.cli.users.userns, &state);
        // Before this process changes its ids: then it no longer has the caller's groups and files.
        if self.image.is_none() && world.rootfs.is_none() {
            idmap::build_default_root(self.cli.users.userns, &roots)?;
        }
        // An ordinary user's runtime becomes root here. So files that it makes later belong to that root.
        let folders = [&state].into_iter().chain(&world.rootfs).chain(layers).map(PathBuf::as_path);
        let users = UserNamespace::prepare(&self.cli.users, &self.shared, &state, folders)?;
        // Lowest first: the root, then the layers that the user puts on top of it.
        let mut lower = match &self.image {
            Some(image) => image.unpack(&roots)?,
            None => vec![world.rootfs.clone().map_or_else(|| rootfs::default_root_in(&roots), Ok)?],
        };
        lower.extend(self.cli.root.layers.iter().cloned());
        // A terminal of the container's own, wherever the caller has one.
        let terminal = Terminal::own(self.cli.session.interactive, self.cli.session.tty);
        let ipc = Ipc::prepare(&self.cli.ipc)?;
        Ok(Ready { plan: self, roots, state, named, users, lower, terminal, ipc })
    }
}

impl Rights {
    fn of(cli: &Cli) -> Result<Rights> {
        let Security { no_new_privileges, seccomp: profile, .. } = cli.security.options.iter().collect();
        let capabilities = capabilities::choose(&cli.security)?;
        let filter = seccomp::prepare(&profile, &capabilities)?;
        Ok(Rights { no_new_privileges, capabilities, filter })
    }
}

impl<'a> Ready<'a> {
    /// Makes the objects that must be undone, and the mounts that the child takes along.
    pub fn make(self) -> Result<(Made<'a>, Mounts)> {
        let Ready { plan, roots, state, named, users, lower, terminal, ipc } = self;
        // First: from here on Ctrl-C is for the container. If it ended the runtime, nothing would clean up.
        let signals = Signals::block()?;
        let network = Network::prepare(&plan.cli.network, &users, &state)?;
        let files = names::build(plan.cli.world.hostname(), &plan.cli.network, &network)?;
        // Before there is a process to limit: a process can outrun a limit that comes later.
        let cgroup = cgroup::create(&plan.cli.limits, &users, &state)?;
        let devices = filesystem::open_devices()?;
        let layers = Layers::make(&roots, lower, plan.cli.root.keep.as_deref(), &users)?;
        let opened = volume::open(&plan.mounts, &named, &layers.folder.path, &users)?;
        let sys = matches!(network, Network::Host).then(filesystem::open_host_sys).transpose()?;
        let mounts = Mounts { root: layers.detached(&users)?, devices, sys, volumes: opened };
        let made =
            Made { plan, users, layers, _named: named, terminal, ipc, network, files, cgroup, signals };
        Ok((made, mounts))
    }
}
