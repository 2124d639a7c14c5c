//! The container dies with its runtime, at every moment, and the next run sweeps what the kernel cannot drop by
//! itself. PR_SET_PDEATHSIG(2const), cgroups(7).

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal::SIGKILL;

use crate::kernel::{Process, eventually, hierarchies};
use crate::probe::Need;
use crate::{Check, Checked, Failure, Subject, ensure, host};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "death.with-runtime", "When the runtime is killed, the whole container dies.", with_runtime)
        .hint("prctl(PR_SET_PDEATHSIG, SIGKILL) in the child; with PID 1 all others die."),
    Check::since(0, "death.at-any-moment", "The container dies with the runtime also while it is being made.", at_any_moment)
        .hint("The parent may be dead before the child calls prctl(2): ask for it first, then find out whether the parent still lives, by the socket or getppid(2)."),
    Check::since(0, "death.swept", "The run after a killed one removes its cgroup.", swept)
        .needs(&[Need::Controller("memory")])
        .hint("A lock that the kernel frees at death, flock(2), tells the dead from the living."),
    Check::since(0, "death.living-are-spared", "A run does not sweep away a container that lives.", living_are_spared)
        .needs(&[Need::Controller("memory")])
        .hint("Only a cgroup whose lock is free belongs to a dead runtime."),
    Check::since(0, "death.strangers-are-spared", "A run does not sweep away a cgroup with a name like those of the runtime.", strangers_are_spared)
        .needs(&[Need::Controller("memory")])
        .hint("The whole name must be of the form that the runtime makes."),
    Check::since(0, "death.cgroups-within", "A cgroup that somebody made within the container's is removed with it.", cgroups_within)
        .needs(&[Need::Controller("memory")])
        .hint("rmdir(2) says EBUSY when a cgroup has children: those first."),
];

const SOON: Duration = Duration::from_secs(10);

fn with_runtime(subject: &Subject) -> Checked {
    let container = subject.hold_sh(&[], "sleep 1000 & echo ready; cat")?;
    let processes = container.processes()?;
    container.signal(SIGKILL)?;
    all_dead(&processes)?;
    drop(container);
    // So that nothing is left for the guard to find.
    subject.run(&["true"])?.ok()?;
    Ok(())
}

fn all_dead(processes: &[Process]) -> Checked {
    let mut alive = vec![];
    let dead = eventually(SOON, || {
        alive = processes
            .iter()
            .filter(|process| process.is_alive())
            .map(|process| process.command_line())
            .collect();
        alive.is_empty()
    });
    ensure(dead, || {
        Failure::new("with the runtime the container is dead", format!("{} live on", alive.join(", ")))
    })
}

fn at_any_moment(subject: &Subject) -> Checked {
    let before = host::myself().descendants();
    for step in 0..60 {
        let mut child = subject.command(&["sleep", "1000"]).spawn()?;
        // From "not yet executed" to "runs": a start takes some milliseconds.
        thread::sleep(Duration::from_micros(step * 150));
        child.kill()?;
        child.wait()?;
    }
    // Orphans are the checks' children now.
    let orphans: Vec<_> =
        host::myself().descendants().into_iter().filter(|it| !before.contains(it)).collect();
    all_dead(&orphans)?;
    subject.run(&["true"])?.ok()?;
    Ok(())
}

fn swept(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    let cgroup = container.first()?.cgroup()?.folder("memory")?.to_owned();
    let processes = container.processes()?;
    container.signal(SIGKILL)?;
    all_dead(&processes)?;
    drop(container);
    subject.run(&["true"])?.ok()?;
    ensure(!cgroup.exists(), || {
        Failure::new("the next run removes it", format!("{} is there", cgroup.display()))
    })
}

fn strangers_are_spared(subject: &Subject) -> Checked {
    let hierarchies = hierarchies()?;
    let memory = hierarchies.iter().find(|it| it.controllers.iter().any(|name| name == "memory"));
    let memory = memory.ok_or_else(|| Failure::new("a hierarchy with the memory controller", "none"))?;
    let stranger = memory.point.join(format!("congo-{}.service", std::process::id()));
    fs::create_dir(&stranger)?;
    let run = subject.run(&["true"]);
    let spared = fs::remove_dir(&stranger).is_ok();
    run?.ok()?;
    ensure(spared, || Failure::new(format!("{} is there after the run", stranger.display()), "it is gone"))
}

fn cgroups_within(subject: &Subject) -> Checked {
    let mut container = subject.hold_sh(&[], "echo ready; read end; exit 7")?;
    let cgroup = container.first()?.cgroup()?.folder("memory")?.to_owned();
    fs::create_dir_all(cgroup.join("within/further"))?;
    container.say("end")?;
    container.output()?.status_is(7)?;
    ensure(!cgroup.exists(), || Failure::new("the cgroup is gone", format!("{} is there", cgroup.display())))
}

fn living_are_spared(subject: &Subject) -> Checked {
    let mut container = subject.hold(&[])?;
    let cgroup = container.first()?.cgroup()?.folder("memory")?.to_owned();
    subject.run(&["true"])?.ok()?;
    container.say("still here")?;
    container.wait_for("still here")?;
    ensure(cgroup.exists(), || Failure::new("its cgroup is there", "gone"))?;
    container.output()?.status_is(0)
}
