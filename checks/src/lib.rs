//! The black-box checks: what each step of the course promises, tried against a binary.
//!
//! A check runs a binary, in whatever language it is written, and looks at the kernel's own files from
//! outside: `/proc/PID/{ns,status,mountinfo,cgroup,root,fd}`, the cgroup's files. What the runtime prints
//! about itself proves nothing. [`run`] puts a guard around every check that compares the host before and
//! after.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`promises`] | the checks, one file for each subject |
//! | [`exercises`] | the checks of the lessons' exercises |
//! | [`subject`] | the binary that is tried; [`container`]: one that runs |
//! | [`kernel`] | what the kernel says about processes, mounts and cgroups |
//! | `terminal` | a runtime at a terminal |
//! | [`network`] | network namespaces to look from, and hosts outside |
//! | `image` | images made by hand |
//! | [`inside`] | what a check does from within a container |
//! | `user` | an ordinary user; `delegation`: its part of the cgroups |
//! | [`host`] | a host of the checks' own, and the guard; `cgroups`: that host's cgroups |
//! | [`needs`] | what a check needs; [`installed`]: programs; [`mod@attempt`]: what the kernel can |
//! | [`machine`] | what it can do for each step, with remedies |
//! | [`tree`] | what is in a folder, and how two of them differ |
//! | [`security`] | what other runtimes had to learn, as a table |
//! | [`acceptance`] | the checks as `cargo test` |

#![forbid(unsafe_code)]

pub mod acceptance;
pub mod attempt;
mod cgroups;
pub mod container;
pub(crate) mod delegation;
pub mod exercises;
pub mod host;
pub(crate) mod image;
pub mod inside;
pub mod installed;
pub mod kernel;
pub mod machine;
pub mod needs;
mod netlink;
pub mod network;
pub mod promises;
pub mod security;
pub mod subject;
pub(crate) mod terminal;
pub mod tree;
pub(crate) mod user;

use std::fmt::{Debug, Display};

pub use needs::Need;
pub use subject::Subject;

/// One promise, and how to see whether a runtime keeps it.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// `subject.promise`, as in `pid.is-one`. The part before the dot is a row of the [`matrix`].
    pub id: &'static str,
    /// The promise in one sentence.
    pub sentence: &'static str,
    /// What to look at when it fails.
    pub hint: &'static str,
    /// The first step that keeps the promise.
    pub since: u8,
    /// The first step that no longer does what is checked, for what a later lesson takes away.
    pub until: u8,
    /// Whether steps before `since` must fail the check.
    pub new: bool,
    /// What the machine must have for the check to mean something.
    pub needs: &'static [Need],
    /// Tries it.
    pub run: fn(&Subject) -> Checked,
}

impl Check {
    /// A check of what holds from `step` on and not before.
    pub const fn since(
        step: u8,
        id: &'static str,
        sentence: &'static str,
        run: fn(&Subject) -> Checked,
    ) -> Self {
        Check { id, sentence, hint: "", since: step, until: u8::MAX, new: true, needs: &[], run }
    }

    /// Says what to look at when the check fails.
    #[must_use]
    pub const fn hint(self, hint: &'static str) -> Self {
        Check { hint, ..self }
    }

    /// Says what the machine must have.
    #[must_use]
    pub const fn needs(self, needs: &'static [Need]) -> Self {
        Check { needs, ..self }
    }

    /// Says that steps before may pass by chance: an error text that fits, for example.
    #[must_use]
    pub const fn not_new(self) -> Self {
        Check { new: false, ..self }
    }

    /// Says from which step on it no longer holds.
    #[must_use]
    pub const fn until(self, step: u8) -> Self {
        Check { until: step, ..self }
    }

    /// Whether `step` promises it.
    pub fn holds_in(&self, step: u8) -> bool {
        (self.since..self.until).contains(&step)
    }

    /// Whether `step` must fail it: what it does not have yet, or no longer.
    pub fn fails_in(&self, step: u8) -> bool {
        !self.holds_in(step) && (self.new || step >= self.until)
    }

    /// The part of the id before the dot.
    pub fn subject(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(subject, _)| subject)
    }
}

/// What a check found.
pub type Checked = Result<(), Failure>;

/// Why a check failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// What should have been seen.
    pub expected: String,
    /// The result that the check saw.
    pub found: String,
    /// Whether it is the guard that failed: the promise may be kept, but the host is not as it was.
    pub left_behind: bool,
}

impl Failure {
    /// A failure from what should have been seen and what was.
    pub fn new(expected: impl Display, found: impl Display) -> Self {
        Failure { expected: expected.to_string(), found: found.to_string(), left_behind: false }
    }

    /// The same, of one case of several.
    #[must_use]
    pub fn of(self, case: impl Display) -> Self {
        Failure { expected: format!("{case}: {}", self.expected), ..self }
    }
}

impl From<std::io::Error> for Failure {
    /// What the checks themselves need of the machine went wrong: a file of `/proc` is gone because its
    /// process is.
    fn from(error: std::io::Error) -> Self {
        Failure::new("the check can look at the container", error)
    }
}

impl From<nix::Error> for Failure {
    fn from(errno: nix::Error) -> Self {
        Failure::from(std::io::Error::from(errno))
    }
}

/// Fails unless `found` is `expected`; `what` begins the sentence: "the hostname inside".
///
/// # Errors
/// When they differ.
pub fn expect<T: PartialEq + Debug>(what: impl Display, expected: T, found: T) -> Checked {
    let same = expected == found;
    ensure(same, || Failure::new(format!("{what} is {expected:?}"), format!("{found:?}")))
}

/// Fails with `failure` unless `truth` holds.
///
/// # Errors
/// When it does not hold.
pub fn ensure(truth: bool, failure: impl FnOnce() -> Failure) -> Checked {
    if truth { Ok(()) } else { Err(failure()) }
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    /// The promise is kept.
    Passed,
    /// It is not.
    Failed(Failure),
    /// This machine cannot tell.
    Skipped {
        /// What it lacks.
        reason: String,
    },
}

/// All checks, simple ones first.
pub fn all() -> impl Iterator<Item = &'static Check> {
    promises::ALL.iter().copied().flatten()
}

/// Runs one check, between two looks at the host.
pub fn run(check: &Check, subject: &Subject) -> Outcome {
    guarded(check.needs, check.run, subject)
}

/// Runs the check of an exercise, between two looks at the host.
pub fn run_exercise(exercise: &exercises::Exercise, subject: &Subject) -> Outcome {
    guarded(exercise.needs, exercise.run, subject)
}

fn guarded(needs: &[Need], run: fn(&Subject) -> Checked, subject: &Subject) -> Outcome {
    if let Some(reason) = needs::lacking(needs, subject.step()) {
        return Outcome::Skipped { reason };
    }
    let before = host::Look::at(subject);
    let result = run(subject);
    match result.and(before.compare(subject)) {
        Ok(()) => {
            subject.remove_files();
            Outcome::Passed
        }
        Err(failure) => Outcome::Failed(failure),
    }
}

/// The README's table: for each subject what is promised, and which of the `steps` (number and name) keep it.
pub fn matrix(steps: &[(u8, &str)]) -> String {
    let mut table = String::from("| promise |");
    for (_, name) in steps {
        table += &format!(" {name} |");
    }
    table += &format!("\n| --- |{}\n", " :-: |".repeat(steps.len()));
    for (subject, promise) in promises::SUBJECTS {
        let of_subject: Vec<_> = all().filter(|check| check.subject() == *subject).collect();
        table += &format!("| {promise} |");
        for (step, _) in steps {
            let held = of_subject.iter().filter(|check| check.holds_in(*step)).count();
            let cell = if held == 0 { "–".into() } else { format!("✓ {held}") };
            table += &format!(" {cell} |");
        }
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_check_has_its_own_id_a_sentence_and_a_hint() {
        let mut ids = HashSet::new();
        for check in all() {
            assert!(ids.insert(check.id), "{} is there twice", check.id);
            assert!(check.sentence.ends_with('.'), "{}: {:?} is no sentence", check.id, check.sentence);
            assert!(!check.hint.is_empty(), "{} has no hint", check.id);
        }
    }

    #[test]
    fn every_subject_has_its_row_in_the_matrix() {
        for check in all() {
            let rows = promises::SUBJECTS.iter().filter(|(subject, _)| *subject == check.subject()).count();
            assert_eq!(rows, 1, "{} has {rows} rows", check.id);
        }
        for (subject, _) in promises::SUBJECTS {
            assert!(all().any(|check| check.subject() == *subject), "no check is about {subject}");
        }
    }
}
