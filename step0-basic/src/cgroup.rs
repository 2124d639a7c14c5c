//! How much the container may use: a control group, and the limits written into its files.
//!
//! Kernel object: a cgroup, which is a directory in a cgroup filesystem; making the directory makes the group,
//! and its files are its settings. Order: make it, write the limits, only then let a process in.
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

/// In microseconds, the stretch of time over which CPU use is counted: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;

/// Half of one CPU: in each period, half of the period.
const CPU_QUOTA: u64 = CPU_PERIOD / 2;

/// In bytes: 128 MiB.
const MEMORY: u64 = 128 << 20;

/// Processes, each of its threads counted as one.
const PIDS: u64 = 64;

/// Makes a cgroup with these limits and nobody in it.
pub fn create() -> Result<Cgroup> {
    let cgroup = Cgroup::create(&["memory", "cpu", "pids"])?;
    limit_memory(&cgroup)?;
    limit_cpu(&cgroup)?;
    limit_pids(&cgroup)?;
    Ok(cgroup)
}

/// At the limit, the kernel first takes back what it can, such as cached files, then it kills a process: the
/// out-of-memory killer.
fn limit_memory(cgroup: &Cgroup) -> Result<()> {
    match cgroup.version("memory") {
        Version::V1 => cgroup.write("memory", "memory.limit_in_bytes", MEMORY),
        Version::V2 => cgroup.write("memory", "memory.max", MEMORY),
    }
}

/// At the limit, the kernel lets nobody in the cgroup run until the next period begins.
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
