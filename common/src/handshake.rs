//! The talk between the two sides of a start: "go" from the parent, "failed at this" or silence from the child.
//!
//! A pair of connected unix sockets, one end for each side, both close-on-exec. So what the parent reads is empty
//! exactly when the child's exec has worked, and the child reads the end of the file when the parent has died.
//! See socketpair(2), unix(7).

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::explain;

/// The parent's end.
#[derive(Debug)]
pub struct ParentEnd(UnixStream);

/// The child's end.
#[derive(Debug)]
pub struct ChildEnd {
    socket: UnixStream,
    may_go: bool,
}

/// Makes the two ends.
///
/// # Errors
/// When the process has no descriptors left (EMFILE) or the host has none (ENFILE).
pub fn pair() -> Result<(ParentEnd, ChildEnd)> {
    // The standard library sets SOCK_CLOEXEC.
    let (parent, child) = UnixStream::pair()
        .map_err(|error| Error::from_io("socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC)", &error))?;
    explain::line(
        "socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC)",
        "parent's end, child's end",
        "socketpair(2)",
    );
    Ok((ParentEnd(parent), ChildEnd { socket: child, may_go: false }))
}

impl ParentEnd {
    /// Tells the child that everything is ready which the parent does for it.
    ///
    /// # Errors
    /// When the child is dead already (EPIPE).
    pub fn go(&mut self) -> Result<()> {
        let turn = explain::Turn::take();
        self.0.write_all(b"g").map_err(|error| Error::from_io("telling the child to go", &error))?;
        if let Some(turn) = turn {
            turn.line("send(socket, \"go\")", 1, "unix(7)");
        }
        Ok(())
    }

    /// Reads what the child failed at. Called once the child has ended: the end of the file that exec makes is no
    /// news that is worth waking up for, as every wake-up delays the start.
    ///
    /// # Errors
    /// What the child failed at, if it did not become the command.
    pub fn failure(&mut self) -> Result<()> {
        let mut message = Vec::new();
        self.0
            .read_to_end(&mut message)
            .map_err(|error| Error::from_io("reading what the child failed at", &error))?;
        if message.is_empty() { Ok(()) } else { Err(Error::from_bytes(&message)) }
    }
}

impl ChildEnd {
    /// Waits for the parent's "go".
    ///
    /// # Errors
    /// When the parent has died: nobody would wait for this container or clean up after it.
    pub fn wait_for_go(&mut self) -> Result<()> {
        let mut go = [0];
        self.socket
            .read_exact(&mut go)
            .map_err(|error| Error::new(format!("the runtime ended before the container began: {error}")))?;
        // The parent may have died after its "go", but before this process asked to die with it. A socket whose other
        // end is closed is "hung up", which poll(2) tells without being asked for it.
        let mut hung_up = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        if poll(&mut hung_up, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
            return Err(Error::new("the runtime ended before the container began"));
        }
        self.may_go = true;
        explain::line("recv(socket)", "\"go\"", "unix(7)");
        Ok(())
    }

    /// Tells the parent what failed. That the parent may be dead, too, is no further failure.
    pub(crate) fn failed(&mut self, error: &Error) {
        // The kernel throws away what a socket holds when the other side leaves its own mail unread: read "go" first.
        let _ = if self.may_go { Ok(()) } else { self.wait_for_go() };
        let _ = self.socket.write_all(&error.to_bytes());
    }
}
