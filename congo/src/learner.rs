//! The learner's own runtime: a package in a folder that git ignores, and how far it is.
//!
//! `mine/Cargo.toml` is a workspace of its own that uses the course's target folder. `mine/progress.toml`
//! says which stage is the current one, which are done, and how many hints were taken.
//!
//! Programs are built as the caller. Two things become root, through sudo: a runtime whose step needs that,
//! and the checks, since they look at processes of root.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
use crate::workspace::{self, Step};
use crate::{check, lab, manifest};

/// The stage of step 4 from which on the runtime needs no root.
const FIRST_WITHOUT_ROOT: &str = "09-without-root";

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
pub struct Next {
    /// Leave the current stage without passing its checks, and go on to the next one.
    #[arg(long)]
    skip: bool,
}

/// Build your runtime and run it: as root, where its step needs root.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Run it in the lab, a virtual machine, where it can break nothing of yours.
    #[arg(long)]
    vm: bool,

    /// The runtime's own arguments.
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<std::ffi::OsString>,
}

/// Check your runtime again whenever you save a file.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// Run the checks in the lab, a virtual machine, where your runtime can break nothing of yours.
    #[arg(long)]
    vm: bool,
}

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

/// Show which stages are done, and how many minutes after their beginning: by the clock, breaks included.
#[derive(Debug, clap::Args)]
pub struct Progress {}

/// Begin the current stage anew, on the course's own source of the stages before. Yours is kept beside it.
#[derive(Debug, clap::Args)]
pub struct Reset {
    /// Go to this stage, and begin it so: `2.3`. It also mends a progress.toml that cannot be read.
    #[arg(long, value_name = "STAGE")]
    at: Option<String>,
}

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
    /// Whether the learner was told what a runtime that runs as root can do to the machine.
    #[serde(default)]
    told_of_root: bool,
    /// The stages that are done, and how many minutes after its beginning each was.
    #[serde(default)]
    done: BTreeMap<String, u64>,
}

/// What came of the checks.
enum Verdict {
    Passed,
    Failed,
    /// None failed, and of the stage's own checks none could run.
    Untried,
}

impl Kept {
    fn at(stage: &Stage) -> Kept {
        Kept { current: stage.id(), begun: now(), hints: 0, told_of_root: false, done: BTreeMap::new() }
    }
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
                // The course takes such a folder for one of its steps, or cargo for one of its own.
                && !self.folder.starts_with("step")
                && !["build", "deps", "examples", "incremental"].contains(&&*self.folder),
            "\"{}\": expected the name of a new folder, of small letters, digits, - and _, such as mine",
            self.folder
        );
        if let Ok(mine) = Mine::find() {
            bail!("your runtime is in {} already: cargo congo next", mine.folder.display());
        }
        let folder = std::env::current_dir()?.join(&self.folder);
        for place in [&folder, &workspace::root().join(&self.folder)] {
            ensure!(
                !place.exists(),
                "{} is there already: choose another name, or remove it",
                place.display()
            );
        }
        // Before the folder is made: what fails here leaves nothing behind.
        let begin = tempfile::tempdir()?;
        stages::write_before(&stage, begin.path())?;
        let settings = settings()?;
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        fs::create_dir(folder.join(".cargo"))?;
        hide_from_git(&folder)?;
        fs::write(folder.join(".cargo/config.toml"), settings)?;
        fs::copy(workspace::root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
        stages::copy(&begin.path().join("src"), &folder.join("src"))?;
        let mine = Mine { folder, kept: Kept::at(&stage) };
        fs::write(mine.folder.join("Cargo.toml"), stages::manifest(&stage.step, &mine.name())?)?;
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
        Next { skip: false }.run()
    }
}

impl Next {
    /// Prints the task of the current stage, after the first of those that are not done.
    ///
    /// # Errors
    /// When there is no runtime yet.
    pub fn run(&self) -> Result<ExitCode> {
        let mut mine = Mine::find()?;
        if self.skip {
            println!("Stage {} is not done.", mine.kept.current);
            mine.advance()?;
            return Ok(ExitCode::SUCCESS);
        }
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
        let mut mine = Mine::find()?;
        mine.touch()?;
        let binary = mine.build()?;
        if self.vm {
            let mut lab = mine.lab(&[&binary]);
            if self.arguments.is_empty() && io::stdin().is_terminal() {
                println!("Your runtime is a program of the lab: {}", file_name(&binary));
            } else {
                lab.arg("--").arg(file_name(&binary)).args(&self.arguments);
            }
            return Err(lab.exec()).context("starting the lab");
        }
        mine.tell_of_root()?;
        let mut command = if needs_root(&mine.stage()?) { as_root(&binary)? } else { Command::new(&binary) };
        Err(command.args(&self.arguments).exec()).with_context(|| format!("starting {}", binary.display()))
    }
}

/// Builds the runtime and checks the current stage and all before, with these options, on this machine or in
/// the lab. When all is well and nothing was left out, the next stage becomes the current one.
///
/// # Errors
/// When it does not build, or the checks cannot be run.
pub fn check(options: &[String], in_lab: bool) -> Result<ExitCode> {
    refuse_sudo()?;
    let mut mine = Mine::find()?;
    mine.touch()?;
    let chosen = |wanted: &[&str]| options.iter().any(|option| wanted.contains(&option.as_str()));
    match mine.verdict(options, in_lab)? {
        Verdict::Passed => {
            // A part of the checks does not make a stage.
            if !chosen(&["--only", "--without", "--json"]) {
                mine.go_on()?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        // A program reads the output.
        _ if chosen(&["--json"]) => {}
        Verdict::Untried => mine.tell_untried(in_lab),
        Verdict::Failed => println!("A hint: cargo congo hint. The whole task: cargo congo next"),
    }
    Ok(ExitCode::FAILURE)
}

impl Watch {
    /// Checks whenever a file has changed, until Ctrl-C.
    ///
    /// # Errors
    /// When there is no runtime yet.
    pub fn run(&self) -> Result<ExitCode> {
        refuse_sudo()?;
        let mine = Mine::find()?;
        let source = mine.folder.join("src");
        loop {
            if io::stdout().is_terminal() {
                print!("\x1b[2J\x1b[H");
            }
            // That this touches a file is no change of the learner's. An editor may have taken the file away
            // for a moment: then the next look finds it.
            let touched = mine.touch();
            let seen = times(&source);
            if let Err(error) = touched.and_then(|()| self.check()) {
                println!("{error:#}");
            }
            println!("\nWaiting for the next change in {}/src. Ctrl-C ends this.", mine.name());
            while times(&source) == seen {
                sleep(LOOK);
            }
        }
    }

    fn check(&self) -> Result<()> {
        // Once more: another terminal may have taken a hint.
        let mut mine = Mine::find()?;
        println!("{}", Task::of(&mine.stage()?)?.title());
        match mine.verdict(&[], self.vm)? {
            Verdict::Passed => mine.go_on()?,
            Verdict::Untried => mine.tell_untried(self.vm),
            Verdict::Failed => {}
        }
        Ok(())
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
        stages::compare(&mine.folder.join("src"), &reference.path().join("src"))?;
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
                Some(minutes) => format!("✓ done, {minutes} minutes after its beginning"),
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
        let folder = Mine::folder()?;
        let kept = Mine::kept(&folder);
        let (stage, kept) = match &self.at {
            None => (Mine::find()?.stage()?, kept?),
            Some(at) => {
                let stage = stages::find(at).context("--at")?;
                if kept.is_err() {
                    let aside = folder.join("progress.toml.broken");
                    fs::copy(folder.join("progress.toml"), &aside).context("putting it aside")?;
                    println!("What could not be read is kept in {}.", aside.display());
                }
                let kept = kept.unwrap_or_else(|_| Kept::at(&stage));
                (stage, kept)
            }
        };
        let mut mine = Mine { folder, kept };
        let reference = tempfile::tempdir()?;
        stages::write_before(&stage, reference.path())?;
        mine.replace_source(&reference.path().join("src"), &stage)?;
        mine.carry_manifest(&stage)?;
        mine.kept.current = stage.id();
        mine.kept.begun = now();
        mine.kept.hints = 0;
        mine.write()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Mine {
    fn find() -> Result<Mine> {
        let folder = Mine::folder()?;
        let kept = Mine::kept(&folder)?;
        Ok(Mine { folder, kept })
    }

    /// The folder that `start` has made: the current one, one above it, or one in it.
    fn folder() -> Result<PathBuf> {
        refuse_sudo()?;
        let here = std::env::current_dir()?;
        let has_one = |folder: &PathBuf| folder.join("progress.toml").exists();
        let above = here.ancestors().map(Path::to_owned).find(has_one);
        let mut found: Vec<_> = above.into_iter().collect();
        if found.is_empty() {
            for entry in here.read_dir().context("reading the current folder")? {
                found.extend(Some(entry?.path()).filter(has_one));
            }
        }
        match &*found {
            [] => bail!("there is no runtime of yours yet: cargo congo start"),
            [folder] => Ok(folder.clone()),
            [one, other, ..] => bail!(
                "there are two runtimes, {} and {}: go into the folder of one of them",
                one.display(),
                other.display()
            ),
        }
    }

    /// Reads the progress file of this folder.
    fn kept(folder: &Path) -> Result<Kept> {
        let file = folder.join("progress.toml");
        let read = || -> Result<Kept> {
            let kept: Kept = toml::from_str(&fs::read_to_string(&file)?)?;
            stages::find(&kept.current)?;
            Ok(kept)
        };
        read().with_context(|| {
            format!(
                "{} cannot be read: mend what is told below, or name the stage to begin anew, by cargo congo \
                 reset --at STAGE, which keeps your source beside the new one",
                file.display()
            )
        })
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

    /// Writes what is kept: never half of it, whatever happens meanwhile.
    fn write(&self) -> Result<()> {
        let Kept { current, begun, hints, told_of_root, done } = &self.kept;
        let done: String = done.iter().map(|(stage, minutes)| format!("\"{stage}\" = {minutes}\n")).collect();
        let text = format!(
            "# The current stage, when it was begun, how many hints were taken, whether you know what root\n\
             # can do here, and for each stage that is done how many minutes after its beginning it was.\n\
             current = \"{current}\"\nbegun = {begun}\nhints = {hints}\ntold_of_root = {told_of_root}\n\n\
             [done]\n{done}"
        );
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).context("writing progress.toml")?;
        file.write_all(text.as_bytes()).context("writing progress.toml")?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.persist(self.folder.join("progress.toml")).context("writing progress.toml")?;
        Ok(())
    }

    /// Gives the learner's Cargo.toml the libraries of the stage's step.
    fn carry_manifest(&self, stage: &Stage) -> Result<()> {
        let file = self.folder.join("Cargo.toml");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let of_step = |step: &Step| stages::manifest(step, &self.name());
        let course: Vec<_> = workspace::steps()?.iter().map(of_step).collect::<Result<_>>()?;
        let (carried, own) = manifest::carried(&text, &course, &of_step(&stage.step)?);
        for line in own {
            println!(
                "{} has another line for a library than {} needs:\n  {line}",
                file.display(),
                stage.step.name
            );
        }
        fs::write(&file, carried).with_context(|| format!("writing {}", file.display()))?;
        self.carry_lock()
    }

    /// Gives the learner the course's versions of the libraries once more: cargo has removed from Cargo.lock
    /// those that the step before did not need.
    fn carry_lock(&self) -> Result<()> {
        let file = self.folder.join("Cargo.lock");
        let reading =
            |file: &Path| fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
        let (course, before) = (reading(&workspace::root().join("Cargo.lock"))?, reading(&file)?);
        let own = format!("name = \"{}\"", self.name());
        let mut names = before.lines().filter(|line| line.starts_with("name = ") && *line != own);
        if names.any(|line| !course.lines().any(|known| known == line)) {
            let kept = self.folder.join("Cargo.lock.before");
            fs::write(&kept, &before).with_context(|| format!("writing {}", kept.display()))?;
            println!("The versions of your own libraries are kept in {}.", kept.display());
        }
        fs::write(&file, course).with_context(|| format!("writing {}", file.display()))
    }

    /// A source that was moved back has the times of before, by which cargo would take it for built.
    fn touch(&self) -> Result<()> {
        let file = self.folder.join("src/main.rs");
        let file =
            fs::File::options().append(true).open(&file).with_context(|| file.display().to_string())?;
        file.set_modified(SystemTime::now()).context("src/main.rs")
    }

    /// Builds the runtime, and shows what cargo says.
    fn build(&self) -> Result<PathBuf> {
        let mut cargo = workspace::cargo();
        cargo.arg("build").current_dir(&self.folder);
        // What cargo set for this program is not meant for the other one.
        cargo.env_remove("CARGO_MANIFEST_DIR");
        workspace::program(&mut cargo).with_context(|| format!("building {}", self.name()))
    }

    /// Builds it and runs the checks, in a process of their own.
    fn verdict(&mut self, options: &[String], in_lab: bool) -> Result<Verdict> {
        let binary = self.build()?;
        let stage = self.stage()?;
        let this = std::env::current_exe()?;
        let (mut checks, binary) = if in_lab {
            let mut lab = self.lab(&[&binary, &this]);
            // What the guest has of the course is this program. It emulates a processor.
            lab.args(["--timeout", "1800", "--", &file_name(&this), "check", &stage.step.name]);
            lab.args(["--first-limit", "60", "--again", "cargo congo check --vm"]);
            let ids = |option: &'static str, checks: Vec<&'static checks::Check>| {
                checks.into_iter().flat_map(move |check| [option, check.id])
            };
            let chosen = |wanted: &[&str]| options.iter().any(|option| wanted.contains(&option.as_str()));
            if !chosen(&["--only"]) {
                lab.args(ids("--only", stages::checks_at(&stage)?));
            }
            if !chosen(&["--only", "--without"]) {
                lab.args(ids("--own", stages::checks_of(&stage)?));
            }
            (lab, Path::new("/congo").join(file_name(&binary)))
        } else {
            self.tell_of_root()?;
            let mut checks = as_root(&this)?;
            checks.args(["check", &stage.step.name, "--stage", &stage.number.to_string()]);
            checks.args(["--again", "cargo congo check"]);
            (checks, binary)
        };
        let status =
            checks.arg("--bin").arg(&binary).args(options).status().context("starting the checks")?;
        Ok(match status.code() {
            Some(0) => Verdict::Passed,
            Some(code) if code == i32::from(check::UNTRIED) => Verdict::Untried,
            _ => Verdict::Failed,
        })
    }

    /// The lab with these programs in it, to which its command is still to be given.
    fn lab(&self, programs: &[&Path]) -> Command {
        let mut lab = lab::command();
        lab.arg("--without-steps");
        for program in programs {
            lab.arg("--copy").arg(program);
        }
        lab
    }

    /// Says once what the learner should know before the runtime runs as root.
    fn tell_of_root(&mut self) -> Result<()> {
        if !needs_root(&self.stage()?) || self.kept.told_of_root {
            return Ok(());
        }
        eprintln!(
            "congo: your runtime runs as root, and what it does not yet hide from the container is this \
             machine's own:\nmounts, host name, processes, network. With --vm it runs in a virtual machine \
             instead. (Told once.)"
        );
        self.kept.told_of_root = true;
        self.write()
    }

    /// Says how to go on where nothing can show that the stage is done.
    fn tell_untried(&self, in_lab: bool) {
        let current = &self.kept.current;
        println!(
            "Stage {current} is not done: of its own checks none could run here, see the reasons above."
        );
        if !in_lab {
            println!("A virtual machine may have what is missing: cargo congo check --vm");
        }
        println!("To go on nevertheless: cargo congo next --skip");
    }

    /// The current stage is done: says so, and makes the next one the current one.
    fn go_on(&mut self) -> Result<()> {
        let current = self.kept.current.clone();
        let minutes = now().saturating_sub(self.kept.begun).div_ceil(60);
        println!(
            "\nStage {current} is done, {minutes} minutes after its beginning. Compare: cargo congo solution"
        );
        self.kept.done.entry(current).or_insert(minutes);
        self.advance()
    }

    /// Makes the next stage the current one.
    fn advance(&mut self) -> Result<()> {
        let stage = self.stage()?;
        match stages::after(&stage)? {
            None => println!("That was the last stage. You have built a container runtime."),
            Some(next) => {
                if next.step != stage.step {
                    println!(
                        "That was the last stage of {0}. Its exercises: cargo congo list {0}. Now read \
                         {1}/README.md, up to its stages.",
                        stage.step.name, next.step.name
                    );
                    self.carry_manifest(&next)?;
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
        if self.folder.join("src").exists() {
            fs::rename(self.folder.join("src"), &kept).context("putting your source aside")?;
            println!("Your source is kept in {}.", kept.display());
        }
        stages::copy(source, &self.folder.join("src"))
    }
}

/// The settings of cargo in the learner's folder: the libraries are built once, for the course and for this,
/// and `cargo congo` works there, too.
///
/// # Errors
/// When the course's manifest is not as expected.
pub(crate) fn settings() -> Result<String> {
    let course = workspace::root().display().to_string();
    let mut text = format!("[build]\ntarget-dir = \"{course}/target\"\n");
    // An alias is split at its spaces.
    if !course.contains(char::is_whitespace) {
        text += &format!(
            "\n[alias]\ncongo = \"run --quiet --manifest-path {course}/Cargo.toml --package congo --\"\n"
        );
    }
    // In a manifest cargo would warn of each library that the package does not use.
    let manifest: toml::Table = fs::read_to_string(workspace::root().join("Cargo.toml"))?.parse()?;
    let packages = manifest["profile"]["dev"]["package"].as_table().context("Cargo.toml has no profile")?;
    for (library, profile) in packages {
        if let Some(level) = profile.get("opt-level").and_then(toml::Value::as_integer) {
            text += &format!("\n[profile.dev.package.{library}]\nopt-level = {level}\n");
        }
    }
    Ok(text)
}

/// Whether the runtime of this stage refuses to run as an ordinary user.
fn needs_root(stage: &Stage) -> bool {
    let number = stage.step.number;
    number < ROOTLESS || (number == ROOTLESS && stage.name.as_str() < FIRST_WITHOUT_ROOT)
}

/// The command that runs a program as root.
pub(crate) fn as_root(program: &Path) -> Result<Command> {
    root::command(program).context("this needs root, and sudo cannot be asked: start it again as root")
}

/// Refuses to build as root what an ordinary user has to build again: with sudo, the files in the target
/// folder would be root's.
pub(crate) fn refuse_sudo() -> Result<()> {
    let owner = fs::metadata(workspace::root())?.uid();
    let by_sudo = geteuid().is_root() && std::env::var_os("SUDO_UID").is_some() && owner != 0;
    ensure!(!by_sudo, "started by sudo: start it without, it asks sudo for the part that needs root");
    Ok(())
}

/// Keeps the course's repository, if it is one, from listing the learner's folder. Not by a file in the
/// folder: that one may become a repository of the learner's own.
fn hide_from_git(folder: &Path) -> Result<()> {
    let git = |words: &[&str]| -> Option<String> {
        let output = Command::new("git").arg("rev-parse").args(words).current_dir(folder).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (Some(path), Some(file)) = (git(&["--show-prefix"]), git(&["--git-path", "info/exclude"])) else {
        return Ok(());
    };
    let (file, line) = (folder.join(file), format!("/{path}"));
    let hiding = || format!("writing {}", file.display());
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(hiding),
    };
    if !text.split(|&byte| byte == b'\n').any(|known| known == line.as_bytes()) {
        fs::create_dir_all(file.parent().unwrap_or(folder)).with_context(hiding)?;
        let end = if text.is_empty() || text.ends_with(b"\n") { "" } else { "\n" };
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&file).with_context(hiding)?;
        file.write_all(format!("{end}{line}\n").as_bytes()).with_context(hiding)?;
    }
    Ok(())
}

/// When each file below the folder was last changed. A file that is not there at the moment is none.
fn times(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(times(&entry.path())),
            _ => {
                let changed = entry.metadata().and_then(|metadata| metadata.modified());
                found.extend(changed.ok().map(|changed| (entry.path(), changed)));
            }
        }
    }
    found
}

fn file_name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_needs_root_up_to_the_stage_that_takes_the_demand_away() {
        for stage in stages::all().unwrap() {
            let patch = fs::read_to_string(stage.folder().join("change.patch")).unwrap();
            let takes_away = patch.contains("\n-    process::require_root()?;\n");
            assert_eq!(takes_away, stage.name == FIRST_WITHOUT_ROOT, "{}", stage.id());
            let before = (stage.step.number, stage.name.as_str()) < (ROOTLESS, FIRST_WITHOUT_ROOT);
            assert_eq!(needs_root(&stage), before, "{}", stage.id());
        }
    }

    #[test]
    fn the_learners_libraries_are_built_as_the_courses_are() {
        let of = |text: &str, libraries: &str| -> BTreeMap<String, toml::Value> {
            let table: toml::Table = text.parse().unwrap();
            let packages = table["profile"]["dev"]["package"].as_table().unwrap();
            packages
                .clone()
                .into_iter()
                .filter(|(library, _)| (library == "*") == (libraries == "all"))
                .collect()
        };
        let course = fs::read_to_string(workspace::root().join("Cargo.toml")).unwrap();
        assert_eq!(of(&settings().unwrap(), "single"), of(&course, "single"));
        for step in workspace::steps().unwrap() {
            let manifest = stages::manifest(&step, "mine").unwrap();
            assert_eq!(of(&manifest, "all"), of(&course, "all"));
            assert_eq!(of(&manifest, "single"), BTreeMap::new());
        }
    }
}
