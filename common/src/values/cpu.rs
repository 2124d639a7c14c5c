//! CPU time and CPUs: `--cpus`, `--cpu-period`, `--cpu-quota`, `--cpu-shares`, `--cpuset-cpus`,
//! `--cpuset-mems`.
//!
//! They end in `cpu.cfs_period_us`, `cpu.cfs_quota_us`, `cpu.shares`, `cpuset.cpus` and `cpuset.mems` (cgroup
//! v1), in `cpu.max`, `cpu.weight`, `cpuset.cpus` and `cpuset.mems` (v2). The options are about the host's
//! CPUs. So the only files read here are `/sys/devices/system/cpu/online`, the kernel's own list of the CPUs
//! that run, and `/sys/devices/system/node/has_memory`, its list of memory nodes.
//! `std::thread::available_parallelism` gives another number: it also counts the affinity (`taskset`) and the
//! quota of the runtime's caller. cpuset(7), sched_setaffinity(2); kernel documentation: scheduler/sched-bwc,
//! admin-guide/cgroup-v2.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::ops::RangeInclusive;

use super::{Invalid, Limit, decimal, scale, whole};
use crate::sys::error::Context;

const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The nodes that have memory of their own. cpuset(7) takes only these.
const NODES: &str = "/sys/devices/system/node/has_memory";

const NANOS_PER_CPU: u64 = 1_000_000_000;

/// The kernel's default period of 100 ms and its least quota of 1 ms (`EINVAL` below) make 0.01 CPUs the
/// least.
const LEAST_CPUS: u64 = NANOS_PER_CPU / 100;

/// In microseconds: the shortest and the longest period that the kernel takes.
const PERIODS: RangeInclusive<u64> = 1000..=1_000_000;

/// In microseconds: the least and the largest quota that the kernel takes (`max_cfs_runtime`, Linux 5.8).
const QUOTAS: RangeInclusive<u64> = 1000..=(1 << 44) - 1;

/// So much CPU time, in billionths of a CPU, Docker's unit: a whole number, so that nothing drifts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(u64);

impl Cpus {
    /// For a default that stands in the code: `Cpus::from_nanos(500_000_000)` is half a CPU.
    pub const fn from_nanos(nanos: u64) -> Self {
        Cpus(nanos)
    }

    /// How many microseconds of CPU time that is in each period of `period_us` microseconds, rounded down.
    ///
    /// With the kernel's default period, 100 000, every value that [`cpus`] accepts gives a quota that the
    /// kernel accepts (1000 and more).
    pub const fn quota(self, period_us: u64) -> Limit {
        match self.0 {
            0 => Limit::Unlimited,
            nanos => Limit::AtMost((nanos as u128 * period_us as u128 / NANOS_PER_CPU as u128) as u64),
        }
    }

    /// Whether it is a limit at all.
    pub const fn is_limit(self) -> bool {
        self.0 > 0
    }
}

/// As the option takes it: `0.5`.
impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.0 / NANOS_PER_CPU, self.0 % NANOS_PER_CPU);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Reads the value of `--cpus`: a decimal number from 0.01 to the number of the host's online CPUs. As in
/// Docker, 0 means no limit.
///
/// A greater number would be no limit, and most likely a mistake; Docker refuses it as well.
///
/// # Errors
/// Not such a number, with more than nine decimals, out of range; or the list of CPUs could not be read.
pub fn cpus(text: &str) -> Result<Cpus, Invalid> {
    // One CPU there always is, so for the default the kernel need not be asked at every start.
    cpus_of(text, 1).or_else(|_| cpus_of(text, count(&online_cpus()?.1)))
}

fn cpus_of(text: &str, online: u64) -> Result<Cpus, Invalid> {
    let expected = || -> Invalid {
        let (verb, s) = if online == 1 { ("is", "") } else { ("are", "s") };
        let range = format!("expected a number from 0.01 to {online}, or 0 for no limit");
        format!("{range}, as there {verb} {online} CPU{s} online").into()
    };
    let number = decimal(text).ok_or_else(expected)?;
    let nanos = scale(number, NANOS_PER_CPU).ok_or_else(expected)?;
    if number.1.trim_end_matches('0').len() > 9 {
        return Err("too precise: at most nine decimals".into());
    }
    let range = LEAST_CPUS..=online.saturating_mul(NANOS_PER_CPU);
    // A number that only rounds to zero is too small.
    let is_zero = [number.0, number.1].iter().all(|digits| digits.trim_start_matches('0').is_empty());
    (range.contains(&nanos) || is_zero).then_some(Cpus(nanos)).ok_or_else(expected)
}

/// Reads the value of `--cpu-period`: 1000 to 1000000 microseconds, the range of the kernel and of Docker.
/// `None` is a `0`: with Docker the same as no option.
///
/// # Errors
/// Not a whole number, or out of range.
pub fn cpu_period(text: &str) -> Result<Option<u64>, Invalid> {
    match whole(text) {
        Some(0) => Ok(None),
        Some(period) if PERIODS.contains(&period) => Ok(Some(period)),
        _ => Err("expected a whole number of microseconds from 1000 to 1000000".into()),
    }
}

/// Reads the value of `--cpu-quota`: 1000 microseconds and more in each period, or `-1` (or `0`) for no
/// limit, as in Docker.
///
/// # Errors
/// Not a whole number, or none that the kernel takes.
pub fn cpu_quota(text: &str) -> Result<Limit, Invalid> {
    match whole(text) {
        Some(0) => Ok(Limit::Unlimited),
        Some(quota) if QUOTAS.contains(&quota) => Ok(Limit::AtMost(quota)),
        _ if text == "-1" => Ok(Limit::Unlimited),
        _ => {
            let (least, most) = (QUOTAS.start(), QUOTAS.end());
            Err(format!("expected microseconds from {least} to {most}, or -1 (or 0) for no limit").into())
        }
    }
}

/// Reads the value of `--cpu-shares`: 2 to 262144, in relation to the 1024 of every cgroup that sets none.
///
/// The range is the kernel's (`MIN_SHARES`, `MAX_SHARES`). The kernel would bend another value into it
/// without a word, so it is refused here.
///
/// # Errors
/// Not a whole number, or out of range.
pub fn cpu_shares(text: &str) -> Result<u64, Invalid> {
    whole(text)
        .filter(|shares| (2..=262_144).contains(shares))
        .ok_or_else(|| "expected a whole number from 2 to 262144 (1024 is everybody's default)".into())
}

/// What `cpu.weight` of cgroup v2 (1 to 10000, default 100) has to be for so many `cpu.shares` of v1.
///
/// Runtimes first drew a straight line, `1 + (shares - 2) * 9999 / 262142`. It joins the ends of the two
/// ranges, but it makes 39 of the default of v1, 1024. Such a container gets less than half of its
/// neighbours' share, which have the default of v2. So runc 1.3.2 and crun 1.23 (2025) took a curve through
/// all three points: 2 → 1, 1024 → 100, 262144 → 10000. With l = log2(shares),
/// weight = ⌈10 ^ (l²/612 + 125·l/612 − 7/34)⌉. A value out of range is taken as the nearest end.
///
/// Source: opencontainers/cgroups pull request 20, kubernetes issue 131216.
pub fn cpu_weight(shares: u64) -> u64 {
    let l = (shares.clamp(2, 262_144) as f64).log2();
    // One division, of whole numbers at the three points, so that these are exact; 7/34 is 126/612. C
    // libraries differ in the last bit. Taking off a small number before rounding up makes that harmless. No
    // other weight comes so near to a whole number from above (see the test).
    let weight = 10f64.powf((l * l + 125.0 * l - 126.0) / 612.0);
    (weight - 1e-7).ceil() as u64
}

/// A list of CPUs that are all online, as `cpuset.cpus` takes it: `0-2,4`. Or one of memory nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpuset(String);

impl fmt::Display for Cpuset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the value of `--cpuset-cpus`: numbers and ranges of CPUs, `0-2,4`, all of them online.
///
/// The kernel refuses a CPU that is not there with a bare errno. In v2 it takes a CPU that is only offline,
/// and leaves it out in silence. Both would tell the user too little.
///
/// # Errors
/// Not such a list, or a CPU that is not online; or the list of CPUs could not be read.
pub fn cpuset(text: &str) -> Result<Cpuset, Invalid> {
    let (list, online) = online_cpus()?;
    cpuset_of("CPU", text, &list, &online)
}

/// Reads the value of `--cpuset-mems`: numbers and ranges of memory nodes, `0-1`, all of which have memory.
///
/// # Errors
/// Not such a list, or a node that is not there; or the list of nodes could not be read.
pub fn memory_nodes(text: &str) -> Result<Cpuset, Invalid> {
    let list = match fs::read_to_string(NODES) {
        Ok(list) => list,
        // A kernel that knows no nodes counts all memory as node 0.
        Err(error) if error.kind() == ErrorKind::NotFound => "0".into(),
        Err(error) => return Err(format!("{NODES}: {error}").into()),
    };
    let list = list.trim_end();
    let there = ranges(list).ok_or_else(|| format!("{NODES}: not a list of nodes: {list:?}"))?;
    cpuset_of("memory node", text, list, &there)
}

fn cpuset_of(what: &str, text: &str, list: &str, online: &[RangeInclusive<u32>]) -> Result<Cpuset, Invalid> {
    let asked = ranges(text)
        .ok_or_else(|| format!("expected {what} numbers and ranges such as 0-2,4; available: {list}"))?;
    // Ranges are compared, never counted out: `0-4294967295` costs nothing. The kernel's own ranges never
    // touch each other, so a range that is online lies within one of them.
    let is_online = |asked: &RangeInclusive<u32>| {
        online.iter().any(|range| range.contains(asked.start()) && range.contains(asked.end()))
    };
    match asked.iter().all(is_online) {
        true => Ok(Cpuset(text.into())),
        false => Err(format!("not all of these {what}s are available; available: {list}").into()),
    }
}

/// The list format of cpuset(7), as text and as ranges.
fn online_cpus() -> Result<(String, Vec<RangeInclusive<u32>>), Invalid> {
    let list = fs::read_to_string(ONLINE).context(ONLINE).map_err(|error| error.to_string())?;
    let list = list.trim_end().to_owned();
    let ranges = ranges(&list).ok_or_else(|| format!("{ONLINE}: not a list of CPUs: {list:?}"))?;
    Ok((list, ranges))
}

fn count(ranges: &[RangeInclusive<u32>]) -> u64 {
    ranges.iter().map(|range| u64::from(range.end() - range.start()) + 1).sum()
}

fn ranges(list: &str) -> Option<Vec<RangeInclusive<u32>>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = whole(first)?..=whole(last)?;
        (!range.is_empty()).then_some(range)
    };
    list.split(',').map(range).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::refused;

    const PERIOD: u64 = 100_000;

    #[test]
    fn cpus_within_the_host() {
        for (text, quota) in [
            ("0.01", 1000),
            (".5", 50_000),
            ("0.5", 50_000),
            ("1.25", 125_000),
            ("2", 200_000),
            ("2.", 200_000),
            ("0.015", 1500),
            ("0.3", 30_000),
            ("1.999999999", 199_999),
            ("0.500000000000000000000", 50_000),
            ("4", 400_000),
        ] {
            let read = cpus_of(text, 4).map(|cpus| (cpus.quota(PERIOD), cpus.is_limit()));
            assert_eq!(read, Ok((Limit::AtMost(quota), true)), "{text:?}");
        }
        for text in ["0", "0.0", ".0", "00"] {
            let read = cpus_of(text, 4).map(|cpus| (cpus.quota(PERIOD), cpus.is_limit()));
            assert_eq!(read, Ok((Limit::Unlimited, false)), "{text:?}");
        }
    }

    #[test]
    fn periods_and_quotas() {
        let periods = ["0", "1000", "1000000"].map(cpu_period);
        assert_eq!(periods, [Ok(None), Ok(Some(1000)), Ok(Some(1_000_000))]);
        let others = ["999", "1000001", "-1", "", "1.5", "+5000", "1k", "99999999999999999999"];
        refused(cpu_period, "expected a whole number of microseconds from 1000 to 1000000", &others);
        assert_eq!(["0", "-1"].map(cpu_quota), [Ok(Limit::Unlimited), Ok(Limit::Unlimited)]);
        let quotas = ["1000", "17592186044415"].map(cpu_quota);
        assert_eq!(quotas, [Ok(Limit::AtMost(1000)), Ok(Limit::AtMost((1 << 44) - 1))]);
        let others = ["1", "999", "-2", "", "1.5", "+5000", "max", "17592186044416", "99999999999999999999"];
        refused(cpu_quota, "expected microseconds from 1000 to 17592186044415, or -1", &others);
    }

    #[test]
    fn cpus_out_of_range() {
        let cpus_of_four = |text: &str| cpus_of(text, 4);
        let not_a_number = ["abc", "1e3", "inf", "NaN", "", ".", "+1", "-1", "-0.5", "1/2", "1 ", "0x1"];
        let out_of_range = ["0.001", "0.009999999", "4.000000001", "99", "99999999999999999999999"];
        let rounded = ["0.000000001", "0.0000000001", "0.00000000000000001"];
        let expected = "expected a number from 0.01 to 4, or 0 for no limit, as there are 4 CPUs online";
        refused(cpus_of_four, expected, &rounded[..1]);
        refused(cpus_of_four, "too precise", &rounded[1..]);
        refused(cpus_of_four, expected, &[&not_a_number[..], &out_of_range].concat());
        refused(cpus_of_four, "too precise: at most nine decimals", &["0.5000000001"]);
        let expected = "expected a number from 0.01 to 1, or 0 for no limit, as there is 1 CPU online";
        refused(|text: &str| cpus_of(text, 1), expected, &["2"]);
    }

    #[test]
    fn this_host_has_its_own_number() {
        let (list, ranges) = online_cpus().unwrap();
        let online = count(&ranges);
        assert!(online >= std::thread::available_parallelism().unwrap().get() as u64, "{list}");
        assert_eq!(cpus(&online.to_string()), Ok(Cpus(online * NANOS_PER_CPU)));
        assert!(cpus(&(online + 1).to_string()).is_err());
        assert_eq!(cpuset(&list).unwrap().to_string(), list);
        let expected = format!("not all of these CPUs are available; available: {list}");
        refused(cpuset, &expected, &["0-99999"]);
    }

    #[test]
    fn shares_within_the_kernels_range() {
        assert_eq!(cpu_shares("2"), Ok(2));
        assert_eq!(cpu_shares("262144"), Ok(262_144));
        let others = ["0", "1", "262145", "-1", "+5", "1.5", "", "abc", "99999999999999999999"];
        refused(cpu_shares, "expected a whole number from 2 to 262144", &others);
    }

    #[test]
    fn weights_of_the_newer_runtimes() {
        let weights = [0, 1, 2, 3, 512, 1024, 2000, 2048, 262_143, 262_144, u64::MAX].map(cpu_weight);
        // 2000 → 170 is what runc issue 4896 shows of runc 1.4.
        assert_eq!(weights, [1, 1, 1, 2, 59, 100, 170, 174, 10_000, 10_000, 10_000]);
    }

    #[test]
    fn a_last_bit_does_not_change_a_weight() {
        for shares in (2..=262_144).filter(|shares| ![2, 1024, 262_144].contains(shares)) {
            let l = (shares as f64).log2();
            let weight = 10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0);
            assert!((weight - weight.round()).abs() > 2e-7, "{shares}: {weight}");
            assert_eq!(cpu_weight(shares), weight.ceil() as u64, "{shares}");
        }
    }

    #[test]
    fn cpusets() {
        let online = ranges("0-3,6-7").unwrap();
        let read = |text: &str| cpuset_of("CPU", text, "0-3,6-7", &online);
        assert_eq!(count(&online), 6);
        for text in ["0", "3", "0-3", "1-2,0", "6-7,0-3", "7,7", "2-2"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
        let expected = "not all of these CPUs are available; available: 0-3,6-7";
        refused(read, expected, &["4", "3-6", "0-7", "8", "0-4294967295", "0,5"]);
        let not_a_list = ["", ",", "0,", ",0", "0,,1", "-1", "1-", "0-1-2", "+1", "a", "0 ,1", "0-3:1/2"];
        refused(read, "expected CPU numbers", &not_a_list);
        refused(read, "expected CPU numbers", &["3-1", "4294967296"]);
        let nodes = |text: &str| cpuset_of("memory node", text, "0", &[0..=0]);
        assert_eq!(nodes("0").unwrap().to_string(), "0");
        refused(nodes, "not all of these memory nodes are available; available: 0", &["1", "0-1"]);
        refused(nodes, "expected memory node numbers and ranges", &["", "a"]);
        assert_eq!(memory_nodes("0").unwrap().to_string(), "0", "each machine has it");
        refused(memory_nodes, "not all of these memory nodes", &["99999"]);
    }

    proptest! {
        #[test]
        fn cpus_are_written_as_they_are_read(nanos in LEAST_CPUS..=64 * NANOS_PER_CPU) {
            prop_assert_eq!(cpus_of(&Cpus(nanos).to_string(), 64), Ok(Cpus(nanos)));
        }

        #[test]
        fn more_cpus_never_mean_less_quota(a in "[0-9]{1,2}[.][0-9]{0,9}", b in "[0-9]{1,2}[.][0-9]{0,9}") {
            if let (Ok(less), Ok(more)) = (cpus_of(&a, 64), cpus_of(&b, 64)) {
                let (less, more) = if less <= more { (less, more) } else { (more, less) };
                let quota = |cpus: Cpus| match cpus.quota(PERIOD) {
                    Limit::AtMost(quota) => quota,
                    Limit::Unlimited => 0,
                };
                prop_assert!(quota(less) <= quota(more));
                prop_assert!(!less.is_limit() || quota(less) >= 1000);
                prop_assert!(quota(more) <= 64 * PERIOD);
            }
        }

        #[test]
        fn more_shares_never_mean_less_weight(a in 2u64..=262_144, b in 2u64..=262_144) {
            let (less, more) = (cpu_weight(a.min(b)), cpu_weight(a.max(b)));
            prop_assert!(1 <= less && less <= more && more <= 10_000);
        }

        #[test]
        fn a_cpuset_is_accepted_when_each_cpu_is_online(cpus in prop::collection::vec(0u32..12, 1..5)) {
            let text = cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            let online = [0..=3, 6..=7];
            let expected = cpus.iter().all(|cpu| online.iter().any(|range| range.contains(cpu)));
            prop_assert_eq!(cpuset_of("CPU", &text, "0-3,6-7", &online).is_ok(), expected);
        }
    }
}
