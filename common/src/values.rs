//! The grammar of the options' values, and what is said when a value does not follow it.
//!
//! Nothing here changes anything; the kernel is only asked which CPUs it has. Most functions are made for
//! clap's `value_parser`. clap itself names the option and the value: `invalid value '1k' for '--memory
//! <SIZE>': …`. So the error is only the rest of that line: which values are accepted.
//!
//! The names, the grammar and the ranges are those of `docker run`.
//! Man pages: cgroups(7), cpuset(7), getrlimit(2), hostname(7), environ(7).

mod cpu;
mod device;
mod environment;
#[cfg(feature = "network")]
mod hosts;
mod ids;
mod limits;
mod mounts;
mod names;
mod namespace;
#[cfg(feature = "network")]
mod network;
mod path;
#[cfg(feature = "network")]
mod publish;
#[cfg(feature = "capability")]
mod security;
mod signal;
mod size;
#[cfg(feature = "network")]
mod sysctl;
#[cfg(test)]
mod testing;
mod tmpfs;
mod volume;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

pub use cpu::{Cpus, Cpuset, cpu_period, cpu_quota, cpu_shares, cpu_weight, cpus, cpuset, memory_nodes};
pub use device::{Devices, devices};
pub use environment::{Variable, env, env_file};
#[cfg(feature = "network")]
pub use hosts::{ExtraHost, HostAddress, add_host, dns, dns_option, dns_search};
pub use ids::{IdRange, NameOrId, User, UsernsMode, id_range, subid_name, user, userns_mode};
#[cfg(feature = "network")]
pub use ipnet::Ipv4Net;
pub use limits::{Ulimit, pids_limit, ulimit};
pub use mounts::{Mount, check_sources, check_targets, mount};
#[cfg(feature = "network")]
pub use names::bridge_name;
pub use names::{hostname, keep_name};
pub use namespace::{IpcMode, PidMode, ipc_mode, pid_mode};
#[cfg(feature = "network")]
pub use network::{
    NetworkMode, check_bridge_options, check_ip, container_addresses, gateway, ip, network_mode, subnet,
};
pub use path::{directory, workdir};
#[cfg(feature = "network")]
pub use publish::{PortRequest, Protocol, Proxied, Publish, Published, check_ports, publish};
#[cfg(feature = "capability")]
pub use security::{Named, SeccompProfile, Security, SecurityOption, by_name, capability, security_opt};
pub use signal::{signal, stop_timeout};
pub use size::{check_swap, format_limit, format_size, memory, memory_swap, shm_size, size};
#[cfg(feature = "network")]
pub use sysctl::{Sysctl, sysctl};
pub use tmpfs::{Tmpfs, tmpfs};
pub use volume::{Propagation, Source, Volume, volume};

/// Why a text is no value of its option: what is accepted. clap prints it behind the option's name and the
/// text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(Cow<'static, str>);

impl From<&'static str> for Invalid {
    fn from(why: &'static str) -> Invalid {
        Invalid(Cow::Borrowed(why))
    }
}

impl From<String> for Invalid {
    fn from(why: String) -> Invalid {
        Invalid(Cow::Owned(why))
    }
}

/// A limit that can be lifted: the `-1` of `--memory-swap` and `--pids-limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// No limit at this level; a limit on a cgroup above still holds.
    Unlimited,
    /// At most so many, in the unit of the option.
    AtMost(u64),
}

impl Limit {
    /// As most files of cgroup v1 want it: the number, or -1.
    pub fn v1(self) -> String {
        match self {
            Limit::Unlimited => "-1".into(),
            Limit::AtMost(limit) => limit.to_string(),
        }
    }
}

/// As cgroup v2 (and `pids.max` of v1) wants it: the number, or `max`.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Unlimited => f.write_str("max"),
            Limit::AtMost(limit) => limit.fmt(f),
        }
    }
}

/// A whole number of digits only. `str::parse` alone would also take a sign: `+5`.
fn whole<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The digits before and after the point of a plain decimal number: `2`, `1.5`, `.5`. No sign, no exponent.
fn decimal(text: &str) -> Option<(&str, &str)> {
    let (integer, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut digits = integer.bytes().chain(fraction.bytes()).peekable();
    (digits.peek().is_some() && digits.all(|byte| byte.is_ascii_digit())).then_some((integer, fraction))
}

/// `integer.fraction * unit`, rounded down; `None` when it does not fit.
///
/// Long division, from the last digit of the fraction to the first. Each step stays below `unit`, so no digit
/// is lost however many there are. A `f64` would lose some from 2^53 on. `unit` is at most 2^60.
fn scale((integer, fraction): (&str, &str), unit: u64) -> Option<u64> {
    let integer: u64 = if integer.is_empty() { 0 } else { integer.parse().ok()? };
    let fraction = fraction.bytes().rev().fold(0, |rest, digit| (rest + u64::from(digit - b'0') * unit) / 10);
    integer.checked_mul(unit)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use proptest::prelude::*;

    use super::*;

    /// The second line of this error is clap's tip.
    #[cfg(feature = "capability")]
    fn without_tip(error: Invalid) -> Invalid {
        Invalid::from(error.to_string().lines().next().unwrap_or_default().to_owned())
    }

    proptest! {
        /// No text may make a parser panic, and no error may be more than the one line that clap prints.
        #[test]
        fn any_text_is_a_value_or_one_short_line(text in r"\PC*|[-+.=:,0-9kmgtpibe ]{0,24}|(?s:.{0,80})") {
            #[cfg(feature = "network")]
            let of_network = [
                network_mode(&text).err(),
                network_mode(&format!("container:{text}")).err(),
                bridge_name(&text).err(),
                subnet(&text).err(),
                subnet(&format!("10.0.0.0/{text}")).err(),
                ip(&text).err(),
                dns(&text).err(),
                add_host(&text).err(),
                add_host(&format!("a:{text}")).err(),
                publish(&text).err(),
                publish(&format!("{text}:80")).err(),
            ];
            #[cfg(not(feature = "network"))]
            let of_network = [];
            #[cfg(feature = "capability")]
            let of_security = [
                capability(&text).err().map(without_tip),
                security_opt(OsString::from(&text)).err(),
                security_opt(OsString::from(format!("seccomp={text}"))).err(),
                security_opt(OsString::from(format!("no-new-privileges:{text}"))).err(),
            ];
            #[cfg(not(feature = "capability"))]
            let of_security = [];
            let errors = [
                size(&text).err(),
                shm_size(&text).err(),
                ipc_mode(&text).err(),
                pid_mode(&text).err(),
                pid_mode(&format!("container:{text}")).err(),
                memory(&text).err(),
                memory_swap(&text).err(),
                cpus(&text).err(),
                cpu_shares(&text).err(),
                cpuset(&text).err(),
                cpu_period(&text).err(),
                cpu_quota(&text).err(),
                memory_nodes(&text).err(),
                pids_limit(&text).err(),
                ulimit(&text).err(),
                ulimit(&format!("nofile={text}")).err(),
                hostname(&text).err(),
                workdir(OsString::from(&text)).err(),
                env(OsString::from(&text)).err(),
                volume(OsString::from(&text)).err(),
                volume(OsString::from(format!("/a:/b:{text}"))).err(),
                mount(OsString::from(&text)).err(),
                mount(OsString::from(format!("target={text}"))).err(),
                mount(OsString::from(format!("target=/a,{text}"))).err(),
                tmpfs(OsString::from(&text)).err(),
                tmpfs(OsString::from(format!("/a:{text}"))).err(),
                keep_name(&text).err(),
                signal(&text).err(),
                signal(&format!("RTMIN{text}")).err(),
                stop_timeout(&text).err(),
                userns_mode(&text).err(),
                id_range(&text).err(),
                id_range(&format!("0:1:{text}")).err(),
                subid_name(&text).err(),
                user(&text).err(),
                user(&format!("root:{text}")).err(),
            ];
            for error in errors.into_iter().chain(of_network).chain(of_security).flatten() {
                let error = error.to_string();
                prop_assert!(!error.is_empty() && !error.contains('\n') && error.len() < 200, "{error}");
            }
        }

        #[test]
        fn scaling_is_exact(integer in 0u64..1 << 32, fraction in "[0-9]{0,12}", unit in 1u64..1 << 30) {
            let tens = 10u128.pow(fraction.len() as u32);
            let digits: u128 = format!("{integer}{fraction}").parse().unwrap();
            let expected = u64::try_from(digits * u128::from(unit) / tens).unwrap();
            prop_assert_eq!(scale((&integer.to_string(), &fraction), unit), Some(expected));
        }
    }

    #[test]
    fn a_limit_is_written_as_the_kernel_reads_it() {
        assert_eq!((Limit::Unlimited.to_string().as_str(), Limit::Unlimited.v1().as_str()), ("max", "-1"));
        assert_eq!((Limit::AtMost(20).to_string().as_str(), Limit::AtMost(20).v1().as_str()), ("20", "20"));
    }
}
