//! The learner's package: its folder, its source, and the files that cargo reads.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::progress::{Mine, write_whole};
use crate::manifest;
use crate::stages::{self, Stage};
use crate::workspace::{self, Step};

impl Mine {
    /// Gives the learner's Cargo.toml the libraries of the stage's step.
    pub(super) fn carry_manifest(&self, stage: &Stage) -> Result<()> {
        let file = self.folder.join("Cargo.toml");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let of_step = |step: &Step| stages::manifest(step, &self.name());
        let course: Vec<_> = workspace::steps()?.iter().map(of_step).collect::<Result<_>>()?;
        let (carried, own) = manifest::carried(&text, &course, &of_step(&stage.step)?)
            .with_context(|| format!("{}: mend it, then try again", file.display()))?;
        for line in own {
            println!(
                "{} has another line for a library than {} needs:\n  {line}",
                file.display(),
                stage.step.name
            );
        }
        if carried != text {
            write_whole(&file, &carried)?;
        }
        self.carry_lock()
    }

    /// Gives the learner the course's versions of the libraries once more: cargo has removed from Cargo.lock
    /// those that the step before did not need.
    fn carry_lock(&self) -> Result<()> {
        let file = self.folder.join("Cargo.lock");
        let reading =
            |file: &Path| fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
        let (course, before) = (reading(&workspace::root().join("Cargo.lock"))?, reading(&file)?);
        let own = format!("name = \"{}\"", self.name());
        let mut names = before.lines().filter(|line| line.starts_with("name = ") && *line != own);
        if names.any(|line| !course.lines().any(|known| known == line)) {
            let kept = self.folder.join("Cargo.lock.before");
            write_whole(&kept, &before)?;
            println!("The versions of your own libraries are kept in {}.", kept.display());
        }
        write_whole(&file, &course)
    }

    /// Puts another source in the place of the learner's, which is kept beside it.
    pub(super) fn replace_source(&self, source: &Path, stage: &Stage) -> Result<()> {
        let kept = (1..)
            .map(|number| self.folder.join(format!("src.{}.{number}", stage.id())))
            .find(|kept| !kept.exists())
            .context("no name is left for your source")?;
        if self.folder.join("src").exists() {
            fs::rename(self.folder.join("src"), &kept).context("putting your source aside")?;
            println!("Your source is kept in {}.", kept.display());
        }
        stages::copy(source, &self.folder.join("src"))
    }
}

/// The settings of cargo in the learner's folder: the libraries are built once, for the course and for this,
/// and `cargo congo` works there, too.
///
/// # Errors
/// When the course's manifest is not as expected.
pub fn settings() -> Result<String> {
    let course = workspace::root().display().to_string();
    let mut text = format!("[build]\ntarget-dir = \"{course}/target\"\n");
    // An alias is split at its spaces.
    if !course.contains(char::is_whitespace) {
        text += &format!(
            "\n[alias]\ncongo = \"run --quiet --manifest-path {course}/Cargo.toml --package congo --\"\n"
        );
    }
    // In a manifest cargo would warn of each library that the package does not use.
    let manifest: toml::Table = fs::read_to_string(workspace::root().join("Cargo.toml"))?.parse()?;
    let packages = manifest["profile"]["dev"]["package"].as_table().context("Cargo.toml has no profile")?;
    for (library, profile) in packages {
        if let Some(level) = profile.get("opt-level").and_then(toml::Value::as_integer) {
            text += &format!("\n[profile.dev.package.{library}]\nopt-level = {level}\n");
        }
    }
    Ok(text)
}

/// Keeps the course's repository, if it is one, from listing the learner's folder. Not by a file in the
/// folder: that one may become a repository of the learner's own.
pub(super) fn hide_from_git(folder: &Path) -> Result<()> {
    let git = |words: &[&str]| -> Option<String> {
        let output = Command::new("git").arg("rev-parse").args(words).current_dir(folder).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (Some(path), Some(file)) = (git(&["--show-prefix"]), git(&["--git-path", "info/exclude"])) else {
        return Ok(());
    };
    let (file, line) = (folder.join(file), format!("/{path}"));
    let hiding = || format!("writing {}", file.display());
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(hiding),
    };
    if !text.split(|&byte| byte == b'\n').any(|known| known == line.as_bytes()) {
        fs::create_dir_all(file.parent().unwrap_or(folder)).with_context(hiding)?;
        let end = if text.is_empty() || text.ends_with(b"\n") { "" } else { "\n" };
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&file).with_context(hiding)?;
        file.write_all(format!("{end}{line}\n").as_bytes()).with_context(hiding)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_learners_libraries_are_built_as_the_courses_are() {
        let of = |text: &str, libraries: &str| -> BTreeMap<String, toml::Value> {
            let table: toml::Table = text.parse().unwrap();
            let packages = table["profile"]["dev"]["package"].as_table().unwrap();
            packages
                .clone()
                .into_iter()
                .filter(|(library, _)| (library == "*") == (libraries == "all"))
                .collect()
        };
        let course = fs::read_to_string(workspace::root().join("Cargo.toml")).unwrap();
        assert_eq!(of(&settings().unwrap(), "single"), of(&course, "single"));
        for step in workspace::steps().unwrap() {
            let manifest = stages::manifest(&step, "mine").unwrap();
            assert_eq!(of(&manifest, "all"), of(&course, "all"));
            assert_eq!(of(&manifest, "single"), BTreeMap::new());
        }
    }
}
