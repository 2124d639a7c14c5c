//! The checks of the lessons' exercises: each fails on the step as it is, and passes once it is solved.
//!
//! One file for each step. They look from outside, as the [promises](crate::promises) do, and the same guard
//! is around them. What solves them lies in `exercises/STEP/NAME.patch`.

use std::fs;
use std::path::PathBuf;

use crate::container::Output;
use crate::needs::Need;
use crate::{Checked, Failure, Subject, ensure};

mod step0;
mod step1;
mod step2;
mod step3;
mod step4;

/// One exercise.
#[derive(Debug, Clone, Copy)]
pub struct Exercise {
    /// `step0.private-tmp`.
    pub id: &'static str,
    /// Which step's binary is changed to solve it.
    pub step: u8,
    /// The exercise's task.
    pub sentence: &'static str,
    /// Where to begin.
    pub hint: &'static str,
    /// What the machine must have.
    pub needs: &'static [Need],
    /// Tries a solution.
    pub run: fn(&Subject) -> Checked,
}

/// All exercises, in the order of the lessons.
pub fn all() -> impl Iterator<Item = &'static Exercise> {
    [step0::EXERCISES, step1::EXERCISES, step2::EXERCISES, step3::EXERCISES, step4::EXERCISES]
        .into_iter()
        .flatten()
}

/// An exercise's name without the step: `private-tmp`.
pub fn short(exercise: &Exercise) -> &'static str {
    exercise.id.split_once('.').map_or(exercise.id, |(_, name)| name)
}

/// A folder on the host, empty.
fn folder(subject: &Subject, name: &str) -> Result<PathBuf, Failure> {
    let path = subject.file(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path)?;
    Ok(path)
}

fn is_refused(output: &Output, word: &str) -> Checked {
    ensure(output.status == 125 && output.stderr.contains(word), || {
        Failure::new(format!("it is refused with 125 and an error that names {word}"), format!("{output:?}"))
    })
}
