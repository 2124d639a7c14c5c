//! The learner's tool, `cargo congo`, one module for each part of it. It is a library so that `cargo xtask`
//! can use the same parts.

pub mod check;
pub mod diff;
pub mod learner;
pub mod root;
pub mod stages;
pub mod task;
pub mod workspace;

use std::panic;

use nix::sys::signal::Signal;

/// Rust turns SIGPIPE off, so that `cargo congo next | head` would end in a panic and a page of backtrace.
/// Turning it on again takes unsafe code, and so would every `println!` that handles the error take a line.
pub fn end_quietly_when_nobody_reads() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<String>().is_some_and(|message| message.contains("Broken pipe")) {
            std::process::exit(128 + Signal::SIGPIPE as i32);
        }
        print(panic);
    }));
}
