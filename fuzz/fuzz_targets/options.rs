//! The values of the other options: `publish 8080:80`. An unknown word stands for one of the options. An
//! error is one short line. A value that can be shown is shown so that it is read as the same again.

#![no_main]

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs;

use common::values::{self, Invalid, Limit};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

mod scratch;
mod shared;

type Reader = fn(&str);

const OPTIONS: [(&str, Reader); 37] = [
    ("add-host", |text| any(values::add_host(text))),
    ("bridge", |text| same(text, values::bridge_name(text))),
    ("cap-add", capability),
    ("cpu-period", |text| any(values::cpu_period(text))),
    ("cpu-quota", |text| any(values::cpu_quota(text))),
    ("cpu-shares", cpu_shares),
    ("cpus", |text| shown(values::cpus, text, ToString::to_string)),
    ("cpuset-cpus", |text| any(values::cpuset(text))),
    ("cpuset-mems", |text| any(values::memory_nodes(text))),
    ("device", device),
    ("dns", |text| shown(values::dns, text, ToString::to_string)),
    ("dns-option", |text| same(text, values::dns_option(text))),
    ("dns-search", |text| same(text, values::dns_search(text))),
    ("env", |text| any(values::env(text.into()))),
    ("hostname", |text| same(text, values::hostname(text))),
    ("ip", |text| shown(values::ip, text, ToString::to_string)),
    ("ipc", |text| any(values::ipc_mode(text))),
    ("keep", |text| same(text, values::keep_name(text))),
    ("memory", |text| shown(values::memory, text, |&limit| size(limit))),
    ("memory-swap", |text| shown(values::memory_swap, text, |limit| limit.map_or("0".into(), swap))),
    ("network", |text| any(values::network_mode(text))),
    ("pid", |text| any(values::pid_mode(text))),
    ("pids-limit", |text| shown(values::pids_limit, text, |limit| limit.v1())),
    ("publish", publish),
    ("rootfs", |text| any(values::directory(text.into()))),
    ("security-opt", |text| any(values::security_opt(text.into()))),
    ("shm-size", |text| shown(values::shm_size, text, |&bytes| values::format_size(bytes))),
    ("signal", |text| any(values::signal(text))),
    ("stop-timeout", |text| any(values::stop_timeout(text))),
    ("subnet", subnet),
    ("subuidname", |text| same(text, values::subid_name(text))),
    ("sysctl", sysctl),
    ("uidmap", |text| {
        shown(values::id_range, text, |it| format!("{}:{}:{}", it.container, it.host, it.size))
    }),
    ("ulimit", |text| {
        shown(values::ulimit, text, |it| format!("{}={}:{}", it.name, signed(it.soft), signed(it.hard)))
    }),
    ("user", |text| any(values::user(text))),
    ("userns", |text| any(values::userns_mode(text))),
    ("workdir", workdir),
];

fuzz_target!(
    init: {
        scratch::enter();
        // What these readers ask the machine for.
        scratch::file("/sys/devices/system/cpu/online", b"0-3,5\n");
        scratch::file("/sys/devices/system/node/has_memory", b"0-1\n");
        fs::create_dir_all("/dev/folder/deep").expect("the root is ours");
        for path in ["/dev/null", "/dev/folder/a", "/dev/folder/deep/b"] {
            let made = mknodat(CWD, path, FileType::CharacterDevice, Mode::from(0o666), makedev(1, 3));
            made.expect("root may make devices");
        }
    },
    |input: &[u8]| {
        let Ok(text) = str::from_utf8(input) else { return };
        let (word, value) = text.split_once(' ').unwrap_or((text, ""));
        let known = OPTIONS.iter().find(|(name, _)| *name == word);
        let other = word.bytes().map(usize::from).sum::<usize>() % OPTIONS.len();
        known.unwrap_or(&OPTIONS[other]).1(value);
    }
);

/// The value, or an error that is one short line.
fn taken<T>(read: Result<T, Invalid>) -> Option<T> {
    read.map_err(|error| shared::check_error(&error)).ok()
}

/// A value of which nothing more is known.
fn any<T>(read: Result<T, Invalid>) {
    let _ = taken(read);
}

/// A value that is the text itself.
fn same(text: &str, read: Result<String, Invalid>) {
    assert!(taken(read).is_none_or(|read| read == text), "{text:?}");
}

/// A value that can be shown as the option takes it.
fn shown<T: Debug + PartialEq>(
    read: fn(&str) -> Result<T, Invalid>,
    text: &str,
    show: impl Fn(&T) -> String,
) {
    if let Some(value) = taken(read(text)) {
        let shown = show(&value);
        assert_eq!(read(&shown).as_ref(), Ok(&value), "{shown:?}");
    }
}

fn size(limit: Limit) -> String {
    if limit == Limit::Unlimited { "0".into() } else { values::format_limit(limit) }
}

fn swap(limit: Limit) -> String {
    if limit == Limit::Unlimited { "-1".into() } else { values::format_limit(limit) }
}

fn signed(limit: u64) -> String {
    if limit == u64::MAX { "-1".into() } else { limit.to_string() }
}

/// This error has two lines more, with clap's tip.
fn capability(text: &str) {
    match values::capability(text) {
        Ok(_) => {}
        Err(error) => assert!(error.to_string().lines().count() <= 3, "{error}"),
    }
}

/// The kernel takes weights from 1 to 10000.
fn cpu_shares(text: &str) {
    if let Some(shares) = taken(values::cpu_shares(text)) {
        assert!(shares == 0 || (1..=10_000).contains(&values::cpu_weight(shares)), "{shares}");
    }
}

/// Each device has a place beneath the root.
fn device(text: &str) {
    for (host, inside) in taken(values::devices(OsString::from(text))).iter().flat_map(|it| it.paths()) {
        assert!(host.is_absolute(), "{host:?}");
        shared::check_target(inside);
    }
}

fn publish(text: &str) {
    let Some(published) = taken(values::publish(text)) else { return };
    for port in published.ports().take(3) {
        let again = values::publish(&port.to_string()).map(|it| it.ports().collect::<Vec<_>>());
        assert_eq!(again, Ok(vec![port]));
    }
}

/// The gateway and a container have addresses in it.
fn subnet(text: &str) {
    if let Some(subnet) = taken(values::subnet(text)) {
        let (first, last) = values::container_addresses(subnet);
        assert!(first <= last && [values::gateway(subnet), first, last].iter().all(|ip| subnet.contains(ip)));
    }
}

/// Its path stays beneath /proc/sys.
fn sysctl(text: &str) {
    if let Some(read) = taken(values::sysctl(text)) {
        assert!(read.path().split('/').all(|part| !["", ".", ".."].contains(&part)), "{:?}", read.path());
        assert_eq!(values::sysctl(&read.assignment()), Ok(read));
    }
}

fn workdir(text: &str) {
    if let Some(path) = taken(values::workdir(text.into())) {
        assert!(path.is_absolute(), "{path:?}");
    }
}
