//! `cargo congo check`: tries what a step promises against a binary, ours or a learner's own, and explains
//! the first failure. Also tries the exercises.
//!
//! Kernel objects: those that the binary makes, and the namespaces of the checks' own host (`checks::host`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use checks::exercises::{self, Exercise};
use checks::subject::FIRST_LIMIT;
use checks::{Check, Failure, Outcome, Subject};
use common::run::cli::docker::OPTIONS;
use nix::unistd::geteuid;
use serde_json::json;

use crate::root::{self, ROOTLESS};
use crate::stages;
use crate::workspace::{self, Build, Step};

/// Check what a step promises, against its binary or your own.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The step whose promises, and those of all steps before it, are checked: `0`, `step0` or `step0-basic`.
    step: Option<String>,

    /// The binary to try, in whatever language it is written [default: the step's own, which is built first].
    #[arg(long, value_name = "PATH", overrides_with = "bin", requires = "step")]
    bin: Option<PathBuf>,

    /// Try only the check of this id, or all whose ids begin so: `pid.is-one`, `pid`; may be given more than
    /// once.
    #[arg(long, value_name = "ID")]
    only: Vec<String>,

    /// Only what holds at the end of this stage of the step.
    #[arg(long, value_name = "NUMBER", requires = "step")]
    stage: Option<usize>,

    /// Run the checks of your own runtime in the lab, a virtual machine, where it can break nothing of yours.
    #[arg(long, conflicts_with_all = ["step", "list", "hint", "matrix", "docker"])]
    pub vm: bool,

    /// Skip the check of this id, or all whose ids begin so; may be given more than once.
    #[arg(long, value_name = "ID")]
    without: Vec<String>,

    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,

    /// A check of the stage itself, not of those before: where none of these can run, nothing is shown.
    #[arg(long, hide = true, value_name = "ID")]
    own: Vec<String>,

    /// How the command begins that runs a check again.
    #[arg(long, hide = true, value_name = "COMMAND")]
    again: Option<String>,

    /// How long the first run may take, in seconds.
    #[arg(long, hide = true, value_name = "SECONDS")]
    first_limit: Option<u64>,

    /// Try a solution of this exercise instead: `private-tmp`.
    #[arg(long, value_name = "NAME", conflicts_with = "only", requires = "step")]
    exercise: Option<String>,

    /// Go on after a failure, and print the results as one JSON object.
    #[arg(long)]
    json: bool,

    /// Print the checks and exercises, and try nothing.
    #[arg(long)]
    list: bool,

    /// Print the hint of a check or an exercise.
    #[arg(long, value_name = "ID", conflicts_with_all = ["bin", "only", "exercise", "json", "list"])]
    hint: Option<String>,

    /// Print the README's table of what each step promises.
    #[arg(long, conflicts_with_all = ["bin", "only", "exercise", "json", "list", "hint"])]
    matrix: bool,

    /// Print the reference's table: what becomes of each option of `docker run`.
    #[arg(long, conflicts_with_all = ["bin", "only", "exercise", "json", "list", "hint", "matrix"])]
    docker: bool,
}

/// The exit status when nothing failed, and none of the stage's own checks could run.
pub const UNTRIED: u8 = 3;

/// How long a learner's runtime may take for its first run, which makes the root filesystem. Most often it
/// takes a second. A runtime that hangs must not cost minutes.
const FIRST_OF_LEARNER: Duration = Duration::from_secs(10);

/// How the reason of a check begins that was left out.
pub const WITHOUT: &str = "left out by --without";

impl Args {
    /// Whether it is about the learner's own runtime: no step is named, and nothing is to be printed.
    pub fn is_of_learner(&self) -> bool {
        self.step.is_none() && !self.matrix && !self.docker && !self.list && self.hint.is_none()
    }
}

impl Args {
    /// The options that the checks of the learner's own runtime take, too.
    pub fn of_learner(&self) -> Vec<String> {
        let ids = |option: &str, ids: &[String]| -> Vec<String> {
            ids.iter().flat_map(|id| [option.to_owned(), id.clone()]).collect()
        };
        let mut options = [ids("--only", &self.only), ids("--without", &self.without)].concat();
        options.extend(self.keep_going.then(|| "--keep-going".to_owned()));
        options.extend(self.json.then(|| "--json".to_owned()));
        options
    }
}

/// Runs the tool. The exit status is 0 when all that could be checked passed, 1 when something failed or
/// nothing could be checked.
///
/// # Errors
/// When there is no such step, check or binary, or the step cannot be built.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.matrix {
        print!("{}", matrix()?);
    } else if args.docker {
        print!("{}", docker());
    } else if let Some(id) = &args.hint {
        println!("{}", hint(id)?);
    } else if args.list {
        list(args)?;
    } else {
        return check(args);
    }
    Ok(ExitCode::SUCCESS)
}

/// The README's table, for the steps that are there.
///
/// # Errors
/// When the workspace's folder cannot be read.
pub fn matrix() -> Result<String> {
    let steps = workspace::steps()?;
    let steps: Vec<_> = steps.iter().map(|step| (step.number, step.name.as_str())).collect();
    Ok(checks::matrix(&steps))
}

/// The reference's table of the options of `docker run`.
pub fn docker() -> String {
    let rows = OPTIONS.map(|option| {
        let letter = option.short.map_or(String::new(), |letter| format!("`-{letter}`, "));
        // A bar would end the cell.
        let answer = option.answer.to_string().replace('|', "\\|");
        format!("| {letter}`--{}` | {answer} |\n", option.long)
    });
    format!("| option of `docker run` | here |\n| --- | --- |\n{}", rows.concat())
}

fn hint(id: &str) -> Result<&'static str> {
    let exercises = exercises::all().filter(|exercise| is_named(exercise, id)).map(|exercise| exercise.hint);
    let checks = checks::all().filter(|check| check.id == id).map(|check| check.hint);
    exercises.chain(checks).next().with_context(|| format!("no check or exercise \"{id}\": see --list"))
}

/// By its id, or by what stands after the step.
fn is_named(exercise: &Exercise, name: &str) -> bool {
    exercise.id == name || exercises::short(exercise) == name
}

fn list(args: &Args) -> Result<()> {
    let step = args.step.as_deref().map(workspace::step).transpose()?.map_or(u8::MAX - 1, |step| step.number);
    for check in chosen(args, step)? {
        println!("{:32} since step {}  {}", check.id, check.since, check.sentence);
    }
    if args.only.is_empty() {
        for exercise in exercises::all().filter(|exercise| exercise.step <= step) {
            println!("{:32} exercise      {}", exercise.id, exercise.sentence);
        }
    }
    Ok(())
}

fn chosen(args: &Args, step: u8) -> Result<Vec<&'static Check>> {
    let held = match args.stage {
        None => checks::all().filter(|check| check.holds_in(step)).collect(),
        Some(number) => {
            let stages = stages::of(&workspace::step(&step.to_string())?)?;
            let stage = number.checked_sub(1).and_then(|index| stages.get(index));
            stages::checks_at(stage.with_context(|| format!("--stage {number}: 1 to {}", stages.len()))?)?
        }
    };
    Ok(held.into_iter().filter(|check| is_wanted(&args.only, check.id)).collect())
}

/// Whether `--only` names this check, or one of these texts begins its id. Without `--only` all are wanted.
pub(crate) fn is_wanted(only: &[impl AsRef<str>], id: &str) -> bool {
    // `memory.option` is the beginning of another id, too.
    let is_exact = |wanted: &str| checks::all().any(|check| check.id == wanted);
    let names = |wanted: &str| id == wanted || (id.starts_with(wanted) && !is_exact(wanted));
    only.is_empty() || only.iter().any(|wanted| names(wanted.as_ref()))
}

/// A check or an exercise that is tried.
struct Task {
    id: &'static str,
    sentence: &'static str,
    run: Box<dyn Fn(&Subject) -> Outcome>,
    again: String,
    hint: String,
}

fn tasks(args: &Args, step: &Step) -> Result<Vec<Task>> {
    let bin = args.bin.as_ref().map_or(String::new(), |bin| format!(" --bin {}", bin.display()));
    let again = match &args.again {
        Some(again) => again.clone(),
        // A learner's runtime is to be built again.
        None if args.stage.is_some() && args.bin.is_none() => "cargo congo check".to_owned(),
        None => format!("cargo congo check step{}{bin}", step.number),
    };
    let tasks: Vec<_> = if let Some(name) = &args.exercise {
        let wanted = |exercise: &&Exercise| exercise.step == step.number && is_named(exercise, name);
        let of_exercise = |exercise: &'static Exercise| Task {
            id: exercise.id,
            sentence: exercise.sentence,
            run: Box::new(move |subject| checks::run_exercise(exercise, subject)),
            again: match &args.again {
                Some(again) => again.clone(),
                None => format!("{again} --exercise {name}"),
            },
            hint: format!("cargo congo exercise {} hint", exercises::short(exercise)),
        };
        exercises::all().filter(wanted).map(of_exercise).collect()
    } else {
        let of_check = |check: &'static Check| Task {
            id: check.id,
            sentence: check.sentence,
            run: Box::new(move |subject| checks::run(check, subject)),
            again: format!("{again} --only {}", check.id),
            hint: format!("cargo congo check --hint {}", check.id),
        };
        chosen(args, step.number)?.into_iter().map(of_check).collect()
    };
    ensure!(!tasks.is_empty(), "{} has no such check or exercise: see --list", step.name);
    Ok(tasks)
}

fn check(args: &Args) -> Result<ExitCode> {
    let step = workspace::step(args.step.as_deref().unwrap_or_default())?;
    let tasks = tasks(args, &step)?;
    let binary = match &args.bin {
        Some(binary) => binary.clone(),
        None => {
            crate::learner::refuse_sudo()?;
            workspace::build(&[&step.name], Build::Debug)?.join(&step.name)
        }
    };
    if let Some(mut raised) = raised(args, &step, &binary)? {
        let status = raised.status().context("starting sudo")?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
    }
    if !args.json {
        println!("{}: {} to try with {}", step.name, tasks.len(), binary.display());
    }
    let own = own(args, &step)?;
    let _host = checks::host::enter(step.number).context("a host of the checks' own")?;
    let is_of_course = binary.file_name().is_some_and(|name| name == step.name.as_str());
    let limit = match args.first_limit {
        Some(seconds) => Duration::from_secs(seconds),
        None if is_of_course => FIRST_LIMIT,
        None => FIRST_OF_LEARNER,
    };
    let (subject, first) = Subject::within(&binary, step.number, limit)
        .with_context(|| format!("--bin {}", binary.display()))?;
    // What a runtime leaves behind, the checks tell.
    if let Err(failure) = first
        && !failure.left_behind
    {
        let sentence = format!("A first container, with the command `true`: {}.", failure.expected);
        bail!("{sentence} Found: {}. Every check would wait as long, so none was tried", failure.found);
    }

    let start = Instant::now();
    let (mut results, mut passed, mut failed, mut skipped) = (vec![], 0, 0, 0);
    for task in &tasks {
        let outcome = match args.without.iter().find(|id| task.id.starts_with(id.as_str())) {
            Some(id) => Outcome::Skipped { reason: format!("{WITHOUT} {id}") },
            None => (task.run)(&subject),
        };
        if !args.json {
            show(task, &outcome);
        }
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed(_) => failed += 1,
            Outcome::Skipped { .. } => skipped += 1,
        }
        results.push(json!({ "id": task.id, "sentence": task.sentence, "result": outcome }));
        if failed > 0 && !args.keep_going && !args.json {
            break;
        }
    }

    if args.json {
        let summary = json!({
            "step": step.name, "binary": subject.binary(), "passed": passed,
            "failed": failed, "skipped": skipped,
            "checks": results,
        });
        println!("{summary:#}");
    } else {
        let left = tasks.len() - results.len();
        let left =
            if left > 0 { format!(", {left} not tried (--keep-going goes on)") } else { String::new() };
        println!("\n{passed} passed, {failed} failed, {skipped} skipped{left}; {:.0?}", start.elapsed());
    }
    let tried = |id: &str| {
        let skipped = |result: &serde_json::Value| result["result"]["outcome"] == "skipped";
        results.iter().any(|result| result["id"] == id && !skipped(result))
    };
    Ok(if failed > 0 || passed == 0 {
        ExitCode::FAILURE
    } else if !own.is_empty() && !own.iter().any(|id| tried(id)) {
        if !args.json {
            println!("None of the stage's own checks could run: {}", own.join(", "));
        }
        ExitCode::from(UNTRIED)
    } else {
        ExitCode::SUCCESS
    })
}

/// The stage's own checks, without which nothing is known about it. With `--only` or `--without` the caller
/// chose what is tried.
fn own(args: &Args, step: &Step) -> Result<Vec<String>> {
    match args.stage {
        Some(number) if args.only.is_empty() && args.without.is_empty() => {
            let stage = stages::find(&format!("{}.{number}", step.number))?;
            Ok(stages::checks_of(&stage)?.iter().map(|check| check.id.to_owned()).collect())
        }
        _ => Ok(args.own.clone()),
    }
}

/// This command once more as root, where root is needed and can be had: the program is built by then, as the
/// caller. `None` where the checks run at once; those that need root are then skipped.
fn raised(args: &Args, step: &Step, binary: &Path) -> Result<Option<Command>> {
    let runs_as_user = match args.stage {
        Some(number) => !root::needs_root(&stages::find(&format!("{}.{number}", step.number))?),
        None => step.number >= ROOTLESS,
    };
    if runs_as_user || geteuid().is_root() {
        return Ok(None);
    }
    Ok(root::command(&std::env::current_exe()?, root::NO_USER_NAMESPACE).map(|mut raised| {
        // Of the two ways to name the program, the last one counts.
        raised.args(std::env::args_os().skip(1)).arg("--bin").arg(binary);
        // The next run builds the program again, too.
        if args.bin.is_none() && args.again.is_none() {
            let exercise = args.exercise.as_ref().map_or(String::new(), |name| format!(" --exercise {name}"));
            raised.arg("--again").arg(format!("cargo congo check step{}{exercise}", step.number));
        }
        raised
    }))
}

fn show(task: &Task, outcome: &Outcome) {
    match outcome {
        Outcome::Passed => println!("✓ {}", task.id),
        Outcome::Skipped { reason } => println!("– {}  skipped: {reason}", task.id),
        Outcome::Failed(Failure { expected, found, .. }) => {
            println!("✗ {}\n\n  {}\n", task.id, task.sentence);
            println!(
                "  expected  {expected}\n  found     {found}\n  again     {}\n  \
                 a hint    {}\n",
                task.again, task.hint
            );
        }
    }
    // So that a pipe shows the progress, too.
    let _ = std::io::stdout().flush();
}
