//! What a container is, as a program in it can find out: its namespaces, its ids, its rights, and what is
//! hidden from it.
//!
//! Figures by name, so that those of two runtimes can be laid side by side. Changes nothing. Kernel objects:
//! `/proc/self`, the mounts, `/dev`. Man pages: proc(5), namespaces(7), capabilities(7), seccomp(2),
//! statvfs(3).

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use common::sys::attack::{try_sockets, try_system_calls};
use nix::sys::stat::{major, minor};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::kernel::{Mount, myself};

/// A figure's name, and what was found.
pub type Figures = BTreeMap<String, String>;

/// The first namespace of each kind has this number in every kernel; of the others only some tell.
const FIRST: [(&str, Option<u64>); 8] = [
    ("cgroup", Some(0xefff_fffb)),
    ("ipc", Some(0xefff_ffff)),
    ("mnt", None),
    ("net", None),
    ("pid", Some(0xefff_fffc)),
    ("time", Some(0xefff_fffa)),
    ("user", Some(0xefff_fffd)),
    ("uts", Some(0xefff_fffe)),
];

/// Those lines of `/proc/self/status` that say what the process may do.
const STATUS: [&str; 9] =
    ["Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];

/// What Docker hides: its `defaultLinuxMaskedPaths`.
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What Docker makes read-only: its `defaultLinuxReadonlyPaths`.
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where the rest of the kernel's own files lie.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/sys/fs/cgroup"];

/// Looks at everything.
///
/// # Errors
/// There is no /proc, or no process can be made.
pub(super) fn look() -> Result<Figures, Box<dyn Error>> {
    let mut figures = Figures::new();
    for (kind, first) in FIRST {
        figures.insert(format!("namespace {kind}"), namespace(kind, first));
    }
    for map in ["uid_map", "gid_map", "setgroups"] {
        let text = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_else(|error| error.to_string());
        figures.insert(map.into(), text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let status = fs::read_to_string("/proc/self/status")?;
    for line in status.lines() {
        if let Some((name, value)) = line.split_once(':')
            && STATUS.contains(&name)
        {
            figures.insert(name.into(), value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    let mounts = myself().mounts().map_err(|failure| failure.found)?;
    for path in KERNELS.into_iter().chain(MASKED).chain(READ_ONLY) {
        figures.insert(format!("path {path}"), protection(path, &mounts));
    }
    devices(Path::new("/dev"), &mut figures)?;
    figures.extend(try_system_calls()?.into_iter().map(|(name, result)| (format!("call {name}"), result)));
    figures.extend(try_sockets()?.into_iter().map(|(name, result)| (format!("socket {name}"), result)));
    Ok(figures)
}

fn namespace(kind: &str, first: Option<u64>) -> String {
    let Ok(there) = fs::metadata(format!("/proc/self/ns/{kind}")) else {
        return "none in this kernel".into();
    };
    match first {
        Some(first) if there.ino() == first => "the host's".into(),
        Some(_) => "its own".into(),
        None => "cannot be known from inside".into(),
    }
}

/// How a path is protected: what lies over it, and whether it can be written to.
fn protection(path: &str, mounts: &[Mount]) -> String {
    let Ok(there) = fs::metadata(path) else { return "absent".into() };
    let over = mounts.iter().rfind(|mount| mount.point == path).map(|mount| mount.kind.as_str());
    if there.file_type().is_char_device() {
        return "hidden".into();
    }
    let is_empty = there.is_dir() && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty && over == Some("tmpfs") {
        return "hidden".into();
    }
    match statvfs(path) {
        Ok(status) if status.flags().contains(FsFlags::ST_RDONLY) => "read-only".into(),
        Ok(_) => "writable".into(),
        Err(errno) => format!("{errno:?}"),
    }
}

/// All that is in /dev, but not the terminals that happen to be open.
fn devices(folder: &Path, figures: &mut Figures) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let there = fs::symlink_metadata(&path)?;
        let (kind, mode) = (there.file_type(), there.mode() & 0o7777);
        let number = || format!("{}:{}", major(there.rdev()), minor(there.rdev()));
        let what = if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path)?.display())
        } else if kind.is_char_device() {
            format!("char {} {mode:o}", number())
        } else if kind.is_block_device() {
            format!("block {} {mode:o}", number())
        } else if kind.is_dir() {
            format!("folder {mode:o}")
        } else {
            format!("file {mode:o}")
        };
        figures.insert(format!("device {}", path.display()), what);
        if kind.is_dir() && !path.ends_with("pts") {
            devices(&path, figures)?;
        }
    }
    Ok(())
}
