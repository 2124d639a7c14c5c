//! Control groups as directories: which hierarchy is mounted where, making, writing, joining, removing.
//!
//! In cgroup v1 each controller has a hierarchy (a tree of directories) of its own. In v2 all controllers
//! share one, and a hybrid host has both kinds. So one container's cgroup is one directory in v2, and one in
//! each v1 hierarchy that it uses. The lesson, which file takes which limit, stands in the steps'
//! `cgroup.rs`.
//!
//! A directory is named `congo-` and twelve random digits. Its runtime holds a lock on it (flock(2)). If the
//! lock is free, the runtime was killed and left the directory behind. The next run removes it.
//! See cgroups(7), and the kernel's admin-guide/cgroup-v1 and cgroup-v2.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Pid, access};

use crate::fs::claim::{self, Claim, are_random, random_digits};
use crate::fs::mount::mountinfo::{self, Mount};
use crate::sys::error::{Context, Error, Hint, Result};
use crate::sys::folder::names_in;
use crate::sys::pidfd::OpenProcess;
use crate::sys::short::read_text;
use crate::sys::{call, write_value};

const PREFIX: &str = "congo-";

/// How a user who is not root gets a part of cgroup v2.
const DELEGATE: &str = "run as root, or where systemd gives you a part of them: \
                        systemd-run --user --scope -p Delegate=yes COMMAND";

/// How long a cgroup's last process may take to go away. A killed one is gone in microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same for what another runtime left: whatever is stuck must not delay every later start.
const SWEEP_PATIENCE: Duration = Duration::from_secs(1);

/// How many processes are opened before they are killed: this process may have only so many descriptors.
const OPEN_AT_ONCE: usize = 32;

/// The two interfaces of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// A container's control group: its directory in every hierarchy that its controllers need. Dropped, it is
/// removed.
#[derive(Debug)]
pub struct Cgroup {
    /// The first directory stands for all of them: it is made first and removed last. It has the lock, and a
    /// sweep looks for it.
    directories: Vec<Directory>,
    left_out: Vec<String>,
    /// For as long as the runtime lives.
    _claim: Option<Claim>,
}

/// The directory of a cgroup in one hierarchy.
#[derive(Debug)]
pub struct Directory {
    /// The interface that its files have.
    pub version: Version,
    /// Those that the cgroup needs here.
    pub controllers: Vec<String>,
    path: PathBuf,
    /// v2: open, for a clone into it.
    open: Option<File>,
}

impl Cgroup {
    /// Makes a new cgroup in the hierarchies of these controllers. It is at the top of each hierarchy, where
    /// Docker makes its own, or as near to the top as this process may write. In v2 the cgroup above must
    /// still pass the controllers on. Removes what killed runtimes left.
    ///
    /// # Errors
    /// A controller that is mounted nowhere; EACCES, EROFS where no directory may be made.
    pub fn create(controllers: &[&str]) -> Result<Cgroup> {
        let mut wanted: Vec<(&Hierarchy, Vec<String>)> = Vec::new();
        let hierarchies = Hierarchy::mounted()?;
        for &controller in controllers {
            let hierarchy = hierarchies.iter().find(|hierarchy| hierarchy.has(controller));
            let hierarchy = hierarchy.ok_or_else(|| no_controller(controller))?;
            match wanted.iter_mut().find(|(chosen, _)| *chosen == hierarchy) {
                Some((_, controllers)) => controllers.push(controller.into()),
                None => wanted.push((hierarchy, vec![controller.into()])),
            }
        }
        // One name in all hierarchies, so that a person finds what belongs together.
        let name = format!("{PREFIX}{}", random_digits());
        // Should a later hierarchy fail, the drop of this cgroup removes the earlier ones' directories.
        let mut cgroup = Cgroup { directories: Vec::new(), left_out: Vec::new(), _claim: None };
        for (hierarchy, controllers) in wanted {
            let parent = hierarchy.parent()?;
            let path = parent.join(&name);
            if cgroup.directories.is_empty() {
                sweep(&parent, &hierarchies);
                cgroup._claim = Some(Claim::new(|| make(&path).map(|()| path.clone()))?);
            } else {
                make(&path)?;
            }
            let open = (hierarchy.version == Version::V2).then(|| File::open(&path).ok()).flatten();
            cgroup.directories.push(Directory { version: hierarchy.version, controllers, path, open });
        }
        Ok(cgroup)
    }

    /// The same for an ordinary user. An administrator may have delegated only some of the controllers to
    /// that user. The cgroup does without the others: a value that is written for them goes nowhere, and
    /// `tell` gets a line that says so. A missing controller is an error only if the user `needs` it.
    ///
    /// # Errors
    /// Those of [`create`](Cgroup::create).
    pub fn of_delegated(
        controllers: &[&str],
        needs: impl Fn(&str) -> bool,
        tell: impl FnOnce(fmt::Arguments<'_>),
    ) -> Result<Cgroup> {
        let mut why = None;
        let missing = |controller: &&str| {
            let error = could_have(controller).err().filter(|_| !needs(controller));
            let missing = error.is_some();
            why = why.take().or(error);
            missing
        };
        let (missing, there): (Vec<&str>, Vec<&str>) = controllers.iter().copied().partition(missing);
        if let Some(why) = why {
            let missing = missing.join(", ");
            tell(format_args!(
                "congo: containers of this user have no limit of {missing}: {}",
                why.in_one_line()
            ));
        }
        let left_out = missing.into_iter().map(str::to_owned).collect();
        let mut cgroup = Cgroup::create(&there)?;
        cgroup.left_out = left_out;
        Ok(cgroup)
    }

    fn does_without(&self, controller: &str) -> bool {
        self.left_out.iter().any(|name| name == controller)
    }

    /// Which interface the controller's files have here.
    ///
    /// # Panics
    /// When the cgroup was made without this controller.
    pub fn version(&self, controller: &str) -> Version {
        // Both have files that take the values; none is written.
        if self.does_without(controller) {
            return Version::V2;
        }
        self.directory(controller).version
    }

    /// Writes a value to one of the cgroup's files.
    ///
    /// # Errors
    /// ENOENT when this kernel has no such file, EINVAL and ERANGE when it does not take the value.
    ///
    /// # Panics
    /// When the cgroup was made without this controller.
    pub fn write(&self, controller: &str, file: &str, value: impl Display) -> Result<()> {
        if self.does_without(controller) {
            return Ok(());
        }
        self.directory(controller)
            .write(file, value)
            .hint_if(Errno::ENOENT, "this kernel was built or started without this limit")
    }

    /// The number behind `key` in a file of lines `key number`, such as `memory.events`; 0 when it is not
    /// there.
    pub fn count(&self, controller: &str, file: &str, key: &str) -> u64 {
        if self.does_without(controller) {
            return 0;
        }
        let text = read_text(self.directory(controller).path.join(file)).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0)
    }

    /// A file of the cgroup above this one, without the newline at its end.
    ///
    /// # Errors
    /// ENOENT when this kernel has no such file.
    pub fn read_above(&self, controller: &str, file: &str) -> Result<String> {
        self.directory(controller).read_above(file)
    }

    /// Its directory in each hierarchy.
    pub fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// The v2 directory, if there is one, for a clone that puts the child there at birth. Not one with a
    /// cpuset: a child born in it runs on all CPUs, until a fix of 2023, which not every kernel has.
    pub fn v2_directory(&self) -> Option<BorrowedFd<'_>> {
        let v2 = self.directories.iter().find(|directory| directory.open.is_some())?;
        let pinned = v2.controllers.iter().any(|name| name == "cpuset");
        v2.open.as_ref().filter(|_| !pinned).map(AsFd::as_fd)
    }

    /// Kills what is still in the cgroup, and waits until it is dead. A PID namespace does the same when its
    /// first process ends; without one of its own, a container's other processes would live on. What cannot
    /// be killed, [`remove`](Cgroup::remove) tells.
    pub fn end_processes(&self) {
        let give_up = Instant::now() + PATIENCE;
        for directory in &self.directories {
            let mut pause = Duration::from_micros(50);
            // Again and again: before Linux 5.14, a process may fork while the others are killed.
            while has_processes(&directory.path) && Instant::now() < give_up {
                kill_below(&directory.path);
                sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
    }

    /// Removes the cgroup. Kills what is still in it: a container's own processes died with its PID 1, but
    /// somebody may have put another one there.
    ///
    /// # Errors
    /// EBUSY when a process does not go away.
    pub fn remove(mut self) -> Result<()> {
        let directories = std::mem::take(&mut self.directories);
        remove_all(directories.iter().map(|directory| directory.path.as_path()), PATIENCE)
    }

    fn directory(&self, controller: &str) -> &Directory {
        let has = |directory: &&Directory| directory.controllers.iter().any(|name| name == controller);
        self.directories.iter().find(has).expect("the cgroup was made with this controller")
    }
}

impl Directory {
    /// Writes a value to one of the files.
    ///
    /// # Errors
    /// ENOENT when this kernel has no such file. EINVAL and ERANGE when it does not take the value. ENOSPC in
    /// v1 when a process is to join a cpuset that has no CPU or no memory node.
    pub fn write(&self, file: &str, value: impl Display) -> Result<()> {
        write(&self.path.join(file), &value.to_string())
    }

    /// A file of the cgroup above this one, without the newline at its end.
    ///
    /// # Errors
    /// ENOENT when this kernel has no such file.
    pub fn read_above(&self, file: &str) -> Result<String> {
        read(&self.path.with_file_name(file)).map(|text| text.trim_end().to_owned())
    }

    /// In v2, has the cgroup above pass these controllers on, each as `+name`.
    ///
    /// # Errors
    /// ENOENT for a controller that it does not have itself; EBUSY when it has processes of its own ("no
    /// internal processes" in cgroups(7)).
    pub fn pass_on(&self, controllers: &str) -> Result<()> {
        let file = self.path.with_file_name("cgroup.subtree_control");
        write(&file, controllers).hint_if(Errno::ENOENT, DELEGATE).hint_if(
            Errno::EBUSY,
            "this cgroup has processes of its own, so it cannot pass controllers on: move them into a child \
             of it",
        )
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // This is the way out after a failure, which is reported, too.
        let removed = remove_all(self.directories.iter().map(|directory| directory.path.as_path()), PATIENCE);
        removed.unwrap_or_else(|error| error.report("congo"));
    }
}

fn make(path: &Path) -> Result<()> {
    call(
        "mkdir(2), cgroups(7)",
        || format!("mkdir({path:?}, 0700)"),
        // Whichever process can open the directory can lock it, and so keep this and later runtimes waiting.
        || nix::unistd::mkdir(path, Mode::S_IRWXU),
    )
    .hint_if(Errno::EACCES, "control groups here belong to root: run as root")
    .hint_if(Errno::EROFS, "the cgroup filesystem is mounted read-only")
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    mountpoint: PathBuf,
    /// What part of the hierarchy the mount shows: `/` or, in a container, its own part.
    root: PathBuf,
    /// v1: the mount's options, among which are the controllers' names. v2: its `cgroup.controllers`, once
    /// somebody asks for them.
    controllers: OnceCell<Vec<String>>,
}

impl Hierarchy {
    /// Every hierarchy that is mounted; v1 first, as a controller that v1 uses is not in v2.
    fn mounted() -> Result<Vec<Hierarchy>> {
        let mut hierarchies: Vec<_> =
            mountinfo::read()?.into_iter().filter_map(Hierarchy::of_mount).collect();
        hierarchies.sort_by_key(|hierarchy| hierarchy.version == Version::V2);
        Ok(hierarchies)
    }

    fn of_mount(mount: Mount) -> Option<Hierarchy> {
        let version = match mount.kind.as_str() {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let controllers = match version {
            Version::V1 => {
                OnceCell::from(mount.super_options.split(',').map(str::to_owned).collect::<Vec<_>>())
            }
            Version::V2 => OnceCell::new(),
        };
        Some(Hierarchy { version, mountpoint: mount.point, root: mount.root, controllers })
    }

    fn has(&self, controller: &str) -> bool {
        let controllers = self.controllers.get_or_init(|| {
            // Unreadable, when something else was mounted over it: then it has no controllers for us.
            let text = read(&self.mountpoint.join("cgroup.controllers")).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        });
        controllers.iter().any(|name| name == controller)
    }

    /// The directory in which to make a container's: the first, from the top down to this process's own, that
    /// it may write to. That is the top for root, and a user's delegated one for a user.
    fn parent(&self) -> Result<PathBuf> {
        let may_write = |directory: &Path| access(directory, AccessFlags::W_OK);
        let Err(errno) = may_write(&self.mountpoint) else { return Ok(self.mountpoint.clone()) };
        let own = self.own_path()?;
        let mut directory = self.mountpoint.clone();
        // The last part is this process's own cgroup. In v2 it cannot have processes and children both.
        let above = own.parent().unwrap_or(Path::new("")).components();
        for part in above {
            directory.push(part);
            // In v2 this process must also be able to write to the directory's own `cgroup.procs`. To move a
            // process between two cgroups, it needs that right in the cgroup above both (cgroups(7),
            // "delegation").
            let may_move =
                || self.version == Version::V1 || may_write(&directory.join("cgroup.procs")).is_ok();
            if may_write(&directory).is_ok() && may_move() {
                return Ok(directory);
            }
        }
        Err(Error::from_errno(format!("no place for a cgroup in {}", self.mountpoint.display()), errno)
            .hint_if_read_only(self.version))
    }

    /// This process's own cgroup, below the mount point.
    fn own_path(&self) -> Result<PathBuf> {
        let text = read(Path::new("/proc/self/cgroup"))?;
        // `id:controllers:path`; v2's line has no controllers.
        let own = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let ours = match self.version {
                Version::V1 => controllers.split(',').any(|controller| self.has(controller)),
                Version::V2 => controllers.is_empty(),
            };
            ours.then(|| PathBuf::from(path))
        });
        let own = own.unwrap_or_default();
        Ok(own.strip_prefix(&self.root).unwrap_or(Path::new("")).to_owned())
    }
}

impl Error {
    fn hint_if_read_only(self, version: Version) -> Error {
        match self.errno() {
            Some(Errno::EROFS) => self.hint("it is mounted read-only, as in a container: run outside of it"),
            _ if version == Version::V2 => self.hint(DELEGATE),
            _ => self.hint(
                "in cgroup v1 they are root's. With v2, by systemd.unified_cgroup_hierarchy=1 on the \
                 kernel's command line, systemd gives you some: \
                 systemd-run --user --scope -p Delegate=yes COMMAND",
            ),
        }
    }
}

fn no_controller(controller: &str) -> Error {
    Error::new(format!("cgroup controller \"{controller}\": not available")).hint(format!(
        "no cgroup hierarchy here has it; see /proc/cgroups, and cgroup_disable={controller} on the kernel's \
         command line"
    ))
}

/// Says why no cgroup could be made here in which this controller is at work.
fn could_have(controller: &str) -> Result<()> {
    let hierarchies = Hierarchy::mounted()?;
    let found = hierarchies.iter().find(|hierarchy| hierarchy.has(controller));
    let hierarchy = found.ok_or_else(|| no_controller(controller))?;
    let parent = hierarchy.parent()?;
    let has = |text: String| text.split_whitespace().any(|name| name == controller);
    if hierarchy.version == Version::V1 || has(read(&parent.join("cgroup.controllers"))?) {
        return Ok(());
    }
    Err(Error::new(format!("{} has no controller {controller}", parent.display())).hint(DELEGATE))
}

/// Removes the cgroups whose runtime is dead: those in `parent` whose lock is free, and what has the same
/// name in the other hierarchies. Whatever cannot be removed is told, and is for the next run.
fn sweep(parent: &Path, hierarchies: &[Hierarchy]) {
    // Exactly our form: somebody else may have a `congo-web.service`.
    let is_ours = |name: &OsStr| name.as_bytes().strip_prefix(PREFIX.as_bytes()).is_some_and(are_random);
    let swept = claim::sweep(parent, is_ours, |path| {
        let name = path.file_name().unwrap_or_default();
        let others = hierarchies.iter().filter_map(|hierarchy| Some(hierarchy.parent().ok()?.join(name)));
        let is_there = |directory: &PathBuf| !is_gone(directory);
        let others = others.filter(|directory| directory != path && is_there(directory)).collect::<Vec<_>>();
        remove_all([path].into_iter().chain(others.iter().map(PathBuf::as_path)), SWEEP_PATIENCE)
    });
    swept.map_or_else(|error| error.report("congo"), drop);
}

/// Only when the kernel says so: what cannot be seen now may be there.
fn is_gone(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Removes a container's directories in all hierarchies. The first one goes last, and stays while one of the
/// others is there. A sweep looks for the first directory only, so without it the others would never be
/// found.
fn remove_all<'a>(mut directories: impl Iterator<Item = &'a Path>, patience: Duration) -> Result<()> {
    let Some(first) = directories.next() else { return Ok(()) };
    // All of them, and only then the first failure.
    let gone = directories.map(|directory| remove(directory, patience)).collect::<Vec<_>>();
    gone.into_iter().collect::<Result<()>>().and_then(|()| remove(first, patience))
}

/// Removes a cgroup's directory, those that a container's root has made in it, and kills what is in them.
fn remove(directory: &Path, patience: Duration) -> Result<()> {
    let give_up = Instant::now() + patience;
    let mut pause = Duration::from_micros(50);
    loop {
        let result = call("rmdir(2)", || format!("rmdir({directory:?})"), || rmdir(directory));
        match result {
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(()),
            Err(error) if error.errno() == Some(Errno::EBUSY) && Instant::now() < give_up => {
                kill_all(directory);
                below(directory).try_for_each(|child| remove(&child, patience))?;
                sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            result => {
                return result
                    .hint_if(Errno::EBUSY, "a process in it cannot be killed: see its cgroup.procs");
            }
        }
    }
}

/// Whether a process is in the cgroup, or in one that the container has made in it. A zombie is in none.
fn has_processes(directory: &Path) -> bool {
    let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    !pids.is_empty() || below(directory).any(|child| has_processes(&child))
}

fn kill_below(directory: &Path) {
    kill_all(directory);
    below(directory).for_each(|child| kill_below(&child));
}

/// The cgroups that were made in this one.
fn below(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let names = names_in(directory).unwrap_or_default();
    names.into_iter().map(|name| directory.join(name)).filter(|child| child.is_dir())
}

fn kill_all(directory: &Path) {
    // v2 since 5.14: all at once, so that none can fork in between.
    if write(&directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    kill_listed(|| fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default());
}

/// Kills the processes whose numbers the list has. A process may end after the list is read, and its number
/// may go to one outside of the cgroup. So each is opened first, and the list is read once more: the one that
/// is open then was in the cgroup, or has ended.
fn kill_listed(list: impl Fn() -> String) {
    let numbers = || {
        let list = list();
        list.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).collect::<Vec<i32>>()
    };
    for some in numbers().chunks(OPEN_AT_ONCE) {
        // The second look needs a descriptor, also where the processes take all that are left.
        let spare = OpenProcess::of(Pid::this());
        let open = some.iter().filter_map(|&pid| Some((pid, OpenProcess::of(Pid::from_raw(pid)).ok()?)));
        let open = open.collect::<Vec<_>>();
        drop(spare);
        let still = numbers();
        open.iter().filter(|(pid, _)| still.contains(pid)).for_each(|(_, process)| process.kill());
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    write_value("cgroups(7)", path, value)
}

fn read(path: &Path) -> Result<String> {
    read_text(path).at("reading", path)
}

fn rmdir(directory: &Path) -> nix::Result<()> {
    nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, directory, nix::unistd::UnlinkatFlags::RemoveDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_a_hierarchy_of_v1_or_v2_or_none() {
        let hierarchy = |line: &str| Hierarchy::of_mount(mountinfo::parse(line.as_bytes())?);
        let v1 = "34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let v1 = hierarchy(v1).expect("a v1 hierarchy");
        assert_eq!((v1.version, v1.mountpoint.to_str()), (Version::V1, Some("/sys/fs/cgroup/cpu,cpuacct")));
        assert!(v1.has("cpu") && v1.has("cpuacct") && !v1.has("memory"));

        let v2 = r"30 23 0:26 /docker/4a /odd\040place rw - cgroup2 cgroup2 rw,nsdelegate";
        let v2 = hierarchy(v2).expect("a v2 hierarchy");
        assert_eq!((v2.version, v2.mountpoint.to_str()), (Version::V2, Some("/odd place")));
        assert_eq!(v2.root.to_str(), Some("/docker/4a"));

        assert_eq!(hierarchy("22 27 0:21 / /proc rw - proc proc rw"), None);
        assert_eq!(hierarchy("cgroup"), None);
    }

    #[test]
    fn a_process_that_has_left_the_cgroup_is_not_killed() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let line = format!("{}\n", child.id());
        let listed = |times: usize| {
            let reads = std::cell::Cell::new(0);
            kill_listed(|| {
                reads.set(reads.get() + 1);
                if reads.get() <= times { line.clone() } else { String::new() }
            });
        };
        // In the list when it is read first, and not any more when the process is open.
        listed(1);
        // A signal would take a moment.
        sleep(Duration::from_millis(50));
        assert_eq!(child.try_wait().unwrap(), None);
        listed(2);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn the_directory_that_a_sweep_looks_for_goes_last() {
        let home = tempfile::tempdir().unwrap();
        let paths = ["first", "stuck", "free"].map(|name| home.path().join(name));
        for path in &paths {
            fs::create_dir(path).unwrap();
        }
        // In the place of what rmdir(2) refuses for.
        fs::write(paths[1].join("file"), "").unwrap();
        let directory = |path: &PathBuf| Directory {
            version: Version::V1,
            controllers: Vec::new(),
            path: path.clone(),
            open: None,
        };
        let cgroup = || Cgroup {
            directories: paths.iter().map(directory).collect(),
            left_out: Vec::new(),
            _claim: None,
        };
        let error = cgroup().remove().unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOTEMPTY), "{error}");
        let there = || paths.each_ref().map(|path| path.exists());
        assert_eq!(there(), [true, true, false]);
        drop(cgroup());
        assert_eq!(there(), [true, true, false], "nor does a drop leave the others for ever");
        fs::remove_file(paths[1].join("file")).unwrap();
        cgroup().remove().unwrap();
        assert_eq!(there(), [false; 3]);
    }
}
