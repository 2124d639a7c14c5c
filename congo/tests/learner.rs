//! `cargo congo` as a learner uses it: in a folder of its own, with a runtime that hangs, does nothing, or is
//! renamed. Cargo builds it in the target folder of the course.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const CONGO: &str = env!("CARGO_BIN_EXE_congo");

/// A learner's folder, before and after `start`.
struct Learner {
    folder: TempDir,
}

impl Learner {
    /// A learner who has begun at this stage.
    fn at(stage: &str) -> Learner {
        let learner = Learner { folder: tempfile::tempdir().unwrap() };
        let output = learner.congo(&["start", "--at", stage]);
        assert!(output.status.success(), "{output:?}");
        learner
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(CONGO);
        command.args(words).current_dir(self.folder.path());
        command
    }

    fn congo(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("mine").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

/// All that it wrote.
fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[track_caller]
fn says(output: &Output, words: &str) {
    assert!(text(output).contains(words), "{words:?} is not in: {}", text(output));
}

/// Whether this test needs root in vain: then it says that it is skipped.
fn lacks_root() -> bool {
    let lacks = !nix::unistd::geteuid().is_root();
    if lacks {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        common::tell(format_args!("skipped {name}: it needs root"));
    }
    lacks
}

/// A program that needs none of the libraries.
fn program(learner: &Learner, main: &str) {
    let manifest = "[package]\nname = \"mine\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n";
    learner.write("Cargo.toml", manifest);
    learner.write("src/main.rs", main);
}

#[test]
fn a_broken_progress_file_says_how_to_go_on() {
    let learner = Learner::at("0.2");
    let whole = learner.read("progress.toml");
    learner.write("progress.toml", &whole.replace("hints = 0", "hints ="));
    let output = learner.congo(&["progress"]);
    assert!(!output.status.success());
    for words in ["mine/progress.toml", "line 6", "reset --at"] {
        says(&output, words);
    }
    learner.write("src/main.rs", "mine");
    says(&learner.congo(&["reset", "--at", "0.3"]), "progress.toml.broken");
    assert!(learner.read("progress.toml").contains("current = \"0.3\""));
    assert_eq!(learner.read("src.0.3.1/main.rs"), "mine");
    assert!(learner.congo(&["progress"]).status.success());
    learner.write("progress.toml", &whole.replace("0.2", "9.9"));
    says(&learner.congo(&["next"]), "reset --at");
}

#[test]
fn the_folder_may_become_a_repository_that_the_one_around_it_does_not_list() {
    let learner = Learner { folder: tempfile::tempdir().unwrap() };
    let git = |folder: &Path, words: &[&str]| {
        let output = Command::new("git").args(words).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output)
    };
    git(learner.folder.path(), &["init", "--quiet"]);
    assert!(learner.congo(&["start"]).status.success());
    assert_eq!(git(learner.folder.path(), &["status", "--porcelain"]), "");
    git(&learner.path(""), &["init", "--quiet"]);
    assert!(git(&learner.path(""), &["status", "--porcelain"]).contains("src/"));
    assert_eq!(git(learner.folder.path(), &["status", "--porcelain"]), "");
}

#[test]
fn at_a_new_step_the_learners_own_libraries_stay() {
    let learner = Learner::at("0.1");
    let mine = "[dependencies]\n# For errors.\nanyhow = \"1\" # mine\n";
    learner.write("Cargo.toml", &learner.read("Cargo.toml").replace("[dependencies]\n", mine));
    fs::set_permissions(learner.path("Cargo.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(learner.congo(&["reset", "--at", "2.1"]).status.success());
    let text = learner.read("Cargo.toml");
    for words in ["# For errors.\n", "anyhow = \"1\" # mine\n", "\"network\""] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let mode = fs::metadata(learner.path("Cargo.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_stage_can_be_left_without_passing_it() {
    let learner = Learner::at("0.2");
    says(&learner.congo(&["next", "--skip"]), "0.3");
    let progress = learner.read("progress.toml");
    assert!(progress.contains("current = \"0.3\"") && !progress.contains("\"0.2\" ="), "{progress}");
}

#[test]
fn a_source_that_is_taken_is_told_and_not_counted_as_done() {
    let learner = Learner::at("0.2");
    learner.write("src/main.rs", "mine");
    let output = learner.congo(&["solution", "--give-up", "--take"]);
    for words in ["mine/src is now the course's own, at the end of stage 0.2", "The next one: 0.3"] {
        says(&output, words);
    }
    assert!(!text(&output).contains("is done"), "{output:?}");
    assert_eq!(learner.read("src.0.2.1/main.rs"), "mine");
    let progress = learner.congo(&["progress"]);
    says(&progress, "– the course's source was taken");
    says(&progress, "▶ current");
    says(&learner.congo(&["solution"]), "at the end of stage 0.2");
    assert!(learner.congo(&["reset"]).status.success());
    assert!(learner.congo(&["reset", "--at", "0.2"]).status.success());
    says(&learner.congo(&["solution"]), "stage 0.2 is not done yet");
}

#[test]
fn a_reader_who_leaves_costs_no_temporary_folder() {
    let learner = Learner::at("4.1");
    let temporary = learner.folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let script = format!("{CONGO} solution --give-up | head -1");
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("set -o pipefail; {script}")]).env("TMPDIR", &temporary);
    let output = shell.current_dir(learner.folder.path()).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "{output:?}");
}

#[test]
fn the_program_is_found_wherever_cargo_puts_it() {
    if lacks_root() {
        return;
    }
    let learner = Learner::at("0.1");
    program(&learner, "fn main() { println!(\"built\") }");
    let renamed = learner.folder.path().join("renamed");
    fs::rename(learner.path(""), &renamed).unwrap();
    let elsewhere = learner.folder.path().join("elsewhere");
    let output = learner.command(&["run"]).env("CARGO_BUILD_TARGET_DIR", &elsewhere).output().unwrap();
    // The folder's own setting counts more than this variable: only that it is found matters.
    says(&output, "built");
    let output = learner.command(&["run"]).env("CARGO_TARGET_DIR", &elsewhere).output().unwrap();
    says(&output, "built");
    assert!(elsewhere.join("debug/mine").exists());
}

#[test]
fn a_runtime_that_hangs_is_told_soon_and_what_root_can_do_once() {
    if lacks_root() {
        return;
    }
    let learner = Learner::at("0.1");
    program(&learner, "fn main() { loop { std::thread::park() } }");
    let begun = Instant::now();
    let output = learner.congo(&["check"]);
    assert!(!output.status.success());
    says(&output, "ends within 10 seconds");
    assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
    says(&output, "--vm");
    program(&learner, "fn main() {}");
    let output = learner.congo(&["check"]);
    assert!(!output.status.success() && text(&output).contains('✗'), "{output:?}");
    assert!(!text(&output).contains("--vm"), "{output:?}");
}

#[test]
fn watch_outlives_a_file_that_vanishes_and_looks_only_at_changes() {
    if lacks_root() {
        return;
    }
    let learner = Learner::at("0.1");
    program(&learner, "fn main() {}");
    let mut watch = learner.command(&["watch"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut wait = |words: &str| lines.find(|line| line.as_ref().unwrap().contains(words)).is_some();
    assert!(wait("✗") && wait("Waiting for"));
    fs::remove_file(learner.path("src/main.rs")).unwrap();
    assert!(wait("main.rs") && wait("Waiting for"));
    fs::remove_dir_all(learner.path("src")).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    fs::create_dir(learner.path("src")).unwrap();
    program(&learner, "fn main() { println!() }");
    assert!(wait("✗") && wait("Waiting for"));
    learner.write("Cargo.toml", &(learner.read("Cargo.toml") + "\n[profile.dev]\nopt-level = 1\n"));
    assert!(wait("✗") && wait("Waiting for"));
    // Nothing has changed: so nothing is tried.
    std::thread::sleep(Duration::from_secs(2));
    assert!(watch.try_wait().unwrap().is_none());
    watch.kill().unwrap();
    watch.wait().unwrap();
    let more: Vec<_> = lines.map_while(Result::ok).filter(|line| line.contains('✗')).collect();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn a_stage_whose_own_checks_cannot_run_is_not_passed() {
    if lacks_root() {
        return;
    }
    let learner = Learner { folder: tempfile::tempdir().unwrap() };
    let runtime = learner.folder.path().join("runtime");
    fs::write(&runtime, "#!/bin/sh\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let check = |more: &[&str]| {
        let mut check = learner.command(&["check", "step0", "--only", "exit.own", "--only", "pid.is-one"]);
        check.args(["--without", "pid.is-one", "--bin"]).arg(&runtime).args(more).output().unwrap()
    };
    let output = check(&["--own", "pid.is-one"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    says(&output, "None of the stage's own checks could run: pid.is-one");
    assert_eq!(check(&["--own", "pid.is-one", "--own", "exit.own"]).status.code(), Some(0));
}

#[test]
fn the_tool_lists_what_there_is() {
    let learner = Learner { folder: tempfile::tempdir().unwrap() };
    let list = learner.congo(&["list", "0"]);
    for words in ["0.1 The runtime runs a command", "40 minutes", "private-tmp"] {
        says(&list, words);
    }
    assert!(!text(&list).contains("umask"));
    says(&learner.congo(&["exercise"]), "umask");
    says(&learner.congo(&["exercise", "no-such"]), "lists them");
    says(&learner.congo(&["exercise", "umask", "hint"]), "umask(2)");
}
