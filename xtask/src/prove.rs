//! `cargo xtask prove`: shows that each check can fail, by taking out of the code what it checks, and that each
//! exercise's solution solves it.
//!
//! Works on a copy of the workspace in the target folder. `checks/mutants.toml` says what is taken out; a check that
//! still passes then proves nothing. `exercises/STEP/NAME.patch` are the solutions. Kernel objects: those of the
//! checks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use checks::exercises::{self, Exercise};
use serde::Deserialize;

use crate::workspace::{self, Step, cargo};

/// Prove that each check can fail and each exercise can be solved.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the mutants of this check, or of all whose ids begin so, and the exercises likewise.
    #[arg(long, value_name = "ID", default_value = "")]
    only: String,
}

/// What is taken out of the code, and which checks must notice.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// The checks that must fail.
    checks: Vec<String>,
    /// Where: the file, from the workspace's folder, the text that stands there exactly once, and what it becomes.
    edits: Vec<Edit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: PathBuf,
    find: String,
    replace: String,
}

#[derive(Debug, Deserialize)]
struct Mutants {
    mutant: Vec<Mutant>,
}

/// Runs the tool. The exit status is 1 when a check or an exercise is not proven.
///
/// # Errors
/// When the copy cannot be made, or does not build as it is.
pub fn run(args: &Args) -> Result<ExitCode> {
    let copy = Copy::make()?;
    let mutants: Vec<_> = mutants()?
        .into_iter()
        .filter_map(|mut mutant| {
            mutant.checks.retain(|check| check.starts_with(&args.only));
            (!mutant.checks.is_empty()).then_some(mutant)
        })
        .collect();
    let exercises: Vec<_> = exercises::all().filter(|exercise| exercise.id.starts_with(&args.only)).collect();
    ensure!(!mutants.is_empty() || !exercises.is_empty(), "no mutant and no exercise \"{}\"", args.only);

    let start = Instant::now();
    let (mut proven, mut unproven) = (0, 0);
    let mut tell = |id: &str, result: Result<String>| match result {
        Ok(how) => {
            proven += 1;
            println!("✓ {id:32} {how}");
        }
        Err(error) => {
            unproven += 1;
            println!("✗ {id:32} {error:#}");
        }
    };
    for mutant in &mutants {
        match copy.mutated(mutant) {
            Ok(step) => mutant.checks.iter().for_each(|check| tell(check, copy.notices(&step, check))),
            Err(error) => tell(&mutant.checks.join(", "), Err(error)),
        }
        copy.restore(mutant)?;
    }
    for exercise in exercises {
        tell(exercise.id, copy.solves(exercise));
    }
    println!("\n{proven} proven, {unproven} not; {:.0?}", start.elapsed());
    Ok(if unproven == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn mutants() -> Result<Vec<Mutant>> {
    let path = workspace::root().join("checks/mutants.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(toml::from_str::<Mutants>(&text).with_context(|| path.display().to_string())?.mutant)
}

/// The patch that solves an exercise, from the workspace's folder.
fn solution(exercise: &Exercise) -> Result<PathBuf> {
    let step = workspace::step(&exercise.step.to_string())?;
    let name = exercise.id.split_once('.').map_or(exercise.id, |(_, name)| name);
    Ok(PathBuf::from(format!("exercises/{}/{name}.patch", step.name)))
}

/// The workspace's copy, and where it is built.
struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn make() -> Result<Copy> {
        let this = std::env::current_exe()?;
        let target = this.ancestors().nth(2).context("xtask lies in the target folder")?.join("prove");
        let copy = Copy { root: target.join("workspace"), target: target.join("target") };
        if copy.root.exists() {
            fs::remove_dir_all(&copy.root)?;
        }
        fs::create_dir_all(&copy.root)?;
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

    /// Applies a mutant and builds the step that it is about.
    fn mutated(&self, mutant: &Mutant) -> Result<Step> {
        for edit in &mutant.edits {
            let path = self.root.join(&edit.file);
            let text = fs::read_to_string(&path).with_context(|| edit.file.display().to_string())?;
            fs::write(&path, edited(&text, edit)?)?;
        }
        let step = step_of(mutant)?;
        self.build(&step)?;
        Ok(step)
    }

    fn restore(&self, mutant: &Mutant) -> Result<()> {
        for edit in &mutant.edits {
            fs::write(self.root.join(&edit.file), fs::read(workspace::root().join(&edit.file))?)?;
        }
        Ok(())
    }

    fn build(&self, step: &Step) -> Result<()> {
        let output = cargo()
            .args(["build", "--quiet", "--package", &step.name])
            .env("CARGO_TARGET_DIR", &self.target)
            .current_dir(&self.root)
            .output()?;
        let messages = String::from_utf8_lossy(&output.stderr);
        let error = messages.lines().find(|line| line.starts_with("error")).unwrap_or("cargo failed");
        ensure!(output.status.success(), "it does not build: {error}");
        Ok(())
    }

    /// Runs `cargo xtask check` on the copy's binary, in a process of its own; whether all passed.
    fn check(&self, step: &Step, arguments: [&str; 2]) -> Result<Report> {
        let output = Command::new(std::env::current_exe()?)
            .args(["check", &step.name, "--json", "--bin"])
            .arg(self.target.join("debug").join(&step.name))
            .args(arguments)
            .output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the check: {}", String::from_utf8_lossy(&output.stderr)))
    }

    fn notices(&self, step: &Step, check: &str) -> Result<String> {
        let report = self.check(step, ["--only", check])?;
        ensure!(report.passed == 0, "the check passes without what it checks");
        ensure!(report.failed == 1, "the check cannot run here: {}", report.found());
        Ok(report.found())
    }

    fn solves(&self, exercise: &Exercise) -> Result<String> {
        let step = workspace::step(&exercise.step.to_string())?;
        let patch = solution(exercise)?;
        self.build(&step)?;
        let before = self.check(&step, ["--exercise", exercise.id])?;
        ensure!(before.passed == 0, "the check passes unsolved");
        ensure!(before.failed == 1, "the check cannot run here: {}", before.found());
        self.apply(&patch, &[])?;
        let after = self.build(&step).and_then(|()| self.check(&step, ["--exercise", exercise.id]));
        self.apply(&patch, &["--reverse"])?;
        let after = after?;
        ensure!(after.failed == 0, "solved, the check fails: {}", after.found());
        Ok(format!("fails unsolved ({}), passes solved", before.found()))
    }

    fn apply(&self, patch: &Path, options: &[&str]) -> Result<()> {
        apply(&self.root, patch, options)
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

fn edited(text: &str, edit: &Edit) -> Result<String> {
    let count = text.matches(&edit.find).count();
    ensure!(count == 1, "{} has {count} times: {:?}", edit.file.display(), edit.find);
    Ok(text.replace(&edit.find, &edit.replace))
}

/// The step whose folder is changed. What is changed in `common` is tried with the step in which the first of the
/// checks began.
fn step_of(mutant: &Mutant) -> Result<Step> {
    let folders = mutant.edits.iter().filter_map(|edit| edit.file.iter().next()?.to_str());
    let step = folders.into_iter().find(|folder| folder.starts_with("step"));
    let since = checks::all().find(|check| mutant.checks.first().is_some_and(|first| check.id == first));
    workspace::step(
        &step.map(str::to_owned).or(since.map(|check| check.since.to_string())).unwrap_or_default(),
    )
}

/// What `cargo xtask check --json` says.
#[derive(Debug, Deserialize)]
struct Report {
    passed: usize,
    failed: usize,
    checks: Vec<serde_json::Value>,
}

impl Report {
    /// What was found instead of what was expected, or why nothing was tried.
    fn found(&self) -> String {
        let result = self.checks.first().map(|check| &check["result"]);
        let text = result.and_then(|result| result["found"].as_str().or(result["reason"].as_str()));
        text.unwrap_or("nothing").chars().take(100).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_a_mutant() {
        let mutants = mutants().unwrap();
        let proven: BTreeSet<_> =
            mutants.iter().flat_map(|mutant| &mutant.checks).map(String::as_str).collect();
        let there: BTreeSet<_> = checks::all().map(|check| check.id).collect();
        assert_eq!(proven, there);
    }

    #[test]
    fn every_mutant_fits_the_code() {
        for mutant in mutants().unwrap() {
            step_of(&mutant).unwrap();
            for edit in &mutant.edits {
                let text = fs::read_to_string(workspace::root().join(&edit.file)).unwrap();
                edited(&text, edit).unwrap();
            }
        }
    }

    #[test]
    fn every_exercise_has_a_solution_that_fits_the_code() {
        for exercise in exercises::all() {
            let patch = workspace::root().join(solution(exercise).unwrap());
            apply(workspace::root(), &patch, &["--check"]).unwrap();
        }
    }
}
