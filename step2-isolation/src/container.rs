//! The story of a container, in kernel order: what the parent does, and what the child does.
//!
//! The parent stays on the host: it makes the cgroup, clones the child into new namespaces, waits, cleans up.
//! The child arranges its new world from within, and then becomes the command. It can do so because a
//! namespace is a property of a process: what the child mounts or names is seen in its namespaces only.
//! Man pages: namespaces(7), clone(2), pid_namespaces(7), mount_namespaces(7), uts_namespaces(7), cgroup_namespaces(7).

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use common::fs::cgroupfs::Cgroup;
use common::fs::rootfs;
use common::run::handshake::ChildEnd;
use common::run::process::{self, Environment, Signals};
use common::run::terminal::Terminal;
use common::sys::{die_with_parent, sethostname, unshare};
use common::{Result, explain, tell, values};
use nix::sched::CloneFlags;

use crate::cli::Cli;
use crate::ipc::Ipc;
use crate::network::Network;
use crate::{cgroup, environment, filesystem, init, names, rlimit, terminal};

/// The exit status of a command that SIGKILL ended.
const KILLED: u8 = 128 + 9;

/// What the parent finds out and makes before there is a child, which goes on from a copy of it.
struct Plan {
    root: PathBuf,
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
    let environment = environment::build(&cli.world)?;
    let root = cli.world.rootfs.clone().map_or_else(rootfs::default_root, Ok)?;
    // One of the container's own, wherever the caller has one.
    let terminal = Terminal::own(cli.session.interactive, cli.session.tty)?;
    let ipc = Ipc::prepare(&cli.ipc)?;

    // Before there is anything to clean up: a Ctrl-C from here on is the container's, and does not end us.
    let signals = Signals::block()?;
    let network = Network::prepare(&cli.network)?;
    let files = names::build(&cli.world.hostname, &cli.network, &network)?;
    // Before there is a process to limit: a limit that comes later can be outrun.
    let cgroup = cgroup::create(&cli.limits)?;
    let plan = Plan { root, environment, terminal, signals, ipc, network, files, cgroup };

    // NEWPID: the child is PID 1 and sees no other processes. It must be asked for here and not by the child,
    //         since a process cannot change its own PID.
    // NEWNS:  a copy of the mounts that the child can change. The first namespace of all, hence the bare name.
    // NEWUTS: a host name of its own.
    let namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    // NEWNET, NEWIPC: unless it joins another's.
    let namespaces = namespaces | plan.network.namespace() | plan.ipc.namespace();
    // Where the kernel can do it, in cgroup v2, the child is even born in its cgroup.
    let in_cgroup = plan.cgroup.v2_directory();
    let mut child =
        process::clone(namespaces, in_cgroup, &plan.terminal, |parent| become_command(cli, &plan, parent))?;
    plan.network.connect(child.pid())?;
    child.go()?;
    child.attach()?;
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
    // The command has run, and its status is what counts.
    plan.cgroup.remove().unwrap_or_else(|error| error.report(env!("CARGO_PKG_NAME")));
    Ok(status)
}

/// The child's side: from a copy of the runtime to the command. Each line makes the world a little smaller.
fn become_command(cli: &Cli, plan: &Plan, parent: &mut ChildEnd) -> Result<Infallible> {
    // The kernel kills us when the parent dies, and with us, as we are PID 1, all of the container. First this, then
    // wait: a parent that died before the first line is noticed by the second.
    die_with_parent()?;
    parent.wait_for_go()?;
    // While the host's /sys/fs/cgroup is still in sight, and before anything can use memory or fork.
    plan.cgroup.join(parent)?;
    // Only now: the cgroup in which a process is when it makes a cgroup namespace becomes the `/` of it.
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    plan.network.configure()?;

    filesystem::make_mounts_private()?;
    let shared_memory = plan.ipc.join()?;
    filesystem::enter_root(&plan.root)?;
    filesystem::mount_proc()?;
    filesystem::mount_dev()?;
    filesystem::mount_sys()?;
    filesystem::mount_pts()?;
    names::mount_files(&plan.files)?;
    plan.ipc.mount(shared_memory)?;

    sethostname(&cli.world.hostname)?;
    rlimit::set(&cli.limits.ulimits)?;
    filesystem::enter_workdir(cli.world.workdir.as_deref().unwrap_or(Path::new("/")))?;

    if cli.session.init {
        init::stay_behind(&plan.signals)?;
    }
    terminal::open_own(&plan.terminal, parent)?;
    // Last, as /proc is read for it on old kernels.
    process::close_descriptors_on_exec()?;
    process::exec(&cli.command, &plan.environment)
}
