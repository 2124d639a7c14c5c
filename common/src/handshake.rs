//! The talk between the two sides of a start: "go" from the parent, "failed at this" or silence from the child.
//!
//! A pair of connected unix sockets, one end for each side, both close-on-exec. So the parent reads the end of
//! the file exactly when the child's exec has worked (or the child is dead), and the child reads it when the
//! parent has died. See socketpair(2), unix(7).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::error::{Error, Result};
use crate::explain;

/// The parent's end.
#[derive(Debug)]
pub struct ParentEnd(UnixStream);

/// The child's end.
#[derive(Debug)]
pub struct ChildEnd(UnixStream);

/// Makes the two ends.
///
/// # Errors
/// When the process has no descriptors left (EMFILE) or the host has none (ENFILE).
pub fn pair() -> Result<(ParentEnd, ChildEnd)> {
    // The standard library sets SOCK_CLOEXEC.
    let (parent, child) = UnixStream::pair()
        .map_err(|error| Error::from_io("socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC)", &error))?;
    Ok((ParentEnd(parent), ChildEnd(child)))
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
            turn.line("write(socket, \"go\")", 1, "unix(7)");
        }
        Ok(())
    }

    /// Waits until the child has become the command.
    ///
    /// # Errors
    /// What the child says it failed at.
    pub fn wait_for_exec(&mut self) -> Result<()> {
        let mut message = Vec::new();
        self.0
            .read_to_end(&mut message)
            .map_err(|error| Error::from_io("waiting for the child to start the command", &error))?;
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
        self.0
            .read_exact(&mut go)
            .map_err(|error| Error::new(format!("the runtime ended before the container began: {error}")))?;
        explain::line("read(socket)", "\"go\"", "unix(7)");
        Ok(())
    }

    /// Tells the parent what failed. That the parent may be dead, too, is no further failure.
    pub(crate) fn failed(&mut self, error: &Error) {
        let _ = self.0.write_all(&error.to_bytes());
    }
}
