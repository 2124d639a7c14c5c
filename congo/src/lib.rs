//! The learner's tool, `cargo congo`, one module for each part of it. It is a library so that `cargo xtask`
//! can use the same parts.

pub mod check;
pub mod diff;
pub mod doctor;
pub mod exercise;
pub mod lab;
pub mod learner;
pub mod list;
mod manifest;
pub mod root;
pub mod stages;
pub mod task;
pub mod workspace;

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use nix::sys::signal::Signal;

/// The status of a tool whose reader has left.
const NO_READER: u8 = 128 + Signal::SIGPIPE as u8;

/// Runs a tool that prints. Rust turns SIGPIPE off, so that `cargo congo next | head` would end in a panic
/// and a page of backtrace. Turning it on again takes unsafe code, and would leave temporary folders behind.
/// So the panic is quiet here, and removes them on its way.
pub fn end_quietly_when_nobody_reads(tool: impl FnOnce() -> ExitCode) -> ExitCode {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| match is_broken_pipe(panic.payload()) {
        // This panic cannot be caught.
        true if cfg!(panic = "abort") => std::process::exit(NO_READER.into()),
        true => {}
        false => print(panic),
    }));
    match panic::catch_unwind(AssertUnwindSafe(tool)) {
        Ok(code) => code,
        Err(payload) if is_broken_pipe(&*payload) => ExitCode::from(NO_READER),
        Err(payload) => panic::resume_unwind(payload),
    }
}

fn is_broken_pipe(payload: &(dyn Any + Send)) -> bool {
    payload.downcast_ref::<String>().is_some_and(|message| message.contains("Broken pipe"))
}
