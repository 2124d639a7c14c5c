//! What the container may use at the most.
//!
//! A limit that the user did not ask for is `None` here. A host may be unable to limit something. That is an
//! error only if the user set that limit, be it to its default.

use clap::Args;

use crate::sys::error::Result;
use crate::values::{self, Cpus, Cpuset, Limit, Ulimit};

/// What the container may use at the most. The defaults are what was fixed in step 0.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits (since step 1)")]
pub struct Limits {
    /// Memory: bytes, or with a unit, such as 64m, 1.5g, "128 MiB" [default: 128m].
    #[arg(
        short, long,
        value_name = "SIZE", allow_hyphen_values = true,
        value_parser = values::memory
    )]
    pub memory: Option<u64>,

    /// Memory and swap together, or -1 for unlimited swap [default: twice the memory].
    #[arg(
        long,
        value_name = "SIZE", allow_hyphen_values = true,
        value_parser = values::memory_swap
    )]
    pub memory_swap: Option<Limit>,

    /// CPU time, as a number of CPUs [default: 0.5].
    #[arg(
        long,
        value_name = "NUMBER", allow_hyphen_values = true,
        value_parser = values::cpus
    )]
    pub cpus: Option<Cpus>,

    /// The share of CPU time when CPUs are scarce, from 2 to 262144, where others have 1024.
    #[arg(
        short, long,
        value_name = "WEIGHT", allow_hyphen_values = true,
        value_parser = values::cpu_shares
    )]
    pub cpu_shares: Option<u64>,

    /// The CPUs to run on, such as 0-2,4.
    #[arg(
        long,
        value_name = "LIST", allow_hyphen_values = true,
        value_parser = values::cpuset
    )]
    pub cpuset_cpus: Option<Cpuset>,

    /// Processes and threads, or -1 for unlimited [default: 64].
    #[arg(
        long,
        value_name = "NUMBER", allow_hyphen_values = true,
        value_parser = values::pids_limit
    )]
    pub pids_limit: Option<Limit>,

    /// A resource limit of the command and each of its children; repeatable.
    #[arg(
        long = "ulimit",
        value_name = "NAME=SOFT[:HARD]", allow_hyphen_values = true,
        value_parser = values::ulimit
    )]
    pub ulimits: Vec<Ulimit>,
}

impl Limits {
    /// Refuses limits that contradict each other.
    ///
    /// # Errors
    /// `--memory-swap` is below `--memory`.
    pub fn check(&self) -> Result<()> {
        self.memory_swap.map_or(Ok(()), |together| values::check_swap(self.memory(), together))
    }

    /// In bytes: `--memory`, or 128 MiB.
    pub fn memory(&self) -> u64 {
        self.memory.unwrap_or(128 << 20)
    }

    /// `--cpus`, or half of one CPU.
    pub fn cpus(&self) -> Cpus {
        self.cpus.unwrap_or(Cpus::from_nanos(500_000_000))
    }

    /// `--pids-limit`, or 64 processes, each thread counted as one.
    pub fn pids_limit(&self) -> Limit {
        self.pids_limit.unwrap_or(Limit::AtMost(64))
    }

    /// Whether the user set a limit for which this cgroup controller is needed.
    pub fn need(&self, controller: &str) -> bool {
        match controller {
            "memory" => self.memory.is_some() || self.memory_swap.is_some(),
            "cpu" => self.cpus.is_some() || self.cpu_shares.is_some(),
            "pids" => self.pids_limit.is_some(),
            _ => self.cpuset_cpus.is_some(),
        }
    }
}
