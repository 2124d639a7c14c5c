//! The story of a container, in kernel order: what the parent does, and what the child does.
//!
//! The parent stays on the host: it makes the cgroup, clones the child into new namespaces, waits, cleans up.
//! The child arranges its new world from within, and then becomes the command. It can do so because a
//! namespace is a property of a process: what the child mounts or names is seen in its namespaces only.
//! Man pages: namespaces(7), clone(2), pid_namespaces(7), mount_namespaces(7), uts_namespaces(7), cgroup_namespaces(7).

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;

use common::fs::cgroupfs::Cgroup;
use common::fs::rootfs;
use common::oci::{Base, Config, Image, commit};
use common::run::handshake::ChildEnd;
use common::run::process::{self, Environment, Signals};
use common::run::terminal::Terminal;
use common::sys::{die_with_parent, sethostname, umask, unshare};
use common::{Result, explain, printable, tell, values};
use nix::sched::CloneFlags;

use crate::cli::Cli;
use crate::ipc::Ipc;
use crate::network::Network;
use crate::overlay::Layers;
use crate::volume::Opened;
use crate::{cgroup, environment, filesystem, image, init, names, rlimit, terminal, volume};

/// The exit status of a command that SIGKILL ended.
const KILLED: u8 = 128 + 9;

/// What the parent finds out and makes before there is a child, which goes on from a copy of it.
struct Plan {
    layers: Layers,
    command: Vec<OsString>,
    workdir: PathBuf,
    environment: Environment,
    terminal: Terminal,
    signals: Signals,
    ipc: Ipc,
    network: Network,
    files: [names::File; 3],
    cgroup: Cgroup,
}

/// The parent's side. Returns the command's exit status.
///
/// # Errors
/// What the kernel refused, to the parent or to the child. Everything is undone then: dropping the child kills
/// it, and dropping the cgroup removes it.
pub fn run(cli: &Cli) -> Result<u8> {
    process::require_root()?;
    if cli.explain {
        explain::start()?;
    }
    // A bad value is refused before anything is made; and the files of the environment are the host's.
    cli.limits.check()?;
    cli.volumes.check()?;
    cli.root.check()?;
    let image = cli.root.image.as_ref().map(Image::open).transpose()?;
    let config = image.as_ref().map_or_else(Config::default, |image| image.config.clone());
    if let Some(user) = config.other_user() {
        tell(format_args!("congo: the image wants to run as {user}; until step 4 it runs as root"));
    }
    let environment = environment::build(&cli.world, &config.env)?;
    let state = rootfs::state_dir()?;
    let (mounts, command) = (image::mounts(cli, &config), image::command(cli, &config));
    // While a Ctrl-C still ends us: another runtime may have one of them until it has filled it.
    let named = volume::lock(&mounts, &state)?;
    // Lowest first: what everything stands on, then what was asked for on top.
    let mut lower = match &image {
        Some(image) => image.unpack(&state)?,
        None => vec![cli.world.rootfs.clone().map_or_else(rootfs::default_root, Ok)?],
    };
    lower.extend(cli.root.layers.iter().cloned());
    // One of the container's own, wherever the caller has one.
    let terminal = Terminal::own(cli.session.interactive, cli.session.tty)?;
    let ipc = Ipc::prepare(&cli.ipc)?;

    // Before there is anything to clean up: a Ctrl-C from here on is the container's, and does not end us.
    let signals = Signals::block()?;
    let network = Network::prepare(&cli.network)?;
    let files = names::build(&cli.world.hostname, &cli.network, &network)?;
    // Before there is a process to limit: a limit that comes later can be outrun.
    let cgroup = cgroup::create(&cli.limits)?;
    let layers = Layers::make(&state, lower, cli.root.keep.as_deref())?;
    let volumes = volume::open(&mounts, &named, &layers.folder.path)?;
    let plan = Plan {
        layers,
        command,
        workdir: image::workdir(cli, &config),
        environment,
        terminal,
        signals,
        ipc,
        network,
        files,
        cgroup,
    };

    // NEWPID: the child is PID 1 and sees no other processes. It must be asked for here and not by the child,
    //         since a process cannot change its own PID.
    // NEWNS:  a copy of the mounts that the child can change. The first namespace of all, hence the bare name.
    // NEWUTS: a host name of its own.
    let namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    // NEWNET, NEWIPC: unless it joins another's.
    let namespaces = namespaces | plan.network.namespace() | plan.ipc.namespace();
    // Where the kernel can do it, in cgroup v2, the child is even born in its cgroup.
    let in_cgroup = plan.cgroup.v2_directory();
    let mut child = process::clone(namespaces, in_cgroup, &plan.terminal, |parent| {
        become_command(cli, &plan, volumes, parent)
    })?;
    plan.network.connect(child.pid())?;
    child.go()?;
    child.attach()?;
    child.stop_by(config.stop_signal);
    let status = child.wait(&plan.signals)?;

    // "Killed" alone would leave the user to guess who did it.
    let kills = cgroup::out_of_memory_kills(&plan.cgroup);
    if status == KILLED && kills > 0 {
        let limit = values::format_size(cli.limits.memory());
        let program = env!("CARGO_PKG_NAME");
        tell(format_args!(
            "{program}: out of memory: processes that the kernel killed: {kills}, --memory is {limit}"
        ));
    }
    if cli.root.changes {
        for (kind, path) in plan.layers.changes()? {
            tell(format_args!("{kind} {}", printable(&path)));
        }
    }
    if let Some(target) = &cli.root.commit {
        // An image's own layers go on as they are.
        let folders = if image.is_some() { &cli.root.layers } else { &plan.layers.lower };
        let base = Base { image: image.as_ref(), folders };
        if let Err(error) = commit(target, base, &plan.layers.upper(), &plan.command) {
            plan.layers.rescue(&state)?;
            return Err(error);
        }
    }
    // The command has run, and its status is what counts.
    plan.cgroup.remove().unwrap_or_else(|error| error.report(env!("CARGO_PKG_NAME")));
    Ok(status)
}

/// The child's side: from a copy of the runtime to the command. Each line makes the world a little smaller.
fn become_command(cli: &Cli, plan: &Plan, volumes: Vec<Opened>, parent: &mut ChildEnd) -> Result<Infallible> {
    // The kernel kills us when the parent dies, and with us, as we are PID 1, all of the container. First this, then
    // wait: a parent that died before the first line is noticed by the second.
    die_with_parent()?;
    parent.wait_for_go()?;
    // While the host's /sys/fs/cgroup is still in sight, and before anything can use memory or fork.
    plan.cgroup.join(parent)?;
    let proc = filesystem::open_proc()?;
    // Only now: the cgroup in which a process is when it makes a cgroup namespace becomes the `/` of it.
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    plan.network.configure()?;

    // The caller's would keep other users of the container from what is made for it.
    umask(0o022);
    filesystem::make_mounts_private()?;
    let shared_memory = plan.ipc.join()?;
    plan.layers.mount()?;
    let sys = filesystem::open_sys()?;
    filesystem::enter_root(&plan.layers.root())?;
    filesystem::mount_proc(proc)?;
    filesystem::mount_dev()?;
    filesystem::mount_sys(sys)?;
    filesystem::mount_pts()?;
    names::mount_files(&plan.files, cli.root.read_only)?;
    plan.ipc.mount(shared_memory)?;
    volume::attach(volumes)?;

    sethostname(&cli.world.hostname)?;
    rlimit::set(&cli.limits.ulimits)?;
    // Before the container names a path: by /proc/self/fd/N one would lead to the host, through each folder of it that this
    // process has open (CVE-2024-21626).
    parent.close_all_others()?;
    filesystem::enter_workdir(&plan.workdir)?;
    if cli.root.read_only {
        filesystem::make_root_read_only()?;
    }

    if cli.session.init {
        init::stay_behind(&plan.signals)?;
    }
    terminal::open_own(&plan.terminal, parent)?;
    process::exec(&plan.command, &plan.environment)
}
