//! Digests, and readers that add up the bytes that pass through them.
//!
//! A digest is `ALGORITHM:HEX`. Everything in an image is named by the digest of its bytes. A digest becomes
//! the name of a file, so it is checked first: nothing but hexadecimal digits may stand there.
//! Sources: OCI image specification, descriptor.md, "Digests"; config.md, "Layer ChainID".

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::rc::Rc;

use sha2::{Digest as _, Sha256};

use super::refusal::invalid;
use crate::sys::error::{Error, Result};

/// The SHA-256 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Reads `sha256:` and 64 hexadecimal digits in lower case. `what` has the digest.
    ///
    /// # Errors
    /// Another algorithm, or no digest.
    pub(super) fn parse(text: &str, what: &str) -> Result<Digest> {
        let wrong = || {
            Error::new(format!("{what}: {text:?} is no digest that can be checked"))
                .hint("expected sha256: and 64 hexadecimal digits in lower case")
        };
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let digits = text.strip_prefix("sha256:").filter(|it| it.len() == 64 && it.bytes().all(is_digit));
        let digits = digits.ok_or_else(wrong)?;
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Digest(bytes))
    }

    /// The digest of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digits alone: the name of the blob's file.
    pub(super) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What identifies a layer together with those below it.
    pub(super) fn chain(self, above: Digest) -> Digest {
        Digest::of(format!("{self} {above}").as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bytes that have passed: their number and their digest.
#[derive(Clone, Default)]
pub(super) struct Sum(Rc<RefCell<(u64, Sha256)>>);

impl Sum {
    pub(super) fn count(&self) -> u64 {
        self.0.borrow().0
    }

    pub(super) fn digest(&self) -> Digest {
        Digest(self.0.borrow().1.clone().finalize().into())
    }

    fn add(&self, bytes: &[u8]) {
        let mut sum = self.0.borrow_mut();
        sum.0 += bytes.len() as u64;
        sum.1.update(bytes);
    }
}

/// Adds up all bytes that are read, or written, through it.
pub(super) struct Summing<T> {
    pub(super) inner: T,
    pub(super) sum: Sum,
    pub(super) limit: u64,
}

impl<T> Summing<T> {
    /// More than `limit` bytes are an error.
    pub(super) fn new(inner: T, limit: u64) -> Self {
        Summing { inner, sum: Sum::default(), limit }
    }

    fn add(&self, bytes: &[u8]) -> io::Result<()> {
        self.sum.add(bytes);
        if self.sum.count() > self.limit {
            return Err(invalid(format!("more than {} bytes, which is the limit", self.limit)));
        }
        Ok(())
    }
}

impl<T: Read> Read for Summing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.add(&buffer[..count])?;
        Ok(count)
    }
}

impl<T: Write> Write for Summing<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.add(&buffer[..count])?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_digest_never_becomes_a_name() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::parse(empty, "x"), Ok(Digest::of(b"")));
        assert_eq!(Digest::of(b"").to_string(), empty);
        let upper = empty.to_uppercase().replace("SHA", "sha");
        for text in
            ["", "sha256:", &empty[7..], "sha256:../../etc/passwd", "md5:00", &upper, &format!("{empty}0")]
        {
            assert!(Digest::parse(text, "x").is_err(), "{text}");
        }
    }
}
