//! Reading a short file: a list of the host's, or a file of `/proc`.
//!
//! The standard library first asks how long the file is, and then reads so much. A file of `/proc` has no
//! length, so it would be read in pieces of 32 bytes. Here one read(2) takes it all, and one sees its end. A
//! start reads a dozen such files. Man pages: read(2), proc(5).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Room for all of most files.
const LENGTH: usize = 8 << 10;

/// Reads a file whole.
///
/// # Errors
/// ENOENT, EACCES, EISDIR.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(LENGTH);
    // Of what is taken from a file, the library does not ask the length.
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same for a text.
///
/// # Errors
/// Those of [`read`]; it is not UTF-8.
pub(crate) fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    let not_utf8 = |_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8");
    read(path).and_then(|bytes| String::from_utf8(bytes).map_err(not_utf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_however_long_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        for length in [0, 1, LENGTH - 1, LENGTH, LENGTH + 1, 3 * LENGTH + 7] {
            let text = "x".repeat(length);
            std::fs::write(&path, &text).unwrap();
            assert_eq!(read_text(&path).unwrap(), text);
        }
        let own = read_text("/proc/self/status").unwrap();
        assert!(own.ends_with('\n') && own.contains("SigIgn:"), "{own}");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(home.path()).unwrap_err().raw_os_error(), Some(nix::libc::EISDIR));
        assert_eq!(read(home.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
