//! `cargo congo`: what a learner needs to build a container runtime, stage by stage.

use std::process::ExitCode;

use clap::Parser;
use congo::{check, diff, doctor, exercise, lab, learner, list};

/// Build your own container runtime, one stage after the other.
#[derive(Parser)]
#[command(name = "cargo congo", bin_name = "cargo congo")]
enum Tool {
    Start(learner::Start),
    Next(learner::Next),
    Run(learner::Run),
    Check(check::Args),
    Watch(learner::Watch),
    Hint(learner::Hint),
    Solution(learner::Solution),
    Progress(learner::Progress),
    Reset(learner::Reset),
    Exercise(exercise::Args),
    Diff(diff::Args),
    List(list::Args),
    Doctor(doctor::Args),
    Vm(lab::Args),
}

fn main() -> ExitCode {
    checks::inside::run_if_asked();
    congo::end_quietly_when_nobody_reads(run)
}

fn run() -> ExitCode {
    let result = match Tool::parse() {
        Tool::Start(args) => args.run(),
        Tool::Next(args) => args.run(),
        Tool::Run(args) => args.run(),
        Tool::Check(args) if args.is_of_learner() => learner::check(&args.of_learner(), args.vm),
        Tool::Check(args) => check::run(&args),
        Tool::Watch(args) => args.run(),
        Tool::Hint(args) => args.run(),
        Tool::Solution(args) => args.run(),
        Tool::Progress(args) => args.run(),
        Tool::Reset(args) => args.run(),
        Tool::Exercise(args) => exercise::run(&args),
        Tool::Diff(args) => diff::run(&args),
        Tool::List(args) => list::run(&args),
        Tool::Doctor(args) => doctor::run(&args),
        Tool::Vm(args) => args.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("congo: {error:#}");
        ExitCode::FAILURE
    })
}
