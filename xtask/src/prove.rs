//! `cargo xtask prove`: shows that each check can fail, by taking out of the code what it checks, and that
//! each exercise's solution solves it.
//!
//! Works on copies of the workspace in the target folder, as many at a time as there are processors.
//! `checks/mutants.toml` says what is taken out; a check that still passes then proves nothing.
//! `exercises/STEP/NAME.patch` are the solutions. A check that cannot run on this machine runs in a virtual
//! machine (`cargo xtask vm`). Kernel objects: those of the checks.

mod mutants;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use checks::exercises::{self, Exercise};
use serde::Deserialize;

use crate::workspace::{self, Step, cargo};
use crate::{built, vm};
use mutants::Mutant;

/// Prove that each check can fail and each exercise can be solved.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the mutants of this check, or of all whose ids begin so, and the exercises likewise.
    #[arg(long, value_name = "ID", default_value = "")]
    only: String,

    /// Only the part K of N about equal parts, for several machines: `1/3`.
    #[arg(long, value_name = "K/N", value_parser = shard, default_value = "1/1")]
    shard: (usize, usize),

    /// How many mutants are built and tried at a time [default: the number of processors].
    #[arg(long, value_name = "COUNT")]
    jobs: Option<usize>,

    /// Find the texts that a change of the code has moved to another file, move their mutants in
    /// `checks/mutants.toml` along, and prove nothing.
    #[arg(long)]
    mend: bool,
}

/// A part of several: `1/3`.
///
/// # Errors
/// When it is of another form, or no such part.
pub(crate) fn shard(text: &str) -> Result<(usize, usize)> {
    let (part, parts) = text.split_once('/').context("not of the form K/N")?;
    let (part, parts) = (part.parse()?, parts.parse()?);
    ensure!((1..=parts).contains(&part), "not a part from 1 to {parts}");
    Ok((part, parts))
}

/// What is to be proven.
enum Job {
    /// That checks fail without what they check.
    Fails(Mutant, Step),
    /// That an exercise is solved by its solution, and not without.
    Solves(&'static Exercise, Step),
}

/// Runs the tool. The exit status is 1 when a check or an exercise is not proven.
///
/// # Errors
/// When a copy cannot be made.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.mend {
        mutants::mend()?.iter().for_each(|told| println!("{told}"));
        return Ok(ExitCode::SUCCESS);
    }
    let jobs = jobs(args)?;
    ensure!(!jobs.is_empty(), "no mutant and no exercise \"{}\"", args.only);
    let count = args.jobs.unwrap_or(thread::available_parallelism()?.get()).clamp(1, jobs.len());
    let report =
        Mutex::new(Report { start: Instant::now(), all: jobs.len(), done: 0, proven: 0, unproven: 0 });
    let jobs = Mutex::new(VecDeque::from(jobs));
    let copies = (0..count).map(Copy::make).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        for copy in &copies {
            scope.spawn(|| {
                while let Some(job) = next(&jobs) {
                    let results = copy.prove(&job);
                    locked(&report).tell(results);
                }
            });
        }
    });
    let report = locked(&report);
    println!("\n{} proven, {} not; {:.0?}", report.proven, report.unproven, report.start.elapsed());
    Ok(if report.unproven == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A lock that lasts no longer than this call: another worker takes the next job meanwhile.
pub(crate) fn next<T>(jobs: &Mutex<VecDeque<T>>) -> Option<T> {
    locked(jobs).pop_front()
}

/// The lock's value, also after another worker has panicked.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Step by step, and in each step what changes `common` last: it is slow to build, and is built again
/// afterwards.
fn jobs(args: &Args) -> Result<Vec<Job>> {
    let mut jobs = BTreeMap::<_, Vec<Job>>::new();
    for mut mutant in mutants::all()? {
        mutant.checks.retain(|check| check.starts_with(&args.only));
        if !mutant.checks.is_empty() {
            let step = mutant.step()?;
            let is_common = mutant.edits.iter().any(|edit| edit.file.starts_with("common"));
            jobs.entry((step.number, is_common)).or_default().push(Job::Fails(mutant, step));
        }
    }
    for exercise in exercises::all().filter(|exercise| exercise.id.starts_with(&args.only)) {
        let step = workspace::step(&exercise.step.to_string())?;
        jobs.entry((step.number, false)).or_default().push(Job::Solves(exercise, step));
    }
    let jobs: Vec<_> = jobs.into_values().flatten().collect();
    let (part, parts) = args.shard;
    let range = jobs.len() * (part - 1) / parts..jobs.len() * part / parts;
    Ok(jobs.into_iter().skip(range.start).take(range.len()).collect())
}

/// What came of it so far.
struct Report {
    start: Instant,
    all: usize,
    done: usize,
    proven: usize,
    unproven: usize,
}

impl Report {
    /// Tells what came of one job: for each check or exercise what was found, or why it is not proven.
    fn tell(&mut self, results: Vec<(String, Result<String>)>) {
        self.done += 1;
        for (id, result) in results {
            let seconds = self.start.elapsed().as_secs();
            let at = format!("{:2}:{:02} {:3}/{}", seconds / 60, seconds % 60, self.done, self.all);
            match result {
                Ok(how) => {
                    self.proven += 1;
                    println!("{at}  ✓ {id:32} {how}");
                }
                Err(error) => {
                    self.unproven += 1;
                    println!("{at}  ✗ {id:32} {error:#}");
                }
            }
        }
        // So that a pipe shows the progress, too.
        let _ = std::io::stdout().flush();
    }
}

/// The patch that solves an exercise, from the workspace's folder.
fn solution(exercise: &Exercise) -> Result<PathBuf> {
    let step = workspace::step(&exercise.step.to_string())?;
    let name = exercise.id.split_once('.').map_or(exercise.id, |(_, name)| name);
    Ok(PathBuf::from(format!("exercises/{}/{name}.patch", step.name)))
}

/// A copy of the workspace, where it is built, and this program: a build of the workspace meanwhile would
/// replace it.
struct Copy {
    root: PathBuf,
    target: PathBuf,
    xtask: PathBuf,
}

impl Copy {
    fn make(number: usize) -> Result<Copy> {
        let this = std::env::current_exe()?;
        let target = this.ancestors().nth(2).context("xtask lies in the target folder")?.join("prove");
        let target = target.join(number.to_string());
        let copy = Copy {
            root: target.join("workspace"),
            target: target.join("target"),
            xtask: target.join("xtask"),
        };
        if copy.root.exists() {
            fs::remove_dir_all(&copy.root)?;
        }
        fs::create_dir_all(&copy.root)?;
        fs::copy(&this, &copy.xtask).context("copying this program")?;
        built::share(&copy.target)?;
        for entry in workspace::root().read_dir()? {
            let entry = entry?;
            if entry.file_name() != "target" && entry.file_name() != ".git" {
                // Without --archive: what was built of an earlier copy must look out of date.
                let from = entry.path();
                let mut cp = Command::new("cp");
                cp.args(["--recursive", "--no-dereference"]).arg(&from).arg(&copy.root);
                ensure!(cp.status()?.success(), "copying {}", from.display());
            }
        }
        Ok(copy)
    }

    /// What came of it, for each check or for the exercise.
    fn prove(&self, job: &Job) -> Vec<(String, Result<String>)> {
        match job {
            Job::Solves(exercise, step) => vec![(exercise.id.to_owned(), self.solves(exercise, step))],
            Job::Fails(mutant, step) => {
                let tried = mutant.apply(&self.root).and_then(|_originals| {
                    self.build(step)?;
                    self.check(step, "--only", &mutant.checks)
                });
                match tried {
                    Ok(found) => mutant.checks.iter().map(|id| (id.clone(), found.failed(id))).collect(),
                    Err(error) => vec![(mutant.checks.join(", "), Err(error))],
                }
            }
        }
    }

    fn build(&self, step: &Step) -> Result<()> {
        let output = cargo()
            .args(["build", "--quiet", "--package", &step.name])
            .env("CARGO_TARGET_DIR", &self.target)
            // Nobody debugs a mutant, and without this it is linked in half the time.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // A mutant changes one function of a crate: then rustc compiles only what depends on it.
            .env("CARGO_INCREMENTAL", "1")
            .current_dir(&self.root)
            .output()?;
        let messages = String::from_utf8_lossy(&output.stderr);
        let error = messages.lines().find(|line| line.starts_with("error")).unwrap_or("cargo failed");
        ensure!(output.status.success(), "it does not build: {error}");
        Ok(())
    }

    /// Runs `cargo xtask check` on the copy's binary, in a process of its own. Those that cannot run on this
    /// machine run in a virtual one.
    fn check(&self, step: &Step, option: &str, ids: &[impl AsRef<str>]) -> Result<Found> {
        let program = self.target.join("debug").join(&step.name);
        let words = |program: &Path, ids: &[&str]| -> Vec<String> {
            let program = program.display().to_string();
            let words = ["check", &step.name, "--json", "--bin", &program].into_iter();
            words.chain(ids.iter().flat_map(|id| [option, id])).map(str::to_owned).collect()
        };
        let ids: Vec<_> = ids.iter().map(AsRef::as_ref).collect();
        let output = Command::new(&self.xtask).args(words(&program, &ids)).output()?;
        let mut found = Found::read(&output.stdout, &output.stderr)?;
        let skipped: Vec<_> = ids.into_iter().filter(|id| found.ids("skipped").contains(id)).collect();
        if !skipped.is_empty() {
            let command = [vec!["xtask".into()], words(&vm::place_of(&program), &skipped)].concat();
            let (stdout, stderr) = vm::output(vec![self.xtask.clone(), program], &command)
                .with_context(|| format!("{} in a virtual machine", skipped.join(", ")))?;
            found.replace(Found::read(&stdout, &stderr)?);
        }
        Ok(found)
    }

    fn solves(&self, exercise: &Exercise, step: &Step) -> Result<String> {
        let patch = solution(exercise)?;
        self.build(step)?;
        let before = self.check(step, "--exercise", &[exercise.id])?.failed(exercise.id)?;
        apply(&self.root, &patch, &[])?;
        let after = self.build(step).and_then(|()| self.check(step, "--exercise", &[exercise.id]));
        apply(&self.root, &patch, &["--reverse"])?;
        after?.passed(exercise.id)?;
        Ok(format!("fails unsolved ({before}), passes solved"))
    }
}

/// Applies a patch to a copy of the workspace, or with `--check` only tries to.
fn apply(root: &Path, patch: &Path, options: &[&str]) -> Result<()> {
    let mut git = Command::new("git");
    // So that git does not take the workspace around the copy for the place to work in.
    git.env("GIT_CEILING_DIRECTORIES", root.parent().unwrap_or(root));
    let output = git.arg("apply").args(options).arg(patch).current_dir(root).output()?;
    ensure!(
        output.status.success(),
        "git apply {}: {}",
        patch.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// What `cargo xtask check --json` says.
#[derive(Debug, Deserialize)]
pub(crate) struct Found {
    checks: Vec<FoundOne>,
}

#[derive(Debug, Deserialize)]
struct FoundOne {
    id: String,
    result: serde_json::Value,
    /// Whether it ran in a virtual machine.
    #[serde(skip)]
    in_guest: bool,
}

enum Outcome<'a> {
    Passed,
    /// With what was found.
    Failed(&'a str),
}

impl Found {
    fn read(stdout: &[u8], stderr: &[u8]) -> Result<Found> {
        serde_json::from_slice(stdout)
            .with_context(|| format!("the check: {}", String::from_utf8_lossy(stderr)))
    }

    /// Puts what was found in a virtual machine in the place of what was found here.
    fn replace(&mut self, guest: Found) {
        self.checks.retain(|one| guest.checks.iter().all(|other| other.id != one.id));
        self.checks.extend(guest.checks.into_iter().map(|one| FoundOne { in_guest: true, ..one }));
    }

    /// The checks of this outcome: `passed`, `failed` or `skipped`.
    pub(crate) fn ids(&self, outcome: &str) -> BTreeSet<&str> {
        let of = self.checks.iter().filter(|one| one.result["outcome"] == outcome);
        of.map(|one| one.id.as_str()).collect()
    }

    /// What a check that failed has expected, and what it has found.
    pub(crate) fn difference(&self, id: &str) -> Result<[&str; 2]> {
        let result = &self.one(id)?.result;
        Ok(["expected", "found"].map(|field| result[field].as_str().unwrap_or("nothing")))
    }

    /// What was found instead of what was expected; an error unless the check failed.
    fn failed(&self, id: &str) -> Result<String> {
        match self.outcome(id)? {
            Outcome::Failed(found) => {
                let place = if self.one(id)?.in_guest { "in a virtual machine: " } else { "" };
                Ok(place.chars().chain(found.chars().take(100)).collect())
            }
            Outcome::Passed => bail!("the check passes without what it checks"),
        }
    }

    /// An error unless the check passed.
    fn passed(&self, id: &str) -> Result<()> {
        match self.outcome(id)? {
            Outcome::Passed => Ok(()),
            Outcome::Failed(found) => bail!("solved, the check fails: {found}"),
        }
    }

    fn outcome(&self, id: &str) -> Result<Outcome<'_>> {
        let one = self.one(id)?;
        let text = |field: &str| one.result[field].as_str().unwrap_or("nothing");
        match text("outcome") {
            "failed" => Ok(Outcome::Failed(text("found"))),
            "passed" => Ok(Outcome::Passed),
            _ => bail!("the check cannot run, not in a virtual machine either: {}", text("reason")),
        }
    }

    fn one(&self, id: &str) -> Result<&FoundOne> {
        self.checks.iter().find(|one| one.id == id).context("the check did not run")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exercise_has_a_solution_that_fits_the_code() {
        for exercise in exercises::all() {
            let patch = workspace::root().join(solution(exercise).unwrap());
            apply(workspace::root(), &patch, &["--check"]).unwrap();
        }
    }

    #[test]
    fn all_parts_together_are_the_whole() {
        let all = |shard| jobs(&Args { only: String::new(), shard, jobs: None, mend: false }).unwrap().len();
        assert_eq!(all((1, 3)) + all((2, 3)) + all((3, 3)), all((1, 1)));
        assert!(shard("4/3").is_err() && shard("0/3").is_err() && shard("3").is_err());
    }
}
