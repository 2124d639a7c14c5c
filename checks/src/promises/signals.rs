//! Signals: forwarded by the runtime, and in the container as a fresh program expects them. signal(7).

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal::{self, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use serde_json::json;

use crate::container::Container;
use crate::image::{Home, Layout, base, config};
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "signal.forwarded",
        "INT, TERM, HUP, QUIT, USR1, USR2 and WINCH, sent to the runtime, reach the command, once each.",
        forwarded)
        .hint("Block them before the clone and take them with sigwaitinfo(2), or install handlers: each is \
               sent on with kill(2)."),
    Check::since(0, "signal.fresh", "The command starts with no signal blocked and none ignored.", fresh)
        .hint("Both survive exec. Rust ignores SIGPIPE. The runtime blocks signals to wait for them, and the \
               child must unblock them."),
    Check::since(0, "signal.runtime-stays",
        "The runtime outlives the signals that it forwards.", runtime_stays)
        .hint("The container decides what a signal means: one that it ignores must not end the runtime."),
    Check::since(0, "signal.children-ignored",
        "A caller that starts the runtime with SIGCHLD ignored gets the exit status all the same.",
        children_ignored)
        .needs(&[Need::Program("bash")])
        .hint("An ignored signal stays ignored after exec, and then the kernel reaps children by itself. Set \
               it to its default before anything else."),
    Check::since(0, "signal.group-is-own",
        "Without a terminal, `kill 0` in the container does not reach the caller of the runtime.",
        group_is_own)
        .hint("A PID namespace does not bound a process group: setpgid(2) for the child."),
];

const FORWARDED: [Signal; 7] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH];

fn short(signal: Signal) -> &'static str {
    signal.as_str().trim_start_matches("SIG")
}

fn forwarded(subject: &Subject) -> Checked {
    let traps: String =
        FORWARDED.iter().map(|&it| format!("trap 'echo got {0}.' {0}\n", short(it))).collect();
    // `wait` is what a signal interrupts at once.
    let container =
        subject.hold_sh(&[], &format!("{traps} sleep 1000 & echo ready; while :; do wait; done"))?;
    for signal in FORWARDED {
        container.signal(signal)?;
        container.wait_for(&format!("got {}.", short(signal)))?;
    }
    thread::sleep(Duration::from_millis(50));
    for signal in FORWARDED {
        let count = container.stdout().matches(&format!("got {}.", short(signal))).count();
        expect(format!("the number of times that {signal} arrived"), 1, count)?;
    }
    Ok(())
}

fn fresh(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    for field in ["SigBlk", "SigIgn"] {
        let mask = container.first()?.status(field)?;
        // The 31 classic ones. Above, posix_spawn of glibc ignores two of its own in all that it starts.
        let mask = u64::from_str_radix(&mask, 16).unwrap_or(u64::MAX) & 0x7fff_ffff;
        expect(format!("the mask {field} in /proc/PID/status"), 0, mask)?;
    }
    Ok(())
}

fn children_ignored(subject: &Subject) -> Checked {
    // Not sh: dash and busybox only pretend to ignore it.
    let ignoring = |arguments: &[&str]| {
        let mut command = Command::new("bash");
        command.args(["-c", "trap '' CHLD; exec \"$0\" \"$@\""]).arg(subject.binary()).args(arguments);
        command.envs(subject.environment()).stdin(Stdio::null());
        command
    };
    Container::start(&mut ignoring(&["sh", "-c", "exit 3"]))?.output()?.status_is(3)?;
    if subject.step() < 3 {
        return Ok(());
    }
    // A process of its own unpacks the layer.
    let home = Home::new(subject, "children-ignored")?;
    let image = Layout::of(subject, "children-ignored", &config(json!({})), &[base()?])?.name();
    let mut command = ignoring(&["--image", &image, "sh", "-c", "exit 4"]);
    Container::start(command.env("CONGO_HOME", &home.path))?.output()?.status_is(4)
}

fn group_is_own(subject: &Subject) -> Checked {
    let mut caller = Command::new("sh");
    caller.args(["-c", "\"$0\" sh -c 'kill -TERM 0'; echo survived"]).arg(subject.binary());
    // A group of its own, or it would be this program that the signal hits.
    caller.envs(subject.environment()).stdin(Stdio::null()).process_group(0);
    let output = Container::start(&mut caller)?.output()?;
    expect("what the caller says", "survived\n", output.stdout.as_str())
}

fn runtime_stays(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    // `cat` as PID 1 has no handlers, so that the kernel drops what is sent on.
    for signal in FORWARDED {
        container.signal(signal)?;
    }
    thread::sleep(Duration::from_millis(50));
    let alive = container.runtime().is_alive() && container.first()?.is_alive();
    ensure(alive, || Failure::new("runtime and container are still there", "one has ended"))?;
    container.output()?.status_is(0)
}
