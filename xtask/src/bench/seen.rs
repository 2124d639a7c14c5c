//! What a container is, seen from outside: its namespaces, mounts, limits and rights.
//!
//! Two programs can be compared only if they make the same container. Man pages: proc_pid_mountinfo(5),
//! proc_pid_status(5), namespaces(7), cgroups(7).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, anyhow};
use checks::Failure;
use checks::kernel::{Mount, Process, eventually, myself};

use super::measure::Contender;

/// A container that lives until this value is dropped.
pub struct Held {
    /// The runtime, or what else was started.
    pub child: Child,
    /// The command in the container.
    pub inside: Process,
}

impl Held {
    /// Starts a container whose command lasts, and waits until it runs.
    pub fn start(contender: &Contender) -> Result<Held> {
        let mut command = contender.command(&super::SLEEP);
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let runtime = Process(child.id().cast_signed());
        let find =
            || runtime.descendants().into_iter().find(|it| it.read("comm").is_ok_and(|it| it == "sleep\n"));
        let mut inside = None;
        eventually(super::PATIENCE, || {
            inside = find();
            inside.is_some() || !runtime.is_alive()
        });
        match inside {
            Some(inside) => Ok(Held { child, inside }),
            None => {
                runtime.end();
                let mut error = String::new();
                child.stderr.take().context("it is a pipe")?.read_to_string(&mut error)?;
                child.wait()?;
                Err(anyhow!("{}: no container: {error}", contender.name))
            }
        }
    }

    /// The memory of the waiting runtime that it has alone and the kernel cannot drop, in bytes.
    pub fn private_memory(&self) -> Result<u64> {
        let maps = asked(Process(self.child.id().cast_signed()).read("smaps_rollup"))?;
        let line = maps.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.context("no Private_Dirty in smaps_rollup")? * 1024)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inside.end();
        let _ = self.child.wait();
    }
}

/// What a look at the kernel found, as an error of this program's kind.
pub fn asked<T>(result: Result<T, Failure>) -> Result<T> {
    result.map_err(|failure| anyhow!("expected {}, found {}", failure.expected, failure.found))
}

/// The features of a container, by name.
pub struct Seen(BTreeMap<String, String>);

impl Seen {
    /// Looks at the container's command.
    pub fn of(inside: Process) -> Result<Seen> {
        let mut seen = BTreeMap::new();
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            if asked(inside.namespace(kind))? != asked(myself().namespace(kind))? {
                seen.insert(format!("namespace {kind}"), "its own".to_owned());
            }
        }
        let count = |map: String| -> u64 {
            map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
        };
        seen.insert("ids".into(), count(asked(inside.read("uid_map"))?).to_string());
        for mount in asked(inside.mounts())? {
            seen.insert(format!("mount {}", mount.point), describe(&mount));
        }
        let (group, ours) = (asked(inside.cgroup())?, asked(myself().cgroup())?);
        if asked(group.folder("memory"))? != asked(ours.folder("memory"))? {
            let mut limit = |name: &str, text| seen.insert(format!("limit {name}"), text);
            limit("memory", asked(group.read("memory.limit_in_bytes", "memory.max"))?);
            // Not every kernel counts swap.
            let swap = group.read("memory.memsw.limit_in_bytes", "memory.swap.max");
            limit("swap", swap.unwrap_or_default());
            limit("cpu", asked(group.quota_and_period())?);
            limit("pids", asked(group.read("pids.max", "pids.max"))?);
        }
        seen.insert("resource limits".into(), asked(inside.read("limits"))?);
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"] {
            seen.insert(field.into(), asked(inside.status(field))?);
        }
        seen.insert("host name".into(), asked(inside.hostname())?);
        let variables: BTreeSet<_> = asked(inside.environment())?.into_iter().collect();
        seen.insert("environment".into(), format!("{variables:?}"));
        seen.insert("descriptors".into(), format!("{:?}", asked(inside.descriptors())?));
        seen.insert("devices".into(), names_in(inside, "root/dev")?);
        if seen.contains_key("namespace net") {
            let network = asked(checks::network::Network::of(inside))?;
            let links = asked(network.links())?;
            let links: BTreeSet<_> = links.iter().map(|link| (&link.name, link.up)).collect();
            seen.insert("links".into(), format!("{links:?}"));
        }
        Ok(Seen(seen))
    }

    /// What is not the same: the name, and both values.
    pub fn differences(&self, other: &Seen) -> Vec<String> {
        let names: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let differs = |name: &&String| self.0.get(*name) != other.0.get(*name);
        let tell = |name: &String| {
            let [one, other] = [self, other].map(|seen| seen.0.get(name).map_or("none", String::as_str));
            format!("{name}: {one} / {other}")
        };
        names.into_iter().filter(differs).map(tell).collect()
    }

    /// What it does not have of the other's isolation.
    pub fn lacks(&self, other: &Seen) -> String {
        let missing = |kind: &str| {
            let names = other.0.keys().filter_map(|name| name.strip_prefix(kind));
            names.filter(|name| !self.0.contains_key(&format!("{kind}{name}"))).collect::<Vec<_>>()
        };
        let mut lacks = Vec::new();
        for (kind, word) in [("namespace ", "namespaces"), ("limit ", "limits"), ("mount ", "mounts")] {
            match missing(kind).as_slice() {
                [] => {}
                names => lacks.push(format!("{word} ({})", names.join(", "))),
            }
        }
        let is_missing = |name: &&str| {
            let [own, wanted] = [self, other].map(|seen| seen.0.get(*name));
            own.is_some_and(|own| own == "0") && own != wanted
        };
        lacks.extend(["Seccomp", "NoNewPrivs"].into_iter().filter(is_missing).map(str::to_owned));
        for (name, word) in [("ids", "users"), ("CapBnd", "capabilities")] {
            if self.0.get(name) != other.0.get(name) {
                lacks.push(format!("{word} ({})", self.0.get(name).map_or("", String::as_str)));
            }
        }
        lacks.join("; ")
    }
}

/// A mount without what is another in each container: paths of layers, and ids of the host.
fn describe(mount: &Mount) -> String {
    let (mut layers, mut options) = (0, BTreeSet::new());
    for option in mount.filesystem_options.split(',') {
        match option.split_once('=') {
            Some(("lowerdir" | "lowerdir+", paths)) => layers += paths.split(':').count(),
            Some(("upperdir" | "workdir", _)) => {}
            // Each container has a range of its own, of 65,536.
            Some((name @ ("uid" | "gid"), id)) => {
                let id = id.parse::<u64>().map_or(0, |id| id % 65_536);
                options.extend((id != 0).then(|| format!("{name}={id}")));
            }
            // Linux 6.19 writes the longer one.
            _ if option.ends_with("volatile") => drop(options.insert("volatile".into())),
            // The mount's own counts.
            _ if option == "ro" || option == "rw" => {}
            _ => drop(options.insert(option.to_owned())),
        }
    }
    let own: BTreeSet<_> = mount.options.split(',').collect();
    format!("{} {} {own:?} {options:?} {layers} layers", mount.kind, mount.root)
}

fn names_in(inside: Process, folder: &str) -> Result<String> {
    let entries = fs::read_dir(inside.path(folder))?;
    let names: BTreeSet<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    Ok(format!("{names:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(features: &[(&str, &str)]) -> Seen {
        Seen(features.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn what_differs_is_named() {
        let (one, other) =
            (seen(&[("Seccomp", "0"), ("ids", "1")]), seen(&[("Seccomp", "2"), ("mount /a", "x")]));
        assert_eq!(one.differences(&one), Vec::<String>::new());
        assert_eq!(one.differences(&other), ["Seccomp: 0 / 2", "ids: 1 / none", "mount /a: none / x"]);
        assert_eq!(one.lacks(&other), "mounts (/a); Seccomp; users (1)");
    }

    #[test]
    fn paths_of_layers_and_ids_of_the_host_do_not_count() {
        let mount = |options: &str| Mount {
            root: "/".into(),
            point: "/".into(),
            options: "rw,relatime".into(),
            propagation: String::new(),
            kind: "overlay".into(),
            source: "none".into(),
            filesystem_options: options.into(),
        };
        let old = mount("rw,lowerdir=/a:/b,upperdir=/u,workdir=/w,volatile,gid=1879048197");
        let new = mount("rw,lowerdir+=b,lowerdir+=a,upperdir=u,workdir=v,fsync=volatile,gid=2347565061");
        assert_eq!(describe(&old), describe(&new));
        assert_ne!(describe(&old), describe(&mount("rw,lowerdir=/a:/b,upperdir=/u,workdir=/w,gid=5")));
    }
}
