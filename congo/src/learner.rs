//! The learner's own runtime: the commands about it.
//!
//! It is a package in a folder that git ignores. `mine/Cargo.toml` is a workspace of its own that uses the
//! course's target folder. `mine/progress.toml` says which stage is the current one, which are done, and how
//! many hints were taken.

mod package;
mod progress;
mod trial;

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

pub use package::settings;
use progress::{Kept, Mine};
use trial::Verdict;

use crate::root::{self, needs_root};
use crate::stages;
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

    /// Take the course's source in the place of yours, and go on: the stage is then not counted as done. Your
    /// source is kept beside the new one.
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
        if let Some(folder) = Mine::folders()?.first() {
            bail!("your runtime is in {} already: cargo congo next", folder.display());
        }
        // From a folder of the course, the runtime is not to become a part of that folder.
        let here = std::env::current_dir()?;
        let folder = progress::course_around(&here).unwrap_or(here).join(&self.folder);
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
        package::hide_from_git(&folder)?;
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
            "Your runtime is in {}/src. {begins}\n\n\
             cargo congo next      the next task\n\
             cargo congo check     builds your runtime and checks the stage\n\
             cargo congo watch     the same, whenever you save a file\n\
             cargo congo hint      a hint, and another one the next time\n\
             cargo congo solution  the course's own source beside yours, when the stage is done\n\
             cargo congo progress  where you are\n",
            mine.shown()
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
        println!("\nThe files are in {}/src. Then: cargo congo check", mine.shown());
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
        let raised = needs_root(&mine.stage()?).then(|| root::demand(&binary));
        let mut command = raised.unwrap_or_else(|| Ok(Command::new(&binary)))?;
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
        loop {
            if io::stdout().is_terminal() {
                print!("\x1b[2J\x1b[H");
            }
            // That this touches a file is no change of the learner's. An editor may have taken the file away
            // for a moment: then the next look finds it.
            let touched = mine.touch();
            let mut seen = mine.times();
            match touched.and_then(|()| self.check()) {
                Ok(false) => {}
                // Cargo.toml then has the libraries of the next step, which is no change of the learner's.
                Ok(true) => seen.extend(mine.manifest_time()),
                Err(error) => println!("{error:#}"),
            }
            println!("\nWaiting for the next change in {}. Ctrl-C ends this.", mine.shown());
            while mine.times() == seen {
                sleep(LOOK);
            }
        }
    }

    /// Returns whether another step has begun.
    fn check(&self) -> Result<bool> {
        // Once more: another terminal may have taken a hint.
        let mut mine = Mine::find()?;
        let stage = mine.stage()?;
        println!("{}", Task::of(&stage)?.title());
        match mine.verdict(&[], self.vm)? {
            Verdict::Passed => mine.go_on()?,
            Verdict::Untried => mine.tell_untried(self.vm),
            Verdict::Failed => {}
        }
        Ok(mine.stage()?.step != stage.step)
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
    /// Shows the solution of the stage before the current one, which is done, or of the current one, which is
    /// given up.
    ///
    /// # Errors
    /// When the current stage is neither done nor given up.
    pub fn run(&self) -> Result<ExitCode> {
        let mut mine = Mine::find()?;
        let current = mine.stage()?;
        let all = stages::all()?;
        let stage = match mine.kept.to_compare(&all) {
            _ if self.give_up => &current,
            Some(done) => done,
            None => {
                bail!("stage {} is not done yet: --give-up shows its solution all the same", current.id())
            }
        };
        let reference = tempfile::tempdir()?;
        stages::write_after(stage, reference.path())?;
        if self.take {
            mine.replace_source(&reference.path().join("src"), stage)?;
            println!("{}/src is now the course's own, at the end of stage {}.", mine.shown(), stage.id());
            mine.kept.taken.insert(stage.id());
            mine.advance()?;
            return Ok(ExitCode::SUCCESS);
        }
        println!("From your source (-) to the course's own (+), at the end of stage {}:\n", stage.id());
        stages::compare(&mine.folder.join("src"), &reference.path().join("src"))?;
        task::show(&format!("\n{}", Task::of(stage)?.answers));
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
        let all = stages::all()?;
        for stage in &all {
            let task = Task::of(stage)?;
            let planned = task.minutes().map_or(String::new(), |minutes| format!("{minutes} minutes"));
            println!("{:60} {planned:12} {}", task.title(), mine.kept.state(stage, &all));
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
        mine.kept.begin_anew(&stage);
        mine.write()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses to build as root what an ordinary user has to build again: with sudo, the files in the target
/// folder would be root's.
pub(crate) fn refuse_sudo() -> Result<()> {
    let owner = fs::metadata(workspace::root())?.uid();
    let by_sudo = geteuid().is_root() && std::env::var_os("SUDO_UID").is_some() && owner != 0;
    ensure!(!by_sudo, "started by sudo: start it without, it asks sudo for the part that needs root");
    Ok(())
}

fn file_name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
