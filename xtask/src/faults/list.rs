//! `xtask/faults.toml`: the faults that a run does not survive, and why that cannot matter.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::named;
use super::place::Place;
use super::run::Fault;
use crate::workspace;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    fault: Vec<Entry>,
}

/// An entry stands for each fault in which all of its parts are found.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The steps; all, if none are named.
    #[serde(default)]
    steps: Vec<u8>,
    /// The command lines; all, if none are named.
    #[serde(default)]
    lines: Vec<String>,
    /// How the role begins: `runtime`, `child`, `helper`.
    #[serde(default)]
    role: String,
    /// A part of the call: `mount(`.
    call: String,
    /// The errors, as `EIO`, or `killed`; all, if none are named.
    #[serde(default)]
    errnos: Vec<String>,
    /// A part of what happens.
    what: String,
    /// Why it cannot matter.
    because: String,
}

impl Entry {
    /// Whether it is about this fault, whatever happens then.
    fn names(&self, step: u8, line: &str, role: &str, place: &Place, fault: &Fault) -> bool {
        (self.steps.is_empty() || self.steps.contains(&step))
            && (self.lines.is_empty() || self.lines.iter().any(|it| it == line))
            && role.starts_with(&self.role)
            && place.what.contains(&self.call)
            && (self.errnos.is_empty() || self.errnos.contains(&named(fault)))
    }
}

/// The entries, and how often each was needed.
#[derive(Debug)]
pub struct List(Vec<(Entry, usize)>);

impl List {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or is no list of faults.
    pub fn read() -> Result<List> {
        let path = workspace::root().join("xtask/faults.toml");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let written: Written = toml::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(List(written.fault.into_iter().map(|entry| (entry, 0)).collect()))
    }

    /// Whether an entry is about this fault.
    pub fn names(&self, step: u8, line: &str, role: &str, place: &Place, fault: &Fault) -> bool {
        self.0.iter().any(|(entry, _)| entry.names(step, line, role, place, fault))
    }

    /// Whether the list has this.
    pub fn excuses(
        &mut self,
        step: u8,
        line: &str,
        role: &str,
        place: &Place,
        fault: &Fault,
        why: &str,
    ) -> bool {
        let fits = |entry: &Entry| entry.names(step, line, role, place, fault) && why.contains(&entry.what);
        let found = self.0.iter_mut().find(|(entry, _)| fits(entry));
        found.map(|(_, count)| *count += 1).is_some()
    }

    /// The entries that were needed, by their numbers.
    pub fn needed(&self) -> BTreeSet<usize> {
        let all = self.0.iter().enumerate();
        all.filter(|(_, (_, count))| *count > 0).map(|(number, _)| number).collect()
    }

    /// The entries that were not needed, after a run in which all of them should have been.
    pub fn outdated(&self, needed: &BTreeSet<usize>) -> Vec<String> {
        let unused = self.0.iter().enumerate().filter(|(number, _)| !needed.contains(number));
        unused.map(|(_, (entry, _))| format!("{}: {} ({})", entry.call, entry.what, entry.because)).collect()
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn the_list_can_be_read_and_each_entry_has_its_reason() {
        for (entry, _) in List::read().unwrap().0 {
            assert!(entry.because.ends_with('.') && !entry.call.is_empty() && !entry.what.is_empty());
        }
    }

    #[test]
    fn an_entry_that_nothing_needs_is_outdated() {
        let text = "[[fault]]\ncall = \"mount(\"\nerrnos = [\"EIO\"]\nwhat = \"Umask\"\nbecause = \"Y.\"";
        let written: Written = toml::from_str(text).unwrap();
        let mut list = List(written.fault.into_iter().map(|entry| (entry, 0)).collect());
        let place = Place { process: "runtime.1".into(), what: "mount(none, /)".into(), turn: 0 };
        let mut excuses = |errno, why| list.excuses(0, "plain", "child", &place, &Fault::Errno(errno), why);
        assert!(!excuses(Errno::EPERM, "Umask is 0") && !excuses(Errno::EIO, "Uid is 0"));
        assert_eq!(list.outdated(&list.needed()).len(), 1);
        assert!(list.excuses(0, "plain", "child", &place, &Fault::Errno(Errno::EIO), "Umask is 0"));
        assert!(list.outdated(&list.needed()).is_empty());
    }
}
