//! `cargo congo diff`: what a step, or one of its stages, changes, in the order in which it is best read.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::stages;
use crate::workspace;

/// The status of a shell whose program is not there.
const NO_SUCH_PROGRAM: i32 = 127;

/// Show what changes from one step to the next, or in one stage: the story first, the options last.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The earlier step, or with --stage the step of the stage: `2`.
    from: String,

    /// The later step: `3`.
    #[arg(required_unless_present = "stage", conflicts_with = "stage")]
    to: Option<String>,

    /// Show this stage of the step alone.
    #[arg(long, value_name = "NUMBER")]
    stage: Option<usize>,
}

/// Runs the tool.
///
/// # Errors
/// When there is no such step or stage, or git cannot be started.
pub fn run(args: &Args) -> Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    let (old, new) = (folder.path().join("before"), folder.path().join("after"));
    fs::create_dir(&old)?;
    fs::create_dir(&new)?;
    let from = workspace::step(&args.from)?;
    match (&args.to, args.stage) {
        (Some(to), _) => {
            stages::copy(&workspace::root().join(&from.name).join("src"), &old.join("src"))?;
            let to = workspace::step(to)?;
            stages::copy(&workspace::root().join(to.name).join("src"), &new.join("src"))?;
        }
        (None, number) => {
            let stage = stages::find(&format!("{}.{}", from.number, number.unwrap_or_default()))?;
            stages::write_before(&stage, &old)?;
            stages::write_after(&stage, &new)?;
        }
    }
    let mut text = Vec::new();
    for file in files(&old, &new)? {
        text.extend(difference(folder.path(), &file)?);
    }
    page(&text)
}

/// The names of all files: the story and the preparations first, then one file for each subject, and the
/// modules and options last.
fn files(old: &Path, new: &Path) -> Result<Vec<OsString>> {
    let mut names = BTreeSet::new();
    for folder in [old, new] {
        for entry in folder.join("src").read_dir()? {
            names.insert(entry?.file_name());
        }
    }
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_by_key(|name| match name.to_str() {
        Some("container.rs") => 0,
        Some("plan.rs") => 1,
        Some("main.rs") => 3,
        Some("cli.rs") => 4,
        _ => 2,
    });
    Ok(names)
}

fn difference(folder: &Path, file: &OsString) -> Result<Vec<u8>> {
    let colour = if io::stdout().is_terminal() { "--color=always" } else { "--color=never" };
    let side = |name: &str| {
        let path = PathBuf::from(name).join("src").join(file);
        if folder.join(&path).exists() { path } else { "/dev/null".into() }
    };
    let output = Command::new("git")
        .args(["diff", "--no-index", "--no-renames", "--no-prefix", colour])
        .args([side("before"), side("after")])
        .current_dir(folder)
        .env("GIT_CEILING_DIRECTORIES", folder)
        .output()
        .context("starting git")?;
    // 1 says that they differ.
    ensure!(
        output.status.code().is_some_and(|code| code < 2),
        "git diff: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// Shows a text in the caller's pager, or prints it where there is no terminal.
fn page(text: &[u8]) -> Result<ExitCode> {
    let pager = std::env::var("PAGER").ok().filter(|pager| !pager.is_empty());
    let pager = pager.unwrap_or_else(|| "less".to_owned());
    let mut command = Command::new("sh");
    command.args(["-c", &pager]).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        // Colours as they are, and no page for what fits on one: git does the same.
        command.env("LESS", "FRX");
    }
    if io::stdout().is_terminal()
        && let Ok(mut child) = command.spawn()
    {
        // A reader who leaves before the end has seen enough.
        let _ = child.stdin.take().context("a pager without stdin")?.write_all(text);
        if child.wait()?.code() != Some(NO_SUCH_PROGRAM) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    io::stdout().write_all(text)?;
    Ok(ExitCode::SUCCESS)
}
