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
//! own, in which the workspace lies as in a clone, and as root a network of its own. `console,root` runs only as
//! root; `console,ignore=REASON` never. What is shown as a session without being marked so is an error, since nobody would run it.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use regex::Regex;
use tempfile::TempDir;

use crate::check;
use crate::workspace::{self, Build};

/// How long a block may take. The programs are built before the first one starts.
const TIME_LIMIT: Duration = Duration::from_secs(120);

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

const TABLES: [Table; 2] = [
    Table {
        file: "README.md",
        begin: "<!-- matrix: begin (cargo xtask check --matrix) -->\n",
        end: "<!-- matrix: end -->",
        command: "cargo xtask check --matrix",
        print: check::matrix,
    },
    Table {
        file: "step4-users/README.md",
        begin: "<!-- security: begin (cargo xtask security --table) -->\n",
        end: "<!-- security: end -->",
        command: "cargo xtask security --table",
        print: || Ok(checks::security::table()),
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

/// What all blocks share: the built programs, and one state folder, so that the root filesystem is made once.
pub struct Sandbox {
    folder: TempDir,
    target: PathBuf,
    limit: Duration,
}

impl Sandbox {
    /// Builds the steps, and as root runs the first one, so that no block has to show what a first run prints.
    ///
    /// # Errors
    /// When cargo fails, or the first step does not run.
    pub fn new() -> Result<Self> {
        // One by one: together, cargo would give `common` the features of all, and `cargo run` builds again.
        let mut target = PathBuf::new();
        for step in workspace::steps()? {
            target = workspace::build(&[&step.name], Build::Debug)?;
        }
        workspace::build(&["xtask"], Build::Debug)?;
        let target = target.parent().context("the workspace has no step")?.to_owned();

        let folder = tempfile::Builder::new().prefix("congo-readme-").tempdir()?;
        // A step may go on as an ordinary user, who has to get in here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        // The commands stand in the text as one types them in a clone. But here the current folder is another
        // one, and cargo must still build the workspace at its own place, or it would build all of it anew.
        let cargo = format!(
            "#!/bin/sh\ncommand=$1; shift\ncase $command in\n\
             xtask) exec '{cargo}' run --quiet --manifest-path '{root}/Cargo.toml' --package xtask -- \"$@\" ;;\n\
             *) exec '{cargo}' \"$command\" --manifest-path '{root}/Cargo.toml' \"$@\" ;;\nesac\n",
            cargo = workspace::cargo().get_program().display(),
            root = workspace::root().display(),
        );
        fs::create_dir(folder.path().join("bin"))?;
        fs::write(folder.path().join("bin/cargo"), cargo)?;
        fs::set_permissions(folder.path().join("bin/cargo"), fs::Permissions::from_mode(0o755))?;

        let sandbox = Sandbox { folder, target, limit: TIME_LIMIT };
        if geteuid().is_root() {
            let output = sandbox.shell("cargo run -p step0-basic -- true; echo status $?");
            ensure!(output.ends_with("status 0\n"), "step 0 does not run:\n{output}");
        }
        Ok(sandbox)
    }

    /// Runs a script in a folder of its own, and returns what it printed, on stdout and stderr.
    fn shell(&self, script: &str) -> String {
        match self.try_shell(script) {
            Ok(output) => output,
            Err(error) => format!("(the session could not be run: {error:#})\n"),
        }
    }

    fn try_shell(&self, script: &str) -> Result<String> {
        let folder = tempfile::tempdir_in(self.folder.path())?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        for entry in workspace::root().read_dir()? {
            let entry = entry?;
            if entry.file_name() != "target" && entry.file_name() != ".git" {
                symlink(entry.path(), folder.path().join(entry.file_name()))?;
            }
        }
        symlink(&self.target, folder.path().join("target"))?;

        let mut path = self.folder.path().join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        // What cargo sets for us, a learner's shell does not have; and it would make cargo build again.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO") && !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&&*name) {
                shell.env_remove(&*name);
            }
        }
        let (mut reader, writer) = std::io::pipe()?;
        shell
            .args(["-c", script])
            .current_dir(folder.path())
            .env("PATH", path)
            .env("PWD", folder.path())
            .env("CONGO_HOME", self.folder.path().join("state"))
            .env("CARGO_TERM_QUIET", "true")
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        let mut child = start(&mut shell).context("starting sh")?;
        drop(shell); // It holds the pipe's other end, for which the reader waits.

        let (send, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = reader.read_to_end(&mut bytes);
            let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
        });
        let group = Pid::from_raw(child.id().cast_signed());
        let output = output.recv_timeout(self.limit).unwrap_or_else(|_| {
            // The whole group: a command that runs in the background holds the pipe open, too.
            let _ = killpg(group, Signal::SIGKILL);
            let late = output.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
            format!("{late}(ended after {} seconds)\n", self.limit.as_secs())
        });
        child.wait()?;
        Ok(output)
    }
}

/// Starts a session; as root in a network namespace of its own: what it shows of bridges and rules must not touch the
/// host's.
fn start(shell: &mut Command) -> Result<Child> {
    if !geteuid().is_root() {
        return Ok(shell.spawn()?);
    }
    let started = thread::scope(|scope| {
        let in_own_network = || {
            checks::host::own_network()?;
            Ok(shell.spawn()?)
        };
        scope.spawn(in_own_network).join()
    });
    started.unwrap_or_else(|_| bail!("the thread that starts it broke off"))
}

/// One session in a document.
#[derive(Debug)]
pub struct Block {
    /// Where it stands: `step0-basic/README.md:13`.
    pub name: String,
    needs_root: bool,
    needs_no_swap: bool,
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
            matches!(options, "" | "root" | "root,no-swap")
                || ignored.as_ref().is_some_and(|reason| !reason.is_empty()),
            "{name}: `{options}`: expected `root` or `ignore=REASON`"
        );
        let commands = typed(&body).with_context(|| name.clone())?;
        blocks.push(Block {
            name,
            needs_root: options.starts_with("root"),
            needs_no_swap: options == "root,no-swap",
            ignored,
            indent: indent.to_owned(),
            commands,
        });
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
            None if self.needs_root && !geteuid().is_root() => Some("needs root".to_owned()),
            None if self.needs_no_swap => checks::Need::NoSwap.probe().err(),
            None => None,
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
        let printed = sandbox.shell(&script);
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

/// Fits expected lines to those that were found: how many had to be changed, and the lines that fit. Those that
/// fit already stay as they are, and with them their `…`.
fn align(expected: &[String], found: &[String]) -> (usize, Vec<String>) {
    let fits = |i: usize, j: usize| expected[i] == found[j] || pattern(&expected[i]).is_match(&found[j]);
    // best[i][j]: the least number of changes that fit the expected lines from i on to the found ones from j on.
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
        let text = "# A\n\n  ```console,root\n  $ cat <<E\n  > a\n  >\n  > E\n  a\n\n  $ true\n  ```\n\n```rust\nx\n```\n";
        let blocks = parse("A.md", text).unwrap();
        assert_eq!(blocks.len(), 1);
        let block = &blocks[0];
        assert_eq!((block.name.as_str(), block.needs_root, block.indent.as_str()), ("A.md:3", true, "  "));
        let commands: Vec<_> = block.commands.iter().map(|c| (c.script.as_str(), c.lines.clone())).collect();
        assert_eq!(commands, [("cat <<E\na\n\nE", 7..9), ("true", 10..10)]);
        assert_eq!(block.commands[0].expected, ["a", ""]);

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
                    $ printf 'no newline'\nno newline\n$ echo > new; ls -d new README.md\nREADME.md\nnew\n```\n";
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
