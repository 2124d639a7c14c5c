//! Where the workspace is, which steps it has, and how their binaries are built.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// A step of the course: its number and the name of its folder, which is also its package's and binary's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// 0 for `step0-basic`.
    pub number: u8,
    /// `step0-basic`.
    pub name: String,
}

/// The folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The steps that are there, in order.
///
/// # Errors
/// When the workspace's folder cannot be read.
pub fn steps() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for entry in root().read_dir().context("reading the workspace's folder")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("step").and_then(|rest| rest.split('-').next()?.parse().ok());
        if let Some(number) = number {
            steps.push(Step { number, name });
        }
    }
    steps.sort_by_key(|step| step.number);
    Ok(steps)
}

/// The step that a learner names: `0`, `step0` or `step0-basic`.
///
/// # Errors
/// When there is no such step; the error lists those there are.
pub fn step(named: &str) -> Result<Step> {
    let steps = steps()?;
    let wanted = |step: &&Step| {
        step.name == named || named.strip_prefix("step").unwrap_or(named) == step.number.to_string()
    };
    if let Some(step) = steps.iter().find(wanted) {
        return Ok(step.clone());
    }
    let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    bail!("no step \"{named}\": there are {}", names.join(", "));
}

/// How a step is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// As `cargo run` builds it.
    Debug,
    /// Optimised and linked statically: starts faster, since no dynamic loader runs, and needs nothing of the
    /// machine it runs on. Not the default of `cargo build --release`, since not every distribution installs
    /// the static C library. A proc macro cannot be linked so: with `--target`, cargo keeps the flag from
    /// proc macros.
    StaticRelease,
    /// The same, but for optimising all of a program as a whole, for which the lab would have to wait
    /// minutes. For this machine, or for the one that Rust names so.
    StaticLab(Option<&'static str>),
}

/// Builds packages' binaries and returns the folder in which they lie.
///
/// # Errors
/// When cargo fails, or the packages have no binary.
pub fn build(packages: &[&str], how: Build) -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo.current_dir(root()).arg("build");
    for package in packages {
        cargo.args(["--package", package]);
    }
    if let Build::StaticLab(other) = how {
        // Rust names a machine with a vendor, the compiler's package does not: aarch64-linux-gnu-gcc.
        if let Some(tuple) = other {
            let variable = tuple.replace('-', "_").to_uppercase();
            let linker = format!("{}-gcc", tuple.replace("-unknown", ""));
            cargo.env(format!("CARGO_TARGET_{variable}_LINKER"), linker);
        }
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    }
    if how != Build::Debug {
        let tuple = match how {
            Build::StaticLab(Some(other)) => other.to_owned(),
            _ => host_tuple()?,
        };
        cargo.args(["--release", "--target", &tuple]);
        // At a fixed address: what can be anywhere must be relocated at each start, which touches most pages.
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    }
    let names = packages.join(", ");
    let program = program(&mut cargo).with_context(|| format!("building {names}"))?;
    Ok(program.parent().context("a binary lies in a folder")?.to_owned())
}

/// Runs a `cargo build` that takes no further options, and returns the program that it makes of a
/// `src/main.rs`. What cargo prints is shown; at a terminal, also what it is building.
///
/// # Errors
/// When cargo fails, or there is no such program.
pub fn program(cargo: &mut Command) -> Result<PathBuf> {
    // A first build takes a minute, in which a reader wants to see that it goes on.
    cargo.args((!io::stderr().is_terminal()).then_some("--quiet"));
    cargo.arg("--message-format=json-render-diagnostics");
    let output = cargo.stderr(Stdio::inherit()).output().context("starting cargo")?;
    ensure!(output.status.success(), "cargo failed, see above");
    // Cargo says where it put them: a configuration of the user's may have moved the target folder. The
    // package may have another name than its folder, too.
    let messages = output.stdout.split(|&byte| byte == b'\n');
    messages
        .filter_map(|message| serde_json::from_slice::<serde_json::Value>(message).ok())
        .filter(|message| {
            message["target"]["src_path"].as_str().is_some_and(|path| path.ends_with("/src/main.rs"))
        })
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("no program comes of it: src/main.rs is missing")
}

/// The cargo that runs us, or else the one that built us. Not the one of the `PATH`: that may be a wrapper of
/// ours.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()))
}

/// This machine, as Rust names it: `x86_64-unknown-linux-gnu`.
///
/// # Errors
/// When rustc cannot be started.
pub fn host_tuple() -> Result<String> {
    let output = Command::new("rustc").arg("--print=host-tuple").output().context("starting rustc")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
