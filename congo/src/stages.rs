//! The stages of the course: the way from one step's source to the next one's, in small patches.
//!
//! `stepN/stages/NN-name` has a stage's `task.md`, `hints.md` and `change.patch`. Applied one after the other
//! to the source of the step before, the patches give the step's own source. Step 0 begins with
//! `step0-basic/stages/skeleton`. `checks/stages.toml` says from which stage on each check holds. A check
//! that it does not list holds from the last stage of its step on. In later steps it holds from the
//! beginning.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use checks::Check;

use crate::workspace::{self, Step};

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The step to which it leads.
    pub step: Step,
    /// Its place in the step, from 1.
    pub number: usize,
    /// The name of its folder: `03-uts`.
    pub name: String,
}

impl Stage {
    /// `0.3`: the step and the place in it.
    pub fn id(&self) -> String {
        format!("{}.{}", self.step.number, self.number)
    }

    /// Where its texts and its patch are.
    pub fn folder(&self) -> PathBuf {
        folder(&self.step).join(&self.name)
    }

    /// Its solution.
    pub fn patch(&self) -> PathBuf {
        self.folder().join("change.patch")
    }

    /// Whether it is the last one of its step.
    ///
    /// # Errors
    /// When the folder of the stages cannot be read.
    pub fn is_last(&self) -> Result<bool> {
        Ok(of(&self.step)?.last() == Some(self))
    }
}

/// Where the stages of a step are.
pub fn folder(step: &Step) -> PathBuf {
    workspace::root().join(&step.name).join("stages")
}

/// The stages of a step, in order. There are none where it has not been cut into stages.
///
/// # Errors
/// When their folder cannot be read.
pub fn of(step: &Step) -> Result<Vec<Stage>> {
    let folder = folder(step);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            names.push(name);
        }
    }
    names.sort();
    let stage = |(number, name)| Stage { step: step.clone(), number: number + 1, name };
    Ok(names.into_iter().enumerate().map(stage).collect())
}

/// All stages of all steps, in order.
///
/// # Errors
/// When a folder cannot be read.
pub fn all() -> Result<Vec<Stage>> {
    let mut all = Vec::new();
    for step in workspace::steps()? {
        all.extend(of(&step)?);
    }
    Ok(all)
}

/// The stage that a learner names: `0.3`.
///
/// # Errors
/// When there is no such stage; the error lists those there are.
pub fn find(id: &str) -> Result<Stage> {
    let all = all()?;
    let ids: Vec<_> = all.iter().map(Stage::id).collect();
    all.into_iter()
        .find(|stage| stage.id() == id)
        .with_context(|| format!("no stage \"{id}\": there are {}", ids.join(", ")))
}

/// The stage after this one, in this step or the next.
///
/// # Errors
/// When a folder cannot be read.
pub fn after(stage: &Stage) -> Result<Option<Stage>> {
    Ok(all()?.into_iter().skip_while(|other| other != stage).nth(1))
}

/// Writes the source with which a stage begins into the empty folder `into`, as `src`.
///
/// # Errors
/// When a patch does not fit what is before it.
pub fn write_before(stage: &Stage, into: &Path) -> Result<()> {
    write_base(&stage.step, into)?;
    let before = of(&stage.step)?.into_iter().take(stage.number - 1);
    before.into_iter().try_for_each(|stage| apply(&stage.patch(), into))
}

/// Writes the source with which a stage ends, likewise.
///
/// # Errors
/// When a patch does not fit what is before it.
pub fn write_after(stage: &Stage, into: &Path) -> Result<()> {
    write_before(stage, into)?;
    apply(&stage.patch(), into)
}

/// Writes the source with which a step's first stage begins, likewise: that of the step before.
///
/// # Errors
/// When it cannot be read or written.
pub fn write_base(step: &Step, into: &Path) -> Result<()> {
    let from = match step.number {
        0 => folder(step).join("skeleton/src"),
        number => workspace::root().join(workspace::step(&(number - 1).to_string())?.name).join("src"),
    };
    copy(&from, &into.join("src"))
}

/// Copies a folder of source files.
///
/// # Errors
/// When one of them cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in from.read_dir().with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            let text = fs::read(entry.path())?;
            fs::write(&target, text).with_context(|| format!("writing {}", target.display()))?;
        }
    }
    Ok(())
}

/// The files below a folder, with their text.
///
/// # Errors
/// When one of them cannot be read.
pub fn texts(folder: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(texts(&path)?);
        } else {
            found.insert(path.clone(), fs::read_to_string(&path)?);
        }
    }
    Ok(found)
}

/// Shows how one folder differs from another one.
///
/// # Errors
/// When git cannot be started.
pub fn compare(from: &Path, to: &Path) -> Result<()> {
    let colour = if io::stdout().is_terminal() { "--color=always" } else { "--color=never" };
    let mut git = Command::new("git");
    let status = git
        .args(["--no-pager", "diff", "--no-index", colour])
        .args([from, to])
        .status()
        .context("starting git")?;
    // 1 says that they differ.
    ensure!(status.code().is_none_or(|code| code < 2), "git diff: {status}");
    Ok(())
}

/// Applies a patch to a folder of source files.
///
/// # Errors
/// When it does not fit, or git cannot be started.
pub fn apply(patch: &Path, to: &Path) -> Result<()> {
    let output = Command::new("git")
        .args(["apply", "--whitespace=nowarn"])
        .arg(patch)
        .current_dir(to)
        // So that git does not take a repository around the folder for the place to work in.
        .env("GIT_CEILING_DIRECTORIES", to.parent().unwrap_or(to))
        .output()
        .context("starting git")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} does not fit: {errors}", patch.display());
    Ok(())
}

/// The manifest of a package outside the workspace that is built as a step is: with the same libraries, of
/// the same versions. `name` is the package's, and the program's.
///
/// # Errors
/// When a manifest of the workspace is not as expected.
pub fn manifest(step: &Step, name: &str) -> Result<String> {
    let root = workspace::root();
    let read = |path: &Path| -> Result<toml::Table> {
        fs::read_to_string(path)?.parse().with_context(|| format!("reading {}", path.display()))
    };
    let workspace = read(&root.join("Cargo.toml"))?;
    let of_step = read(&root.join(&step.name).join("Cargo.toml"))?;
    let versions = workspace["workspace"]["dependencies"].as_table().context("no dependencies")?;
    let mut text = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
         # A workspace of its own: the course's stays as it is.\n[workspace]\n\n[dependencies]\n"
    );
    let dependencies = of_step["dependencies"].as_table().context("no dependencies")?;
    for (library, wanted) in dependencies {
        let shared = &versions[library];
        let mut words = Vec::new();
        match shared.get("path").and_then(|path| path.as_str()) {
            Some(path) => words.push(format!("path = \"{}\"", root.join(path).display())),
            None => {
                let version = shared.get("version").unwrap_or(shared).as_str().context("no version")?;
                words.push(format!("version = \"{version}\""));
            }
        }
        let features = [shared.get("features"), wanted.get("features")].into_iter().flatten();
        let features: Vec<_> = features.filter_map(|some| some.as_array()).flatten().collect();
        if !features.is_empty() {
            let features: Vec<_> =
                features.into_iter().filter_map(|it| it.as_str()).map(|it| format!("\"{it}\"")).collect();
            words.push(format!("features = [{}]", features.join(", ")));
        }
        text += &format!("{library} = {{ {} }}\n", words.join(", "));
    }
    // The same as the course's: so cargo builds the libraries once for both. What the course says of single
    // libraries stands in `.cargo/config.toml`.
    text += "\n[profile.dev.package.\"*\"]\ndebug = false\n";
    Ok(text)
}

/// From which stage on each check holds that is listed.
#[derive(Debug)]
pub struct Table(BTreeMap<String, Vec<(String, Vec<String>)>>);

/// Where [`Table`] is kept.
pub fn table_file() -> PathBuf {
    workspace::root().join("checks/stages.toml")
}

impl Table {
    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be read, or is not well formed.
    pub fn read() -> Result<Table> {
        let file = table_file();
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let steps: BTreeMap<String, BTreeMap<String, String>> =
            toml::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        let words = |list: String| list.split_whitespace().map(str::to_owned).collect();
        let stages = |of_step: BTreeMap<String, String>| {
            of_step.into_iter().map(|(stage, list)| (stage, words(list))).collect()
        };
        Ok(Table(steps.into_iter().map(|(step, of_step)| (step, stages(of_step))).collect()))
    }

    /// The place, in `step`, of the stage from which on `check` holds: 0 where an earlier step has it.
    ///
    /// # Errors
    /// When a folder cannot be read, or the table names a stage that is not there.
    pub fn place(&self, check: &Check, step: &Step) -> Result<usize> {
        let stages = of(step)?;
        let listed = self.0.get(&step.name).into_iter().flatten();
        let named = listed.into_iter().find(|(_, ids)| ids.iter().any(|id| id == check.id));
        match named {
            // Some checks use more options in later steps: only those are listed there once more.
            None if check.since < step.number => Ok(0),
            None => Ok(stages.len()),
            Some((name, _)) => match stages.iter().find(|stage| &stage.name == name) {
                Some(stage) => Ok(stage.number),
                None => bail!("checks/stages.toml: {} has no stage {name}", step.name),
            },
        }
    }
}

/// The checks that hold at the end of a stage.
///
/// # Errors
/// Those of [`Table::read`] and [`Table::place`].
pub fn checks_at(stage: &Stage) -> Result<Vec<&'static Check>> {
    placed(stage, |place| place <= stage.number)
}

/// Those of them that the stage before does not pass: the stage's own.
///
/// # Errors
/// Those of [`Table::read`] and [`Table::place`].
pub fn checks_of(stage: &Stage) -> Result<Vec<&'static Check>> {
    placed(stage, |place| place == stage.number)
}

fn placed(stage: &Stage, is_wanted: impl Fn(usize) -> bool) -> Result<Vec<&'static Check>> {
    let table = Table::read()?;
    let mut found = Vec::new();
    for check in checks::all().filter(|check| check.holds_in(stage.step.number)) {
        if is_wanted(table.place(check, &stage.step)?) {
            found.push(check);
        }
    }
    Ok(found)
}
