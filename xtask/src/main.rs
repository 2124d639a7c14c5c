//! `cargo xtask`: the tools of those who build the course. A learner's are in `cargo congo`.

use std::process::ExitCode;

use clap::Parser;
use xtask::{
    bench, book, check, debian, diff, doctor, faults, fuzz, image, probe, prove, readme, security, soak,
    stages, vm,
};

/// The tools of the course.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Tool {
    Check(check::Args),
    Diff(diff::Args),
    Doctor(doctor::Args),
    Faults(faults::Args),
    Fuzz(fuzz::Args),
    Image(image::Args),
    Probe(probe::Args),
    Prove(prove::Args),
    Vm(vm::Args),
    Readme(readme::Args),
    Security(security::Args),
    Book(book::Args),
    Bench(bench::Args),
    Debian(debian::Args),
    Stages(stages::Args),
    Soak(soak::Args),
}

fn main() -> ExitCode {
    checks::inside::run_if_asked();
    congo::end_quietly_when_nobody_reads(run)
}

fn run() -> ExitCode {
    let result = match Tool::parse() {
        Tool::Check(args) => check::run(&args),
        Tool::Diff(args) => diff::run(&args),
        Tool::Doctor(args) => doctor::run(&args),
        Tool::Faults(args) => faults::run(&args),
        Tool::Fuzz(args) => fuzz::run(&args),
        Tool::Image(args) => image::run(&args),
        Tool::Probe(args) => probe::run(&args),
        Tool::Prove(args) => prove::run(&args),
        Tool::Vm(args) => vm::run(&args),
        Tool::Readme(args) => readme::run(&args),
        Tool::Security(args) => security::run(&args),
        Tool::Book(args) => book::run(&args),
        Tool::Bench(args) => bench::run(&args),
        Tool::Debian(args) => debian::run(&args),
        Tool::Stages(args) => stages::run(&args),
        Tool::Soak(args) => soak::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
