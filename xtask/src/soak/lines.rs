//! Which options there are to draw, with values that are valid, and which of them go together.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Random;

/// What an option may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Nothing.
    Nothing,
    /// One of these. In braces stands what is known only when it runs: see [`Places::of`].
    One(&'static [&'static str]),
    /// The option is never drawn, for this reason.
    Never(#[allow(dead_code, reason = "for the reader")] &'static str),
}
use Takes::{Never, Nothing, One};

/// Each option that a step's `--help` shows.
const OPTIONS: &[(&str, Takes)] = &[
    ("--explain", Nothing),
    ("--help", Never("it runs nothing")),
    ("--version", Never("it runs nothing")),
    ("--rootfs", One(&["{root}"])),
    ("--hostname", One(&["soak", "a.long-name.example"])),
    ("--workdir", One(&["/", "/etc", "/usr/bin"])),
    ("--env", One(&["A=b", "HOME=/root", "EMPTY=", "PATH"])),
    ("--env-file", One(&["{files}/variables"])),
    ("--device", One(&["/dev/null:/dev/of-the-host", "/dev/full"])),
    ("--memory", One(&["32m", "100000000", "64M"])),
    ("--memory-swap", One(&["-1", "256m", "0"])),
    ("--cpus", One(&["0.2", "1", "0"])),
    ("--cpu-period", One(&["50000", "0"])),
    ("--cpu-quota", One(&["20000", "-1"])),
    ("--cpu-shares", One(&["2", "512", "4096"])),
    ("--cpuset-cpus", One(&["0"])),
    ("--cpuset-mems", One(&["0"])),
    ("--pids-limit", One(&["16", "100", "-1"])),
    ("--ulimit", One(&["nofile=64:128", "core=0", "cpu=60"])),
    ("--network", One(&["none", "host", "bridge", "bridge", "bridge", "container:{pid}"])),
    ("--bridge", One(&["soak0"])),
    ("--subnet", Never("two bridges cannot have one: it goes with --bridge")),
    ("--ip", One(&["10.44.20{worker}.9"])),
    ("--publish", One(&["80", "127.0.0.1::81", "82/udp", "90-92"])),
    ("--dns", One(&["192.0.2.53", "2001:db8::53"])),
    ("--dns-search", One(&["example.org", "."])),
    ("--dns-option", One(&["ndots:2"])),
    ("--add-host", One(&["db:192.0.2.7"])),
    ("--ipc", One(&["private", "host", "container:{pid}"])),
    ("--shm-size", One(&["1m", "128m"])),
    ("--pid", One(&["private", "host", "container:{pid}"])),
    (
        "--sysctl",
        One(&["net.core.somaxconn=200", "kernel.msgmax=4096", "net.ipv4.ip_unprivileged_port_start=80"]),
    ),
    ("--interactive", Nothing),
    ("--tty", Nothing),
    ("--init", Nothing),
    ("--stop-signal", One(&["QUIT", "SIGINT"])),
    ("--stop-timeout", One(&["1", "-1"])),
    ("--cidfile", One(&["{new}.pid"])),
    ("--image", One(&["{files}/image", "{files}/image:soak"])),
    ("--layer", One(&["{files}/files/layer"])),
    ("--keep", One(&["kept-{worker}"])),
    ("--entrypoint", One(&["", "env"])),
    ("--changes", Nothing),
    ("--commit", One(&["{new}", "{new}.tar", "{new}:tag"])),
    ("--read-only", Nothing),
    (
        "--volume",
        One(&[
            "{files}/files/folder:/v{place}",
            "{files}/files/folder:/v{place}:ro",
            "named:/v{place}",
            "/v{place}",
        ]),
    ),
    (
        "--mount",
        One(&[
            "type=bind,source={files}/files/folder,target=/m{place}",
            "type=volume,source=other,target=/m{place},readonly",
            "type=tmpfs,target=/m{place}",
        ]),
    ),
    ("--tmpfs", One(&["/t{place}", "/t{place}:size=1m,noexec"])),
    ("--userns", One(&["auto", "host"])),
    ("--uidmap", One(&["0:700000:65536"])),
    ("--gidmap", One(&["0:800000:65536"])),
    ("--subuidname", Never("few machines list ids for a user")),
    ("--user", One(&["0", "1000", "1000:100", "65534:65534"])),
    ("--cap-add", One(&["NET_ADMIN", "CAP_SYS_TIME", "ALL"])),
    ("--cap-drop", One(&["CHOWN", "ALL"])),
    ("--security-opt", One(&["no-new-privileges", "seccomp=unconfined", "seccomp={files}/profile.json"])),
];

/// Commands, and how each ends.
const COMMANDS: &[(&[&str], i32)] = &[
    (&["true"], 0),
    (&["sh", "-c", "exit 7"], 7),
    (&["sh", "-c", "echo out; echo err >&2"], 0),
    (&["sh", "-c", "sleep 0.2"], 0),
    (&["sleep", "0.3"], 0),
    (&["sh", "-c", "sleep 0.1 & wait; exit 4"], 4),
    (&["sh", "-c", "sleep 9 & sleep 9 & exit 3"], 3),
    (&["sh", "-c", "echo more >> /etc/made-by-soak; cat /etc/passwd >/dev/null; exit 0"], 0),
    (&["/there/is/no/such/program"], 127),
    (&["/etc"], 126),
];

/// The first option wins over each of the others.
const NOT_TOGETHER: &[(&str, &[&str])] = &[
    ("--cpus", &["--cpu-period", "--cpu-quota"]),
    ("--image", &["--rootfs", "--keep"]),
    ("--rootfs", &["--keep"]),
    ("--layer", &["--keep"]),
    ("--tty", &["--interactive"]),
    ("--bridge", &["--ip"]),
    // Those that share users with another container, or with the host, have no choice.
    ("--pid", &["--userns", "--uidmap", "--gidmap"]),
    ("--ipc=container", &["--userns", "--uidmap", "--gidmap"]),
    ("--network=container", &["--userns", "--uidmap", "--gidmap"]),
    ("--network=container", &["--dns", "--dns-search", "--dns-option", "--add-host", "--hostname"]),
    ("--network=container", &["--bridge", "--ip", "--publish", "--sysctl", "--ipc", "--pid"]),
    ("--network=host", &["--bridge", "--ip", "--publish", "--sysctl"]),
    ("--ipc=host", &["--sysctl"]),
    ("--userns", &["--uidmap", "--gidmap"]),
];

/// Options that are repeated now and then.
const REPEATABLE: &[&str] = &[
    "--env",
    "--env-file",
    "--device",
    "--ulimit",
    "--dns",
    "--dns-search",
    "--add-host",
    "--volume",
    "--mount",
    "--tmpfs",
    "--cap-add",
    "--cap-drop",
    "--sysctl",
];

/// What a step offers.
#[derive(Debug)]
pub struct Offer {
    options: Vec<(&'static str, Takes)>,
    has_bridges: bool,
}

impl Offer {
    /// Of a step's `--help`, without the options that the machine lacks something for.
    ///
    /// # Errors
    /// When `--help` shows an option that the table does not have.
    pub fn of(help: &str, lacking: &[&str]) -> Result<Offer> {
        let mut options = Vec::new();
        for shown in shown(help) {
            let known = OPTIONS.iter().find(|(option, _)| *option == shown);
            ensure!(known.is_some(), "{shown}: a value for it is missing in xtask/src/soak/lines.rs");
            let is_lacking = lacking.contains(&&*shown) && shown != "--network";
            options.extend(known.filter(|(_, takes)| !is_lacking && !matches!(takes, Never(_))));
        }
        Ok(Offer { options, has_bridges: !lacking.contains(&"--network") })
    }

    /// Whether the step has this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|(offered, _)| *offered == option)
    }

    /// Draws a command line.
    pub fn draw(&self, random: &mut Random) -> Line {
        // Mostly few options, now and then many.
        let count = *random.one_of(&[0, 1, 2, 2, 3, 3, 4, 5, 8, 12]);
        let mut drawn: Vec<(&'static str, Option<&'static str>)> = Vec::new();
        for _ in 0..count {
            if self.options.is_empty() {
                break;
            }
            let (option, takes) = *random.one_of(&self.options);
            let value = match takes {
                One(values) => Some(*random.one_of(values)),
                Nothing | Never(_) => None,
            };
            if REPEATABLE.contains(&option) || drawn.iter().all(|(before, _)| *before != option) {
                drawn.push((option, value));
            }
        }
        self.agree(&mut drawn);
        let (command, status) = *random.one_of(COMMANDS);
        let delay = Duration::from_micros(random.next() % 150_000);
        let killed_after = (random.below(3) == 0).then_some(delay);
        Line { options: drawn, command, status, killed_after }
    }

    /// Makes the options a valid whole.
    fn agree(&self, drawn: &mut Vec<(&'static str, Option<&'static str>)>) {
        let is = |option: &(&str, Option<&str>), name: &str| match name.split_once('=') {
            Some((name, value)) => option.0 == name && option.1.is_some_and(|it| it.starts_with(value)),
            None => option.0 == name,
        };
        let has = |drawn: &[(&str, Option<&str>)], name: &str| drawn.iter().any(|option| is(option, name));
        if !self.has_bridges {
            drawn.retain(|option| !is(option, "--network=bridge"));
        }
        for &(option, others) in NOT_TOGETHER {
            if has(drawn, option) {
                drawn.retain(|(other, _)| !others.contains(other));
            }
        }
        // These say something about a bridge.
        if ["--bridge", "--ip", "--publish"].iter().any(|option| has(drawn, option)) {
            drawn.retain(|option| self.has_bridges && option.0 != "--network" || !is(option, "--network"));
            if self.has_bridges {
                drawn.push(("--network", Some("bridge")));
            } else {
                drawn.retain(|(option, _)| !["--bridge", "--ip", "--publish"].contains(option));
            }
        }
        if has(drawn, "--bridge") {
            drawn.push(("--subnet", Some("10.45.0.0/16")));
        }
        // With users of its own a container on a bridge shares nothing else.
        if has(drawn, "--network=bridge") {
            drawn.retain(|option| !is(option, "--ipc=container") && !is(option, "--pid=container"));
        }
        // Among the host's processes a container has the host's users. Then it agrees with no other
        // container.
        if has(drawn, "--pid=host") && self.has("--userns") {
            drawn.retain(|option| !is(option, "--ipc=container") && !is(option, "--network=container"));
            drawn.push(("--userns", Some("host")));
        }
        if !has(drawn, "--uidmap") {
            drawn.retain(|(option, _)| *option != "--gidmap");
        }
    }
}

/// The long options that a `--help` shows.
fn shown(help: &str) -> BTreeSet<String> {
    let of_line = |line: &str| {
        let line = line.trim_start();
        let (_, long) = line.starts_with('-').then(|| line.split_once("--"))??;
        Some(format!("--{}", long.split([' ', '=', ',']).next()?))
    };
    help.lines().filter_map(of_line).collect()
}

/// A command line that was drawn.
#[derive(Debug)]
pub struct Line {
    options: Vec<(&'static str, Option<&'static str>)>,
    command: &'static [&'static str],
    /// How the command ends.
    pub status: i32,
    /// When the runtime is killed, if it is.
    pub killed_after: Option<Duration>,
}

impl Line {
    /// Its words. `fill` puts what is known only now in the place of braces.
    pub fn words(&self, fill: &impl Fn(&str) -> String) -> Vec<String> {
        let mut words = Vec::new();
        for (place, (option, value)) in self.options.iter().enumerate() {
            words.push((*option).to_owned());
            words.extend(value.map(|value| fill(value).replace("{place}", &place.to_string())));
        }
        words.extend(self.command.iter().map(|word| (*word).to_owned()));
        words
    }
}

/// Where the files are that the options name.
#[derive(Debug)]
pub struct Places {
    /// The folder of the files.
    pub files: PathBuf,
    /// A root filesystem.
    pub root: PathBuf,
}

impl Places {
    /// Fills in what stands in braces, for this command line.
    pub fn of(&self, worker: u64, number: u64, pid: Option<i32>) -> impl Fn(&str) -> String {
        let (files, root) = (self.files.display().to_string(), self.root.display().to_string());
        let files = files.trim_end_matches('/').to_owned();
        move |value| {
            value
                .replace("{files}", &files)
                .replace("{root}", &root)
                .replace("{worker}", &worker.to_string())
                .replace("{new}", &format!("{files}/new-{number}"))
                .replace("{pid}", &pid.unwrap_or(0).to_string())
        }
    }

    /// Removes what the options of this command line may have made.
    pub fn remove_new(&self, number: u64) {
        let _ = fs::remove_dir_all(self.files.join(format!("new-{number}")));
        for end in ["tar", "pid"] {
            let _ = fs::remove_file(self.files.join(format!("new-{number}.{end}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Args;
    use common::options::{Ipc, Limits, Network, Root, Security, Session, Users, Volumes, World};

    use super::*;

    fn command() -> clap::Command {
        let mut command = clap::Command::new("x").args_override_self(true);
        for augment in [
            World::augment_args,
            Limits::augment_args,
            Network::augment_args,
            Ipc::augment_args,
            Session::augment_args,
            Root::augment_args,
            Volumes::augment_args,
            Users::augment_args,
            Security::augment_args,
        ] {
            command = augment(command);
        }
        command
    }

    #[test]
    fn every_option_of_the_steps_is_in_the_table() {
        for arg in command().get_arguments().filter(|arg| !arg.is_hide_set()) {
            let Some(long) = arg.get_long() else { continue };
            let long = format!("--{long}");
            assert!(OPTIONS.iter().any(|(option, _)| *option == long), "{long}");
        }
    }

    #[test]
    fn every_value_of_the_table_is_taken() {
        // Folders that are there, as some options want.
        let folder = tempfile::tempdir().unwrap();
        for name in ["image", "files/layer"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let places = Places { files: folder.path().to_owned(), root: "/".into() };
        let fill = places.of(1, 1, Some(1));
        for (option, takes) in OPTIONS.iter().filter(|(option, _)| *option != "--explain") {
            let One(values) = takes else { continue };
            for value in *values {
                let value = fill(value).replace("{place}", "1");
                let mut words = vec!["x".to_owned(), (*option).to_owned(), value];
                if *option == "--gidmap" {
                    words.extend(["--uidmap".to_owned(), "0:1:1".to_owned()]);
                }
                command().try_get_matches_from(words).unwrap();
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_lines_again() {
        let help = OPTIONS.iter().map(|(option, _)| format!("  {option}\n")).collect::<String>();
        let offer = Offer::of(&help, &[]).unwrap();
        let draw = |seed, number| format!("{:?}", offer.draw(&mut Random::of(seed, number)));
        assert!((0..100).all(|number| draw(7, number) == draw(7, number)));
        assert!((0..100).any(|number| draw(7, number) != draw(8, number)));
    }

    #[test]
    fn an_option_without_a_value_here_is_an_error() {
        assert!(Offer::of("      --new <VALUE>  What is new", &[]).is_err());
    }
}
