//! A small init: a PID 1 that does nothing but what only PID 1 can do.
//!
//! PID 1 of a PID namespace is special. It gets only the signals that it has asked for, so `sleep` as PID 1 ignores
//! Ctrl-C and SIGTERM. It becomes the parent of every orphan, and must take note of its end, or it stays as a zombie
//! and counts against the limit of processes. And with it, all others die. Few programs are written for that.
//! Man pages: pid_namespaces(7), wait(2), signal(7).

use std::process::exit;

use common::Result;
use common::process::{Signals, close_descriptors, fork, reap_any, send};
use nix::sys::prctl::set_name;
use nix::sys::signal::Signal;

/// PID 1 stays behind in here, for good; what returns is its child, which goes on to become the command.
pub fn stay_behind(signals: &Signals) -> Result<()> {
    let Some(command) = fork()? else { return Ok(()) };
    // What the command closes by its exec, this process must close itself. One of them is the socket by which the
    // runtime learns of a failure of that exec.
    close_descriptors()?;
    // So that `ps` tells what it is.
    let _ = set_name(c"init");
    loop {
        match signals.wait()? {
            // One SIGCHLD may stand for many: signals do not queue.
            Signal::SIGCHLD => {
                while let Some((process, status)) = reap_any()? {
                    if process == command {
                        exit(status.into());
                    }
                }
            }
            signal => send(command, signal),
        }
    }
}
