//! `cargo xtask stages`: the stages of each step, for those who write them.
//!
//! A chain of stages is easiest to change as commits. `edit` lays one out in a scratch repository, where
//! plain git works on it (`git rebase -i`, `git commit --fixup`). `save` writes the patches back. `absorb`
//! carries a change of a step's source into the stages that have the changed lines. `prove` builds each stage
//! and tries its checks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use congo::learner;
use congo::stages::{self, Stage, Table};
use congo::task::Task;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use similar::{DiffOp, TextDiff};

use crate::built;
use crate::faults::own_ranges_of_ids;
use crate::prove::{Found, locked, next, shard};
use crate::readme::{self, Sandbox};
use crate::workspace::{self, Step, cargo};

/// How many lines a stage may add, and how many minutes it may take.
const MAX_LINES: usize = 150;
const MAX_MINUTES: u32 = 45;

/// Show, change and prove the stages of the steps.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print each stage with its lines and minutes, and fail where one is too long or the patches do not give
    /// the step's source.
    List { step: Option<String> },
    /// Lay the stages of a step out as commits in a scratch repository, and print where.
    Edit { step: String },
    /// Write the commits of that repository back as the step's patches.
    Save { step: String },
    /// Carry changes of a step's source, or of the step before, into its stages.
    Absorb {
        step: String,
        /// The commit of the course whose source the stages still fit.
        #[arg(long, value_name = "COMMIT", default_value = "HEAD")]
        base: String,
    },
    /// Build each stage, and try that it passes the checks up to it and fails one of the next.
    Prove {
        step: Option<String>,
        /// Only build them.
        #[arg(long, conflicts_with = "write")]
        build: bool,
        /// Write into `checks/stages.toml` from which stage on each check was seen to hold.
        #[arg(long, conflicts_with = "shard")]
        write: bool,
        /// Only the part K of N about equal parts of all stages, for several machines or commits: `1/3`.
        #[arg(long, value_name = "K/N", value_parser = shard, default_value = "1/1")]
        shard: (usize, usize),
        /// How many stages are tried at a time [default: the number of processors].
        #[arg(long, value_name = "COUNT")]
        jobs: Option<usize>,
    },
}

/// Runs the tool.
///
/// # Errors
/// When a folder or a patch is not as expected, or git or cargo fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Action::List { step } => list(step.as_deref()),
        Action::Edit { step } => edit(&workspace::step(step)?),
        Action::Save { step } => save(&workspace::step(step)?),
        Action::Absorb { step, base } => absorb(&workspace::step(step)?, base),
        Action::Prove { step, build: true, .. } => build_all(step.as_deref()),
        Action::Prove { step, write, shard, jobs, .. } => prove(step.as_deref(), *write, *shard, *jobs),
    }
}

/// The steps that are cut into stages: the named one, or all of them.
fn chosen(named: Option<&str>) -> Result<Vec<Step>> {
    let steps = match named {
        Some(named) => vec![workspace::step(named)?],
        None => workspace::steps()?,
    };
    let mut cut = Vec::new();
    for step in steps {
        if !stages::of(&step)?.is_empty() {
            cut.push(step);
        }
    }
    ensure!(!cut.is_empty(), "no stages there");
    Ok(cut)
}

fn list(named: Option<&str>) -> Result<ExitCode> {
    let mut problems = Vec::new();
    println!("| stage | lines | options | minutes | task |\n| --- | --- | --- | --- | --- |");
    for step in chosen(named)? {
        for stage in stages::of(&step)? {
            let (lines, options) = lines_added(&stage)?;
            let task = Task::of(&stage)?;
            let minutes = task.minutes().with_context(|| format!("{}: no minutes", stage.id()))?;
            println!("| {} | {lines} | {options} | {minutes} | {} |", stage.id(), task.title());
            if lines > MAX_LINES || minutes > MAX_MINUTES {
                problems.push(format!(
                    "{}: at most {MAX_LINES} lines and {MAX_MINUTES} minutes are one sitting",
                    stage.id()
                ));
            }
            if task.lines() != Some(lines) {
                problems.push(format!("{}: its task counts other lines than these {lines}", stage.id()));
            }
            if !task.title().starts_with(&format!("{} ", stage.id())) {
                problems.push(format!("{}: its title is \"{}\"", stage.id(), task.title()));
            }
            if congo::task::hints(&stage)?.len() != 3 {
                problems.push(format!("{}: three hints are expected", stage.id()));
            }
        }
        problems.extend(differences(&step)?);
    }
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many lines a stage adds, without those of `cli.rs`, and there.
fn lines_added(stage: &Stage) -> Result<(usize, usize)> {
    let (mut lines, mut options, mut in_options) = (0, 0, false);
    for line in fs::read_to_string(stage.folder().join("change.patch"))?.lines() {
        match line.strip_prefix("+++ ") {
            Some(file) => in_options = file == "b/src/cli.rs",
            None if line.starts_with('+') => *(if in_options { &mut options } else { &mut lines }) += 1,
            None => {}
        }
    }
    Ok((lines, options))
}

/// In which files the end of the chain is not the step's source.
///
/// # Errors
/// When a patch does not fit.
pub fn differences(step: &Step) -> Result<Vec<String>> {
    let Some(last) = stages::of(step)?.pop() else { return Ok(Vec::new()) };
    let folder = tempfile::tempdir()?;
    stages::write_after(&last, folder.path())?;
    let (chain, source) = (tree(folder.path())?, tree(&workspace::root().join(&step.name))?);
    let files: BTreeSet<_> = chain.keys().chain(source.keys()).collect();
    let differ = files.into_iter().filter(|file| chain.get(*file) != source.get(*file));
    let tell = |file: &PathBuf| {
        let (name, number) = (&step.name, step.number);
        format!("{name}/{}: the stages end otherwise: cargo xtask stages absorb {number}", file.display())
    };
    Ok(differ.map(tell).collect())
}

fn scratch(step: &Step) -> PathBuf {
    workspace::root().join("target/stages").join(&step.name)
}

/// git in a scratch repository, with an author of its own.
fn git(repository: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(["-c", "user.name=Congo", "-c", "user.email=congo@localhost", "-c", "core.hooksPath=/dev/null"])
        .args(["-c", "commit.gpgSign=false", "-c", "core.autocrlf=false"])
        .args(words)
        .current_dir(repository)
        .env("GIT_SEQUENCE_EDITOR", "true")
        .env("GIT_EDITOR", "true")
        .output()
        .context("starting git")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {}: {errors}", words.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// Makes the scratch repository: a commit for the base, and one for each stage, with its name as the subject.
fn lay_out(step: &Step, write_base: impl Fn(&Path) -> Result<()>) -> Result<PathBuf> {
    let repository = scratch(step);
    if repository.exists() {
        fs::remove_dir_all(&repository)?;
    }
    fs::create_dir_all(&repository)?;
    git(&repository, &["init", "--quiet"])?;
    write_base(&repository)?;
    git(&repository, &["add", "--all"])?;
    git(&repository, &["commit", "--quiet", "-m", "base"])?;
    for stage in stages::of(step)? {
        let patch = stage.folder().join("change.patch");
        git(&repository, &["apply", "--index", &patch.to_string_lossy()])?;
        git(&repository, &["commit", "--quiet", "-m", &stage.name])?;
    }
    Ok(repository)
}

fn edit(step: &Step) -> Result<ExitCode> {
    let repository = lay_out(step, |into| stages::write_base(step, into))?;
    println!("{}", git(&repository, &["log", "--oneline", "--reverse", "--stat"])?);
    println!(
        "cd {}\nChange the commits with git, such as `git rebase -i --root`. A commit's subject is its \
         stage's folder.\nThen: cargo xtask stages save {}",
        repository.display(),
        step.number
    );
    Ok(ExitCode::SUCCESS)
}

fn save(step: &Step) -> Result<ExitCode> {
    let repository = scratch(step);
    ensure!(repository.join(".git").exists(), "nothing is laid out: cargo xtask stages edit {}", step.number);
    ensure!(
        git(&repository, &["status", "--porcelain"])?.is_empty(),
        "{}: commit or drop the changes first",
        repository.display()
    );
    let log = git(&repository, &["log", "--reverse", "--format=%H %s"])?;
    let commits: Vec<_> = log.lines().filter_map(|line| line.split_once(' ')).collect();
    let names: BTreeSet<_> = commits.iter().skip(1).map(|(_, name)| *name).collect();
    ensure!(names.len() + 1 == commits.len(), "two commits have the same subject");
    for stage in stages::of(step)? {
        ensure!(
            names.contains(&*stage.name),
            "no commit \"{}\": remove the folder {} or rename it first",
            stage.name,
            stage.folder().display()
        );
    }
    for pair in commits.windows(2) {
        let [(before, _), (commit, name)] = pair else { continue };
        let folder = stages::folder(step).join(name);
        fs::create_dir_all(&folder)?;
        let options = ["diff", "--no-color", "--no-ext-diff", "--no-renames", "--unified=3"];
        let patch = git(&repository, &[&options[..], &[before, commit, "--", "src"]].concat())?;
        // The ids of files say nothing to a reader, and change with every stage before.
        let lines = patch.lines().filter(|line| !line.starts_with("index "));
        let patch: String = lines.map(|line| format!("{line}\n")).collect();
        fs::write(folder.join("change.patch"), patch)?;
        if !folder.join("task.md").exists() {
            println!("{}: task.md and hints.md are still to be written", folder.display());
        }
    }
    let problems = differences(step)?;
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The text of each file of a stage, by its path in the step's folder.
type Tree = BTreeMap<PathBuf, String>;

fn tree(folder: &Path) -> Result<Tree> {
    let relative = |(path, text): (PathBuf, String)| {
        (path.strip_prefix(folder).map(Path::to_owned).unwrap_or(path), text)
    };
    Ok(stages::texts(&folder.join("src"))?.into_iter().map(relative).collect())
}

/// The source of the step before, as it was in a commit of the course.
fn base_at(step: &Step, commit: &str, into: &Path) -> Result<()> {
    let Some(before) = step.number.checked_sub(1) else { return stages::write_base(step, into) };
    let before = workspace::step(&before.to_string())?.name;
    let archive = into.join("base.tar");
    let output = format!("--output={}", archive.display());
    git(workspace::root(), &["archive", &output, &format!("{commit}:{before}"), "src"])?;
    let mut tar = Command::new("tar");
    tar.args(["-xf", "base.tar"]).current_dir(into);
    ensure!(tar.status().context("starting tar")?.success(), "tar could not read {commit}");
    fs::remove_file(archive).context("removing the archive")
}

/// Carries changes of the step's source, or of the step before, into the stages. A block of lines changes in
/// each stage that has it.
fn absorb(step: &Step, commit: &str) -> Result<ExitCode> {
    let repository = lay_out(step, |into| base_at(step, commit, into))?;
    let log = git(&repository, &["log", "--reverse", "--format=%H %s"])?;
    let commits: Vec<_> = log.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut trees = Vec::new();
    for (id, _) in &commits {
        git(&repository, &["checkout", "--quiet", id])?;
        trees.push(tree(&repository)?);
    }
    let base = tempfile::tempdir()?;
    stages::write_base(step, base.path())?;
    let base = tree(base.path())?;
    let end = tree(&workspace::root().join(&step.name))?;
    for (from, to) in [(0, &base), (trees.len() - 1, &end)] {
        for change in changes(&trees[from], to) {
            // The base itself is changed by nobody but its own step.
            let changed: Vec<_> = trees
                .iter_mut()
                .enumerate()
                .map(|(at, tree)| (from == 0 || at > 0) && change.apply(tree))
                .collect();
            let first = changed.iter().position(|&changed| changed).context("no stage has it")?;
            println!("{}: changed from {} on", change.file.display(), commits[first].1);
        }
        if from == 0 {
            trees[0].clone_from(&base);
        }
    }
    git(&repository, &["checkout", "--quiet", "--orphan", "absorbed"])?;
    for (tree, (_, name)) in trees.iter().zip(&commits) {
        fs::remove_dir_all(repository.join("src"))?;
        for (path, text) in tree {
            let path = repository.join(path);
            fs::create_dir_all(path.parent().context("a file in no folder")?)?;
            fs::write(path, text)?;
        }
        git(&repository, &["add", "--all"])?;
        git(&repository, &["commit", "--quiet", "--allow-empty", "-m", name])?;
    }
    save(step)
}

/// Lines of a file that have become others.
struct Change {
    file: PathBuf,
    /// The lines that go, with the lines around them, the nearest first.
    old: String,
    before: Vec<String>,
    after: Vec<String>,
    new: String,
}

/// How many lines around a change may be needed to find its place.
const CONTEXT: usize = 6;

/// How many letters and digits mark a place.
const MARK: usize = 12;

fn changes(old: &Tree, new: &Tree) -> Vec<Change> {
    let empty = String::new();
    let files: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for file in files {
        let (old, new) = (old.get(file).unwrap_or(&empty), new.get(file).unwrap_or(&empty));
        let lines = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
        let (old_lines, new_lines) = (lines(old), lines(new));
        for operation in TextDiff::from_lines(old, new).ops() {
            if matches!(operation, DiffOp::Equal { .. }) {
                continue;
            }
            let (gone, come) = (operation.old_range(), operation.new_range());
            changes.push(Change {
                file: file.clone(),
                before: old_lines[..gone.start].iter().rev().take(CONTEXT).cloned().collect(),
                after: old_lines[gone.end..].iter().take(CONTEXT).cloned().collect(),
                old: old_lines[gone].concat(),
                new: new_lines[come].concat(),
            });
        }
    }
    changes
}

impl Change {
    /// Makes the change where the lines stand exactly once, with as few lines around them as that takes.
    fn apply(&self, tree: &mut Tree) -> bool {
        let Some(text) = tree.get_mut(&self.file) else { return false };
        // Lines that are only added have no place of their own: they come after the line before them.
        let least = usize::from(self.old.is_empty());
        for count in least..=CONTEXT {
            for (before, after) in [(count, count), (count, 0), (0, count)] {
                let around =
                    |lines: &[String], count: usize| lines.iter().take(count).cloned().collect::<Vec<_>>();
                let mut before = around(&self.before, before);
                before.reverse();
                let (before, after) = (before.concat(), around(&self.after, after).concat());
                let old = format!("{before}{}{after}", self.old);
                let is_line = |place: usize| place == 0 || text[..place].ends_with('\n');
                let places: Vec<_> = text
                    .match_indices(&old)
                    .map(|(place, _)| place)
                    .filter(|&place| is_line(place))
                    .collect();
                if let [place] = places[..]
                    // A closing brace alone says nothing of the place.
                    && old.chars().filter(|c| c.is_alphanumeric()).count() >= MARK
                {
                    text.replace_range(place..place + old.len(), &format!("{before}{}{after}", self.new));
                    return true;
                }
            }
        }
        false
    }
}

/// What one stage does at a time.
struct Turns {
    /// All stages are built in one target folder.
    building: Mutex<()>,
    /// A session may look at all processes of the machine.
    sessions: Mutex<()>,
}

/// Gives this thread, and all that it starts, a list of the containers' host ids of its own. The host has one
/// list, and some checks tell which ranges are free there. Another stage's containers would take them.
fn apart() -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace for a stage")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("making all mounts private")?;
    own_ranges_of_ids()
}

/// A stage that was tried.
struct Tried {
    found: Found,
    /// What is wrong with the stage.
    problems: Vec<String>,
}

fn prove(
    named: Option<&str>,
    write: bool,
    (part, parts): (usize, usize),
    jobs: Option<usize>,
) -> Result<ExitCode> {
    let start = Instant::now();
    let steps = chosen(named)?;
    let (mut problems, mut wanted, mut number) = (Vec::new(), Vec::new(), 0);
    for step in &steps {
        problems.extend(differences(step)?);
        for stage in stages::of(step)? {
            number += 1;
            // Every Nth stage: those of one step take about the same time.
            if number % parts == part % parts {
                wanted.push(stage);
            }
        }
    }
    let jobs = jobs.unwrap_or(thread::available_parallelism()?.get()).max(1);
    let queue = Mutex::new(VecDeque::from(wanted.clone()));
    let turns = Turns { building: Mutex::new(()), sessions: Mutex::new(()) };
    let results = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        // The checks wait most of the time.
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(stage) = next(&queue) {
                    let tried = apart().and_then(|()| try_stage(&stage, write, start, &turns));
                    if tried.is_err() {
                        // The error is told at once, not after the other stages.
                        locked(&queue).clear();
                    }
                    locked(&results).insert(stage.id(), tried);
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut tried = Vec::new();
    for stage in &wanted {
        // After an error, stages are missing behind the one that has it, or before it.
        if let Some(result) = results.remove(&stage.id()) {
            tried.push((stage, result?));
        }
    }
    let count = tried.len();
    ensure!(count == wanted.len(), "only {count} of {} stages were tried", wanted.len());
    let mut held = BTreeMap::<_, Vec<_>>::new();
    for (stage, tried) in tried {
        problems.extend(tried.problems);
        let ids = tried.found.ids("passed").into_iter().map(str::to_owned).collect();
        held.entry(&stage.step.name).or_default().push(ids);
    }
    if write {
        let mut measured = BTreeMap::new();
        for step in &steps {
            measured.insert(step.name.clone(), first_stages(step, &stages::of(step)?, &held[&step.name]));
        }
        write_table(measured)?;
    }
    problems.iter().for_each(|problem| println!("✗ {problem}"));
    println!("{count} stages, {} problems; {:.0?}", problems.len(), start.elapsed());
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build_all(named: Option<&str>) -> Result<ExitCode> {
    let mut all_built = true;
    for step in chosen(named)? {
        for stage in stages::of(&step)? {
            let built = build(&stage);
            println!("{} {}: {}", stage.id(), stage.name, if built.is_ok() { "builds" } else { "FAILS" });
            all_built &= built.is_ok();
        }
    }
    Ok(if all_built { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds a stage, with warnings as errors, and runs its checks, those of the next stage, and the sessions of
/// its task. To `write` the table, it runs all checks that are the step's own.
fn try_stage(stage: &Stage, write: bool, start: Instant, turns: &Turns) -> Result<Tried> {
    // The next build replaces the program, so the checks have a copy. Its name stays: the checks go by it.
    let folder = workspace::root().join("target/stages/programs").join(stage.id());
    let binary = folder.join(&stage.step.name);
    {
        let _turn = locked(&turns.building);
        let built = build(stage)?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        fs::copy(built, &binary).with_context(|| format!("copying {}", binary.display()))?;
    }
    // Without a table where that is only to be written.
    let table = if write { None } else { Some(Table::read()?) };
    let mut ids = Vec::new();
    for check in checks::all().filter(|check| check.holds_in(stage.step.number)) {
        let is_wanted = match &table {
            // What earlier steps promise has its stage there.
            None => check.since == stage.step.number,
            // Later stages' promises do not count here, and some of them fail only after half a minute.
            Some(table) => table.place(check, &stage.step)? <= stage.number + 1,
        };
        ids.extend(is_wanted.then_some(check.id));
    }
    let output = Command::new(std::env::current_exe()?)
        .args(["check", &stage.step.name, "--json", "--bin"])
        .arg(&binary)
        .args(ids.iter().flat_map(|id| ["--only", id]))
        .output()?;
    let found: Found = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the checks: {}", String::from_utf8_lossy(&output.stderr)))?;
    let mut problems = table.map_or(Ok(Vec::new()), |table| judge(stage, &table, &found))?;
    let sessions = readme::blocks(&stage.folder().join("task.md"))?;
    let turn = locked(&turns.sessions);
    let sandbox = Sandbox::of_stage(&binary)?;
    for session in sessions.iter().filter(|session| session.skipped().is_none()) {
        if let Err(difference) = session.check(&sandbox) {
            problems.push(format!("{}\n{difference}", session.name));
        }
    }
    drop(turn);
    fs::remove_dir_all(&folder)?;
    let (seconds, id) = (start.elapsed().as_secs(), stage.id());
    let (passed, failed) = (found.ids("passed").len(), found.ids("failed").len());
    println!(
        "{:2}:{:02}  {id} {}: {passed} hold, {failed} do not yet",
        seconds / 60,
        seconds % 60,
        stage.name
    );
    // So that a pipe shows the progress, too.
    let _ = std::io::stdout().flush();
    Ok(Tried { found, problems })
}

/// For each stage the checks that hold from there on to the end of the step.
fn first_stages(
    step: &Step,
    stages: &[Stage],
    held: &[BTreeSet<String>],
) -> BTreeMap<String, Vec<&'static str>> {
    let mut table: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for check in checks::all().filter(|check| check.since == step.number) {
        let fails = |ids: &BTreeSet<String>| !ids.contains(check.id);
        let first = held.iter().rposition(fails).map_or(0, |last_failure| last_failure + 1);
        // What did not even hold at the end could not be tried here: then it is the last stage's.
        let stage = &stages[first.min(stages.len() - 1)];
        table.entry(stage.name.clone()).or_default().push(check.id);
    }
    table
}

fn write_table(measured: BTreeMap<String, BTreeMap<String, Vec<&'static str>>>) -> Result<()> {
    let file = stages::table_file();
    let mut all: BTreeMap<String, BTreeMap<String, String>> =
        if file.exists() { toml::from_str(&fs::read_to_string(&file)?)? } else { BTreeMap::new() };
    let wrapped = |ids: Vec<&str>| {
        let mut lines = vec![String::new()];
        for id in ids {
            if lines.last().is_some_and(|line| line.len() + id.len() > 100) {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                *line += if line.is_empty() { "" } else { " " };
                *line += id;
            }
        }
        lines.join("\n")
    };
    for (step, mut of_step) in measured {
        // What this step measures anew are its own checks. Those of earlier steps are listed by hand.
        for (stage, list) in all.get(&step).into_iter().flatten() {
            let earlier = |id: &&'static str| list.split_whitespace().any(|listed| listed == *id);
            let own: BTreeSet<_> = of_step.values().flatten().copied().collect();
            let kept = checks::all().map(|check| check.id).filter(earlier).filter(|id| !own.contains(id));
            let kept: Vec<_> = kept.collect();
            of_step.entry(stage.clone()).or_default().extend(kept);
        }
        all.insert(step, of_step.into_iter().map(|(stage, ids)| (stage, wrapped(ids))).collect());
    }
    let mut text = String::from(
        "# From which stage on each check holds: written by `cargo xtask stages prove --write`, which has\n\
         # seen each of them fail at the stage before. A check that is not here holds from its step's last\n\
         # stage on. Some checks of earlier steps use more options in a later one: they are there, too.\n",
    );
    for (step, of_step) in all {
        write!(text, "\n[{step}]\n")?;
        for (stage, ids) in of_step {
            writeln!(text, "{stage} = \"\"\"\n{}\n\"\"\"", ids.trim())?;
        }
    }
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

/// What a stage should do and does not, or the other way round.
fn judge(stage: &Stage, table: &Table, found: &Found) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let (failed, passed) = (found.ids("failed"), found.ids("passed"));
    let (mut own, mut fails_next) = (false, false);
    for check in checks::all().filter(|check| check.holds_in(stage.step.number)) {
        let place = table.place(check, &stage.step)?;
        if place <= stage.number && failed.contains(check.id) {
            let [expected, instead] = found.difference(check.id)?;
            let differs = format!("\n  expected: {expected}\n  found:    {instead}");
            problems.push(format!("{}: {} does not hold{differs}", stage.id(), check.id));
        }
        own |= place == stage.number && passed.contains(check.id);
        fails_next |= place == stage.number + 1 && failed.contains(check.id);
    }
    if !own {
        problems.push(format!("{}: no check begins to hold there", stage.id()));
    }
    if !stage.is_last()? && !fails_next {
        problems.push(format!("{}: it passes all checks of the next stage, too", stage.id()));
    }
    Ok(problems)
}

/// Builds a stage, with warnings as errors, and returns its program.
fn build(stage: &Stage) -> Result<PathBuf> {
    let folder = workspace::root().join("target/stages/crate").join(&stage.step.name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    stages::write_after(stage, &folder)?;
    let manifest = stages::manifest(&stage.step, &stage.step.name)?;
    fs::write(folder.join("Cargo.toml"), manifest + "\n[lints.rust]\nwarnings = \"deny\"\n")?;
    fs::copy(workspace::root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
    // As in a learner's folder: with it, the libraries are those that the course has built.
    fs::create_dir(folder.join(".cargo"))?;
    fs::write(folder.join(".cargo/config.toml"), learner::settings()?)?;
    let target = workspace::root().join("target/stages/target");
    built::share(&target)?;
    let status =
        cargo().args(["build", "--quiet"]).current_dir(&folder).env("CARGO_TARGET_DIR", &target).status()?;
    ensure!(status.success(), "stage {} does not build without warnings", stage.id());
    Ok(target.join("debug").join(&stage.step.name))
}
