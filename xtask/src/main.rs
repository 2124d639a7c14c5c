//! `cargo xtask`: the tools of the course, for learners, teachers and those who build it.

use std::panic;
use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::Signal;
use xtask::{bench, book, check, debian, diff, doctor, image, probe, prove, readme, security, vm};

/// The tools of the course.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Tool {
    Check(check::Args),
    Diff(diff::Args),
    Doctor(doctor::Args),
    Image(image::Args),
    Probe(probe::Args),
    Prove(prove::Args),
    Vm(vm::Args),
    Readme(readme::Args),
    Security(security::Args),
    Book(book::Args),
    Bench(bench::Args),
    Debian(debian::Args),
}

fn main() -> ExitCode {
    checks::inside::run_if_asked();
    end_quietly_when_nobody_reads();
    let result = match Tool::parse() {
        Tool::Check(args) => check::run(&args),
        Tool::Diff(args) => diff::run(&args),
        Tool::Doctor(args) => doctor::run(&args),
        Tool::Image(args) => image::run(&args),
        Tool::Probe(args) => probe::run(&args),
        Tool::Prove(args) => prove::run(&args),
        Tool::Vm(args) => vm::run(&args),
        Tool::Readme(args) => readme::run(&args),
        Tool::Security(args) => security::run(&args),
        Tool::Book(args) => book::run(&args),
        Tool::Bench(args) => bench::run(&args),
        Tool::Debian(args) => debian::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

/// Rust turns SIGPIPE off, so that `cargo xtask diff | head` would end in a panic and a page of backtrace.
/// Turning it on again takes unsafe code, and so would every `println!` that handles the error take a line.
fn end_quietly_when_nobody_reads() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<String>().is_some_and(|message| message.contains("Broken pipe")) {
            std::process::exit(128 + Signal::SIGPIPE as i32);
        }
        print(panic);
    }));
}
