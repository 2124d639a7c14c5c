//! `cargo congo list`: what there is to do, in each step.

use std::process::ExitCode;

use anyhow::Result;

use crate::task::Task;
use crate::workspace;
use crate::{exercise, stages};

/// List the steps, with their stages and exercises.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// This step alone: `0`, `step0` or `step0-basic`.
    step: Option<String>,
}

/// Prints the list.
///
/// # Errors
/// When there is no such step, or a text cannot be read.
pub fn run(args: &Args) -> Result<ExitCode> {
    let steps = match &args.step {
        Some(step) => vec![workspace::step(step)?],
        None => workspace::steps()?,
    };
    for step in steps {
        let checks = checks::all().filter(|check| check.holds_in(step.number)).count();
        println!("{}: {checks} checks, see cargo congo check step{} --list", step.name, step.number);
        for stage in stages::of(&step)? {
            let task = Task::of(&stage)?;
            let minutes = task.minutes().map_or(String::new(), |minutes| format!("{minutes} minutes"));
            println!("  {:58} {minutes}", task.title());
        }
        for line in exercise::lines(&step)? {
            println!("  {line}");
        }
        println!();
    }
    println!("A step that changes: cargo congo diff 2 3. A stage: cargo congo diff 2 --stage 4");
    Ok(ExitCode::SUCCESS)
}
