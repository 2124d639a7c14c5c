//! How far the learner is: `progress.toml` in the folder of the runtime, and where that folder is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::refuse_sudo;
use crate::stages::{self, Stage};
use crate::task::Task;
use crate::workspace;

/// The learner's package.
#[derive(Debug)]
pub(super) struct Mine {
    pub(super) folder: PathBuf,
    pub(super) kept: Kept,
}

/// What `progress.toml` keeps.
#[derive(Debug, Deserialize)]
pub(super) struct Kept {
    /// The current stage.
    pub(super) current: String,
    /// When it was begun, in seconds since 1970.
    pub(super) begun: u64,
    /// How many of its hints were shown.
    pub(super) hints: usize,
    /// Whether the learner was told what a runtime that runs as root can do to the machine.
    #[serde(default)]
    pub(super) told_of_root: bool,
    /// The stages for which the learner took the course's source.
    #[serde(default)]
    pub(super) taken: BTreeSet<String>,
    /// The stages that are done, and how many minutes after its beginning each was.
    #[serde(default)]
    pub(super) done: BTreeMap<String, u64>,
}

impl Kept {
    pub(super) fn at(stage: &Stage) -> Kept {
        let (taken, done) = (BTreeSet::new(), BTreeMap::new());
        Kept { current: stage.id(), begun: now(), hints: 0, told_of_root: false, taken, done }
    }

    /// Makes this stage the current one.
    pub(super) fn begin(&mut self, stage: &Stage) {
        self.current = stage.id();
        self.begun = now();
        self.hints = 0;
    }

    /// Makes this stage the current one, as if it had never been done.
    pub(super) fn begin_anew(&mut self, stage: &Stage) {
        self.begin(stage);
        self.done.remove(&self.current);
        self.taken.remove(&self.current);
    }

    /// How many minutes ago the current stage was begun.
    pub(super) fn minutes(&self) -> u64 {
        now().saturating_sub(self.begun).div_ceil(60)
    }

    fn is_left(&self, stage: &Stage) -> bool {
        self.done.contains_key(&stage.id()) || self.taken.contains(&stage.id())
    }

    /// Of all stages, the one whose solution the learner's source can be compared with: the one before the
    /// current one, when it is done. The last stage of the course stays the current one.
    pub(super) fn to_compare<'a>(&self, all: &'a [Stage]) -> Option<&'a Stage> {
        let current = all.iter().position(|stage| stage.id() == self.current)?;
        if self.is_finished(all) {
            return all.last();
        }
        all.get(current.checked_sub(1)?).filter(|stage| self.is_left(stage))
    }

    /// Whether the course's last stage is done, and none was begun anew since.
    fn is_finished(&self, all: &[Stage]) -> bool {
        all.last().is_some_and(|last| last.id() == self.current && self.is_left(last))
    }

    /// What `progress` says of a stage.
    pub(super) fn state(&self, stage: &Stage, all: &[Stage]) -> String {
        let id = stage.id();
        let left = match self.done.get(&id) {
            Some(minutes) => Some(format!("✓ done, {minutes} minutes after its beginning")),
            None => self.taken.contains(&id).then(|| "– the course's source was taken".to_owned()),
        };
        let current = (id == self.current && !self.is_finished(all)).then(|| "▶ current".to_owned());
        current.into_iter().chain(left).collect::<Vec<_>>().join("; ")
    }
}

impl Mine {
    pub(super) fn find() -> Result<Mine> {
        let folder = Mine::folder()?;
        let kept = Mine::kept(&folder)?;
        Ok(Mine { folder, kept })
    }

    /// The folder that `start` has made.
    pub(super) fn folder() -> Result<PathBuf> {
        refuse_sudo()?;
        match &*Mine::folders()? {
            [] => bail!("there is no runtime of yours yet: cargo congo start"),
            [folder] => Ok(folder.clone()),
            [one, other, ..] => bail!(
                "there are two runtimes, {} and {}: go into the folder of one of them",
                one.display(),
                other.display()
            ),
        }
    }

    /// The folders of runtimes that can be meant here.
    pub(super) fn folders() -> Result<Vec<PathBuf>> {
        let here = std::env::current_dir()?;
        let course = course_around(&here);
        folders_from(&here, course.as_deref())
    }

    /// Reads the progress file of this folder.
    pub(super) fn kept(folder: &Path) -> Result<Kept> {
        let file = folder.join("progress.toml");
        let read = || -> Result<Kept> {
            let kept: Kept = toml::from_str(&fs::read_to_string(&file)?)?;
            stages::find(&kept.current)?;
            Ok(kept)
        };
        read().with_context(|| {
            format!(
                "{} cannot be read: mend what is told below, or name the stage to begin anew, by cargo congo \
                 reset --at STAGE, which keeps your source beside the new one",
                file.display()
            )
        })
    }

    pub(super) fn name(&self) -> String {
        super::file_name(&self.folder)
    }

    /// The folder as the learner names it, from where the tool was started.
    pub(super) fn shown(&self) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        let folder = self.folder.strip_prefix(here).unwrap_or(&self.folder);
        if folder == Path::new("") { ".".to_owned() } else { folder.display().to_string() }
    }

    pub(super) fn stage(&self) -> Result<Stage> {
        stages::find(&self.kept.current)
    }

    /// Writes what is kept.
    pub(super) fn write(&self) -> Result<()> {
        let Kept { current, begun, hints, told_of_root, taken, done } = &self.kept;
        let done: String = done.iter().map(|(stage, minutes)| format!("\"{stage}\" = {minutes}\n")).collect();
        let text = format!(
            "# The current stage, when it was begun, how many hints were taken, whether you know what root\n\
             # can do here, the stages for which you took the course's source, and for each stage that is\n\
             # done how many minutes after its beginning it was.\n\
             current = \"{current}\"\nbegun = {begun}\nhints = {hints}\ntold_of_root = {told_of_root}\n\
             taken = {taken:?}\n\n[done]\n{done}",
            taken = taken.iter().collect::<Vec<_>>()
        );
        write_whole(&self.folder.join("progress.toml"), &text)
    }

    /// The current stage is done: says so, and makes the next one the current one.
    pub(super) fn go_on(&mut self) -> Result<()> {
        let (current, minutes) = (self.kept.current.clone(), self.kept.minutes());
        println!(
            "\nStage {current} is done, {minutes} minutes after its beginning. Compare: cargo congo solution"
        );
        self.kept.taken.remove(&current);
        self.kept.done.entry(current).or_insert(minutes);
        self.advance()
    }

    /// Makes the next stage the current one.
    pub(super) fn advance(&mut self) -> Result<()> {
        let stage = self.stage()?;
        match stages::after(&stage)? {
            None => println!("That was the last stage. You have built a container runtime."),
            Some(next) => {
                if next.step != stage.step {
                    println!(
                        "That was the last stage of {0}. Its exercises: cargo congo list {0}. Now read \
                         {1}/README.md, up to its stages.",
                        stage.step.name, next.step.name
                    );
                    self.carry_manifest(&next)?;
                }
                self.kept.begin(&next);
                println!("The next one: {}. Its task: cargo congo next", Task::of(&next)?.title());
            }
        }
        self.write()
    }
}

/// The folder of a runtime that this one lies in. If there is none, those in this one, and else those in the
/// course's folder, when this one lies in that.
fn folders_from(here: &Path, course: Option<&Path>) -> Result<Vec<PathBuf>> {
    let has_one = |folder: &PathBuf| folder.join("progress.toml").exists();
    let above = here.ancestors().map(Path::to_owned).find(has_one);
    let mut found: Vec<_> = above.into_iter().collect();
    for around in [Some(here), course].into_iter().flatten() {
        if found.is_empty() {
            for entry in around.read_dir().with_context(|| format!("reading {}", around.display()))? {
                found.extend(Some(entry?.path()).filter(has_one));
            }
        }
    }
    Ok(found)
}

/// The course's folder, when this one lies in it.
pub(super) fn course_around(here: &Path) -> Option<PathBuf> {
    let course = workspace::root().canonicalize().ok()?;
    here.canonicalize().ok()?.starts_with(&course).then_some(course)
}

/// Writes a file as a whole: whatever happens meanwhile, it has either its old text or the new one.
pub(super) fn write_whole(file: &Path, text: &str) -> Result<()> {
    let write = || -> Result<()> {
        let folder = file.parent().context("it has no folder")?;
        let mut whole = tempfile::NamedTempFile::new_in(folder)?;
        whole.write_all(text.as_bytes())?;
        let before = fs::metadata(file).map(|metadata| metadata.permissions());
        whole.as_file().set_permissions(before.unwrap_or_else(|_| fs::Permissions::from_mode(0o644)))?;
        whole.persist(file)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", file.display()))
}

pub(super) fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    #[test]
    fn the_runtime_is_found_from_a_folder_of_the_course() {
        let course = tempfile::tempdir().unwrap();
        let [mine, step] = ["mine/src", "step0-basic/src"].map(|name| course.path().join(name));
        [&mine, &step].into_iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        let found = |here: &Path, around| folders_from(here, around).unwrap();
        assert_eq!(found(&step, Some(course.path())), [] as [PathBuf; 0]);
        let folder = course.path().join("mine");
        fs::write(folder.join("progress.toml"), "").unwrap();
        for here in [&step, &mine, course.path(), &course.path().join("step0-basic")] {
            assert_eq!(*found(here, Some(course.path())), *slice::from_ref(&folder));
        }
        assert_eq!(found(&step, None), [] as [PathBuf; 0]);
        // Outside of the course, and where it has another one: the one around this folder is meant.
        assert_eq!(found(&mine, None), *slice::from_ref(&folder));
        let other = course.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("progress.toml"), "").unwrap();
        assert_eq!(found(&mine, Some(course.path())), [folder]);
    }

    fn all() -> Vec<Stage> {
        stages::all().unwrap()
    }

    fn kept(current: &str, done: &[&str]) -> Kept {
        let mut kept = Kept::at(&stages::find(current).unwrap());
        kept.done = done.iter().map(|&stage| (stage.to_owned(), 5)).collect();
        kept
    }

    fn compared(kept: &Kept) -> Option<String> {
        kept.to_compare(&all()).map(Stage::id)
    }

    #[test]
    fn the_source_is_compared_with_the_stage_before_the_current_one() {
        assert_eq!(compared(&kept("0.1", &[])), None);
        assert_eq!(compared(&kept("0.3", &["0.1", "0.2"])), Some("0.2".into()));
        assert_eq!(compared(&kept("0.3", &["0.1"])), None, "0.2 was left without passing it");
        let mut taken = kept("0.3", &["0.1"]);
        taken.taken.insert("0.2".into());
        assert_eq!(compared(&taken), Some("0.2".into()));
        let last = all().last().unwrap().id();
        assert_eq!(compared(&kept(&last, &[&last])), Some(last));
    }

    #[test]
    fn what_was_done_after_a_stage_that_is_begun_anew_is_not_compared() {
        let mut kept = kept("0.6", &["0.1", "0.2", "0.3", "0.4", "0.5"]);
        kept.begin_anew(&stages::find("0.3").unwrap());
        assert_eq!(compared(&kept), Some("0.2".into()));
        kept.begin(&stages::find("0.4").unwrap());
        assert_eq!(compared(&kept), None, "0.3 was not done anew");
    }

    #[test]
    fn the_current_stage_has_its_mark_also_when_it_was_done_once() {
        let all = all();
        let state = |kept: &Kept, id: &str| kept.state(&stages::find(id).unwrap(), &all);
        let mut kept = kept("0.2", &["0.1", "0.2"]);
        assert_eq!(state(&kept, "0.1"), "✓ done, 5 minutes after its beginning");
        assert_eq!(state(&kept, "0.2"), "▶ current; ✓ done, 5 minutes after its beginning");
        assert_eq!(state(&kept, "0.3"), "");
        kept.taken.insert("0.3".into());
        assert_eq!(state(&kept, "0.3"), "– the course's source was taken");
        let last = all.last().unwrap().id();
        kept.begin(all.last().unwrap());
        assert_eq!(state(&kept, &last), "▶ current");
        kept.done.insert(last.clone(), 7);
        assert_eq!(state(&kept, &last), "✓ done, 7 minutes after its beginning");
    }
}
