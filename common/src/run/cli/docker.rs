//! What becomes of a command line that was written for `docker run`: of its options, and of its first words.
//!
//! One table, for the error of a runtime that lacks an option and for the reference in the book.
//! Source: the help of `docker run`, Docker 28 and 29.

use std::ffi::OsStr;
use std::fmt;

/// What becomes of an option of `docker run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is there, since this step.
    Since(u8),
    /// It is taken since this step, as a line that was copied has it, and changes nothing here.
    Taken(u8, &'static str),
    /// The learner can build it: the step's number, and the exercise's name.
    Exercise(u8, &'static str),
    /// It is not there: why, or what to do instead.
    Instead(&'static str),
}

use Answer::{Exercise, Instead, Since, Taken};

/// An option of `docker run`.
#[derive(Debug, Clone, Copy)]
pub struct DockerOption {
    /// Its name, without the two hyphens.
    pub long: &'static str,
    /// Its letter.
    pub short: Option<char>,
    /// What becomes of it.
    pub answer: Answer,
}

const fn long(long: &'static str, answer: Answer) -> DockerOption {
    DockerOption { long, short: None, answer }
}

const fn both(short: char, long: &'static str, answer: Answer) -> DockerOption {
    DockerOption { long, short: Some(short), answer }
}

const NO_DAEMON: &str =
    "no process watches the container from outside: use a shell's loop, or a systemd unit";
const NO_BLOCK_IO: &str =
    "Congo has no cgroup controller for disks: io(4) in the kernel's cgroup-v2 documentation";
const WINDOWS: &str = "it is for containers of Windows";
const NO_REAL_TIME: &str =
    "few kernels have real-time groups: --cpus and --cpu-shares divide the time of CPUs";
const NO_LOG: &str = "a container's output is the runtime's own: send it on with > or |";
const NO_IPV6: &str = "a container has an IPv4 address only: --ip";
const NOT_NAMED: &str = "containers have no names here: --add-host NAME:ADDRESS";
const NO_HEALTH: &str =
    "no daemon asks how a container is: run the command from outside, with nsenter -t PID";

/// All of them, sorted by name.
pub const OPTIONS: [DockerOption; 104] = [
    long("add-host", Since(2)),
    long("annotation", Taken(1, "no other runtime reads it")),
    both('a', "attach", Instead("all three streams are always attached: send one elsewhere with > or <")),
    long("blkio-weight", Instead(NO_BLOCK_IO)),
    long("blkio-weight-device", Instead(NO_BLOCK_IO)),
    long("cap-add", Since(4)),
    long("cap-drop", Since(4)),
    long(
        "cgroup-parent",
        Instead("a container's cgroup lies at the top of each hierarchy, or in the caller's own"),
    ),
    long("cgroupns", Exercise(2, "cgroup-view")),
    long("cidfile", Since(2)),
    long("cpu-count", Instead(WINDOWS)),
    long("cpu-percent", Instead(WINDOWS)),
    long("cpu-period", Since(1)),
    long("cpu-quota", Since(1)),
    long("cpu-rt-period", Instead(NO_REAL_TIME)),
    long("cpu-rt-runtime", Instead(NO_REAL_TIME)),
    both('c', "cpu-shares", Since(1)),
    long("cpus", Since(1)),
    long("cpuset-cpus", Since(1)),
    long("cpuset-mems", Since(1)),
    both(
        'd',
        "detach",
        Instead("the container runs as long as the runtime: end the line with & for the background"),
    ),
    long(
        "detach-keys",
        Instead("there is no daemon to leave the container to: Ctrl-C, or a second terminal"),
    ),
    long("device", Since(1)),
    long(
        "device-cgroup-rule",
        Instead("Congo has no device cgroup: a container has the devices of --device"),
    ),
    long("device-read-bps", Instead(NO_BLOCK_IO)),
    long("device-read-iops", Instead(NO_BLOCK_IO)),
    long("device-write-bps", Instead(NO_BLOCK_IO)),
    long("device-write-iops", Instead(NO_BLOCK_IO)),
    long("disable-content-trust", Taken(1, "no registry is asked, so no signature is there")),
    long("dns", Since(2)),
    long("dns-option", Since(2)),
    long("dns-search", Since(2)),
    long("domainname", Exercise(0, "domainname")),
    long("entrypoint", Since(3)),
    both('e', "env", Since(1)),
    long("env-file", Since(1)),
    long("expose", Taken(1, "only --publish opens a port")),
    long("gpus", Instead("it takes a driver's own files of the host: --volume and --device")),
    long("group-add", Exercise(4, "group-add")),
    long("health-cmd", Instead(NO_HEALTH)),
    long("health-interval", Instead(NO_HEALTH)),
    long("health-retries", Instead(NO_HEALTH)),
    long("health-start-interval", Instead(NO_HEALTH)),
    long("health-start-period", Instead(NO_HEALTH)),
    long("health-timeout", Instead(NO_HEALTH)),
    long("help", Since(0)),
    both('h', "hostname", Since(1)),
    long("init", Since(2)),
    both('i', "interactive", Since(2)),
    long("io-maxbandwidth", Instead(WINDOWS)),
    long("io-maxiops", Instead(WINDOWS)),
    long("ip", Since(2)),
    long("ip6", Instead(NO_IPV6)),
    long("ipc", Since(2)),
    long("isolation", Instead(WINDOWS)),
    long(
        "kernel-memory",
        Instead("new kernels have no limit of their own for it: it counts against --memory"),
    ),
    both('l', "label", Taken(1, "nobody looks for containers by label")),
    long("label-file", Taken(1, "nobody looks for containers by label")),
    long("link", Instead(NOT_NAMED)),
    long("link-local-ip", Instead("a container has one address: --ip")),
    long("log-driver", Instead(NO_LOG)),
    long("log-opt", Instead(NO_LOG)),
    long("mac-address", Exercise(2, "mac-address")),
    both('m', "memory", Since(1)),
    long("memory-reservation", Exercise(1, "memory-reservation")),
    long("memory-swap", Since(1)),
    long("memory-swappiness", Instead("cgroup v2 has it no more: see memory.swap.max, --memory-swap")),
    long("mount", Since(3)),
    long("name", Taken(1, "a container's name is its PID")),
    long("network", Since(2)),
    long("network-alias", Instead(NOT_NAMED)),
    long("no-healthcheck", Taken(1, "there is none")),
    long("oom-kill-disable", Instead("cgroup v2 has it no more, and a full container would hang")),
    long("oom-score-adj", Exercise(1, "oom-score-adj")),
    long("pid", Since(2)),
    long("pids-limit", Since(1)),
    long("platform", Taken(3, "it must be this machine's, or --image finds no image")),
    long("privileged", Exercise(4, "privileged")),
    both('p', "publish", Since(2)),
    both('P', "publish-all", Instead("name the ports: --publish PORT takes a free one of the host")),
    long("pull", Taken(1, "no registry is asked: --image is a file or a folder")),
    both('q', "quiet", Taken(1, "nothing is pulled")),
    long("read-only", Since(3)),
    long("restart", Instead(NO_DAEMON)),
    long("rm", Taken(1, "a container always goes when it ends, but for --keep")),
    long("runtime", Instead("this program is the runtime: each step is one")),
    long("security-opt", Since(4)),
    long("shm-size", Since(2)),
    long("sig-proxy", Taken(1, "signals are always passed on")),
    long("stop-signal", Since(2)),
    long("stop-timeout", Since(2)),
    long("storage-opt", Exercise(3, "storage-size")),
    long("sysctl", Since(2)),
    long("tmpfs", Since(3)),
    both('t', "tty", Since(2)),
    long("ulimit", Since(1)),
    long("use-api-socket", Instead("there is no daemon with a socket")),
    both('u', "user", Since(4)),
    long("userns", Since(4)),
    long("uts", Instead("a container always has a host name of its own: --hostname")),
    both('v', "volume", Since(3)),
    long(
        "volume-driver",
        Instead("a volume is a folder of the host's: mount what the driver would, then --volume"),
    ),
    long("volumes-from", Instead("give both containers the same named volume: --volume NAME:/path")),
    both('w', "workdir", Since(1)),
];

/// What a runtime that lacks an option says about it; `name` as it was written: `--detach`, `--gpus=all`,
/// `-d`. `None` when `docker run` lacks it, too.
pub(super) fn about(name: &str) -> Option<String> {
    let option = match name.strip_prefix("--") {
        Some(rest) => {
            let name = rest.split('=').next()?;
            OPTIONS.iter().find(|option| option.long == name)
        }
        None => {
            let letter = name.strip_prefix('-')?.chars().next()?;
            OPTIONS.iter().find(|option| option.short == Some(letter))
        }
    };
    option.map(|option| option.answer.to_string())
}

/// A line for the error, and for the reference.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Since(step) => write!(f, "since step {step}"),
            Taken(step, why) => write!(f, "taken since step {step}, without effect: {why}"),
            Exercise(step, name) => write!(f, "an exercise of step {step}: {name}"),
            Instead(what) => write!(f, "{what}"),
        }
    }
}

/// The first words of `docker`, with what they are here.
const WORDS: [(&str, &str); 12] = [
    ("build", "run commands in a container, and make an image of it: --commit PATH"),
    ("exec", "enter a container that runs: nsenter --target PID --all COMMAND"),
    ("images", "images are files and folders: see --image"),
    ("kill", "send a signal to the runtime, by its PID: it passes the signal on"),
    ("load", "an archive of docker save is used as it is: --image FILE"),
    ("logs", "a container's output is the runtime's own: send it on with > or |"),
    ("ps", "each container is a child of its runtime: ps --forest"),
    ("pull", "Congo asks no registry: skopeo copy docker://IMAGE oci:FOLDER, then --image FOLDER"),
    ("rm", "a container always goes when it ends"),
    ("run", "leave the word out: options and command come at once"),
    ("start", "a container always goes when it ends: --keep NAME goes on with what it has written"),
    ("stop", "send SIGTERM to the runtime, by its PID"),
];

/// Images that people try first. A word with a tag is taken for one, too.
const IMAGES: [&str; 12] = [
    "alpine",
    "archlinux",
    "busybox",
    "centos",
    "debian",
    "fedora",
    "hello-world",
    "httpd",
    "nginx",
    "postgres",
    "redis",
    "ubuntu",
];

/// What else a command may have meant that the container does not have: a word of `docker`, or an image.
pub(crate) fn about_command(command: &OsStr) -> Option<String> {
    let command = command.to_str()?;
    if let Some((_, what)) = WORDS.iter().find(|(word, _)| *word == command) {
        return Some(format!("{command} is a word of docker: {what}"));
    }
    let is_tagged = command.split_once(':').is_some_and(|(name, tag)| {
        let letters = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
        };
        letters(name) && letters(tag) && !name.starts_with(['/', '.'])
    });
    (is_tagged || IMAGES.contains(&command)).then(|| {
        format!(
            "an image comes with --image, from a file or a folder, since step 3; to fetch one: skopeo copy \
             docker://{command} oci:FOLDER"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_each_option_once() {
        assert!(OPTIONS.is_sorted_by(|one, other| one.long < other.long));
        let mut letters: Vec<_> = OPTIONS.iter().filter_map(|option| option.short).collect();
        letters.sort_unstable();
        assert!(letters.is_sorted_by(|one, other| one < other));
        assert!(WORDS.is_sorted_by(|one, other| one.0 < other.0));
    }

    #[test]
    fn an_option_is_found_as_it_was_written() {
        for name in ["--detach", "--detach=true", "-d", "-dit"] {
            assert!(about(name).unwrap().contains("end the line with &"), "{name}");
        }
        assert_eq!(about("--volume").unwrap(), "since step 3");
        assert_eq!(about("--privileged").unwrap(), "an exercise of step 4: privileged");
        for name in ["--no-such-option", "-Z", "--", "-", ""] {
            assert_eq!(about(name), None, "{name}");
        }
    }

    #[test]
    fn words_and_images_are_known() {
        let about = |word: &str| about_command(OsStr::new(word));
        assert!(about("run").unwrap().contains("leave the word out"));
        for image in ["alpine", "nginx:latest", "library/debian:12-slim"] {
            assert!(about(image).unwrap().contains("--image"), "{image}");
        }
        for word in ["ls", "no-such-command", "./a:b", "/a:b", ":", "a:", "a b:c"] {
            assert_eq!(about(word), None, "{word}");
        }
    }
}
