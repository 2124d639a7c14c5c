//! What this machine can do: each need of a check, and how to find out whether it is met. Checks are
//! skipped for these reasons, `doctor` prints them.
//!
//! Finding out changes nothing for good. A thread tries a namespace, and its end frees the namespace again.
//! Man pages: unshare(2), namespaces(7), cgroups(7).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use nix::sched::{CloneFlags, sched_getaffinity};
use nix::unistd::{AccessFlags, Pid, access, geteuid};

use crate::attempt::{attempt, namespace, try_namespaces};
use crate::installed::program;
use crate::{inside, kernel};

/// Something that a machine must have for a check to mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To be root, with its privileges.
    Root,
    /// A host of the checks' own, for an ordinary user: see [`host::enter`](crate::host::enter).
    UsersHost,
    /// A namespace of this kind, as `/proc/self/ns` names it.
    Namespace(&'static str),
    /// A cgroup controller that is mounted, in v1 or v2.
    Controller(&'static str),
    /// That the kernel counts swap for each cgroup.
    SwapAccounting,
    /// A host without swap, to which a memory hog would move.
    NoSwap,
    /// So many processors.
    Cpus(usize),
    /// A kernel with veth pairs and bridges, and `nft` with a kernel whose rules it can load.
    Bridge,
    /// A host outside on a veth pair.
    Veth,
    /// A host with IPv6 on its loopback.
    Ipv6,
    /// A program of the host.
    Program(&'static str),
    /// A Debian root filesystem.
    Debian,
    /// Lists of subordinate ids, and the programs that go by them.
    Subordinate,
    /// A kernel in which an ordinary user may mount an overlay.
    UsersOverlay,
    /// A kernel with volatile overlays.
    VolatileOverlay,
    /// That no cgroup is the user's.
    NoDelegation,
    /// That a part of the cgroups can be given to a user: v2.
    DelegableCgroup,
    /// A tap device, with which an ordinary user's program speaks for a container.
    Tap,
    /// That an ordinary user may make a user namespace, and mount an overlay in it.
    Rootless,
    /// A kernel and a file system that map the owners of files.
    IdmappedMounts,
    /// A kernel with keyrings.
    Keyrings,
    /// A kernel that runs 32-bit programs, and a way for ours to be one.
    Abi32,
}

impl Need {
    /// Whether this machine has it.
    ///
    /// # Errors
    /// The missing thing in words, with what would help.
    pub fn met(self) -> Result<(), String> {
        match self {
            Need::Root => root(),
            Need::UsersHost => users_host(),
            Need::Namespace(kind) => namespace(kind),
            Need::Controller(name) => controller(name),
            Need::SwapAccounting => swap_accounting(),
            Need::NoSwap => no_swap(),
            Need::Cpus(count) => cpus(count),
            Need::Bridge => bridge(),
            Need::Veth => attempt(&["veth"]).map(|_| ()),
            Need::Ipv6 => ipv6(),
            Need::Program(name) => program(name).map(|_| ()),
            Need::Debian => debian_root().map(|_| ()),
            Need::Subordinate => subordinate(),
            Need::UsersOverlay => users_overlay(),
            Need::VolatileOverlay => since((5, 10), "before Linux 5.10 no overlay is volatile"),
            Need::NoDelegation => no_delegation(),
            Need::DelegableCgroup => delegable().map(|_| ()),
            Need::Tap => tap(),
            Need::Rootless => rootless(),
            Need::IdmappedMounts => idmapped_mounts(),
            Need::Keyrings => keyrings(),
            Need::Abi32 => abi_32(),
        }
    }
}

/// The controllers that are passed on to a user.
pub(crate) const DELEGATED: [&str; 3] = ["memory", "cpu", "pids"];

/// Where a tap device is made.
pub(crate) const TUN: &str = "/dev/net/tun";

/// Whether an ordinary user could be given a host of its own; `None` until it was tried.
pub(crate) static USERS_HOST: OnceLock<Result<(), String>> = OnceLock::new();

/// The first step that an ordinary user can run.
pub const ROOTLESS: u8 = 4;

/// The first reason why a check with these needs cannot try this step here.
pub fn lacking(needs: &[Need], step: u8) -> Option<String> {
    // What every check needs.
    let always = if step < ROOTLESS || geteuid().is_root() { Need::Root } else { Need::UsersHost };
    [always].iter().chain(needs).find_map(|need| need.met().err())
}

/// Why there is no host for an ordinary user's checks.
fn users_host() -> Result<(), String> {
    USERS_HOST.get().cloned().unwrap_or_else(|| Err("not root: run it with sudo".into()))
}

fn root() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("not root: run it with sudo".into());
    }
    // Root of a container lacks what root of a host has.
    try_namespaces(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("root, but without CAP_SYS_ADMIN ({errno}): inside another container?"))
}

fn controller(name: &str) -> Result<(), String> {
    if !geteuid().is_root() {
        return delegated(name);
    }
    let hierarchies = kernel::hierarchies().map_err(|failure| failure.found)?;
    if hierarchies.iter().any(|hierarchy| hierarchy.controllers.iter().any(|has| has == name)) {
        return Ok(());
    }
    let kernel_has_it = fs::read_to_string("/proc/cgroups")
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().next() == Some(name)));
    Err(match kernel_has_it {
        true => format!("the cgroup controller {name} is not mounted, or not given to this cgroup"),
        false => format!("this kernel has no cgroup controller {name}"),
    })
}

/// Whether an ordinary user has a place for cgroups, in which this controller is at work.
fn delegated(name: &str) -> Result<(), String> {
    let place = attempt(&["delegation"])?;
    let has = place.split_whitespace().any(|word| word == name);
    if has { Ok(()) } else { Err(format!("no controller {name} is delegated: {place}")) }
}

fn swap_accounting() -> Result<(), String> {
    controller("memory")?;
    let hierarchies = kernel::hierarchies().map_err(|failure| failure.found)?;
    let counts =
        hierarchies.iter().filter(|it| it.controllers.iter().any(|name| name == "memory")).any(|it| {
            // The top of v2 has no limits: any group below it shows whether the kernel knows the file.
            let below = kernel::listing(&it.point, 2);
            it.point.join("memory.memsw.limit_in_bytes").exists()
                || below.iter().any(|path| path.ends_with("memory.swap.max"))
        });
    if counts {
        Ok(())
    } else {
        Err("this kernel does not count swap for cgroups (boot it with swapaccount=1)".into())
    }
}

/// Asked by many checks, and it starts a program.
fn bridge() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    let ask = || {
        if !geteuid().is_root() {
            return Err("a bridge needs root".into());
        }
        program("nft")?;
        attempt(&["veth", "bridge", "nft"]).map(|_| ())
    };
    ANSWER.get_or_init(ask).clone()
}

fn ipv6() -> Result<(), String> {
    std::net::TcpListener::bind("[::1]:0").map(drop).map_err(|error| format!("no IPv6 on loopback: {error}"))
}

fn keyrings() -> Result<(), String> {
    match fs::exists("/proc/keys") {
        Ok(true) => Ok(()),
        _ => Err("this kernel has no keyrings".into()),
    }
}

fn abi_32() -> Result<(), String> {
    match by_ourselves(&[inside::CALL_32_BIT]) {
        Some(_) => Ok(()),
        None => Err("this kernel runs no 32-bit programs of this machine".into()),
    }
}

/// Where the state folders of the checks lie.
fn idmapped_mounts() -> Result<(), String> {
    let folder = std::env::temp_dir();
    match by_ourselves(&[inside::MAP_IDS, &folder.to_string_lossy()]) {
        Some(answer) if answer.trim() == "map-ids=ok" => Ok(()),
        _ => Err(format!("no idmapped mounts in {}", folder.display())),
    }
}

/// What a process of this executable prints that acts so; nothing when it does not end well.
fn by_ourselves(words: &[&str]) -> Option<String> {
    let mut program = std::process::Command::new("/proc/self/exe");
    program.arg(inside::ASKED).args(words).stdin(Stdio::null()).stderr(Stdio::null());
    let output = program.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn no_swap() -> Result<(), String> {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() <= 1 {
        Ok(())
    } else {
        Err("this host has swap, to which a memory hog moves".into())
    }
}

fn cpus(count: usize) -> Result<(), String> {
    let here = allowed_cpus().len();
    if here >= count { Ok(()) } else { Err(format!("needs {count} processors, there are {here}")) }
}

/// The numbers of the processors on which the checks may run.
pub fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

fn subordinate() -> Result<(), String> {
    program("newuidmap")?;
    program("newgidmap")?;
    let lists = ["/etc/subuid", "/etc/subgid"];
    match lists.into_iter().find(|list| !Path::new(list).exists()) {
        Some(missing) => Err(format!("there is no {missing}")),
        None => Ok(()),
    }
}

/// Since 5.11; before, whoever is root of a user namespace gets EPERM.
pub(crate) fn users_overlay() -> Result<(), String> {
    since((5, 11), "before Linux 5.11 an ordinary user has no overlay")
}

fn since((major, minor): (u32, u32), before: &str) -> Result<(), String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) < (Some(major), Some(minor)) {
        true => Err(before.into()),
        false => Ok(()),
    }
}

fn no_delegation() -> Result<(), String> {
    // Root becomes an ordinary user without a delegated cgroup.
    match geteuid().is_root() || attempt(&["delegation"]).is_err() {
        true => Ok(()),
        false => Err("this user has a part of the cgroups".into()),
    }
}

/// Where v2 is mounted, with these controllers.
///
/// # Errors
/// In words, when it is not.
pub(crate) fn delegable() -> Result<PathBuf, String> {
    let all = kernel::hierarchies().map_err(|failure| failure.found)?;
    let v2 = all.into_iter().find(|hierarchy| hierarchy.v2).ok_or("cgroup v2 is not mounted")?;
    match DELEGATED.iter().find(|name| !v2.controllers.iter().any(|has| has == *name)) {
        Some(missing) => Err(format!("cgroup v2 has no controller {missing} here")),
        None => Ok(v2.point),
    }
}

fn tap() -> Result<(), String> {
    let device = Path::new(TUN);
    match device.exists()
        && (geteuid().is_root() || access(device, AccessFlags::R_OK | AccessFlags::W_OK).is_ok())
    {
        true => Ok(()),
        false => Err(format!("{} is not there for all users", TUN)),
    }
}

fn rootless() -> Result<(), String> {
    let says = |name: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|text| text.trim() == value)
    };
    let switched_off = [
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    if let Some((name, value)) = switched_off.into_iter().find(|(name, value)| says(name, value)) {
        return Err(format!("ordinary users may make no user namespace: /proc/sys/{name} is {value}"));
    }
    users_overlay()
}

/// The Debian root filesystem that `cargo xtask debian` has made.
///
/// # Errors
/// In words, when there is none.
pub fn debian_root() -> Result<PathBuf, String> {
    let none = || "there is no Debian root: cargo xtask debian makes one".to_owned();
    debian_folder().filter(|root| root.join("bin/sh").exists()).ok_or_else(none)
}

/// Where it is kept: `$CONGO_HOME/debian`, else in the user's cache. `None` where there is no such folder.
pub fn debian_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("CONGO_HOME")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("congo")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/congo")))?;
    Some(folder.join("debian"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(Need::Program("no-such-program").met().unwrap_err().contains("no-such-program"));
        // An ordinary user may hear first that it has no place for a cgroup.
        assert!(Need::Controller("no-such").met().is_err());
        assert!(Need::Cpus(100_000).met().unwrap_err().contains("100000"));
        assert!(Need::Namespace("no-such").met().is_err());
    }

    #[test]
    fn what_is_there_is_found() {
        assert_eq!(Need::Program("sh").met(), Ok(()));
        assert_eq!(Need::Cpus(1).met(), Ok(()));
    }
}
