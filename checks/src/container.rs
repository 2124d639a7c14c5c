//! A runtime that runs: its streams, and its container's processes as the host sees them.
//!
//! Dropped, it is ended with all its descendants. Touches nothing else.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kernel::{Process, eventually};
use crate::{Checked, Failure, ensure};

/// How long a run may take. Generous: the machine may be busy, and nothing waits for it when all is well.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A started runtime.
#[derive(Debug)]
pub struct Container {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Stream>,
    stderr: Arc<Stream>,
    started: Instant,
}

impl Container {
    /// Starts a command, its stdout and stderr to be read here.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start(command: &mut Command) -> Result<Container, Failure> {
        let started = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::new("the runtime can be started", error))?;
        let stdin = child.stdin.take();
        let no_pipe = || Failure::new("a pipe from the runtime", "none");
        let stdout = Stream::of(child.stdout.take().ok_or_else(no_pipe)?);
        let stderr = Stream::of(child.stderr.take().ok_or_else(no_pipe)?);
        Ok(Container { child, stdin, stdout, stderr, started })
    }

    /// The runtime's own process.
    pub fn runtime(&self) -> Process {
        Process(self.child.id().cast_signed())
    }

    /// The container's PID 1, as the host sees it: the runtime's descendant that is the first of a PID
    /// namespace.
    ///
    /// # Errors
    /// When there is none.
    pub fn first(&self) -> Result<Process, Failure> {
        let descendants = self.runtime().descendants();
        descendants.into_iter().find(|process| process.is_first()).ok_or_else(|| {
            let found = match self.stderr.text().lines().next() {
                Some(line) => format!("none; stderr: {line}"),
                None => "none".into(),
            };
            Failure::new("among the runtime's descendants is PID 1 of a PID namespace of its own", found)
        })
    }

    /// All processes of the container, but not the runtime.
    ///
    /// # Errors
    /// As [`first`](Container::first).
    pub fn processes(&self) -> Result<Vec<Process>, Failure> {
        let first = self.first()?;
        Ok([vec![first], first.descendants()].concat())
    }

    /// Writes a line to its stdin.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub fn say(&mut self, line: &str) -> Checked {
        let written = self.stdin.as_mut().map(|stdin| stdin.write_all(format!("{line}\n").as_bytes()));
        match written {
            Some(Ok(())) => Ok(()),
            // Nobody reads: the reason is in how it ended.
            _ => Err(self.without(&format!("the container reads the line {line:?}"))),
        }
    }

    /// Waits until it has written `text` to stdout; returns the rest of that line.
    ///
    /// # Errors
    /// When it does not within the time limit.
    pub fn wait_for(&self, text: &str) -> Result<String, Failure> {
        self.wait_in(&self.stdout, LIMIT, text)
    }

    /// The same with another time limit.
    ///
    /// # Errors
    /// As [`wait_for`](Container::wait_for).
    pub fn wait_for_within(&self, limit: Duration, text: &str) -> Result<String, Failure> {
        self.wait_in(&self.stdout, limit, text)
    }

    /// The same on stderr, where the runtime writes as well.
    ///
    /// # Errors
    /// As [`wait_for`](Container::wait_for).
    pub fn wait_for_on_stderr(&self, text: &str) -> Result<String, Failure> {
        self.wait_in(&self.stderr, LIMIT, text)
    }

    fn wait_in(&self, stream: &Stream, limit: Duration, text: &str) -> Result<String, Failure> {
        let rest_of_line = |bytes: &[u8]| {
            let all = String::from_utf8_lossy(bytes);
            let (_, after) = all.split_once(text)?;
            after.split_once('\n').map(|(rest, _)| rest.to_owned())
        };
        stream
            .wait(limit, rest_of_line)
            .ok_or_else(|| self.without(&format!("the container writes {text:?}")))
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Sends a signal to the runtime, and only to it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Checked {
        Ok(kill(Pid::from_raw(self.runtime().0), signal)?)
    }

    /// The same for any signal: nix has no names for the real-time ones.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal_by_number(&self, signal: i32) -> Checked {
        let runtime = self.runtime();
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {runtime}")]).status()?;
        ensure(sent.success(), || Failure::new(format!("a runtime that can get signal {signal}"), "none"))
    }

    /// Closes its stdin and waits for the end.
    ///
    /// # Errors
    /// When it takes too long, or something else keeps its stdout open.
    pub fn output(self) -> Result<Output, Failure> {
        self.output_within(LIMIT)
    }

    /// The same with another time limit.
    ///
    /// # Errors
    /// As [`output`](Container::output).
    pub fn output_within(mut self, limit: Duration) -> Result<Output, Failure> {
        drop(self.stdin.take());
        let expected = || format!("the runtime ends within {} seconds", limit.as_secs());
        let deadline = self.started.max(Instant::now()) + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                return Err(Failure::new(expected(), "it still runs"));
            }
            thread::sleep(Duration::from_micros(500));
        };
        for stream in [&self.stdout, &self.stderr] {
            if !stream.wait_for_end(Duration::from_secs(10)) {
                let expected = "with the runtime everything that writes to its streams has ended";
                return Err(Failure {
                    left_behind: true,
                    ..Failure::new(expected, "a process keeps them open")
                });
            }
        }
        Ok(Output {
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            killed: status.code().is_none(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        })
    }

    /// What did not happen, and how the runtime ended instead if it did.
    fn without(&self, expected: &str) -> Failure {
        let ended = self.runtime().is_zombie() || self.stdout.wait_for_end(Duration::from_millis(100));
        let how = if ended { "the runtime ended" } else { "the runtime still runs" };
        let words: Vec<_> =
            [self.stdout.text(), self.stderr.text()].concat().lines().map(str::to_owned).collect();
        let found = if words.is_empty() {
            "it wrote nothing".into()
        } else {
            format!("it wrote: {}", words.join(" / "))
        };
        Failure::new(expected, format!("{how}; {found}"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.stdin.take());
        end(&mut self.child);
    }
}

/// How a run ended and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit status; 128 and the signal's number when a signal ended the runtime itself.
    pub status: i32,
    /// Whether a signal ended the runtime itself.
    pub killed: bool,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Output {
    /// Fails unless the exit status is this.
    ///
    /// # Errors
    /// With the status and the first lines of stderr.
    pub fn status_is(&self, status: i32) -> Checked {
        ensure(self.status == status && !self.killed, || {
            Failure::new(format!("exit status {status}"), format!("{}{}", self.ending(), self.words()))
        })
    }

    /// What it wrote to stdout, if it ended well.
    ///
    /// # Errors
    /// As [`status_is`](Output::status_is), for status 0.
    pub fn ok(&self) -> Result<&str, Failure> {
        self.status_is(0)?;
        Ok(self.stdout.trim_end())
    }

    /// How it ended, in words.
    pub fn ending(&self) -> String {
        match self.killed {
            true => format!("the runtime itself was ended by signal {}", self.status - 128),
            false => format!("exit status {}", self.status),
        }
    }

    fn words(&self) -> String {
        let lines: Vec<_> = self.stderr.lines().take(3).collect();
        if lines.is_empty() { String::new() } else { format!("; stderr: {}", lines.join(" / ")) }
    }
}

/// Ends a runtime and its container: by the death of PID 1, so that the runtime can clean up, or else itself.
pub(crate) fn end(runtime: &mut Child) {
    if !matches!(runtime.try_wait(), Ok(None)) {
        return;
    }
    // Looked up before anything dies: afterwards they are nobody's, or the subreaper's.
    let descendants = Process(runtime.id().cast_signed()).descendants();
    descendants.iter().filter(|process| process.is_first()).copied().for_each(Process::end);
    if !eventually(Duration::from_secs(5), || !matches!(runtime.try_wait(), Ok(None))) {
        let _ = runtime.kill();
        let _ = runtime.wait();
        descendants.into_iter().for_each(Process::end);
    }
}

/// The output of a pipe. A thread reads it, so that a writer never waits for a check.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    content: Mutex<Content>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    pub(crate) fn of(pipe: impl Read + Send + 'static) -> Arc<Stream> {
        let stream = Arc::new(Stream::default());
        let writer = Arc::clone(&stream);
        thread::spawn(move || {
            let mut buffer = [0; 1 << 14];
            let mut pipe = pipe;
            loop {
                let count = pipe.read(&mut buffer).unwrap_or(0);
                let mut content = writer.content.lock().unwrap_or_else(PoisonError::into_inner);
                content.bytes.extend_from_slice(&buffer[..count]);
                content.ended = count == 0;
                writer.more.notify_all();
                if content.ended {
                    return;
                }
            }
        });
        stream
    }

    pub(crate) fn text(&self) -> String {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&content.bytes).into_owned()
    }

    /// Waits until `find` finds something, the stream ends, or the time is over.
    pub(crate) fn wait<T>(&self, limit: Duration, find: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let not_yet = |content: &mut Content| !content.ended && find(&content.bytes).is_none();
        let waited = self.more.wait_timeout_while(content, limit, not_yet);
        let (content, _) = waited.unwrap_or_else(PoisonError::into_inner);
        find(&content.bytes)
    }

    fn wait_for_end(&self, limit: Duration) -> bool {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.more.wait_timeout_while(content, limit, |content| !content.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}
