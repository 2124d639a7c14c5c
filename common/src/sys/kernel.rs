//! Which kernel this is, for what cannot be found out by trying. Man page: uname(2).

use std::sync::OnceLock;

use crate::sys::error::{Context, Error, Result};

/// `(6, 12)` for `6.12.3-amd64`.
pub(crate) fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// This kernel's, asked for once.
pub(crate) fn version() -> Result<(u32, u32)> {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    if let Some(&version) = VERSION.get() {
        return Ok(version);
    }
    let name = nix::sys::utsname::uname().context("uname")?;
    let release = name.release().to_string_lossy();
    let version = parse_version(&release)
        .ok_or_else(|| Error::new(format!("uname: {release} is no version of a kernel")))?;
    Ok(*VERSION.get_or_init(|| version))
}
