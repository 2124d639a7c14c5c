//! `checks/mutants.toml`: reading it, and mending it after a change of the code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::workspace::{self, Step};

/// What is taken out of the code, and which checks must notice.
#[derive(Debug, Clone)]
pub(super) struct Mutant {
    /// The checks that must fail.
    pub(super) checks: Vec<String>,
    /// The step to try it with, where that is not the first one that has the checks.
    with: Option<String>,
    pub(super) edits: Vec<Edit>,
}

/// A text that stands exactly once in a file, and what it becomes.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    /// From the workspace's folder.
    pub(super) file: PathBuf,
    find: String,
    replace: String,
}

/// The file as it is written: its groups are called `in`, one for each file of the code.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    r#in: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    file: PathBuf,
    mutants: Vec<Vec<String>>,
}

fn path() -> PathBuf {
    workspace::root().join("checks/mutants.toml")
}

/// All mutants.
pub(super) fn all() -> Result<Vec<Mutant>> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Vec<Mutant>> {
    let written: Written = toml::from_str(text)?;
    let of_group = |group: &Group| -> Vec<_> {
        group.mutants.iter().map(|words| Mutant::of_words(&group.file, words)).collect()
    };
    written.r#in.iter().flat_map(of_group).collect()
}

impl Mutant {
    fn of_words(file: &Path, words: &[String]) -> Result<Mutant> {
        let (checks, mut rest) = words.split_first().context("a mutant without a word")?;
        let mut checks: Vec<_> = checks.split_whitespace().map(str::to_owned).collect();
        // The id of a check has a dot.
        let names_step = checks.first().is_some_and(|first| !first.contains('.'));
        let with = names_step.then(|| checks.remove(0));
        let (mut file, mut edits) = (file.to_owned(), vec![]);
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            if first.ends_with(".rs") && !first.contains(' ') {
                file = first.into();
                continue;
            }
            let replace = rest.first().cloned().unwrap_or_default();
            rest = rest.get(1..).unwrap_or_default();
            edits.push(Edit { file: file.clone(), find: first.clone(), replace });
        }
        ensure!(!edits.is_empty(), "{checks:?}: nothing is taken out");
        Ok(Mutant { checks, with, edits })
    }

    /// The step that it names, or whose folder is changed. Else what is changed in `common` is tried with the
    /// first step that has all of the checks.
    pub(super) fn step(&self) -> Result<Step> {
        let folders = self.edits.iter().filter_map(|edit| edit.file.iter().next()?.to_str());
        let step = folders.into_iter().find(|folder| folder.starts_with("step"));
        let named = checks::all().filter(|check| self.checks.iter().any(|id| check.id == id));
        let since = named.map(|check| check.since).max();
        workspace::step(
            &self
                .with
                .clone()
                .or(step.map(str::to_owned))
                .or(since.map(|number| number.to_string()))
                .unwrap_or_default(),
        )
    }

    /// Applies it to a copy of the workspace. Returns the files as they were: the workspace itself may change
    /// while its copies are at work.
    pub(super) fn apply(&self, root: &Path) -> Result<Originals> {
        let mut originals = Originals(vec![]);
        for edit in &self.edits {
            let path = root.join(&edit.file);
            let text = fs::read_to_string(&path).with_context(|| edit.file.display().to_string())?;
            let edited = edit.of(&text)?;
            originals.0.push((path.clone(), text));
            fs::write(&path, edited)?;
        }
        Ok(originals)
    }
}

/// Files as they were before a mutant. Dropped, they are so again.
pub(super) struct Originals(Vec<(PathBuf, String)>);

impl Drop for Originals {
    fn drop(&mut self) {
        // The last edit first: a file may have had two.
        for (path, text) in self.0.iter().rev() {
            // A copy that cannot be written to fails the next mutant, too.
            let _ = fs::write(path, text);
        }
    }
}

impl Edit {
    fn of(&self, text: &str) -> Result<String> {
        let count = text.matches(&self.find).count();
        ensure!(count == 1, "{} has {count} times: {:?}", self.file.display(), self.find);
        Ok(text.replace(&self.find, &self.replace))
    }
}

/// Moves mutants whose texts a change of the code has moved to another file of the same package, or of
/// `common`. Returns what was moved, and what must be mended by hand.
pub(super) fn mend() -> Result<Vec<String>> {
    let text = fs::read_to_string(path())?;
    let (mended, told) = mended(&text, workspace::root())?;
    fs::write(path(), mended)?;
    Ok(told)
}

/// The text with its mutants at the files in which their texts stand.
fn mended(text: &str, root: &Path) -> Result<(String, Vec<String>)> {
    let mutants = parse(text)?;
    let (head, mut groups) = groups(text)?;
    let mut told = vec![];
    let mut mutants = mutants.into_iter();
    let mut moves = vec![];
    for (file, entries) in &mut groups {
        entries.retain(|entry| {
            let Some(mutant) = mutants.next() else { return true };
            let mut fits = mutant.edits.iter().map(|edit| stands_once(root, &edit.file, &edit.find));
            if fits.all(|fits| fits) {
                return true;
            }
            let checks = mutant.checks.join(" ");
            let new = match &mutant.edits[..] {
                [edit] => the_one(root, edit),
                _ => None,
            };
            match new {
                Some(new) => {
                    told.push(format!("moved to {}: {checks}", new.display()));
                    moves.push((new.display().to_string(), entry.clone()));
                    false
                }
                None => {
                    told.push(format!("to be mended by hand: {checks} in {file}"));
                    true
                }
            }
        });
    }
    for (file, entry) in moves {
        match groups.iter_mut().find(|(name, _)| *name == file) {
            Some((_, entries)) => entries.push(entry),
            None => groups.push((file, vec![entry])),
        }
    }
    let mut mended = head;
    for (file, entries) in groups.iter().filter(|(_, entries)| !entries.is_empty()) {
        mended += &format!("\n[[in]]\nfile = \"{file}\"\nmutants = [\n{}]\n", entries.concat());
    }
    Ok((mended, told))
}

/// Each file's mutants.
type Groups = Vec<(String, Vec<String>)>;

/// The lines of `mutants.toml`: those at its head, and for each file those of each mutant, with the comments
/// above it.
fn groups(text: &str) -> Result<(String, Groups)> {
    let mut parts = text.split("\n[[in]]\n");
    let head = parts.next().unwrap_or_default().to_owned();
    let mut groups = vec![];
    for part in parts {
        let part = part.trim_end().strip_suffix(']').context("a group ends with a line `]`")?;
        let Some((file, lines)) = part.split_once("\nmutants = [\n") else {
            bail!("a group has a file and its mutants: {:?}", part.lines().next());
        };
        let file = file.trim_start_matches("file = ").trim_matches('"').to_owned();
        let mut entries = vec![String::new()];
        for line in lines.lines() {
            let entry = entries.last_mut().context("there is one")?;
            *entry += &format!("{line}\n");
            if line.ends_with("],") {
                entries.push(String::new());
            }
        }
        entries.retain(|entry| !entry.is_empty());
        groups.push((file, entries));
    }
    Ok((head, groups))
}

fn stands_once(root: &Path, file: &Path, text: &str) -> bool {
    fs::read_to_string(root.join(file)).is_ok_and(|there| there.matches(text).count() == 1)
}

/// The only file with this text, in the same package, or else in `common`.
fn the_one(root: &Path, edit: &Edit) -> Option<PathBuf> {
    let package = edit.file.iter().next()?.to_str()?;
    [package, "common"].into_iter().find_map(|package| {
        let mut found = vec![];
        for file in sources(&root.join(package).join("src")) {
            let count = fs::read_to_string(&file).unwrap_or_default().matches(&edit.find).count();
            found.extend(std::iter::repeat_n(file, count));
        }
        match &found[..] {
            [file] => file.strip_prefix(root).ok().map(Path::to_owned),
            _ => None,
        }
    })
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = BTreeMap::new();
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(path.clone(), if path.is_dir() { sources(&path) } else { vec![path] });
    }
    found.into_values().flatten().filter(|path| path.extension().is_some_and(|it| it == "rs")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_a_mutant() {
        let mutants = all().unwrap();
        let proven: BTreeSet<_> =
            mutants.iter().flat_map(|mutant| &mutant.checks).map(String::as_str).collect();
        let there: BTreeSet<_> = checks::all().map(|check| check.id).collect();
        assert_eq!(proven, there);
    }

    #[test]
    fn every_mutant_fits_the_code() {
        for mutant in all().unwrap() {
            mutant.step().unwrap();
            for edit in &mutant.edits {
                edit.of(&fs::read_to_string(workspace::root().join(&edit.file)).unwrap()).unwrap();
            }
        }
    }

    #[test]
    fn a_mutant_can_name_its_step() {
        let step = |words: &str| {
            let text = format!("[[in]]\nfile = \"common/src/a.rs\"\nmutants = [[\"{words}\", \"x\"]]");
            let [mutant] = &parse(&text).unwrap()[..] else { panic!("{text}") };
            assert_eq!(mutant.checks, ["processes.bridge"]);
            mutant.step().unwrap().number
        };
        assert_eq!((step("processes.bridge"), step("step4 processes.bridge")), (2, 4));
    }

    #[test]
    fn a_text_that_moved_takes_its_mutant_along() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("step0-a/src/b")).unwrap();
        for (file, text) in [("main.rs", "fn stays() {}"), ("b/new.rs", "fn moved() {}")] {
            fs::write(root.path().join("step0-a/src").join(file), text).unwrap();
        }
        let before = "# Why.\n\n[[in]]\nfile = \"step0-a/src/main.rs\"\nmutants = [\n    [\"a.a\", \
                      \"stays\"],\n    \
                      # A reason.\n    [\"a.b a.c\",\n        \"moved\", \"x\"],\n    [\"a.d\", \
                      \"gone\"],\n]\n";
        let (after, told) = mended(before, root.path()).unwrap();
        assert_eq!(
            after,
            "# Why.\n\n[[in]]\nfile = \"step0-a/src/main.rs\"\nmutants = [\n    [\"a.a\", \"stays\"],\n    \
             [\"a.d\", \"gone\"],\n]\n\n[[in]]\nfile = \"step0-a/src/b/new.rs\"\nmutants = [\n    # A \
             reason.\n    \
             [\"a.b a.c\",\n        \"moved\", \"x\"],\n]\n"
        );
        assert_eq!(
            told,
            ["moved to step0-a/src/b/new.rs: a.b a.c", "to be mended by hand: a.d in step0-a/src/main.rs"]
        );
    }

    #[test]
    fn a_mutant_may_have_edits_in_two_files() {
        let text = "[[in]]\nfile = \"a.rs\"\nmutants = [[\"a.a\", \"f\", \"g\", \"b.rs\", \"h\"]]\n";
        let edits: Vec<_> = parse(text).unwrap().remove(0).edits;
        let words: Vec<_> =
            edits.iter().map(|it| (it.file.to_str(), it.find.as_str(), it.replace.as_str())).collect();
        assert_eq!(words, [(Some("a.rs"), "f", "g"), (Some("b.rs"), "h", "")]);
    }
}
