//! What the project wants a start to cost at most, measured.
//!
//! Kernel objects: containers, and a network namespace of the bench's own for those on a bridge. The dirty
//! pages are those of one file that is removed again. Man pages: strace(1), proc_meminfo(5).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use checks::Failure;
use checks::network::Network;

use super::measure::{Contender, Times, measure, quartiles};
use super::seen::{Held, asked};
use super::yard::{BWRAP, OCI, Yard};

/// How often something is measured that is not a start among others.
const RUNS: u32 = 15;
/// How much the host has yet to write to its disk while a container ends.
const DIRTY: usize = 800 << 20;
const LAYERS: usize = 100;
/// So many milliseconds before each start that is not one among others: the kernel is still removing the
/// network namespace of the start before.
pub const REST: u64 = 100;

/// A target, and what came of it.
pub struct Verdict {
    what: String,
    bound: Bound,
    /// Or why it could not be measured; that is not met.
    measured: Result<f64>,
    unit: &'static str,
}

/// What is wanted.
#[derive(Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Verdict {
    pub fn new(what: impl Into<String>, bound: Bound, unit: &'static str, measured: Result<f64>) -> Verdict {
        Verdict { what: what.into(), bound, measured, unit }
    }

    pub fn is_met(&self) -> bool {
        match (&self.measured, self.bound) {
            (Ok(measured), Bound::AtMost(most)) => *measured <= most,
            (Ok(measured), Bound::AtLeast(least)) => *measured >= least,
            (Err(_), _) => false,
        }
    }
}

/// The verdicts in Markdown; nothing where there are none.
pub fn table(verdicts: &[Verdict]) -> String {
    let mut table = String::new();
    if !verdicts.is_empty() {
        table += "\n| target | wanted | measured | |\n| --- | ---: | ---: | --- |\n";
    }
    for verdict in verdicts {
        let Verdict { what, bound, measured, unit } = verdict;
        let wanted = match bound {
            Bound::AtMost(most) => format!("at most {}", short(*most)),
            Bound::AtLeast(least) => format!("at least {}", short(*least)),
        };
        let (found, verdict) = match measured {
            Ok(measured) => (short(*measured) + unit, if verdict.is_met() { "met" } else { "missed" }),
            Err(error) => (format!("{error:#}").replace(['\n', '|'], " "), "not measured"),
        };
        let _ = writeln!(table, "| {what} | {wanted}{unit} | {found} | {verdict} |");
    }
    table
}

/// With two places, where they are needed.
fn short(number: f64) -> String {
    format!("{number:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Measures what has a target. What was measured already is in `times`.
pub fn judge(yard: &Yard, times: &Times) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    let mut add =
        |what: &str, bound, unit, measured| verdicts.push(Verdict::new(what, bound, unit, measured));
    let ratio = |one: &str, other: &str| {
        times.ratio(one, other).with_context(|| format!("{one} and {other} are not both measured"))
    };
    for (level, most) in [(1, 1.2), (2, 1.25), (3, 1.3), (4, 1.3)] {
        let step = yard.step(level, &yard.disk, &[])?;
        let what = format!("step {level} against its bare program");
        add(&what, Bound::AtMost(most), " ×", ratio(&step.name, step.floor.as_deref().unwrap_or_default()));
    }
    let step = yard.step(4, &yard.disk, &[])?;
    for (name, least) in [(OCI[0], 2.8), (OCI[1], 5.0), (BWRAP, 1.0)] {
        add(&format!("{name} against step 4"), Bound::AtLeast(least), " ×", ratio(name, &step.name));
    }
    let [calls, processes] = traced(&step)?;
    let least = yard.floor(4, &yard.disk).and_then(|floor| traced(&floor)).map(|[least, _]| least);
    let what = format!("system calls of step 4, {calls}, against its bare program");
    add(&what, Bound::AtMost(1.6), " ×", least.map(|least| calls as f64 / least as f64));
    add("processes of step 4", Bound::AtMost(3.0), "", Ok(processes as f64));

    let memory = || Ok(Held::start(&step)?.private_memory()? as f64 / f64::from(1 << 20));
    add("private memory of step 4 while it waits", Bound::AtMost(0.25), " MiB", memory());
    for number in [3, 4] {
        let step = yard.step(number, &yard.disk, &[])?;
        let what = format!("end of step {number} beside 800 MiB of dirty pages");
        add(&what, Bound::AtMost(20.0), " ms", median(|| end_beside_dirty_pages(&step, yard)));
    }
    add("step 4 with 100 layers", Bound::AtMost(15.0), " ms", many_layers(yard));
    let (first, later) = match bridge(yard) {
        Ok((first, later)) => (Ok(first), Ok(later)),
        Err(error) => {
            let error = format!("{error:#}");
            (Err(anyhow::anyhow!(error.clone())), Err(anyhow::anyhow!(error)))
        }
    };
    add("step 4 on a bridge, the first container", Bound::AtMost(60.0), " ms", first);
    add("step 4 on a bridge with another container", Bound::AtMost(25.0), " ms", later);
    Ok(verdicts)
}

fn median(mut one: impl FnMut() -> Result<f64>) -> Result<f64> {
    Ok(quartiles(&(0..5).map(|_| one()).collect::<Result<Vec<_>>>()?)[1])
}

/// How many system calls a start takes, and how many processes.
fn traced(contender: &Contender) -> Result<[usize; 2]> {
    let trace = tempfile::NamedTempFile::new()?;
    let start = (contender.start)(&super::TRUE);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o"]).arg(trace.path()).arg(start.get_program()).args(start.get_args());
    strace.envs(start.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let status = strace.stdin(Stdio::null()).stderr(Stdio::null()).status().context("starting strace")?;
    ensure!(status.success(), "{} below strace: {status}", contender.name);
    let trace = fs::read_to_string(trace.path())?;
    // Each line begins with the process. Then there is a call, the rest of one, a signal or an end.
    let lines: Vec<_> = trace.lines().filter_map(|line| line.split_once(' ')).collect();
    let is_call =
        |line: &str| line.trim_start().starts_with(|it: char| it.is_ascii_alphanumeric() || it == '_');
    let calls = lines.iter().filter(|(_, line)| is_call(line)).count();
    Ok([calls, lines.iter().map(|(process, _)| process).collect::<BTreeSet<_>>().len()])
}

/// Milliseconds from the end of a container's command to the end of its runtime. Meanwhile the kernel has yet
/// to write another file to the same disk.
fn end_beside_dirty_pages(contender: &Contender, yard: &Yard) -> Result<f64> {
    let held = Held::start(contender)?;
    let path = yard.disk.home.join("somebody-else");
    let mut file = File::create(&path)?;
    let chunk = vec![1; 8 << 20];
    for _ in 0..DIRTY / chunk.len() {
        file.write_all(&chunk)?;
    }
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let dirty = meminfo.lines().find_map(|line| line.strip_prefix("Dirty:")?.trim().strip_suffix(" kB"));
    let dirty: usize = dirty.context("no Dirty in meminfo")?.parse()?;
    let start = Instant::now();
    drop(held);
    let time = start.elapsed().as_secs_f64() * 1e3;
    // What is not written yet need not be.
    fs::remove_file(&path)?;
    ensure!(dirty * 1024 > DIRTY / 10 * 9, "the kernel has begun to write: only {dirty} KiB are dirty");
    Ok(time)
}

/// Milliseconds for a start with many layers below the root, all in the state folder.
fn many_layers(yard: &Yard) -> Result<f64> {
    let folder = yard.disk.home.join("layers-of-the-bench");
    let layers: Vec<_> = (0..LAYERS).map(|number| folder.join(number.to_string())).collect();
    for layer in &layers {
        fs::create_dir_all(layer)?;
        fs::write(layer.join("file"), "")?;
    }
    let options: Vec<_> =
        layers.iter().flat_map(|layer| ["--layer", layer.to_str().unwrap_or_default()]).collect();
    let contender = yard.step(4, &yard.disk, &options)?;
    contender.try_once()?;
    let times = measure([&contender], RUNS, REST)?;
    fs::remove_dir_all(folder)?;
    Ok(times.quartiles(&contender.name).context("measured")?[1] * 1e3)
}

/// Milliseconds for a start on a bridge that has to be made and removed, and with another container on it.
fn bridge(yard: &Yard) -> Result<(f64, f64)> {
    let contender = yard.step(4, &yard.disk, &["--network", "bridge"])?;
    in_own_network(|| {
        contender.try_once()?;
        let first = measure([&contender], RUNS, REST)?;
        let _other = Held::start(&contender)?;
        let later = measure([&contender], RUNS, REST)?;
        let median =
            |times: Times| anyhow::Ok(times.quartiles(&contender.name).context("measured")?[1] * 1e3);
        anyhow::Ok((median(first)?, median(later)?))
    })
}

/// Does something in a network namespace of the bench's own, which ends with it.
pub fn in_own_network<T: Send>(action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let action =
        || action().map_err(|error| Failure::new("the measurement in a network", format!("{error:#}")));
    asked(asked(Network::new())?.run(action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_can_be_missed() {
        let verdict = |bound, measured| Verdict::new("x", bound, " ms", measured);
        assert!(verdict(Bound::AtMost(1.2), Ok(1.2)).is_met());
        assert!(!verdict(Bound::AtMost(1.2), Ok(1.21)).is_met());
        assert!(verdict(Bound::AtLeast(5.0), Ok(5.0)).is_met());
        assert!(!verdict(Bound::AtLeast(5.0), Ok(4.9)).is_met());
        let missing = verdict(Bound::AtLeast(5.0), Err(anyhow::anyhow!("no runc")));
        assert!(!missing.is_met());
        let table = table(&[missing, verdict(Bound::AtMost(20.0), Ok(9.0))]);
        assert!(table.contains("| x | at least 5 ms | no runc | not measured |"), "{table}");
        assert!(table.contains("| x | at most 20 ms | 9 ms | met |"), "{table}");
    }
}
