//! `cargo congo exercise`: the exercises of each step: task, place, check, hint and solution.
//!
//! The place to solve one is a copy: `solve/NAME`, a workspace of its own, which git ignores. It has the
//! step's folder, and `common` where the solution changes that, too. So the course stays as it is, and a
//! new copy undoes everything. The texts are those of the step's README; the solution is
//! `exercises/STEP/NAME.patch`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use checks::exercises::{self, Exercise};

use crate::learner::{refuse_sudo, settings};
use crate::root::{self, ROOTLESS};
use crate::workspace::{self, Step};
use crate::{stages, task};

/// Show an exercise, and make a place to solve it; without a name, list them all.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The exercise: `private-tmp`.
    name: Option<String>,

    /// What to do with it.
    #[arg(value_enum, requires = "name", default_value_t = Act::Show)]
    act: Act,

    /// With `solution`: show it before the check has passed.
    #[arg(long)]
    give_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Act {
    /// Show the task, and make the place where it is solved, if there is none yet
    Show,
    /// Build what is in the place, and try it
    Check,
    /// Show where to begin
    Hint,
    /// Show how the place differs from the course's solution, once the check has passed
    Solution,
    /// Put the place aside, and make it anew
    Reset,
}

/// Runs the tool.
///
/// # Errors
/// When there is no such exercise or no place for it yet, or it does not build.
pub fn run(args: &Args) -> Result<ExitCode> {
    let Some(name) = &args.name else {
        for step in workspace::steps()? {
            lines(&step)?.iter().for_each(|line| println!("{line}"));
        }
        println!("\nBegin one: cargo congo exercise NAME");
        return Ok(ExitCode::SUCCESS);
    };
    let found = exercises::all().find(|exercise| exercise.id == name || exercises::short(exercise) == name);
    let exercise =
        found.with_context(|| format!("no exercise \"{name}\": cargo congo exercise lists them"))?;
    let place = Place::of(exercise, &workspace::root().join("solve"))?;
    match args.act {
        Act::Show => place.show()?,
        Act::Check => return place.check(),
        Act::Hint => println!("{}", exercise.hint),
        Act::Solution => {
            ensure!(
                args.give_up || place.is_done(),
                "the check has not passed yet: --give-up shows the solution all the same"
            );
            place.solution()?;
        }
        Act::Reset => place.reset()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each exercise of a step: its name, its task, and how far it is.
///
/// # Errors
/// When the step's folder cannot be read.
pub fn lines(step: &Step) -> Result<Vec<String>> {
    let all = exercises::all().filter(|exercise| exercise.step == step.number);
    all.map(|exercise| {
        let place = Place::of(exercise, &workspace::root().join("solve"))?;
        let state = match () {
            () if place.is_done() => "✓",
            () if place.folder.exists() => "▶",
            () => " ",
        };
        Ok(format!("{state} {:20} {}", exercises::short(exercise), exercise.sentence))
    })
    .collect()
}

/// Where an exercise is solved.
struct Place {
    exercise: &'static Exercise,
    step: Step,
    folder: PathBuf,
}

impl Place {
    fn of(exercise: &'static Exercise, beneath: &Path) -> Result<Place> {
        let step = workspace::step(&exercise.step.to_string())?;
        Ok(Place { exercise, step, folder: beneath.join(exercises::short(exercise)) })
    }

    /// Beside the place, so that a new copy does not forget it.
    fn done_file(&self) -> PathBuf {
        self.folder.with_extension("done")
    }

    fn is_done(&self) -> bool {
        self.done_file().exists()
    }

    fn patch(&self) -> PathBuf {
        let name = format!("{}.patch", exercises::short(self.exercise));
        workspace::root().join("exercises").join(&self.step.name).join(name)
    }

    /// Whether the solution changes `common`, too.
    fn edits_common(&self) -> Result<bool> {
        let patch = self.patch();
        let text = fs::read_to_string(&patch).with_context(|| format!("reading {}", patch.display()))?;
        Ok(text.lines().any(|line| line.starts_with("+++ b/common/")))
    }

    /// The folders that are copied.
    fn members(&self) -> Result<Vec<&str>> {
        let common = self.edits_common()?.then_some("common");
        Ok(common.into_iter().chain([self.step.name.as_str()]).collect())
    }

    /// Copies the course's files into an empty folder.
    fn copy(&self, to: &Path) -> Result<()> {
        let root = workspace::root();
        let members = self.members()?;
        for member in &members {
            stages::copy(&root.join(member).join("src"), &to.join(member).join("src"))?;
            let manifest = fs::read_to_string(root.join(member).join("Cargo.toml"))?;
            fs::write(to.join(member).join("Cargo.toml"), without_tests(&manifest))?;
        }
        let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
        fs::write(to.join("Cargo.toml"), workspace_of(&manifest, &members, root))?;
        fs::copy(root.join("Cargo.lock"), to.join("Cargo.lock"))?;
        fs::create_dir_all(to.join(".cargo"))?;
        fs::write(to.join(".cargo/config.toml"), settings()?)?;
        Ok(())
    }

    /// Makes the place, if there is none.
    fn make(&self) -> Result<()> {
        if !self.folder.exists() {
            refuse_sudo()?;
            let making = || format!("making {}", self.folder.display());
            fs::create_dir_all(&self.folder).with_context(making)?;
            self.copy(&self.folder).with_context(making)?;
        }
        Ok(())
    }

    fn show(&self) -> Result<()> {
        self.make()?;
        let (name, step) = (exercises::short(self.exercise), &self.step);
        let here = std::env::current_dir()?;
        let folder = self.folder.strip_prefix(here).unwrap_or(&self.folder).display();
        println!("{} of {}: {}\n", name, step.name, self.exercise.sentence);
        task::show(&text(&step.name, name)?.0);
        if self.edits_common()? {
            println!("\nThis exercise edits `common`, too: your copy of it is in {folder}/common.");
        }
        let run = if step.number < ROOTLESS { ", as root" } else { "" };
        println!(
            "\nYour copy of the step is in {folder}/{0}. The course's own stays as it is. In\n{folder}, \
             `cargo run -p {0} -- COMMAND` runs the copy{run}.\n\n\
             cargo congo exercise {name} check       tries your solution\n\
             cargo congo exercise {name} hint        says where to begin\n\
             cargo congo exercise {name} solution    compares it with the course's\n\
             cargo congo exercise {name} reset       puts your copy aside, and makes a new one",
            step.name
        );
        Ok(())
    }

    /// Builds the copy, and returns its program.
    fn build(&self) -> Result<PathBuf> {
        ensure!(
            self.folder.exists(),
            "it is not begun: cargo congo exercise {}",
            exercises::short(self.exercise)
        );
        let mut cargo = workspace::cargo();
        cargo.args(["build", "--package", &self.step.name]).current_dir(&self.folder);
        // What cargo set for this program is not meant for the other one.
        cargo.env_remove("CARGO_MANIFEST_DIR");
        workspace::program(&mut cargo).with_context(|| format!("building {}", self.folder.display()))
    }

    fn check(&self) -> Result<ExitCode> {
        refuse_sudo()?;
        let binary = self.build()?;
        let this = std::env::current_exe()?;
        let needs_root = self.step.number < ROOTLESS;
        let mut check = if needs_root { root::demand(&this)? } else { Command::new(&this) };
        let again = format!("cargo congo exercise {} check", exercises::short(self.exercise));
        check.args(["check", &self.step.name, "--exercise", self.exercise.id, "--again", &again, "--bin"]);
        if !check.arg(&binary).status().context("starting the check")?.success() {
            return Ok(ExitCode::FAILURE);
        }
        fs::write(self.done_file(), "").context("noting that it is solved")?;
        println!("Solved. Compare: cargo congo exercise {} solution", exercises::short(self.exercise));
        Ok(ExitCode::SUCCESS)
    }

    /// Writes the course's solution into an empty folder.
    fn solve(&self, to: &Path) -> Result<()> {
        self.copy(to)?;
        stages::apply(&self.patch(), to)
    }

    fn solution(&self) -> Result<()> {
        let reference = tempfile::tempdir()?;
        self.solve(reference.path())?;
        self.make()?;
        println!("From your copy (-) to the course's solution (+):\n");
        for member in self.members()? {
            let source = Path::new(member).join("src");
            stages::compare(&self.folder.join(&source), &reference.path().join(&source))?;
        }
        task::show(&format!("\n{}", text(&self.step.name, exercises::short(self.exercise))?.1));
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        refuse_sudo()?;
        if self.folder.exists() {
            let kept = (1..).map(|number| self.folder.with_extension(number.to_string()));
            let kept = kept.into_iter().find(|kept| !kept.exists()).context("no name is left for it")?;
            fs::rename(&self.folder, &kept).context("putting your copy aside")?;
            println!("Your copy is kept in {}.", kept.display());
        }
        self.make()?;
        println!("A new one is in {}.", self.folder.display());
        Ok(())
    }
}

/// The course's workspace, with these members alone; the other packages are meant where they are. What it
/// says of single libraries stands in `.cargo/config.toml`: here cargo would warn of each one that no member
/// uses.
fn workspace_of(manifest: &str, members: &[&str], root: &Path) -> String {
    let (mut text, mut is_of_libraries) = (String::new(), false);
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_of_libraries = line == "[profile.dev.package]";
        }
        if is_of_libraries {
            continue;
        }
        let package = line.split_once(" = { path = ").map(|(name, _)| name);
        text += &match package.filter(|name| !members.contains(name)) {
            Some(name) => format!("{name} = {{ path = {:?} }}\n", root.join(name)),
            None if line.starts_with("members = ") => format!("members = {members:?}\n"),
            None if line.starts_with("exclude = ") => continue,
            None => format!("{line}\n"),
        };
    }
    text
}

/// A package's manifest without its tests, which lie elsewhere.
fn without_tests(manifest: &str) -> String {
    let Some((before, rest)) = manifest.split_once("\n[dev-dependencies]") else {
        return manifest.to_owned();
    };
    let after = rest.split_once("\n[lints]").map_or("", |(_, after)| after);
    format!("{before}\n[lints]{after}")
}

/// What the step's README says on an exercise: its task and, where there are some, the answers to its
/// questions.
fn text(step: &str, name: &str) -> Result<(String, String)> {
    let file = workspace::root().join(step).join("README.md");
    let readme = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let Some(text) = text_in(&readme, name) else { bail!("{} has no exercise {name}", file.display()) };
    Ok(text)
}

fn text_in(readme: &str, name: &str) -> Option<(String, String)> {
    let (_, section) = readme.split_once("\n## Exercises\n")?;
    let section = section.split("\n## ").next()?;
    let (tasks, answers) = section.split_once("<details>").unwrap_or((section, ""));
    let number = tasks.lines().find_map(|line| {
        let (number, rest) = line.split_once(". ")?;
        rest.starts_with(&format!("**`{name}`**")).then_some(number)
    })?;
    let item = |list: &str| -> Option<String> {
        let mut lines = list.lines().skip_while(|line| !line.starts_with(&format!("{number}. ")));
        let first = lines.next()?.split_once(". ")?.1.to_owned();
        let more = lines.take_while(|line| line.starts_with("   ") || line.is_empty());
        let text = more.fold(first, |text, line| text + "\n" + line.trim());
        // How it is checked follows below the task.
        Some(text.split("Check:").next()?.trim().to_owned())
    };
    Some((item(tasks)?, item(answers).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exercise_has_its_text() {
        for exercise in exercises::all() {
            let step = workspace::step(&exercise.step.to_string()).unwrap();
            let (task, _) = text(&step.name, exercises::short(exercise)).unwrap();
            assert!(task.contains("minutes)") && task.ends_with(['.', '?']), "{}: {task}", exercise.id);
        }
    }

    #[test]
    fn a_task_is_separate_from_how_it_is_checked_and_from_its_answer() {
        let readme = "# Step\n\n## Exercises\n\nDo them.\n\n1. **`one`** (5 minutes). Do\n   it. Check:\n   \
                      `x`\n2. **`two`** (6 minutes). Why?\n\n<details>\n<summary>A</summary>\n\n1. So\n   it \
                      is.\n\n</details>\n\n## Next\n1. x\n";
        let of = |name| text_in(readme, name);
        assert_eq!(of("one"), Some(("**`one`** (5 minutes). Do\nit.".into(), "So\nit is.".into())));
        assert_eq!(of("two"), Some(("**`two`** (6 minutes). Why?".into(), String::new())));
        assert_eq!(of("three"), None);
    }

    #[test]
    fn a_copy_is_a_workspace_of_its_own_that_the_solution_fits() {
        // The ordinary user of `.ci/run` may not start cargo.
        if !nix::unistd::geteuid().is_root() && workspace::cargo().arg("--version").output().is_err() {
            common::tell(format_args!("skipped: the places of exercises, as this user cannot start cargo"));
            return;
        }
        for exercise in exercises::all() {
            let folder = tempfile::tempdir().unwrap();
            let place = Place::of(exercise, folder.path()).unwrap();
            fs::create_dir(&place.folder).unwrap();
            place.solve(&place.folder).unwrap();
            let output = workspace::cargo()
                .args(["metadata", "--format-version=1", "--offline", "--filter-platform"])
                .arg(workspace::host_tuple().unwrap())
                .current_dir(&place.folder)
                .output()
                .unwrap();
            let manifest = fs::read_to_string(place.folder.join("Cargo.toml")).unwrap();
            assert!(!manifest.contains("opt-level"), "cargo would warn: {manifest}");
            assert!(output.status.success(), "{}: {}", exercise.id, String::from_utf8_lossy(&output.stderr));
            let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let packages = metadata["packages"].as_array().unwrap();
            let of = |name: &str| packages.iter().find(|package| package["name"] == name).unwrap();
            let is_copied = |name: &str| {
                let manifest = of(name)["manifest_path"].as_str().unwrap();
                Path::new(manifest).starts_with(place.folder.canonicalize().unwrap())
            };
            assert!(is_copied(&place.step.name), "{}", exercise.id);
            assert_eq!(is_copied("common"), place.edits_common().unwrap(), "{}", exercise.id);
        }
    }

    #[test]
    fn reset_undoes_what_was_changed_also_in_common() {
        let folder = tempfile::tempdir().unwrap();
        let exercise = exercises::all().find(|exercise| exercises::short(exercise) == "mac-address").unwrap();
        let place = Place::of(exercise, folder.path()).unwrap();
        place.make().unwrap();
        let file = place.folder.join("common/src/net/netlink.rs");
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, "changed").unwrap();
        place.make().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "changed", "a place that is there stays");
        place.reset().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), before);
        let kept = folder.path().join("mac-address.1/common/src/net/netlink.rs");
        assert_eq!(fs::read_to_string(kept).unwrap(), "changed");
    }
}
