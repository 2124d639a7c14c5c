//! What holds for every volume, mount and tmpfs that is taken, and for every error.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use common::values::{Propagation, Source, Volume};

/// An option's value.
#[allow(dead_code, reason = "other options are text")]
pub fn value(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// It fits into the two lines that a user gets.
pub fn check_error(error: &common::values::Invalid) {
    let error = error.to_string();
    assert!(!error.contains('\n') && error.len() < 300, "{error:?}");
}

/// It can be mounted on, and is beneath the root by its text.
pub fn check_target(target: &Path) {
    let mut parts = target.components();
    assert_eq!(parts.next(), Some(Component::RootDir), "{target:?}");
    assert!(parts.clone().count() > 0, "{target:?}");
    assert!(parts.all(|part| matches!(part, Component::Normal(_))), "{target:?}");
    assert!(!target.as_os_str().as_bytes().contains(&0), "{target:?}");
}

/// A path is absolute, and a name can be a folder's.
#[allow(dead_code, reason = "other options have no source")]
pub fn check_source(volume: &Volume) {
    match &volume.source {
        Source::Host(path) => assert!(path.is_absolute(), "{path:?}"),
        Source::Named(name) => {
            assert!(name.len() >= 2 && !name.starts_with('.') && !name.contains(['/', '\0']), "{name:?}");
        }
        Source::Anonymous => assert_eq!(volume.propagation, Propagation::default()),
    }
}

/// As the options write it.
#[allow(dead_code, reason = "other options have none")]
pub fn word(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "private",
        Propagation::RPrivate => "rprivate",
        Propagation::Slave => "slave",
        Propagation::RSlave => "rslave",
        Propagation::Shared => "shared",
        Propagation::RShared => "rshared",
    }
}
