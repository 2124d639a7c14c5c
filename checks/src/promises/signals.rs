//! Signals: forwarded by the runtime, and in the container as a fresh program expects them. signal(7).

use std::ops::RangeInclusive;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::container::{Container, LIMIT};
use crate::image::{Home, Layout, base, config};
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "signal.forwarded",
        "Signals that a program can catch, sent to the runtime, reach the command, once each.", forwarded)
        .hint("Block them before the clone and take them with sigwaitinfo(2), or install handlers: each is \
               sent on with kill(2). All but CHLD, PIPE, those of a fault such as SEGV, and TSTP, TTIN and \
               TTOU, with which a shell stops its jobs."),
    Check::since(0, "signal.real-time",
        "Real-time signals, sent to the runtime, reach the command.", real_time)
        .hint("SIGRTMIN to SIGRTMAX, 34 to 64: systemd in a container ends by SIGRTMIN+3."),
    Check::since(2, "signal.stop",
        "With --stop-signal, SIGTERM to the runtime reaches the command as that signal.", stop_signal)
        .hint("Other signals stay what they are."),
    Check::since(2, "signal.stop-timeout",
        "With --stop-timeout, SIGKILL ends a command that goes on so many seconds after SIGTERM.",
        stop_timeout)
        .hint("sigtimedwait(2), from the first SIGTERM on. PID 1 without a handler ignores SIGTERM."),
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

/// By their numbers, which all architectures of Congo share. The most usual come first.
const FORWARDED: [i32; 18] = [2, 15, 1, 3, 10, 12, 28, 6, 14, 16, 18, 23, 24, 25, 26, 27, 29, 30];

/// As glibc has them: a C library may keep 34 for itself.
const REAL_TIME: RangeInclusive<i32> = 35..=64;

fn arrive(subject: &Subject, signals: &[i32]) -> Checked {
    let traps: String = signals.iter().map(|it| format!("trap 'echo got {it}.' {it}\n")).collect();
    // `wait` is what a signal interrupts at once.
    let container =
        subject.hold_sh(&[], &format!("{traps} sleep 1000 & echo ready; while :; do wait; done"))?;
    let count = |signal| container.stdout().matches(&format!("got {signal}.")).count();
    for &signal in signals {
        container.signal_by_number(signal)?;
        container.wait_for(&format!("got {signal}."))?;
    }
    thread::sleep(Duration::from_millis(50));
    for &signal in signals {
        expect(format!("the number of times that signal {signal} arrived"), 1, count(signal))?;
    }
    Ok(())
}

fn forwarded(subject: &Subject) -> Checked {
    arrive(subject, &FORWARDED)
}

fn real_time(subject: &Subject) -> Checked {
    arrive(subject, &REAL_TIME.collect::<Vec<_>>())
}

fn stop_signal(subject: &Subject) -> Checked {
    for (name, number) in [("usr1", 10), ("SIGQUIT", 3), ("RTMAX-1", 63), ("36", 36)] {
        let script = format!(
            "for s in TERM {number} INT; do trap \"echo got $s.\" $s; done
            sleep 1000 & echo ready; while :; do wait; done"
        );
        let container = subject.hold_sh(&["--stop-signal", name], &script)?;
        container.signal(Signal::SIGINT)?;
        container.wait_for("got INT.")?;
        container.signal(Signal::SIGTERM)?;
        container.wait_for(&format!("got {number}."))?;
        ensure(!container.stdout().contains("TERM"), || Failure::new("no SIGTERM to the command", "both"))?;
    }
    Ok(())
}

fn stop_timeout(subject: &Subject) -> Checked {
    // `cat` as PID 1 has no handlers.
    let container = subject.hold(&["--stop-timeout", "1"])?;
    let start = Instant::now();
    // Ends nothing, and begins nothing.
    container.signal(Signal::SIGUSR1)?;
    container.signal(Signal::SIGTERM)?;
    let begun = Instant::now();
    while container.runtime().is_alive() && start.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(50));
    }
    let took = begun.elapsed();
    ensure(took > Duration::from_millis(900), || {
        Failure::new("the command has a second from SIGTERM on", format!("{took:?}"))
    })?;
    // It must have ended by itself: the next line gives `cat` the end of its input.
    container.output()?.status_is(137)?;
    for options in [&["--stop-timeout", "-1"][..], &[]] {
        let container = subject.hold(options)?;
        container.signal(Signal::SIGTERM)?;
        thread::sleep(Duration::from_millis(300));
        ensure(container.first()?.is_alive(), || Failure::new("the command goes on", "it has ended"))?;
        container.output()?.status_is(0)?;
    }
    Ok(())
}

fn fresh(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    for field in ["SigBlk", "SigIgn"] {
        let mask = container.first()?.status(field)?;
        // But 32 to 34: glibc's posix_spawn ignores two of its own in all that it starts.
        let mask = u64::from_str_radix(&mask, 16).unwrap_or(u64::MAX) & !0x3_8000_0000;
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
    for signal in FORWARDED.into_iter().chain(REAL_TIME) {
        container.signal_by_number(signal)?;
    }
    thread::sleep(Duration::from_millis(50));
    let alive = container.runtime().is_alive() && container.first()?.is_alive();
    ensure(alive, || Failure::new("runtime and container are still there", "one has ended"))?;
    container.output()?.status_is(0)
}
