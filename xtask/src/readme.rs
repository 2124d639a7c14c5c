//! `cargo xtask readme`: runs what the documentation shows, and compares.
//!
//! Every block of a Markdown file that is marked `console` is a session with a shell:
//!
//! ```text
//! $ a command that is run
//! > its next line
//! the output that is expected, of stdout and stderr together
//! …            (alone: any number of lines; within a line: any text)
//! ```
//!
//! All commands of a block go to one shell, so variables, files and `$?` last. Each block has a folder of its
//! own, in which the workspace lies as in a clone, and as root a network of its own. `console,root` runs only
//! as root; `console,user` only as an ordinary user, which root becomes for it; `console,ignore=REASON`
//! never. What is shown as a session without being marked so is an error, since nobody would run it.

mod sandbox;

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use regex::Regex;

use crate::check;
use crate::workspace;
pub use sandbox::Sandbox;
use sandbox::Who;

/// Stands between the outputs of two commands.
const END_OF_OUTPUT: &str = "=== end of output ===\n";

/// A table that a tool prints, and in which document it stands.
struct Table {
    file: &'static str,
    begin: &'static str,
    end: &'static str,
    command: &'static str,
    print: fn() -> Result<String>,
}

const TABLES: [Table; 3] = [
    Table {
        file: "README.md",
        begin: "<!-- matrix: begin (cargo xtask check --matrix) -->\n",
        end: "<!-- matrix: end -->",
        command: "cargo xtask check --matrix",
        print: check::matrix,
    },
    Table {
        file: "docs/src/security.md",
        begin: "<!-- security: begin (cargo xtask security --table) -->\n",
        end: "<!-- security: end -->",
        command: "cargo xtask security --table",
        print: || Ok(checks::security::table()),
    },
    Table {
        file: "docs/src/reference.md",
        begin: "<!-- docker: begin (cargo xtask check --docker) -->\n",
        end: "<!-- docker: end -->",
        command: "cargo xtask check --docker",
        print: || Ok(check::docker()),
    },
];

/// Run the sessions that the documentation shows, and compare what they print.
#[derive(clap::Args)]
pub struct Args {
    /// Markdown files [default: all READMEs and the book]
    files: Vec<PathBuf>,
    /// Put what the commands print now in the place of what is not right any more
    #[arg(long)]
    write: bool,
}

/// Runs the blocks one after the other; fails when one printed something else, unless that was to be written.
///
/// # Errors
/// When a file cannot be read or is malformed, or the steps cannot be built.
pub fn run(args: &Args) -> Result<ExitCode> {
    let files = if args.files.is_empty() { documents()? } else { args.files.clone() };
    let sandbox = Sandbox::new()?;
    let mut failed = false;
    for file in files {
        let mut edits = Vec::new();
        for block in blocks(&file)? {
            if let Some(reason) = block.skipped() {
                println!("{}  not run: {reason}", block.name);
                continue;
            }
            let outputs = block.outputs(&sandbox);
            let Err(difference) = block.compare(&outputs) else {
                println!("{}  ok", block.name);
                continue;
            };
            println!("{}  {}\n{difference}", block.name, if args.write { "written anew" } else { "FAILED" });
            failed |= !args.write;
            edits.extend(block.edits(&outputs));
        }
        if args.write {
            write(&file, edits)?;
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Every document whose sessions must hold: the READMEs and the book's own pages.
///
/// # Errors
/// When a folder cannot be read.
pub fn documents() -> Result<Vec<PathBuf>> {
    let root = workspace::root();
    let mut files = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    files.extend(workspace::steps()?.iter().map(|step| root.join(&step.name).join("README.md")));
    let mut pages = Vec::new();
    for entry in root.join("docs/src").read_dir().context("reading docs/src")? {
        pages.push(entry?.path());
    }
    pages.sort();
    files.extend(pages.into_iter().filter(|page| page.extension().is_some_and(|ext| ext == "md")));
    Ok(files)
}

/// Whether the tables in the documents are what the tools print.
///
/// # Errors
/// When one is not, or its document has no place for it.
pub fn compare_tables() -> Result<()> {
    for Table { file, begin, end, command, print } in &TABLES {
        let text =
            fs::read_to_string(workspace::root().join(file)).with_context(|| format!("reading {file}"))?;
        let place = place(&text, begin, end).with_context(|| (*file).to_owned())?;
        ensure!(
            text[place].trim() == print()?.trim(),
            "{file}: a table is not what `{command}` prints: run `cargo xtask readme --write`"
        );
    }
    Ok(())
}

fn place(text: &str, begin: &str, end: &str) -> Result<Range<usize>> {
    let start = text.find(begin).with_context(|| format!("no line {begin}"))? + begin.len();
    let length = text[start..].find(end).with_context(|| format!("no line {end}"))?;
    Ok(start..start + length)
}

/// Replaces ranges of a file's lines, given in their order.
fn write(file: &Path, edits: Vec<(Range<usize>, Vec<String>)>) -> Result<()> {
    let old = fs::read_to_string(file)?;
    let mut lines: Vec<_> = old.lines().map(str::to_owned).collect();
    for (range, replacement) in edits.into_iter().rev() {
        lines.splice(range, replacement);
    }
    let mut text = lines.join("\n") + "\n";
    for table in &TABLES {
        if !file.ends_with(table.file) || !text.contains(table.begin) {
            continue;
        }
        let place = place(&text, table.begin, table.end)?;
        text.replace_range(place, &(table.print)()?);
    }
    if text != old {
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// One session in a document.
#[derive(Debug)]
pub struct Block {
    /// Where it stands: `step0-basic/README.md:13`.
    pub name: String,
    who: Who,
    needs: Option<checks::Need>,
    ignored: Option<String>,
    indent: String,
    commands: Vec<Typed>,
}

/// What is typed at one prompt, and what is expected to come.
#[derive(Debug)]
struct Typed {
    script: String,
    expected: Vec<String>,
    /// The lines in the file at which `expected` stands, from 0.
    lines: Range<usize>,
}

/// The sessions of a document.
///
/// # Errors
/// When it cannot be read, or a block is not well formed.
pub fn blocks(file: &Path) -> Result<Vec<Block>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let name = file.strip_prefix(workspace::root()).unwrap_or(file).display().to_string();
    parse(&name, &text)
}

fn parse(file: &str, text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, fence)) = lines.next() {
        let Some((indent, tag)) = fence.split_once("```").filter(|(indent, _)| indent.trim().is_empty())
        else {
            continue;
        };
        let name = format!("{file}:{}", number + 1);
        let strip = |line: &str| line.strip_prefix(indent).unwrap_or(line.trim_start()).to_owned();
        let body: Vec<_> = lines
            .by_ref()
            .map(|(number, line)| (number, strip(line)))
            .take_while(|(_, line)| !line.starts_with("```"))
            .collect();
        let (language, options) = tag.split_once(',').unwrap_or((tag, ""));
        if language != "console" {
            let session = body.first().is_some_and(|(_, line)| line.starts_with("$ "));
            ensure!(!session, "{name}: a session that nobody runs: mark it as ```console");
            continue;
        }
        let ignored = options.strip_prefix("ignore=").map(str::to_owned);
        ensure!(
            matches!(options, "" | "root" | "root,no-swap" | "root,busybox" | "user")
                || ignored.as_ref().is_some_and(|reason| !reason.is_empty()),
            "{name}: `{options}`: expected `root`, `user` or `ignore=REASON`"
        );
        let needs = match options {
            "root,no-swap" => Some(checks::Need::NoSwap),
            "root,busybox" => Some(checks::Need::Program("busybox")),
            _ => None,
        };
        let who = match options {
            "user" => Who::User,
            _ if options.starts_with("root") => Who::Root,
            _ => Who::Caller,
        };
        let commands = typed(&body).with_context(|| name.clone())?;
        blocks.push(Block { name, who, needs, ignored, indent: indent.to_owned(), commands });
    }
    Ok(blocks)
}

fn typed(body: &[(usize, String)]) -> Result<Vec<Typed>> {
    let mut commands: Vec<Typed> = Vec::new();
    for (number, line) in body {
        let after = number + 1;
        if let Some(script) = line.strip_prefix("$ ") {
            commands.push(Typed { script: script.to_owned(), expected: Vec::new(), lines: after..after });
            continue;
        }
        let Some(last) = commands.last_mut() else { bail!("a session begins with `$ ` and a command") };
        match line.strip_prefix("> ").or((line == ">").then_some("")) {
            Some(more) if last.expected.is_empty() => {
                write!(last.script, "\n{more}")?;
                last.lines = after..after;
            }
            _ => {
                last.expected.push(line.clone());
                last.lines.end = after;
            }
        }
    }
    ensure!(!commands.is_empty(), "a session without a command");
    Ok(commands)
}

impl Block {
    /// Why this block is not run here, if it is not.
    pub fn skipped(&self) -> Option<String> {
        match &self.ignored {
            Some(reason) => Some(reason.clone()),
            None if self.who == Who::Root && !geteuid().is_root() => Some("needs root".to_owned()),
            None => self.needs.and_then(|need| need.met().err()),
        }
    }

    /// Runs the commands and compares what they print.
    ///
    /// # Errors
    /// What was expected and what came, for the first command that printed something else.
    pub fn check(&self, sandbox: &Sandbox) -> Result<(), String> {
        self.compare(&self.outputs(sandbox))
    }

    /// What each command prints.
    fn outputs(&self, sandbox: &Sandbox) -> Vec<Vec<String>> {
        // The marker must leave `$?` as it is, for a next command that shows it.
        let mut script =
            format!("end() {{ set -- $?; printf '{}'; return $1; }}\n", END_OF_OUTPUT.replace('\n', "\\n"));
        for command in &self.commands {
            script += &command.script;
            script += "\nend\n";
        }
        let printed = sandbox.shell(&script, self.who);
        let mut outputs: Vec<_> = printed.split(END_OF_OUTPUT).map(lines_of).collect();
        // After the last marker comes nothing, unless the shell itself ended early.
        if outputs.len() > self.commands.len() {
            outputs.pop();
        }
        outputs.resize(self.commands.len(), vec!["(the shell had ended before this command)".to_owned()]);
        outputs
    }

    fn compare(&self, outputs: &[Vec<String>]) -> Result<(), String> {
        for (command, found) in self.commands.iter().zip(outputs) {
            if align(&command.expected, found).0 != 0 {
                let list =
                    |lines: &[String]| lines.iter().map(|line| format!("    {line}\n")).collect::<String>();
                return Err(format!(
                    "  $ {}\n  expected\n{}  found\n{}",
                    command.script,
                    list(&command.expected),
                    list(found)
                ));
            }
        }
        Ok(())
    }

    /// What to write into the file, and in the place of which lines.
    fn edits(&self, outputs: &[Vec<String>]) -> Vec<(Range<usize>, Vec<String>)> {
        let line = |line: String| if line.is_empty() { line } else { format!("{}{line}", self.indent) };
        let edit = |(command, found): (&Typed, &Vec<String>)| {
            (command.lines.clone(), align(&command.expected, found).1.into_iter().map(line).collect())
        };
        self.commands.iter().zip(outputs).map(edit).collect()
    }
}

fn lines_of(output: &str) -> Vec<String> {
    output.lines().map(str::to_owned).collect()
}

/// Fits expected lines to those that were found: how many had to be changed, and the lines that fit. Those
/// that fit already stay as they are, and with them their `…`.
fn align(expected: &[String], found: &[String]) -> (usize, Vec<String>) {
    let fits = |i: usize, j: usize| expected[i] == found[j] || pattern(&expected[i]).is_match(&found[j]);
    // best[i][j]: the least number of changes that fit the expected lines from i on to the found ones from j
    // on.
    let mut best = vec![vec![0_usize; found.len() + 1]; expected.len() + 1];
    for i in (0..=expected.len()).rev() {
        for j in (0..=found.len()).rev() {
            best[i][j] = match (expected.get(i), found.get(j)) {
                (None, _) => found.len() - j,
                (Some(line), None) => best[i + 1][j] + usize::from(line != "…"),
                (Some(line), Some(_)) if line == "…" => best[i + 1][j].min(best[i][j + 1]),
                (Some(_), Some(_)) if fits(i, j) => best[i + 1][j + 1],
                (Some(_), Some(_)) => 1 + best[i + 1][j + 1].min(best[i + 1][j]).min(best[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < expected.len() || j < found.len() {
        let (line, new) = (expected.get(i), found.get(j));
        match (line, new) {
            (Some(line), _) if line == "…" => {
                if best[i][j] == best[i + 1][j] {
                    lines.push(line.clone());
                    i += 1;
                } else {
                    j += 1;
                }
            }
            (Some(line), Some(_)) if fits(i, j) => {
                lines.push(line.clone());
                (i, j) = (i + 1, j + 1);
            }
            (Some(_), Some(new)) if best[i][j] == 1 + best[i + 1][j + 1] => {
                lines.push(new.clone());
                (i, j) = (i + 1, j + 1);
            }
            (Some(_), _) if best[i][j] == 1 + best[i + 1][j] => i += 1,
            (_, new) => {
                lines.extend(new.cloned());
                j += 1;
            }
        }
    }
    (best[0][0], lines)
}

fn pattern(line: &str) -> Regex {
    let parts: Vec<_> = line.split('…').map(regex::escape).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).expect("escaped, so a valid pattern")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fitted(expected: &str, found: &str) -> (usize, String) {
        let (changes, lines) = align(&lines_of(expected), &lines_of(found));
        (changes, lines.join("\n"))
    }

    #[test]
    fn output_is_compared_line_by_line() {
        for (expected, found) in [
            ("", ""),
            ("a\nb", "a\nb"),
            ("…", ""),
            ("…", "a\nb"),
            ("a\n…\nz", "a\nz"),
            ("a\n…\nz", "a\nb\nz\nz"),
            ("pid … of …!", "pid 1 of 2 (3)!"),
            ("…", "…"),
            ("a.b", "a.b"),
        ] {
            assert_eq!(fitted(expected, found), (0, expected.to_owned()), "{expected:?} and {found:?}");
        }
    }

    #[test]
    fn what_differs_is_found_and_written_anew() {
        for (expected, found, written) in [
            ("", "a", "a"),
            ("a", "", ""),
            ("a.b", "axb", "axb"),
            ("a\nb\nc", "a\nx\nc", "a\nx\nc"),
            ("a\n…\nz", "a\nb\ny", "a\n…\ny"),
            ("pid …\nb", "pid 17\nc", "pid …\nc"),
            ("…\nb", "a\nc\nb\nd", "…\nb\nd"),
        ] {
            let (changes, lines) = fitted(expected, found);
            assert!(changes > 0, "{expected:?} and {found:?}");
            assert_eq!(lines, written, "{expected:?} and {found:?}");
        }
    }

    #[test]
    fn blocks_are_read() {
        let text = "# A\n\n  ```console,root\n  $ cat <<E\n  > a\n  >\n  > E\n  a\n\n  $ true\n  \
                    ```\n\n```rust\nx\n```\n";
        let blocks = parse("A.md", text).unwrap();
        assert_eq!(blocks.len(), 1);
        let block = &blocks[0];
        assert_eq!((block.name.as_str(), block.who, block.indent.as_str()), ("A.md:3", Who::Root, "  "));
        let commands: Vec<_> = block.commands.iter().map(|c| (c.script.as_str(), c.lines.clone())).collect();
        assert_eq!(commands, [("cat <<E\na\n\nE", 7..9), ("true", 10..10)]);
        assert_eq!(block.commands[0].expected, ["a", ""]);

        assert_eq!(parse("A.md", "```console,user\n$ x\n```\n").unwrap()[0].who, Who::User);
        let ignored = &parse("A.md", "```console,ignore=needs a terminal\n$ x\n```\n").unwrap()[0];
        assert_eq!(ignored.skipped().as_deref(), Some("needs a terminal"));
    }

    #[test]
    fn blocks_that_would_not_be_run_are_errors() {
        for text in [
            "```console\nno command\n```\n",
            "```console\n```\n",
            "```console,rooot\n$ x\n```\n",
            "```console,ignore=\n$ x\n```\n",
            "```sh\n$ x\n```\n",
            "```\n$ x\n```\n",
        ] {
            assert!(parse("A.md", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_session_is_one_shell_in_its_own_folder() {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = Sandbox { folder, target: "/nonexistent".into(), limit: Duration::from_secs(1) };
        let text = "```console\n$ x=1; echo out; echo err >&2\nout\nerr\n$ (exit 3)\n$ echo $? $x\n3 1\n\
                    $ printf 'no newline'\nno newline\n$ echo > new; ls -d new \
                    README.md\nREADME.md\nnew\n```\n";
        parse("A.md", text).unwrap()[0].check(&sandbox).unwrap();
        assert!(!workspace::root().join("new").exists());

        let wrong = parse("A.md", "```console\n$ echo a\na\n$ exit 3\n$ echo b\nb\n```\n").unwrap();
        let difference = wrong[0].check(&sandbox).unwrap_err();
        assert!(difference.contains("$ echo b") && difference.contains("shell had ended"), "{difference}");

        let endless = parse("A.md", "```console\n$ echo a; sleep 50 & sleep 60\na\n```\n").unwrap();
        let difference = endless[0].check(&sandbox).unwrap_err();
        assert!(difference.contains("    a\n    (ended after 1 seconds)"), "{difference}");
    }
}
