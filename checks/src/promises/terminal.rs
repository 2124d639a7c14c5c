//! A shell at a real terminal: job control, and the terminal given back as it was. tty(4), pty(7), credentials(7).

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use pty_process::blocking::{Command, Pty, open};

use crate::container::{Stream, end};
use crate::kernel::{Process, eventually};
use crate::subject::LIMIT;
use crate::{Check, Checked, Failure, Subject, ensure, expect, host, inside};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "terminal.shell", "Without a command there is an interactive shell, and its exit status is the runtime's.", shell)
        .hint("The default command is /bin/sh: a shell is interactive when its stdin is a terminal."),
    Check::since(0, "terminal.interrupt", "Ctrl-C ends the command in the foreground, not the shell, not the runtime.", interrupt)
        .hint("The terminal sends SIGINT to the foreground process group: that of the shell's command. tcsetpgrp(3)."),
    Check::since(0, "terminal.job-control", "Ctrl-Z, jobs, bg, fg and kill %1 work.", job_control)
        .hint("The shell needs the terminal as its controlling terminal, and must be able to become a process group's leader."),
    Check::since(0, "terminal.given-back", "After the run the caller can use the terminal as before.", given_back)
        .hint("tcsetpgrp(3) back to the caller's process group, from a process that ignores SIGTTOU, and tcsetattr(3) to what was there."),
    Check::since(2, "terminal.own", "The terminal inside is a pseudo-terminal of the container's own, /dev/pts/0.", own)
        .hint("posix_openpt(3) in the container's own devpts, after it is mounted: the runtime needs the other end."),
    Check::since(2, "terminal.session", "The command leads a session of its own, at a terminal or not.", session)
        .hint("setsid(2), and TIOCSCTTY(2const) where there is a terminal."),
    Check::since(2, "terminal.none-of-the-host", "No process of the container has a descriptor of the host's terminal.", none_of_the_host)
        .hint("Each of the three streams that is a terminal is replaced; the others pass as they are. The runtime's own descriptors are closed by execve(2)."),
    Check::since(2, "terminal.no-pushed-keys", "A process of the container cannot type into the host's terminal.", no_pushed_keys)
        .hint("TIOCSTI(2const) works on every terminal of which root has a descriptor: the container must have none of the host's."),
    Check::since(2, "terminal.size", "Its size is that of the host's, also after that has changed.", size)
        .not_new()
        .hint("TIOCGWINSZ and TIOCSWINSZ, once at the start and at each SIGWINCH: TIOCSWINSZ(2const)."),
    Check::since(2, "terminal.raw", "While it runs, the host's terminal passes every key on, and is as before after every end.", raw)
        .hint("cfmakeraw(3), and tcsetattr(3) back: after a normal end, a signal, and a command that is not found."),
    Check::since(2, "terminal.killed", "When the runtime is killed, the host's terminal is as before, too.", killed)
        .hint("The runtime cannot do it itself: a process that waits for its death can."),
    Check::since(2, "terminal.complete", "All that the command writes arrives, up to its last line.", complete)
        .not_new()
        .hint("After the command has ended there may be more to read: until read(2) says EIO."),
    Check::since(2, "terminal.piped", "With stdout elsewhere stdin is /dev/null, and what is typed is left for who comes next.", piped)
        .hint("The usual filter: `runtime … | less`. Two readers of one terminal take each other's keys."),
    Check::since(2, "terminal.piped-interactive", "With -i the keys reach the command, though stdout is elsewhere.", piped_interactive)
        .hint("stdin alone is a terminal of the container's."),
    Check::since(2, "terminal.fed", "At a terminal, what is piped into stdin reaches the command.", fed)
        .not_new()
        .hint("Only a stream that is a terminal is replaced."),
];

/// For what comes at once when all is well, and would be waited for by steps that do not have it.
const SOON: Duration = Duration::from_secs(5);

/// A runtime at a pseudo-terminal.
pub(crate) struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    screen: Arc<Stream>,
    /// Up to where the screen was read.
    seen: usize,
    /// Which file it is.
    file: (u64, u64),
    /// Its settings when nobody had used it.
    fresh: Termios,
}

impl Terminal {
    /// A program at a new terminal, as leader of its session.
    pub fn start(subject: &Subject, program: &str, arguments: &[&str]) -> Result<Terminal, Failure> {
        let no_terminal = |error: pty_process::Error| Failure::new("a pseudo-terminal", error);
        let (pty, pts) = open().map_err(no_terminal)?;
        pty.resize(pty_process::Size::new(24, 80)).map_err(no_terminal)?;
        let fresh = tcgetattr(&pty)?;
        let file = fstat(&pts)?;
        let command = Command::new(program).args(arguments).envs(subject.environment());
        let child = command.spawn(pts).map_err(no_terminal)?;
        let pty = Arc::new(pty);
        let screen = Stream::of(Reader(Arc::clone(&pty)));
        Ok(Terminal { pty, child, screen, seen: 0, file: (file.st_dev, file.st_ino), fresh })
    }

    /// The runtime, started by a shell of the host, as a user starts it.
    fn of(subject: &Subject) -> Result<Terminal, Failure> {
        let binary = subject.binary().to_string_lossy();
        let mut terminal = Terminal::start(subject, "sh", &["-c", "\"$0\"; exit $?", &binary])?;
        terminal.prompt()?;
        Ok(terminal)
    }

    /// Waits until the container's shell reads.
    pub fn prompt(&mut self) -> Checked {
        // Whatever its prompt looks like.
        self.enter("echo $((40 + 2))")?;
        self.see("42")
    }

    /// Types a line.
    pub fn enter(&mut self, line: &str) -> Checked {
        self.press(&format!("{line}\r"))
    }

    /// What the keys send: `\x03` is Ctrl-C.
    pub fn press(&mut self, keys: &str) -> Checked {
        Ok((&*self.pty).write_all(keys.as_bytes())?)
    }

    /// Waits until `text` appears after what was seen last. What is typed is echoed: look for what only the
    /// answer can hold.
    pub fn see(&mut self, text: &str) -> Checked {
        let seen = self.seen;
        let end = self.screen.wait(LIMIT, |bytes| {
            let new = bytes.get(seen..)?;
            new.windows(text.len()).position(|part| part == text.as_bytes()).map(|at| seen + at + text.len())
        });
        let screen = self.screen.text();
        self.seen =
            end.ok_or_else(|| Failure::new(format!("{text:?} at the terminal"), format!("{screen:?}")))?;
        Ok(())
    }

    /// Waits until a process of the container was started as `command_line`, and is in the state: `S`, `T` …
    pub fn until(&self, command_line: &str, state: char) -> Result<Process, Failure> {
        let mut found = None;
        let runtime = Process(self.child.id().cast_signed());
        eventually(LIMIT, || {
            found = runtime.descendants().into_iter().find(|process| {
                process.command_line() == command_line
                    && process.status("State").is_ok_and(|it| it.starts_with(state))
            });
            found.is_some()
        });
        found.ok_or_else(|| {
            Failure::new(
                format!("\"{command_line}\" in state {state}"),
                format!("the screen: {:?}", self.screen.text()),
            )
        })
    }

    /// Presses a key until the process has ended: a shell needs a moment to make it the terminal's foreground.
    pub fn press_until_gone(&mut self, keys: &str, process: Process) -> Checked {
        let mut pressed = Ok(());
        let gone = eventually(LIMIT, || {
            pressed = self.press(keys);
            thread::sleep(Duration::from_millis(50));
            !process.is_alive()
        });
        pressed?;
        ensure(gone, || Failure::new(format!("{keys:?} ends the command"), "it lives on"))
    }

    /// The rest of the next line that has `text`.
    fn line_after(&mut self, text: &str) -> Result<String, Failure> {
        self.see(text)?;
        let seen = self.seen;
        // Where the terminal is raw, there is no carriage return.
        self.see("\n")?;
        let screen = self.screen.text();
        Ok(screen.get(seen..self.seen).unwrap_or_default().trim_end().to_owned())
    }

    /// The runtime that a shell at the terminal has started.
    fn runtime(&self, subject: &Subject) -> Result<Process, Failure> {
        let shell = self.child.id().to_string();
        let mut found = None;
        eventually(LIMIT, || {
            let below = Process(self.child.id().cast_signed()).descendants();
            found = below.into_iter().find(|it| {
                let is_child = it.status("PPid").is_ok_and(|parent| parent == shell);
                is_child && fs::read_link(it.path("exe")).is_ok_and(|exe| exe == subject.binary())
            });
            found.is_some()
        });
        found.ok_or_else(|| Failure::new("the shell starts the runtime", format!("{:?}", self.screen.text())))
    }

    /// The container's PID 1.
    fn first(&self) -> Result<Process, Failure> {
        let below = Process(self.child.id().cast_signed()).descendants();
        below.into_iter().find(|it| it.is_first()).ok_or_else(|| {
            Failure::new("a container at the terminal", format!("none; the screen: {:?}", self.screen.text()))
        })
    }

    /// Fails unless the settings become those of the beginning again.
    fn is_as_before(&self, when: &str) -> Checked {
        let back = eventually(SOON, || tcgetattr(&self.pty).is_ok_and(|now| now == self.fresh));
        ensure(back, || {
            let (before, now) = (self.fresh.local_flags, tcgetattr(&self.pty).map(|it| it.local_flags));
            Failure::new(
                format!("the terminal's settings as before {when}; local ones: {before:?}"),
                format!("others; local ones: {now:?}"),
            )
        })
    }

    /// Whether keys are passed on as they are.
    fn is_raw(&self) -> Checked {
        let flags = tcgetattr(&self.pty)?.local_flags;
        let off = !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
        ensure(off, || Failure::new("the host's terminal without ICANON, ECHO, ISIG", format!("{flags:?}")))
    }

    pub fn exit_status(&mut self) -> Result<Option<i32>, Failure> {
        let ended = eventually(LIMIT, || !matches!(self.child.try_wait(), Ok(None)));
        let screen = self.screen.text();
        ensure(ended, || Failure::new("the runtime ends", format!("it still runs; the screen: {screen:?}")))?;
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Terminal {
    /// By the death of PID 1, so that the runtime can clean up. A shell that then waits for a line would wait for ever.
    fn drop(&mut self) {
        let started = Process(self.child.id().cast_signed());
        started.descendants().into_iter().filter(|it| it.is_first()).for_each(host::end);
        let alone = || started.descendants().iter().all(|it| it.is_zombie());
        eventually(SOON, || !started.is_alive() || alone());
        // Without a shell, it is the runtime that was started, and it may still clean up.
        if !eventually(Duration::from_millis(200), || !started.is_alive()) && alone() {
            let _ = self.child.kill();
        }
        end(&mut self.child);
    }
}

struct Reader(Arc<Pty>);

impl std::io::Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

fn shell(subject: &Subject) -> Checked {
    // Nobody between the terminal and the runtime, which leads the session.
    let mut terminal = Terminal::start(subject, &subject.binary().to_string_lossy(), &[])?;
    terminal.prompt()?;
    let screen = terminal.screen.text();
    let complains = screen.contains("job control") || screen.contains("tty");
    ensure(!complains, || Failure::new("a shell that does not complain", format!("{screen:?}")))?;
    terminal.enter("test -t 0 && test -t 1 && echo terminal=$?")?;
    terminal.see("terminal=0")?;
    terminal.enter("exit 5")?;
    expect("the exit status", Some(5), terminal.exit_status()?)
}

fn interrupt(subject: &Subject) -> Checked {
    let mut terminal = Terminal::of(subject)?;
    terminal.enter("sleep 1000")?;
    let sleeping = terminal.until("sleep 1000", 'S')?;
    terminal.press("\x03")?;
    terminal.enter("echo status=$?")?;
    terminal.see("status=130")?;
    ensure(!sleeping.is_alive(), || Failure::new("Ctrl-C ends it", "it lives on"))?;
    // At the prompt there is nothing to interrupt. What is typed before the signal arrives is lost with the line.
    terminal.press("\x03")?;
    thread::sleep(Duration::from_millis(200));
    terminal.enter("echo still=$((1 + 1))")?;
    terminal.see("still=2")?;
    terminal.enter("exit 0")?;
    expect("the exit status", Some(0), terminal.exit_status()?)
}

fn job_control(subject: &Subject) -> Checked {
    let mut terminal = Terminal::of(subject)?;
    terminal.enter("sleep 1000")?;
    terminal.until("sleep 1000", 'S')?;
    terminal.press("\x1a")?;
    terminal.until("sleep 1000", 'T')?;
    terminal.enter("jobs; echo listed=$((1 + 1))")?;
    terminal.see("sleep 1000")?;
    terminal.see("listed=2")?;
    terminal.enter("bg")?;
    terminal.until("sleep 1000", 'S')?;
    terminal.enter("fg; echo after=$?")?;
    // The shell has to move it to the foreground before Ctrl-C can reach it.
    thread::sleep(Duration::from_millis(100));
    terminal.press("\x03")?;
    terminal.enter("echo after=$((1 + 1))")?;
    terminal.see("after=2")?;
    terminal.enter("sleep 1001 &")?;
    let background = terminal.until("sleep 1001", 'S')?;
    terminal.enter("kill %1; wait; echo killed=$((1 + 1))")?;
    terminal.see("killed=2")?;
    ensure(!background.is_alive(), || Failure::new("`kill %1` ends the job", "it lives on"))?;
    terminal.enter("exit 0")?;
    expect("the exit status", Some(0), terminal.exit_status()?)
}

fn given_back(subject: &Subject) -> Checked {
    // The shell itself asks for the settings: from outside one could meet it, or the container's, at its prompt, where
    // a shell with line editing has settings of its own.
    let script = format!(
        "before=$(stty -g); '{}'; echo back=$?; [ \"$before\" = \"$(stty -g)\" ] && echo kept=1 || echo kept=0\n",
        subject.binary().display()
    );
    let script = subject.write("with-terminal.sh", script)?;
    // Without job control, the host's shell and the runtime are one process group, which owns the terminal.
    let whole = format!(". {script}; read -r line; echo \"read=$line.\"; exit 6");
    let mut terminal = Terminal::start(subject, "sh", &["-c", &whole])?;
    given_back_to(&mut terminal)?;
    terminal.enter("and on")?;
    terminal.see("read=and on.")?;
    expect("the exit status", Some(6), terminal.exit_status()?)?;
    // With it, each has its own group, and the shell takes the terminal back itself.
    let mut terminal = Terminal::start(subject, "sh", &["-i"])?;
    terminal.prompt()?;
    terminal.enter(&format!(". {script}"))?;
    given_back_to(&mut terminal)?;
    terminal.prompt()?;
    terminal.enter("exit 6")?;
    expect("the exit status", Some(6), terminal.exit_status()?)
}

/// Lets the container's shell spoil the terminal and end; looks whether its settings are as before.
fn given_back_to(terminal: &mut Terminal) -> Checked {
    terminal.prompt()?;
    terminal.enter("stty -echo -icanon; exit 3")?;
    terminal.see("back=3")?;
    terminal.see("kept=1").map_err(|failure| Failure {
        expected: "the terminal's settings are as before the run".into(),
        ..failure
    })
}

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
        for number in process.descriptors()? {
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
        have_none_of(&terminal).map_err(|failure| Failure {
            expected: format!("with {streams}, {}", failure.expected),
            ..failure
        })?;
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

fn piped(subject: &Subject) -> Checked {
    let container = "sh -c 'readlink /proc/self/fd/0; exec sleep 1000'";
    let mut terminal =
        script(subject, &format!("\"$0\" {container} | sed s/^/out=/; read -r line; echo \"read=$line.\""))?;
    expect("stdin", "/dev/null", &terminal.line_after("out=")?)?;
    have_none_of(&terminal)?;
    terminal.enter("typed")?;
    // Time for a runtime that reads to take it.
    thread::sleep(Duration::from_millis(200));
    host::end(terminal.first()?);
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
