//! A container runtime in one sitting: parse the command line, run the container, exit with its code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod bridge;
mod capabilities;
mod cgroup;
mod cli;
mod container;
mod device;
mod environment;
mod filesystem;
mod firewall;
mod hardening;
mod image;
mod init;
mod ipc;
mod names;
mod network;
mod overlay;
mod plan;
mod rlimit;
mod seccomp;
mod terminal;
mod user;
mod user_namespace;
mod volume;

fn main() -> ExitCode {
    common::run::cli::main(env!("CARGO_PKG_NAME"), container::run)
}
