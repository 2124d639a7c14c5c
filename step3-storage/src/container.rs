//! The story of a container, in kernel order: the parent's side, and the child's side.
//!
//! The parent stays on the host: it prepares (`plan.rs`), clones the child, waits for it, and cleans up.
//! The child arranges its new world from within, and then becomes the command. It can do so because a
//! namespace is a property of a process: what the child mounts or names is seen in its namespaces only.
//! Man pages: namespaces(7), clone(2), pid_namespaces(7), mount_namespaces(7), uts_namespaces(7),
//! cgroup_namespaces(7).

use std::convert::Infallible;

use common::fs::overlay::changes;
use common::fs::sysctl;
use common::oci::{Base, commit};
use common::run::handshake::ChildEnd;
use common::run::pids::PidNamespace;
use common::run::process;
use common::sys::{die_with_parent, sethostname, umask, unshare};
use common::{Result, explain, tell, values};
use nix::sched::CloneFlags;

use crate::cli::Cli;
use crate::plan::{Made, Mounts, Plan};
use crate::{cgroup, device, filesystem, init, names, rlimit, terminal, volume};

/// The exit status of a command that SIGKILL ended.
const KILLED: u8 = 128 + 9;

/// The parent's side. Returns the command's exit status.
///
/// # Errors
/// An impossible option, or a refusal of the kernel to the parent or the child. Everything is then undone:
/// dropping the child kills it, and dropping `made` removes what was made for it.
pub fn run(cli: &Cli) -> Result<u8> {
    process::require_root()?;
    if cli.explain {
        explain::start()?;
    }
    let plan = Plan::of(cli)?;
    let ready = plan.ready()?;
    let (made, mounts) = ready.make()?;

    let (flags, born_in) = (namespaces(&made), made.cgroup.v2_directory());
    // No process can change its own PID, so the child is born where it belongs.
    let pids = PidNamespace::enter(cli.ipc.pid)?;
    let mut child =
        process::clone(flags, born_in, &made.terminal, |parent| become_command(&made, mounts, parent))?;
    pids.leave()?;
    // Without a PID namespace of its own, the kernel does not end the others with the first.
    child.ends_with(&made.cgroup);
    made.network.connect(child.pid())?;
    cli.session.begin(&mut child)?;
    child.go()?;
    child.attach()?;
    child.stop_by(made.plan.config.stop_signal);
    let status = child.wait(&made.signals)?;
    after(made, status)
}

/// The namespaces into which the parent clones the child.
fn namespaces(made: &Made) -> CloneFlags {
    // NEWPID: the child is PID 1 and sees no other processes. The parent asks for this namespace, since no
    //         process can change its own PID.
    // NEWNS:  a copy of the mounts that the child can change. The kernel's first namespace, hence the name.
    // NEWUTS: a host name of its own.
    let always = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    // NEWPID, NEWNET, NEWIPC: unless it joins those of another container, or of the host.
    always | made.plan.cli.ipc.pid.namespace() | made.network.namespace() | made.ipc.namespace()
}

/// The child's side: from a copy of the runtime to the command. Each line makes the world a little smaller.
fn become_command(made: &Made, mounts: Mounts, parent: &mut ChildEnd) -> Result<Infallible> {
    let cli = made.plan.cli;
    // The kernel kills this process when the parent dies. This process is PID 1, so the whole container dies
    // with it. First this, then wait: the second line notices a parent that died before the first line.
    die_with_parent()?;
    parent.wait_for_go()?;
    // While the host's /sys/fs/cgroup is still in sight, and before anything can use memory or fork.
    cgroup::join(&made.cgroup, parent)?;
    let proc = filesystem::open_proc()?;
    // After the join: the cgroup of the process that makes a cgroup namespace becomes the namespace's `/`.
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    made.network.configure()?;

    // With the caller's umask, other users of the container could not read the runtime's files.
    umask(0o022);
    filesystem::make_mounts_private()?;
    let devices = device::open(&cli.world.devices)?;
    let shared_memory = made.ipc.join()?;
    made.layers.mount()?;
    let sys = filesystem::open_sys()?;
    filesystem::enter_root(made.layers.root())?;
    filesystem::mount_proc(proc)?;
    filesystem::mount_dev()?;
    filesystem::mount_sys(sys)?;
    filesystem::mount_pts()?;
    names::mount_files(&made.files, cli.root.read_only)?;
    made.ipc.mount(shared_memory)?;
    // When the child is in all its namespaces: each one has settings of its own.
    sysctl::set(&cli.ipc.sysctls)?;
    volume::attach(mounts.volumes)?;
    device::attach(devices)?;

    sethostname(cli.world.hostname())?;
    rlimit::set(&cli.limits.ulimits)?;
    // The next line enters a path that the container chose. If a folder of the host were still open here,
    // /proc/self/fd/N would lead there (CVE-2024-21626).
    parent.close_all_others()?;
    filesystem::enter_workdir(&made.plan.workdir)?;
    if cli.root.read_only {
        filesystem::make_root_read_only()?;
    }

    if cli.session.init {
        init::stay_behind(&made.signals, parent)?;
    }
    terminal::open_own(&made.terminal, parent)?;
    process::exec(&made.plan.command, &made.plan.environment, parent)
}

/// When the container has ended: says why, cleans up, and returns the status.
fn after(made: Made, status: u8) -> Result<u8> {
    let cli = made.plan.cli;
    // "Killed" alone would not tell the user which process did it.
    let kills = cgroup::out_of_memory_kills(&made.cgroup);
    if status == KILLED && kills > 0 {
        let limit = values::format_limit(cli.limits.memory());
        let program = env!("CARGO_PKG_NAME");
        tell(format_args!(
            "{program}: out of memory: processes that the kernel killed: {kills}, --memory is {limit}"
        ));
    }
    if cli.root.changes {
        for (kind, path) in changes(&made.layers.lower, &made.layers.upper())? {
            tell(format_args!("{kind} {}", path.display()));
        }
    }
    if let Some(target) = &cli.root.commit {
        let image = made.plan.image.as_ref();
        // An image's own layers go on as they are.
        let folders = if image.is_some() { &cli.root.layers } else { &made.layers.lower };
        let base = Base { image, folders };
        if let Err(error) = commit(target, base, &made.layers.upper(), &made.plan.command) {
            made.layers.rescue().unwrap_or_else(|error| error.report(env!("CARGO_PKG_NAME")));
            return Err(error);
        }
    }
    // The command has run, and its status counts: this error is only reported.
    made.cgroup.remove().unwrap_or_else(|error| error.report(env!("CARGO_PKG_NAME")));
    Ok(status)
}
