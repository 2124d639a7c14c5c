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
use common::run::process::Environment;
use common::sys::keyring::join_session_keyring;
use common::sys::{die_with_parent, set_no_new_privs, set_not_dumpable, sethostname, umask, unshare};
use common::{Result, explain, tell, values};
use nix::sched::CloneFlags;

use crate::cli::Cli;
use crate::plan::{Made, Mounts, Plan};
use crate::{capabilities, hardening, seccomp, user};
use crate::{cgroup, device, filesystem, init, names, rlimit, terminal, volume};

/// The exit status of a command that SIGKILL ended.
const KILLED: u8 = 128 + 9;

/// The parent's side. Returns the command's exit status.
///
/// # Errors
/// An impossible option, or a refusal of the kernel to the parent or the child. Everything is then undone:
/// dropping the child kills it, and dropping `made` removes what was made for it.
pub fn run(cli: &Cli) -> Result<u8> {
    if cli.explain {
        explain::start()?;
    }
    // This process, and all that it makes, then executes a file that its container cannot change.
    hardening::protect_own_program(cli)?;
    let plan = Plan::of(cli)?;
    let ready = plan.ready()?;
    let (made, mounts) = ready.make()?;

    made.users.give_streams()?;
    let (flags, born_in) = (made.users.at_birth(namespaces(&made)), made.cgroup.v2_directory());
    // No process can change its own PID, so the child is born where it belongs.
    let pids = PidNamespace::enter(cli.ipc.pid)?;
    let mut child =
        process::clone(flags, born_in, &made.terminal, |parent| become_command(&made, mounts, parent))?;
    pids.leave()?;
    // Without a PID namespace of its own, the kernel does not end the others with the first.
    child.ends_with(&made.cgroup);
    made.users.connect(child.pid())?;
    rlimit::allow(child.pid(), &cli.limits.ulimits)?;
    made.network.connect(child.pid())?;
    let _speaker = made.network.speak(child.pid())?;
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
    // While the host's /proc is in sight. And before this process joins another container's user namespace:
    // there it has no rights over this PID namespace, and the kernel would refuse a proc.
    let proc = filesystem::open_proc()?;
    made.users.join(namespaces(made))?;
    // After the join: the cgroup of the process that makes a cgroup namespace becomes the namespace's `/`.
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    made.network.configure()?;

    // With the caller's umask, other users of the container could not read the runtime's files.
    umask(0o022);
    filesystem::make_mounts_private()?;
    let devices = device::open(&cli.world.devices)?;
    let shared_memory = made.ipc.join()?;
    let sys = mounts.sys.map_or_else(filesystem::open_sys, Ok)?;
    filesystem::enter_root(mounts.root)?;
    // From here on the child makes files. They belong to the container's root, so the child becomes it.
    made.users.become_root()?;
    filesystem::mount_proc(proc)?;
    filesystem::mount_dev(mounts.devices)?;
    filesystem::mount_sys(sys)?;
    filesystem::mount_pts(&made.users)?;
    names::mount_files(&made.files, cli.root.read_only)?;
    made.ipc.mount(shared_memory)?;
    // When the child is in all its namespaces: each one has settings of its own.
    sysctl::set(&cli.ipc.sysctls)?;
    volume::attach(mounts.volumes)?;
    device::attach(devices)?;
    hardening::hide()?;

    sethostname(cli.world.hostname())?;
    rlimit::set(&cli.limits.ulimits)?;
    // The next line enters a path that the container chose. If a folder of the host were still open here,
    // /proc/self/fd/N would lead there (CVE-2024-21626).
    parent.close_all_others()?;
    filesystem::enter_workdir(&made.plan.workdir)?;
    if cli.root.read_only {
        filesystem::make_root_read_only()?;
    }

    let environment = give_up_rights(made, parent)?;
    if cli.session.init {
        init::stay_behind(&made.signals, parent)?;
    }
    terminal::open_own(&made.terminal, parent)?;
    process::exec(&made.plan.command, &environment, parent)
}

/// In the child: gives up what the command must not have. Returns the command's variables.
fn give_up_rights(made: &Made, parent: &mut ChildEnd) -> Result<Environment> {
    let (plan, rights) = (&made.plan, &made.plan.rights);
    join_session_keyring()?;
    let identity = user::resolve(plan.user.as_ref())?;
    let is_root = identity.as_ref().is_none_or(|identity| identity.uid == 0);
    // Loading the filter takes no_new_privs, or else a capability that this process is about to lose.
    if !rights.no_new_privileges {
        seccomp::load(rights.filter.as_ref())?;
    }
    capabilities::bound(&rights.capabilities)?;
    if let Some(identity) = &identity {
        user::become_it(identity)?;
        // With the user id the kernel forgets the wish to die with the parent, which may have died since.
        die_with_parent()?;
        parent.must_live()?;
    }
    capabilities::set(&rights.capabilities, &plan.cli.security, is_root)?;
    if rights.no_new_privileges {
        set_no_new_privs()?;
        let filter = rights.filter.clone();
        parent.at_last(move || seccomp::load(filter.as_ref()));
    }
    // Another process of the container may not look into this one, which is still the runtime.
    set_not_dumpable()?;
    Ok(user::at_home(plan.environment.clone(), identity.as_ref()))
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
        let upper = made.layers.unshifted(&made.users);
        if let Err(error) = upper.and_then(|upper| commit(target, base, &upper, &made.plan.command)) {
            made.layers.rescue().unwrap_or_else(|error| error.report(env!("CARGO_PKG_NAME")));
            return Err(error);
        }
    }
    // The command has run, and its status counts: this error is only reported.
    made.cgroup.remove().unwrap_or_else(|error| error.report(env!("CARGO_PKG_NAME")));
    Ok(status)
}
