//! `cargo xtask security`: tries what other runtimes had to learn against step 4, or a binary of your own,
//! and prints a line for each attack.
//!
//! Kernel objects: those that the binary makes, and the namespaces of the checks' own host (`checks::host`).

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use checks::{Outcome, Subject, security};

use crate::workspace::{self, Build};

/// Try the attacks from which other runtimes had to learn, and print what came of each.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The step whose binary is tried.
    #[arg(default_value = "4")]
    step: String,

    /// The binary to try [default: the step's own, which is built first].
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,

    /// Print the table of docs/src/security.md, and try nothing.
    #[arg(long, conflicts_with = "bin")]
    table: bool,
}

/// Runs the tool. The exit status is 1 when an attack succeeded.
///
/// # Errors
/// When there is no such step or binary, or the step cannot be built.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.table {
        print!("{}", security::table());
        return Ok(ExitCode::SUCCESS);
    }
    let step = workspace::step(&args.step)?;
    let binary = match &args.bin {
        Some(binary) => binary.clone(),
        None => workspace::build(&[&step.name], Build::Debug)?.join(&step.name),
    };
    let _host = checks::host::enter(step.number).context("a host of the checks' own")?;
    let subject =
        Subject::new(&binary, step.number).with_context(|| format!("--bin {}", binary.display()))?;
    let (mut resisted, mut succeeded, mut untried) = (0, 0, 0);
    for attack in security::attacks() {
        let mut found = Vec::new();
        for check in checks::all().filter(|check| attack.checks.contains(&check.id)) {
            match checks::run(check, &subject) {
                Outcome::Passed => found.push(('✓', check.id, String::new())),
                Outcome::Failed(failure) => found.push(('✗', check.id, failure.found)),
                Outcome::Skipped { reason } => found.push(('–', check.id, reason)),
            }
        }
        // The worst counts, and what could not be tried does not count for what was.
        let has = |mark| found.iter().any(|(it, ..)| *it == mark);
        let (mark, count) = match (has('✗'), has('✓')) {
            (true, _) => ('✗', &mut succeeded),
            (false, true) => ('✓', &mut resisted),
            (false, false) => ('–', &mut untried),
        };
        *count += 1;
        println!("{mark} {:38} {}", attack.name, attack.here);
        for (mark, id, why) in found.iter().filter(|(mark, ..)| *mark != '✓') {
            println!("    {mark} {id}: {why}");
        }
        // So that a pipe shows the progress, too.
        let _ = std::io::stdout().flush();
    }
    println!("\n{resisted} resisted, {succeeded} succeeded, {untried} not tried");
    Ok(if succeeded == 0 && resisted > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
