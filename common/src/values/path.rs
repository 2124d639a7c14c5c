//! Paths: `--rootfs`, `--workdir`, and the sources and targets of volumes.
//!
//! They end in chroot(2) and chdir(2), and in mounts. A path may be any bytes but NUL, so paths are read as
//! bytes. A target is cleaned as Docker cleans it, by its text. Links in it are resolved later, beneath the
//! container's root.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use super::Invalid;

/// Reads the value of `--rootfs`: a directory of the host, made absolute, with its symbolic links followed.
///
/// # Errors
/// Nothing is there, or something else than a directory.
pub fn directory(text: OsString) -> Result<PathBuf, Invalid> {
    let path = PathBuf::from(text).canonicalize().map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        format!("expected a directory: {errno:?}: {}", errno.desc())
    })?;
    if path.is_dir() { Ok(path) } else { Err("expected a directory: this is something else".into()) }
}

/// Reads the value of `--workdir`: an absolute path, as the container sees it.
///
/// A relative one has nothing to be relative to: the runtime's own directory does not exist in the container.
///
/// # Errors
/// Relative, empty, or with a NUL byte, with which no path can be given to the kernel.
pub fn workdir(text: OsString) -> Result<PathBuf, Invalid> {
    without_nul(&text)?;
    let path = PathBuf::from(text);
    path.is_absolute()
        .then_some(path)
        .ok_or_else(|| "expected an absolute path in the container, such as /srv".into())
}

/// An absolute path, or one that says that it begins at the working directory; `None` when it is a name.
pub(super) fn host_path(text: &[u8]) -> Result<Option<PathBuf>, Invalid> {
    let path = Path::new(OsStr::from_bytes(text));
    match path.components().next() {
        Some(Component::RootDir) => Ok(Some(path.to_owned())),
        Some(Component::CurDir | Component::ParentDir) => {
            let here = std::env::current_dir().map_err(|error| format!("no working directory: {error}"))?;
            // Takes `.` away and leaves `..`, which behind a link is another directory than the text says.
            Ok(Some(here.join(path).components().collect()))
        }
        _ => Ok(None),
    }
}

/// An absolute path, cleaned of `.`, `..` and double slashes by its text, that is not the root.
pub(super) fn target(text: &[u8]) -> Result<PathBuf, Invalid> {
    let path = Path::new(OsStr::from_bytes(text));
    if !path.is_absolute() {
        return Err("expected an absolute path in the container, such as /data, as TARGET".into());
    }
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => _ = cleaned.pop(),
            Component::Normal(name) => cleaned.push(name),
            _ => {}
        }
    }
    if cleaned.parent().is_none() {
        return Err(
            "expected another path than / as TARGET: the container's root is no place for a volume".into()
        );
    }
    if ["/proc", "/sys"].iter().any(|own| cleaned.starts_with(own)) {
        return Err(
            "expected a path outside of /proc and /sys as TARGET: they show what limits the container".into(),
        );
    }
    Ok(cleaned)
}

/// The bytes of a value that has a path in it.
pub(super) fn without_nul(text: &OsStr) -> Result<&[u8], Invalid> {
    let bytes = text.as_bytes();
    if bytes.contains(&0) { Err("a path cannot have a NUL byte".into()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::values::testing::refused;

    #[test]
    fn workdirs() {
        for path in ["/", "/srv", "/a b/../c", "/a\nb"] {
            assert_eq!(workdir(path.into()), Ok(PathBuf::from(path)));
        }
        let not_utf8 = OsString::from_vec(b"/\xff".to_vec());
        assert_eq!(workdir(not_utf8.clone()), Ok(PathBuf::from(not_utf8)));
        refused(workdir, "expected an absolute path", &["", "srv", "./srv", "~", " /srv"]);
        refused(workdir, "a path cannot have a NUL byte", &["/srv\0"]);
    }

    #[test]
    fn directories() {
        let folder = tempfile::tempdir().unwrap();
        let (file, none) = (folder.path().join("file"), folder.path().join("none"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(directory(folder.path().into()), Ok(folder.path().canonicalize().unwrap()));
        refused(directory, "expected a directory: this is something else", &[file.to_str().unwrap()]);
        refused(directory, "expected a directory: ENOENT", &[none.to_str().unwrap(), ""]);
    }
}
