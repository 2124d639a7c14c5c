//! The container dies with its runtime, at every moment, and the next run sweeps what the kernel cannot drop
//! by itself. PR_SET_PDEATHSIG(2const), cgroups(7).

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal::SIGKILL;

use super::bridge::Member;
use crate::kernel::{Process, eventually, hierarchies, listing, myself};
use crate::needs::Need;
use crate::network::{self, Link, Network};
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "death.with-runtime",
        "When the runtime is killed, the whole container dies.", with_runtime)
        .hint("prctl(PR_SET_PDEATHSIG, SIGKILL) in the child; with PID 1 all others die."),
    Check::since(4, "death.with-user",
        "The container dies with the runtime also when its command runs as a user other than root.",
        with_user)
        .not_new()
        // A caller without subordinate ids has no second user.
        .needs(&[Need::Root])
        .hint("The kernel forgets PR_SET_PDEATHSIG when a process changes its user: ask for it again."),
    Check::since(0, "death.at-any-moment",
        "The container dies with the runtime also while it is being made.", at_any_moment)
        .hint("The parent may be dead before the child calls prctl(2). Call it first, then find out whether \
               the parent still lives, by the socket or getppid(2)."),
    Check::since(0, "death.swept", "After a runtime was killed, the next run removes its cgroup.", swept)
        .needs(&[Need::Controller("memory")])
        .hint("A lock that the kernel frees at death, flock(2), tells dead runtimes from living ones."),
    Check::since(0, "death.living-are-spared",
        "A run does not remove the cgroup of a living container.", living_are_spared)
        .needs(&[Need::Controller("memory")])
        .hint("Only a cgroup whose lock is free belongs to a dead runtime."),
    Check::since(0, "death.strangers-are-spared",
        "A run does not remove another program's cgroup whose name is similar to the runtime's.",
        strangers_are_spared)
        .needs(&[Need::Controller("memory")])
        .hint("Compare the whole name with the form that the runtime uses."),
    Check::since(0, "death.cgroups-within",
        "A cgroup that a program made within the container's is removed with it.", cgroups_within)
        .needs(&[Need::Controller("memory")])
        .hint("rmdir(2) says EBUSY when a cgroup has children: remove those first."),
    Check::since(2, "death.network-swept",
        "After a runtime was killed, the next run removes its link, its bridge, its rules and its lease, and \
         turns forwarding off.", network_swept)
        .needs(&[Need::Bridge])
        .hint("Any run must do it, even without a network: it removes everything that has no living owner. \
               The state folder records whether forwarding was on."),
    Check::since(2, "death.network-spared",
        "A run leaves the link, the bridge and the rules of a living container alone.", network_spared)
        .needs(&[Need::Bridge])
        .hint("A lease whose lock is free belongs to a dead runtime; the bridge has other members."),
    Check::since(2, "death.network-successor",
        "A container that gets the address of a killed one keeps its bridge, whatever starts beside it.",
        network_successor)
        .needs(&[Need::Bridge])
        .hint("The new lease has the name of the old one. The runtime that sweeps the old one away must not \
               remove the new one with it."),
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

fn with_user(subject: &Subject) -> Checked {
    for more in [&[][..], &["--init"], &["--userns", "host"]] {
        let container = subject.hold(&[&["--user", "65534"], more].concat())?;
        let processes = container.processes()?;
        container.signal(SIGKILL)?;
        all_dead(&processes)?;
    }
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
    let before = myself().descendants();
    for step in 0..60 {
        let mut child = subject.command(&["sleep", "1000"]).spawn()?;
        // From "not yet executed" to "runs": a start takes some milliseconds.
        thread::sleep(Duration::from_micros(step * 150));
        child.kill()?;
        child.wait()?;
    }
    // Orphans are the checks' children now.
    let orphans: Vec<_> = myself().descendants().into_iter().filter(|it| !before.contains(it)).collect();
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

/// Kills the runtime and waits until the container is dead, so that only what the kernel keeps is left.
fn murder(member: Member) -> Checked {
    let Member { network, container, .. } = member;
    drop(network);
    let processes = container.processes()?;
    container.signal(SIGKILL)?;
    all_dead(&processes)
}

fn network_swept(subject: &Subject) -> Checked {
    let leases = || listing(&subject.home().join("run"), 5);
    for next in
        [&["--network", "none", "true"][..], &["--network", "host", "true"], &["--network", "bridge", "true"]]
    {
        let before = (Network::of_host()?.links()?, network::tables()?, network::forwarding()?, leases());
        let publish = ["-p", "8080:80", "--bridge", "lab1", "--subnet", "10.45.0.0/24"];
        murder(Member::new(subject, &publish)?)?;
        subject.run(next)?.ok()?;
        let names = |links: &[Link]| links.iter().map(|link| link.name.clone()).collect::<Vec<_>>();
        let after = format!("after `{}`", next.join(" "));
        expect(format!("the links {after}"), names(&before.0), names(&Network::of_host()?.links()?))?;
        expect(format!("the tables {after}"), before.1, network::tables()?)?;
        expect(format!("whether packets are passed on {after}"), before.2, network::forwarding()?)?;
        expect(format!("what is left of leases {after}"), before.3, leases())?;
        let free = TcpListener::bind("0.0.0.0:8080").is_ok();
        ensure(free, || Failure::new(format!("port 8080 is free {after}"), "it is taken"))?;
    }
    Ok(())
}

fn network_successor(subject: &Subject) -> Checked {
    let published = ["-p", "8080:80"];
    for (killed, next) in [(&[][..], &[][..]), (&published, &[]), (&[], &published)] {
        murder(Member::new(subject, killed)?)?;
        let successor = Member::new(subject, next)?;
        expect("the address of the next container", "10.44.0.2", successor.address.as_str())?;
        subject.run(&["true"])?.ok()?;
        let listener = successor.network.tcp("0.0.0.0:80")?;
        Network::of_host()?.reaches(&successor.port(80), &listener)?;
        drop(listener);
        let neighbour = Member::new(subject, &[])?;
        expect("the address of its neighbour", "10.44.0.3", neighbour.address.as_str())?;
        neighbour.end()?;
        successor.end()?;
    }
    Ok(())
}

fn network_spared(subject: &Subject) -> Checked {
    let host = Network::of_host()?;
    let living = Member::new(subject, &["-p", "8080:80"])?;
    let listener = living.network.tcp("0.0.0.0:80")?;
    let dying = Member::new(subject, &["-p", "8081:80"])?;
    expect("the address of the second", "10.44.0.3", dying.address.as_str())?;
    murder(dying)?;
    subject.run(&["true"])?.ok()?;
    let links: Vec<_> = host.links()?.into_iter().map(|link| link.name).collect();
    let has = |name: &str| links.iter().any(|link| link == name);
    ensure(has("congo0") && has("veth0a2c0002") && !has("veth0a2c0003"), || {
        Failure::new("congo0 and veth0a2c0002 are left, veth0a2c0003 is not", format!("{links:?}"))
    })?;
    host.reaches("127.0.0.1:8080", &listener)?;
    host.reaches(&living.port(80), &listener)?;
    expect("whether packets are passed on", true, network::forwarding()?)?;
    // And what was the dead one's can be had again.
    Member::new(subject, &["-p", "8081:80", "--ip", "10.44.0.3"])?.end()?;
    host.reaches("127.0.0.1:8080", &listener)?;
    drop(listener);
    living.end()
}
