//! What a container's command begins with: everything that /proc tells of it at the moment of its exec.
//!
//! Two runs whose figures are equal gave their commands the same protection. Changes nothing. Kernel objects:
//! `/proc/PID` of a process that is stopped. Man pages: proc(5), namespaces(7), cgroups(7).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::LazyLock;

use checks::kernel::{Process, myself};
use nix::unistd::Pid;
use regex::Regex;

use super::place::steady;

/// A figure's name, and what was found.
pub type Figures = BTreeMap<String, String>;

/// The lines of `/proc/PID/status` that do not differ between two equal runs.
const STATUS: [&str; 20] = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Speculation_Store_Bypass",
    "Cpus_allowed_list",
    "Mems_allowed_list",
    "THP_enabled",
    "CoreDumping",
];

/// The files of a cgroup that hold limits.
const LIMITS: [&str; 16] = [
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.max",
    "memory.swap.max",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.shares",
    "cpu.max",
    "cpu.weight",
    "cpuset.cpus",
    "cpuset.mems",
    "pids.max",
    "devices.list",
    "memory.swappiness",
    "cgroup.subtree_control",
    "cgroup.type",
];

/// Files of `/proc/PID` that are compared whole.
const FILES: [&str; 10] = [
    "limits",
    "uid_map",
    "gid_map",
    "setgroups",
    "projid_map",
    "oom_score_adj",
    "environ",
    "cmdline",
    "coredump_filter",
    "timens_offsets",
];

/// Host ids that a container has for itself.
static IDS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[0-9]{7,10}\b").expect("a regular expression"));

/// Whether two commands began with the same.
///
/// # Errors
/// With the first figure that differs.
pub fn same(ours: &Figures, theirs: &Figures) -> Result<(), String> {
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differs = names.into_iter().find(|name| ours.get(*name) != theirs.get(*name));
    differs.map_or(Ok(()), |name| Err(format!("{name} is {:?}, not {:?}", ours.get(name), theirs.get(name))))
}

/// Looks at a process that its tracer has stopped. `None` when it was killed meanwhile: then some figures
/// would be of the process, and some of what was left of it.
pub fn of(pid: Pid) -> Option<Figures> {
    let process = Process(pid.as_raw());
    let figures = figures_of(process);
    let is_still_stopped = process.status("State").is_ok_and(|state| state.starts_with('t'));
    is_still_stopped.then_some(figures)
}

fn figures_of(process: Process) -> Figures {
    let mut figures = Figures::new();
    let status = process.read("status").unwrap_or_default();
    for line in status.lines() {
        if let Some((name, value)) = line.split_once(':')
            && STATUS.contains(&name)
        {
            // Root's containers have host ids of their own each time. They begin far above a host's users.
            figures.insert(name.into(), IDS.replace_all(value.trim(), "N").into_owned());
        }
    }
    // A container whose command is no process of the host has a number for each PID namespace.
    let depth = process.status("NSpid").unwrap_or_default().split_whitespace().count();
    figures.insert("PID namespaces".into(), depth.to_string());
    for file in FILES {
        let text = process.read(file).unwrap_or_else(|failure| failure.found);
        let text = if file.ends_with("_map") { IDS.replace_all(&text, "N").into_owned() } else { text };
        figures.insert(file.into(), text);
    }
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let is_ours = process.namespace(kind).ok() == myself().namespace(kind).ok();
        figures.insert(format!("namespace {kind}"), if is_ours { "the host's" } else { "its own" }.into());
    }
    let mounts = process.read("mountinfo").unwrap_or_default();
    for (index, line) in mounts.lines().enumerate() {
        // Without the ids of the mount and the device.
        let fields: Vec<_> = line.split(' ').skip(3).collect();
        figures.insert(format!("mount {index}"), steady(&fields.join(" ")));
    }
    for link in ["root", "cwd", "exe"] {
        let to = fs::read_link(process.path(link)).unwrap_or_default();
        figures.insert(link.into(), steady(&to.to_string_lossy()));
    }
    for entry in fs::read_dir(process.path("fd")).into_iter().flatten().flatten() {
        let to = fs::read_link(entry.path()).unwrap_or_default();
        figures.insert(format!("descriptor {}", entry.file_name().display()), steady(&to.to_string_lossy()));
    }
    if let Ok(cgroup) = process.cgroup() {
        for folder in cgroup.folders() {
            let name = steady(&folder.to_string_lossy());
            for limit in LIMITS {
                if let Ok(text) = fs::read_to_string(folder.join(limit)) {
                    figures.insert(format!("{name}/{limit}"), text);
                }
            }
            figures.insert(name, "the cgroup".into());
        }
    }
    devices(&process.path("root/dev"), "/dev", &mut figures);
    for file in ["route", "ipv6_route", "if_inet6"] {
        let text = process.read(&format!("net/{file}")).unwrap_or_default();
        // The order is the kernel's.
        let lines: BTreeSet<_> = text.lines().filter(|line| !is_link_local(line)).map(steady).collect();
        figures.insert(format!("net/{file}"), lines.into_iter().collect::<Vec<_>>().join("; "));
    }
    let links = process.read("net/dev").unwrap_or_default();
    let links: Vec<_> = links.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    figures.insert("net/dev".into(), links.join(" "));
    figures
}

/// Whether a line of `if_inet6` or `ipv6_route` is about addresses that hold for one link only. The kernel
/// adds them of itself, some time after the link is up.
fn is_link_local(line: &str) -> bool {
    line.starts_with("fe80") || line.starts_with("ff00")
}

fn devices(folder: &Path, name: &str, figures: &mut Figures) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = format!("{name}/{}", entry.file_name().display());
        let Ok(there) = fs::symlink_metadata(entry.path()) else { continue };
        if there.is_symlink() {
            let to = fs::read_link(entry.path()).unwrap_or_default();
            figures.insert(path, format!("-> {}", to.display()));
            continue;
        }
        figures.insert(path.clone(), format!("{:o} {}", there.mode(), there.rdev()));
        // The host's terminals, where the container has the host's.
        if there.is_dir() && path != "/dev/pts" {
            devices(&entry.path(), &path, figures);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::ptrace;
    use nix::sys::wait::waitpid;
    use nix::unistd::Pid;

    use super::{is_link_local, of};

    #[test]
    fn a_process_that_was_killed_meanwhile_has_no_figures() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a process");
        let pid = Pid::from_raw(child.id().cast_signed());
        ptrace::attach(pid).expect("a traced process");
        waitpid(pid, None).expect("its stop");
        assert!(of(pid).is_some());
        child.kill().expect("a kill");
        assert!(of(pid).is_none());
        child.wait().expect("its end");
    }

    #[test]
    fn only_what_the_kernel_adds_of_itself_is_left_out() {
        assert!(is_link_local("fe80000000000000a42cbafffe0e7f2b 02 40 20 c0     eth0"));
        assert!(is_link_local("ff000000000000000000000000000000 08 00000000000000000000000000000000 00"));
        assert!(!is_link_local("00000000000000000000000000000001 01 80 10 80       lo"));
        assert!(!is_link_local("fd000000000000000000000000000002 02 40 00 80     eth0"));
    }
}
