//! A small init as PID 1, that does for the command what PID 1 has to. pid_namespaces(7), wait(2).

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGTERM, SIGUSR1};

use crate::container::Container;
use crate::container::LIMIT;
use crate::kernel::{Process, eventually};
use crate::terminal::Terminal;
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "init.is-one", "With --init, PID 1 is an init, and the command its child.", is_one)
        .hint("The child forks: PID 1 waits, its child becomes the command."),
    Check::since(2, "init.reaps",
        "With --init, orphans are reaped though the command does not wait for them.", reaps)
        .hint("Call waitpid(-1) until there are no more children."),
    Check::since(2, "init.forwards",
        "With --init, a signal reaches the command, and ends a command that does not handle it.", forwards)
        .hint("The kernel withholds signals that PID 1 does not handle. An ordinary process gets the default \
               action: that is the use of --init."),
    Check::since(2, "init.exit-status", "With --init, the exit status is the command's.", exit_status)
        .hint("128 and the signal's number when a signal ended it. Errors of execve(2) must reach the \
               runtime from the grandchild, too."),
    Check::since(2, "init.ends-all",
        "With --init, the container ends with the command, even if other processes still run.", ends_all)
        .hint("PID 1 ends as soon as its child, the command, has ended: the kernel ends the rest."),
    Check::since(2, "init.gives-nothing-away",
        "With --init, PID 1 has neither the caller's streams nor its variables and arguments.",
        gives_nothing_away)
        // What PID 1 keeps closed to others, only root can look at.
        .needs(&[Need::Root])
        .hint("Root in the container can open /proc/1/fd/0 and read /proc/1/environ."),
    Check::since(2, "init.descriptors",
        "With --init, neither PID 1 nor the command has a descriptor above 2.", descriptors)
        // What PID 1 keeps closed to others, only root can look at.
        .needs(&[Need::Root])
        .hint("PID 1 never calls execve(2), which would close them."),
    Check::since(2, "init.first",
        "With --init, the command begins only when PID 1 has closed its streams and cleared its variables, \
         however long that takes.", first)
        .needs(&[Need::Root, Need::Program("strace")])
        .hint("After fork(2), PID 1 and the command run at the same time. A pipe lets the command wait for \
               PID 1."),
    Check::since(2, "init.terminal", "With --init, a shell at the terminal has job control.", terminal)
        .hint("The command's process group must be in the foreground of the terminal, and the terminal must \
               control the command's session."),
];

fn hold(subject: &Subject, script: &str) -> Result<(Container, Process), Failure> {
    let container = subject.hold_sh(&["--init"], script)?;
    let first = container.first()?;
    Ok((container, first))
}

/// The container's process that was started as this.
pub(super) fn find(first: Process, command_line: &str) -> Result<Process, Failure> {
    let mut found = None;
    eventually(LIMIT, || {
        found = first.descendants().into_iter().find(|it| it.command_line() == command_line);
        found.is_some()
    });
    found.ok_or_else(|| Failure::new(format!("\"{command_line}\" among the descendants of PID 1"), "none"))
}

fn is_one(subject: &Subject) -> Checked {
    let (_container, first) = hold(subject, "echo ready; exec cat")?;
    let command = find(first, "cat")?;
    expect("the command's parent", first.to_string(), command.status("PPid")?)?;
    let ids = command.status("NSpid")?;
    let own = ids.split_whitespace().next_back().unwrap_or_default();
    ensure(own != "1", || Failure::new("a command that is not PID 1", ids.clone()))
}

fn reaps(subject: &Subject) -> Checked {
    // `cat` never waits for anybody.
    let (_container, first) = hold(subject, "(sleep 1000 &); echo ready; exec cat")?;
    let orphan = find(first, "sleep 1000")?;
    expect("the orphan's parent", first.to_string(), orphan.status("PPid")?)?;
    orphan.end();
    let reaped = eventually(LIMIT, || !orphan.path("status").exists());
    ensure(reaped, || Failure::new("the orphan is reaped", "it stays a zombie"))
}

fn forwards(subject: &Subject) -> Checked {
    let container = subject.hold_sh(&["--init"], "echo ready; exec sleep 1000")?;
    find(container.first()?, "sleep 1000")?;
    let start = Instant::now();
    container.signal(SIGTERM)?;
    container.output()?.status_is(143)?;
    let took = start.elapsed();
    ensure(took < Duration::from_secs(5), || {
        Failure::new("`sleep` ends at once", format!("after {took:?}"))
    })?;
    // A real-time signal.
    let container = subject.hold_sh(&["--init"], "echo ready; exec sleep 1000")?;
    find(container.first()?, "sleep 1000")?;
    container.signal_by_number(40)?;
    container.output()?.status_is(128 + 40)?;
    let script = "trap 'echo got; exit 9' USR1; sleep 1000 & echo ready; while :; do wait; done";
    let container = subject.hold_sh(&["--init"], script)?;
    container.signal(SIGUSR1)?;
    container.wait_for("got")?;
    container.output()?.status_is(9)
}

fn exit_status(subject: &Subject) -> Checked {
    for (script, status) in
        [("exit 0", 0), ("exit 7", 7), ("exit 125", 125), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    {
        subject.sh(&["--init"], script)?.status_is(status)?;
    }
    for (command, status) in [("no-such-command", 127), ("/etc", 126)] {
        let output = subject.run(&["--init", command])?;
        output.status_is(status)?;
        ensure(output.stderr.contains(command), || {
            Failure::new(format!("stderr names {command:?}"), format!("{:?}", output.stderr))
        })?;
    }
    Ok(())
}

fn ends_all(subject: &Subject) -> Checked {
    subject.sh(&["--init"], "(sleep 1000 &); sleep 1001 & exit 3")?.status_is(3)
}

fn gives_nothing_away(subject: &Subject) -> Checked {
    let (_container, first) = hold(subject, "echo ready; exec cat")?;
    for stream in 0..3 {
        let file = std::fs::read_link(first.path(&format!("fd/{stream}")))?;
        // Seen from the host, the path begins before the container's root.
        ensure(file.ends_with("dev/null"), || {
            Failure::new(format!("stream {stream} of PID 1 is /dev/null"), file.display())
        })?;
    }
    expect("the command line of PID 1", "init", first.command_line().trim())?;
    let left: Vec<_> = first.environment()?.into_iter().filter(|variable| !variable.is_empty()).collect();
    ensure(left.is_empty(), || Failure::new("no variable in PID 1's environment", left.join(" ")))
}

fn first(subject: &Subject) -> Checked {
    // It is slow to give up its streams.
    let mut slow = subject.command_slow_at("/^dup[23]$", &["--init", "cat"]);
    let mut container = Container::start(slow.stdin(Stdio::piped()))?;
    container.say("ready")?;
    container.wait_for("ready")?;
    let first = container.first()?;
    let open = first.descriptors()?.into_iter().map(|number| first.path(&format!("fd/{number}")).read_link());
    let open = open.collect::<std::io::Result<Vec<_>>>()?;
    ensure(open.iter().all(|file| file.ends_with("dev/null")), || {
        Failure::new("PID 1 has /dev/null open, and nothing else", format!("{open:?}"))
    })?;
    expect("the command line of PID 1", "init", first.command_line().trim())
}

fn descriptors(subject: &Subject) -> Checked {
    let (mut container, first) = hold(subject, "echo ready; exec cat")?;
    // The loader of a new program opens files for a moment. After this answer it has ended.
    container.say("loaded")?;
    container.wait_for("loaded")?;
    for (who, process) in [("PID 1", first), ("the command", find(first, "cat")?)] {
        let open = process.descriptors()?;
        ensure(open.is_subset(&BTreeSet::from([0, 1, 2])), || {
            Failure::new(format!("no descriptor of {who} above 2"), format!("{open:?}"))
        })?;
    }
    Ok(())
}

fn terminal(subject: &Subject) -> Checked {
    let binary = subject.binary().to_string_lossy();
    let mut terminal = Terminal::start(subject, "sh", &["-c", "\"$0\" -t --init; exit $?", &binary])?;
    terminal.prompt()?;
    terminal.enter("sleep 1000")?;
    let sleeping = terminal.until("sleep 1000", 'S')?;
    terminal.press("\x1a")?;
    terminal.until("sleep 1000", 'T')?;
    terminal.enter("fg; echo status=$?")?;
    terminal.until("sleep 1000", 'S')?;
    terminal.press_until_gone("\x03", sleeping)?;
    terminal.enter("echo after=$((1 + 1))")?;
    terminal.see("after=2")?;
    terminal.enter("exit 6")?;
    expect("the exit status", Some(6), terminal.exit_status()?)
}
