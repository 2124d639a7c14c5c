//! `cargo congo diff`: what a step, or one of its stages, changes, in the order in which it is best read.
//!
//! A change of imports says nothing to a reader. So it becomes one line that counts them.

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

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Show what changes from one step to the next, or in one stage: the story first, the options last. Changed
/// imports are counted, not shown.
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

    /// Show the lines of changed imports, too.
    #[arg(long)]
    imports: bool,
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
    let mut text = String::new();
    for file in files(&old, &new)? {
        let lines = difference(folder.path(), &file)?;
        let imports = |side: &Path| fs::read_to_string(side.join("src").join(&file)).unwrap_or_default();
        let lines = match args.imports {
            true => lines.lines().map(str::to_owned).collect(),
            false => folded(&lines, &imports_of(&imports(&old)), &imports_of(&imports(&new))),
        };
        for line in lines {
            text += &if io::stdout().is_terminal() { coloured(&line) } else { line };
            text.push('\n');
        }
    }
    page(text.as_bytes())
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

fn difference(folder: &Path, file: &OsString) -> Result<String> {
    let side = |name: &str| {
        let path = PathBuf::from(name).join("src").join(file);
        if folder.join(&path).exists() { path } else { "/dev/null".into() }
    };
    let output = Command::new("git")
        .args(["diff", "--no-index", "--no-renames", "--no-prefix", "--no-ext-diff", "--no-color"])
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
    Ok(String::from_utf8(output.stdout)?)
}

/// The numbers of the lines, from 1, that belong to the imports at the top of a source file.
fn imports_of(source: &str) -> BTreeSet<usize> {
    let (mut found, mut is_open) = (BTreeSet::new(), false);
    for (index, line) in source.lines().enumerate() {
        is_open |= ["use ", "pub use ", "pub(crate) use "].iter().any(|start| line.starts_with(start));
        if is_open {
            found.insert(index + 1);
            is_open = !line.contains(';');
        }
    }
    found
}

/// The difference of one file, with one line for each group of imports among which some have changed. `old`
/// and `new` are the numbers of the lines of imports on both sides.
fn folded(difference: &str, old: &BTreeSet<usize>, new: &BTreeSet<usize>) -> Vec<String> {
    let mut lines = difference.lines().peekable();
    let mut text = Vec::new();
    while let Some(line) = lines.next() {
        let Some((mut before, mut after)) = starts(line) else {
            text.push(line.to_owned());
            continue;
        };
        // The lines of this part, and whether each of them is an import.
        let mut part: Vec<(&str, bool)> = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with([' ', '-', '+', '\\'])) {
            let is_import = match line.as_bytes()[0] {
                b'+' => new.contains(&after),
                b'-' => old.contains(&before),
                _ => old.contains(&before) && new.contains(&after),
            };
            before += usize::from(line.starts_with([' ', '-']));
            after += usize::from(line.starts_with([' ', '+']));
            part.push((line, is_import));
        }
        let is_changed = |line: &str| line.starts_with(['-', '+']) && line.len() > 1;
        let has_more = part.iter().any(|(line, is_import)| is_changed(line) && !is_import);
        if has_more {
            text.push(line.to_owned());
        }
        let mut rest = &*part;
        while let Some((line, is_import)) = rest.first() {
            let group = match is_import {
                // Empty lines between imports belong to them.
                true => {
                    let length = rest.iter().position(|(line, is_import)| !is_import && line.len() > 1);
                    let group = &rest[..length.unwrap_or(rest.len())];
                    &group[..group.iter().rposition(|(_, is_import)| *is_import).map_or(0, |last| last + 1)]
                }
                false => &[],
            };
            let count =
                |sign| group.iter().filter(|(line, _)| line.starts_with(sign) && line.len() > 1).count();
            let (added, removed) = (count('+'), count('-'));
            if added + removed > 0 {
                text.push(format!(
                    "@@ imports: {added} lines added, {removed} removed (--imports shows them) @@"
                ));
                rest = &rest[group.len()..];
            } else {
                if has_more {
                    text.push((*line).to_owned());
                }
                rest = &rest[1..];
            }
        }
    }
    text
}

/// Where a part of a difference starts, on both sides, by its header: `@@ -1,7 +1,9 @@`.
fn starts(header: &str) -> Option<(usize, usize)> {
    let mut words = header.strip_prefix("@@ ")?.split(' ');
    let mut number = |sign| words.next()?.strip_prefix(sign)?.split(',').next()?.parse().ok();
    Some((number('-')?, number('+')?))
}

fn coloured(line: &str) -> String {
    let colour = match line {
        _ if line.starts_with("@@ imports: ") => DIM,
        _ if line.starts_with("@@ ") => CYAN,
        _ if ["diff ", "index ", "--- ", "+++ ", "new file "].iter().any(|it| line.starts_with(it)) => BOLD,
        _ if line.starts_with('+') => GREEN,
        _ if line.starts_with('-') => RED,
        _ => return line.to_owned(),
    };
    format!("{colour}{line}{PLAIN}")
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

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "//! Text.\n\nuse std::fs;\n\nuse nix::{\n    a,\n};\n\nfn one() {}\n\nfn two() {}\n";
    const NEW: &str = "//! Text.\n\nuse std::fs;\nuse std::io;\n\nuse nix::{\n    a,\n    b,\n};\n\n\
                       fn one() { io() }\n\nfn two() {}\n";

    fn fold(old: &str, new: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (side, text) in [("before", old), ("after", new)] {
            fs::create_dir_all(folder.path().join(side).join("src")).unwrap();
            fs::write(folder.path().join(side).join("src/a.rs"), text).unwrap();
        }
        let difference = difference(folder.path(), &"a.rs".into()).unwrap();
        folded(&difference, &imports_of(old), &imports_of(new)).join("\n")
    }

    #[test]
    fn changed_imports_are_counted_and_nothing_else_is_lost() {
        let text = fold(OLD, NEW);
        assert!(text.contains("@@ imports: 2 lines added, 0 removed"), "{text}");
        assert!(!text.contains("use ") && !text.contains("    b,"), "{text}");
        for line in ["\n-fn one() {}\n", "\n+fn one() { io() }\n", "\n fn two() {}", "\n //! Text.\n"] {
            assert!(text.contains(line), "{line:?} is not in: {text}");
        }
    }

    #[test]
    fn a_part_of_imports_alone_is_one_line() {
        let text = fold(OLD, &OLD.replace("    a,\n", "    a,\n    c,\n"));
        let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("+++")).skip(1).collect();
        assert_eq!(lines, ["@@ imports: 1 lines added, 0 removed (--imports shows them) @@"]);
    }

    #[test]
    fn imports_that_stay_and_those_of_a_module_of_tests_are_shown() {
        let (old, new) = ("use std::fs;\n\nfn a() {}\n", "use std::fs;\n\nfn b() {}\n    use super::*;\n");
        let text = fold(old, new);
        assert!(text.contains(" use std::fs;") && text.contains("+    use super::*;"), "{text}");
        assert!(!text.contains("imports:"), "{text}");
    }

    #[test]
    fn no_line_of_the_course_is_lost() {
        for (from, to) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            let sides = [from, to].map(|step| {
                let step = workspace::step(&u8::to_string(&step)).unwrap();
                workspace::root().join(step.name).join("src/container.rs")
            });
            let [old, new] = sides.map(|file| fs::read_to_string(file).unwrap());
            let shown = fold(&old, &new);
            let is_code = |line: &&str| !line.is_empty() && !line.ends_with([',', ';', '{', '}']);
            for line in new.lines().filter(is_code).filter(|line| !old.contains(line)) {
                assert!(shown.contains(&format!("+{line}\n")), "{line}: {shown}");
            }
        }
    }
}
