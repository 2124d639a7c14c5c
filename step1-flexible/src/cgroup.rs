//! How much the container may use: a control group, and the limits written into its files.
//!
//! Kernel object: a cgroup. It is a directory in a cgroup filesystem: making the directory makes the group,
//! and its files are its settings. In v1 each controller has a hierarchy of its own, so the container has a
//! directory in each. In v2 one directory has the files of all. Order: make it, write the limits, only then
//! let a process in.
//!
//! | limit | cgroup v1 | cgroup v2 |
//! | --- | --- | --- |
//! | memory | `memory.limit_in_bytes` | `memory.max` |
//! | memory and swap | `memory.memsw.limit_in_bytes` | `memory.swap.max`: swap alone |
//! | CPU time | `cpu.cfs_period_us`, `cpu.cfs_quota_us` | `cpu.max` |
//! | share of CPU time | `cpu.shares` | `cpu.weight`: another scale |
//! | which CPUs, whose memory | `cpuset.cpus`, `cpuset.mems`: both needed | the same, each alone |
//! | processes | `pids.max` | `pids.max` |
//!
//! Man page: cgroups(7). The files: the kernel's admin-guide/cgroup-v1 and admin-guide/cgroup-v2.

use common::Result;
use common::fs::cgroupfs::{Cgroup, Version};
use common::run::handshake::ChildEnd;
use common::values;
use nix::errno::Errno;

use crate::cli::Limits;

/// Makes a cgroup with these limits and no process in it.
pub fn create(limits: &Limits) -> Result<Cgroup> {
    let mut controllers = vec!["memory", "cpu", "pids"];
    // Only when it is asked for: not every host has it, and each v1 hierarchy costs a directory.
    if limits.need("cpuset") {
        controllers.push("cpuset");
    }
    let cgroup = Cgroup::create(&controllers)?;
    pass_controllers_on(&cgroup)?;
    limit_memory(&cgroup, limits)?;
    limit_swap(&cgroup, limits)?;
    limit_cpu(&cgroup, limits)?;
    weigh_cpu(&cgroup, limits)?;
    pin_cpus(&cgroup, limits)?;
    limit_pids(&cgroup, limits)?;
    Ok(cgroup)
}

/// In v2, a cgroup has only the files of controllers that the cgroup above passes on. The one above may then
/// have no process of its own ("no internal processes"), as it would compete with whole groups. The topmost
/// cgroup is an exception.
fn pass_controllers_on(cgroup: &Cgroup) -> Result<()> {
    for v2 in cgroup.directories().iter().filter(|directory| directory.version == Version::V2) {
        let passed_on = v2.read_above("cgroup.subtree_control")?;
        let mut missing = v2.controllers.clone();
        missing.retain(|controller| !passed_on.split_whitespace().any(|name| name == controller));
        // A write costs milliseconds, even where it changes nothing.
        if !missing.is_empty() {
            v2.pass_on(&format!("+{}", missing.join(" +")))?;
        }
    }
    Ok(())
}

/// In the child: joins the cgroup, before it has children or threads. `0` means the process that writes.
pub fn join(cgroup: &Cgroup, parent: &ChildEnd) -> Result<()> {
    for directory in cgroup.directories() {
        match directory.version {
            // Moves one thread. `cgroup.procs` moves all threads of a process, and so makes the kernel wait
            // until no CPU looks at the old state any more: 7 to 15 milliseconds.
            Version::V1 => directory.write("tasks", 0)?,
            // clone3(2) has put the child there at its birth, with CLONE_INTO_CGROUP: Linux 5.7.
            Version::V2 if parent.was_born_in_cgroup() => {}
            // v2 has no `tasks`, as the threads of a process stay together.
            Version::V2 => directory.write("cgroup.procs", 0)?,
        }
    }
    Ok(())
}

/// At the limit, the kernel first frees memory, such as cached files. If it cannot free enough, its
/// out-of-memory killer ends a process.
fn limit_memory(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    match cgroup.version("memory") {
        Version::V1 => cgroup.write("memory", "memory.limit_in_bytes", limits.memory().v1()),
        Version::V2 => cgroup.write("memory", "memory.max", limits.memory()),
    }
}

/// Without a limit on swap, a container at its memory limit would go on in swap, and make the whole host
/// slow.
///
/// v1 counts memory and swap together, as the option does. That limit must not be below the memory limit, so
/// it is written later. v2 counts swap alone.
fn limit_swap(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    let (file, value) = match cgroup.version("memory") {
        Version::V1 => ("memory.memsw.limit_in_bytes", limits.memory_and_swap().v1()),
        Version::V2 => ("memory.swap.max", limits.swap().to_string()),
    };
    match cgroup.write("memory", file, value) {
        // A kernel may be unable to count swap. The runtime fails only if the user set this limit.
        Err(error) if error.errno() == Some(Errno::ENOENT) && !limits.need_swap() => Ok(()),
        result => result,
    }
}

/// At the limit, the kernel lets no process of the cgroup run until the next period begins.
fn limit_cpu(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    let (quota, period) = (limits.cpu_quota(), limits.cpu_period());
    match cgroup.version("cpu") {
        Version::V1 => {
            cgroup.write("cpu", "cpu.cfs_period_us", period)?;
            cgroup.write("cpu", "cpu.cfs_quota_us", quota.v1())
        }
        Version::V2 => cgroup.write("cpu", "cpu.max", format_args!("{quota} {period}")),
    }
}

/// No limit: as long as a CPU is free, any process may use it. When none is free, each cgroup gets its share.
fn weigh_cpu(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    match (limits.cpu_shares, cgroup.version("cpu")) {
        (None, _) => Ok(()),
        (Some(shares), Version::V1) => cgroup.write("cpu", "cpu.shares", shares),
        (Some(shares), Version::V2) => cgroup.write("cpu", "cpu.weight", values::cpu_weight(shares)),
    }
}

/// Names the CPUs on which the container's processes may run, and the nodes from which they get memory.
fn pin_cpus(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    for (file, list) in [("cpuset.mems", &limits.cpuset_mems), ("cpuset.cpus", &limits.cpuset_cpus)] {
        match list {
            Some(list) => cgroup.write("cpuset", file, list)?,
            None if !limits.need("cpuset") || cgroup.version("cpuset") == Version::V2 => {}
            // A new v1 cpuset is empty. No process may enter it before it has CPUs and memory nodes.
            None => cgroup.write("cpuset", file, cgroup.read_above("cpuset", file)?)?,
        }
    }
    Ok(())
}

/// At the limit, fork(2) fails with EAGAIN: no fork bomb gets out of the container.
fn limit_pids(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    cgroup.write("pids", "pids.max", limits.pids_limit())
}

/// How many processes of the cgroup the out-of-memory killer has ended.
pub fn out_of_memory_kills(cgroup: &Cgroup) -> u64 {
    match cgroup.version("memory") {
        Version::V1 => cgroup.count("memory", "memory.oom_control", "oom_kill"),
        Version::V2 => cgroup.count("memory", "memory.events", "oom_kill"),
    }
}
