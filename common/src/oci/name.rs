//! The names in an archive: which are allowed, and where each leads.
//!
//! No file may be made outside of the layer. The kernel sees to that, as the layer is unpacked in a root of
//! its own. But a name that tries to lead outside is no accident, so the image is refused. See
//! path_resolution(7).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The kernel's PATH_MAX: no call takes a longer path.
const MAX_NAME: usize = 4096;
/// Its NAME_MAX.
const MAX_PART: usize = 255;
/// No real image is as deep. A program that walks through a tree opens, or remembers, each level of it.
pub(super) const MAX_DEPTH: usize = 512;

/// A name as a relative path without `.` and without double slashes; empty for the root itself. A slash at
/// the beginning means the layer's root: some tools give every name one.
pub(super) fn normal(name: &[u8]) -> Result<PathBuf, &'static str> {
    let mut path = PathBuf::new();
    let mut depth = 0;
    for part in name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        depth += 1;
        match part {
            b".." => return Err("a name with .."),
            _ if part.contains(&0) => return Err("a name with a NUL byte"),
            _ if part.len() > MAX_PART => return Err("a name with a part of more than 255 bytes"),
            _ if depth > MAX_DEPTH => return Err("a name of more than 512 parts"),
            _ => path.push(OsStr::from_bytes(part)),
        }
    }
    // With the slash at its beginning and the NUL behind it.
    if path.as_os_str().len() + 2 > MAX_NAME { Err("a name of more than 4096 bytes") } else { Ok(path) }
}

/// What an entry of this name means for the layers below.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout {
    /// The folder hides what the layers below have in it.
    Opaque(PathBuf),
    /// The file or folder of this name is gone.
    Gone(PathBuf),
    /// A note of aufs to itself.
    Ignored,
}

/// Reads the names that OCI image specification, layer.md, "Whiteouts", keeps for this. `None` for any other
/// name.
pub(super) fn whiteout(path: &Path) -> Result<Option<Whiteout>, &'static str> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let Some(hidden) = path.file_name().and_then(|name| name.as_bytes().strip_prefix(b".wh.")) else {
        return Ok(None);
    };
    Ok(Some(match hidden {
        b".wh..opq" => Whiteout::Opaque(folder.into()),
        _ if hidden.starts_with(b".wh.") => Whiteout::Ignored,
        // To remove `..` would remove the folder above.
        b"" | b"." | b".." => return Err("a whiteout of no file"),
        name => Whiteout::Gone(folder.join(OsStr::from_bytes(name))),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        assert_eq!(normal(b"./a//b/./c/"), Ok("a/b/c".into()));
        assert_eq!(normal(b"./"), Ok("".into()));
        assert_eq!(normal(b"a/..b/...\xff"), Ok(OsStr::from_bytes(b"a/..b/...\xff").into()));
        assert_eq!((normal(b"/a"), normal(b"//")), (Ok("a".into()), Ok("".into())));
        for name in [&b".."[..], b"/..", b"a/..", b"a/../b", b"a\0b"] {
            assert!(normal(name).is_err(), "{name:?}");
        }
        assert!(normal("a/".repeat(512).as_bytes()).is_ok());
        assert!(normal("a/".repeat(513).as_bytes()).is_err());
        assert!(normal(&[b'a'; 255]).is_ok() && normal(&[b'a'; 256]).is_err());
        assert!(normal(&[&[b'a'; 255][..], b"/"].concat().repeat(16)).is_err());
    }

    #[test]
    fn whiteouts() {
        let read = |path: &str| whiteout(Path::new(path));
        assert_eq!(read("a/b"), Ok(None));
        assert_eq!(read("a/.wh.b"), Ok(Some(Whiteout::Gone("a/b".into()))));
        assert_eq!(read("a/.wh..wh..opq"), Ok(Some(Whiteout::Opaque("a".into()))));
        assert_eq!(read(".wh..wh.plnk"), Ok(Some(Whiteout::Ignored)));
        for path in [".wh.", "a/.wh..", "a/.wh..."] {
            assert!(read(path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_passes_stays_below_its_root(name in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = normal(&name) {
                prop_assert!(path.is_relative());
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(normal(path.as_os_str().as_bytes()), Ok(path.clone()));
            }
        }
    }
}
