//! `cargo xtask soak`: random command lines of all steps, four at once, a third of the runtimes killed.
//!
//! Each command line is valid, so it must end as its command does. Nothing may stay on the host, whatever was
//! killed when. Order: the host of the checks is entered before any thread starts. Kernel objects: those that
//! the runtimes make, in namespaces and cgroups of the checks' own (`checks::host`).

mod lines;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use checks::container::Container;
use checks::host::{self, Look};
use checks::kernel::{self, Process};
use checks::{Failure, Need, Subject};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, geteuid};

use crate::workspace::{self, Build, Step};
use lines::{Line, Offer, Places};

/// Run random valid command lines of all steps, four at once, and kill a third of the runtimes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For how many minutes.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,

    /// Draw the same command lines as the run that printed this number [default: the time].
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Run only the command line of this number.
    #[arg(long, value_name = "NUMBER", requires = "seed")]
    line: Option<u64>,
}

/// How many command lines run at once.
const WORKERS: u64 = 4;

/// How long one may take. Generous: four of them share the machine with whatever else runs.
const LIMIT: Duration = Duration::from_secs(120);

/// A step, with what is needed to draw and run its command lines.
struct Runtime {
    step: Step,
    binary: PathBuf,
    offer: Offer,
    /// A container that waits, for those that share something with it, and its PID.
    partner: Option<(Container, i32)>,
}

/// What came of it so far.
#[derive(Default)]
struct Count {
    runs: BTreeMap<String, usize>,
    killed: usize,
    failed: usize,
}

/// Runs the tool. The exit status is 1 when a run ended otherwise than its command, or left something behind.
///
/// # Errors
/// When the caller is not root, or the host of the checks cannot be entered.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(geteuid().is_root(), "soak runs steps that need root: run it with sudo");
    let steps = workspace::steps()?;
    let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    let folder = workspace::build(&names, Build::Debug)?;
    let last = steps.last().context("no step")?;
    let _cgroups = host::enter(last.number).context("entering a host of its own")?;
    // One state folder for all steps, as a user has it.
    let subject = Subject::new(&folder.join(&last.name), last.number)?;
    let places = places(&subject, &folder, &steps).map_err(failed)?;
    let look = Look::at(&subject);
    let runtimes = runtimes(&subject, &folder, steps)?;

    let seed = args.seed.unwrap_or_else(now);
    println!("seed {seed}: cargo xtask soak --seed {seed} draws these command lines again");
    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let (next, count) = (AtomicU64::new(args.line.unwrap_or(0)), Mutex::new(Count::default()));
    let workers = if args.line.is_some() { 1 } else { WORKERS };
    thread::scope(|scope| {
        for worker in 0..workers {
            let (runtimes, places, subject, next, count) = (&runtimes, &places, &subject, &next, &count);
            scope.spawn(move || {
                while Instant::now() < end {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let mut random = Random::of(seed, number);
                    let runtime = &runtimes[random.below(runtimes.len())];
                    let line = runtime.offer.draw(&mut random);
                    let words =
                        line.words(&places.of(worker, number, runtime.partner.as_ref().map(|it| it.1)));
                    if args.line.is_some() {
                        println!("{}", shown(&runtime.step.name, &words));
                    }
                    let outcome = attempt(subject, &runtime.binary, &line, &words);
                    places.remove_new(number);
                    tell(count, number, &runtime.step.name, &words, outcome);
                    if args.line.is_some() {
                        break;
                    }
                }
            });
        }
    });
    let mut count = count.into_inner().unwrap_or_else(PoisonError::into_inner);
    for failure in end_of(&subject, runtimes, &look) {
        count.failed += 1;
        println!("✗ {failure}");
    }
    let steps: Vec<_> = count.runs.iter().map(|(step, runs)| format!("{step} {runs}")).collect();
    let runs: usize = count.runs.values().sum();
    println!("{runs} runs ({}), {} killed, {} failures", steps.join(", "), count.killed, count.failed);
    Ok(if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn failed(failure: Failure) -> anyhow::Error {
    anyhow!("expected: {}; found: {}", failure.expected, failure.found)
}

/// The files that the options name.
fn places(subject: &Subject, folder: &Path, steps: &[Step]) -> Result<Places, Failure> {
    for (name, text) in [
        ("files/layer/etc/of-the-layer", "a layer\n"),
        ("files/folder/file", "a file\n"),
        ("variables", "# A comment\nONE=1\nTWO=two words\n"),
        ("profile.json", r#"{ "defaultAction": "SCMP_ACT_ALLOW" }"#),
    ] {
        let path = subject.file(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        std::fs::write(path, text)?;
    }
    let root = PathBuf::from(subject.root()?);
    // An image, made by the step that teaches it.
    if let Some(step) = steps.iter().find(|step| step.number == 3) {
        let to = format!("{}:soak", subject.file("image").display());
        let mut command = Command::new(folder.join(&step.name));
        command.args(["--commit", &to, "sh", "-c", "echo made > /made"]);
        command.envs(subject.environment()).stdin(Stdio::null());
        Container::start(&mut command)?.output_within(LIMIT)?.ok()?;
    }
    Ok(Places { files: subject.file(""), root })
}

/// The steps, each with what its `--help` offers, and with a container that waits.
fn runtimes(subject: &Subject, folder: &Path, steps: Vec<Step>) -> Result<Vec<Runtime>> {
    let lacking: Vec<_> = [
        ("--network", Need::Bridge),
        ("--memory-swap", Need::SwapAccounting),
        ("--cpuset-cpus", Need::Controller("cpuset")),
    ]
    .into_iter()
    .filter_map(|(option, need)| Some((option, need.met().err()?)))
    .collect();
    lacking.iter().for_each(|(option, why)| println!("less of {option}: {why}"));
    let lacking: Vec<_> = lacking.into_iter().map(|(option, _)| option).collect();
    let mut runtimes = Vec::new();
    for step in steps {
        let binary = folder.join(&step.name);
        let help = Command::new(&binary).arg("--help").output()?;
        let offer = Offer::of(&String::from_utf8_lossy(&help.stdout), &lacking)?;
        let partner = match offer.has("--pid") {
            true => Some(hold(subject, &binary).map_err(failed)?),
            false => None,
        };
        runtimes.push(Runtime { step, binary, offer, partner });
    }
    Ok(runtimes)
}

fn hold(subject: &Subject, binary: &Path) -> Result<(Container, i32), Failure> {
    let mut command = Command::new(binary);
    command.arg("cat").envs(subject.environment()).stdin(Stdio::piped());
    let mut container = Container::start(&mut command)?;
    container.say("ready")?;
    container.wait_for_within(LIMIT, "ready")?;
    let pid = container.first()?.0;
    Ok((container, pid))
}

/// Runs one command line. Returns whether the runtime was killed.
fn attempt(subject: &Subject, binary: &Path, line: &Line, words: &[String]) -> Result<bool, Failure> {
    let mut command = Command::new(binary);
    command.args(words).envs(subject.environment()).stdin(Stdio::null());
    let container = Container::start(&mut command)?;
    if let Some(delay) = line.killed_after {
        thread::sleep(delay);
        container.signal(Signal::SIGKILL)?;
    }
    let output = container.output_within(LIMIT)?;
    if output.killed && line.killed_after.is_some() && output.status == 128 + Signal::SIGKILL as i32 {
        return Ok(true);
    }
    output.status_is(line.status).map(|()| false)
}

fn tell(count: &Mutex<Count>, number: u64, step: &str, words: &[String], outcome: Result<bool, Failure>) {
    let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
    *count.runs.entry(step.to_owned()).or_default() += 1;
    match outcome {
        Ok(killed) => count.killed += usize::from(killed),
        Err(failure) => {
            count.failed += 1;
            println!("✗ {number}: {}", shown(step, words));
            println!("    expected: {}\n    found:    {}", failure.expected, failure.found);
        }
    }
}

/// A command line, as a shell takes it.
fn shown(program: &str, words: &[String]) -> String {
    let is_plain =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./:=,@+".contains(c));
    let quoted = |word: &String| if is_plain(word) { word.clone() } else { format!("'{word}'") };
    [vec![program.to_owned()], words.iter().map(quoted).collect()].concat().join(" ")
}

/// Ends what waits, lets each step sweep once, and compares the host with what it was. Returns what is wrong.
fn end_of(subject: &Subject, runtimes: Vec<Runtime>, look: &Look) -> Vec<String> {
    let mut wrong = Vec::new();
    let has_bridges = Need::Bridge.met().is_ok();
    let mut partners = Vec::new();
    let mut runtimes = runtimes;
    for runtime in &mut runtimes {
        partners.extend(runtime.partner.take().map(|(partner, _)| (runtime.step.name.clone(), partner)));
    }
    let kept: Vec<_> = partners.iter().map(|(_, partner)| partner.runtime()).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                reap(&kept);
                thread::sleep(Duration::from_millis(50));
            }
        });
        for (step, partner) in partners {
            if let Err(failure) = partner.output_within(LIMIT).and_then(|output| output.status_is(0)) {
                wrong.push(format!("{step}: the container that waited: {}", failure.found));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    for Runtime { step, binary, offer, .. } in runtimes {
        let mut sweeps = vec![vec!["true"]];
        if offer.has("--network") && has_bridges {
            sweeps.push(vec!["--network", "bridge", "true"]);
        }
        for words in sweeps {
            let mut command = Command::new(&binary);
            command.args(&words).envs(subject.environment()).stdin(Stdio::null());
            let swept = Container::start(&mut command).and_then(|run| run.output_within(LIMIT));
            if let Err(failure) = swept.and_then(|output| output.status_is(0)) {
                wrong.push(format!("{} {}, at the end: {}", step.name, words.join(" "), failure.found));
            }
        }
    }
    if let Err(failure) = look.compare(subject) {
        wrong.extend(failure.found.split(", ").map(|found| format!("at the end: {found}")));
    }
    wrong
}

/// Reaps what killed runtimes left to this subreaper, but not these children. PID 1 of a container ends only
/// when each process of its PID namespace is reaped, be it one that `--pid container:PID` brought there.
fn reap(kept: &[Process]) {
    for process in kernel::myself().descendants() {
        if process.is_zombie() && !kept.contains(&process) {
            let _ = waitpid(Pid::from_raw(process.0), Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// The numbers of one command line: `SplitMix64`, which gives good ones from any start.
struct Random(u64);

impl Random {
    fn of(seed: u64, number: u64) -> Random {
        let mut start = Random(seed);
        let start = start.next() ^ number;
        Random(start)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        // The remainder is below a usize.
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}
