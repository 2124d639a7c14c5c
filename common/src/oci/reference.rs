//! The values of `--image` and `--commit`: a path, and perhaps a tag.
//!
//! A path may have colons, and so may a name with a tag in a `docker save` archive. So the longest path that
//! exists decides. This module asks nothing else of the disk. Source: OCI image specification,
//! annotations.md, `org.opencontainers.image.ref.name`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::values::Invalid;

/// What `--image` or `--commit` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The layout folder or the archive.
    pub path: PathBuf,
    /// Which of the images in it.
    pub tag: Option<String>,
}

/// Reads the value of `--image`: `PATH[:TAG]`. What exists as a whole is a path; else the longest beginning
/// before a colon that exists.
///
/// # Errors
/// Nothing is there, or what follows is no tag.
pub fn reference(value: OsString) -> Result<Reference, Invalid> {
    reference_where(value, |path| path.symlink_metadata().is_ok())
}

fn reference_where(value: OsString, exists: impl Fn(&Path) -> bool) -> Result<Reference, Invalid> {
    let there = |path: &OsStr| !path.is_empty() && exists(Path::new(path));
    if there(&value) {
        return Ok(Reference { path: value.into(), tag: None });
    }
    let (path, tag) = splits(&value).find(|(path, _)| there(path)).ok_or(
        "no such image; expected the path of an OCI layout folder, an OCI archive or a docker save archive, \
         and perhaps :TAG",
    )?;
    let tag = tag.to_str().filter(|tag| !tag.is_empty() && !tag.contains(char::is_control));
    let tag = tag.ok_or("expected a tag after the colon")?;
    Ok(Reference { path: path.into(), tag: Some(tag.into()) })
}

/// Reads the value of `--commit`: `PATH[:TAG]`. As the path need not exist, what follows the last colon is
/// the tag, if it can be one.
///
/// # Errors
/// Nothing before the colon, or nothing behind it.
pub fn target(value: OsString) -> Result<Reference, Invalid> {
    let split = splits(&value).next();
    match split {
        _ if value.is_empty() => Err("expected a path, and perhaps :TAG".into()),
        Some((path, tag)) if tag.is_empty() || path.is_empty() => {
            Err("expected PATH:TAG, with something on both sides of the colon".into())
        }
        Some((path, tag)) if is_tag(tag) => {
            Ok(Reference { path: path.into(), tag: tag.to_str().map(str::to_owned) })
        }
        // A folder's name with a colon in it.
        Some((_, tag)) if tag.as_bytes().contains(&b'/') => Ok(Reference { path: value.into(), tag: None }),
        Some(_) => {
            Err("expected a tag of 1 to 128 letters, digits, '_', '.' and '-', beginning with neither \
                        '.' nor '-'"
                .into())
        }
        None => Ok(Reference { path: value.into(), tag: None }),
    }
}

/// Before and after each colon, the last one first.
fn splits(value: &OsStr) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    let bytes = value.as_bytes();
    let colons = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b':');
    colons.map(|(at, _)| (OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..])))
}

/// Docker's grammar of tags.
fn is_tag(tag: &OsStr) -> bool {
    let tag = tag.as_bytes();
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    (1..=128).contains(&tag.len())
        && word(&tag[0])
        && tag.iter().all(|byte| word(byte) || b".-".contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str, existing: &str) -> Result<(String, Option<String>), Invalid> {
        reference_where(value.into(), |path| path == Path::new(existing))
            .map(|it| (it.path.display().to_string(), it.tag))
    }

    #[test]
    fn what_exists_decides() {
        assert_eq!(read("a:b", "a:b"), Ok(("a:b".into(), None)));
        assert_eq!(read("a:b", "a"), Ok(("a".into(), Some("b".into()))));
        assert_eq!(read("a:b:c", "a:b"), Ok(("a:b".into(), Some("c".into()))));
        assert_eq!(read("a.tar:debian:12", "a.tar"), Ok(("a.tar".into(), Some("debian:12".into()))));
        for value in ["", ":", "b", "a:", ":a", "a:\n"] {
            assert!(read(value, "a").is_err(), "{value:?}");
        }
    }

    #[test]
    fn targets() {
        let read = |value: &str| target(value.into()).map(|it| (it.path.display().to_string(), it.tag));
        assert_eq!(read("a"), Ok(("a".into(), None)));
        assert_eq!(read("a:b"), Ok(("a".into(), Some("b".into()))));
        assert_eq!(read("a:1/b"), Ok(("a:1/b".into(), None)));
        assert_eq!(read("a:1/b:v1"), Ok(("a:1/b".into(), Some("v1".into()))));
        for value in ["", ":", "a:", ":b", "a:-b", "a:é", &format!("a:{}", "t".repeat(129))] {
            assert!(read(value).is_err(), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_a_reference_or_one_short_line(
            value in r"\PC*|[ab:/.-]{0,12}|(?s:.{0,40})", there in any::<bool>(),
        ) {
            for result in [reference_where(value.clone().into(), |_| there), target(value.clone().into())] {
                match result {
                    Ok(it) => {
                        let path = it.path.display();
                        let whole = it.tag.map_or(path.to_string(), |tag| format!("{path}:{tag}"));
                        prop_assert_eq!(&whole, &value);
                    }
                    Err(error) => {
                        let error = error.to_string();
                        prop_assert!(!error.contains('\n') && error.len() < 200, "{}", error);
                    },
                }
            }
        }
    }
}
