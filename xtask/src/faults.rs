//! `cargo xtask faults`: makes each system call of a runtime fail once, and looks whether it survives.
//!
//! A first run records every call of the runtime, its child and its helpers. Then comes a run for each place
//! and each error that the call can give there: the kernel does not execute that one call, and the process
//! gets the error. With `--kill`, SIGKILL ends the runtime, or the process itself, at that place instead.
//! With `--resources`, whole runs lack something: see `resources.rs`.
//!
//! A run survives when it ends in time and leaves the host clean. It has failed with an error that names the
//! errno. Or it has succeeded, and its command began with the very same ids, rights, limits, mounts,
//! namespaces, descriptors and cgroup as without the fault.
//!
//! Kernel objects: those of the runtime, on a host of the checks' own. Man pages: ptrace(2), proc(5).

mod lines;
mod list;
mod place;
mod resources;
mod run;
mod seen;
mod trace;
mod workers;

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use checks::kernel::eventually;
use checks::{Subject, host};
use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::prove::shard;
use crate::workspace::{self, Build, Step};
use lines::{Line, Scene};
use list::List;
use place::Place;
use run::{Fault, LIMIT, Outcome, Plan, Point};
use workers::{Message, say};

/// Make each system call of a runtime fail once, and look whether it survives.
///
/// The runtime must end in time, leave the host clean, and either say what failed or give its command the
/// same protection as ever.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The step whose runtime is tried: `0`, `step0` or `step0-basic` [default: all].
    step: Option<String>,

    /// Only calls of this name, or places that have this text: `mount`, `/dev/null`; may be given more than
    /// once. With `--resources`, cases that have this text: `disk`.
    #[arg(long, value_name = "CALL")]
    only: Vec<String>,

    /// Only this command line: `plain`, `all`; may be given more than once.
    #[arg(long, value_name = "NAME")]
    line: Vec<String>,

    /// Kill the runtime, or the process itself, at each place, in the place of failing the call.
    #[arg(long)]
    kill: bool,

    /// Let whole runs lack something, such as disk, processes or descriptors.
    #[arg(long, conflicts_with = "kill")]
    resources: bool,

    /// Only the faults that `xtask/faults.toml` may excuse: whether each of its entries still fits.
    #[arg(long, conflicts_with_all = ["kill", "resources"])]
    listed: bool,

    /// Only the part K of N about equal parts: `1/3`.
    #[arg(long, value_name = "K/N", value_parser = shard, default_value = "1/1")]
    shard: (usize, usize),

    /// The binary to try [default: the step's own, which is built first].
    #[arg(long, value_name = "PATH", requires = "step")]
    bin: Option<PathBuf>,

    /// Print the places, and inject nothing.
    #[arg(long)]
    list: bool,

    /// How many runs go on at a time, each on a host of its own [default: the number of processors].
    #[arg(long, value_name = "COUNT")]
    jobs: Option<usize>,

    /// Be the worker K of N of another such process.
    #[arg(long, value_name = "K/N", value_parser = shard, hide = true, requires = "bin")]
    worker: Option<(usize, usize)>,
}

/// Runs the tool. The exit status is 1 when a run did not survive, or an entry of the list of what cannot
/// matter no longer fits.
///
/// # Errors
/// When there is no such step or binary, the step cannot be built, or the tool is not started by root.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(geteuid().is_root(), "only root can trace programs such as newuidmap: sudo cargo xtask faults");
    // All runs have a filter. Only its number tells that a command's own is there.
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    ensure!(status.contains("Seccomp_filters:"), "faults needs Linux 5.9 or later");
    if let Some(worker) = args.worker {
        return work(args, worker);
    }
    let steps = match &args.step {
        Some(step) => vec![workspace::step(step)?],
        None => workspace::steps()?,
    };
    let mut binaries = vec![];
    for step in &steps {
        binaries.push(match &args.bin {
            Some(binary) => binary.canonicalize().with_context(|| binary.display().to_string())?,
            None => workspace::build(&[&step.name], Build::Debug)?.join(&step.name),
        });
    }
    let jobs = if args.list { 1 } else { args.jobs.unwrap_or(available_parallelism()?.get()).max(1) };
    let mut sum = Count::default();
    let mut needed = BTreeSet::new();
    for (step, binary) in steps.iter().zip(binaries) {
        let (count, more) = workers::run(args, &step.name, &binary, jobs)?;
        sum += count;
        needed.extend(more);
    }
    if args.list {
        return Ok(ExitCode::SUCCESS);
    }
    let everything = args.step.is_none() && args.only.is_empty() && args.line.is_empty() && args.shard.1 == 1;
    let outdated = match everything && !args.kill && !args.resources {
        true => List::read()?.outdated(&needed),
        false => vec![],
    };
    for entry in &outdated {
        println!("xtask/faults.toml: no longer fits: {entry}");
    }
    println!("\n{sum}");
    let good = sum.died == 0 && outdated.is_empty() && sum.injected > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One of several processes: tries its part of a step on a host of its own.
fn work(args: &Args, worker: (usize, usize)) -> Result<ExitCode> {
    workers::begin()?;
    let (Some(step), Some(binary)) = (&args.step, &args.bin) else {
        bail!("a worker has a step and a binary")
    };
    let step = workspace::step(step)?;
    let _host = host::enter(step.number).context("a host of the checks' own")?;
    own_ranges_of_ids()?;
    let mut list = List::read()?;
    let subject = Subject::new(binary, step.number).with_context(|| binary.display().to_string())?;
    let scene = Scene::set(&subject)?;
    let folder = run::folder()?;
    let mut sum = Count::default();
    let mut groups = 0;
    for line in scene.lines() {
        if args.line.is_empty() || args.line.iter().any(|name| name == line.name) {
            let folder = folder.path();
            let trial = Trial { args, worker, step: &step, subject: &subject, scene: &scene, line, folder };
            let count = match args.resources {
                true => trial.run_with_conditions(&mut list, &mut groups),
                false => trial.run(&mut list),
            };
            sum += count.with_context(|| step.name.clone())?;
        }
    }
    workers::tell(&Message::Sum { count: sum, needed: list.needed() });
    Ok(ExitCode::SUCCESS)
}

/// There is one list of the containers' host ids for the whole host, whatever the state folder is. So each
/// worker gets a list of its own. Otherwise a run would make other calls while other workers have containers.
pub(crate) fn own_ranges_of_ids() -> Result<()> {
    const RUN: &str = "/run/congo";
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(RUN).context(RUN)?;
    let options = Some("mode=700");
    mount(Some("tmpfs"), RUN, Some("tmpfs"), MsFlags::empty(), options).context("mount /run/congo")
}

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
struct Count {
    injected: usize,
    survived: usize,
    excused: usize,
    died: usize,
    unreached: usize,
    lacking: usize,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.injected += other.injected;
        self.survived += other.survived;
        self.excused += other.excused;
        self.died += other.died;
        self.unreached += other.unreached;
        self.lacking += other.lacking;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Count { injected, survived, excused, died, unreached, lacking } = self;
        write!(f, "{injected} injected, {survived} survived, {excused} on the list, {died} not survived")?;
        if *unreached > 0 {
            write!(f, "; {unreached} places not reached again")?;
        }
        if *lacking > 0 { write!(f, "; {lacking} cannot run here") } else { Ok(()) }
    }
}

/// One command line of one step.
struct Trial<'a> {
    args: &'a Args,
    /// Which worker of how many this is.
    worker: (usize, usize),
    step: &'a Step,
    subject: &'a Subject,
    scene: &'a Scene<'a>,
    line: Line,
    folder: &'a std::path::Path,
}

/// How often the same call on the same object is tried in one process: a loop that reads a file is one place.
const TURNS: usize = 3;

/// How many runs may miss a place until it counts as not reached.
const TRIES: usize = 10;

/// How long a run without a fault may take at most, on a machine that is busy.
const GENEROUS: Duration = Duration::from_secs(110);

/// How long the host may take to be clean after a run.
const SOON: Duration = Duration::from_millis(500);

impl Trial<'_> {
    /// A run that may take this much longer than [`LIMIT`].
    fn start(&self, fault: Option<(&Place, &Fault)>, record: bool, usual: Duration) -> Result<Outcome> {
        self.scene.reset();
        let start = self.scene.start(&self.line)?;
        run::run(&Plan {
            start: &start,
            binary: self.subject.binary(),
            folder: self.folder,
            fault,
            record,
            limit: usual + LIMIT,
            stdout: None,
            later: None,
        })
    }

    /// Some calls depend on which process is faster, so a run may pass by the place.
    fn start_until_reached(&self, fault: (&Place, &Fault), usual: Duration) -> Result<Outcome> {
        let mut tries = 1;
        loop {
            let outcome = self.start(Some(fault), false, usual)?;
            if outcome.injected || tries == TRIES {
                return Ok(outcome);
            }
            tries += 1;
        }
    }

    fn run(&self, list: &mut List) -> Result<Count> {
        let began = Instant::now();
        let name = format!("{} {}", self.step.name, self.line.name);
        let before = host::Look::at(self.subject);
        // The first runs make what later ones find.
        self.start(None, false, GENEROUS)?;
        let reference = self.start(None, false, GENEROUS)?;
        let recorded = self.start(None, true, GENEROUS)?;
        if let Some(hangs) = reference.hangs.as_ref().or(recorded.hangs.as_ref()) {
            bail!("{}: without a fault it does not end in time: {hangs}", self.line.name);
        }
        self.same(&reference, &recorded)
            .map_err(|why| anyhow::anyhow!("{}: two runs without a fault differ: {why}", self.line.name))?;
        let again = self.start(None, true, GENEROUS)?;
        let steady: BTreeSet<_> = again.points.iter().map(|point| &point.place).collect();
        let points: Vec<_> = recorded.points.iter().filter(|point| steady.contains(&point.place)).collect();
        let look = self.look_when_calm(&before);
        let files = self.scene.files_of_user();
        let mut count = Count::default();
        let mut faults = self.faults(&points);
        if self.args.listed {
            faults.retain(|(point, fault)| {
                let role = role(&recorded, &point.place);
                list.names(self.step.number, self.line.name, role, &point.place, fault)
            });
        }
        if self.args.list {
            for (point, _) in &faults {
                say(format!("{name}: {}", shown(&point.place, &recorded)));
            }
            return Ok(count);
        }
        for (point, fault) in &faults {
            let outcome = self.start_until_reached((&point.place, fault), recorded.took)?;
            if !outcome.injected {
                count.unreached += 1;
                say(format!("{name}: {}: not reached again", shown(&point.place, &recorded)));
                continue;
            }
            count.injected += 1;
            let judged = self.judge(fault, &reference, &outcome).and_then(|()| {
                self.host_is_clean(fault, &reference, &outcome, || self.changes(&look, &files))
            });
            let role = role(&recorded, &point.place);
            match judged {
                Ok(()) => count.survived += 1,
                Err(why)
                    if list.excuses(self.step.number, self.line.name, role, &point.place, fault, &why) =>
                {
                    count.excused += 1;
                }
                Err(why) => {
                    count.died += 1;
                    say(format!("{name}: {}: {}: {why}", shown(&point.place, &recorded), named(fault)));
                    // So that one failure is not the cause of the next.
                    let _ = look.compare(self.subject);
                }
            }
        }
        let took = began.elapsed();
        workers::tell(&Message::Line { name, places: points.len(), count, took });
        Ok(count)
    }

    /// Waits until the links and processes of the runs since `before` have gone, and looks at the host. A
    /// link that goes only after the look would count as lost in each later run.
    fn look_when_calm(&self, before: &host::Look) -> host::Look {
        let is_calm = || {
            let changes = before.changes(self.subject, Duration::ZERO);
            let goes = |change: &String| {
                change.starts_with("a new network link") || change.starts_with("a new process")
            };
            !changes.iter().any(goes)
        };
        eventually(LIMIT, is_calm);
        host::Look::at(self.subject)
    }

    /// The changes on the host, and the ordinary user's new files.
    fn changes(&self, look: &host::Look, files: &BTreeSet<PathBuf>) -> Vec<String> {
        let mut changes = look.changes(self.subject, SOON);
        // The kernel removes the links of a network namespace some time after its last process is gone.
        if !changes.is_empty() && changes.iter().all(|change| change.starts_with("a new network link")) {
            changes = look.changes(self.subject, LIMIT);
        }
        let now = self.scene.files_of_user();
        changes.extend(now.difference(files).map(|file| format!("a new file: {}", file.display())));
        changes
    }

    /// What is to go wrong, one after the other.
    fn faults<'p>(&self, points: &[&'p Point]) -> Vec<(&'p Point, Fault)> {
        let mut last = HashMap::new();
        for point in points {
            last.insert((&point.place.process, &point.place.what), point.place.turn);
        }
        let mut faults = vec![];
        for &point in points {
            let Place { process, what, turn } = &point.place;
            if *turn >= TURNS && last[&(process, what)] != *turn {
                continue;
            }
            let call = what.split('(').next().unwrap_or_default();
            let wanted = |only: &String| call == only || what.contains(only.as_str()) && only.contains('/');
            if !self.args.only.is_empty() && !self.args.only.iter().any(wanted) {
                continue;
            }
            if !self.args.kill {
                faults.extend(point.errnos.iter().map(|errno| (point, Fault::Errno(*errno))));
            } else if point.acts {
                faults.push((point, Fault::KillRuntime));
                if process != "runtime" {
                    faults.push((point, Fault::KillItself));
                }
            }
        }
        faults.retain(|(point, fault)| {
            is_of(&format!("{} {}", point.place, named(fault)), self.args.shard, self.worker)
        });
        faults
    }

    /// Whether a run has ended as the one without a fault.
    fn same(&self, reference: &Outcome, outcome: &Outcome) -> Result<(), String> {
        if outcome.status != reference.status {
            return Err(format!("status {:?}, not {:?}", outcome.status, reference.status));
        }
        // On a terminal there are also the runtime's own words.
        let is_shown = self.line.terminal && outcome.stdout.contains(&reference.stdout);
        if outcome.stdout != reference.stdout && !is_shown {
            return Err(format!("the output {:?}, not {:?}", outcome.stdout, reference.stdout));
        }
        let (ours, theirs) = match (&outcome.seen, &reference.seen) {
            (Some(ours), Some(theirs)) => (ours, theirs),
            (None, None) => return Ok(()),
            (None, Some(_)) => return Err("the command was not executed".into()),
            (Some(_), None) => return Err("a command was executed".into()),
        };
        seen::same(ours, theirs)
    }

    fn judge(&self, fault: &Fault, reference: &Outcome, outcome: &Outcome) -> Result<(), String> {
        let told = outcome.stderr.trim();
        if let Some(hangs) = &outcome.hangs {
            return Err(format!("does not end: {hangs}; told: {told:?}"));
        }
        if told.contains("panicked at") || told.contains("memory allocation of") {
            return Err(format!("panics: {told}"));
        }
        if *fault == Fault::KillRuntime {
            return match outcome.status {
                // A kill may come too late: the call that ends the process.
                Some(137) => Ok(()),
                status if status == reference.status => Ok(()),
                status => Err(format!("killed, it has the status {status:?}")),
            };
        }
        let difference = match self.same(reference, outcome) {
            Ok(()) => return Ok(()),
            Err(difference) => difference,
        };
        match outcome.status {
            // SIGKILL is somebody's wish: the status tells of it, as of a command's that was killed.
            // It may have been the container's first process, or one without which a container cannot go on.
            Some(137) if *fault == Fault::KillItself => match (&outcome.seen, &reference.seen) {
                (Some(ours), Some(theirs)) => seen::same(ours, theirs),
                _ => Ok(()),
            },
            _ if *fault == Fault::Condition(&[]) => Err(format!("{difference}; told: {told:?}")),
            Some(125..=127) if outcome.status != reference.status || reference.seen.is_none() => {
                let begin = format!("{}: ", self.step.name);
                let names_errno = match fault {
                    Fault::Errno(errno) => told.contains(&format!("{errno:?}")),
                    Fault::KillRuntime | Fault::KillItself => true,
                    // Programs such as nft tell it in the C library's words.
                    Fault::Condition(errnos) => errnos
                        .iter()
                        .any(|errno| told.contains(&format!("{errno:?}")) || told.contains(errno.desc())),
                };
                let is_told =
                    told.lines().any(|line| line.starts_with(&begin) || line.starts_with("congo: "));
                if is_told && names_errno {
                    return Ok(());
                }
                Err(format!("its error does not name the operation: {told:?}"))
            }
            _ => Err(format!("{difference}; told: {told:?}")),
        }
    }

    /// At once, or, after a kill and where the runtime has said that something is left, after the next run.
    fn host_is_clean(
        &self,
        fault: &Fault,
        reference: &Outcome,
        outcome: &Outcome,
        changes: impl Fn() -> Vec<String>,
    ) -> Result<(), String> {
        let killed = matches!(fault, Fault::KillRuntime | Fault::KillItself);
        let found = if killed { vec![] } else { changes() };
        if found.is_empty() && matches!(fault, Fault::Errno(_)) {
            return Ok(());
        }
        let next = self.start(None, false, reference.took).map_err(|error| format!("{error:#}"))?;
        self.same(reference, &next)
            .map_err(|why| format!("the next run is not as ever: {why}; told: {:?}", next.stderr.trim()))?;
        let still = changes();
        if !still.is_empty() {
            return Err(format!("even after the next run: {}", still.join(", ")));
        }
        if !found.is_empty() && outcome.stderr.trim() == reference.stderr.trim() {
            return Err(format!("until the next run, without a word: {}", found.join(", ")));
        }
        Ok(())
    }
}

/// Whether this part of several, and this worker, tries a fault. That depends on the fault's name alone: a
/// call that only some runs make must not move all other faults to other parts.
fn is_of(fault: &str, (part, parts): (usize, usize), (worker, workers): (usize, usize)) -> bool {
    // FNV-1a, which is the same in each process. The lowest bits tell similar names apart least.
    let mix = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = (fault.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, mix) >> 24) as usize;
    hash % parts == part - 1 && hash / parts % workers == worker - 1
}

fn named(fault: &Fault) -> String {
    match fault {
        Fault::Errno(errno) => format!("{errno:?}"),
        Fault::KillRuntime => "the runtime killed".into(),
        Fault::KillItself => "killed".into(),
        Fault::Condition(_) => "condition".into(),
    }
}

/// The role of the process that makes a call.
fn role<'a>(recorded: &'a Outcome, place: &Place) -> &'a str {
    recorded.roles.get(&place.process).map_or("runtime", String::as_str)
}

/// A place, with its role in the place of its descent.
fn shown(place: &Place, recorded: &Outcome) -> String {
    let text = place.to_string();
    format!("{}{}", role(recorded, place), text.strip_prefix(&place.process).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_one_part_and_one_worker() {
        let faults: Vec<_> = (0..400).map(|number| format!("runtime mount({number}) EPERM")).collect();
        for fault in &faults {
            let whole = (1..=5).flat_map(|part| (1..=3).map(move |worker| ((part, 5), (worker, 3))));
            let owners = whole.filter(|(shard, worker)| is_of(fault, *shard, *worker)).count();
            assert_eq!(owners, 1, "{fault}");
        }
        for part in 1..=5 {
            let count = faults.iter().filter(|fault| is_of(fault, (part, 5), (1, 1))).count();
            assert!((50..110).contains(&count), "part {part} has {count} of 400");
        }
    }
}
