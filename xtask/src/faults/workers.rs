//! Several processes at once, each with a host of its own, do the work of one `cargo xtask faults`.
//!
//! A run waits for the kernel most of its time, and a tracer is one thread. So the tool starts itself once
//! for each job. The workers write lines and counts as JSON to their stdout. The first process prints each
//! line when it comes, and the count of a command line when all workers have sent theirs.
//!
//! Kernel objects: the workers, which end with the first process. Man pages: PR_SET_PDEATHSIG(2const).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{Args, Count};

/// What a worker tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// A line to be printed.
    Text(String),
    /// It has tried its part of a command line, and the command line has so many places.
    Line { name: String, places: usize, count: Count, took: Duration },
    /// Its whole part, and the entries of the list that it needed.
    Sum { count: Count, needed: BTreeSet<usize> },
}

/// Tells the first process.
pub fn tell(message: &Message) {
    // A broken pipe is the end of the first process, which is this one's end, too.
    if let Ok(text) = serde_json::to_string(message) {
        println!("{text}");
        let _ = std::io::stdout().flush();
    }
}

/// Tells a line.
pub fn say(text: impl Into<String>) {
    tell(&Message::Text(text.into()));
}

/// In a worker: it ends when the first process does.
///
/// # Errors
/// None on Linux.
pub fn begin() -> Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
}

/// Lets workers try a step, and prints what they tell. Returns the sum, and the entries of the list that were
/// needed.
///
/// # Errors
/// When a worker cannot be started, or fails.
pub fn run(args: &Args, step: &str, binary: &Path, jobs: usize) -> Result<(Count, BTreeSet<usize>)> {
    let (sender, receiver) = mpsc::channel();
    let mut workers: Vec<(Child, thread::JoinHandle<()>)> = vec![];
    for job in 1..=jobs {
        let mut worker = command(args, step, binary, (job, jobs)).spawn().context("a worker")?;
        let told = BufReader::new(worker.stdout.take().context("a worker's stdout")?);
        let sender = sender.clone();
        let reader = thread::spawn(move || {
            for line in told.lines().map_while(Result::ok) {
                // Whatever is no message is a line of its own.
                let message = serde_json::from_str(&line).unwrap_or(Message::Text(line));
                let _ = sender.send(message);
            }
        });
        workers.push((worker, reader));
    }
    drop(sender);
    let (mut sum, mut needed, mut sums) = (Count::default(), BTreeSet::new(), 0);
    let mut lines = BTreeMap::<String, (usize, usize, Count, Duration)>::new();
    for message in receiver {
        match message {
            Message::Text(text) => println!("{text}"),
            Message::Line { name, places, count, took } => {
                let line = lines.entry(name.clone()).or_default();
                line.0 += 1;
                line.1 = line.1.max(places);
                line.2 += count;
                line.3 = line.3.max(took);
                if line.0 == jobs {
                    println!("{name}: {} places: {} ({:.0?})", line.1, line.2, line.3);
                }
            }
            Message::Sum { count, needed: more } => {
                sum += count;
                needed.extend(more);
                sums += 1;
            }
        }
        let _ = std::io::stdout().flush();
    }
    for (mut worker, reader) in workers {
        let _ = reader.join();
        let status = worker.wait()?;
        ensure!(status.success(), "{step}: a worker has ended with {status}");
    }
    ensure!(sums == jobs, "{step}: a worker has told no sum");
    Ok((sum, needed))
}

fn command(args: &Args, step: &str, binary: &Path, (job, jobs): (usize, usize)) -> Command {
    // A build may replace the file meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.args(["faults", step, "--bin"]).arg(binary).arg(format!("--worker={job}/{jobs}"));
    command.arg(format!("--shard={}/{}", args.shard.0, args.shard.1));
    command.args(args.only.iter().map(|text| format!("--only={text}")));
    command.args(args.line.iter().map(|text| format!("--line={text}")));
    for (is_wanted, option) in [
        (args.kill, "--kill"),
        (args.resources, "--resources"),
        (args.listed, "--listed"),
        (args.list, "--list"),
    ] {
        command.args(is_wanted.then_some(option));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}
