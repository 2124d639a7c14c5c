//! The one error type of every runtime: what was being done, the errno, and what most likely causes it.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::path::Path;

use nix::errno::Errno;

/// Short for a result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Docker's exit status for "the runtime itself failed, or the input was bad".
pub const RUNTIME_FAILED: u8 = 125;
/// Docker's exit status for "the command is there but cannot be executed".
pub const CANNOT_EXECUTE: u8 = 126;
/// Docker's exit status for "the command was not found".
pub const NOT_FOUND: u8 = 127;

/// Why a container could not be run.
///
/// Displayed as one line, `what: ERRNO: errno in words`. A second line, the [`hint`](Error::hint), says
/// what most likely causes it and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}{}", words(*.errno))]
pub struct Error {
    what: String,
    errno: Option<Errno>,
    hint: Option<String>,
    status: u8,
}

impl Error {
    /// An error about what was being done, to what: `"--rootfs /x: not a directory"`.
    pub fn new(what: impl Into<String>) -> Self {
        Error { what: what.into(), errno: None, hint: None, status: RUNTIME_FAILED }
    }

    /// The same, for a system call that failed with `errno`.
    pub fn from_errno(what: impl Into<String>, errno: Errno) -> Self {
        Error { errno: Some(errno), ..Error::new(what) }
    }

    /// The same, for an error of the standard library.
    pub fn from_io(what: impl Into<String>, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Error::from_errno(what, Errno::from_raw(code)),
            None => Error::new(format!("{}: {error}", what.into())),
        }
    }

    /// Adds the likely cause and the remedy, unless a more exact one, nearer to the failure, is there.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Sets the exit status, where it is not [`RUNTIME_FAILED`].
    #[must_use]
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// The errno, when a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }

    /// With what status the runtime exits because of this error.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Prints the error to stderr, in two lines at most, as `program: …`.
    pub fn report(&self, program: &str) {
        let mut lines = format!("{program}: {}\n", one_line(&shortened(&self.to_string())));
        if let Some(hint) = self.hint.as_deref().or(self.errno.and_then(usual_cause)) {
            lines += &format!("{:width$}  {}\n", "", one_line(hint), width = program.len());
        }
        write_to_stderr(&lines);
    }

    /// The error and its hint in one line, for a longer message: `what: ERRNO: errno in words; hint`.
    pub(crate) fn in_one_line(&self) -> String {
        let what = shortened(&self.to_string());
        self.hint.as_ref().map_or_else(|| what.clone(), |hint| format!("{what}; {hint}"))
    }

    /// The error as bytes that cross the socket from the child to its parent.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let errno = self.errno.map_or(0, |errno| errno as i32);
        let hint = self.hint.as_deref().unwrap_or_default();
        format!("{}\0{errno}\0{}\0{hint}", self.status, self.what).into_bytes()
    }

    /// The error that [`to_bytes`](Error::to_bytes) wrote.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut fields = text.splitn(4, '\0');
        let mut next = || fields.next().unwrap_or_default();
        let status = next().parse().unwrap_or(RUNTIME_FAILED);
        let errno = next().parse().ok().filter(|&code| code != 0).map(Errno::from_raw);
        let what = next().to_owned();
        let hint = Some(next().to_owned()).filter(|hint| !hint.is_empty());
        Error { what, errno, hint, status }
    }
}

/// Writes a line to stderr, if somebody still reads it.
pub fn tell(line: fmt::Arguments<'_>) {
    write_to_stderr(&format!("{}\n", one_line(&line.to_string())));
}

/// The same while the caller's terminal is raw: then a newline alone does not go back to the first column.
pub(crate) fn tell_raw(line: &str) {
    write_to_stderr(&format!("{}\r\n", one_line(line)));
}

/// `eprintln!` would panic when nobody reads stderr any more, and a runtime that panics leaves its cgroup
/// behind. One write, or the lines of two runtimes would mix.
fn write_to_stderr(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Puts a text that may be anybody's, such as an image's, into one line. A newline in it would begin a line
/// that passes for one of ours. An escape character gives an order to the terminal. Some characters turn the
/// direction of the text around.
pub(crate) fn one_line(text: &str) -> String {
    let turns = |character| matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let escape = |character: char| match character.is_control() || turns(character) {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// What most often causes an errno, where nobody knows better.
fn usual_cause(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::EPERM => {
            "even root needs the capability for it, which root of a container lacks: capabilities(7)"
        }
        Errno::EACCES => "the permissions of the file, or of a directory above it, forbid it",
        Errno::ENOENT => "check the spelling",
        Errno::EROFS => "that file system is mounted read-only",
        Errno::ENOSPC => "the file system is full, or a limit of the kernel is reached",
        Errno::EMFILE | Errno::ENFILE => "too few file descriptors: ulimit -n",
        Errno::ENOMEM => "the host, or the cgroup of this runtime, is out of memory",
        Errno::E2BIG => "the arguments and the environment together are too long: execve(2)",
        _ => return None,
    })
}

/// A value or a command line of 4 KiB would push what is wrong with it off the screen.
fn shortened(text: &str) -> String {
    const ENDS: usize = 150;
    let count = text.chars().count();
    if count <= 2 * ENDS {
        return text.to_owned();
    }
    text.chars().take(ENDS).chain(['…']).chain(text.chars().skip(count - ENDS)).collect()
}

/// What the kernel said, behind what was being done.
fn words(errno: Option<Errno>) -> String {
    errno.map_or_else(String::new, |errno| format!(": {errno:?}: {}", errno.desc()))
}

/// The kernel's number of an error. EIO for one that did not come from the kernel.
pub(crate) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Says what was being done when a call of the standard library or of the kernel failed.
pub trait Context<T> {
    /// The error says `what: ERRNO: errno in words`. For `what` with arguments, `format_args!` formats
    /// nothing unless the call has failed.
    ///
    /// # Errors
    /// The error of the call, with its context.
    fn context(self, what: impl Display) -> Result<T>;

    /// The same for a file: `verb path: ERRNO: errno in words`.
    ///
    /// # Errors
    /// The error of the call, with its context.
    fn at(self, verb: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Error::from_io(what.to_string(), &error.into()))
    }

    fn at(self, verb: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| Error::from_io(format!("{verb} {}", path.as_ref().display()), &error.into()))
    }
}

/// Adds a likely cause to the error of a result.
pub trait Hint {
    /// Says what most likely causes the failure, and what to do, when it failed with `errno`.
    #[must_use]
    fn hint_if(self, errno: Errno, hint: &str) -> Self;
}

impl<T> Hint for Result<T> {
    fn hint_if(self, errno: Errno, hint: &str) -> Self {
        self.map_err(|error| if error.errno() == Some(errno) { error.hint(hint) } else { error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_the_socket_unchanged() {
        let error = Error::from_errno("mount \"proc\"", Errno::EPERM).hint("are you root?").with_status(126);
        assert_eq!(Error::from_bytes(&error.to_bytes()), error);
        let plain = Error::new("no such thing");
        assert_eq!(Error::from_bytes(&plain.to_bytes()), plain);
    }

    #[test]
    fn what_is_told_is_one_line_and_no_order_to_the_terminal() {
        assert_eq!(one_line("/ä b\n\u{1b}[31m\r\u{9b}\u{202e}"), "/ä b\\n\\u{1b}[31m\\r\\u{9b}\\u{202e}");
    }

    #[test]
    fn one_line_has_the_hint_too() {
        let error = Error::from_errno("remove /x", Errno::EBUSY);
        assert_eq!(error.in_one_line(), "remove /x: EBUSY: Device or resource busy");
        let line = error.hint("umount /x").in_one_line();
        assert_eq!(line, "remove /x: EBUSY: Device or resource busy; umount /x");
    }

    #[test]
    fn the_first_hint_stays() {
        let error = Error::new("x").hint("exact").hint("general");
        assert_eq!(error.hint.as_deref(), Some("exact"));
    }
}
