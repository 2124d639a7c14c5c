//! `cargo xtask vm test`: the checks of every step, and the rough cases, in each guest of a matrix.
//!
//! A guest runs `xtask check STEP --bin … --json` for each step, with the static xtask that lies in it, then
//! `rough.sh` with the last step's program. A check may be skipped only for a reason that stands in
//! [`SKIPS`]; any other skip is a failure, since a suite that skips everything passes everything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::architecture::Architecture;
use super::guest::{Cgroup, Guest};
use super::kernel::Kernel;
use crate::check::WITHOUT;
use crate::workspace::{self, Build};

/// The guests: a kernel's version and a cgroup layout.
const GUESTS: [(&str, Cgroup); 9] = [
    ("6.1", Cgroup::V2),
    ("5.10", Cgroup::V2),
    ("6.12", Cgroup::V2),
    ("6.1", Cgroup::Hybrid),
    ("5.10", Cgroup::Hybrid),
    ("6.12", Cgroup::Hybrid),
    ("6.1", Cgroup::V1),
    ("5.10", Cgroup::V1),
    ("6.12", Cgroup::V1),
];

/// The one that is tried of another architecture than the host's, unless `--only` says more. What is not the
/// same there are the numbers of system calls, the layout of memory, and programs: no matter of cgroups.
const FOREIGN: (&str, Cgroup) = GUESTS[0];

/// MiB of memory of each: all files of the checks lie in it.
pub(super) const MEMORY: u32 = 1536;

/// A reason for which a check may be skipped.
struct Skip {
    /// What stands in the check's own reason.
    reason: &'static str,
    /// The guests that may give it, by the beginning of `kernel/cgroup`.
    guests: &'static [&'static str],
}

/// Checks of how archives and documents are read and written: bytes that no kernel sees. They run on the
/// host. What of an image the kernel does, its whiteouts, attributes, links and locks, is tried here, too.
const ON_THE_HOST: [&str; 13] = [
    "image.artifacts",
    "image.candidates",
    // That the kernel takes 128 layers, overlay.many-layers tries.
    "image.commit-layers",
    "image.commit-tags",
    "image.compression",
    "image.formats",
    "image.hostile-blobs",
    "image.hostile-documents",
    "image.hostile-entries",
    "image.hostile-names",
    "image.names",
    "image.platform",
    "image.tags",
];

/// All of them. What is not here must run.
const SKIPS: [Skip; 10] = [
    // Those are the ones above.
    Skip { reason: WITHOUT, guests: &[""] },
    Skip { reason: NO_MEMORY, guests: &["6.12/v1"] },
    Skip { reason: "before Linux 5.11 an ordinary user has no overlay", guests: &["5.10"] },
    // Limits without root need v2, with the controllers in it.
    Skip { reason: "cgroup v2 has no controller ", guests: &["6.1/hybrid", "6.12/hybrid"] },
    Skip { reason: "cgroup v2 is not mounted", guests: &["6.1/v1"] },
    // All its files lie in a tmpfs, or in a kernel without such mounts.
    Skip { reason: "no idmapped mounts in ", guests: &["5.10", "6.1"] },
    // Larger than the guest's memory; where the checks run on the host, it is there.
    Skip { reason: "there is no Debian root", guests: &[""] },
    // These want a Debian of their own around them. What they compare is no matter of the kernel.
    Skip { reason: "umoci is not installed", guests: &[""] },
    Skip { reason: "buildah is not installed", guests: &[""] },
    // The guests have busybox's sh, which does not ignore SIGCHLD. What becomes of that is no matter of the
    // kernel, either.
    Skip { reason: "bash is not installed", guests: &[""] },
];

/// Debian builds 6.12 without CONFIG_MEMCG_V1. With hybrid, memory comes from v2 and all else from v1. With
/// v1 alone no step can set its memory limit: what is tried there is that each says so.
const NO_MEMORY: &str = "this kernel has no memory controller in v1, and every check needs one";

fn has_memory(guest: (&str, Cgroup)) -> bool {
    guest != ("6.12", Cgroup::V1)
}

/// Run the checks of every step, and the rough cases, in guests of several kernels and cgroup layouts
#[derive(clap::Args)]
pub struct Args {
    /// Only this guest, or all of a kernel or of a layout: `6.1/v2`, `6.1`, `v2`; may be given more than once
    /// [default: all; with an --arch that is not the host's, 6.1/v2]
    #[arg(long, value_name = "KERNEL/CGROUP")]
    only: Vec<String>,
    /// Only these checks, whose ids are this or begin with it, and no rough cases; may be given more than
    /// once
    #[arg(long, value_name = "ID")]
    check: Vec<String>,
    /// Only the last step's checks: they include those of all steps before it
    #[arg(long)]
    last: bool,
    /// How many guests run at once [default: as many as there are processors]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: Option<u8>,
    /// Give a guest up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// What `xtask check --json` prints, as far as it matters here.
#[derive(Deserialize)]
struct Report {
    step: String,
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    id: String,
    result: Outcome,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
enum Outcome {
    Passed,
    Failed { expected: String, found: String },
    Skipped { reason: String },
}

/// What came of one guest.
#[derive(Debug, Default)]
struct Row {
    passed: usize,
    /// What failed, and why.
    failed: Vec<String>,
    /// The reasons, and how many checks each took.
    skipped: BTreeMap<String, usize>,
}

/// Of a run of the matrix: what is the same in all its guests.
struct Plan<'a> {
    architecture: Architecture,
    /// What each guest gets.
    programs: &'a [PathBuf],
    /// The names of all steps.
    steps: &'a [&'a str],
    /// Of those, the ones whose checks run.
    checked: &'a [&'a str],
    /// The checks; all of them if none is named.
    only: &'a [String],
    limit: Duration,
}

/// Runs the matrix and prints its table; fails when anything failed or was skipped for a reason not listed.
///
/// # Errors
/// When `--only` fits no guest, or the programs cannot be built. A guest that breaks is a failure in the
/// table.
pub fn run(args: &Args, architecture: Architecture) -> Result<ExitCode> {
    for only in &args.only {
        let all = GUESTS.map(name).join(", ");
        ensure!(
            GUESTS.into_iter().any(|guest| fits(guest, only)),
            "--only {only}: no such guest; there are {all}"
        );
    }
    let wanted = |guest: &(&str, Cgroup)| match args.only.as_slice() {
        [] => architecture.is_host() || *guest == FOREIGN,
        only => only.iter().any(|only| fits(*guest, only)),
    };
    let guests: Vec<_> = GUESTS.into_iter().filter(wanted).collect();
    let steps = workspace::steps()?;
    let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    let folder =
        workspace::build(&[names.as_slice(), &["xtask"]].concat(), Build::StaticLab(architecture.target()?))?;
    let programs: Vec<_> = names.iter().chain(&["xtask"]).map(|name| folder.join(name)).collect();

    let plan = Plan {
        architecture,
        programs: &programs,
        steps: &names,
        checked: if args.last { &names[names.len() - 1..] } else { &names[..] },
        only: &args.check,
        limit: Duration::from_secs(args.timeout),
    };

    let processors = thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.map_or(processors, usize::from);
    let (queue, table) = (Mutex::new(guests.iter().copied()), Mutex::new(Vec::new()));
    println!(
        "{:8} {:8} {:>7} {:>7} {:>8} {:>8}",
        "kernel", "cgroup", "passed", "failed", "skipped", "seconds"
    );
    thread::scope(|scope| {
        for _ in 0..jobs.min(guests.len()) {
            scope.spawn(|| {
                // A statement of its own, so that the lock is not held while the guest runs.
                while let Some(guest) = { queue.lock().expect("no thread panics").next() } {
                    let start = Instant::now();
                    let row = try_guest(guest, &plan)
                        .unwrap_or_else(|error| Row { failed: vec![format!("{error:#}")], ..Row::default() });
                    let seconds = start.elapsed().as_secs();
                    let skipped: usize = row.skipped.values().sum();
                    let (passed, failed) = (row.passed, row.failed.len());
                    let (kernel, cgroup) = guest;
                    // A String first: with a width, a Display that only writes a string is not padded.
                    let cgroup = cgroup.to_string();
                    println!("{kernel:8} {cgroup:8} {passed:>7} {failed:>7} {skipped:>8} {seconds:>8}");
                    table.lock().expect("no thread panics").push((guest, row));
                }
            });
        }
    });
    let table = table.into_inner()?;
    let mut good = true;
    for (guest, row) in &table {
        let (text, is_good) = details(&name(*guest), row);
        print!("{text}");
        good &= is_good;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn name((kernel, cgroup): (&str, Cgroup)) -> String {
    format!("{kernel}/{cgroup}")
}

/// Whether `only` names this guest, its kernel or its layout.
fn fits(guest: (&str, Cgroup), only: &str) -> bool {
    only == name(guest) || only == guest.0 || only == guest.1.to_string()
}

fn try_guest((version, cgroup): (&str, Cgroup), plan: &Plan) -> Result<Row> {
    let kernel = Kernel::find(Some(version), plan.architecture)?;
    let guest = Guest { kernel, cgroup, user: false, memory: MEMORY, programs: plan.programs.to_vec() };
    let checked = if has_memory((version, cgroup)) { plan.checked } else { &[] };
    // The host of a guest of another architecture cannot run that one's programs, so all run in the guest.
    let without: &[&str] = if plan.architecture.is_host() { &ON_THE_HOST } else { &[] };
    let without = without.iter().map(|id| format!(" --without {id}"));
    let only = plan.only.iter().map(|id| format!(" --only {id}"));
    let options = without.chain(only).collect::<String>();
    let mut script = String::new();
    for step in checked {
        writeln!(script, "xtask check {step} --bin /congo/{step} --json --keep-going{options}")?;
    }
    let rough = plan.only.is_empty();
    if rough {
        writeln!(script, "echo; echo ROUGH; sh /lab/rough.sh {}", plan.steps.join(" "))?;
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let command = ["sh", "-c", &script].map(str::to_owned);
    guest.run(&command, io::empty(), &mut stdout, &mut stderr, plan.limit)?;
    let mut row = read(&String::from_utf8_lossy(&stdout), checked, rough)
        .with_context(|| format!("stderr of the checks: {}", String::from_utf8_lossy(&stderr)))?;
    if checked.is_empty() {
        row.skipped.insert(NO_MEMORY.into(), plan.steps.len());
    }
    Ok(row)
}

/// Reads what the guest printed: a JSON object for each step, then, if they were asked for, a line for each
/// rough case.
fn read(output: &str, steps: &[&str], with_rough: bool) -> Result<Row> {
    let mut row = Row::default();
    let (reports, rough) = match output.split_once("\nROUGH\n") {
        Some(parts) => parts,
        None if with_rough => bail!("the checks did not come to their end"),
        None => (output, ""),
    };
    let reports = serde_json::Deserializer::from_str(reports).into_iter::<Report>();
    let reports =
        reports.collect::<Result<Vec<_>, _>>().context("the checks printed something else than JSON")?;
    let seen: Vec<_> = reports.iter().map(|report| report.step.as_str()).collect();
    ensure!(seen == *steps, "there are reports of {seen:?} only");
    for report in reports {
        for check in report.checks {
            match check.result {
                Outcome::Passed => row.passed += 1,
                Outcome::Skipped { reason } => *row.skipped.entry(reason).or_default() += 1,
                Outcome::Failed { expected, found } => {
                    row.failed
                        .push(format!("{} {}: expected: {expected}; found: {found}", report.step, check.id));
                }
            }
        }
    }
    ensure!(!with_rough || !rough.is_empty(), "the rough cases did not run");
    for line in rough.lines() {
        match line.strip_prefix("not ok ") {
            Some(failure) => row.failed.push(format!("rough: {failure}")),
            None => row.passed += 1,
        }
    }
    Ok(row)
}

/// What the table has no room for, and whether all is well.
fn details(guest: &str, row: &Row) -> (String, bool) {
    let (mut text, mut good) = (String::new(), row.failed.is_empty());
    for failure in &row.failed {
        text += &format!("{guest}: FAILED {failure}\n");
    }
    for (reason, count) in &row.skipped {
        let listed = SKIPS.iter().any(|skip| {
            reason.contains(skip.reason) && skip.guests.iter().any(|begin| guest.starts_with(begin))
        });
        good &= listed;
        let verdict = if listed { "skipped" } else { "SKIPPED, and no listed reason" };
        text += &format!("{guest}: {verdict} ({count}): {reason}\n");
    }
    (text, good)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{ "step": "step0-basic", "passed": 1, "checks": [
        { "id": "a", "sentence": "A.", "result": { "outcome": "passed" } },
        { "id": "b", "sentence": "B.", "result": { "outcome": "skipped", "reason":
            "this kernel does not count swap for cgroups" } },
        { "id": "c", "sentence": "C.", "result": { "outcome": "failed", "expected": "x", "found": "y",
            "left_behind": false } }
    ] }"#;

    #[test]
    fn reports_and_rough_cases_are_counted() {
        let row =
            read(&format!("{REPORT}\n\nROUGH\nok a (1 s)\nnot ok b: why\n"), &["step0-basic"], true).unwrap();
        assert_eq!(row.passed, 2);
        assert_eq!(row.failed, ["step0-basic c: expected: x; found: y", "rough: b: why"]);
        assert_eq!(row.skipped.len(), 1);
    }

    #[test]
    fn a_guest_that_says_less_than_it_should_is_no_success() {
        let steps = ["step0-basic"];
        assert!(read("", &steps, true).is_err());
        assert!(read(REPORT, &steps, true).is_err());
        assert!(read("\nROUGH\nok a\n", &steps, true).is_err());
        assert!(read(&format!("{REPORT}\n\nROUGH\n"), &steps, true).is_err());
        assert!(read("", &steps, false).is_err());
        assert_eq!(read(REPORT, &steps, false).unwrap().passed, 1);
    }

    #[test]
    fn what_is_left_to_the_host_is_there_and_means_one_check() {
        for id in ON_THE_HOST {
            let named = checks::all().filter(|check| check.id.starts_with(id)).map(|check| check.id);
            assert_eq!(named.collect::<Vec<_>>(), [id]);
        }
    }

    #[test]
    fn a_skip_is_good_only_for_a_listed_reason_in_a_listed_guest() {
        let skipped = |reason: &str| Row { skipped: [(reason.to_owned(), 1)].into(), ..Row::default() };
        assert!(details("6.12/v1", &skipped(NO_MEMORY)).1);
        assert!(!details("6.1/v1", &skipped(NO_MEMORY)).1);
        assert!(!details("6.1/v2", &skipped("strace is not installed")).1);
    }
}
