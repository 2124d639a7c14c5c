//! A small init: a PID 1 that has only the duties of a PID 1.
//!
//! PID 1 of a PID namespace is special. It gets only the signals that it has asked for, so `sleep` as PID 1
//! ignores Ctrl-C and SIGTERM. It becomes the parent of every orphan, and must reap it. Otherwise the orphan
//! stays as a zombie, and counts against the limit of processes. When PID 1 ends, all others die. Few
//! programs are written for that.
//! Man pages: pid_namespaces(7), wait(2), signal(7).

use std::io::{Read, pipe};
use std::process::exit;

use common::run::handshake::ChildEnd;
use common::run::process::{
    SignalNumber, Signals, close_descriptors, fork, reap_any, send, wipe_arguments_and_environment,
};
use common::sys::pty::use_as_stream;
use common::sys::{die_with, open};
use common::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::prctl::{set_child_subreaper, set_name};
use nix::unistd::getpid;

/// PID 1 stays in this function, for good. Only its child returns, and goes on to become the command.
pub fn stay_behind(signals: &Signals, parent: &mut ChildEnd) -> Result<()> {
    // With --pid host or container:PID it is not. Then orphans come to it only by the prctl(2) below, and
    // nothing but PR_SET_PDEATHSIG ends the command with it.
    let init = getpid();
    let is_first = init.as_raw() == 1;
    let (mut given_up, last) = pipe().context("pipe")?;
    let Some(command) = fork()? else {
        drop(last);
        // The command begins when PID 1 has given up all that follows. It closes the end of this pipe last.
        let _ = given_up.read(&mut [0]);
        return if is_first { Ok(()) } else { die_with(init) };
    };
    if !is_first {
        set_child_subreaper(true).context("prctl(PR_SET_CHILD_SUBREAPER)")?;
    }
    // This process never becomes another program, so no exec closes its files. By /proc/1/fd the command
    // could open them, too: the caller's terminal, and the socket to the runtime.
    let nothing = open("/dev/null", OFlag::O_RDWR)?;
    for stream in 0..3 {
        use_as_stream(&nothing, stream)?;
    }
    // By /proc/1/environ the command could read the host's variables, by /proc/1/cmdline the runtime's
    // options.
    wipe_arguments_and_environment("init")?;
    // So that `ps` shows that name, without -f, too.
    let _ = set_name(c"init");
    parent.last_act()?;
    close_descriptors()?;
    loop {
        match signals.wait()? {
            // One SIGCHLD may stand for many: signals do not queue.
            SignalNumber::CHILD => {
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
