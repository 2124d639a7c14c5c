//! What an image says about its container, and which options override that.
//!
//! An image is a list of layers and a configuration; `common::oci` reads both. Source: OCI image
//! specification, config.md.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use common::oci::Config;
use common::values::{Mount, Source, Volume};

use crate::cli::Cli;

/// The command: the image's Entrypoint, and behind it the words of the command line, or else the image's Cmd.
pub fn command(cli: &Cli, config: &Config) -> Vec<OsString> {
    let (entrypoint, own_command) = match &cli.root.entrypoint {
        // The image's Cmd are arguments for its own Entrypoint.
        Some(entrypoint) if entrypoint.is_empty() => (vec![], vec![]),
        Some(entrypoint) => (vec![entrypoint.clone()], vec![]),
        None => (config.entrypoint.clone(), config.cmd.clone()),
    };
    let arguments = if cli.command.is_empty() { own_command } else { cli.command.clone() };
    let command = [entrypoint, arguments].concat();
    if command.is_empty() { vec!["/bin/sh".into()] } else { command }
}

/// The working directory: the option's, else the image's, else the root.
pub fn workdir(cli: &Cli, config: &Config) -> PathBuf {
    let chosen = cli.world.workdir.as_ref().or(config.working_dir.as_ref());
    chosen.cloned().unwrap_or_else(|| Path::new("/").to_owned())
}

/// All volumes: those of the options, and an anonymous one for each of the image's `Volumes` at which no
/// option mounts anything. The shortest path first: one can lie in another.
pub fn mounts(cli: &Cli, config: &Config) -> Vec<Mount> {
    let mut mounts = cli.volumes.all();
    for target in &config.volumes {
        if !mounts.iter().any(|mount| mount.target() == target) {
            mounts.push(Mount::Volume(Volume::new(Source::Anonymous, target.clone())));
        }
    }
    mounts.sort_by_key(|mount| mount.target().components().count());
    mounts
}
