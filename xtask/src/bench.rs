//! `cargo xtask bench`: what it costs to start a container, beside what the kernel itself takes, and beside
//! other runtimes.
//!
//! Everybody starts `/bin/true` on the same root filesystem. For each step there is a bare C program that
//! makes the same container, as a look at both from outside proves. bwrap, crun and runc get the isolation of
//! step 4, as far as they have it. Times differ from machine to machine: quote ratios.
//!
//! Kernel objects: for each start namespaces and a cgroup; nothing is left of them.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::workspace;
use measure::{Contender, Times};
use targets::Verdict;
use yard::{PLAIN, Yard};

mod measure;
mod plot;
mod scale;
mod seen;
mod targets;
mod unpack;
mod yard;

/// Measure what starting a container costs, beside bare C programs, bwrap, crun and runc.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    start: StartArgs,
}

#[derive(clap::Subcommand)]
enum What {
    /// How a start gets slower with the number of containers that live, and what each of them costs
    Scale(scale::Args),
    /// How fast an image's layer is unpacked, beside umoci
    Unpack(unpack::Args),
}

#[derive(clap::Args)]
struct StartArgs {
    /// How often each is started
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Rest so many milliseconds before each start, as a machine does that starts containers now and then
    #[arg(long, value_name = "MS", default_value_t = 0)]
    rest: u64,
    /// Measure the targets, too, and fail unless they are met
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    common: Common,
}

/// What all kinds of measurements take.
#[derive(clap::Args)]
struct Common {
    /// Measure the programs in this folder [default: those of the README's "Speed", which are built first]
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Draw a plot of it, in SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Put tables and plot into the book's page "What a start costs"
    #[arg(long)]
    write: bool,
}

/// The command whose start is measured, and one that lasts long enough to look at its container.
const TRUE: [&str; 1] = ["/bin/true"];
const SLEEP: [&str; 2] = ["/bin/sleep", "60"];

/// How long a container may take until it runs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures, and prints Markdown tables.
///
/// # Errors
/// When not root, or when the steps cannot be built or do not run. When a program is missing without which
/// nothing can be measured.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        Some(What::Scale(args)) => scale::run(args),
        Some(What::Unpack(args)) => unpack::run(args),
        None => start(&args.start),
    }
}

fn start(args: &StartArgs) -> Result<ExitCode> {
    let yard = Yard::new(args.common.binaries.as_deref())?;
    let (contenders, absent) = yard.contenders()?;
    let times = measure::measure(&contenders, args.runs, args.rest)?;
    let mut text = format!("{}\n{}\n\n{}", machine()?, args.common.build(), table(&contenders, &times)?);
    let _ = writeln!(text, "\n{} starts each, {} ms of rest before each.", args.runs, args.rest);
    for (number, absent) in absent.iter().enumerate() {
        text += if number == 0 { "\n| not measured |\n| --- |\n" } else { "" };
        let _ = writeln!(text, "| {} |", absent.replace(['\n', '|'], " "));
    }
    let verdicts = if args.check { targets::judge(&yard, &times)? } else { Vec::new() };
    let bars = contenders.iter().filter_map(|it| Some((it.name.as_str(), times.quartiles(&it.name)?)));
    let title = "A start of /bin/true, in milliseconds";
    args.common.publish("start", title, &text, &verdicts, plot::bars(title, &machine()?, bars))
}

impl Common {
    /// Which programs are measured.
    fn build(&self) -> String {
        match &self.binaries {
            Some(folder) => format!("Build: the programs in {}.", folder.display()),
            None => "Build: static, optimised as a whole.".to_owned(),
        }
    }

    /// Prints what was measured, and puts it where the options say. Fails if a target is missed.
    fn publish(
        &self,
        name: &str,
        title: &str,
        text: &str,
        verdicts: &[Verdict],
        plot: String,
    ) -> Result<ExitCode> {
        let text = format!("{text}{}", targets::table(verdicts));
        print!("{text}");
        if let Some(file) = &self.plot {
            fs::write(file, &plot).with_context(|| file.display().to_string())?;
        }
        if self.write {
            let book = workspace::root().join("docs/src");
            fs::write(book.join(format!("costs-{name}.svg")), &plot)?;
            let page = book.join("costs.md");
            let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
            let old = fs::read_to_string(&page)?;
            let parts = old.split_once(&begin).and_then(|(before, rest)| {
                let (_, after) = rest.split_once(&end)?;
                Some((before, after))
            });
            let (before, after) = parts.with_context(|| format!("{}: no {begin}", page.display()))?;
            let new = format!("{begin}\n![{title}](costs-{name}.svg)\n\n{text}\n{end}");
            fs::write(&page, format!("{before}{new}{after}"))?;
        }
        let met = verdicts.iter().all(Verdict::is_met);
        Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The machine, for whoever reads the figures elsewhere.
fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    // What comes after the number is the name that somebody gave this build of it.
    let kernel = kernel.split(['-', '+']).next().unwrap_or_default().trim();
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} × {}, Linux {kernel}.", model.unwrap_or("CPU")))
}

fn table(contenders: &[Contender], times: &Times) -> Result<String> {
    let step4 = contenders.iter().map(|it| &it.name).find(|name| name.starts_with("step4"));
    let step4 = step4.context("step 4 is not measured")?;
    let mut table = "| `/bin/true` by | median, ms | quartiles | × fork and exec | × its bare program | \
                     × step 4 | memory of the waiting runtime, KiB | without, of step 4's isolation |\n\
                     | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n"
        .to_owned();
    let shown = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
    for contender in contenders {
        let Contender { name, lacks, .. } = contender;
        let [low, middle, high] = times.quartiles(name).context("measured")?.map(|time| time * 1e3);
        let floor = contender.floor.as_ref().and_then(|floor| times.ratio(name, floor));
        let memory = match name == PLAIN {
            true => String::new(),
            false => (seen::Held::start(contender)?.private_memory()? / 1024).to_string(),
        };
        let (plain, step4) = (shown(times.ratio(name, PLAIN)), shown(times.ratio(name, step4)));
        let floor = shown(floor);
        let _ = writeln!(
            table,
            "| {name} | {middle:.2} | {low:.2}–{high:.2} | {plain} | {floor} | {step4} | {memory} | {lacks} |"
        );
    }
    Ok(table)
}
