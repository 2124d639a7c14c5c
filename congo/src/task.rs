//! A stage's texts: its task, its hints and its answers, as Markdown or as a terminal shows them.

use std::fs;
use std::io::{self, IsTerminal};

use anyhow::{Context, Result};

use crate::stages::Stage;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const COLOUR: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// The task of a stage, in two parts.
#[derive(Debug)]
pub struct Task {
    /// What the learner reads before coding.
    pub task: String,
    /// What the text folds away: the answers.
    pub answers: String,
}

impl Task {
    /// Reads the task of a stage.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(stage: &Stage) -> Result<Task> {
        let text = read(stage, "task.md")?;
        let (task, folded) = text.split_once("<details>").unwrap_or((&text, ""));
        let answers = folded.split_once("</summary>").map_or(folded, |(_, answers)| answers);
        // A text behind the folded part, such as where to go on, belongs to the answers.
        let answers = answers.replace("</details>", "");
        Ok(Task { task: task.trim().to_owned(), answers: answers.trim().to_owned() })
    }

    /// Its title: `0.3 A host name of its own`.
    pub fn title(&self) -> &str {
        self.task.lines().next().unwrap_or_default().trim_start_matches("# ")
    }

    /// How long a learner needs for it, in minutes, by the table at its beginning.
    pub fn minutes(&self) -> Option<u32> {
        self.cell(1)?.parse().ok()
    }

    /// How many lines its solution adds, without the options, by the same table.
    pub fn lines(&self) -> Option<usize> {
        self.cell(2)?.parse().ok()
    }

    fn cell(&self, number: usize) -> Option<&str> {
        let row = self.task.lines().find(|line| line.starts_with("| ") && line.contains('`'))?;
        row.split('|').nth(number).map(str::trim)
    }
}

/// The hints of a stage, the vague one first.
///
/// # Errors
/// When they cannot be read.
pub fn hints(stage: &Stage) -> Result<Vec<String>> {
    let text = read(stage, "hints.md")?;
    let mut hints: Vec<String> = Vec::new();
    for line in text.lines() {
        match hints.last_mut() {
            _ if line.starts_with("## ") => hints.push(String::new()),
            Some(hint) => *hint += &format!("{line}\n"),
            None => {}
        }
    }
    Ok(hints.into_iter().map(|hint| hint.trim().to_owned()).collect())
}

fn read(stage: &Stage, name: &str) -> Result<String> {
    let path = stage.folder().join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// Prints Markdown; on a terminal headings, code and emphasis stand out.
pub fn show(markdown: &str) {
    if io::stdout().is_terminal() {
        print!("{}", coloured(markdown));
    } else {
        println!("{markdown}");
    }
}

fn coloured(markdown: &str) -> String {
    let mut text = String::new();
    let mut in_code = false;
    for line in markdown.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            text += &match line.strip_prefix("$ ") {
                Some(command) => format!("    $ {BOLD}{command}{PLAIN}\n"),
                None => format!("    {DIM}{line}{PLAIN}\n"),
            };
        } else if line.starts_with('#') {
            text += &format!("{BOLD}{}{PLAIN}\n", line.trim_start_matches('#').trim_start());
        } else if !line.starts_with("| ---") {
            let marked = marked(line, "**", BOLD);
            text += &format!("{}\n", marked_code(&marked));
        }
    }
    text
}

fn marked_code(line: &str) -> String {
    marked(line, "`", COLOUR)
}

/// Puts the text between two marks in a style.
fn marked(line: &str, mark: &str, style: &str) -> String {
    let parts: Vec<_> = line.split(mark).collect();
    let mut text = String::new();
    for (number, part) in parts.iter().enumerate() {
        let closed = number + 1 < parts.len();
        text += &match number % 2 {
            1 if closed => format!("{style}{part}{PLAIN}"),
            1 => format!("{mark}{part}"),
            _ => (*part).to_owned(),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_sees_no_marks_of_markdown() {
        let text = coloured(
            "# Title\n\n| a | b |\n| --- | --- |\nthe **bold** `code`\n```console,root\n$ ls\nx\n```",
        );
        assert_eq!(
            text,
            format!(
                "{BOLD}Title{PLAIN}\n\n| a | b |\nthe {BOLD}bold{PLAIN} {COLOUR}code{PLAIN}\n    \
                 $ {BOLD}ls{PLAIN}\n    {DIM}x{PLAIN}\n"
            )
        );
    }

    #[test]
    fn an_unclosed_mark_stays() {
        assert_eq!(marked_code("a ` b"), "a ` b");
    }
}
