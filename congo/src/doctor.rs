//! `cargo congo doctor`: what this machine can do for each step of the course, and what would help.
//!
//! For every attempt this program starts itself again, for three reasons. Only a process with one thread may
//! enter a user namespace. A process that hangs can be ended. And when it ends, the kernel undoes its work.
//! As root it also tries as an ordinary user. Needs no other program: one that is absent is a fact. Kernel
//! objects: those of `checks::machine`. Man pages: namespaces(7), user_namespaces(7), cgroups(7).

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use checks::attempt::attempt;
use checks::machine::{Facts, State, Who, verdicts};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use serde_json::json;

/// Enough for the slowest machine to load a kernel module, or an emulated one to start a program.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The user id that the kernel, and every distribution, calls nobody.
const NOBODY: u32 = 65534;

/// Tell what this machine can do for each step, and what would help. Changes nothing; at most the kernel
/// loads a module of its own for something that is tried. The exit status is 0 when every step was found to
/// run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the facts and the verdicts on the steps as one JSON object.
    #[arg(long)]
    json: bool,

    /// Try these, in this order, in this process, and print what came of it.
    #[arg(long, hide = true, value_name = "NAME")]
    attempt: Vec<String>,
}

/// Runs the tool.
///
/// # Errors
/// When /proc, from which nearly all is read, is not mounted.
pub fn run(args: &Args) -> Result<ExitCode> {
    if !args.attempt.is_empty() {
        let result = attempt(&args.attempt);
        println!("{}", result.as_ref().unwrap_or_else(|why| why));
        return Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    ensure!(Path::new("/proc/self/ns").exists(), "/proc is not mounted: mount -t proc proc /proc");

    // sudo's folders of programs have no cargo in them, so root asks with this binary.
    let again = format!("{} doctor", std::env::current_exe()?.display());
    let facts = Facts::gather(&ask, ordinary_user(), &again);
    let lines = facts.lines();
    let steps = verdicts(&lines);
    if args.json {
        println!("{:#}", json!({ "facts": lines, "steps": steps }));
    } else {
        lines.iter().for_each(|line| println!("{line}"));
        println!();
        steps.iter().for_each(|verdict| println!("{verdict}"));
    }
    let all_run = steps.iter().all(|verdict| verdict.state <= State::Limited);
    Ok(if all_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The caller, or the one who called sudo. `None` when that is root itself.
fn ordinary_user() -> Option<u32> {
    let caller = geteuid().as_raw();
    let by_sudo = || std::env::var("SUDO_UID").ok()?.parse().ok();
    Some(caller).filter(|&uid| uid != 0).or_else(by_sudo).filter(|&uid| uid != 0)
}

/// Has this program try something, in a process of its own.
fn ask(who: Who, names: &[&str]) -> Result<String, String> {
    // The link and not the path that it shows: the folders on that path may be closed to nobody.
    let mut command = Command::new("/proc/self/exe");
    command.arg("doctor").args(names.iter().flat_map(|name| ["--attempt", name]));
    if who == Who::User && geteuid().is_root() {
        let uid = ordinary_user().unwrap_or(NOBODY);
        // Rust drops root's supplementary groups, too. Which group it is plays no part.
        command.gid(uid).uid(uid);
    }
    command.current_dir("/");
    answer(command, TIME_LIMIT)
}

/// What the command printed, as an error when it failed. It and all that it started is ended at the time
/// limit.
fn answer(mut command: Command, limit: Duration) -> Result<String, String> {
    // Pipes for all three, as there may be no /dev/null.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("starting a process for it: {error}"))?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
            return Err(format!("no answer within {limit:?}"));
        }
        thread::sleep(Duration::from_millis(1));
    };
    let mut answer = String::new();
    if let Some(mut stdout) = child.stdout {
        let _ = stdout.read_to_string(&mut answer);
    }
    match (status.success(), answer.trim()) {
        (true, fact) => Ok(fact.into()),
        (false, "") => Err(format!("the attempt ended with {status}")),
        (false, why) => Err(why.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn an_answer_is_a_fact_or_a_reason() {
        let limit = Duration::from_secs(10);
        assert_eq!(answer(shell("echo made one"), limit), Ok("made one".into()));
        assert_eq!(answer(shell("echo refused; exit 1"), limit), Err("refused".into()));
        assert!(answer(shell("kill -9 $$"), limit).unwrap_err().contains("SIGKILL"));
        assert!(answer(Command::new("/no/such"), limit).unwrap_err().contains("No such file"));
    }

    #[test]
    fn what_hangs_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let why = answer(shell(&script), Duration::from_millis(500)).unwrap_err();
        assert!(why.contains("500ms"), "{why}");
        let started = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let ended = || !checks::kernel::Process(started).is_alive();
        assert!(checks::kernel::eventually(Duration::from_secs(5), ended), "{started} still sleeps");
    }
}
