//! Which programs the host has. Touches nothing.

use std::path::{Path, PathBuf};

/// Where a program of the host lies.
///
/// # Errors
/// In words, when it is nowhere in PATH.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// Where a program lies. Also looks where root's programs lie, which a user's PATH often lacks.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let in_path = || program(name).ok();
    let of_root = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
    in_path().or_else(|| of_root.into_iter().find(|file| file.is_file()))
}
