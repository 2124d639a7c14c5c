//! The learner's runtime, built and tried: on this machine or in the lab.
//!
//! Programs are built as the caller. Two things become root, through sudo: a runtime whose step needs that,
//! and the checks, where they look at processes of root.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use checks::{Check, Need};

use super::file_name;
use super::progress::Mine;
use crate::root::{self, needs_root};
use crate::stages::{self, Stage};
use crate::{check, lab, workspace};

/// What came of the checks.
pub(super) enum Verdict {
    Passed,
    Failed,
    /// None failed, and of the stage's own checks none could run.
    Untried,
}

impl Mine {
    /// A source that was moved back has the times of before, by which cargo would take it for built.
    pub(super) fn touch(&self) -> Result<()> {
        let file = self.folder.join("src/main.rs");
        let file =
            fs::File::options().append(true).open(&file).with_context(|| file.display().to_string())?;
        file.set_modified(SystemTime::now()).context("src/main.rs")
    }

    /// Builds the runtime, and shows what cargo says.
    pub(super) fn build(&self) -> Result<PathBuf> {
        let mut cargo = workspace::cargo();
        cargo.arg("build").current_dir(&self.folder);
        // What cargo set for this program is not meant for the other one.
        cargo.env_remove("CARGO_MANIFEST_DIR");
        workspace::program(&mut cargo).with_context(|| format!("building {}", self.name()))
    }

    /// Builds it and runs the checks, in a process of their own.
    pub(super) fn verdict(&mut self, options: &[String], in_lab: bool) -> Result<Verdict> {
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
            let mut checks = checking(&this, &stage, options)?;
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
    pub(super) fn lab(&self, programs: &[&Path]) -> Command {
        let mut lab = lab::command();
        lab.arg("--without-steps");
        for program in programs {
            lab.arg("--copy").arg(program);
        }
        lab
    }

    /// Says once what the learner should know before the runtime runs as root.
    pub(super) fn tell_of_root(&mut self) -> Result<()> {
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
    pub(super) fn tell_untried(&self, in_lab: bool) {
        let current = &self.kept.current;
        println!(
            "Stage {current} is not done: of its own checks none could run here, see the reasons above."
        );
        if !in_lab {
            println!("A virtual machine may have what is missing: cargo congo check --vm");
        }
        println!("To go on nevertheless: cargo congo next --skip");
    }

    /// When each file was last changed of which the runtime is built. Cargo itself writes Cargo.lock.
    pub(super) fn times(&self) -> BTreeMap<PathBuf, SystemTime> {
        let mut found = times(&self.folder.join("src"));
        found.extend(self.manifest_time());
        found.extend(time(self.folder.join("build.rs")));
        found
    }

    /// When Cargo.toml was last changed.
    pub(super) fn manifest_time(&self) -> Option<(PathBuf, SystemTime)> {
        time(self.folder.join("Cargo.toml"))
    }
}

/// The command for this program that runs the stage's checks: as root where the runtime needs that, or one of
/// the checks. Where only a check needs root and there is no sudo, that check is skipped.
fn checking(this: &Path, stage: &Stage, options: &[String]) -> Result<Command> {
    if needs_root(stage) {
        return root::demand(this);
    }
    let raised = looks_as_root(stage, options)?
        .then(|| root::command(this, "some of these checks look at what only root sees"));
    Ok(raised.flatten().unwrap_or_else(|| Command::new(this)))
}

/// Whether one of the chosen checks needs root: without `--only`, one of the stage's own.
fn looks_as_root(stage: &Stage, options: &[String]) -> Result<bool> {
    let only: Vec<_> = options.windows(2).filter(|pair| pair[0] == "--only").map(|pair| &pair[1]).collect();
    let chosen = if only.is_empty() { stages::checks_of(stage)? } else { stages::checks_at(stage)? };
    let needs_root = |check: &&Check| check.needs.contains(&Need::Root);
    Ok(chosen.into_iter().any(|check| needs_root(&check) && check::is_wanted(&only, check.id)))
}

/// When each file below the folder was last changed. A file that is not there at the moment is none.
fn times(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(times(&entry.path())),
            _ => found.extend(time(entry.path())),
        }
    }
    found
}

fn time(file: PathBuf) -> Option<(PathBuf, SystemTime)> {
    let changed = fs::metadata(&file).and_then(|metadata| metadata.modified()).ok()?;
    Some((file, changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_asked_for_only_where_a_chosen_check_needs_it() {
        let stage = stages::find("4.9").unwrap();
        let asks = |only: &[&str]| {
            let options: Vec<_> = only.iter().flat_map(|id| ["--only".to_owned(), id.to_string()]).collect();
            looks_as_root(&stage, &options).unwrap()
        };
        assert!(asks(&[]) && asks(&["rootless"]) && asks(&["rootless.state", "rootless.keep-id"]));
        assert!(!asks(&["rootless.state"]) && !asks(&["exit", "rootless.one-user"]));
    }
}
