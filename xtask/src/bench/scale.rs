//! `cargo xtask bench scale`: what a start costs while others live, and what each of these costs.
//!
//! Kernel objects: as many containers, and a network namespace of the bench's own for those on a bridge. One
//! pipe is the input of all: they end when its other end is closed, and so with the bench, however that ends.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{PipeReader, Read, pipe};
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use checks::kernel::{Mount, eventually, hierarchies, listing};
use checks::network::Network;

use super::measure::{Contender, measure};
use super::seen::asked;
use super::targets::{Bound, REST, Verdict, in_own_network};
use super::yard::Yard;
use super::{Common, machine, plot};

/// Measure the next start with 1, 10, 100, 500 and 1,000 containers alive.
#[derive(clap::Args)]
pub struct Args {
    /// No more than so many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1000))]
    most: u32,
    /// How often the next one is started
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Fail unless the target is met
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    common: Common,
}

const COUNTS: [u32; 5] = [1, 10, 100, 500, 1000];

/// A command that says that it runs, and lasts until its input ends.
const LASTS: [&str; 3] = ["/bin/sh", "-c", "echo && exec cat"];

/// What was measured beside so many containers, in seconds.
struct Row {
    count: u32,
    floor: f64,
    next: f64,
    /// Of each container, in bytes.
    memory: f64,
}

/// What came of one kind of network.
struct Crowd {
    rows: Vec<Row>,
    stop: Duration,
    left: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let yard = Yard::new(args.common.binaries.as_deref())?;
    let counts: Vec<_> = COUNTS.into_iter().filter(|&count| count <= args.most).collect();
    let mut text = format!("{}\n{}\n", machine()?, args.common.build());
    let (mut series, mut verdicts) = (Vec::new(), Vec::new());
    for network in ["none", "bridge"] {
        let contender = yard.step(4, &yard.disk, &["--network", network])?;
        let floor = yard.floor(4, &yard.disk)?;
        let crowd = in_own_network(|| crowd(&yard, &contender, &floor, &counts, args.runs))?;
        text += &table(network, &crowd);
        let points = |of: fn(&Row) -> f64| crowd.rows.iter().map(|row| (row.count, of(row))).collect();
        if network == "none" {
            series.push((floor.name, points(|row| row.floor)));
        }
        series.push((format!("step 4, network {network}"), points(|row| row.next)));
        let last = crowd.rows.last().context("no count is so small")?;
        if args.check && network == "none" {
            let what =
                format!("next start with {} alive; bare program: {:.2} ms", last.count, last.floor * 1e3);
            let most = Bound::AtMost(1.3 * last.floor * 1e3 + 2.0);
            verdicts.push(Verdict::new(what, most, " ms", Ok(last.next * 1e3)));
        }
        let what = format!("left when {} on network {network} have ended", last.count);
        if args.check {
            verdicts.push(Verdict::new(what, Bound::AtMost(0.0), "", Ok(crowd.left.len() as f64)));
        }
    }
    let title = "The next start beside so many containers, in milliseconds";
    args.common.publish("scale", title, &text, &verdicts, plot::lines(title, &machine()?, &series))
}

/// Fills the machine step by step, and measures the next start at each.
fn crowd(yard: &Yard, contender: &Contender, floor: &Contender, counts: &[u32], runs: u32) -> Result<Crowd> {
    contender.try_once()?;
    let before = (traces(yard)?, available_memory()?);
    let (input, end) = pipe()?;
    let (mut alive, mut rows) = (Vec::new(), Vec::new());
    for &count in counts {
        while alive.len() < count as usize {
            alive.push(start(contender, &input)?);
        }
        let memory = before.1.saturating_sub(available_memory()?) as f64 / f64::from(count);
        let times = measure([contender, floor], runs, REST)?;
        let median = |it: &Contender| times.quartiles(&it.name).map(|[_, median, _]| median);
        let (floor, next) = median(floor).zip(median(contender)).context("measured")?;
        rows.push(Row { count, floor, next, memory });
    }
    let stop = Instant::now();
    drop((input, end));
    for mut child in alive {
        let status = child.wait()?;
        ensure!(status.success(), "{}: {status}", contender.name);
    }
    let stop = stop.elapsed();
    // Links go a little later than their namespaces.
    let mut left = Vec::new();
    eventually(super::PATIENCE, || {
        left = traces(yard).map_or(Vec::new(), |after| after.difference(&before.0).cloned().collect());
        left.is_empty()
    });
    Ok(Crowd { rows, stop, left })
}

fn start(contender: &Contender, input: &PipeReader) -> Result<Child> {
    let mut command = contender.command(&LASTS);
    command.stdin(Stdio::from(input.try_clone()?)).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    let mut word = [0];
    let runs = child.stdout.take().context("it is a pipe")?.read_exact(&mut word);
    runs.with_context(|| format!("{}: it does not run", contender.name))?;
    Ok(child)
}

/// What containers could leave behind, by name.
fn traces(yard: &Yard) -> Result<BTreeSet<String>> {
    let mut found: BTreeSet<_> =
        listing(&yard.disk.home, 3).iter().map(|it| it.display().to_string()).collect();
    for hierarchy in asked(hierarchies())? {
        let groups = listing(&hierarchy.point, 1).into_iter().map(|it| it.display().to_string());
        // Those of checks that run at the same time have another name.
        found.extend(groups.filter(|name| name.contains("congo") && !name.contains("congo-checks")));
    }
    let network = asked(Network::of_host())?;
    found.extend(asked(network.links())?.into_iter().map(|link| format!("link {}", link.name)));
    found.extend(asked(Mount::of_host())?.into_iter().map(|mount| format!("mount {}", mount.point)));
    Ok(found)
}

/// In bytes.
fn available_memory() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.context("no MemAvailable in meminfo")? * 1024)
}

fn table(network: &str, crowd: &Crowd) -> String {
    let mut table = format!(
        "\n| alive, network {network} | next start, ms | bare program, ms | × | memory of each, KiB |\n\
         | ---: | ---: | ---: | ---: | ---: |\n"
    );
    for Row { count, floor, next, memory } in &crowd.rows {
        let (ratio, floor, next) = (next / floor, floor * 1e3, next * 1e3);
        // The memory of a few is less than what else comes and goes on a machine.
        let memory = if *count < 100 { String::new() } else { format!("{:.0}", memory / 1024.0) };
        let _ = writeln!(table, "| {count} | {next:.1} | {floor:.1} | {ratio:.2} | {memory} |");
    }
    let left = match crowd.left.as_slice() {
        [] => "Nothing is left of them.".to_owned(),
        left => format!("Left of them: {}.", left.join(", ")),
    };
    let _ = writeln!(table, "\nAll of them ended within {:.1} s. {left}", crowd.stop.as_secs_f64());
    table
}
