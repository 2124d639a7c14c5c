//! What the container may use at the most.
//!
//! A limit that the user did not ask for is `None` here. A host may be unable to limit something. That is an
//! error only if the user set that limit, be it to its default.

use clap::Args;

use crate::sys::error::{Error, Result};
use crate::values::{self, Cpus, Cpuset, Limit, Ulimit};

/// What the container may use at the most. The defaults are what was fixed in step 0.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits (since step 1)")]
pub struct Limits {
    /// Memory: bytes, or with a unit, such as 64m, 1.5g; 0 for no limit [default: 128m].
    #[arg(
        short, long,
        value_name = "SIZE", allow_hyphen_values = true,
        value_parser = values::memory
    )]
    memory: Option<Limit>,

    /// Memory and swap together, or -1 for unlimited swap [default: twice the memory].
    #[arg(
        long,
        value_name = "SIZE", allow_hyphen_values = true,
        value_parser = values::memory_swap
    )]
    memory_swap: Option<MemorySwap>,

    /// CPU time, as a number of CPUs; 0 for no limit [default: 0.5].
    #[arg(
        long,
        value_name = "NUMBER", allow_hyphen_values = true,
        value_parser = values::cpus
    )]
    cpus: Option<Cpus>,

    /// The stretch of time over which CPU use is counted, in microseconds [default: 100000].
    #[arg(
        long,
        value_name = "MICROSECONDS", allow_hyphen_values = true,
        value_parser = values::cpu_period
    )]
    cpu_period: Option<CpuPeriod>,

    /// CPU time in each period, in microseconds, in the place of --cpus; -1 for no limit.
    #[arg(
        long,
        value_name = "MICROSECONDS", allow_hyphen_values = true,
        value_parser = values::cpu_quota
    )]
    cpu_quota: Option<Limit>,

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

    /// The memory nodes to take memory from, such as 0-1.
    #[arg(
        long,
        value_name = "LIST", allow_hyphen_values = true,
        value_parser = values::memory_nodes
    )]
    pub cpuset_mems: Option<Cpuset>,

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

/// Absent where the option is `0`, which says the same as no option.
type MemorySwap = Option<Limit>;
/// In microseconds; absent where the option is `0`.
type CpuPeriod = Option<u64>;

/// In microseconds: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;

/// In microseconds: the kernel takes no smaller quota.
const LEAST_QUOTA: u64 = 1000;

impl Limits {
    /// Refuses limits that contradict each other.
    ///
    /// # Errors
    /// `--memory-swap` is below `--memory`. `--cpus` comes with one of the two options that say the same.
    pub fn check(&self) -> Result<()> {
        if let Some(together) = self.memory_swap.flatten() {
            values::check_swap(self.memory(), together)?;
        }
        let is_limited = self.cpus.is_some_and(Cpus::is_limit);
        for (option, given) in [
            ("--cpu-period", self.cpu_period.flatten().is_some()),
            ("--cpu-quota", matches!(self.cpu_quota, Some(Limit::AtMost(_)))),
        ] {
            if is_limited && given {
                return Err(Error::new(format!("--cpus and {option}: they cannot be together"))
                    .hint("--cpus sets both, the quota and the period: leave one of the options out"));
            }
        }
        match self.cpu_quota() {
            Limit::AtMost(quota) if quota < LEAST_QUOTA => {
                let period = self.cpu_period();
                Err(Error::new(format!("--cpu-period {period}: 0.5 CPUs are {quota} of its microseconds"))
                    .hint("the kernel takes a quota of at least 1000: give --cpu-quota, too"))
            }
            _ => Ok(()),
        }
    }

    /// In bytes: `--memory`, or 128 MiB.
    pub fn memory(&self) -> Limit {
        self.memory.unwrap_or(Limit::AtMost(128 << 20))
    }

    /// In bytes, memory and swap together: `--memory-swap`, or twice the memory, as with Docker.
    pub fn memory_and_swap(&self) -> Limit {
        self.memory_swap.flatten().unwrap_or(match self.memory() {
            Limit::AtMost(bytes) => Limit::AtMost(bytes.saturating_mul(2)),
            Limit::Unlimited => Limit::Unlimited,
        })
    }

    /// In bytes, swap alone: what [`memory_and_swap`](Limits::memory_and_swap) leaves beyond the memory.
    pub fn swap(&self) -> Limit {
        match (self.memory_and_swap(), self.memory()) {
            (Limit::AtMost(together), Limit::AtMost(memory)) => Limit::AtMost(together - memory),
            _ => Limit::Unlimited,
        }
    }

    /// Whether the user set a limit on swap.
    pub fn need_swap(&self) -> bool {
        matches!(self.memory_swap, Some(Some(Limit::AtMost(_))))
    }

    /// In microseconds: `--cpu-period`, or 100 000.
    pub fn cpu_period(&self) -> u64 {
        self.cpu_period.flatten().unwrap_or(CPU_PERIOD)
    }

    /// In microseconds of each period: `--cpus`, `--cpu-quota`, or half of one CPU.
    pub fn cpu_quota(&self) -> Limit {
        let quota = |cpus: Cpus| cpus.quota(self.cpu_period());
        match (self.cpus, self.cpu_quota) {
            // `--cpus 0` or `--cpu-quota -1` beside it sets nothing.
            (Some(cpus), _) if cpus.is_limit() => quota(cpus),
            (_, Some(limit)) => limit,
            (cpus, None) => quota(cpus.unwrap_or(Cpus::from_nanos(500_000_000))),
        }
    }

    /// `--pids-limit`, or 64 processes, each thread counted as one.
    pub fn pids_limit(&self) -> Limit {
        self.pids_limit.unwrap_or(Limit::AtMost(64))
    }

    /// Whether the user set a limit for which this cgroup controller is needed.
    pub fn need(&self, controller: &str) -> bool {
        let is_limit = |limit| matches!(limit, Some(Limit::AtMost(_)));
        match controller {
            "memory" => is_limit(self.memory) || self.need_swap(),
            "cpu" => {
                let of_time = self.cpus.is_some() || self.cpu_quota.is_some();
                let unlimited = of_time && self.cpu_quota() == Limit::Unlimited;
                (of_time && !unlimited) || self.cpu_period.flatten().is_some() || self.cpu_shares.is_some()
            }
            "pids" => is_limit(self.pids_limit),
            _ => self.cpuset_cpus.is_some() || self.cpuset_mems.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        limits: Limits,
    }

    fn limits(options: &str) -> Limits {
        Cli::try_parse_from(std::iter::once("test").chain(options.split_whitespace())).unwrap().limits
    }

    #[test]
    fn what_is_not_given_has_a_limit() {
        let limits = limits("");
        limits.check().unwrap();
        assert_eq!(limits.memory(), Limit::AtMost(128 << 20));
        assert_eq!(limits.memory_and_swap(), Limit::AtMost(256 << 20));
        assert_eq!((limits.cpu_quota(), limits.cpu_period()), (Limit::AtMost(50_000), 100_000));
        assert_eq!(limits.pids_limit(), Limit::AtMost(64));
        assert_eq!(["memory", "cpu", "pids", "cpuset"].map(|name| limits.need(name)), [false; 4]);
    }

    #[test]
    fn a_zero_takes_a_limit_away() {
        let limits = limits("-m 0 --cpus 0 --pids-limit 0");
        limits.check().unwrap();
        assert_eq!((limits.memory(), limits.memory_and_swap()), (Limit::Unlimited, Limit::Unlimited));
        assert_eq!((limits.swap(), limits.cpu_quota()), (Limit::Unlimited, Limit::Unlimited));
        assert_eq!(["memory", "cpu", "pids", "cpuset"].map(|name| limits.need(name)), [false; 4]);
    }

    #[test]
    fn swap() {
        let swap = |options: &str| {
            let limits = limits(options);
            limits.check().map_err(|error| error.to_string())?;
            Ok((limits.memory_and_swap(), limits.swap(), limits.need_swap()))
        };
        let mib = |mib: u64| Limit::AtMost(mib << 20);
        assert_eq!(swap("-m 64m --memory-swap 100m"), Ok((mib(100), mib(36), true)));
        assert_eq!(swap("-m 64m --memory-swap 0"), Ok((mib(128), mib(64), false)));
        assert_eq!(swap("-m 64m --memory-swap -1"), Ok((Limit::Unlimited, Limit::Unlimited, false)));
        assert_eq!(swap("-m 0 --memory-swap -1"), Ok((Limit::Unlimited, Limit::Unlimited, false)));
        let refused: Result<_, String> = swap("-m 0 --memory-swap 100m");
        assert_eq!(refused, Err("--memory-swap 100 MiB: --memory is unlimited".into()));
        assert!(swap("--memory-swap 100m").is_err(), "less than the default");
    }

    #[test]
    fn cpu_time() {
        let time = |options: &str| {
            let limits = limits(options);
            limits.check().map_err(|error| error.to_string())?;
            Ok::<_, String>((limits.cpu_quota(), limits.cpu_period(), limits.need("cpu")))
        };
        let at_most = Limit::AtMost;
        assert_eq!(time("--cpus 0.25"), Ok((at_most(25_000), 100_000, true)));
        assert_eq!(time("--cpu-quota 20000"), Ok((at_most(20_000), 100_000, true)));
        assert_eq!(time("--cpu-quota 20000 --cpu-period 40000"), Ok((at_most(20_000), 40_000, true)));
        assert_eq!(time("--cpu-period 40000"), Ok((at_most(20_000), 40_000, true)));
        assert_eq!(time("--cpu-quota -1"), Ok((Limit::Unlimited, 100_000, false)));
        assert_eq!(time("--cpus 0.5 --cpu-quota 0 --cpu-period 0"), Ok((at_most(50_000), 100_000, true)));
        assert_eq!(time("--cpus 0 --cpu-quota 20000"), Ok((at_most(20_000), 100_000, true)));
        let refused = |options| time(options).unwrap_err();
        assert_eq!(
            refused("--cpus 1 --cpu-period 50000"),
            "--cpus and --cpu-period: they cannot be together"
        );
        assert_eq!(refused("--cpus 1 --cpu-quota 50000"), "--cpus and --cpu-quota: they cannot be together");
        assert!(refused("--cpu-period 1000").contains("0.5 CPUs are 500"));
    }
}
