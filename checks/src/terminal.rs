//! A runtime at a pseudo-terminal of the checks' own, with somebody who types and somebody who reads.
//!
//! Dropped, all of it is ended. Touches nothing else. Man pages: pty(7), tty(4), termios(3).

use std::io::Write;
use std::process::Child;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::stat::fstat;
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use pty_process::blocking::{Command, Pty, open};

use crate::container::LIMIT;
use crate::container::{Stream, end};
use crate::kernel::{Process, eventually};
use crate::{Checked, Failure, Subject, ensure};

/// For what comes at once when all is well, and would be waited for by steps that do not have it.
pub const SOON: Duration = Duration::from_secs(5);

/// A runtime at a pseudo-terminal.
pub struct Terminal {
    /// The end at which the user sits.
    pub pty: Arc<Pty>,
    /// The process at the other end.
    pub child: Child,
    /// All that was written to it.
    pub screen: Arc<Stream>,
    /// Up to where the screen was read.
    seen: usize,
    /// Which file it is.
    pub file: (u64, u64),
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
    pub fn of(subject: &Subject) -> Result<Terminal, Failure> {
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

    /// Waits until `text` appears after the text that was seen last. The terminal echoes typed text: look for
    /// something that only the answer can hold.
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

    /// Whether `text` has appeared by now.
    pub fn shows(&self, text: &str) -> bool {
        self.screen.text().contains(text)
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

    /// Presses a key until the process has ended: a shell needs a moment to make it the terminal's
    /// foreground.
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
    pub fn line_after(&mut self, text: &str) -> Result<String, Failure> {
        self.see(text)?;
        let seen = self.seen;
        // Where the terminal is raw, there is no carriage return.
        self.see("\n")?;
        let screen = self.screen.text();
        Ok(screen.get(seen..self.seen).unwrap_or_default().trim_end().to_owned())
    }

    /// The runtime that a shell at the terminal has started.
    pub fn runtime(&self, subject: &Subject) -> Result<Process, Failure> {
        let shell = self.child.id().to_string();
        // Not by its file: a runtime may execute itself anew, from a copy.
        let name = subject.binary().display().to_string();
        let mut found = None;
        eventually(LIMIT, || {
            let below = Process(self.child.id().cast_signed()).descendants();
            found = below.into_iter().find(|it| {
                let is_child = it.status("PPid").is_ok_and(|parent| parent == shell);
                is_child && it.command_line().starts_with(&name)
            });
            found.is_some()
        });
        found.ok_or_else(|| Failure::new("the shell starts the runtime", format!("{:?}", self.screen.text())))
    }

    /// The container's PID 1.
    pub fn first(&self) -> Result<Process, Failure> {
        let below = Process(self.child.id().cast_signed()).descendants();
        below.into_iter().find(|it| it.is_first()).ok_or_else(|| {
            Failure::new("a container at the terminal", format!("none; the screen: {:?}", self.screen.text()))
        })
    }

    /// Fails unless the settings become those of the beginning again.
    pub fn is_as_before(&self, when: &str) -> Checked {
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
    pub fn is_raw(&self) -> Checked {
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
    /// By the death of PID 1, so that the runtime can clean up. A shell that then waits for a line would wait
    /// for ever.
    fn drop(&mut self) {
        let started = Process(self.child.id().cast_signed());
        started.descendants().into_iter().filter(|it| it.is_first()).for_each(Process::end);
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
