//! Packages of Debian for a guest: found and fetched by name with apt, and unpacked. Nothing is installed.
//!
//! apt does so with a state of its own beside Congo's cache: the host's lists and sources stay as they are,
//! no root is needed, and the packages may be of another architecture and another release than the host. The
//! mirror is the one that the host itself uses. Man pages: apt-get(8), apt.conf(5), dpkg-deb(1).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::architecture::Architecture;

/// The packages of one release of Debian for one architecture.
pub struct Apt {
    state: tempfile::TempDir,
}

impl Apt {
    /// Fetches the lists of a release into a folder of its own below `cache`.
    ///
    /// # Errors
    /// When the host is not a Debian, or apt fails.
    pub fn new(cache: &Path, suite: &str, architecture: Architecture) -> Result<Apt> {
        let (mirror, debian) = (mirror()?, architecture.debian());
        fs::create_dir_all(cache)?;
        let apt = Apt { state: tempfile::tempdir_in(cache)? };
        let folder = apt.state.path();
        let path = folder.to_str().context("the cache's path is not UTF-8")?;
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("archives/partial"))?;
        fs::write(folder.join("status"), "")?;
        fs::write(folder.join("sources.list"), format!("deb [arch={debian}] {mirror} {suite} main\n"))?;
        fs::write(
            folder.join("apt.conf"),
            format!(
                "Dir::State \"{path}\";\nDir::State::status \"{path}/status\";\nDir::Cache \"{path}\";\n\
                 Dir::Etc::sourcelist \"{path}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
                 APT::Architecture \"{debian}\";\n\
                 #clear APT::Architectures;\nAPT::Architectures \"{debian}\";\n\
                 Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n\
                 #clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
            ),
        )?;
        apt.run("apt-get", &["update", "--quiet=2", "--error-on=any"])?;
        Ok(apt)
    }

    /// The names of all packages that fit a regular expression.
    ///
    /// # Errors
    /// When apt fails.
    pub fn search(&self, pattern: &str) -> Result<Vec<String>> {
        let found = self.run("apt-cache", &["search", "--names-only", pattern])?;
        Ok(found.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Fetches a package, and unpacks it into a new folder.
    ///
    /// # Errors
    /// When it cannot be fetched or unpacked.
    pub fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        self.run("apt-get", &["download", "--quiet=2", package])?;
        unpack(&packages_in(self.state.path())?, folder)
    }

    /// Fetches packages and all that they need, and unpacks them into a new folder.
    ///
    /// # Errors
    /// When one cannot be fetched or unpacked.
    pub fn unpack_with_needs(&self, packages: &[&str], folder: &Path) -> Result<()> {
        let words = ["install", "--download-only", "--no-install-recommends", "--assume-yes", "--quiet=2"];
        self.run("apt-get", &[&words, packages].concat())?;
        unpack(&packages_in(&self.state.path().join("archives"))?, folder)
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .args(args)
            // Read last: the host's own configuration holds, where it is not set otherwise here.
            .arg("--config-file")
            .arg(self.state.path().join("apt.conf"))
            .current_dir(self.state.path())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("starting {program}"))?;
        ensure!(output.status.success(), "{program} {} failed", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The address from which the host gets its own Debian packages.
fn mirror() -> Result<String> {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |key: &str| {
        system.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim_matches('"')))
    };
    ensure!(
        field("ID") == Some("debian"),
        "this host is not Debian, so it has no mirror of Debian's packages"
    );
    let suite = field("VERSION_CODENAME").context("/etc/os-release does not name the release")?;
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(RELEASE) $(SITE)", "Created-By: Packages"])
        .output()
        .context("starting apt-get")?;
    let targets = String::from_utf8_lossy(&output.stdout).into_owned();
    let site = targets.lines().find_map(|line| line.strip_prefix(suite)?.strip_prefix(' '));
    Ok(site.with_context(|| format!("apt's sources have no entry for {suite}"))?.to_owned())
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = folder.read_dir()?.filter_map(|entry| Some(entry.ok()?.path()));
    let packages: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect();
    ensure!(!packages.is_empty(), "apt-get left no .deb");
    Ok(packages)
}

/// Unpacks packages beside their final place, and renames what they made: an interrupted run leaves nothing
/// half.
///
/// # Errors
/// When one cannot be unpacked.
pub fn unpack(packages: &[PathBuf], folder: &Path) -> Result<()> {
    let parent = folder.parent().context("the cache has no parent")?;
    fs::create_dir_all(parent)?;
    let half = tempfile::tempdir_in(parent)?;
    for package in packages {
        let status = Command::new("dpkg-deb").arg("-x").args([package, half.path()]).status();
        let status = status.context("starting dpkg-deb (of the package dpkg)")?;
        ensure!(status.success(), "dpkg-deb cannot unpack {}", package.display());
    }
    if let Err(error) = fs::rename(half.path(), folder) {
        // Somebody else was faster.
        ensure!(folder.exists(), "renaming {}: {error}", half.path().display());
    }
    Ok(())
}
