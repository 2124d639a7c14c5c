//! A small init: a PID 1 that does nothing but what only PID 1 can do.
//!
//! PID 1 of a PID namespace is special. It gets only the signals that it has asked for, so `sleep` as PID 1
//! ignores Ctrl-C and SIGTERM. It becomes the parent of every orphan, and must take note of its end, or it
//! stays as a zombie and counts against the limit of processes. And with it, all others die. Few programs are
//! written for that.
//! Man pages: pid_namespaces(7), wait(2), signal(7).

use std::io::{Read, pipe};
use std::process::exit;

use common::run::process::{
    Signals, close_descriptors, fork, reap_any, send, wipe_arguments_and_environment,
};
use common::sys::open;
use common::sys::pty::use_as_stream;
use common::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::prctl::set_name;
use nix::sys::signal::Signal;

/// PID 1 stays behind in here, for good; what returns is its child, which goes on to become the command.
pub fn stay_behind(signals: &Signals) -> Result<()> {
    let (mut given_up, last) = pipe().context("pipe")?;
    let Some(command) = fork()? else {
        drop(last);
        // The command begins when PID 1 has given up what follows: the end of this pipe is the last that it
        // closes.
        let _ = given_up.read(&mut [0]);
        return Ok(());
    };
    // This process never becomes another program, so it must give up by itself what an exec would take. All
    // that it has open the command can open, too, by /proc/1/fd: the caller's terminal, and the socket to the
    // runtime.
    let nothing = open("/dev/null", OFlag::O_RDWR)?;
    for stream in 0..3 {
        use_as_stream(&nothing, stream)?;
    }
    // And by /proc/1/environ it could read the host's variables, and by /proc/1/cmdline what the runtime was
    // asked for.
    wipe_arguments_and_environment("init")?;
    // So that `ps` tells what it is, without -f, too.
    let _ = set_name(c"init");
    close_descriptors()?;
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
