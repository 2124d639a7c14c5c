//! The checks as `cargo test` runs them, for `tests/acceptance.rs` of each step.
//!
//! A step must pass what it and the steps before it promise, and must fail (`not-yet::`) what only later
//! steps promise. One check at a time, unless told otherwise: some measure time, and all look at the same
//! host.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{Check, Outcome, Subject, all, host, inside, needs};

/// Runs all checks against a step's binary, with the command line of every Rust test.
pub fn main(package: &str, binary: &'static str) -> ExitCode {
    inside::run_if_asked();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let digits = package.trim_start_matches("step").split('-').next().unwrap_or_default();
    let Ok(step) = digits.parse() else {
        eprintln!("{package} is not the name of a step");
        return ExitCode::FAILURE;
    };
    // Made by the first check that runs, as `--list` runs none. No static: it must be dropped, and its folder
    // with it.
    let subject = Arc::new(OnceLock::new());
    let new = move || Subject::new(Path::new(binary), step);
    let _host = match host::enter(step) {
        Ok(host) => host,
        Err(errno) => {
            eprintln!("a host of the checks' own: {errno}");
            return ExitCode::FAILURE;
        }
    };
    let trials = all().filter_map(|check| trial(check, step, &subject, new)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(
    check: &'static Check,
    step: u8,
    subject: &Arc<OnceLock<io::Result<Subject>>>,
    new: impl FnOnce() -> io::Result<Subject> + Send + 'static,
) -> Option<Trial> {
    let holds = check.holds_in(step);
    if !holds && !check.fails_in(step) {
        return None;
    }
    let skipped = needs::lacking(check.needs, step);
    let name = match (holds, step < check.since) {
        (true, _) => check.id.to_owned(),
        (false, true) => format!("not-yet::{}", check.id),
        (false, false) => format!("no-longer::{}", check.id),
    };
    let subject = Arc::clone(subject);
    let test = move || match subject.get_or_init(new) {
        Ok(subject) => judge(check, holds, crate::run(check, subject)),
        Err(error) => Err(format!("a folder for the checks: {error}").into()),
    };
    let trial = Trial::test(name, test).with_ignored_flag(skipped.is_some());
    Some(match skipped {
        Some(reason) => trial.with_kind(format!("skipped: {reason}")),
        None => trial,
    })
}

fn judge(check: &Check, holds: bool, outcome: Outcome) -> Result<(), Failed> {
    match (outcome, holds) {
        (Outcome::Passed, true) => Ok(()),
        (Outcome::Passed, false) => Err(format!("this step must not do it: {}", check.sentence).into()),
        (Outcome::Failed(failure), false) if !failure.left_behind => Ok(()),
        (Outcome::Failed(failure), _) => {
            let (sentence, hint) = (check.sentence, check.hint);
            Err(format!(
                "{sentence}\nexpected: {}\nfound:    {}\nhint:     {hint}",
                failure.expected, failure.found
            )
            .into())
        }
        (Outcome::Skipped { reason }, _) => Err(format!("asked for, but cannot run: {reason}").into()),
    }
}
