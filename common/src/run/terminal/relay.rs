//! Between two terminals: keys from the caller's to the container's, and its screen the other way.
//!
//! Two threads copy, while the main thread waits for signals, which all threads have blocked. The caller's
//! terminal is raw meanwhile: it passes each key as it is, and Ctrl-C becomes a signal in the container's
//! terminal only. A process of its own puts the settings back should this one be killed. Order: the guard is
//! forked before the threads are started. Man pages: pty(7), termios(3), poll(2).

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{LocalFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Pid, setsid};

use super::{Caller, Stream, Streams};
use crate::run::helper::{Helper, HelperEnd};
use crate::sys::call;
use crate::sys::descriptors::close_all_but;
use crate::sys::error::{Context, Error, Result, tell_raw};
use crate::sys::pidfd::OpenProcess;
use crate::sys::pty::{set_window_size, window_size};
use crate::sys::signal::heeds;

/// How long the caller's terminal may take nothing before it counts as one that nobody reads.
const PATIENCE: Duration = Duration::from_secs(1);

/// What Ctrl-C sends.
const INTERRUPT: u8 = 3;

/// The copying, until it is dropped. Then the container's whole output has arrived, unless nobody reads it.
#[derive(Debug)]
pub(crate) struct Relay {
    main: Arc<File>,
    caller: Option<Caller>,
    screen: Screen,
    /// Closed, it ends the threads.
    stop: Option<PipeWriter>,
    raw: Option<Raw>,
}

impl Relay {
    /// Begins to copy between `main`, the main end of the container's terminal, and the caller's. `first` is
    /// the container's first process.
    pub(crate) fn start(main: OwnedFd, streams: &Streams, first: Pid) -> Result<Relay> {
        let main = Arc::new(File::from(main));
        let (stopped, stop) = io::pipe().context("pipe2(O_CLOEXEC)")?;
        let stopped = Arc::new(stopped);
        let raw = if streams.keys { Some(Raw::begin()?) } else { None };
        let to_caller = match streams.each[1] {
            Stream::Own => Caller::Stdout,
            _ => Caller::Stderr,
        };
        let screen = Screen::copy(Arc::clone(&main), to_caller, Arc::clone(&stopped))?;
        if streams.keys {
            let (to, open) = (Arc::clone(&main), OpenProcess::of(first)?);
            start("keys", move || copy_keys(&to, &stopped, first, &open))?;
        }
        Ok(Relay { main, caller: streams.caller, screen, stop: Some(stop), raw })
    }

    /// Ends the copying, as a drop does.
    ///
    /// # Errors
    /// ENOSPC, EDQUOT, EFBIG, EIO: where the screen goes to did not take all of it. That nobody reads it any
    /// more is no error.
    pub(crate) fn end(self) -> Result<()> {
        let lost = Arc::clone(&self.screen.lost);
        drop(self);
        match lost.load(Ordering::Acquire) {
            0 => Ok(()),
            number => {
                Err(Error::from_errno("writing what the container's terminal shows", Errno::from_raw(number)))
            }
        }
    }

    /// Makes the container's terminal as large as the caller's has become. The kernel tells the container.
    pub(crate) fn resize(&self) {
        // A size that cannot be had stays as it was.
        let Some(Ok(size)) = self.caller.map(window_size) else { return };
        let _ = set_window_size(&*self.main, size);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.screen.wait();
        drop(self.raw.take());
    }
}

/// The thread that copies the screen.
#[derive(Debug)]
struct Screen {
    /// How many bytes the caller's terminal has taken.
    shown: Arc<AtomicU64>,
    /// The errno of the first write that failed, or 0.
    lost: Arc<AtomicI32>,
    /// Disconnected when the thread ends.
    ended: Receiver<()>,
}

impl Screen {
    fn copy(main: Arc<File>, to: Caller, stop: Arc<PipeReader>) -> Result<Screen> {
        let (alive, ended) = mpsc::channel();
        let (shown, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicI32::new(0)));
        let (count, failed) = (Arc::clone(&shown), Arc::clone(&lost));
        start("screen", move || {
            copy_screen(&main, to, &stop, &count, &failed);
            drop(alive);
        })?;
        Ok(Screen { shown, lost, ended })
    }

    /// Waits for its end, as long as the caller's terminal goes on taking something: a write to one that
    /// nobody reads never returns.
    fn wait(&self) {
        let mut before = None;
        while self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            let shown = Some(self.shown.load(Ordering::Relaxed));
            if shown == before {
                return;
            }
            before = shown;
        }
    }
}

/// Starts a thread. Unlike `thread::spawn`, it does not panic at a limit of processes.
fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = thread::Builder::new().name(name.into()).spawn(work);
    started.map(drop).context(format_args!("starting a thread for the terminal's {name}"))
}

/// Whether the file can be read, and whether the word to stop has come. An end of the file counts as
/// readable.
fn wait(file: impl AsFd, stop: &PipeReader) -> (bool, bool) {
    // The kernel looks at one after the other. If the word to stop has come, it looks at the file after that,
    // and so it sees all that was written before the word.
    let mut both =
        [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    while poll(&mut both, PollTimeout::NONE) == Err(Errno::EINTR) {}
    (both[1].any().unwrap_or(true), both[0].any().unwrap_or(true))
}

/// Copies until no process has the container's terminal open any more; told to stop, until nothing is left to
/// copy.
fn copy_screen(mut main: &File, to: Caller, stop: &PipeReader, shown: &AtomicU64, lost: &AtomicI32) {
    // Small, so that even a slow terminal takes one within the time for which its silence is borne.
    let mut buffer = [0; 1 << 12];
    loop {
        let (readable, stopped) = wait(main, stop);
        if readable {
            match main.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO: the other end is closed.
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    // Reads on after any error. Otherwise the container would wait when it writes more.
                    if let Err(errno) = write_all(to, &buffer[..count])
                        && !is_gone(to, errno)
                    {
                        let _ = lost.compare_exchange(0, errno as i32, Ordering::AcqRel, Ordering::Relaxed);
                    }
                    shown.fetch_add(count as u64, Ordering::Relaxed);
                }
            }
        } else if stopped {
            return;
        }
    }
}

/// Whether a write failed because nobody reads any more: a pipe without a reader, a terminal that was hung
/// up.
fn is_gone(to: Caller, errno: Errno) -> bool {
    errno == Errno::EPIPE || nix::unistd::isatty(to).unwrap_or(true)
}

/// Copies keys. If Ctrl-C does nothing, the user gets out by pressing it three times in a row. It is the same
/// without a terminal of the container's own. The main thread may have waited for the first process already,
/// while this one still copies. By number, SIGKILL could then reach a stranger, so it goes to what is `open`.
fn copy_keys(main: &File, stop: &PipeReader, first: Pid, open: &OpenProcess) {
    let mut interrupts = 0;
    let mut buffer = [0; 1 << 12];
    loop {
        if let (_, true) = wait(Caller::Stdin, stop) {
            return;
        }
        let count = match nix::unistd::read(Caller::Stdin, &mut buffer) {
            Err(Errno::EINTR) => continue,
            // The caller's terminal is gone.
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if write_all(main, &buffer[..count]).is_err() {
            return;
        }
        for &key in &buffer[..count] {
            interrupts = if key == INTERRUPT { interrupts + 1 } else { 0 };
        }
        // A program that reads Ctrl-C as a key has switched the signal off.
        let is_signal = || tcgetattr(main).is_ok_and(|it| it.local_flags.contains(LocalFlags::ISIG));
        if interrupts >= 3 && is_signal() && !heeds(first, Signal::SIGINT) {
            tell_raw("Ctrl-C three times: ending the container with SIGKILL");
            open.kill();
            return;
        }
    }
}

fn write_all(to: impl AsFd, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(&to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The caller's terminal in raw mode, until it is dropped or this process dies.
#[derive(Debug)]
struct Raw {
    before: Termios,
    /// "Go" tells it that all is well, the end of its socket without that word that this process was killed.
    guard: Helper,
}

impl Raw {
    fn begin() -> Result<Raw> {
        let doing = |errno| Error::from_errno("reading the settings of the caller's terminal", errno);
        let before = tcgetattr(Caller::Stdin).map_err(doing)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let guard = Helper::start("guarding the caller's terminal", |runtime| {
            guard(runtime, &before, &raw);
            Ok(())
        })?;
        // From here on, the drop restores.
        let begun = Raw { before, guard };
        call(
            "tcsetattr(3)",
            || "tcsetattr(0, TCSADRAIN, raw)".into(),
            || tcsetattr(Caller::Stdin, SetArg::TCSADRAIN, &raw),
        )?;
        Ok(begun)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let before = &self.before;
        // It fails where the terminal was hung up, and then there is nothing to restore.
        let _ = call(
            "tcsetattr(3)",
            // Not TCSADRAIN: all is shown by now, or else it would wait for a terminal that nobody reads.
            || "tcsetattr(0, TCSANOW, as before)".into(),
            || tcsetattr(Caller::Stdin, SetArg::TCSANOW, before),
        );
        self.guard.go();
    }
}

/// The guard's whole life: it waits for the word, and restores the terminal if none comes.
fn guard(runtime: &mut HelperEnd, before: &Termios, raw: &Termios) {
    // The runtime's death must not end its guard, too, be it by a signal to its group or by Ctrl-C.
    let _ = setsid();
    let _ = SigSet::all().thread_block();
    // Locks live as long as any descriptor of theirs, and this process outlives the runtime.
    let _ = close_all_but(Some(runtime.as_fd()));
    let killed = runtime.wait_for_go().is_err();
    // Another process may have the terminal by now, and may have changed its settings already.
    let is_raw = || tcgetattr(Caller::Stdin).is_ok_and(|now| now.local_flags == raw.local_flags);
    if killed && is_raw() {
        let _ = tcsetattr(Caller::Stdin, SetArg::TCSANOW, before);
    }
}
