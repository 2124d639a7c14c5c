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
use common::fs::mount::Detached;
use common::fs::rootfs;
use common::oci::{Base, Config, Image, commit};
use common::run::handshake::ChildEnd;
use common::run::process::{self, Environment, Signals};
use common::run::terminal::Terminal;
use common::security::capability::Capabilities;
use common::security::seccomp::Filter;
use common::sys::keyring::join_session_keyring;
use common::sys::{die_with_parent, set_no_new_privs, set_not_dumpable, sethostname, umask, unshare};
use common::values::{Security, User};
use common::{Result, explain, printable, tell, values};
use nix::sched::CloneFlags;

use crate::cli::Cli;
use crate::ipc::Ipc;
use crate::network::Network;
use crate::overlay::Layers;
use crate::user_namespace::UserNamespace;
use crate::volume::Opened;
use crate::{
    capabilities, cgroup, environment, filesystem, hardening, image, init, names, rlimit, seccomp, terminal,
    user, user_namespace, volume,
};

/// The exit status of a command that SIGKILL ended.
const KILLED: u8 = 128 + 9;

/// What the parent finds out and makes before there is a child, which goes on from a copy of it.
struct Plan {
    users: UserNamespace,
    user: Option<User>,
    no_new_privileges: bool,
    capabilities: Capabilities,
    filter: Option<Filter>,
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

/// What the child takes along from the host, attached nowhere yet.
struct Mounts<'a> {
    root: Detached,
    devices: Vec<(&'static str, Detached)>,
    volumes: Vec<Opened<'a>>,
}

/// The parent's side. Returns the command's exit status.
///
/// # Errors
/// What the kernel refused, to the parent or to the child. Everything is undone then: dropping the child kills
/// it, and dropping the cgroup removes it.
pub fn run(cli: &Cli) -> Result<u8> {
    if cli.explain {
        explain::start()?;
    }
    // First of all: this process and all that it makes then execute a file that no container can change.
    hardening::protect_own_program()?;
    // A bad value is refused before anything is made; and the files of the environment are the host's.
    cli.limits.check()?;
    cli.volumes.check()?;
    let shared = cli.ipc.shared_with(&cli.network)?;
    cli.users.check()?;
    user_namespace::check(&cli.users, &shared)?;
    cli.root.check()?;
    let image = cli.root.image.as_ref().map(Image::open).transpose()?;
    let config = image.as_ref().map_or_else(Config::default, |image| image.config.clone());
    let environment = environment::build(&cli.world, &config.env)?;
    let user = user::choose(cli, &config)?;
    let security: Security = cli.security.options.iter().collect();
    let capabilities = capabilities::choose(&cli.security)?;
    let filter = seccomp::prepare(&security.seccomp, &capabilities)?;
    let state = rootfs::state_dir()?;
    let (mounts, command) = (image::mounts(cli, &config), image::command(cli, &config));
    // While a Ctrl-C still ends us: another runtime may have one of them until it has filled it.
    let named = volume::lock(&mounts, &state)?;
    let root = match &image {
        Some(_) => None,
        None => Some(
            cli.world.rootfs.clone().map_or_else(|| user_namespace::default_root(&cli.users, &state), Ok)?,
        ),
    };
    let roots = user_namespace::roots(&cli.users, &state);
    // Before anything is made that is to have an owner.
    let folders = [&state].into_iter().chain(&root).chain(&cli.root.layers);
    let users = UserNamespace::prepare(&cli.users, &shared, &state, folders.map(PathBuf::as_path))?;
    // Lowest first: what everything stands on, then what was asked for on top.
    let mut lower = match &image {
        Some(image) => image.unpack(&roots)?,
        None => root.into_iter().collect(),
    };
    lower.extend(cli.root.layers.iter().cloned());
    // One of the container's own, wherever the caller has one.
    let terminal = Terminal::own(cli.session.interactive, cli.session.tty)?;
    let ipc = Ipc::prepare(&cli.ipc)?;

    // Before there is anything to clean up: a Ctrl-C from here on is the container's, and does not end us.
    let signals = Signals::block()?;
    let network = Network::prepare(&cli.network, &users, &state)?;
    let files = names::build(&cli.world.hostname, &cli.network, &network)?;
    // Before there is a process to limit: a limit that comes later can be outrun.
    let cgroup = cgroup::create(&cli.limits, &users, &state)?;
    let devices = filesystem::open_devices()?;
    let layers = Layers::make(&roots, lower, cli.root.keep.as_deref(), &users)?;
    let volumes = volume::open(&mounts, &named, &layers.folder.path, &users)?;
    let mounts = Mounts { root: layers.detached(&users)?, devices, volumes };
    let plan = Plan {
        users,
        user,
        no_new_privileges: security.no_new_privileges,
        capabilities,
        filter,
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
    // NEWUSER, or the others later, when the child has joined that of another container.
    let (namespaces, later) = plan.users.at_birth(namespaces);
    plan.users.give_streams()?;
    // Where the kernel can do it, in cgroup v2, the child is even born in its cgroup.
    let in_cgroup = plan.cgroup.v2_directory();
    let mut child = process::clone(namespaces, in_cgroup, &plan.terminal, |parent| {
        become_command(cli, &plan, mounts, later, parent)
    })?;
    plan.users.connect(child.pid())?;
    rlimit::allow(child.pid(), &cli.limits.ulimits)?;
    plan.network.connect(child.pid())?;
    let _speaker = plan.network.speak(child.pid())?;
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
        let upper = plan.layers.unshifted(&plan.users);
        if let Err(error) = upper.and_then(|upper| commit(target, base, &upper, &plan.command)) {
            plan.layers.rescue(&roots)?;
            return Err(error);
        }
    }
    // The command has run, and its status is what counts.
    plan.cgroup.remove().unwrap_or_else(|error| error.report(env!("CARGO_PKG_NAME")));
    Ok(status)
}

/// The child's side: from a copy of the runtime to the command. Each line makes the world a little smaller.
fn become_command(
    cli: &Cli,
    plan: &Plan,
    mounts: Mounts,
    namespaces: CloneFlags,
    parent: &mut ChildEnd,
) -> Result<Infallible> {
    // The kernel kills us when the parent dies, and with us, as we are PID 1, all of the container. First this, then
    // wait: a parent that died before the first line is noticed by the second.
    die_with_parent()?;
    parent.wait_for_go()?;
    // While the host's /sys/fs/cgroup is still in sight, and before anything can use memory or fork.
    plan.cgroup.join(parent)?;
    // While the host's is in sight, and before it joins a user namespace to which its PID namespace does not belong.
    let proc = filesystem::open_proc()?;
    plan.users.join(namespaces)?;
    // Only now: the cgroup in which a process is when it makes a cgroup namespace becomes the `/` of it.
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    plan.network.configure()?;

    // The caller's would keep other users of the container from what is made for it.
    umask(0o022);
    filesystem::make_mounts_private()?;
    let shared_memory = plan.ipc.join()?;
    let sys = match plan.network {
        Network::Host => filesystem::open_host_sys()?,
        _ => filesystem::open_sys()?,
    };
    filesystem::enter_root(mounts.root)?;
    // What is made from here on belongs to the container's root. Until now it was who called, for whom the way to the root
    // is open.
    plan.users.become_root()?;
    filesystem::mount_proc(proc)?;
    filesystem::mount_dev(mounts.devices)?;
    filesystem::mount_sys(sys)?;
    filesystem::mount_pts(&plan.users)?;
    names::mount_files(&plan.files, cli.root.read_only)?;
    plan.ipc.mount(shared_memory)?;
    volume::attach(mounts.volumes)?;
    hardening::hide()?;

    sethostname(&cli.world.hostname)?;
    rlimit::set(&cli.limits.ulimits)?;
    // Before the container names a path: by /proc/self/fd/N one would lead to the host, through each folder of it that this
    // process has open (CVE-2024-21626).
    parent.close_all_others()?;
    filesystem::enter_workdir(&plan.workdir)?;
    if cli.root.read_only {
        filesystem::make_root_read_only()?;
    }

    join_session_keyring()?;
    let identity = user::resolve(plan.user.as_ref())?;
    let environment = user::at_home(plan.environment.clone(), identity.as_ref());
    let is_root = identity.as_ref().is_none_or(|identity| identity.uid == 0);
    // To load it takes no_new_privs, or else a capability that is about to go with the others.
    if !plan.no_new_privileges {
        seccomp::load(plan.filter.as_ref())?;
    }
    capabilities::bound(&plan.capabilities)?;
    if let Some(identity) = &identity {
        user::become_it(identity)?;
        // With the user the wish to die with the parent is gone, and it may have died since.
        die_with_parent()?;
        parent.must_live()?;
    }
    capabilities::set(&plan.capabilities, &cli.security, is_root)?;
    if plan.no_new_privileges {
        set_no_new_privs()?;
        seccomp::load(plan.filter.as_ref())?;
    }

    // Who is in the container already may not look into what is still the runtime.
    set_not_dumpable()?;
    if cli.session.init {
        init::stay_behind(&plan.signals)?;
    }
    terminal::open_own(&plan.terminal, parent)?;
    process::exec(&plan.command, &environment)
}
