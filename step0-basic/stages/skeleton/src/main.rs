//! A container runtime in one sitting: parse the command line, run the container, exit with its code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod cli;
mod container;

fn main() -> ExitCode {
    common::run::cli::main(env!("CARGO_PKG_NAME"), container::run)
}
