//! `--pid`: a container among the processes of the host, or of another container. None of its own outlives
//! it, though no PID 1 takes them along. pid_namespaces(7), setns(2), cgroups(7).

use std::time::Duration;

use nix::sys::signal::Signal::SIGKILL;
use nix::unistd::geteuid;

use super::bad_input::{each, refused};
use super::bad_network::dead;
use super::security_files::host_users;
use crate::container::Container;
use crate::kernel::{Process, eventually, myself};
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "processes.host",
        "With --pid host, the container's processes are the host's, and /proc shows all of them.", of_host)
        .needs(&[Need::Root])
        .hint("No CLONE_NEWPID. A proc shows the PID namespace of the process that mounts it."),
    Check::since(2, "processes.container",
        "With --pid container:PID, two containers have the same processes.", of_container)
        .needs(&[Need::Root])
        .hint("setns(2) with CLONE_NEWPID, before the clone, decides where a child is born."),
    Check::since(2, "processes.end-with-it",
        "With --pid host, the container's other processes end with its first one.", end_with_it)
        .needs(&[Need::Root])
        .hint("No PID 1 takes them along. cgroup.kill ends all processes of a cgroup; before Linux 5.14, \
               kill those in cgroup.procs until there are none."),
    Check::since(2, "processes.swept",
        "After a runtime was killed, the next run ends what its container with --pid host has left.", swept)
        .needs(&[Need::Root])
        .hint("A cgroup whose lock is free belongs to a dead runtime: kill what is in it, then remove it."),
    Check::since(2, "processes.workdir",
        "With --pid host no working directory leads out of the root, though /proc shows the roots of others.",
        workdir)
        .needs(&[Need::Root])
        .not_new()
        .hint("/proc/PID/root is a magic link: openat2(2), RESOLVE_NO_MAGICLINKS, then fchdir(2)."),
    Check::since(2, "processes.init",
        "With --pid host, --init takes in the container's orphans.", init)
        .needs(&[Need::Root])
        .hint("It is no PID 1 there: prctl(2), PR_SET_CHILD_SUBREAPER."),
    Check::since(2, "processes.init-killed",
        "With --pid host, the command does not begin if its init was killed before.", init_killed)
        .needs(&[Need::Root, Need::Program("strace")])
        .hint("PR_SET_PDEATHSIG tells nothing of a parent that has died before: compare getppid(2) with the \
               parent's PID afterwards."),
    Check::since(2, "processes.bridge",
        "A container that joins the processes of another one can be on a bridge, as long as its users are \
         the host's.", on_bridge)
        .needs(&[Need::Root, Need::Bridge])
        .hint("Only a user namespace that the container joins makes the network too late for a cable."),
    Check::since(2, "bad.pid",
        "A PID mode that does not exist, the PID of no container's process, and a mode that the caller may \
         not have are refused.", bad)
        .hint("private, host, container:PID."),
];

const SOON: Duration = Duration::from_secs(10);

/// The options for `--pid host`: in step 4 its users must be the host's.
fn host(subject: &Subject) -> Vec<&'static str> {
    [&["--pid", "host"], host_users(subject)].concat()
}

fn of_host(subject: &Subject) -> Checked {
    let script = format!("readlink /proc/self/ns/pid; test -d /proc/{} && echo seen", myself());
    let run = subject.sh(&host(subject), &script)?;
    let own = myself().namespace("pid")?;
    let expected = [own.to_string_lossy(), "seen".into()].join("\n");
    expect("the PID namespace, and whether the checks are among its processes", &*expected, run.ok()?)
}

fn of_container(subject: &Subject) -> Checked {
    let one = subject.hold_sh(&[], "sleep 4323 & echo ready; cat")?;
    let first = one.first()?;
    let options = ["--pid", &format!("container:{first}")];
    // The pattern does not match itself.
    let script = "readlink /proc/self/ns/pid; test $$ = 1 || echo not the first
        grep -q '432[3]' /proc/[0-9]*/cmdline && echo a sleep";
    let run = subject.sh(&options, script)?;
    let shown = first.namespace("pid")?;
    let text = format!("{}\nnot the first\na sleep", shown.display());
    expect("the PID namespace, and what is in it", &*text, run.ok()?)?;
    // The other way: the first container sees what the second one starts.
    let other = subject.hold_sh(&options, "echo ready; cat")?;
    let born = other.runtime().descendants();
    let inside = born.iter().find(|it| it.namespace("pid").is_ok_and(|its| its == shown));
    ensure(inside.is_some(), || {
        Failure::new("a process of the second runtime in the namespace of the first", "none")
    })?;
    let for_children = other.runtime().namespace("pid_for_children")?;
    expect("where the runtime's later children are born", myself().namespace("pid")?, for_children)?;
    // Both go on, whichever of them ends.
    drop(other);
    ensure(first.is_alive(), || Failure::new("the first container lives", "it has ended"))
}

/// Reads the PID that a script has printed last, as the host numbers it.
fn pid(text: &str) -> Result<Process, Failure> {
    let number = text.split_whitespace().last().and_then(|word| word.parse().ok());
    number.map(Process).ok_or_else(|| Failure::new("a PID on stdout", text))
}

fn has_ended(process: Process, when: &str) -> Checked {
    let ended = eventually(SOON, || !process.is_alive() || process.is_zombie());
    if !ended {
        process.end();
    }
    ensure(ended, || Failure::new(format!("{when}, its other processes have ended"), "one lives on"))
}

const LEAVE: &str = "setsid sleep 4322 < /dev/null > /dev/null 2>&1 & echo $!";

fn end_with_it(subject: &Subject) -> Checked {
    for more in [&[][..], &["--init"]] {
        let run = subject.sh(&[&host(subject)[..], more].concat(), LEAVE)?;
        has_ended(pid(run.ok()?)?, "when the command has ended")?;
    }
    Ok(())
}

fn swept(subject: &Subject) -> Checked {
    let container = subject.hold_sh(&host(subject), &format!("{LEAVE}; echo ready; cat"))?;
    let left = pid(container.stdout().replace("ready", "").as_str())?;
    ensure(left.is_alive(), || Failure::new("a process in the container", "none"))?;
    container.signal(SIGKILL)?;
    drop(container);
    subject.run(&["true"])?.ok()?;
    has_ended(left, "after the next run")
}

fn workdir(subject: &Subject) -> Checked {
    let secret = subject.write("of-the-host", "seen")?;
    let script = format!("cat .{secret}; :");
    let plain = subject.sh(&[&host(subject)[..], &["--workdir", "/tmp/../"]].concat(), &script)?;
    expect("what the host's file looks like from the root", "", plain.ok()?)?;
    let root = format!("/proc/{}/root", myself());
    let run = subject.sh(&[&host(subject)[..], &["--workdir", &root]].concat(), &script)?;
    ensure(run.status == 125 && run.stdout.is_empty(), || {
        Failure::new(format!("--workdir {root} is refused, 125"), format!("{}: {}", run.ending(), run.stdout))
    })
}

fn init(subject: &Subject) -> Checked {
    let script = "orphan=$(sh -c 'sleep 4323 < /dev/null > /dev/null 2>&1 & echo $!')
        grep PPid /proc/$orphan/status; grep PPid /proc/$$/status";
    let run = subject.sh(&[&host(subject)[..], &["--init"]].concat(), script)?;
    let lines: Vec<_> = run.ok()?.lines().collect();
    ensure(lines.len() == 2 && lines[0] == lines[1], || {
        Failure::new("one parent, the init, of the orphan and of the command", lines.join(", "))
    })
}

fn init_killed(subject: &Subject) -> Checked {
    // Each process is slow at its first prctl(2). The command's is the one for PR_SET_PDEATHSIG.
    let arguments = [&host(subject)[..], &["--init", "echo", "it ran"]].concat();
    let mut slow = subject.command_slow_at_first("prctl", &arguments);
    let container = Container::start(&mut slow)?;
    let of = |process: Process| process.descendants().into_iter().filter(move |it| *it != process);
    // strace, the runtime, the init, the command.
    let chain = || {
        let runtime = of(container.runtime()).find(|it| it.command_line().contains("it ran"))?;
        of(runtime).find(|init| of(*init).next().is_some()).map(|_| runtime)
    };
    let begun = eventually(SOON, || chain().is_some());
    let Some(runtime) = chain().filter(|_| begun) else {
        return Err(Failure::new("an init with a child", "none"));
    };
    // The kernel then kills the init.
    runtime.end();
    let stdout = container.output()?.stdout;
    subject.run(&["true"])?.ok()?;
    expect("what the command has said", "", stdout.as_str())
}

fn on_bridge(subject: &Subject) -> Checked {
    let one = subject.hold(host_users(subject))?;
    let container = format!("container:{}", one.first()?);
    let options = [&["--pid", &container, "--network", "bridge"], host_users(subject)].concat();
    let run = subject.sh(&options, "readlink /proc/self/ns/pid; grep -c eth0 /proc/net/dev")?;
    let text = format!("{}\n1", one.first()?.namespace("pid")?.display());
    expect("the PID namespace, and how many cables there are", &*text, run.ok()?)
}

fn bad(subject: &Subject) -> Checked {
    each(subject, "--pid", &["foo", "", "Host"], &["private", "host", "container"])?;
    each(subject, "--pid", &["container:", "container:abc", "container:0"], &["PID"])?;
    dead(subject, "--pid")?;
    let own = format!("container:{}", myself());
    refused(subject, &["--pid", &own, "true"], &["--pid", &own])?;
    if !geteuid().is_root() {
        return refused(subject, &["--pid", "host", "true"], &["--pid host", "root", "private"]);
    }
    if subject.step() >= 4 {
        refused(subject, &["--pid", "host", "true"], &["--pid host", "--userns host"])?;
        let more = ["--pid", "host", "--uidmap", "0:1879048192:65536", "true"];
        refused(subject, &more, &["--pid host", "--userns host"])?;
        let one = subject.hold(&[])?;
        let container = format!("container:{}", one.first()?);
        let both = ["--pid", &container, "--network", "bridge", "true"];
        refused(subject, &both, &["--pid container", "--network bridge"])?;
    }
    Ok(())
}
