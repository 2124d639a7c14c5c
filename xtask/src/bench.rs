//! `cargo xtask bench`: what it costs to start a container, beside other ways to start a process.
//!
//! Everybody starts `/bin/true` on the same root filesystem, with namespaces and limits as near to step 1's
//! as each can. All take turns, in a new random order each round, so that what slows the machine for a while
//! slows all of them. Times differ from machine to machine: quote ratios.
//!
//! Kernel objects: for each start namespaces and a cgroup; nothing is left of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use tempfile::TempDir;

use crate::workspace::{self, Build, Step};

/// Measure what starting a container costs, beside a bare C program, unshare, bwrap, crun and runc.
#[derive(clap::Args)]
pub struct Args {
    /// The steps to measure [default: all]
    steps: Vec<String>,
    /// How often each is started
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Rest so many milliseconds before each start, as a machine does that starts containers now and then
    #[arg(long, value_name = "MS", default_value_t = 0)]
    rest: u64,
    /// Fail unless step 1 takes at most 1.25 times as long as the bare program, and crun at least 3 times as
    /// long as step 1
    #[arg(long)]
    check: bool,
}

const PLAIN: &str = "fork and exec";
const FLOOR: &str = "bare C program";
const CRUN: &str = "crun run";

/// Rounds that are not counted: the first start of each reads its program from the disk.
const WARM_UP: u32 = 3;

/// Measures and prints a Markdown table.
///
/// # Errors
/// When not root, when the steps cannot be built or do not run, and with `--check` when there is nothing to
/// compare with.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "steps 0 to 3 need root: sudo -E env \"PATH=$PATH\" cargo xtask bench"
    );
    let steps = match args.steps.as_slice() {
        [] => workspace::steps()?,
        named => named.iter().map(|step| workspace::step(step)).collect::<Result<_>>()?,
    };
    hide_unified_hierarchy().context("making a mount namespace of the bench's own")?;
    let yard = Yard::new(&steps)?;
    let (mut contenders, mut absent) = yard.contenders(&steps)?;
    contenders.retain(|contender| match contender.try_once() {
        Ok(()) => true,
        Err(error) => {
            absent.push(format!("{}: {error:#}", contender.name));
            false
        }
    });
    if let Some(failed) = absent.iter().find(|absent| absent.starts_with("step")) {
        bail!("{failed}");
    }

    let times = measure(&contenders, args)?;
    let memory = contenders.iter().map(Contender::peak_memory).collect::<Result<Vec<_>>>()?;
    print!("{}", table(&contenders, &times, &memory, &steps));
    println!("\n{} starts each, {} ms of rest before each.", args.runs, args.rest);
    for absent in absent {
        println!("Not measured: {absent}");
    }
    if args.check { check(&times) } else { Ok(ExitCode::SUCCESS) }
}

/// Lets everybody see a host of pure cgroup v1 where it is a hybrid one: crun refuses those that have
/// controllers in v2, too. Only in a mount namespace of our own; the host keeps its mounts.
fn hide_unified_hierarchy() -> Result<()> {
    let hierarchies = checks::kernel::hierarchies().map_err(|failure| anyhow!(failure.found))?;
    if hierarchies.iter().all(|hierarchy| hierarchy.v2) {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.v2) {
        umount2(&hierarchy.point, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// The times of each contender, in seconds and sorted.
type Times = BTreeMap<String, Vec<f64>>;

fn measure(contenders: &[Contender], args: &Args) -> Result<Times> {
    let mut times = Times::new();
    let mut order: Vec<_> = contenders.iter().collect();
    let mut random = SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64 | 1;
    for round in 0..args.runs + WARM_UP {
        for last in (1..order.len()).rev() {
            // xorshift: good enough for an order, and not worth a dependency.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(last, (random % (last as u64 + 1)) as usize);
        }
        for contender in &order {
            sleep(Duration::from_millis(args.rest));
            let mut command = contender.command(&TRUE);
            let start = Instant::now();
            let status = command.status().with_context(|| format!("starting {}", contender.name))?;
            let time = start.elapsed().as_secs_f64();
            ensure!(status.success(), "{}: {status}", contender.name);
            if round >= WARM_UP {
                times.entry(contender.name.clone()).or_default().push(time);
            }
        }
    }
    times.values_mut().for_each(|times| times.sort_by(f64::total_cmp));
    Ok(times)
}

fn table(contenders: &[Contender], times: &Times, memory: &[u64], steps: &[Step]) -> String {
    let median = |name: &str| times.get(name).map(|times| quantile(times, 0.5));
    let step1 = steps.iter().find(|step| step.number == 1).and_then(|step| median(&step.name));
    let plain = median(PLAIN);
    let ratio = |time: f64, base: Option<f64>| base.map_or("".into(), |base| format!("{:.2}", time / base));
    let mut table = "| `/bin/true` by | median, ms | quartiles | × fork and exec | × step 1 | peak memory, \
                     MB | without |\n\
                     | --- | ---: | ---: | ---: | ---: | ---: | --- |\n"
        .to_owned();
    for (Contender { name, lacks, .. }, memory) in contenders.iter().zip(memory) {
        let times = &times[name];
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|part| quantile(times, part));
        let _ = writeln!(
            table,
            "| {name} | {:.2} | {:.2}–{:.2} | {} | {} | {:.1} | {lacks} |",
            middle * 1e3,
            low * 1e3,
            high * 1e3,
            ratio(middle, plain),
            ratio(middle, step1),
            *memory as f64 / 1e6,
        );
    }
    table
}

/// Between the two nearest values, where the place lies between them.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// What the project promises of step 1.
fn check(times: &Times) -> Result<ExitCode> {
    let median = |name: &str| {
        let times = times.iter().find(|(found, _)| found.starts_with(name)).map(|(_, times)| times);
        times
            .map(|times| quantile(times, 0.5))
            .with_context(|| format!("--check needs {name}, which is not measured"))
    };
    let (step1, floor, crun) = (median("step1-")?, median(FLOOR)?, median(CRUN)?);
    let promises = [
        (
            step1 / floor <= 1.25,
            format!("step 1 takes {:.2} × the bare program: at most 1.25", step1 / floor),
        ),
        (crun / step1 >= 3.0, format!("crun takes {:.2} × step 1: at least 3", crun / step1)),
    ];
    for (kept, promise) in &promises {
        println!("{} {promise}", if *kept { "✓" } else { "✗" });
    }
    Ok(if promises.iter().all(|(kept, _)| *kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What crun and runc call the container.
const CONTAINER: &str = "congo.bench";

/// The command whose start is measured, and one that lasts long enough to look at its runtime.
const TRUE: [&str; 1] = ["/bin/true"];
const SLEEP: [&str; 2] = ["/bin/sleep", "0.3"];

/// From the command to run in the container to the one that does so.
type Start = Box<dyn Fn(&[&str]) -> Command>;

/// One way to start a process.
struct Contender {
    name: String,
    /// What it does not do, of what step 1 does.
    lacks: &'static str,
    start: Start,
}

impl Contender {
    fn command(&self, command: &[&str]) -> Command {
        let mut command = (self.start)(command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts it once, to learn why it would fail.
    fn try_once(&self) -> Result<()> {
        let output = self.command(&TRUE).stderr(Stdio::piped()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}", output.status, error.trim().replace('\n', ": "));
        Ok(())
    }

    /// The most memory that the starting process itself had in use, in bytes, until shortly before its end.
    ///
    /// From /proc, not from wait4(2): the latter counts what this process had in use when it forked.
    fn peak_memory(&self) -> Result<u64> {
        let mut child = self.command(&SLEEP).spawn()?;
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        while child.try_wait()?.is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(peak);
            sleep(Duration::from_millis(5));
        }
        Ok(peak * 1024)
    }
}

/// Where all of it happens: one temporary folder with Congo's state, the bundles and the bare program.
struct Yard {
    folder: TempDir,
    binaries: PathBuf,
    /// The root filesystem that Congo makes by itself, for everybody.
    root: PathBuf,
}

impl Yard {
    fn new(steps: &[Step]) -> Result<Self> {
        let all = workspace::steps()?;
        let first = &all.first().context("there is no step")?.name;
        let mut packages: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
        if !packages.contains(&first.as_str()) {
            packages.push(first);
        }
        let binaries = workspace::build(&packages, Build::StaticRelease)?;
        let folder = tempfile::Builder::new().prefix("congo-bench-").tempdir()?;

        // What a runtime explains is what it does: it says where its root is, wherever a later Congo may put
        // it.
        let output = Command::new(binaries.join(first))
            .args(["--explain", "true"])
            .env("CONGO_HOME", folder.path())
            .stdin(Stdio::null())
            .output()?;
        let explained = String::from_utf8_lossy(&output.stderr);
        let root = explained.split("chroot(\"").nth(1).and_then(|rest| rest.split('"').next());
        let root = root.with_context(|| format!("{first} does not run:\n{explained}"))?.into();
        Ok(Yard { folder, binaries, root })
    }

    /// Everybody who is here, and the names of those who are not.
    fn contenders(&self, steps: &[Step]) -> Result<(Vec<Contender>, Vec<String>)> {
        let (mut contenders, mut absent) = (Vec::new(), Vec::new());
        let mut add = |name: &str, lacks, start: Start| {
            contenders.push(Contender { name: name.to_owned(), lacks, start });
        };
        let root = self.root.clone();
        let start = move |command: &[&str]| with_arguments(root.join(&command[0][1..]), &[], &command[1..]);
        add(PLAIN, "any container", Box::new(start));

        match self.floor() {
            Ok((floor, arguments)) => {
                let start = move |command: &[&str]| with_arguments(&floor, &arguments, command);
                add(FLOOR, "options, signals, errors", Box::new(start));
            }
            Err(error) => absent.push(format!("{FLOOR}: {error:#}")),
        }
        for step in steps {
            let (binary, state) = (self.binaries.join(&step.name), self.folder.path().to_owned());
            let start = move |command: &[&str]| {
                let mut command = with_arguments(&binary, &[], command);
                command.env("CONGO_HOME", &state);
                command
            };
            add(&step.name, "", Box::new(start));
        }

        let root = self.root.display();
        for (name, lacks, arguments) in [
            (
                "unshare",
                "limits, /dev, host name",
                format!("--fork --pid --mount --uts --mount-proc --root {root}"),
            ),
            (
                "bwrap",
                "limits",
                format!(
                    "--unshare-pid --unshare-uts --hostname congo --bind {root} / --proc /proc --dev /dev"
                ),
            ),
        ] {
            let arguments: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
            let start = |path| move |command: &[&str]| with_arguments(&path, &arguments, command);
            match checks::installed::program(name) {
                Ok(path) => add(name, lacks, Box::new(start(path))),
                Err(error) => absent.push(error),
            }
        }
        for name in ["crun", "runc"] {
            match checks::installed::program(name) {
                Ok(path) => {
                    let bundles = self.bundles(name)?;
                    let state = self.folder.path().join(name);
                    let start = move |command: &[&str]| {
                        let mut run = Command::new(&path);
                        run.arg("--root").arg(&state).args(["run", "--bundle"]);
                        run.arg(bundles.join(command[0].trim_start_matches("/bin/"))).arg(CONTAINER);
                        run
                    };
                    add(&format!("{name} run"), "", Box::new(start));
                }
                Err(error) => absent.push(error),
            }
        }
        Ok((contenders, absent))
    }

    /// The bare program, and its arguments up to the command.
    fn floor(&self) -> Result<(PathBuf, Vec<String>)> {
        let floor = self.folder.path().join("floor");
        let source = workspace::root().join("xtask/bench/floor.c");
        let output = Command::new("cc")
            .args(["-O2", "-static", "-o"])
            .args([&floor, &source])
            .output()
            .context("a C compiler, cc, is needed")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));

        let hierarchies = checks::kernel::hierarchies().map_err(|failure| anyhow!(failure.found))?;
        let find = |controller: &str| {
            let has = |known: &String| known == controller;
            let found = hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(has));
            found.with_context(|| format!("no cgroup controller {controller}"))
        };
        let used = [find("memory")?, find("cpu")?, find("pids")?];
        let point = |place: &Path| place.display().to_string();
        let mut arguments = vec![point(&self.root)];
        if used.iter().all(|hierarchy| hierarchy.v2) {
            arguments.extend(["v2".into(), point(&used[0].point)]);
        } else {
            ensure!(used.iter().all(|hierarchy| !hierarchy.v2), "some controllers are in v1, some in v2");
            arguments.push("v1".into());
            arguments.extend(used.map(|hierarchy| point(&hierarchy.point)));
        }
        Ok((floor, arguments))
    }

    /// An OCI bundle for each command, with what step 1 does and no more. Returns the folder in which they
    /// lie.
    fn bundles(&self, runtime: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(format!("{runtime}-bundles"));
        for command in [&TRUE[..], &SLEEP[..]] {
            let config = json!({
                "ociVersion": "1.0.2",
                "process": {
                    "user": { "uid": 0, "gid": 0 },
                    "args": command,
                    "cwd": "/",
                    "env": [
                        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                    ],
                },
                "root": { "path": self.root },
                "hostname": "congo",
                "mounts": [
                    { "destination": "/proc", "type": "proc", "source": "proc",
                      "options": ["nosuid", "nodev", "noexec"] },
                    { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                      "options": ["nosuid", "mode=755", "size=65536k"] },
                ],
                "linux": {
                    "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "uts" }],
                    // Not `congo-…`: a step that starts meanwhile would take it for a dead runtime's, and end
                    // it.
                    "cgroupsPath": format!("/congo.bench.{runtime}"),
                    "resources": {
                        "memory": { "limit": 128 << 20 },
                        "cpu": { "quota": 50_000, "period": 100_000 },
                        "pids": { "limit": 64 },
                    },
                },
            });
            let bundle = folder.join(command[0].trim_start_matches("/bin/"));
            fs::create_dir_all(&bundle)?;
            fs::write(bundle.join("config.json"), config.to_string())?;
        }
        Ok(folder)
    }
}

impl Drop for Yard {
    /// A container that failed half-way is still known to its runtime, and its cgroup still there.
    fn drop(&mut self) {
        for runtime in ["crun", "runc"] {
            let state = self.folder.path().join(runtime);
            if state.join(CONTAINER).exists() {
                let _ = Command::new(runtime)
                    .arg("--root")
                    .arg(state)
                    .args(["delete", "--force", CONTAINER])
                    .status();
            }
        }
    }
}

fn with_arguments(program: impl AsRef<Path>, arguments: &[String], command: &[&str]) -> Command {
    let mut started = Command::new(program.as_ref());
    started.args(arguments).args(command);
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!(quantile(&[1.0], 0.25), 1.0);
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|part| quantile(&[1.0, 2.0, 4.0], part)), [1.0, 1.5, 2.0, 4.0]);
    }

    #[test]
    fn the_promises_can_be_broken() {
        let times = |floor: f64, step1: f64, crun: f64| {
            let names = [FLOOR, "step1-flexible", CRUN].map(str::to_owned);
            names.into_iter().zip([floor, step1, crun].map(|it| vec![it])).collect::<Times>()
        };
        assert_eq!(check(&times(4.0, 5.0, 15.0)).unwrap(), ExitCode::SUCCESS);
        assert_eq!(check(&times(4.0, 5.1, 16.0)).unwrap(), ExitCode::FAILURE);
        assert_eq!(check(&times(4.0, 5.0, 14.9)).unwrap(), ExitCode::FAILURE);
        assert!(check(&Times::new()).is_err());
    }
}
