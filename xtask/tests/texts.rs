//! How the workspace's texts look.

use std::fs;
use std::path::{Path, PathBuf};

use common::run::cli::docker::{Answer, OPTIONS};
use xtask::workspace;

/// The code's and the texts' width: rustfmt.toml has the same.
const COLUMNS: usize = 110;

#[test]
fn no_line_is_longer_than_a_screen_is_wide() {
    let mut files = Vec::new();
    collect(workspace::root(), &mut files);
    assert!(files.len() > 200, "only {} texts were found", files.len());
    let long: Vec<_> = files.iter().flat_map(|file| long_lines(file)).collect();
    assert!(long.is_empty(), "longer than {COLUMNS} columns:\n{}", long.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().unwrap() {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        if kind.is_dir() && !name.starts_with(".git") && !["target", "book", "solve"].contains(&&*name) {
            collect(&path, files);
        } else if kind.is_file() && path.extension().is_some_and(|end| end == "rs" || end == "md") {
            files.push(path);
        }
    }
}

/// In Markdown a row of a table is one line, and what stands between fences is shown as it is.
fn long_lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let is_markdown = file.extension().is_some_and(|end| end == "md");
    let mut fenced = false;
    let mut long = Vec::new();
    for (number, line) in text.lines().enumerate() {
        fenced ^= is_markdown && line.trim_start().starts_with("```");
        let is_free = is_markdown && (fenced || line.starts_with('|'));
        if !is_free && line.chars().count() > COLUMNS {
            long.push(format!("{}:{}: {line}", file.display(), number + 1));
        }
    }
    long
}

/// The reference shows the help of each step, and `cargo xtask readme` compares it with what they print.
#[test]
fn the_table_of_docker_options_says_what_is_there() {
    let reference = fs::read_to_string(workspace::root().join("docs/src/reference.md")).unwrap();
    let helps: Vec<_> = reference.split("\n$ cargo run -p step").skip(1).collect();
    let first_with = |long: &str| {
        let has = |help: &&str| {
            let help = help.split("\n```").next().unwrap_or_default();
            let mut words = help.split_whitespace();
            help.contains("-- --help\n") && words.any(|word| word == format!("--{long}"))
        };
        helps.iter().find(|help| has(help)).map(|help| help[..1].parse::<u8>().unwrap())
    };
    for option in OPTIONS {
        let since = match option.answer {
            Answer::Since(step) => Some(step),
            Answer::Exercise(step, name) => {
                let id = format!("step{step}.{name}");
                assert!(checks::exercises::all().any(|exercise| exercise.id == id), "{id}");
                None
            }
            Answer::Taken(..) | Answer::Instead(_) => None,
        };
        assert_eq!(first_with(option.long), since, "--{}", option.long);
    }
}
