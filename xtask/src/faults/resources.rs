//! Whole runs that lack something: disk, inodes, processes, descriptors, streams, or a reader.
//!
//! Each case starts a command line under one condition. It survives by the rules of the other faults. The run
//! may fail with an error that names the errno. Otherwise its command has begun with all of its protection. A
//! condition that takes nothing away must simply work. Then it ends, and the next run must be as ever.
//!
//! Kernel objects: filesystems that are mounted over the state folder, and a cgroup for processes, all on the
//! host of the checks' own. Order: the host is looked at after the mount. Man pages: mount(2), getrlimit(2),
//! tmpfs(5), pipe(7).

mod ground;

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use checks::host;
use checks::kernel::Process;
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::Resource;
use nix::unistd::Pid;

use self::ground::{Limited, Mounted, pipe};
use super::lines::Line;
use super::list::List;
use super::place::{Place, steady};
use super::run::{self, Fault, LIMIT, Outcome, Plan};
use super::trace::Condition;
use super::workers::say;
use super::{Count, GENEROUS, Trial};

/// A command that needs no process and no descriptor of its own: these are what the container may lack.
const SIMPLE: &[&str] = &["sh", "-c", "echo on; exit 3"];

/// A command that writes more than any pipe or terminal holds.
const WRITING: &[&str] =
    &["sh", "-c", "n=0; while echo on && [ $n -lt 50000 ]; do n=$((n + 1)); done; exit 3"];

/// Where cases of one kind are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// As the other faults are.
    Plain,
    /// The same, with a simple command.
    Simple,
    /// The same, with a command that writes much.
    Writing,
    /// In a cgroup that limits processes, with a simple command.
    Cgroup,
    /// With the state folder on a filesystem of this kind.
    Home(&'static str),
}

const GROUNDS: [Ground; 7] = [
    Ground::Home("tmpfs"),
    Ground::Home("overlay"),
    Ground::Home("ext4"),
    Ground::Plain,
    Ground::Simple,
    Ground::Cgroup,
    Ground::Writing,
];

/// What a run is given, or lacks.
#[derive(Debug, Clone)]
enum Change {
    /// Nothing more than the ground.
    Nothing,
    /// The state folder's tmpfs has so many bytes left. It may be empty before.
    Bytes { left: u64, empty: bool },
    /// It has so many inodes left.
    Inodes { left: u64, empty: bool },
    /// It is read-only.
    ReadOnly { empty: bool },
    /// The cgroup may have so many processes.
    Processes(u64),
    /// What the runtime inherits.
    Inherited(Condition),
    /// Its stdout is a pipe.
    Pipe(Reader),
}

impl Change {
    /// Whether the state folder is emptied before.
    fn empties(&self) -> bool {
        use Change::{Bytes, Inodes, ReadOnly};
        matches!(self, Bytes { empty: true, .. } | Inodes { empty: true, .. } | ReadOnly { empty: true })
    }
}

/// The reader of the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// The reader is gone before the start.
    Gone,
    /// The pipe is full, and the reader goes after a while.
    Goes,
    /// The pipe is full, and the container is killed after a while.
    Stays,
}

#[derive(Debug)]
struct Case {
    name: String,
    change: Change,
    /// The errors to which it may lead. If there is none, it must work.
    errnos: &'static [Errno],
}

fn cases(ground: Ground, step: u8, line: &Line) -> Vec<Case> {
    let case = |name: String, change, errnos| Case { name, change, errnos };
    let inherited = |condition| Change::Inherited(condition);
    let limit = |resource, most| inherited(Condition { limit: Some((resource, most)), ..Default::default() });
    match ground {
        Ground::Home("tmpfs") => {
            let mut cases = vec![case("state folder on tmpfs".into(), Change::Nothing, &[])];
            for (empty, how, bytes, inodes) in [
                (false, "", &[0, 4, 8, 16, 64, 256, 1024][..], &[0, 1, 2, 3, 4, 6, 8, 16, 32][..]),
                (true, "empty ", &[4, 64, 1024, 16384, 43008], &[1, 2, 4, 8, 64, 300]),
            ] {
                let disk = |&left: &u64| {
                    let name = format!("full disk: {left} KiB for the {how}state folder");
                    case(name, Change::Bytes { left: left * 1024, empty }, &[Errno::ENOSPC])
                };
                cases.extend(bytes.iter().map(disk));
                let few = |&left| {
                    let name = format!("no inodes: {left} for the {how}state folder");
                    case(name, Change::Inodes { left, empty }, &[Errno::ENOSPC])
                };
                cases.extend(inodes.iter().map(few));
                let name = format!("read-only: the {how}state folder");
                cases.push(case(name, Change::ReadOnly { empty }, &[Errno::EROFS]));
            }
            cases
        }
        // An overlay cannot be the upper layer of another one. The runtime has to say so. On a terminal its
        // words are the output, and differ each time.
        Ground::Home(kind @ "overlay") if step >= 3 => match line.terminal {
            true => vec![],
            false => vec![case(format!("state folder on {kind}"), Change::Nothing, &[Errno::EINVAL])],
        },
        Ground::Home(kind) => vec![case(format!("state folder on {kind}"), Change::Nothing, &[])],
        Ground::Plain => {
            let ignoring = |name: &str, signal| {
                let condition = Condition { ignored: Some(signal), ..Default::default() };
                case(format!("signal: {name} ignored"), inherited(condition), &[])
            };
            let mut cases = vec![ignoring("SIGCHLD", libc::SIGCHLD), ignoring("SIGPIPE", libc::SIGPIPE)];
            for (name, closed) in
                [("stdin", &[0][..]), ("stdout", &[1]), ("stderr", &[2]), ("all streams", &[0, 1, 2])]
            {
                let condition = Condition { closed, ..Default::default() };
                cases.push(case(format!("closed: {name}"), inherited(condition), &[]));
            }
            cases
        }
        Ground::Simple => {
            let few = |most| {
                let name = format!("descriptors: {most}");
                case(name, limit(Resource::RLIMIT_NOFILE, most), &[Errno::EMFILE])
            };
            let mut cases: Vec<_> = (3..=40).map(few).collect();
            if line.user {
                cases.extend((1..=8).map(|most| {
                    let name = format!("processes: {most} of the user");
                    case(name, limit(Resource::RLIMIT_NPROC, most), &[Errno::EAGAIN])
                }));
            }
            cases
        }
        Ground::Cgroup => {
            let few = |most| case(format!("processes: {most}"), Change::Processes(most), &[Errno::EAGAIN]);
            (1..=12).map(few).collect()
        }
        Ground::Writing => {
            let reader = |name: &str, reader| case(format!("reader: {name}"), Change::Pipe(reader), &[]);
            vec![
                reader("gone", Reader::Gone),
                reader("stopped, then gone", Reader::Goes),
                reader("stopped, and the container is killed", Reader::Stays),
            ]
        }
    }
}

impl Trial<'_> {
    /// All cases of this worker with this line. `groups` counts the grounds of all lines.
    ///
    /// # Errors
    /// When a condition cannot be made, or a run without one does not end as it should.
    pub fn run_with_conditions(&self, list: &mut List, groups: &mut usize) -> Result<Count> {
        let mut count = Count::default();
        let mut index = 0;
        for ground in GROUNDS {
            let mut cases = cases(ground, self.step.number, &self.line);
            let only = &self.args.only;
            cases.retain(|case| only.is_empty() || only.iter().any(|text| case.name.contains(text.as_str())));
            let (part, parts) = self.args.shard;
            cases.retain(|_| {
                index += 1;
                (index - 1) % parts == part - 1
            });
            let (worker, workers) = self.worker;
            *groups += 1;
            // Cases of one ground stay together: they share its filesystem, and one of them must feel a lack.
            if *groups % workers != worker % workers {
                continue;
            }
            if self.args.list {
                for case in &cases {
                    say(format!("{} {}: {}", self.step.name, self.line.name, case.name));
                }
            } else if !cases.is_empty() {
                let line = match ground {
                    Ground::Simple | Ground::Cgroup => self.line.running(SIMPLE),
                    // So that the runtime itself writes to the pipe what the container's terminal shows.
                    Ground::Writing if self.line.terminal && self.step.number >= 2 => {
                        self.line.running(WRITING).with("--tty")
                    }
                    Ground::Writing => self.line.running(WRITING),
                    Ground::Plain | Ground::Home(_) => self.line.clone(),
                };
                count += Trial { line, ..*self }.on(ground, &cases, list)?;
            }
        }
        Ok(count)
    }

    fn on(&self, ground: Ground, cases: &[Case], list: &mut List) -> Result<Count> {
        let began = Instant::now();
        let name = format!("{} {}", self.step.name, self.line.name);
        let mut count = Count::default();
        let before = host::Look::at(self.subject);
        let plain = self.start(None, false, GENEROUS).and_then(|_| self.start(None, false, GENEROUS))?;
        let told = plain.stderr.trim();
        ensure!(plain.status != Some(125), "{}: without a condition it fails: {told}", self.line.name);
        let mut limited = None;
        let mut mounted = None;
        let made = match ground {
            Ground::Home(kind) => Mounted::mount(self.subject, kind, self.scene.home(&self.line))
                .map(|made| mounted = Some(made)),
            Ground::Cgroup => Limited::make().map(|made| limited = Some(made)),
            Ground::Plain | Ground::Simple | Ground::Writing => Ok(()),
        };
        if let Err(why) = made {
            say(format!("{name}: {}: cannot run here: {why:#}", cases[0].name));
            count.lacking += cases.len();
            return Ok(count);
        }
        let run = |change: &Change, usual| self.start_with(change, limited.as_ref(), usual);
        // On another filesystem, the first run makes what later ones find.
        let reference = match &mounted {
            Some(_) => run(&Change::Nothing, GENEROUS).and_then(|_| run(&Change::Nothing, GENEROUS))?,
            None => plain.clone(),
        };
        if let Some(hangs) = &reference.hangs {
            bail!("{}: without a condition it does not end in time: {hangs}", self.line.name);
        }
        let look = self.look_when_calm(&before);
        let files = self.scene.files_of_user();
        let mut felt = 0;
        for case in cases {
            if let Some(mounted) = &mounted {
                mounted.change(&case.change)?;
            }
            let outcome = run(&case.change, reference.took)?;
            if let Some(mounted) = &mounted {
                mounted.lift(&case.change)?;
            }
            count.injected += 1;
            let is_felt = !case.errnos.is_empty() && outcome.status != reference.status;
            felt += usize::from(is_felt);
            let fault = Fault::Condition(case.errnos);
            let wanted = if matches!(case.change, Change::Nothing) { &plain } else { &reference };
            // An empty state folder has lost files on purpose, until the next run.
            let is_empty = Cell::new(case.change.empties());
            let changes = || if is_empty.take() { vec![] } else { self.changes(&look, &files) };
            let judged = self
                .judge_with(case, limited.as_ref(), wanted, &outcome)
                .and_then(|()| self.host_is_clean(&fault, &reference, &outcome, changes));
            let place = Place { process: "runtime".into(), what: case.name.clone(), turn: 0 };
            match judged {
                Ok(()) => count.survived += 1,
                Err(why)
                    if list.excuses(self.step.number, self.line.name, "runtime", &place, &fault, &why) =>
                {
                    count.excused += 1;
                }
                Err(why) => {
                    count.died += 1;
                    say(format!("{name}: {}: {why}", case.name));
                    // So that one failure is not the cause of the next.
                    let _ = look.compare(self.subject);
                }
            }
        }
        let first = cases[0].name.split(':').next().unwrap_or_default();
        let is_part = !self.args.only.is_empty() || self.args.shard.1 > 1;
        if felt == 0 && !is_part && cases.iter().filter(|case| !case.errnos.is_empty()).count() > 1 {
            count.died += 1;
            say(format!("{name}: {first}: no run has felt what it lacks, so this has tried nothing"));
        }
        let took = began.elapsed();
        say(format!("{name}: {first} and the like: {count}; {felt} with an error ({took:.0?})"));
        Ok(count)
    }

    fn start_with(&self, change: &Change, limited: Option<&Limited>, usual: Duration) -> Result<Outcome> {
        self.scene.reset();
        let mut start = self.scene.start(&self.line)?;
        if let Change::Inherited(condition) = change {
            start.condition = condition.clone();
        }
        if let Some(limited) = limited {
            start.condition.cgroup = Some(limited.processes.as_raw_fd());
            limited.set("max")?;
            if let Change::Processes(most) = change {
                limited.set(&most.to_string())?;
            }
        }
        let pipe = match change {
            Change::Pipe(reader) => Some(pipe(*reader)?),
            _ => None,
        };
        let (read, write) = pipe.unzip();
        let read = RefCell::new(read.flatten());
        let goes = matches!(change, Change::Pipe(Reader::Goes));
        let later = |runtime: Pid| {
            if goes {
                read.take();
            } else if let Some(first) =
                Process(runtime.as_raw()).descendants().into_iter().find(|it| it.is_first())
            {
                first.end();
            }
        };
        let outcome = run::run(&Plan {
            start: &start,
            binary: self.subject.binary(),
            folder: self.folder,
            fault: None,
            record: false,
            limit: usual + LIMIT,
            stdout: write.as_ref().map(AsFd::as_fd),
            later: matches!(change, Change::Pipe(Reader::Goes | Reader::Stays)).then_some(&later),
        });
        if let Some(limited) = limited {
            limited.set("max")?;
        }
        outcome
    }

    /// As the other faults, but without what the condition itself changes in the command.
    fn judge_with(
        &self,
        case: &Case,
        limited: Option<&Limited>,
        wanted: &Outcome,
        outcome: &Outcome,
    ) -> Result<(), String> {
        let (mut ours, mut theirs) = (outcome.clone(), wanted.clone());
        let home = steady(&self.scene.home(&self.line).0.to_string_lossy());
        for outcome in [&mut ours, &mut theirs] {
            let figures = outcome.seen.as_mut().into_iter().flatten();
            // The filesystem is another one on purpose, and its top is the state folder.
            for (_, mount) in figures.filter(|(name, _)| name.starts_with("mount ")) {
                *mount = mount.split(" - ").next().unwrap_or_default().replace(&home, "");
            }
        }
        // An ordinary user's container has no cgroup of its own: it is in the one that the case limits.
        if let Some(top) = limited.filter(|_| self.line.user).and_then(|limited| limited.folder.parent()) {
            for figures in [&mut ours.seen, &mut theirs.seen].into_iter().flatten() {
                figures.retain(|name, _| !Path::new(name).starts_with(top));
            }
        }
        let is_limit = match &case.change {
            Change::Inherited(condition) => condition.limit.is_some(),
            Change::Processes(_) => true,
            _ => false,
        };
        let not_loaded = ours.stderr.contains("error while loading shared libraries");
        if is_limit && not_loaded {
            match &ours.seen {
                // The loader comes before all code of the runtime.
                None if ours.status == Some(127) => return Ok(()),
                // The command has its protection. What it does with its limits is its own affair.
                Some(_) => (ours.status, ours.stdout) = (theirs.status, theirs.stdout.clone()),
                None => {}
            }
        }
        if is_limit {
            for figures in [&mut ours.seen, &mut theirs.seen].into_iter().flatten() {
                let limits = figures.entry("limits".into()).or_default();
                *limits = without_tried_limits(limits);
            }
        }
        let (streams, ends): (&[i32], &[i32]) = match &case.change {
            Change::Inherited(condition) if condition.closed.is_empty() => (&[], &[]),
            Change::Inherited(condition) => (condition.closed, &[]),
            Change::Pipe(Reader::Stays) => (&[1], &[137]),
            // By SIGPIPE, or by its own decision after the error.
            Change::Pipe(_) => (&[1], &[3, 141]),
            _ => (&[], &[]),
        };
        let streams = if self.line.terminal && !streams.is_empty() { &[0, 1, 2] } else { streams };
        for stream in streams {
            let name = format!("descriptor {stream}");
            let to = ours.seen.as_mut().and_then(|figures| figures.remove(&name)).unwrap_or_default();
            if !is_harmless(&to) {
                return Err(format!("{name} is {to}"));
            }
            theirs.seen.as_mut().and_then(|figures| figures.remove(&name));
            ours.stdout.clone_from(&theirs.stdout);
        }
        if ours.status.is_some_and(|status| ends.contains(&status)) {
            ours.status = theirs.status;
        }
        self.judge(&Fault::Condition(case.errnos), &theirs, &ours)
    }
}

/// Whether a stream may lead there: nowhere, into a pipe, or to a terminal of the host or the container.
fn is_harmless(to: &str) -> bool {
    to.is_empty() || to.ends_with("/dev/null") || to.starts_with("pipe:") || to.contains("/dev/pts/")
}

/// `/proc/PID/limits` without the limits that the cases lower.
fn without_tried_limits(limits: &str) -> String {
    let is_tried = |line: &&str| line.starts_with("Max processes") || line.starts_with("Max open files");
    limits.lines().filter(|line| !is_tried(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        for step in [0, 4] {
            let all: Vec<_> =
                GROUNDS.into_iter().flat_map(|ground| cases(ground, step, &Line::default())).collect();
            let names: BTreeSet<_> = all.iter().map(|case| &case.name).collect();
            assert_eq!(names.len(), all.len());
        }
    }

    #[test]
    fn a_file_of_the_state_folder_is_no_harmless_stream() {
        for to in ["", "/dev/null", "pipe:[N]", "$T/home/rootfs/host/dev/pts/N"] {
            assert!(is_harmless(to), "{to}");
        }
        assert!(!is_harmless("$T/home/rootfs/.host.lock") && !is_harmless("socket:[N]"));
    }

    #[test]
    fn only_the_lowered_limits_are_not_compared() {
        let limits = "Max processes 5\nMax core file size 0\nMax open files 7\nMax locked memory 8";
        assert_eq!(without_tried_limits(limits), "Max core file size 0\nMax locked memory 8");
    }
}
