//! `cargo xtask debian`: a Debian root filesystem with python3, for the checks that want a real distribution.
//!
//! Made once by mmdebstrap from Debian's packages, in Congo's cache; needs root and the network. Man page:
//! mmdebstrap(1).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use checks::{installed::program, needs};

/// The release, and what it has besides what every Debian has.
const SUITE: &str = "bookworm";
const PACKAGES: &str = "--include=python3";

/// Make a Debian root filesystem for the checks, once: `--rootfs` takes it, too
#[derive(clap::Args)]
pub struct Args {}

/// Makes it, unless it is there, and prints where.
///
/// # Errors
/// As [`root`].
pub fn run(_: &Args) -> Result<ExitCode> {
    println!("{}", root()?.display());
    Ok(ExitCode::SUCCESS)
}

/// Where it is; it is made if it is not there.
///
/// # Errors
/// When mmdebstrap is not installed or fails; nothing half-made remains under the final name.
pub fn root() -> Result<PathBuf> {
    let root = needs::debian_folder().context("no folder for it: set CONGO_HOME")?;
    if needs::debian_root().is_err() {
        let mmdebstrap = program("mmdebstrap").map_err(anyhow::Error::msg)?;
        let folder = root.parent().context("a cache has a parent")?;
        fs::create_dir_all(folder)?;
        let building = tempfile::Builder::new().prefix(".debian-").tempdir_in(folder)?;
        let made = building.path().join("root");
        let mut command = Command::new(mmdebstrap);
        command.args(["--quiet", "--variant=essential", PACKAGES, SUITE]).arg(&made);
        ensure!(command.status().context("starting mmdebstrap")?.success(), "mmdebstrap failed");
        // The name comes last: who finds it, finds it whole.
        fs::rename(&made, &root).with_context(|| format!("making {}", root.display()))?;
    }
    Ok(root)
}
