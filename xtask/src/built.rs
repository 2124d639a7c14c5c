//! Third-party crates that are built already, for another target folder of the same machine.
//!
//! `prove` and `stages prove` build copies of the workspace, each in a target folder of its own. The crates
//! of others are the same there. Touches only files of target folders.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// How the names of the workspace's own crates begin. What cargo built of them is for this workspace alone.
const OWN: [&str; 5] = ["common", "checks", "congo", "xtask", "step"];

/// Copies what cargo built of third-party crates beside this program to another target folder, if that one
/// is still empty. Cargo goes by the times of files, so they stay. What does not fit, cargo builds anew.
///
/// # Errors
/// When a folder cannot be read or made, or `cp` fails.
pub fn share(target: &Path) -> Result<()> {
    let to = target.join("debug");
    if to.exists() {
        return Ok(());
    }
    let this = std::env::current_exe()?;
    let from = this.parent().context("xtask lies in a folder")?;
    for part in ["build", "deps", ".fingerprint"] {
        let folder = to.join(part);
        fs::create_dir_all(&folder)?;
        let mut files = Vec::new();
        for entry in from.join(part).read_dir().into_iter().flatten() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = name.strip_prefix("lib").unwrap_or(&name);
            // In `deps` lie programs, too. No crate needs those.
            let is_needed =
                part != "deps" || [".rlib", ".rmeta", ".so", ".d"].iter().any(|end| name.ends_with(end));
            if is_needed && !OWN.iter().any(|own| name.starts_with(own)) {
                files.push(entry.path());
            }
        }
        for some in files.chunks(500) {
            let mut cp = Command::new("cp");
            cp.args(["--archive", "--reflink=auto", "--target-directory"]).arg(&folder).args(some);
            ensure!(cp.status()?.success(), "copying to {}", folder.display());
        }
    }
    Ok(())
}
