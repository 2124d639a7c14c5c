//! Why an archive, or an entry of it, is refused.

use std::borrow::Cow;
use std::io;

use nix::errno::Errno;

/// Why an entry could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// No layer may say what the entry says.
    #[error("{0}")]
    Rule(Cow<'static, str>),
    /// The archive cannot be read, or the file system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Refusal {
    /// Whether there is nothing at the path of a call.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Refusal::Io(error) if matches!(error.raw_os_error().map(Errno::from_raw),
            Some(Errno::ENOENT | Errno::ENOTDIR)))
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Refusal::Io(errno.into())
    }
}

impl From<&'static str> for Refusal {
    fn from(rule: &'static str) -> Self {
        Refusal::Rule(rule.into())
    }
}

impl From<String> for Refusal {
    fn from(rule: String) -> Self {
        Refusal::Rule(rule.into())
    }
}

/// The error of a reader whose bytes are not what they must be.
pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
