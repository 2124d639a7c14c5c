//! What the kernel says about a process, its mounts and its cgroup: read from outside, never asked of the
//! runtime.
//!
//! Touches nothing. Man pages: proc_pid_status(5), proc_pid_mountinfo(5), cgroups(7), pid_namespaces(7);
//! the kernel's cgroup-v1/ and cgroup-v2.rst.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, gethostname, sysconf};

use crate::Failure;

/// A process, by its id in the checks' own PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(pub i32);

/// The checks themselves.
pub fn myself() -> Process {
    Process(std::process::id().cast_signed())
}

impl Process {
    /// The process that asks. The thread, to be exact: a thread can have namespaces of its own.
    pub fn this_thread() -> PathBuf {
        PathBuf::from("/proc/thread-self")
    }

    /// A file of the process's folder: `path("status")`.
    pub fn path(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0))
    }

    /// The text of such a file.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn read(self, file: &str) -> Result<String, Failure> {
        read(self.path(file))
    }

    /// A line of `/proc/PID/status`: `status("NSpid")` is the process's id in each PID namespace, outermost
    /// first.
    ///
    /// # Errors
    /// When the process is gone or the kernel has no such line.
    pub fn status(self, field: &str) -> Result<String, Failure> {
        let status = self.read("status")?;
        let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found.map(|value| value.trim().to_owned()).ok_or_else(|| {
            Failure::new(format!("a line {field} in {}", self.path("status").display()), "none")
        })
    }

    /// The namespace of that kind (`pid`, `mnt`, `uts` …) in which the process is: two are the same exactly
    /// when these texts are.
    ///
    /// # Errors
    /// When the process is gone or the kernel has no such kind.
    pub fn namespace(self, kind: &str) -> Result<PathBuf, Failure> {
        Ok(fs::read_link(self.path("ns").join(kind))?)
    }

    /// The process's environment as it was at its exec.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn environment(self) -> Result<Vec<String>, Failure> {
        let text = self.read("environ")?;
        Ok(text.split_terminator('\0').map(str::to_owned).collect())
    }

    /// The soft and the hard limit under this name of `/proc/PID/limits`: "Max open files".
    ///
    /// # Errors
    /// When the process is gone.
    pub fn limit(self, name: &str) -> Result<(String, String), Failure> {
        let limits = self.read("limits")?;
        let values = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let mut values = values.split_whitespace().map(str::to_owned);
        Ok((values.next().unwrap_or_default(), values.next().unwrap_or_default()))
    }

    /// The numbers of its open descriptors.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn descriptors(self) -> Result<BTreeSet<i32>, Failure> {
        let entries = fs::read_dir(self.path("fd"))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// The mounts that the process sees.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn mounts(self) -> Result<Vec<Mount>, Failure> {
        Mount::parse(&self.read("mountinfo")?)
    }

    /// The topmost mount that the process sees at this place.
    ///
    /// # Errors
    /// When there is none, or the process is gone.
    pub fn mount_at(self, point: &str) -> Result<Mount, Failure> {
        let topmost = self.mounts()?.into_iter().rfind(|mount| mount.point == point);
        topmost.ok_or_else(|| Failure::new(format!("a mount at {point}"), "none"))
    }

    /// The cgroup in which the process is.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cgroup(self) -> Result<Cgroup, Failure> {
        Ok(Cgroup::parse(&self.read("cgroup")?, &hierarchies()?))
    }

    /// The host name in the process's UTS namespace, which a thread enters to ask.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn hostname(self) -> Result<String, Failure> {
        let namespace = fs::File::open(self.path("ns/uts"))?;
        let asking = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWUTS)?;
            gethostname()
        });
        let name = asking.join().unwrap_or(Err(nix::Error::EFAULT))?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// Does something in the process's IPC namespace, which a thread enters.
    ///
    /// # Errors
    /// When the process is gone, or what `action` fails at.
    pub fn in_ipc<T: Send>(self, action: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
        let namespace = fs::File::open(self.path("ns/ipc"))?;
        let acting = || {
            setns(namespace, CloneFlags::CLONE_NEWIPC)?;
            action()
        };
        thread::scope(|scope| scope.spawn(acting).join())
            .unwrap_or_else(|_| Err(Failure::new("the check works", "its thread broke off")))
    }

    /// The processor time that it has used.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_time(self) -> Result<Duration, Failure> {
        let stat = self.read("stat")?;
        // After the name in brackets, which may hold anything: fields 14 and 15 of proc_pid_stat(5).
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 =
            after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
        Ok(Duration::from_secs(ticks) / u32::try_from(per_second).unwrap_or(100))
    }

    /// What the process was started as, for messages.
    pub fn command_line(self) -> String {
        let text = fs::read_to_string(self.path("cmdline")).unwrap_or_default();
        text.trim_end_matches('\0').replace('\0', " ")
    }

    /// Ends it, for good. That it is gone already is fine.
    pub fn end(self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
    }

    /// Whether it runs: it is there and has not ended.
    pub fn is_alive(self) -> bool {
        self.path("status").exists() && !self.is_zombie()
    }

    /// Whether it has ended and waits to be reaped.
    pub fn is_zombie(self) -> bool {
        self.status("State").is_ok_and(|state| state.starts_with('Z'))
    }

    /// All its descendants, children first.
    pub fn descendants(self) -> Vec<Process> {
        let mut children = BTreeMap::<i32, Vec<i32>>::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent =
                stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            children.entry(parent.unwrap_or(0)).or_default().push(pid);
        }
        let mut found = vec![];
        let mut parents = vec![self.0];
        while let Some(parent) = parents.pop() {
            for &child in children.get(&parent).into_iter().flatten() {
                found.push(Process(child));
                parents.push(child);
            }
        }
        found
    }

    /// Whether the process is PID 1 of a PID namespace below the checks' own.
    pub fn is_first(self) -> bool {
        self.status("NSpid").is_ok_and(|ids| {
            let ids: Vec<_> = ids.split_whitespace().collect();
            ids.len() > 1 && ids.last() == Some(&"1")
        })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The text of a file; the error names it.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: impl AsRef<Path>) -> Result<String, Failure> {
    let path = path.as_ref();
    let bytes =
        fs::read(path).map_err(|error| Failure::new(format!("{} can be read", path.display()), error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// One line of a mountinfo file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    /// Which folder of the filesystem is seen: `/`, or less for a bind mount.
    pub root: String,
    /// Where.
    pub point: String,
    /// `ro,nosuid` and the like, of the mount.
    pub options: String,
    /// `shared:1`, `master:1`: empty when the mount is private.
    pub propagation: String,
    /// The filesystem's type.
    pub kind: String,
    /// The device, or what the mounter named.
    pub source: String,
    /// The options of the filesystem itself.
    pub filesystem_options: String,
}

impl Mount {
    /// Whether it has this option of its own, such as `ro`.
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|one| one == option)
    }

    /// A line that nobody can read is a failure: a mount that is lost here would pass for none.
    fn parse(mountinfo: &str) -> Result<Vec<Mount>, Failure> {
        let unknown = |line: &str| Failure::new("lines of mountinfo as in proc_pid_mountinfo(5)", line);
        mountinfo.lines().map(|line| Mount::parse_line(line).ok_or_else(|| unknown(line))).collect()
    }

    fn parse_line(line: &str) -> Option<Mount> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mount: Vec<_> = mount.split(' ').collect();
        let mut filesystem = filesystem.split(' ').map(str::to_owned);
        Some(Mount {
            root: (*mount.get(3)?).to_owned(),
            point: (*mount.get(4)?).to_owned(),
            options: (*mount.get(5)?).to_owned(),
            propagation: mount.get(6..)?.join(" "),
            kind: filesystem.next()?,
            source: filesystem.next().unwrap_or_default(),
            filesystem_options: filesystem.next().unwrap_or_default(),
        })
    }

    /// The mounts that the checks themselves see.
    ///
    /// # Errors
    /// When there is no /proc.
    pub fn of_host() -> Result<Vec<Mount>, Failure> {
        Mount::parse(&read(Process::this_thread().join("mountinfo"))?)
    }
}

/// A cgroup hierarchy: v1 has one for each controller or set of controllers, v2 has one for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Which of its cgroups is the top of what is mounted.
    root: String,
    /// Whether it is version 2.
    pub v2: bool,
    /// Its controllers.
    pub controllers: Vec<String>,
}

/// The hierarchies that are mounted.
///
/// # Errors
/// When there is no /proc.
pub fn hierarchies() -> Result<Vec<Hierarchy>, Failure> {
    let mounts = Mount::of_host()?;
    let of_mount = |mount: &Mount| {
        let v2 = mount.kind == "cgroup2";
        let point = PathBuf::from(&mount.point);
        let controllers = match v2 {
            true => fs::read_to_string(point.join("cgroup.controllers")).unwrap_or_default(),
            // `name=systemd` and `rw` stand here, too; nobody asks for controllers of these names.
            false => mount.filesystem_options.replace(',', " "),
        };
        let controllers = controllers.split_whitespace().map(str::to_owned).collect();
        Hierarchy { point, root: mount.root.clone(), v2, controllers }
    };
    Ok(mounts.iter().filter(|mount| mount.kind.starts_with("cgroup")).map(of_mount).collect())
}

/// The cgroup of a process: a folder in each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    folders: Vec<(Hierarchy, PathBuf)>,
}

impl Cgroup {
    fn parse(cgroup: &str, hierarchies: &[Hierarchy]) -> Cgroup {
        let mut folders = vec![];
        for line in cgroup.lines() {
            // ID:CONTROLLERS:PATH. Version 2 has no controllers here, and the id 0.
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let is_it = |hierarchy: &&Hierarchy| match controllers.split(',').next() {
                None | Some("") => hierarchy.v2,
                Some(first) => !hierarchy.v2 && hierarchy.controllers.iter().any(|name| name == first),
            };
            let Some(hierarchy) = hierarchies.iter().find(is_it) else { continue };
            let below = Path::new(path).strip_prefix(&hierarchy.root).unwrap_or(Path::new(path));
            let below = below.strip_prefix("/").unwrap_or(below);
            folders.push((hierarchy.clone(), hierarchy.point.join(below)));
        }
        Cgroup { folders }
    }

    /// The folders, one for each hierarchy.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(|(_, folder)| folder.as_path())
    }

    /// The folder in v2.
    pub(crate) fn of_v2(&self) -> Option<&Path> {
        let (_, folder) = self.folders.iter().find(|(hierarchy, _)| hierarchy.v2)?;
        Some(folder)
    }

    /// The folder in the hierarchy that has this controller.
    ///
    /// # Errors
    /// When none has.
    pub fn folder(&self, controller: &str) -> Result<&Path, Failure> {
        let (_, folder) = self.with(controller)?;
        Ok(folder)
    }

    /// The text of a control file, by its name in v1 or in v2, whichever has the controller. The controller
    /// is the part of the name before the dot.
    ///
    /// # Errors
    /// When neither has the controller, or the file is not there: no cgroup but the root has limits.
    pub fn read(&self, v1: &str, v2: &str) -> Result<String, Failure> {
        let (hierarchy, folder) = self.with(v1.split('.').next().unwrap_or(v1))?;
        let text = read(folder.join(if hierarchy.v2 { v2 } else { v1 }))?;
        Ok(text.trim_end().to_owned())
    }

    /// A limit in bytes or in processes; `None` when there is none. Version 1 writes no limit of memory as
    /// the largest number of whole pages.
    ///
    /// # Errors
    /// As [`read`](Cgroup::read), or when the file holds no number.
    pub fn limit(&self, v1: &str, v2: &str) -> Result<Option<u64>, Failure> {
        let text = self.read(v1, v2)?;
        if text == "max" {
            return Ok(None);
        }
        let number: u64 = text
            .parse()
            .map_err(|_| Failure::new(format!("{v1} or {v2} holds a number"), format!("{text:?}")))?;
        Ok(Some(number).filter(|&bytes| bytes < i64::MAX as u64 - (1 << 20)))
    }

    /// How many processors it may use; `None` when it may use all.
    ///
    /// # Errors
    /// As [`read`](Cgroup::read).
    pub fn cpus(&self) -> Result<Option<f64>, Failure> {
        let quota_and_period = self.quota_and_period()?;
        let mut numbers = quota_and_period.split(' ').map(|number| number.parse::<f64>().ok());
        let quota = numbers.next().flatten().filter(|&quota| quota > 0.0);
        Ok(quota.zip(numbers.next().flatten()).map(|(quota, period)| quota / period))
    }

    /// The quota of processor time and its period, in microseconds, with a space in between.
    ///
    /// # Errors
    /// As [`read`](Cgroup::read).
    pub fn quota_and_period(&self) -> Result<String, Failure> {
        match self.with("cpu")?.0.v2 {
            true => self.read("cpu", "cpu.max"),
            false => Ok(self.read("cpu.cfs_quota_us", "")? + " " + &self.read("cpu.cfs_period_us", "")?),
        }
    }

    fn with(&self, controller: &str) -> Result<&(Hierarchy, PathBuf), Failure> {
        let has_it = |(hierarchy, _): &&(Hierarchy, PathBuf)| {
            hierarchy.controllers.iter().any(|name| name == controller)
        };
        self.folders.iter().find(has_it).ok_or_else(|| {
            Failure::new(
                format!("the process is in a cgroup of the controller {controller}"),
                "no such hierarchy",
            )
        })
    }
}

/// Everything below a folder, to that depth, as paths; what cannot be read is left out.
pub fn listing(folder: &Path, depth: usize) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(listing(&path, depth - 1));
        }
        found.insert(path);
    }
    found
}

/// Which file a path leads to: two paths lead to the same exactly when these are equal.
///
/// # Errors
/// When there is none.
pub fn identity(path: impl AsRef<Path>) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Whether something comes true within the time.
pub fn eventually(limit: Duration, mut truth: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if truth() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(point: &str, root: &str, v2: bool, controllers: &[&str]) -> Hierarchy {
        let controllers = controllers.iter().map(|&name| name.to_owned()).collect();
        Hierarchy { point: point.into(), root: root.into(), v2, controllers }
    }

    #[test]
    fn a_cgroup_is_found_in_v1_and_v2() {
        let mounted = [
            hierarchy("/cg/cpu", "/", false, &["rw", "cpu", "cpuacct"]),
            hierarchy("/cg/unified", "/", true, &["memory", "pids"]),
        ];
        let cgroup = Cgroup::parse("4:cpu,cpuacct:/a/b\n1:name=systemd:/x\n0::/c\n", &mounted);
        assert_eq!(cgroup.folder("cpuacct").unwrap(), Path::new("/cg/cpu/a/b"));
        assert_eq!(cgroup.folder("memory").unwrap(), Path::new("/cg/unified/c"));
        assert!(cgroup.folder("cpuset").is_err());
    }

    #[test]
    fn a_hierarchy_that_is_mounted_in_part_is_no_trap() {
        let mounted = [hierarchy("/cg", "/docker/1", true, &["memory"])];
        let cgroup = Cgroup::parse("0::/docker/1/congo\n", &mounted);
        assert_eq!(cgroup.folder("memory").unwrap(), Path::new("/cg/congo"));
    }

    #[test]
    fn a_mount_line_is_read_with_and_without_propagation() {
        let text = "31 23 0:28 / /cg rw,relatime shared:9 master:1 - tmpfs none rw,mode=755\n\
                    23 1 8:1 /sub / ro - ext4 /dev/sda1 rw\n";
        let mounts = Mount::parse(text).unwrap();
        assert!(Mount::parse("31 23 0:28 / /cg rw\n").is_err());
        assert_eq!(mounts[0].propagation, "shared:9 master:1");
        assert_eq!((mounts[1].propagation.as_str(), mounts[1].root.as_str()), ("", "/sub"));
        assert_eq!(mounts[1].source, "/dev/sda1");
    }

    #[test]
    fn a_child_is_a_descendant() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let me = Process(std::process::id().cast_signed());
        assert!(me.descendants().contains(&Process(child.id().cast_signed())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!me.descendants().contains(&Process(child.id().cast_signed())));
    }
}
