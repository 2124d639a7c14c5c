//! The kernel's settings in `/proc/sys`, by the names that sysctl(8) gives them: `net.ipv4.ip_forward`.
//!
//! The settings below `net` belong to the network namespace of the thread that reads or writes them. As in
//! sysctl(8), a name may be written with `/` instead, for a link that has a dot in its own name:
//! `net/ipv4/conf/a.b/route_localnet`. See proc_sys_net(5), ip(7).

use std::fs;
#[cfg(feature = "network")]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
#[cfg(feature = "network")]
use std::sync::OnceLock;

use nix::errno::Errno;
#[cfg(feature = "network")]
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};

#[cfg(feature = "network")]
use crate::sys::error::Error;
use crate::sys::error::{Context, Hint, Result};
use crate::sys::short::read_text;
use crate::sys::write_value;
#[cfg(feature = "network")]
use crate::values::Sysctl;

/// Where the settings are.
const SETTINGS: &str = "/proc/sys";

/// What the setting is now, without the newline at its end.
///
/// # Errors
/// ENOENT when this kernel has no such setting.
pub fn read(name: &str) -> Result<String> {
    let path = path(name);
    fs::read_to_string(&path)
        .map(|text| text.trim_end().to_owned())
        .at("reading", &path)
        .hint_if(Errno::ENOENT, "this kernel has no such setting, or not for this network interface")
}

/// Changes the setting.
///
/// # Errors
/// ENOENT when this kernel has no such setting. EINVAL when it does not take the value. EACCES or EROFS where
/// the settings may not be changed, as in a container.
pub fn write(name: &str, value: &str) -> Result<()> {
    let path = path(name);
    write_value("sysctl(8), proc_sys(5)", &path, value)
        .hint_if(Errno::ENOENT, "this kernel has no such setting, or not for this network interface")
        .hint_if(Errno::EROFS, "/proc/sys is mounted read-only, as in a container: run outside of it")
        .hint_if(Errno::EACCES, "only root may change it, and outside of a container: run as root")
        .hint_if(Errno::EINVAL, "this kernel does not take that value")
}

/// The same for a setting without which the container can do. Where `/proc/sys` is mounted read-only, as in a
/// container around this one, the setting stays as it is. It also does where the kernel has no such setting.
///
/// # Errors
/// As [`write()`], but for EROFS and ENOENT.
pub fn write_if_allowed(name: &str, value: &str) -> Result<()> {
    match write(name, value) {
        Err(error) if matches!(error.errno(), Some(Errno::EROFS | Errno::ENOENT)) => Ok(()),
        result => result,
    }
}

/// The network and the IPC namespace of the runtime, which are the host's.
#[cfg(feature = "network")]
static OF_HOST: OnceLock<[(u64, u64); 2]> = OnceLock::new();

/// In the parent: remembers which namespaces are the host's, so that [`set`] writes to neither. The container
/// that this one is to join may end meanwhile, and a process of the host may get its PID.
///
/// # Errors
/// When `/proc` is not mounted.
#[cfg(feature = "network")]
pub(crate) fn remember_host() -> Result<()> {
    let _ = OF_HOST.set([namespace("net")?, namespace("ipc")?]);
    Ok(())
}

/// Which namespace of this kind the process is in.
#[cfg(feature = "network")]
fn namespace(kind: &str) -> Result<(u64, u64)> {
    let path = Path::new("/proc/self/ns").join(kind);
    fs::metadata(&path).at("stat", &path).map(|there| (there.dev(), there.ino()))
}

/// In the child, in its root: changes settings of the namespaces that it is in. By the container's own
/// procfs: the root of a user namespace may write there, where it is the owner of the namespace.
///
/// # Errors
/// As [`write()`], with the option's name; when something else than a procfs is at `/proc`; when the
/// namespace is the host's.
#[cfg(feature = "network")]
pub fn set(sysctls: &[Sysctl]) -> Result<()> {
    let Some(first) = sysctls.first() else { return Ok(()) };
    let system = statfs(SETTINGS).context(format_args!("{first}: statfs {SETTINGS}"))?;
    if system.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(Error::new(format!("{first}: {SETTINGS} is not the kernel's")));
    }
    let [network, ipc] = OF_HOST.get().ok_or_else(|| Error::new(format!("{first}: not checked")))?;
    for sysctl in sysctls {
        let (kind, of_host) = if sysctl.is_of_network() { ("net", network) } else { ("ipc", ipc) };
        if namespace(kind)? == *of_host {
            return Err(Error::new(format!("{sysctl}: it would change the host"))
                .hint("the container to join has ended, and a process of the host has its PID"));
        }
        let path = Path::new(SETTINGS).join(sysctl.path());
        write_value("sysctl(8), proc_sys(5)", &path, sysctl.value()).map_err(|error| {
            let named = match error.errno() {
                Some(errno) => Error::from_errno(sysctl.to_string(), errno),
                None => Error::new(format!("{sysctl}: {error}")),
            };
            match error.errno() {
                Some(Errno::ENOENT) => {
                    named.hint("this kernel has no such setting, or has it for the host only")
                }
                Some(Errno::EACCES | Errno::EPERM) => named.hint(
                    "only the host may change it; root of a user namespace may change a limit of IPC since \
                     Linux 6.9, before it only with --userns host",
                ),
                Some(Errno::EINVAL | Errno::ERANGE) => named.hint("this kernel does not take that value"),
                Some(Errno::EISDIR) => named.hint("that is a folder of settings: name one of those in it"),
                Some(Errno::EROFS) => {
                    named.hint("/proc/sys is read-only, as in a container: run outside of it")
                }
                _ => named,
            }
        })?;
    }
    Ok(())
}

/// The highest group id that this process's user namespace has, for a setting that is a range of groups. The
/// kernel takes only ids of the namespace there, and none above 2,147,483,647.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn highest_group() -> Result<u32> {
    const MAP: &str = "/proc/thread-self/gid_map";
    let map = read_text(MAP).at("read", MAP)?;
    Ok(highest_of(&map))
}

/// Each line of a map has the first id inside, the first outside, and how many.
fn highest_of(map: &str) -> u32 {
    let last = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().unwrap_or_default());
        let (first, count) = (numbers.next()?, numbers.nth(1)?);
        Some(first.saturating_add(count).saturating_sub(1))
    };
    map.lines().filter_map(last).max().unwrap_or_default().min(i32::MAX.cast_unsigned())
}

fn path(name: &str) -> PathBuf {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    Path::new(SETTINGS).join(relative)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_network_namespace;

    #[test]
    fn names_with_dots_or_slashes() {
        assert_eq!(path("net.ipv4.ip_forward"), Path::new("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(path("net/ipv4/conf/a.b/forwarding"), Path::new("/proc/sys/net/ipv4/conf/a.b/forwarding"));
    }

    #[test]
    fn what_is_written_is_read() {
        in_network_namespace(|| {
            for value in ["1", "0", "1"] {
                write("net.ipv4.ip_forward", value).unwrap();
                assert_eq!(read("net.ipv4.ip_forward").as_deref(), Ok(value));
            }
            let error = write("net.ipv4.ip_forward", "much").unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EINVAL));
            let line = "write(\"/proc/sys/net/ipv4/ip_forward\", \"much\"): EINVAL: Invalid argument";
            assert_eq!(error.to_string(), line);
        });
    }

    #[test]
    fn the_highest_group_of_a_map() {
        for (map, highest) in [
            ("         0          0 4294967295\n", 2_147_483_647),
            ("0 1879048192 65536\n", 65535),
            ("0 1000 1\n", 0),
            ("0 100000 1000\n1000 1000 1\n1001 101000 64536\n", 65536),
        ] {
            assert_eq!(highest_of(map), highest, "{map:?}");
        }
    }

    /// The thread is in namespaces of its own, so a setting that is written all the same changes no host.
    #[cfg(feature = "network")]
    #[test]
    fn the_hosts_settings_stay_as_they_are() {
        in_network_namespace(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC).unwrap();
            let sysctls =
                ["net.ipv4.ip_forward=1", "kernel.msgmax=8192"].map(|it| crate::values::sysctl(it).unwrap());
            let before = read("net.ipv4.ip_forward").unwrap();
            assert!(set(&sysctls).unwrap_err().to_string().ends_with("not checked"));
            remember_host().unwrap();
            for sysctl in &sysctls {
                let error = set(std::slice::from_ref(sysctl)).unwrap_err().to_string();
                assert!(error.ends_with("it would change the host"), "{error}");
            }
            assert_eq!(read("net.ipv4.ip_forward").unwrap(), before);
        });
    }

    #[test]
    fn a_setting_that_is_not_there() {
        for error in [write("net.ipv4.no_such_thing", "1").unwrap_err(), read("net.none").unwrap_err()] {
            assert_eq!(error.errno(), Some(Errno::ENOENT), "{error}");
        }
    }
}
