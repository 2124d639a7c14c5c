//! A helper: a copy of this process that does one thing for it, and tells what came of it.
//!
//! The runtime needs a helper where a call changes the whole process, such as the entry into a namespace. It
//! also needs one where a process must be left when the runtime is killed.
//!
//! Kernel objects: a process, made by fork(2), and a pair of connected sockets, one end for each side. The
//! helper says that it is ready, if the parent waits for that, and waits for the parent's "go", if it needs
//! it. Its last message is "done", or the error. A helper that ends without either was killed, or it
//! panicked, or it could not send the message: then its status is the errno. The helper reads the end of the
//! file when the parent has ended.
//! Man pages: fork(2), socketpair(2), unix(7).

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::run::handshake::{has_ended, receive_descriptor, send_descriptor};
use crate::sys::clone::{exit_now, fork};
use crate::sys::error::{Context, Error, Result};
use crate::sys::{die_with_parent, explain};

/// What the two sides say. An error begins with a digit: see `Error::to_bytes`.
const READY: u8 = b'r';
const GO: u8 = b'g';
const DONE: u8 = b'+';

/// The status of a helper that panicked, as Rust's standard library has it.
const PANICKED: i32 = 101;

/// A helper at work, seen from its parent. Dropped, it reads the end of its socket, and is waited for.
#[derive(Debug)]
pub struct Helper {
    doing: &'static str,
    process: Pid,
    socket: UnixStream,
    /// Why the "go" could not be sent.
    unsent: Option<Error>,
    ended: bool,
}

/// The helper's own end.
#[derive(Debug)]
pub struct HelperEnd {
    socket: UnixStream,
    /// The last message, if all goes well: "done", and the answer.
    last: Vec<u8>,
}

impl Helper {
    /// Forks a helper that lets `story` run and then ends. This process must have one thread. `doing` says in
    /// errors what the helper is for: `"mounting the root"`.
    ///
    /// # Errors
    /// EAGAIN at a limit of processes, ENOMEM, EMFILE.
    pub fn start(doing: &'static str, story: impl FnOnce(&mut HelperEnd) -> Result<()>) -> Result<Helper> {
        Helper::from(doing, fork, story)
    }

    /// The same in a new PID namespace, as its PID 1: when the helper ends, however it ends, the kernel kills
    /// all that it has started. The helper has ended when they have. See pid_namespaces(7).
    ///
    /// # Errors
    /// As [`born_in`](Helper::born_in).
    #[cfg(feature = "network")]
    pub fn start_as_first(
        doing: &'static str,
        story: impl FnOnce(&mut HelperEnd) -> Result<()>,
    ) -> Result<Helper> {
        Helper::born_in(nix::sched::CloneFlags::CLONE_NEWPID, doing, story)
    }

    /// The same in new namespaces, one for each flag.
    ///
    /// # Errors
    /// As [`start`](Helper::start); EPERM without `CAP_SYS_ADMIN` in this process's user namespace, if the
    /// helper gets no new one; ENOSPC at a limit of namespaces.
    #[cfg(any(feature = "idmap", feature = "network"))]
    pub fn born_in(
        flags: nix::sched::CloneFlags,
        doing: &'static str,
        story: impl FnOnce(&mut HelperEnd) -> Result<()>,
    ) -> Result<Helper> {
        Helper::from(doing, || Ok(crate::sys::clone::clone(flags, None)?.child), story)
    }

    fn from(
        doing: &'static str,
        fork: impl FnOnce() -> Result<Option<Pid>>,
        story: impl FnOnce(&mut HelperEnd) -> Result<()>,
    ) -> Result<Helper> {
        let (parents, helpers) = UnixStream::pair().context("socketpair(AF_UNIX)")?;
        let Some(process) = fork()? else {
            drop(parents);
            let _end = NoReturn;
            explain::become_helper();
            let mut end = HelperEnd { socket: helpers, last: vec![DONE] };
            let last = match story(&mut end) {
                Ok(()) => end.last,
                Err(error) => error.to_bytes(),
            };
            // It also fails when the parent has ended, and then nobody waits for it.
            let sent = end.socket.write_all(&last);
            exit_now(sent.err().and_then(|error| error.raw_os_error()).map_or(0, |errno| errno as u8));
        };
        Ok(Helper { doing, process, socket: parents, unsent: None, ended: false })
    }

    /// Its number.
    pub fn process(&self) -> Pid {
        self.process
    }

    /// Waits until it says that it is [`ready`](HelperEnd::ready).
    ///
    /// # Errors
    /// What it failed at instead.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let mut first = [0];
        let count = self.socket.read(&mut first).context(self.doing)?;
        if first[..count] == [READY] {
            return Ok(());
        }
        self.last_message(first[..count].to_vec())?;
        Err(Error::new(format!("{}: the helper process ended before it was ready", self.doing)))
    }

    /// Tells it to go on, where it [waits](HelperEnd::wait_for_go) for that. If it has ended instead, its
    /// last message says why. Any other failure is that of the functions that read the last message.
    pub fn go(&mut self) {
        if let Err(error) = self.socket.write_all(&[GO]) {
            // A helper that lives would wait for ever, and this process for it. So it reads the end instead.
            let _ = self.socket.shutdown(Shutdown::Write);
            if error.kind() != ErrorKind::BrokenPipe {
                let what = format!("{}: telling the helper process to go on", self.doing);
                self.unsent = Some(Error::from_io(what, &error));
            }
        }
    }

    /// Waits for the descriptor that it [sends](HelperEnd::send), and for its end. `None` when it was done
    /// without sending one.
    ///
    /// # Errors
    /// What it failed at; EMFILE.
    pub fn descriptor(mut self) -> Result<Option<OwnedFd>> {
        let (descriptor, begun) = receive_descriptor(&self.socket)?;
        self.last_message(begun)?;
        Ok(descriptor)
    }

    /// Waits for its end, and returns its [answer](HelperEnd::answer).
    ///
    /// # Errors
    /// What it failed at, or how it was killed.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.last_message(Vec::new())
    }

    /// Reads the last message, of which the caller may have the beginning already.
    fn last_message(&mut self, begun: Vec<u8>) -> Result<Vec<u8>> {
        let mut message = begun;
        let read = self.socket.read_to_end(&mut message);
        let how = self.wait();
        if let Some(error) = self.unsent.take() {
            return Err(error);
        }
        // The kernel tells so that a helper has ended without reading the "go". What it has sent comes first.
        if !matches!(&read, Err(error) if error.kind() == ErrorKind::ConnectionReset) {
            read.context(self.doing)?;
        }
        match message.split_first() {
            Some((&DONE, answer)) => Ok(answer.to_vec()),
            Some(_) => Err(Error::from_bytes(&message)),
            None => Err(Error::new(format!("{}: the helper process {how}", self.doing))),
        }
    }

    /// Waits for its end, and says how it has ended.
    fn wait(&mut self) -> String {
        self.ended = true;
        loop {
            match waitpid(self.process, None) {
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::Signaled(_, signal, _)) => return format!("was killed by {signal}"),
                Ok(WaitStatus::Exited(_, status)) if matches!(status, 0 | PANICKED) => {
                    return format!("ended with status {status}");
                }
                Ok(WaitStatus::Exited(_, status)) => {
                    let errno = Errno::from_raw(status);
                    return format!("could not tell what came of it: {errno:?}: {}", errno.desc());
                }
                Ok(_) | Err(_) => return "ended".into(),
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.socket.shutdown(Shutdown::Both);
            self.wait();
        }
    }
}

impl HelperEnd {
    /// Tells the parent that it need not wait any longer.
    ///
    /// # Errors
    /// EPIPE when the parent has ended.
    pub fn ready(&mut self) -> Result<()> {
        self.socket.write_all(&[READY]).context("telling the runtime that its helper is ready")
    }

    /// Waits for the parent's "go".
    ///
    /// # Errors
    /// When the parent has ended.
    pub fn wait_for_go(&mut self) -> Result<()> {
        self.socket.read_exact(&mut [0]).context("waiting for the runtime's \"go\"")
    }

    /// Lets the kernel kill this process when the parent ends. A change of ids takes that away, so it comes
    /// after one.
    ///
    /// # Errors
    /// When the parent has ended already: the kernel does not tell that any more.
    pub fn die_with_parent(&self) -> Result<()> {
        die_with_parent()?;
        match has_ended(&self.socket)? {
            true => Err(Error::new("the runtime ended before its helper began")),
            false => Ok(()),
        }
    }

    /// Sends a copy of a descriptor to the parent, which waits for it.
    ///
    /// # Errors
    /// EPIPE when the parent has ended.
    pub fn send(&mut self, descriptor: impl AsFd) -> Result<()> {
        send_descriptor(&self.socket, descriptor)
    }

    /// Sets what the parent gets from [`Helper::finish`], if all goes well.
    pub fn answer(&mut self, answer: impl AsRef<[u8]>) {
        self.last = [&[DONE], answer.as_ref()].concat();
    }
}

impl AsFd for HelperEnd {
    /// The socket: it can be read when the parent has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A panic unwinds the stack, and above the helper's story that is the parent's: its code would run twice.
/// Where a panic aborts the process, there is nothing to do.
struct NoReturn;

impl Drop for NoReturn {
    fn drop(&mut self) {
        exit_now(PANICKED as u8);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn the_parent_hears_what_came_of_it() {
        let mut helper = Helper::start("testing", |end| {
            end.ready()?;
            end.wait_for_go()?;
            end.answer("42");
            Ok(())
        })
        .unwrap();
        helper.wait_until_ready().unwrap();
        helper.go();
        assert_eq!(helper.finish().unwrap(), b"42");
        let error = Error::from_errno("a call", Errno::EPERM).hint("a hint").with_status(126);
        let failed = || Helper::start("testing", |_| Err(error.clone())).unwrap();
        assert_eq!(failed().finish(), Err(error.clone()));
        assert_eq!(failed().wait_until_ready(), Err(error.clone()));
        assert_eq!(failed().descriptor().unwrap_err(), error);
    }

    #[test]
    fn a_helper_without_a_word_says_how_it_ended() {
        let panicking = || Helper::start("testing", |_| panic!("as the test wants it")).unwrap();
        let killed = Helper::start("testing", |_| {
            let _ = raise(Signal::SIGKILL);
            Ok(())
        });
        let early = Helper::start("testing", |_| Ok(())).unwrap().wait_until_ready();
        let told = [
            (panicking().finish().map(drop), "the helper process ended with status 101"),
            (panicking().wait_until_ready(), "the helper process ended with status 101"),
            (killed.unwrap().finish().map(drop), "the helper process was killed by SIGKILL"),
            (early, "the helper process ended before it was ready"),
        ];
        for (result, how) in told {
            assert_eq!(result.unwrap_err().to_string(), format!("testing: {how}"));
        }
    }

    #[cfg(feature = "seccomp")]
    #[test]
    fn a_go_that_cannot_be_sent_is_no_wait_for_ever() {
        use std::time::Duration;

        use crate::security::capability::Capabilities;
        use crate::security::seccomp::{Action, Profile, fails_with};

        let (sender, receiver) = std::sync::mpsc::channel();
        // A filter holds for its thread, and the thread ends.
        std::thread::spawn(move || {
            let mut helper = Helper::start("testing", HelperEnd::wait_for_go).unwrap();
            let mut profile = Profile::new();
            profile.newer_calls(Action::Allow);
            profile.other_calls(Action::Allow);
            profile.refuse("sendto write", fails_with(Errno::EIO));
            crate::sys::set_no_new_privs().unwrap();
            profile.compile(&Capabilities::new()).unwrap().load().unwrap();
            helper.go();
            let _ = sender.send(helper.finish().unwrap_err().to_string());
        });
        let told = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(told.starts_with("testing: telling the helper process to go on: EIO: "), "{told}");
    }

    #[test]
    fn a_helper_that_reads_no_go_is_heard() {
        use std::os::fd::AsRawFd;

        use nix::sys::socket::{MsgFlags, recv};

        let error = Error::from_errno("a call", Errno::ENOMEM);
        let mut helper = Helper::start("testing", |end| {
            // When the "go" is there, but does not take it.
            let _ = recv(end.socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK);
            Err(error.clone())
        })
        .unwrap();
        helper.go();
        assert_eq!(helper.finish(), Err(error));
    }

    #[cfg(feature = "seccomp")]
    #[test]
    fn a_helper_that_can_tell_nothing_says_why() {
        use crate::security::capability::Capabilities;
        use crate::security::seccomp::{Action, Profile, fails_with};

        let helper = Helper::start("testing", |_| {
            let mut profile = Profile::new();
            profile.newer_calls(Action::Allow);
            profile.other_calls(Action::Allow);
            profile.refuse("sendto write", fails_with(Errno::ENOBUFS));
            crate::sys::set_no_new_privs()?;
            profile.compile(&Capabilities::new())?.load()
        });
        let told = helper.unwrap().finish().unwrap_err().to_string();
        assert!(told.contains("the helper process could not tell what came of it: ENOBUFS: "), "{told}");
    }

    #[test]
    fn a_descriptor_comes_across() {
        let helper =
            Helper::start("testing", |end| end.send(File::open("/dev/null").at("open", "/dev/null")?));
        let descriptor = helper.unwrap().descriptor().unwrap().unwrap();
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&descriptor));
        assert_eq!(std::fs::read_link(link).unwrap(), std::path::Path::new("/dev/null"));
        let without = Helper::start("testing", |_| Ok(())).unwrap();
        assert!(without.descriptor().unwrap().is_none());
    }

    #[test]
    fn a_helper_does_not_begin_when_its_parent_has_ended() {
        let (parent, helper) = UnixStream::pair().unwrap();
        let end = HelperEnd { socket: helper, last: Vec::new() };
        assert!(!has_ended(&end.socket).unwrap());
        drop(parent);
        let begun = Helper::start("testing", move |_| end.die_with_parent()).unwrap().finish();
        assert_eq!(begun.unwrap_err().to_string(), "the runtime ended before its helper began");
    }

    #[test]
    fn dropped_it_reads_the_end_of_the_file() {
        let (read, write) = std::io::pipe().unwrap();
        let helper = Helper::start("testing", move |end| {
            if end.wait_for_go().is_err() {
                let _ = (&write).write_all(b"left alone");
            }
            Ok(())
        });
        drop(helper.unwrap());
        assert_eq!(std::io::read_to_string(read).unwrap(), "left alone");
    }
}
