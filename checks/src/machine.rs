//! What this machine can do for the course, line by line, and what would help: the substance of
//! `cargo congo doctor`. It also gives skip reasons to checks that need more than [`crate::needs`] tries.
//!
//! Three parts, in this order. The module [`attempt`](mod@crate::attempt) tries something on the kernel and
//! undoes it. Then [`Facts::gather`] collects the results, and facts from files. In the end [`Facts::lines`]
//! and [`verdicts`] judge the facts and touch nothing. So made-up facts can test the texts for machines that
//! nobody here has.
//!
//! Kernel objects: namespaces, mounts and links that go away with the process that made them. Man pages:
//! namespaces(7), user_namespaces(7), cgroups(7), subuid(5).

mod judge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::unistd::{AccessFlags, access, geteuid};

pub use judge::verdicts;

use crate::attempt::{CONTROLLERS, KINDS, Tried};
use crate::installed::installed;
use crate::kernel::{Mount, hierarchies, myself};
use crate::needs::Need;

/// How well something is there; a later one outweighs an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is there, and was tried where it can be.
    Works,
    /// Something is lacking that the steps can do without.
    Limited,
    /// Only root can tell, and the caller is not root.
    Untried,
    /// It is not there, and a step cannot run without it.
    Missing,
}

/// A step, with its user if that makes a difference: `step 0`, `step 4 as root`.
pub type Step = &'static str;

/// One thing that the machine has or lacks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// What it is about.
    pub name: String,
    /// How well it is there.
    pub state: State,
    /// The result.
    pub fact: String,
    /// What would help; empty when nothing is lacking.
    pub remedy: String,
    /// The steps that are limited, untried or stopped by it.
    #[serde(skip)]
    pub steps: &'static [Step],
}

/// Whether a step can run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Which step.
    pub step: Step,
    /// The worst state among the lines that it needs.
    pub state: State,
    /// The lines of that state: what it is about and what was found.
    pub because: Vec<String>,
    /// Their remedies.
    pub remedies: Vec<String>,
}

/// The user that tries something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The caller.
    Caller,
    /// An ordinary user: the caller, or when that is root, the one who called sudo, or else nobody.
    User,
}

/// A cgroup hierarchy.
#[derive(Debug, Clone, Default)]
struct Tree {
    point: String,
    v2: bool,
    controllers: Vec<String>,
    /// Why root cannot make a cgroup there.
    refused: Option<String>,
    /// v2, within a container: the top has processes of its own, so it cannot pass controllers on.
    busy: bool,
}

/// The facts about a machine.
#[derive(Debug, Clone)]
pub struct Facts {
    /// How root asks again.
    as_root: String,
    release: String,
    uid: u32,
    root: Result<(), String>,
    /// The ordinary user's number and name, if one is known.
    user: Option<(u32, String)>,
    /// Whether the namespaces are those that the kernel started with.
    first_pid_namespace: bool,
    first_user_namespace: bool,
    /// What says that this is a container.
    marker: Option<String>,
    /// Whether a seccomp filter already holds.
    filtered: bool,
    /// The kinds of namespace that the kernel has, with the most that there may be of each.
    kinds: BTreeMap<String, Option<u64>>,
    /// Debian's switch.
    clone_forbidden: bool,
    /// Ubuntu's.
    apparmor_restricts: bool,
    /// By the attempt's name; those as an ordinary user end in `, users`.
    tried: BTreeMap<String, Tried>,
    trees: Vec<Tree>,
    /// The controllers that are not there, and why.
    lacking: BTreeMap<&'static str, String>,
    swap: Result<(), String>,
    programs: Vec<&'static str>,
    /// Whether `/etc/subuid` and `/etc/subgid` have a line for the user.
    subordinate: (bool, bool),
    seccomp: Result<(), String>,
    terminal: Result<(), String>,
    systemd: bool,
}

impl Facts {
    /// Finds out. `ask` runs [`attempt`](crate::attempt::attempt()) with these names in a process of its own,
    /// within a time limit. `user` is the ordinary user's number, if one is known. `again` is the command
    /// that asks again.
    pub fn gather(ask: &dyn Fn(Who, &[&str]) -> Tried, user: Option<u32>, again: &str) -> Facts {
        let uid = geteuid().as_raw();
        let mut tried = BTreeMap::new();
        for name in KINDS.into_iter().chain(["overlay", "veth", "bridge", "nft"]) {
            // A user can try these only where the user is root: in a user namespace.
            let names = if uid == 0 { &[name][..] } else { &["user", name] };
            tried.insert(name.to_owned(), ask(Who::Caller, names));
        }
        tried.insert("user".into(), ask(Who::Caller, &["user"]));
        for names in [&["user"][..], &["user", "overlay"], &["delegation"]] {
            let name = names.last().copied().unwrap_or_default();
            tried.insert(format!("{name}, users"), ask(Who::User, names));
        }

        let me = myself();
        let user = user.map(|uid| (uid, user_name(uid).unwrap_or_default()));
        let has_ids = |file| {
            user.as_ref().is_some_and(|(uid, name)| {
                let owners = text(file);
                let mut owners = owners.lines().filter_map(|line| line.split(':').next());
                owners.any(|owner| owner == uid.to_string() || (!name.is_empty() && owner == name))
            })
        };
        // The kernel gives its first namespaces these numbers: include/uapi/linux/nsfs.h.
        let is_first = |kind: &str, number: u32| {
            me.namespace(kind).is_ok_and(|it| it == Path::new(&format!("{kind}:[{number}]")))
        };
        let limit = |kind: &str| text(format!("/proc/sys/user/max_{kind}_namespaces")).parse().ok();
        let exists = |kind: &&str| Path::new("/proc/self/ns").join(kind).exists();
        let programs = ["sudo", "nft", "newuidmap", "newgidmap", "pasta", "slirp4netns", "busybox"];
        Facts {
            as_root: match installed("sudo") {
                Some(_) => format!("sudo {again}"),
                None => format!("as root: {again}"),
            },
            release: text("/proc/sys/kernel/osrelease"),
            uid,
            root: Need::Root.met(),
            first_pid_namespace: is_first("pid", 0xEFFF_FFFC),
            first_user_namespace: is_first("user", 0xEFFF_FFFD),
            marker: marker(),
            filtered: me.status("Seccomp").is_ok_and(|mode| mode == "2"),
            kinds: KINDS
                .into_iter()
                .chain(["user"])
                .filter(exists)
                .map(|kind| (kind.to_owned(), limit(kind)))
                .collect(),
            clone_forbidden: text("/proc/sys/kernel/unprivileged_userns_clone") == "0",
            apparmor_restricts: text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
            tried,
            trees: trees(),
            lacking: CONTROLLERS
                .into_iter()
                .filter_map(|name| Some((name, Need::Controller(name).met().err()?)))
                .collect(),
            swap: Need::SwapAccounting.met(),
            programs: programs.into_iter().filter(|name| installed(name).is_some()).collect(),
            subordinate: (has_ids("/etc/subuid"), has_ids("/etc/subgid")),
            seccomp: match text("/proc/sys/kernel/seccomp/actions_avail").as_str() {
                "" => Err("this kernel was built without CONFIG_SECCOMP_FILTER".into()),
                _ => Ok(()),
            },
            terminal: terminal(),
            systemd: Path::new("/run/systemd/system").exists(),
            user,
        }
    }
}

impl Tree {
    /// Its controllers that the steps use.
    fn useful(&self) -> impl Iterator<Item = &str> {
        CONTROLLERS.into_iter().filter(|name| self.controllers.iter().any(|has| has == name))
    }
}

/// A small file's text; empty when it cannot be read, as where the kernel or the distribution has no such
/// knob.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A user's name, read by hand from passwd(5): a static binary cannot ask the C library's name services.
fn user_name(uid: u32) -> Option<String> {
    let users = text("/etc/passwd");
    let mut users = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|fields| fields.get(2) == Some(&uid.to_string().as_str()))?;
    user.first().map(|name| (*name).to_owned())
}

/// What container runtimes leave for programs to see. Not proof: images of virtual machines keep such files.
fn marker() -> Option<String> {
    let files = ["/.dockerenv", "/run/.containerenv"];
    let file = files.into_iter().find(|file| Path::new(file).exists()).map(str::to_owned);
    // systemd-nspawn and LXC tell PID 1 only by this variable: systemd's "Container Interface".
    file.or_else(|| Some(format!("$container is {}", std::env::var("container").ok()?)))
}

fn trees() -> Vec<Tree> {
    let of = |it: crate::kernel::Hierarchy| {
        let in_top = |file: &str| text(it.point.join(file));
        Tree {
            // What a user may make there is the delegation's matter.
            refused: access(&it.point, AccessFlags::W_OK)
                .err()
                .filter(|_| geteuid().is_root())
                .map(|errno| errno.to_string()),
            // The real top has no cgroup.type, and may have both.
            busy: it.v2
                && it.point.join("cgroup.type").exists()
                && !in_top("cgroup.procs").is_empty()
                && !in_top("cgroup.subtree_control").contains("memory"),
            point: it.point.display().to_string(),
            v2: it.v2,
            controllers: it.controllers,
        }
    };
    hierarchies().unwrap_or_default().into_iter().map(of).collect()
}

fn terminal() -> Result<(), String> {
    // Opening it makes a pseudo-terminal, which is gone when it is closed: pts(4).
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/ptmx")
        .map_err(|error| format!("/dev/ptmx: {error}"))?;
    let mounts = Mount::of_host().unwrap_or_default();
    if mounts.iter().any(|mount| mount.kind == "devpts") {
        Ok(())
    } else {
        Err("no devpts is mounted".into())
    }
}
