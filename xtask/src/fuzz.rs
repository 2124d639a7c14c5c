//! `cargo xtask fuzz`: random input for all that reads files and option values of others.
//!
//! The targets lie in the folder `fuzz`, a workspace of its own. libFuzzer changes an input, and
//! keeps it when it reaches new code. Each target begins with the inputs of its corpus.
//!
//! The compiler needs no nightly features for this: its options for LLVM's counters are stable ones. The tool
//! passes them itself, so nobody has to install `cargo-fuzz`. There is no address sanitizer: `common` has
//! unsafe code for system calls only, and the sanitizer would cost half of the speed.
//!
//! Kernel objects: none; a target that reads files makes a tmpfs without a name. libFuzzer:
//! <https://llvm.org/docs/LibFuzzer.html>.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread::{self, available_parallelism};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use serde::Deserialize;

use crate::prove::{locked, next, shard};
use crate::workspace;

/// Feed random input to the readers of images, profiles, env files, passwd files and option values.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this target [default: all of them].
    target: Option<String>,

    /// For how many seconds each target runs.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,

    /// Only the part K of N about equal parts of the targets: `1/3`.
    #[arg(long, value_name = "K/N", value_parser = shard, default_value = "1/1", conflicts_with = "target")]
    shard: (usize, usize),

    /// How many targets run at once [default: as many as there are processors].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,

    /// Run the target once, with the input in this file.
    #[arg(long, value_name = "FILE", requires = "target")]
    again: Option<PathBuf>,
}

/// An input may take so many seconds. The slowest one of a corpus takes some milliseconds.
const TIMEOUT: u64 = 10;

/// A target may take so much memory, in MiB. The largest documents that a reader holds have 4 MiB.
const MEMORY: u64 = 512;

/// The longest input, in bytes. Most readers need far less to go wrong.
const LONGEST: u64 = 8192;

/// Counters at the edges of the code's blocks and the operands of comparisons: what `cargo fuzz` asks for.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                         -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                         -Cllvm-args=-sanitizer-coverage-pc-table \
                         -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=16";

/// How many of the last lines of a target are kept.
const KEPT: usize = 200;

/// How many bytes of an input are printed.
const SHOWN: usize = 500;

/// What came of a target.
#[derive(Debug, Default)]
struct Outcome {
    /// How many inputs were tried.
    inputs: u64,
    /// How many edges of the code they reached.
    coverage: u64,
    /// How many inputs reach all of that.
    corpus: u64,
    /// Its last lines.
    last: VecDeque<String>,
}

/// Runs the tool. The exit status is 1 when an input made a target crash, hang or take too much memory.
///
/// # Errors
/// When the caller is not root, there is no such target, or the targets cannot be built or started.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(geteuid().is_root(), "fuzz runs targets with a file system of their own: run it with sudo");
    let names = targets()?;
    let chosen = match &args.target {
        Some(named) if !names.contains(named) => {
            bail!("no target \"{named}\": there are {}", names.join(", "))
        }
        Some(named) => vec![named.clone()],
        None => part(names, args.shard),
    };
    let start = Instant::now();
    let programs = build(&chosen)?;
    println!("built {} targets in {} s", chosen.len(), start.elapsed().as_secs());
    if let Some(file) = &args.again {
        let file = fs::canonicalize(file).with_context(|| format!("reading {}", file.display()))?;
        let status = again(&programs.join(&chosen[0]), &chosen[0], &file)?;
        println!("{}: {}", chosen[0], if status.success() { "nothing is wrong" } else { "still wrong" });
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let jobs = args.jobs.unwrap_or(available_parallelism()?.get()).max(1);
    let (queue, failed) = (Mutex::new(chosen.iter().collect::<VecDeque<_>>()), Mutex::new(0));
    thread::scope(|scope| {
        for _ in 0..jobs.min(chosen.len()) {
            scope.spawn(|| {
                while let Some(name) = next(&queue) {
                    let (text, is_good) = fuzz(&programs.join(name), name, args.seconds)
                        .unwrap_or_else(|error| (format!("✗ {name}: {error:#}\n"), false));
                    print!("{text}");
                    *locked(&failed) += usize::from(!is_good);
                }
            });
        }
    });
    let failed = *locked(&failed);
    println!("{} targets, {failed} failed", chosen.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

/// The targets that `fuzz/Cargo.toml` names, in its order.
fn targets() -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Manifest {
        bin: Vec<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    let path = folder().join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let manifest: Manifest = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    Ok(manifest.bin.into_iter().map(|target| target.name).collect())
}

/// Where all that the tool makes lies. Not in the folder `fuzz`, of which other tools make copies.
fn made() -> PathBuf {
    workspace::root().join("target/fuzz")
}

fn part(names: Vec<String>, (part, parts): (usize, usize)) -> Vec<String> {
    let range = names.len() * (part - 1) / parts..names.len() * part / parts;
    names.into_iter().skip(range.start).take(range.len()).collect()
}

/// Builds the targets, and returns the folder in which they lie.
fn build(names: &[String]) -> Result<PathBuf> {
    // With a tuple, cargo builds no build script and no macro with these flags: those lack libFuzzer's part.
    let tuple = workspace::host_tuple()?;
    let mut cargo = workspace::cargo();
    cargo.current_dir(folder()).args(["build", "--release", "--quiet", "--target", &tuple]);
    cargo.arg("--target-dir").arg(made());
    for name in names {
        cargo.args(["--bin", name]);
    }
    let status = cargo
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", RUSTFLAGS)
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "building the targets failed, see above");
    Ok(made().join(tuple).join("release"))
}

/// Runs a target for some seconds. Returns what to print of it, and whether nothing was found.
fn fuzz(program: &Path, name: &str, seconds: u64) -> Result<(String, bool)> {
    // libFuzzer adds what it finds to the corpus, so it gets a copy.
    let work = tempfile::tempdir_in(made()).context("making a folder to work in")?;
    let copy = work.path().join("corpus");
    fs::create_dir(&copy).context("making a folder to work in")?;
    for seed in seeds(name)? {
        let to = copy.join(seed.file_name().context("a seed has a name")?);
        fs::copy(&seed, to).with_context(|| format!("copying {}", seed.display()))?;
    }
    let start = Instant::now();
    let mut target = Command::new(program);
    // The paths are relative, as a target may have another root than the working directory.
    target.current_dir(work.path()).arg("corpus");
    target.args([format!("-max_total_time={seconds}"), format!("-max_len={LONGEST}")]);
    target.args(limits()).args(["-print_final_stats=1", "-reload=0"]);
    let (status, outcome) = watch(&mut target).with_context(|| format!("running the target {name}"))?;
    let mark = if status.success() { '✓' } else { '✗' };
    let mut text = format!(
        "{mark} {name}: {} inputs in {} s, {} edges of the code, a corpus of {}\n",
        outcome.inputs,
        start.elapsed().as_secs(),
        outcome.coverage,
        outcome.corpus
    );
    if !status.success() {
        text += &told(name, status, work.path(), &outcome)?;
    }
    Ok((text, status.success()))
}

/// What every input is held to, and how the file of one is called that breaks it.
fn limits() -> [String; 3] {
    let time = format!("-timeout={TIMEOUT}");
    [time, format!("-rss_limit_mb={MEMORY}"), "-artifact_prefix=./found-".into()]
}

/// The files of a target's corpus.
fn seeds(name: &str) -> Result<Vec<PathBuf>> {
    let path = folder().join("corpus").join(name);
    let read = || path.read_dir()?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let seeds = read().with_context(|| format!("reading the corpus {}", path.display()))?;
    ensure!(!seeds.is_empty(), "the corpus {} is empty", path.display());
    Ok(seeds)
}

/// Runs it to its end. It may print without an end, so only the last lines are kept.
fn watch(target: &mut Command) -> Result<(ExitStatus, Outcome)> {
    let mut child = target.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("its stderr is a pipe")?);
    let (mut outcome, mut bytes) = (Outcome::default(), Vec::new());
    while lines.read_until(b'\n', &mut bytes)? > 0 {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        bytes.clear();
        outcome.note(&line);
        if outcome.last.len() == KEPT {
            outcome.last.pop_front();
        }
        outcome.last.push_back(line);
    }
    Ok((child.wait()?, outcome))
}

impl Outcome {
    /// Reads libFuzzer's lines: `#128 NEW cov: 210 ft: 300 corp: 12/1Kb` and, at the end,
    /// `stat::number_of_executed_units: 4096`.
    fn note(&mut self, line: &str) {
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.inputs = count.trim().parse().unwrap_or_default();
        } else if let Some((count, words)) = line.strip_prefix('#').and_then(|rest| rest.split_once('\t')) {
            let number = |key: &str| {
                let mut words = words.split_whitespace().skip_while(|word| *word != key).skip(1);
                words.next().and_then(|word| word.split('/').next()?.parse::<u64>().ok())
            };
            self.inputs = count.parse().unwrap_or(self.inputs);
            self.coverage = number("cov:").unwrap_or(self.coverage);
            self.corpus = number("corp:").unwrap_or(self.corpus);
        }
    }

    /// What says what is wrong: the panic and its message, and libFuzzer's own words.
    fn complaint(&self) -> Vec<&str> {
        let mut lines = self.last.iter().map(String::as_str);
        let mut complaint = Vec::new();
        while let Some(line) = lines.next() {
            if line.contains("panicked at") {
                complaint.push(line);
                complaint.extend(lines.by_ref().take_while(|line| !line.starts_with("note:")).take(5));
            } else if line.contains("ERROR: libFuzzer:") {
                complaint.push(line);
            }
        }
        complaint
    }
}

/// What went wrong, the input, and how to run it again, in lines. The input is kept.
fn told(name: &str, status: ExitStatus, work: &Path, outcome: &Outcome) -> Result<String> {
    let mut text = String::new();
    let complaint = outcome.complaint();
    for line in &complaint {
        writeln!(text, "    {line}")?;
    }
    let entries = work.read_dir().context("reading the folder of the target")?;
    let found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"found-")))
        .collect();
    if found.is_empty() || complaint.is_empty() {
        writeln!(text, "    the target ended with {status}, and said:")?;
        for line in outcome.last.iter().rev().take(20).rev() {
            writeln!(text, "    {line}")?;
        }
    }
    let kept = made().join("found").join(name);
    fs::create_dir_all(&kept).with_context(|| format!("making {}", kept.display()))?;
    for path in found {
        let to = kept.join(path.file_name().context("a file has a name")?);
        let input = fs::read(&path).context("reading the input")?;
        fs::write(&to, &input).with_context(|| format!("writing {}", to.display()))?;
        writeln!(text, "    input: {}", shown(&input))?;
        let shown = to.strip_prefix(workspace::root()).unwrap_or(&to);
        writeln!(text, "    again: cargo xtask fuzz {name} --again {}", shown.display())?;
    }
    Ok(text)
}

/// An input as Rust writes it. Of an archive the beginning will do: the file has all of it.
fn shown(input: &[u8]) -> String {
    let begin = &input[..input.len().min(SHOWN)];
    let rest = if input.len() > SHOWN { format!("… ({} bytes)", input.len()) } else { String::new() };
    format!("b\"{}\"{rest}", begin.escape_ascii())
}

/// Runs a target once, with one input, and shows all that it says.
fn again(program: &Path, name: &str, file: &Path) -> Result<ExitStatus> {
    let work = tempfile::tempdir_in(made()).context("making a folder to work in")?;
    fs::copy(file, work.path().join("input")).with_context(|| format!("reading {}", file.display()))?;
    let mut target = Command::new(program);
    target.current_dir(work.path()).arg("input").args(limits()).stdin(Stdio::null());
    target.status().with_context(|| format!("running the target {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_has_a_corpus_and_each_corpus_a_target() {
        let mut names = targets().unwrap();
        names.sort();
        let corpora = folder().join("corpus").read_dir().unwrap();
        let mut corpora: Vec<_> =
            corpora.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        corpora.sort();
        assert_eq!(names, corpora);
        for name in names {
            for seed in seeds(&name).unwrap() {
                let length = seed.metadata().unwrap().len();
                assert!(length <= 4096.min(LONGEST), "{}: {length} bytes", seed.display());
            }
        }
    }

    #[test]
    fn the_parts_are_all_targets() {
        let names = targets().unwrap();
        let parts: Vec<_> = (1..=4).flat_map(|number| part(names.clone(), (number, 4))).collect();
        assert_eq!(parts, names);
    }

    #[test]
    fn an_input_is_shown_as_rust_writes_it() {
        assert_eq!(shown(b"a\0\"\xff\n"), r#"b"a\x00\"\xff\n""#);
        assert!(shown(&[b'a'; 501]).ends_with("a\"… (501 bytes)"));
    }

    #[test]
    fn what_libfuzzer_prints_is_read() {
        let mut outcome = Outcome::default();
        for line in [
            "#2\tINITED cov: 210 ft: 300 corp: 12/1Kb exec/s: 0 rss: 40Mb",
            "#4096\tNEW    cov: 215 ft: 301 corp: 13/1Kb lim: 64 exec/s: 0 L: 3/9 MS: 1 ChangeByte-",
            "the target itself says #1",
            "stat::number_of_executed_units: 5000",
        ] {
            outcome.note(line);
        }
        assert_eq!((outcome.inputs, outcome.coverage, outcome.corpus), (5000, 215, 13));
        let said = [
            "INFO: x",
            "thread '<unnamed>' panicked at a.rs:1:2:",
            "oh",
            "note: run",
            "==1== ERROR: libFuzzer: deadly signal",
        ];
        outcome.last = said.map(str::to_owned).into();
        assert_eq!(outcome.complaint(), [said[1], said[2], said[4]]);
    }
}
