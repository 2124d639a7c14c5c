//! Many containers at once share nothing, not even the moment at which the first root filesystem is built.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal::SIGKILL;

use crate::container::Container;
use crate::needs::Need;
use crate::subject::state_folder;
use crate::{Check, Checked, Failure, Subject, expect};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "many.twenty", "Twenty containers at once all run, each in its own cgroup.", twenty)
        .needs(&[Need::Controller("memory")])
        .hint("Is the cgroup's name different for each run?"),
    Check::since(
        0,
        "many.first-runs",
        "Four first runs at once build one root filesystem and all work.",
        first_runs,
    )
    .hint("Build the root beside its final place, then rename(2) it: the second run finds it there."),
    Check::since(
        0,
        "many.interrupted-first-run",
        "A first run that is killed leaves no incomplete root filesystem.",
        interrupted,
    )
    .hint(
        "Nothing may have the final name before it is complete. A later run removes the unfinished files of \
         a dead run.",
    ),
];

fn twenty(subject: &Subject) -> Checked {
    let containers: Vec<_> = (0..20).map(|_| subject.hold(&[])).collect::<Result<_, _>>()?;
    let mut cgroups = BTreeSet::new();
    for container in &containers {
        cgroups.insert(container.first()?.cgroup()?.folder("memory")?.to_owned());
    }
    expect("the number of cgroups of 20 containers", 20, cgroups.len())?;
    for container in containers {
        container.output()?.status_is(0)?;
    }
    Ok(())
}

/// The runtime with an empty state folder of this name.
fn first_run(subject: &Subject, name: &str) -> Result<(std::process::Command, PathBuf), Failure> {
    let home = subject.file(name);
    fs::create_dir_all(&home)?;
    let mut command = subject.command(&["sh", "-c", "echo works"]);
    command.env("CONGO_HOME", &home);
    Ok((command, home))
}

fn first_runs(subject: &Subject) -> Checked {
    let (mut command, home) = first_run(subject, "first-runs")?;
    let runs: Vec<_> = (0..4).map(|_| Container::start(&mut command)).collect::<Result<_, _>>()?;
    let outputs: Vec<_> = runs.into_iter().map(Container::output).collect();
    fs::remove_dir_all(home)?;
    for output in outputs {
        expect("what each of four first runs writes", "works", output?.ok()?)?;
    }
    Ok(())
}

fn interrupted(subject: &Subject) -> Checked {
    let (mut command, home) = first_run(subject, "interrupted")?;
    let start = Instant::now();
    Container::start(&mut command)?.output()?.ok()?;
    let (whole, took) = (state_folder(&home), start.elapsed());
    fs::remove_dir_all(&home)?;
    fs::create_dir(&home)?;
    for tenth in 0..10 {
        let container = Container::start(&mut command)?;
        thread::sleep(took * tenth / 10);
        container.signal(SIGKILL)?;
    }
    let output = Container::start(&mut command)?.output();
    // Once more, since the kernel may still have been ending the last one's processes when this one began.
    Container::start(&mut command)?.output()?.ok()?;
    let found = state_folder(&home);
    fs::remove_dir_all(home)?;
    expect("what the run after them writes", "works", output?.ok()?)?;
    expect("what is in the state folder then, as after one run that nobody killed,", whole, found)
}
