//! The learner's own runtime: a package in a folder that git ignores, and how far it is.
//!
//! `mine/Cargo.toml` is a workspace of its own that uses the course's target folder. `mine/progress.toml`
//! says which stage is the current one, which are done, and how many hints were taken.
//!
//! Programs are built as the caller. Two things become root, through sudo: a runtime whose step needs that,
//! and the checks, since they look at processes of root.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use serde::Deserialize;

use crate::root::{self, ROOTLESS};
use crate::stages::{self, Stage};
use crate::task::{self, Task};
use crate::workspace;

/// How often `watch` looks for a file that has been saved.
const LOOK: Duration = Duration::from_millis(300);

/// Begin a runtime of your own: makes a folder for it, with the source to begin with.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// The name of the folder, which is also your runtime's.
    #[arg(default_value = "mine")]
    folder: String,

    /// Begin with this stage, on the course's own source of the stages before: `2.3`.
    #[arg(long, value_name = "STAGE", default_value = "0.1")]
    at: String,
}

/// Show the next task.
#[derive(Debug, clap::Args)]
pub struct Next {}

/// Build your runtime and run it: as root, where its step needs root.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The runtime's own arguments.
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<std::ffi::OsString>,
}

/// Check your runtime again whenever you save a file.
#[derive(Debug, clap::Args)]
pub struct Watch {}

/// Show a hint for the current task; each time the next one of three.
#[derive(Debug, clap::Args)]
pub struct Hint {}

/// Show how your source differs from the course's own, and the answers to the questions of the task.
#[derive(Debug, clap::Args)]
pub struct Solution {
    /// Show it before your runtime passes the checks of the stage.
    #[arg(long)]
    give_up: bool,

    /// Take the course's source in the place of yours, and go on. Yours is kept beside it.
    #[arg(long, requires = "give_up")]
    take: bool,
}

/// Show which stages are done, and how many minutes they took.
#[derive(Debug, clap::Args)]
pub struct Progress {}

/// Begin the current stage anew, on the course's own source of the stages before. Yours is kept beside it.
#[derive(Debug, clap::Args)]
pub struct Reset {}

/// The learner's package.
#[derive(Debug)]
struct Mine {
    folder: PathBuf,
    kept: Kept,
}

/// What `progress.toml` keeps.
#[derive(Debug, Deserialize)]
struct Kept {
    /// The current stage.
    current: String,
    /// When it was begun, in seconds since 1970.
    begun: u64,
    /// How many of its hints were shown.
    hints: usize,
    /// The stages that are done, and how many minutes each took.
    #[serde(default)]
    done: BTreeMap<String, u64>,
}

impl Start {
    /// Makes the folder.
    ///
    /// # Errors
    /// When there is such a folder already, or no such stage.
    pub fn run(&self) -> Result<ExitCode> {
        refuse_sudo()?;
        let stage = stages::find(&self.at).context("--at")?;
        let is_letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        ensure!(
            self.folder.starts_with(|first: char| first.is_ascii_lowercase())
                && self.folder.chars().all(|letter| is_letter(letter) || letter == '-' || letter == '_')
                && !workspace::root().join(&self.folder).exists()
                && !["build", "deps", "examples", "incremental"].contains(&&*self.folder),
            "\"{}\": expected the name of a new folder, of small letters, digits, - and _, such as mine",
            self.folder
        );
        if let Ok(mine) = Mine::find() {
            bail!("your runtime is in {} already: cargo congo next", mine.folder.display());
        }
        let folder = std::env::current_dir()?.join(&self.folder);
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        fs::create_dir(folder.join(".cargo"))?;
        // The folder is the learner's own: the course's repository does not see it.
        fs::write(folder.join(".gitignore"), "*\n")?;
        fs::write(folder.join(".cargo/config.toml"), settings())?;
        fs::copy(workspace::root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
        stages::write_before(&stage, &folder)?;
        let kept = Kept { current: stage.id(), begun: now(), hints: 0, done: BTreeMap::new() };
        let mine = Mine { folder, kept };
        mine.write_manifest(&stage)?;
        mine.write()?;
        let begins = match &*self.at {
            "0.1" => "It builds, and does nothing yet.".to_owned(),
            later => format!("It is the course's own before stage {later}."),
        };
        println!(
            "Your runtime is in {0}/src. {begins}\n\n\
             cargo congo next      the next task\n\
             cargo congo check     builds your runtime and checks the stage\n\
             cargo congo watch     the same, whenever you save a file\n\
             cargo congo hint      a hint, and another one the next time\n\
             cargo congo solution  the course's own source beside yours, when the stage is done\n\
             cargo congo progress  where you are\n",
            self.folder
        );
        Next {}.run()
    }
}

impl Next {
    /// Prints the task of the current stage, after the first of those that are not done.
    ///
    /// # Errors
    /// When there is no runtime yet.
    pub fn run(&self) -> Result<ExitCode> {
        let mine = Mine::find()?;
        let stage = mine.stage()?;
        let task = Task::of(&stage)?;
        task::show(&task.task);
        println!("\nThe files are in {}/src. Then: cargo congo check", mine.name());
        Ok(ExitCode::SUCCESS)
    }
}

impl Run {
    /// Builds it and becomes it.
    ///
    /// # Errors
    /// When it does not build, or needs root and there is no sudo.
    pub fn run(&self) -> Result<ExitCode> {
        let mine = Mine::find()?;
        let binary = mine.build()?;
        let needs_root = mine.stage()?.step.number < ROOTLESS;
        let mut command = if needs_root { as_root(&binary)? } else { Command::new(&binary) };
        Err(command.args(&self.arguments).exec()).with_context(|| format!("starting {}", binary.display()))
    }
}

/// Builds the runtime and checks the current stage and all before, with these options. When all is well and
/// nothing was left out, the next stage becomes the current one.
///
/// # Errors
/// When it does not build, or the checks cannot be run.
pub fn check(options: &[String]) -> Result<ExitCode> {
    refuse_sudo()?;
    let mut mine = Mine::find()?;
    if mine.passes(options)? {
        // A part of the checks does not make a stage.
        if options.is_empty() {
            mine.go_on()?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("A hint: cargo congo hint. The whole task: cargo congo next");
    Ok(ExitCode::FAILURE)
}

impl Watch {
    /// Checks whenever a file has changed, until Ctrl-C.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn run(&self) -> Result<ExitCode> {
        refuse_sudo()?;
        let mut seen = None;
        loop {
            let mut mine = Mine::find()?;
            let latest = newest(&mine.folder.join("src"))?;
            if seen == latest {
                sleep(LOOK);
                continue;
            }
            seen = latest;
            if io::stdout().is_terminal() {
                print!("\x1b[2J\x1b[H");
            }
            println!("{}", Task::of(&mine.stage()?)?.title());
            match mine.passes(&[]) {
                Ok(true) => mine.go_on()?,
                Ok(false) => {}
                Err(error) => println!("{error:#}"),
            }
            println!("\nWaiting for the next change in {}/src. Ctrl-C ends this.", mine.name());
        }
    }
}

impl Hint {
    /// Prints the next hint.
    ///
    /// # Errors
    /// When there is no runtime yet.
    pub fn run(&self) -> Result<ExitCode> {
        let mut mine = Mine::find()?;
        let hints = task::hints(&mine.stage()?)?;
        let number = mine.kept.hints.min(hints.len().saturating_sub(1));
        let hint = hints.get(number).context("this stage has no hints")?;
        println!("Hint {} of {}", number + 1, hints.len());
        task::show(hint);
        mine.kept.hints = number + 1;
        mine.write()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Solution {
    /// Shows the solution of the current stage, or of the last one that is done if the current one is not
    /// begun.
    ///
    /// # Errors
    /// When the current stage is neither done nor given up.
    pub fn run(&self) -> Result<ExitCode> {
        let mut mine = Mine::find()?;
        let current = mine.stage()?;
        let stage = match mine.last_done()? {
            _ if self.give_up => current.clone(),
            Some(done) => done,
            None => bail!("no stage is done yet: --give-up shows the solution all the same"),
        };
        let reference = tempfile::tempdir()?;
        stages::write_after(&stage, reference.path())?;
        if self.take {
            mine.replace_source(&reference.path().join("src"), &stage)?;
            mine.go_on()?;
            return Ok(ExitCode::SUCCESS);
        }
        println!("From your source (-) to the course's own (+), at the end of stage {}:\n", stage.id());
        let colour = if io::stdout().is_terminal() { "--color=always" } else { "--color=never" };
        Command::new("git")
            .args(["--no-pager", "diff", "--no-index", colour])
            .arg(mine.folder.join("src"))
            .arg(reference.path().join("src"))
            .status()
            .context("starting git")?;
        task::show(&format!("\n{}", Task::of(&stage)?.answers));
        Ok(ExitCode::SUCCESS)
    }
}

impl Progress {
    /// Prints a line for each stage.
    ///
    /// # Errors
    /// When there is no runtime yet.
    pub fn run(&self) -> Result<ExitCode> {
        let mine = Mine::find()?;
        for stage in stages::all()? {
            let task = Task::of(&stage)?;
            let planned = task.minutes().map_or(String::new(), |minutes| format!("{minutes} minutes"));
            let state = match mine.kept.done.get(&stage.id()) {
                Some(minutes) => format!("✓ done in {minutes} minutes"),
                None if stage.id() == mine.kept.current => "▶ current".to_owned(),
                None => String::new(),
            };
            println!("{:60} {planned:12} {state}", task.title());
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Reset {
    /// Puts the source back.
    ///
    /// # Errors
    /// When there is no runtime yet.
    pub fn run(&self) -> Result<ExitCode> {
        let mut mine = Mine::find()?;
        let stage = mine.stage()?;
        let reference = tempfile::tempdir()?;
        stages::write_before(&stage, reference.path())?;
        mine.replace_source(&reference.path().join("src"), &stage)?;
        mine.kept.begun = now();
        mine.kept.hints = 0;
        mine.write()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Mine {
    /// The folder that `start` has made: the current one, one above it, or one in it.
    fn find() -> Result<Mine> {
        let here = std::env::current_dir()?;
        let has_one = |folder: &PathBuf| folder.join("progress.toml").exists();
        let above = here.ancestors().map(Path::to_owned).find(has_one);
        let mut found: Vec<_> = above.into_iter().collect();
        if found.is_empty() {
            for entry in here.read_dir().context("reading the current folder")? {
                found.extend(Some(entry?.path()).filter(has_one));
            }
        }
        let folder = match &*found {
            [] => bail!("there is no runtime of yours yet: cargo congo start"),
            [folder] => folder.clone(),
            [one, other, ..] => bail!(
                "there are two runtimes, {} and {}: go into the folder of one of them",
                one.display(),
                other.display()
            ),
        };
        let file = folder.join("progress.toml");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let kept = toml::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        Ok(Mine { folder, kept })
    }

    fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn stage(&self) -> Result<Stage> {
        stages::find(&self.kept.current)
    }

    /// The last stage that is done, by the order of the course.
    fn last_done(&self) -> Result<Option<Stage>> {
        let is_done = |stage: &Stage| self.kept.done.contains_key(&stage.id());
        Ok(stages::all()?.into_iter().rfind(is_done))
    }

    fn write(&self) -> Result<()> {
        let Kept { current, begun, hints, done } = &self.kept;
        let done: String = done.iter().map(|(stage, minutes)| format!("\"{stage}\" = {minutes}\n")).collect();
        let text = format!(
            "# The current stage, when it was begun, how many hints were taken, and the minutes of each\n\
             # stage that is done.\n\
             current = \"{current}\"\nbegun = {begun}\nhints = {hints}\n\n[done]\n{done}"
        );
        fs::write(self.folder.join("progress.toml"), text).context("writing progress.toml")
    }

    fn write_manifest(&self, stage: &Stage) -> Result<()> {
        let text = stages::manifest(&stage.step, &self.name())?;
        fs::write(self.folder.join("Cargo.toml"), text).context("writing Cargo.toml")
    }

    /// Builds the runtime, and shows what cargo says.
    fn build(&self) -> Result<PathBuf> {
        // A source that was moved back has the times of before, by which cargo would take it for built.
        fs::File::open(self.folder.join("src/main.rs"))
            .and_then(|file| file.set_modified(SystemTime::now()))
            .context("src/main.rs")?;
        let status = workspace::cargo()
            .args(["build", "--quiet"])
            .current_dir(&self.folder)
            // What cargo set for this program is not meant for the other one.
            .env_remove("CARGO_MANIFEST_DIR")
            .status()
            .context("starting cargo")?;
        ensure!(status.success(), "{} does not build: see above", self.name());
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| workspace::root().join("target"));
        Ok(target.join("debug").join(self.name()))
    }

    /// Builds it and runs the checks, in a process of their own.
    fn passes(&self, options: &[String]) -> Result<bool> {
        let binary = self.build()?;
        let stage = self.stage()?;
        let this = std::env::current_exe()?;
        let mut checks = as_root(&this)?;
        checks.args(["check", &stage.step.name, "--stage", &stage.number.to_string(), "--bin"]).arg(&binary);
        checks.args(options);
        Ok(checks.status().context("starting the checks")?.success())
    }

    /// The current stage is done: says so, and makes the next one the current one.
    fn go_on(&mut self) -> Result<()> {
        let stage = self.stage()?;
        let minutes = now().saturating_sub(self.kept.begun).div_ceil(60);
        self.kept.done.entry(stage.id()).or_insert(minutes);
        println!("\nStage {} is done, in {minutes} minutes. Compare: cargo congo solution", stage.id());
        match stages::after(&stage)? {
            None => println!("That was the last stage. You have built a container runtime."),
            Some(next) => {
                if next.step != stage.step {
                    println!(
                        "That was the last stage of {}. Now read {}/README.md, up to its stages.",
                        stage.step.name, next.step.name
                    );
                    self.write_manifest(&next)?;
                }
                self.kept.current = next.id();
                self.kept.begun = now();
                self.kept.hints = 0;
                println!("The next one: {}. Its task: cargo congo next", Task::of(&next)?.title());
            }
        }
        self.write()
    }

    /// Puts another source in the place of the learner's, which is kept beside it.
    fn replace_source(&self, source: &Path, stage: &Stage) -> Result<()> {
        let kept = (1..)
            .map(|number| self.folder.join(format!("src.{}.{number}", stage.id())))
            .find(|kept| !kept.exists())
            .context("no name is left for your source")?;
        fs::rename(self.folder.join("src"), &kept).context("putting your source aside")?;
        stages::copy(source, &self.folder.join("src"))?;
        println!("Your source is kept in {}.", kept.display());
        Ok(())
    }
}

/// The settings of cargo in the learner's folder: the libraries are built once, for the course and for this,
/// and `cargo congo` works there, too.
fn settings() -> String {
    let course = workspace::root().display().to_string();
    let mut text = format!("[build]\ntarget-dir = \"{course}/target\"\n");
    // An alias is split at its spaces.
    if !course.contains(char::is_whitespace) {
        text += &format!(
            "\n[alias]\ncongo = \"run --quiet --manifest-path {course}/Cargo.toml --package congo --\"\n"
        );
    }
    text
}

/// The command that runs a program as root.
fn as_root(program: &Path) -> Result<Command> {
    root::command(program).context("this needs root, and sudo cannot be asked: start it again as root")
}

/// Refuses to build as root what an ordinary user has to build again: with sudo, the files in the target
/// folder would be root's.
fn refuse_sudo() -> Result<()> {
    let owner = fs::metadata(workspace::root())?.uid();
    let by_sudo = geteuid().is_root() && std::env::var_os("SUDO_UID").is_some() && owner != 0;
    ensure!(!by_sudo, "started by sudo: start it without, it asks sudo for the part that needs root");
    Ok(())
}

/// When a file below the folder was last changed.
fn newest(folder: &Path) -> Result<Option<SystemTime>> {
    let mut latest = None;
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let changed = match entry.file_type()?.is_dir() {
            true => newest(&entry.path())?,
            false => Some(entry.metadata()?.modified()?),
        };
        latest = latest.max(changed);
    }
    Ok(latest)
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}
