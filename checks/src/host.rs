//! A host of the checks' own, and the guard that compares it before and after each check.
//!
//! The checks put themselves into a mount namespace whose mounts are shared, as systemd shares a host's. They
//! also have UTS, IPC and network namespaces, the last with its loopback interface up. So a runtime that
//! forgets to make its mounts private is caught on every machine. And a learner's mistake can unmount or
//! rename nothing outside of these namespaces. As a subreaper the checks become the parent of every process
//! that outlives its runtime. Started by root, they have cgroups of their own, too: see `cgroups.rs`. Other
//! people's runtimes can come and go on the same machine, since they make nothing on this host. Every new
//! object on it comes from a runtime of these checks.
//!
//! An ordinary user gets such a host, too, in a user namespace with the user's own ids. The checks have all
//! capabilities there. The runtime that they start has none, as an exec takes them from a user other than
//! root.
//!
//! Call [`enter`] once, before any thread is started. Man pages: mount_namespaces(7), user_namespaces(7),
//! PR_SET_CHILD_SUBREAPER(2const).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getegid, geteuid, gethostname};

use crate::cgroups::Cgroups;
use crate::installed::program;
use crate::kernel::{self, Mount, Process, myself};
use crate::needs::USERS_HOST;
use crate::{Checked, Failure, Subject, needs, netlink, network};

/// How long what a run leaves may take to go: the kernel frees some things after the last process is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Moves this process, and all that it starts, to a host of its own, on which a step is tried. If an ordinary
/// user cannot have such a host, all checks are skipped, with the reason. Hold the result for as long as
/// checks run.
///
/// # Errors
/// EPERM for root without `CAP_SYS_ADMIN`.
pub fn enter(step: u8) -> nix::Result<Cgroups> {
    if geteuid().is_root() {
        return match needs::lacking(&[], step) {
            None => enter_as_root(Cgroups::enter),
            Some(_) => Ok(Cgroups::default()),
        };
    }
    if step >= needs::ROOTLESS {
        let why = |errno| format!("no user namespace for a user's checks: {errno}");
        let entered = needs::users_overlay().and_then(|()| {
            // A user's cgroups, if it has some, are nobody else's already.
            let entered = own_ids().and_then(|()| enter_as_root(Cgroups::default));
            entered.and_then(|_| no_subordinate_ids()).map_err(why)
        });
        let _ = USERS_HOST.set(entered);
    }
    Ok(Cgroups::default())
}

/// A user namespace that knows this one user, by its own id.
fn own_ids() -> nix::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    for (file, text) in [
        ("setgroups", "deny".into()),
        ("gid_map", format!("{group} {group} 1")),
        ("uid_map", format!("{user} {user} 1")),
    ] {
        let written = fs::write(Path::new("/proc/self").join(file), text);
        written.map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or_default()))?;
    }
    Ok(())
}

/// newuidmap(1) is root's program, and there is no root in the namespace: the lists from which it reads are
/// hidden, so that no runtime tries. Other checks have lists.
fn no_subordinate_ids() -> nix::Result<()> {
    for list in ["/etc/subuid", "/etc/subgid"].into_iter().filter(|list| Path::new(list).exists()) {
        mount(Some("/dev/null"), list, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    Ok(())
}

fn enter_as_root(cgroups: impl FnOnce() -> Cgroups) -> nix::Result<Cgroups> {
    nix::sys::prctl::set_child_subreaper(true)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)?;
    own_network()?;
    // Private first: it cuts the tie to the real host's mounts. Shared then makes new ties, within this host
    // only.
    let change_all =
        |propagation| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | propagation, None::<&str>);
    change_all(MsFlags::MS_PRIVATE)?;
    let cgroups = cgroups();
    change_all(MsFlags::MS_SHARED)?;
    // POSIX shared memory belongs to the IPC namespace by convention only: this is what goes with ours.
    if Path::new(SHARED_MEMORY).is_dir() {
        mount(Some("shm"), SHARED_MEMORY, Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))?;
    }
    Ok(cgroups)
}

/// Moves this thread, and what it starts, to a network of its own, in which it can talk to itself.
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`.
pub fn own_network() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    netlink::set_up(netlink::LOOPBACK, true)
}

/// Where POSIX shared memory lies: shm_overview(7).
pub(crate) const SHARED_MEMORY: &str = "/dev/shm";

/// What of the host a runtime could change and must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    mounts: BTreeSet<Mount>,
    cgroups: BTreeSet<PathBuf>,
    links: BTreeSet<String>,
    tables: BTreeSet<String>,
    forwarding: bool,
    files: BTreeSet<PathBuf>,
    processes: BTreeSet<Process>,
    hostname: String,
}

impl Look {
    /// Looks at the host.
    pub fn at(subject: &Subject) -> Look {
        Look {
            mounts: Mount::of_host().unwrap_or_default().into_iter().collect(),
            cgroups: cgroups(),
            links: links(),
            tables: tables(subject),
            forwarding: network::forwarding().unwrap_or_default(),
            files: files(subject),
            processes: myself().descendants().into_iter().collect(),
            hostname: hostname(),
        }
    }

    /// Compares the host now with what it was. Gives what is about to go the time to go, and ends what stays.
    ///
    /// # Errors
    /// With what is new or gone.
    pub fn compare(&self, subject: &Subject) -> Checked {
        let differences = self.changes(subject, PATIENCE);
        if differences.is_empty() {
            return Ok(());
        }
        self.clean_up(subject);
        let expected = "after the run the host is as it was before";
        Err(Failure { left_behind: true, ..Failure::new(expected, differences.join(", ")) })
    }

    /// The changes on the host. Links and processes that are about to go get this time to do so.
    pub fn changes(&self, subject: &Subject, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        loop {
            self.reap();
            let differences = self.differences(&Look::at(subject));
            if differences.is_empty() || Instant::now() > deadline {
                return differences;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn differences(&self, now: &Look) -> Vec<String> {
        let mut found = vec![];
        let mut compare = |what: &str, before: BTreeSet<String>, after: BTreeSet<String>| {
            found.extend(after.difference(&before).map(|new| format!("a new {what}: {new}")));
            found.extend(before.difference(&after).map(|gone| format!("a {what} is gone: {gone}")));
        };
        let mounts = |look: &Look| look.mounts.iter().map(in_words).collect();
        compare("mount", mounts(self), mounts(now));
        compare("network link", self.links.clone(), now.links.clone());
        compare("packet filter", self.tables.clone(), now.tables.clone());
        let forwarding = |look: &Look| [if look.forwarding { "on" } else { "off" }.to_owned()].into();
        compare("state of net.ipv4.ip_forward", forwarding(self), forwarding(now));
        let paths = |paths: &BTreeSet<PathBuf>| paths.iter().map(|path| path.display().to_string()).collect();
        compare("file", paths(&self.files), paths(&now.files));
        // A run may sweep away what an earlier one left: a cgroup that is gone is no fault.
        compare("cgroup", BTreeSet::new(), paths(&(&now.cgroups - &self.cgroups)));
        let new = now.processes.difference(&self.processes);
        let new = new.map(|process| format!("{} ({})", process.0, process.command_line())).collect();
        compare("process", BTreeSet::new(), new);
        compare("host name", [self.hostname.clone()].into(), [now.hostname.clone()].into());
        found
    }

    /// Reaps what a dead runtime left to the subreaper.
    fn reap(&self) {
        for process in myself().descendants() {
            if !self.processes.contains(&process) && process.is_zombie() {
                let _ = waitpid(Pid::from_raw(process.0), Some(WaitPidFlag::WNOHANG));
            }
        }
    }

    /// So that one failure is not the cause of the next.
    fn clean_up(&self, subject: &Subject) {
        for process in myself().descendants() {
            if !self.processes.contains(&process) {
                process.end();
            }
        }
        let _ = nix::unistd::sethostname(&self.hostname);
        let now = Look::at(subject);
        for new in now.mounts.difference(&self.mounts) {
            let _ = nix::mount::umount2(new.point.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        for new in now.links.difference(&self.links) {
            let _ = netlink::delete(new);
        }
        for new in now.tables.difference(&self.tables) {
            let _ = Command::new("nft").arg("delete").args(new.split_whitespace()).status();
        }
        let _ = network::set_forwarding(self.forwarding);
        // What a runtime remembers of them.
        let _ = fs::remove_dir_all(subject.home().join("run"));
        thread::sleep(Duration::from_millis(50));
        self.reap();
        for folder in &cgroups() - &self.cgroups {
            // Only an empty cgroup can be removed.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The host's name: of this thread's UTS namespace.
pub fn hostname() -> String {
    gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

/// The cgroups at the top of each hierarchy and below the one in which the checks are, where a runtime may
/// put its own.
fn cgroups() -> BTreeSet<PathBuf> {
    let tops = kernel::hierarchies().unwrap_or_default().into_iter().map(|hierarchy| hierarchy.point);
    let own = myself().cgroup();
    let own = own.iter().flat_map(|cgroup| cgroup.folders()).map(Path::to_owned);
    let below = tops.chain(own).flat_map(|folder| kernel::listing(&folder, 1));
    below.filter(|path| path.is_dir()).collect()
}

/// The tables of the packet filter, as `table inet congo`, for steps that may have made some.
fn tables(subject: &Subject) -> BTreeSet<String> {
    if subject.step() < 2 || program("nft").is_err() {
        return BTreeSet::new();
    }
    network::tables().unwrap_or_default().lines().map(str::to_owned).collect()
}

fn links() -> BTreeSet<String> {
    let text = fs::read_to_string(Process::this_thread().join("net/dev")).unwrap_or_default();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// The files that images and options leave in the state folder on purpose. They are unpacked layers, their
/// copies for other ids, and named folders for the next run.
const TO_STAY: [&str; 4] = ["layers", "kept", "shifted", "volumes"];

/// How the names of other people's files begin, in folders that all users share: other checks' folders, and
/// the socket of a runtime without `$TMPDIR`, the sessions of the documents and of the stages. The runs of
/// these checks have a `$TMPDIR` of their own.
const OF_OTHERS: [&str; 4] = [crate::subject::PREFIX, "congo-slirp-", "congo-readme-", "congo-stage-"];

/// The state folder, without root filesystems and files that are meant to stay. Also the subject's temporary
/// files, and files with Congo's name where temporary files usually are.
fn files(subject: &Subject) -> BTreeSet<PathBuf> {
    let home = subject.home();
    // No further up: the host's own root has a /proc, too.
    let within = |folder: &&Path| folder.starts_with(&home);
    let is_in_root = |path: &PathBuf| {
        path.ancestors().skip(1).take_while(within).any(|folder| folder.join("proc").exists())
    };
    let is_to_stay = |path: &PathBuf| TO_STAY.iter().any(|name| path.starts_with(home.join(name)));
    let mut found = kernel::listing(&home, 3);
    found.retain(|path| !is_to_stay(path) && !is_in_root(path));
    found.extend(kernel::listing(&subject.temporary(), 2));
    for folder in ["/tmp", "/var/tmp", "/dev/shm", "/run/congo"] {
        let carries_name = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.contains("congo") && !OF_OTHERS.iter().any(|prefix| name.starts_with(prefix))
        };
        found.extend(kernel::listing(Path::new(folder), 1).into_iter().filter(carries_name));
    }
    found
}

fn in_words(mount: &Mount) -> String {
    let Mount { point, kind, source, options, propagation, root, .. } = mount;
    format!("{source}{root} at {point} ({kind} {options} {propagation})")
}
