//! A terminal of the container's own in the place of the host's, and the keys and the screen between the two.
//! pty(7), termios(3), TIOCSTI(2const).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::container::LIMIT;
use crate::kernel::{Process, eventually};
use crate::terminal::{SOON, Terminal};
use crate::{Check, Checked, Failure, Subject, ensure, expect, inside};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "terminal.own",
        "The terminal inside is a pseudo-terminal of the container's own, /dev/pts/0.", own)
        .hint("posix_openpt(3) in the container's own devpts, after it is mounted: the runtime needs the \
               other end."),
    Check::since(2, "terminal.session",
        "The command leads a session of its own, with or without a terminal.", session)
        .hint("setsid(2), and TIOCSCTTY(2const) where there is a terminal."),
    Check::since(2, "terminal.none-of-the-host",
        "No process of the container has a descriptor of the host's terminal.", none_of_the_host)
        .hint("Replace each of the three streams that is a terminal, and pass the others on. execve(2) \
               closes the runtime's own descriptors."),
    Check::since(2, "terminal.no-pushed-keys",
        "A process of the container cannot type into the host's terminal.", no_pushed_keys)
        .hint("TIOCSTI(2const) works on every terminal of which root has a descriptor. So the container must \
               have no terminal of the host."),
    Check::since(2, "terminal.size",
        "Its size is the size of the host's terminal, also after a change.", size)
        .not_new()
        .hint("TIOCGWINSZ and TIOCSWINSZ, once at the start and at each SIGWINCH: TIOCSWINSZ(2const)."),
    Check::since(2, "terminal.raw",
        "While the container runs, the host's terminal passes every key on. After every kind of end it is as \
         before.", raw)
        .hint("cfmakeraw(3), and tcsetattr(3) back: after a normal end, a signal, and a command that is not \
               found."),
    Check::since(2, "terminal.killed",
        "When the runtime is killed, the host's terminal is as before, too.", killed)
        .hint("A killed runtime cannot restore the terminal: let another process wait for its death."),
    Check::since(2, "terminal.complete",
        "All output of the command arrives, up to its last line.", complete)
        .not_new()
        .hint("After the command has ended there may be more to read: until read(2) says EIO."),
    Check::since(2, "terminal.unread",
        "The runtime ends even if no process reads its terminal any more.", unread)
        .not_new()
        .hint("A write to a full terminal does not return: do not wait for it for ever."),
    Check::since(2, "terminal.full",
        "A screen that cannot be written is an error, after the command has run to its end.", full)
        .not_new()
        .hint("`runtime … > file` on a full disk: write(2) says ENOSPC to the runtime, and the command \
               cannot know it."),
    Check::since(2, "terminal.unasked",
        "-t gives the container a terminal though the caller has none. Its screen goes to stdout.", unasked)
        .hint("As for `docker run`: only -i and -t together are refused, as nobody could type."),
    Check::since(2, "terminal.piped",
        "If stdout goes elsewhere, stdin is /dev/null, and the next program gets the typed keys.", piped)
        .hint("The usual filter: `runtime … | less`. Two readers of one terminal take each other's keys."),
    Check::since(2, "terminal.piped-interactive",
        "With -i the keys reach the command, even if stdout goes elsewhere.", piped_interactive)
        .hint("stdin alone is a terminal of the container's."),
    Check::since(2, "terminal.fed", "At a terminal, data from a pipe at stdin reaches the command.", fed)
        .not_new()
        .hint("Only a stream that is a terminal is replaced."),
];

/// A terminal at which the host's shell runs this script; `$0` is the runtime.
fn script(subject: &Subject, script: &str) -> Result<Terminal, Failure> {
    Terminal::start(subject, "sh", &["-c", script, &subject.binary().to_string_lossy()])
}

fn own(subject: &Subject) -> Checked {
    let mut terminal = Terminal::of(subject)?;
    terminal.enter("test -c /dev/pts/0; echo device$((1 + 1))=$?")?;
    expect("whether there is no device /dev/pts/0", "0", &terminal.line_after("device2=")?)?;
    terminal.enter("echo name$((1 + 1))=$(readlink /proc/self/fd/0)")?;
    expect("the terminal's name inside", "/dev/pts/0", &terminal.line_after("name2=")?)?;
    terminal.enter("exit 0")?;
    expect("the exit status", Some(0), terminal.exit_status()?)
}

fn session(subject: &Subject) -> Checked {
    let leads = |first: Process| {
        let stat = first.read("stat")?;
        // After the name in brackets, which may hold anything: state, parent, group, session.
        let session = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(3));
        expect("the session of PID 1", Some(first.to_string().as_str()), session)
    };
    let mut terminal = Terminal::of(subject)?;
    leads(terminal.first()?)?;
    terminal.enter("exit 0")?;
    terminal.exit_status()?;
    leads(subject.hold(&[])?.first()?)
}

/// Fails if any of the processes has a descriptor of the terminal at which the shell runs.
fn have_none_of(terminal: &Terminal) -> Checked {
    let first = terminal.first()?;
    for process in [vec![first], first.descendants()].concat() {
        let numbers = match process.descriptors() {
            // One that has just ended is closed to an ordinary user; one that is ending has its descriptors
            // no more.
            Err(_) if eventually(SOON, || !process.is_alive()) => continue,
            numbers => numbers?,
        };
        for number in numbers {
            let Ok(file) = fs::metadata(process.path(&format!("fd/{number}"))) else { continue };
            let same = (file.dev(), file.ino()) == terminal.file;
            ensure(!same, || {
                let found = format!("descriptor {number} of \"{}\" is", process.command_line());
                Failure::new("no descriptor of the host's terminal in the container", found)
            })?;
        }
    }
    Ok(())
}

fn none_of_the_host(subject: &Subject) -> Checked {
    let mut terminal = Terminal::of(subject)?;
    terminal.enter("sleep 1000")?;
    terminal.until("sleep 1000", 'S')?;
    have_none_of(&terminal)?;
    drop(terminal);
    // Each stream by itself.
    for streams in ["< /dev/null", "> /dev/null", "2> /dev/null", "< /dev/null > /dev/null"] {
        let terminal = script(subject, &format!("\"$0\" sleep 1000 {streams}; exit 0"))?;
        terminal.until("sleep 1000", 'S')?;
        have_none_of(&terminal).map_err(|failure| failure.of(format_args!("with {streams}")))?;
    }
    Ok(())
}

fn no_pushed_keys(subject: &Subject) -> Checked {
    let program = inside::install(Path::new(subject.root()?))?;
    let asked = format!("{program} {} pushed", inside::ASKED);
    let mut terminal = script(
        subject,
        &format!(
            "\"$0\" --rootfs {} {asked}; echo ended=$?; read -r line; echo \"read=$line.\"",
            subject.root()?
        ),
    )?;
    // What it could push into was its own terminal, if any.
    terminal.see("pushed=")?;
    terminal.see("ended=0")?;
    terminal.enter("typed")?;
    expect("what the host's shell reads", "typed.", &terminal.line_after("read=")?)
}

fn full(subject: &Subject) -> Checked {
    let mut terminal =
        script(subject, "\"$0\" -t sh -c 'echo lost; exit 3' > /dev/full; echo ended=$?; exit 0")?;
    terminal.see("ENOSPC")?;
    expect("the status when the disk is full", "125", &terminal.line_after("ended=")?)?;
    // That nobody reads any more is no error.
    let command = "{ \"$0\" -t sh -c 'sleep 1; echo lost; exit 3'; echo ended=$? >&2; } | true; exit 0";
    let mut terminal = script(subject, command)?;
    expect("the status when the reader has gone", "3", &terminal.line_after("ended=")?)
}

fn size(subject: &Subject) -> Checked {
    let mut terminal = Terminal::of(subject)?;
    terminal.enter("stty size")?;
    terminal.see("24 80")?;
    let resized = terminal.pty.resize(pty_process::Size::new(31, 117));
    resized.map_err(|error| Failure::new("a terminal of another size", error))?;
    let mut found = String::new();
    // The signal has a way to go.
    let followed = eventually(LIMIT, || {
        let asked = terminal.enter("echo size$((1 + 1))=$(stty size)");
        found = asked.and_then(|()| terminal.line_after("size2=")).unwrap_or_default();
        found == "31 117"
    });
    ensure(followed, || Failure::new("the size inside is 31 117", format!("{found:?}")))?;
    terminal.enter("exit 0")?;
    expect("the exit status", Some(0), terminal.exit_status()?)
}

fn raw(subject: &Subject) -> Checked {
    let mut terminal = script(subject, "\"$0\"; echo ended=$?; read -r line; exit 4")?;
    terminal.prompt()?;
    // A shell with line editing turns some of it off by itself, but not while a command runs.
    terminal.enter("sleep 1000")?;
    let sleeping = terminal.until("sleep 1000", 'S')?;
    terminal.is_raw()?;
    terminal.press_until_gone("\x03", sleeping)?;
    terminal.enter("exit 3")?;
    terminal.see("ended=3")?;
    terminal.is_as_before("after a normal end")?;
    terminal.enter("")?;
    expect("the exit status", Some(4), terminal.exit_status()?)?;

    let command = "trap 'exit 5' TERM; echo ready=$((1 + 1)); sleep 1000 & wait";
    let mut terminal = script(
        subject,
        &format!("\"$0\" sh -c \"{}\"; echo ended=$?; read -r line", command.replace('$', "\\$")),
    )?;
    terminal.see("ready=2")?;
    terminal.is_raw()?;
    kill(Pid::from_raw(terminal.runtime(subject)?.0), Signal::SIGTERM)?;
    terminal.see("ended=5")?;
    terminal.is_as_before("after SIGTERM")?;

    let mut terminal = script(subject, "\"$0\" no-such-command; echo ended=$?; read -r line")?;
    terminal.see("ended=127")?;
    terminal.is_as_before("when the command is not found")
}

fn killed(subject: &Subject) -> Checked {
    let mut terminal = script(subject, "\"$0\"; echo ended=$?; read -r line; echo \"read=$line.\"")?;
    terminal.prompt()?;
    terminal.enter("sleep 1000")?;
    let sleeping = terminal.until("sleep 1000", 'S')?;
    terminal.is_raw()?;
    kill(Pid::from_raw(terminal.runtime(subject)?.0), Signal::SIGKILL)?;
    terminal.see("ended=137")?;
    terminal.is_as_before("after the runtime was killed")?;
    terminal.enter("and on")?;
    expect("what the host's shell reads then", "and on.", &terminal.line_after("read=")?)?;
    let dead = eventually(SOON, || !sleeping.is_alive());
    ensure(dead, || Failure::new("the container dies with the runtime", "it lives on"))?;
    terminal.exit_status()?;
    // So that nothing is left for the guard to find.
    subject.run(&["true"])?.ok()?;
    Ok(())
}

fn complete(subject: &Subject) -> Checked {
    const LINES: u32 = 20_000;
    for options in ["", "-t"].into_iter().take(if subject.step() < 2 { 1 } else { 2 }) {
        let mut terminal = script(subject, &format!("\"$0\" {options} seq {LINES}; echo ended=$?"))?;
        terminal.see("ended=0")?;
        let screen = terminal.screen.text();
        let numbers: Vec<u32> = screen.split("\r\n").filter_map(|line| line.parse().ok()).collect();
        let whole = numbers.iter().copied().eq(1..=LINES);
        ensure(whole, || {
            let last = numbers.last();
            Failure::new(
                format!("the lines 1 to {LINES}"),
                format!("{} lines, the last {last:?}", numbers.len()),
            )
        })?;
        expect("the exit status", Some(0), terminal.exit_status()?)?;
    }
    Ok(())
}

fn unread(subject: &Subject) -> Checked {
    let no_terminal = |error: pty_process::Error| Failure::new("a pseudo-terminal", error);
    let (pty, pts) = pty_process::blocking::open().map_err(no_terminal)?;
    let command = pty_process::blocking::Command::new(subject.binary());
    let mut runtime =
        command.args(["--init", "yes"]).envs(subject.environment()).spawn(pts).map_err(no_terminal)?;
    let pid = Process(runtime.id().cast_signed());
    // It has begun, and the terminal is full: the runtime's own thread waits in its write.
    let full = || pid.descendants().iter().any(|process| process.command_line() == "yes");
    let begun = eventually(LIMIT, full);
    thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(pid.0), Signal::SIGTERM)?;
    let ended = begun && eventually(LIMIT, || !matches!(runtime.try_wait(), Ok(None)));
    if !ended {
        let _ = runtime.kill();
    }
    let status = runtime.wait()?;
    drop(pty);
    ensure(ended, || Failure::new("the runtime ends after SIGTERM", "it still runs"))?;
    expect("the exit status", Some(143), status.code())
}

fn unasked(subject: &Subject) -> Checked {
    // stdin, stdout and stderr of a check are no terminals.
    for options in [&["-t"][..], &["--tty=true", "--init"], &["-it", "--interactive=false"]] {
        let output = subject.sh(options, "test -t 0 && test -t 1 && test -t 2 && tty; exit 7")?;
        output.status_is(7)?;
        expect("what `tty` writes", "/dev/pts/0\r\n", output.stdout.as_str())?;
    }
    Ok(())
}

fn piped(subject: &Subject) -> Checked {
    let container = "sh -c 'readlink /proc/self/fd/0; exec sleep 1000'";
    // Not sed: busybox's reads the next line before it writes one.
    let prefix = "while read -r line; do echo \"out=$line\"; done";
    let mut terminal =
        script(subject, &format!("\"$0\" {container} | {prefix}; read -r line; echo \"read=$line.\""))?;
    expect("stdin", "/dev/null", &terminal.line_after("out=")?)?;
    have_none_of(&terminal)?;
    terminal.enter("typed")?;
    // Time for a runtime that reads to take it.
    thread::sleep(Duration::from_millis(200));
    terminal.first()?.end();
    expect("what the host's shell reads", "typed.", &terminal.line_after("read=")?)?;
    expect("the exit status", Some(0), terminal.exit_status()?)
}

fn piped_interactive(subject: &Subject) -> Checked {
    let mut terminal = script(subject, "\"$0\" -i head -n 1 | sed s/^/out=/; exit 0")?;
    terminal.enter("typed")?;
    expect("what the command reads", "typed", terminal.line_after("out=")?.trim_end())?;
    expect("the exit status", Some(0), terminal.exit_status()?)?;
    terminal.is_as_before("after the run")
}

fn fed(subject: &Subject) -> Checked {
    let mut terminal = script(subject, "echo fed | \"$0\" sed s/^/out=/; echo ended=$?")?;
    expect("what the command reads", "fed", &terminal.line_after("out=")?)?;
    terminal.see("ended=0")
}
