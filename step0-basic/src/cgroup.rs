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
//! | CPU time | `cpu.cfs_period_us`, `cpu.cfs_quota_us` | `cpu.max` |
//! | processes | `pids.max` | `pids.max` |
//!
//! Man page: cgroups(7). The files: the kernel's admin-guide/cgroup-v1 and admin-guide/cgroup-v2.

use common::Result;
use common::fs::cgroupfs::{Cgroup, Version};
use common::run::handshake::ChildEnd;

/// In microseconds, the stretch of time over which CPU use is counted: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;

/// Half of one CPU: in each period, half of the period.
const CPU_QUOTA: u64 = CPU_PERIOD / 2;

/// In bytes: 128 MiB.
const MEMORY: u64 = 128 << 20;

/// Processes, each of its threads counted as one.
const PIDS: u64 = 64;

/// Makes a cgroup with these limits and no process in it.
pub fn create() -> Result<Cgroup> {
    let cgroup = Cgroup::create(&["memory", "cpu", "pids"])?;
    pass_controllers_on(&cgroup)?;
    limit_memory(&cgroup)?;
    limit_cpu(&cgroup)?;
    limit_pids(&cgroup)?;
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
fn limit_memory(cgroup: &Cgroup) -> Result<()> {
    match cgroup.version("memory") {
        Version::V1 => cgroup.write("memory", "memory.limit_in_bytes", MEMORY),
        Version::V2 => cgroup.write("memory", "memory.max", MEMORY),
    }
}

/// At the limit, the kernel lets no process of the cgroup run until the next period begins.
fn limit_cpu(cgroup: &Cgroup) -> Result<()> {
    match cgroup.version("cpu") {
        Version::V1 => {
            cgroup.write("cpu", "cpu.cfs_period_us", CPU_PERIOD)?;
            cgroup.write("cpu", "cpu.cfs_quota_us", CPU_QUOTA)
        }
        Version::V2 => cgroup.write("cpu", "cpu.max", format_args!("{CPU_QUOTA} {CPU_PERIOD}")),
    }
}

/// At the limit, fork(2) fails with EAGAIN: no fork bomb gets out of the container.
fn limit_pids(cgroup: &Cgroup) -> Result<()> {
    cgroup.write("pids", "pids.max", PIDS)
}
