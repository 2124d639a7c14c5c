//! `cargo xtask probe`: what a container of the last step is from inside, beside one of crun with Docker's
//! defaults.
//!
//! The same program looks at both, in the same root: this one, see `checks::inside`. A difference must be in
//! the list of those that are meant, with its reason; any other is a failure. crun is given what Docker would
//! give it: `probe::docker`. Kernel objects: those of two containers; crun makes no cgroup. Man page:
//! crun(1).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use checks::inside::{self, Figures};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::workspace::{self, Build};
use differences::{Difference, KNOWN, is_refused};

mod differences;
pub(crate) mod docker;

/// Show what a container is, from inside: the last step's, beside crun's with Docker's default configuration.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The seccomp profile for crun, in Docker's format [default: Docker's own or Podman's, where a package
    /// has it].
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Every figure, not only those that are no system call, and those that differ.
    #[arg(long)]
    all: bool,
}

/// Where Debian's packages have a profile: golang-github-docker-docker-dev, golang-github-containers-common.
const PROFILES: [&str; 2] = [
    "/usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json",
    "/usr/share/containers/seccomp.json",
];

/// Runs the tool. The exit status is 1 when there is a difference that is not meant.
///
/// # Errors
/// The caller is not root; crun or a profile is missing; a container cannot be started.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "crun is run as Docker runs it: as root; run it with sudo");
    let crun = checks::installed::program("crun").map_err(anyhow::Error::msg)?;
    let there = PROFILES.map(PathBuf::from).into_iter().find(|path| path.exists());
    let profile = args.profile.clone().or(there).with_context(|| {
        format!(
            "there is no seccomp profile in Docker's format: give one with --profile, or install a \
                 package that has {}",
            PROFILES.join(" or ")
        )
    })?;
    let step = workspace::steps()?.pop().context("there is no step")?;
    let binary = workspace::build(&[&step.name], Build::Debug)?.join(&step.name);

    let folder = tempfile::Builder::new().prefix("congo-probe-").tempdir()?;
    let root = folder.path().join("root");
    for name in ["dev", "proc", "sys", "etc", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    let program = inside::install(&root).map_err(|failure| anyhow::anyhow!(failure.found))?;
    let asked = [program.as_str(), inside::ASKED, inside::LOOK];

    let mut ours = Command::new(&binary);
    ours.env("CONGO_HOME", folder.path().join("home")).arg("--rootfs").arg(&root).args(asked);
    let ours = figures(&mut ours)?;
    let theirs = docker(&crun, &profile, folder.path(), &root, &asked)?;

    let mut out = std::io::stdout().lock();
    let (text, unexplained) = report(&step.name, &ours, &theirs, args.all);
    writeln!(out, "crun's seccomp profile: {}\n\n{text}", profile.display())?;
    Ok(if unexplained == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts a container whose program prints its figures.
fn figures(command: &mut Command) -> Result<Figures> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, said.trim());
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?}: {}", said.trim()))
}

fn docker(crun: &Path, profile: &Path, folder: &Path, root: &Path, command: &[&str]) -> Result<Figures> {
    const CONTAINER: &str = "congo.probe";
    let state = folder.join("crun");
    let config = docker::config(root, command, &docker::seccomp(profile)?);
    fs::write(folder.join("config.json"), config.to_string())?;
    let crun = |words: &[&str]| {
        let mut crun = Command::new(crun);
        // No cgroup: what it limits is not compared, and so the machine's own stay as they are.
        crun.arg("--root").arg(&state).arg("--cgroup-manager=disabled").args(words);
        crun
    };
    let bundle = folder.to_str().context("a temporary folder with a plain name")?;
    // In a mount namespace of its own, where there is no cgroup to be seen: even with none to make, crun
    // refuses to run beside hierarchies of both versions.
    let found = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let nothing = None::<&str>;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
            mount(Some("tmpfs"), "/sys/fs/cgroup", Some("tmpfs"), MsFlags::MS_RDONLY, nothing)?;
            figures(&mut crun(&["run", "--bundle", bundle, CONTAINER]))
        });
        run.join().expect("the thread does not panic")
    });
    if state.join(CONTAINER).exists() {
        let _ = crun(&["delete", "--force", CONTAINER]).stderr(Stdio::null()).status();
    }
    found
}

/// Both side by side, and how many differences have no reason.
fn report(step: &str, ours: &Figures, theirs: &Figures, all: bool) -> (String, usize) {
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let (mut rows, mut reasons, mut unexplained) = (Vec::new(), Vec::new(), 0);
    let (mut calls, mut differing) = (0, 0);
    let mut refused = [0, 0];
    for name in names {
        let [one, other] = [ours, theirs].map(|figures| figures.get(name).map_or("absent", String::as_str));
        let is_call = name.starts_with("call ");
        if is_call {
            calls += 1;
            refused[0] += usize::from(is_refused(one));
            refused[1] += usize::from(is_refused(other));
        }
        let difference = Difference { name, ours: one, theirs: other };
        let mark = match differs(&difference).then(|| KNOWN.iter().find(|known| known.explains(&difference)))
        {
            None => String::new(),
            Some(Some(known)) => {
                differing += 1;
                let number = reasons.iter().position(|why| *why == known.why).unwrap_or_else(|| {
                    reasons.push(known.why);
                    reasons.len() - 1
                });
                format!("≠ {}", number + 1)
            }
            Some(None) => {
                unexplained += 1;
                "≠ UNEXPLAINED".into()
            }
        };
        if all || !is_call || !mark.is_empty() {
            rows.push([name.clone(), one.to_owned(), other.to_owned(), mark]);
        }
    }
    let mut text = table(step, &rows);
    text += &format!(
        "\nsystem calls: {calls} tried; refused: {} by {step}, {} by crun\n\
         differences: {differing} explained, {unexplained} not\n",
        refused[0], refused[1]
    );
    for (number, why) in reasons.iter().enumerate() {
        text += &format!("≠ {}: {why}\n", number + 1);
    }
    (text, unexplained)
}

/// Whether it matters: which errno says no, does not.
fn differs(difference: &Difference<'_>) -> bool {
    let Difference { name, ours, theirs } = difference;
    if ["call ", "socket "].iter().any(|kind| name.starts_with(kind)) {
        return is_refused(ours) != is_refused(theirs);
    }
    ours != theirs
}

fn table(step: &str, rows: &[[String; 4]]) -> String {
    let head = ["", step, "crun", ""].map(str::to_owned);
    let width = |column: usize| {
        let widths = rows.iter().chain([&head]).map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths = [0, 1, 2].map(width);
    let mut text = String::new();
    for [name, ours, theirs, mark] in [&head].into_iter().chain(rows) {
        let line = format!("{name:0$}  {ours:1$}  {theirs:2$}  {mark}", widths[0], widths[1], widths[2]);
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(figures: &[(&str, &str)]) -> Figures {
        figures.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_nobody_has_explained_counts() {
        let ours =
            of(&[("CapEff", "1"), ("NoNewPrivs", "1"), ("call bpf", "EINVAL"), ("call mount", "EPERM")]);
        let theirs =
            of(&[("CapEff", "2"), ("NoNewPrivs", "0"), ("call bpf", "EPERM"), ("call mount", "ENOSYS")]);
        let (text, unexplained) = report("step", &ours, &theirs, false);
        assert_eq!(unexplained, 2, "{text}");
        assert!(text.contains("2 tried; refused: 1 by step, 2 by crun"), "{text}");
        assert!(text.contains("differences: 1 explained, 2 not"), "{text}");
        assert!(!text.contains("call mount"), "{text}");
        assert_eq!(report("step", &ours, &ours, true).1, 0);
    }

    #[test]
    fn a_figure_that_is_missing_is_a_difference() {
        assert_eq!(report("step", &of(&[("CapBnd", "1")]), &of(&[]), false).1, 1);
    }
}
