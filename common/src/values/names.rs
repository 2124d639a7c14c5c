//! `--rootfs`, `--hostname` and `--workdir`.
//!
//! They end in chroot(2), in sethostname(2), in the container's UTS namespace, and in chdir(2), beneath its root.
//! hostname(7), uts_namespaces(7), chroot(2), chdir(2).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;

/// The kernel's `__NEW_UTS_LEN`, `HOST_NAME_MAX` in the C library: one byte more is `EINVAL`.
const HOST_NAME_MAX: usize = 64;

/// Reads the value of `--hostname`: 1 to 64 letters, digits, `-`, `.` and `_`, not beginning with `-`.
///
/// The kernel itself takes any bytes. But the name is printed by prompts and logs, where a newline or an
/// escape sequence forges what stands there; step 2 writes it into `/etc/hosts`, where white space ends it; and
/// programs get it as an argument, where a leading `-` makes it an option. `_` is not in hostname(7), but in
/// use.
///
/// # Errors
///
/// Empty, too long, or with another character.
pub fn hostname(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !(1..=HOST_NAME_MAX).contains(&text.len()) {
        Err(format!("has {} bytes; expected 1 to {HOST_NAME_MAX}", text.len()))
    } else if !is_plain || text.starts_with('-') {
        Err("expected letters, digits, '-', '.' and '_', not beginning with '-'".into())
    } else {
        Ok(text.into())
    }
}

/// Reads the value of `--workdir`: an absolute path, as the container sees it.
///
/// A relative one has nothing to be relative to: the runtime's own directory does not exist in the container.
///
/// # Errors
///
/// Relative, empty, or with a NUL byte, with which no path can be given to the kernel.
pub fn workdir(text: OsString) -> Result<PathBuf, String> {
    if text.as_bytes().contains(&0) {
        return Err("a path cannot have a NUL byte".into());
    }
    let path = PathBuf::from(text);
    path.is_absolute()
        .then_some(path)
        .ok_or_else(|| "expected an absolute path in the container, such as /srv".into())
}

/// Reads the value of `--rootfs`: a directory of the host, made absolute, with its symbolic links followed.
///
/// # Errors
///
/// Nothing is there, or something else than a directory.
pub fn directory(text: OsString) -> Result<PathBuf, String> {
    let path = PathBuf::from(text).canonicalize().map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        format!("expected a directory: {errno:?}: {}", errno.desc())
    })?;
    if path.is_dir() { Ok(path) } else { Err("expected a directory: this is something else".into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostnames() {
        let longest = "a".repeat(64);
        for name in ["congo", "a", "a-b.c_d", "9", ".x", &longest] {
            assert_eq!(hostname(name).as_deref(), Ok(name));
        }
        for name in ["-a", "a b", "a\nb", "a\0", "é", "a/b", "a:b", "\x1b[2J"] {
            assert!(hostname(name).unwrap_err().starts_with("expected letters"), "{name:?}");
        }
        assert_eq!(hostname(""), Err("has 0 bytes; expected 1 to 64".into()));
        assert_eq!(hostname(&"a".repeat(4096)), Err("has 4096 bytes; expected 1 to 64".into()));
        assert!(hostname(&"a".repeat(65)).is_err());
    }

    #[test]
    fn workdirs() {
        for path in ["/", "/srv", "/a b/../c", "/a\nb"] {
            assert_eq!(workdir(path.into()), Ok(PathBuf::from(path)));
        }
        let not_utf8 = OsString::from_vec(b"/\xff".to_vec());
        assert_eq!(workdir(not_utf8.clone()), Ok(PathBuf::from(not_utf8)));
        for path in ["", "srv", "./srv", "~", " /srv"] {
            assert!(workdir(path.into()).unwrap_err().contains("absolute"), "{path:?}");
        }
        assert!(workdir("/srv\0".into()).unwrap_err().contains("NUL"));
    }

    proptest! {
        #[test]
        fn a_hostname_is_always_one_that_the_kernel_takes(text in "(?s:.{0,70})|[-a-zA-Z0-9._]{0,70}") {
            if let Ok(name) = hostname(&text) {
                prop_assert!((1..=64).contains(&name.len()) && name == text);
                prop_assert!(!name.chars().any(|c| c.is_whitespace() || c.is_control()));
            }
        }
    }

    #[test]
    fn directories() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(directory(folder.path().into()), Ok(folder.path().canonicalize().unwrap()));
        assert!(directory(file.into()).unwrap_err().contains("something else"));
        assert!(directory(folder.path().join("none").into()).unwrap_err().contains("ENOENT"));
        assert!(directory("".into()).is_err());
    }
}
