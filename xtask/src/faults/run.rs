//! One run of a runtime, with all that it starts under the eyes of the tool, and with one fault at the most.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::place::{self, Place};
use super::seen::{self, Figures};
use super::trace::{self, Start, Stop, Until, Watched};

/// How much longer a run may take than one without a fault, whatever fails in it.
pub const LIMIT: Duration = Duration::from_secs(10);

/// How long a reader stops, until something happens to it or to the container.
const A_WHILE: Duration = Duration::from_secs(1);

/// What goes wrong in a run, once, when the process is at that place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The call fails.
    Errno(Errno),
    /// SIGKILL ends the runtime.
    KillRuntime,
    /// SIGKILL ends the process itself.
    KillItself,
    /// The whole run has a condition that may lead to one of these errors. If there is none, it must work.
    Condition(&'static [Errno]),
}

/// What a recording run has found at a place.
#[derive(Debug, Clone)]
pub struct Point {
    /// Where.
    pub place: Place,
    /// The errors that the call can give.
    pub errnos: &'static [Errno],
    /// Whether a kill before the call differs from one before the next.
    pub acts: bool,
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The runtime's status as a shell tells it; `None` when it had to be killed.
    pub status: Option<i32>,
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
    /// What the command began with, if there was one.
    pub seen: Option<Figures>,
    /// What took longer than it may, if anything did.
    pub hangs: Option<String>,
    /// Whether the fault's place was reached.
    pub injected: bool,
    /// The places, in order, of a run that records them.
    pub points: Vec<Point>,
    /// What the processes are, by their descent: `child`, `helper 2`.
    pub roles: BTreeMap<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// What `main` does first; before it come the loader and the standard library.
const MARKER: Watched = (libc::SYS_rt_sigaction as u32, Some(libc::SIGCHLD as u32));

struct Process {
    descent: String,
    children: usize,
    /// Whether its calls count: it is the runtime, past its loader, and no other program.
    counts: bool,
    is_child: bool,
    turns: HashMap<String, usize>,
    /// The error with which it goes on from the call at which it is.
    pending: Option<Errno>,
    ended: bool,
}

/// How a run goes.
pub struct Plan<'a> {
    /// What is started.
    pub start: &'a Start,
    /// The file of the runtime's program.
    pub binary: &'a Path,
    /// A folder for the output.
    pub folder: &'a Path,
    /// What goes wrong, and where.
    pub fault: Option<(&'a Place, &'a Fault)>,
    /// Whether the places are recorded.
    pub record: bool,
    /// How long the run may take.
    pub limit: Duration,
    /// Its stdout, if it is not a file or the terminal.
    pub stdout: Option<BorrowedFd<'a>>,
    /// What happens to the runtime [`A_WHILE`] after its command was executed.
    pub later: Option<&'a dyn Fn(Pid)>,
}

/// Runs it.
///
/// # Errors
/// When it cannot be started or traced.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let began = Instant::now();
    let (out, err) = (plan.folder.join("stdout"), plan.folder.join("stderr"));
    let mut terminal = None;
    let watched = watched(plan);
    let bell = Bell::hang().context("signalfd")?;
    let runtime = if plan.start.terminal {
        let (ours, theirs) = trace::terminal()?;
        let stdout = plan.stdout.unwrap_or(theirs.as_fd());
        let pid = trace::start(plan.start, [theirs.as_fd(), stdout, theirs.as_fd()], &watched)?;
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        terminal = Some(File::from(ours));
        pid
    } else {
        let (nothing, stdout, stderr) = (File::open("/dev/null")?, File::create(&out)?, File::create(&err)?);
        let stdout = plan.stdout.unwrap_or(stdout.as_fd());
        trace::start(plan.start, [nothing.as_fd(), stdout, stderr.as_fd()], &watched)?
    };
    let mut tracer = Tracer {
        plan,
        runtime,
        processes: HashMap::new(),
        early: BTreeSet::new(),
        armed: plan.fault.is_some(),
        outcome: Outcome::default(),
    };
    tracer.adopt(runtime, "runtime".into(), false, false);
    trace::resume(runtime, tracer.until(runtime), 0);
    let mut screen = Vec::new();
    let mut later = plan.later;
    let meanwhile = |executed: Option<Instant>| {
        drain(terminal.as_ref(), &mut screen);
        if executed.is_some_and(|at| at.elapsed() > A_WHILE)
            && let Some(act) = later.take()
        {
            act(runtime);
        }
    };
    tracer.watch(began, meanwhile, || bell.wait(terminal.as_ref()))?;
    drain(terminal.as_ref(), &mut screen);
    let mut outcome = tracer.outcome;
    if plan.start.terminal {
        outcome.stdout = String::from_utf8_lossy(&screen).into_owned();
        outcome.stderr = outcome.stdout.clone();
    } else {
        let text = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (outcome.stdout, outcome.stderr) = (text(&out)?, text(&err)?);
    }
    outcome.took = began.elapsed();
    Ok(outcome)
}

/// Rings when a traced process has stopped or ended, so that nobody has to ask again and again.
struct Bell(SignalFd);

impl Bell {
    fn hang() -> nix::Result<Bell> {
        let signals = SigSet::from(Signal::SIGCHLD);
        signals.thread_block()?;
        Ok(Bell(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits until it rings, or the terminal has something to read. Returns soon in any case, for the limits.
    fn wait(&self, terminal: Option<&File>) {
        const SOON: u16 = 50;
        let mut wanted: Vec<_> = [self.0.as_fd()].into_iter().chain(terminal.map(AsFd::as_fd)).collect();
        loop {
            let mut ends: Vec<_> = wanted.iter().map(|end| PollFd::new(*end, PollFlags::POLLIN)).collect();
            let _ = poll(&mut ends, PollTimeout::from(SOON));
            let has = |end: &PollFd, flags| end.revents().is_some_and(|found| found.intersects(flags));
            // A terminal that no process has open would make this a busy loop.
            let is_hung_up =
                ends.get(1).is_some_and(|end| !has(end, PollFlags::POLLIN) && has(end, PollFlags::POLLHUP));
            if !is_hung_up || has(&ends[0], PollFlags::POLLIN) {
                break;
            }
            wanted.truncate(1);
        }
        while let Ok(Some(_)) = self.0.read_signal() {}
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let _ = SigSet::from(Signal::SIGCHLD).thread_unblock();
    }
}

/// The calls at which a run with a fault stops: those of the fault's name, and the one after which all calls
/// count.
fn watched(plan: &Plan) -> Vec<Watched> {
    let Some((place, _)) = plan.fault else { return vec![] };
    let wanted = place::number(&place.what);
    wanted.map(|number| (number, None)).into_iter().chain([MARKER]).collect()
}

fn drain(terminal: Option<&File>, screen: &mut Vec<u8>) {
    let Some(mut terminal) = terminal else { return };
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = terminal.read(&mut bytes) {
        screen.extend_from_slice(&bytes[..count]);
    }
}

struct Tracer<'a> {
    plan: &'a Plan<'a>,
    runtime: Pid,
    processes: HashMap<Pid, Process>,
    /// Processes that have stopped for the first time before their parent told of them.
    early: BTreeSet<Pid>,
    armed: bool,
    outcome: Outcome,
}

impl Tracer<'_> {
    fn adopt(&mut self, pid: Pid, descent: String, counts: bool, is_child: bool) {
        let process = Process {
            descent,
            children: 0,
            counts,
            is_child,
            turns: HashMap::new(),
            pending: None,
            ended: false,
        };
        self.processes.insert(pid, process);
    }

    /// A run that records stops at each call. In a run with a fault, the filter stops the processes.
    fn until(&self, pid: Pid) -> Until {
        let process = &self.processes[&pid];
        let waits_for_marker = process.descent == "runtime";
        if self.plan.record && (process.counts || waits_for_marker) || process.pending.is_some() {
            Until::Call
        } else {
            Until::Event
        }
    }

    fn watch(
        &mut self,
        began: Instant,
        mut meanwhile: impl FnMut(Option<Instant>),
        wait: impl Fn(),
    ) -> Result<()> {
        let mut executed = None;
        loop {
            match trace::next() {
                Ok(Some((pid, stop))) => self.handle(pid, &stop)?,
                Ok(None) => {
                    if executed.is_none() && self.outcome.seen.is_some() {
                        executed = Some(Instant::now());
                    }
                    meanwhile(executed);
                    if began.elapsed() > self.plan.limit && self.outcome.hangs.is_none() {
                        let mut left: Vec<_> = self.processes.iter().filter(|(_, it)| !it.ended).collect();
                        left.sort_by_key(|(_, it)| it.descent.clone());
                        let left = left.iter().map(|(pid, it)| {
                            let call = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
                            format!("{} in {call}", it.descent)
                        });
                        self.outcome.hangs = Some(left.collect::<Vec<_>>().join(", "));
                        for (pid, _) in self.processes.iter().filter(|(_, it)| !it.ended) {
                            let _ = kill(*pid, Signal::SIGKILL);
                        }
                    }
                    wait();
                }
                Err(error) if trace::none_left(&error) => return Ok(()),
                Err(error) => return Err(error.context("waitpid")),
            }
        }
    }

    fn handle(&mut self, pid: Pid, stop: &Stop) -> Result<()> {
        if !self.processes.contains_key(&pid) {
            if let Stop::Ended(_) = stop {
                self.early.remove(&pid);
            } else {
                self.early.insert(pid);
            }
            return Ok(());
        }
        match stop {
            Stop::Ended(status) => {
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.ended = true;
                }
                if pid == self.runtime {
                    let status = *status;
                    let shown = if libc::WIFEXITED(status) {
                        libc::WEXITSTATUS(status)
                    } else {
                        128 + libc::WTERMSIG(status)
                    };
                    self.outcome.status = Some(shown);
                }
                return Ok(());
            }
            Stop::Group => {
                trace::resume(pid, Until::Continued, 0);
                return Ok(());
            }
            Stop::Enter(call) => self.enter(pid, call),
            Stop::Exit => {
                let pending = self.processes.get_mut(&pid).and_then(|it| it.pending.take());
                if let Some(errno) = pending {
                    // It may have been killed meanwhile.
                    let _ = trace::answer(pid, errno);
                }
            }
            Stop::Born(child) => self.born(pid, *child),
            Stop::Exec => self.exec(pid),
            Stop::Signal(signal) => {
                trace::resume(pid, self.until(pid), *signal);
                return Ok(());
            }
            Stop::Other => {}
        }
        trace::resume(pid, self.until(pid), 0);
        Ok(())
    }

    fn enter(&mut self, pid: Pid, call: &trace::Call) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let is_marker = call.number == u64::from(MARKER.0) && call.arguments[0] == libc::SIGCHLD as u64;
        process.counts |= is_marker;
        if !process.counts || !(self.armed || self.plan.record) {
            return;
        }
        let what = place::describe(pid, call);
        let turn = process.turns.entry(what.clone()).or_default();
        let place = Place { process: process.descent.clone(), what, turn: *turn };
        *turn += 1;
        if self.plan.record {
            let (errnos, acts) = (place::errnos(pid, call), !place::changes_nothing(call));
            self.outcome.points.push(Point { place, errnos, acts });
            return;
        }
        let Some((_, fault)) = self.plan.fault.filter(|(wanted, _)| **wanted == place) else { return };
        self.armed = false;
        self.outcome.injected = true;
        match fault {
            Fault::Errno(errno) => {
                if trace::refuse(pid).is_ok() {
                    process.pending = Some(*errno);
                }
            }
            Fault::KillRuntime => _ = kill(self.runtime, Signal::SIGKILL),
            Fault::KillItself => _ = kill(pid, Signal::SIGKILL),
            // It is there from the beginning, and has no place.
            Fault::Condition(_) => {}
        }
    }

    fn born(&mut self, parent: Pid, child: Pid) {
        let Some(process) = self.processes.get_mut(&parent) else { return };
        process.children += 1;
        let (descent, counts) = (format!("{}.{}", process.descent, process.children), process.counts);
        // Only the container's first process is born with a host name of its own.
        let name_of = |pid: Pid| fs::read_link(format!("/proc/{pid}/ns/uts")).ok();
        let is_child = process.is_child || name_of(child) != name_of(parent);
        let role =
            if is_child { "child".to_owned() } else { format!("helper {}", &descent["runtime.".len()..]) };
        self.outcome.roles.entry(descent.clone()).or_insert(role);
        self.adopt(child, descent, counts, is_child);
        if self.early.remove(&child) {
            trace::resume(child, self.until(child), 0);
        }
    }

    fn exec(&mut self, pid: Pid) {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let is_runtime = pid == self.runtime
            && (exe == self.plan.binary
                || exe.to_string_lossy().contains("memfd:")
                || exe.starts_with("/proc"));
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.counts = false;
        if process.is_child && !is_runtime && self.outcome.seen.is_none() {
            self.outcome.seen = seen::of(pid);
        }
    }
}

/// The output's folder must be writable for the tool alone.
///
/// # Errors
/// When it cannot be made.
pub fn folder() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("faults-").tempdir().context("a temporary folder")
}
