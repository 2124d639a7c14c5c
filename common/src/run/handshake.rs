//! The talk between the two sides of a start. The parent says "go". The child sends a descriptor, if the
//! parent waits for one, and then "failed at this" or nothing.
//!
//! Kernel objects: a pair of connected unix sockets, one end for each side, both close-on-exec. So the child
//! reads the end of the file when the parent has died. And a page of memory that both share: there the child
//! notes what it failed at. A message would take a system call, which a seccomp filter of the user's may
//! forbid. The parent reads the note when the child has ended; it is empty if the child's exec has worked.
//! See socketpair(2), unix(7), mmap(2).

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::sys::call;
use crate::sys::descriptors::close_all_but;
use crate::sys::error::{Context, Error, Result};
use crate::sys::explain;
use crate::sys::memory::Note;

/// Room for one descriptor in the control data of a message.
const SPACE: usize = cmsg_space!(ScmRights(1));

/// The parent's end.
#[derive(Debug)]
pub struct ParentEnd {
    socket: UnixStream,
    failure: Note,
}

/// The child's end.
#[derive(Debug)]
pub struct ChildEnd {
    socket: UnixStream,
    failure: Note,
    may_go: bool,
    born_in_cgroup: bool,
    last_act: Option<LastAct>,
}

struct LastAct(Box<dyn FnOnce() -> Result<()>>);

impl fmt::Debug for LastAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastAct")
    }
}

/// Makes the two ends.
///
/// # Errors
/// When the process has no descriptors left (EMFILE) or the host has none (ENFILE).
pub fn pair() -> Result<(ParentEnd, ChildEnd)> {
    // The standard library sets SOCK_CLOEXEC.
    let (parent, child) = UnixStream::pair().context("socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC)")?;
    explain::line(
        "socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC)",
        "parent's end, child's end",
        "socketpair(2)",
    );
    let failure = Note::new()?;
    Ok((
        ParentEnd { socket: parent, failure },
        ChildEnd { socket: child, failure, may_go: false, born_in_cgroup: false, last_act: None },
    ))
}

impl ParentEnd {
    /// Tells the child that everything is ready which the parent does for it.
    ///
    /// # Errors
    /// When the child is dead already (EPIPE).
    pub fn go(&mut self) -> Result<()> {
        let turn = explain::Turn::take();
        self.socket.write_all(b"g").context("telling the child to go")?;
        if let Some(turn) = turn {
            turn.line("send(socket, \"go\")", 1, "unix(7)");
        }
        Ok(())
    }

    /// Waits for the descriptor that the child sends by [`ChildEnd::send_descriptor`]. `None` when the child
    /// has failed or ended instead.
    ///
    /// # Errors
    /// When this process has no descriptors left.
    pub fn receive_descriptor(&mut self) -> Result<Option<OwnedFd>> {
        receive_descriptor(&self.socket).map(|(descriptor, _)| descriptor)
    }

    /// Reads what the child failed at. Called once the child has ended: its exec is no news that is worth
    /// waking up for, as every wake-up delays the start.
    ///
    /// # Errors
    /// What the child failed at, if it did not become the command.
    pub fn failure(&self) -> Result<()> {
        let note = self.failure.read();
        if note.is_empty() { Ok(()) } else { Err(Error::from_bytes(&note)) }
    }
}

impl ChildEnd {
    /// Whether [`clone`](crate::run::process::clone) made this child in the cgroup v2 that the parent had
    /// asked for: then the child need not move there.
    pub fn was_born_in_cgroup(&self) -> bool {
        self.born_in_cgroup
    }

    pub(crate) fn set_born_in_cgroup(&mut self, born: bool) {
        self.born_in_cgroup = born;
    }

    /// Waits for the parent's "go".
    ///
    /// # Errors
    /// When the parent has died: nobody would wait for this container or clean up after it.
    pub fn wait_for_go(&mut self) -> Result<()> {
        let mut go = [0];
        self.socket.read_exact(&mut go).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::new("the runtime ended before the container began"),
            _ => Error::from_io("waiting for the runtime's \"go\"", &error),
        })?;
        // Before anything else can fail: the error would wait for a second "go", which does not come.
        self.may_go = true;
        // It may have died after its "go", but before this process asked to die with it.
        self.must_live()?;
        explain::line("recv(socket)", "\"go\"", "unix(7)");
        Ok(())
    }

    /// Looks whether the parent still lives. After [`die_with_parent`](crate::sys::die_with_parent), there is
    /// no moment at which its death could be missed.
    ///
    /// # Errors
    /// When it has died, or that cannot be told.
    pub fn must_live(&self) -> Result<()> {
        match has_ended(&self.socket)? {
            true => Err(Error::new("the runtime ended before the container began")),
            false => Ok(()),
        }
    }

    /// Sends a copy of a descriptor to the parent, which waits for it: unix(7), SCM_RIGHTS.
    ///
    /// # Errors
    /// When the parent has died.
    pub fn send_descriptor(&mut self, descriptor: impl AsFd) -> Result<()> {
        send_descriptor(&self.socket, descriptor)
    }

    /// Closes every descriptor above 2 but this one, which exec closes. If they were only marked
    /// close-on-exec, they would still be open when the kernel looks up the command. A path such as
    /// `/proc/self/fd/7/..` then leads through them, out of any root. A value that owns one of them must not
    /// be used or dropped any more.
    ///
    /// # Errors
    /// On kernels before 5.9, when `/proc` is not mounted.
    pub fn close_all_others(&self) -> Result<()> {
        close_all_but(Some(self.socket.as_fd()))
    }

    /// Notes what failed, for the parent. Makes no system call once the child may go.
    pub(crate) fn failed(&mut self, error: &Error) {
        // The parent's "go" must not fail: it would be told in the place of this error.
        let _ = if self.may_go { Ok(()) } else { self.wait_for_go() };
        self.failure.write(&error.to_bytes());
    }

    /// Sets the last act of this process before its [`exec`](crate::run::process::exec), when it needs no
    /// other system call any more. This is for a filter of system calls, which may forbid all others.
    pub fn at_last(&mut self, act: impl FnOnce() -> Result<()> + 'static) {
        self.last_act = Some(LastAct(Box::new(act)));
    }

    /// Does what [`at_last`](ChildEnd::at_last) has set, if anything.
    ///
    /// # Errors
    /// Those of that act.
    pub fn last_act(&mut self) -> Result<()> {
        self.last_act.take().map_or(Ok(()), |LastAct(act)| act())
    }
}

/// Whether the process at the other end has ended. A socket whose other end is closed is "hung up", which
/// poll(2) tells without being asked for it.
pub(super) fn has_ended(socket: &UnixStream) -> Result<bool> {
    let mut hung_up = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut hung_up, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            result => return Ok(result.context("poll(socket)")? > 0),
        }
    }
}

/// Sends a copy of a descriptor to the process at the other end.
pub(super) fn send_descriptor(socket: &UnixStream, descriptor: impl AsFd) -> Result<()> {
    call(
        "unix(7)",
        || "sendmsg(socket, SCM_RIGHTS)".into(),
        || {
            let (descriptors, mut space) = ([descriptor.as_fd()], [MaybeUninit::uninit(); SPACE]);
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            // The kernel sends control data with at least one byte.
            sendmsg(socket, &[IoSlice::new(b"d")], &mut control, SendFlags::empty())
        },
    )
    .map(drop)
}

/// Waits for a descriptor from the process at the other end. Without a descriptor, the second value is the
/// byte that came in its place: the first of another message. At the end of the file it is empty.
pub(super) fn receive_descriptor(socket: &UnixStream) -> Result<(Option<OwnedFd>, Vec<u8>)> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); SPACE];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut data = [IoSliceMut::new(&mut byte)];
        // Close-on-exec from the first moment on.
        let count = match recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.context("recvmsg(socket)")?.bytes,
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let Some(descriptor) = descriptor else { return Ok((None, byte[..count].to_vec())) };
        explain::line("recvmsg(socket, SCM_RIGHTS)", descriptor.as_raw_fd(), "unix(7)");
        return Ok((Some(descriptor), Vec::new()));
    }
}
