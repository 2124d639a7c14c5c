//! Cgroups of the checks' own: one at the top of each hierarchy, which then stands for the top.
//!
//! Other people's runtimes make, fill and sweep cgroups at the real top at any moment. Here they are out of
//! sight, and every cgroup that the guard finds was made by a runtime of these checks. Kernel objects: a
//! cgroup in each hierarchy, locked with flock(2), and a bind mount of it in the place of the hierarchy's
//! mount. Order: in a private mount namespace. Man pages: cgroups(7), mount(2).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::kernel::{self, Hierarchy, eventually};
use crate::subject::{PREFIX, lock};

/// The controllers that the steps use: v2 must pass them on.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "cpuset"];

/// How long other checks may keep sweeping a cgroup away that was made anew.
const SOON: Duration = Duration::from_secs(5);

/// Where the checks themselves are in v2: `cgroup.procs` of a cgroup that can no longer be reached by a path.
static HOME: OnceLock<File> = OnceLock::new();

/// Does something while the checks themselves are in that cgroup of v2.
///
/// # Errors
/// When they cannot go there or back.
pub(crate) fn while_in<T>(cgroup: &Path, action: impl FnOnce() -> T) -> io::Result<T> {
    let mut home = HOME.get().ok_or_else(|| io::Error::other("the checks have no cgroups of their own"))?;
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    let done = action();
    home.write_all(b"0")?;
    Ok(done)
}

/// A cgroup of the checks' own in one hierarchy. Dropped, it is removed.
#[derive(Debug)]
struct Own {
    /// The hierarchy's real top, which can no longer be reached by a path.
    top: File,
    name: String,
    /// Held for as long as the checks run: a cgroup whose lock is free was left by checks that were killed.
    _lock: Flock<File>,
}

/// The checks' own cgroups, in all hierarchies.
#[derive(Debug, Default)]
pub struct Cgroups(#[expect(dead_code, reason = "held for its drop")] Vec<Own>);

impl Cgroups {
    /// Makes them. A hierarchy in which none can be made stays as it is. Where only root may write, or
    /// nobody, no runtime can make one either. Any other reason is told: the checks go on, but what other
    /// people's runtimes do in that hierarchy may disturb them.
    pub(crate) fn enter() -> Cgroups {
        let hierarchies = kernel::hierarchies().unwrap_or_else(|failure| {
            eprintln!("checks: no cgroups of their own: {}", failure.found);
            Vec::new()
        });
        let mut own = Vec::new();
        for hierarchy in &hierarchies {
            match Own::enter(hierarchy) {
                Ok(made) => own.push(made),
                Err(error) if is_nobodys_to_write(&error) => {}
                Err(error) => {
                    eprintln!("checks: no cgroup of their own in {}: {error}", hierarchy.point.display());
                }
            }
        }
        Cgroups(own)
    }
}

/// Whether the hierarchy is root's, or mounted read-only, as in a container: mkdir(2), cgroups(7).
fn is_nobodys_to_write(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
}

impl Own {
    fn enter(hierarchy: &Hierarchy) -> io::Result<Own> {
        sweep(&hierarchy.point);
        let top = File::open(&hierarchy.point)?;
        let name = format!("{PREFIX}{}", std::process::id());
        let folder = hierarchy.point.join(&name);
        let lock = make_locked(&folder)?;
        // From here on the drop removes it.
        let own = Own { top, name, _lock: lock };
        match hierarchy.v2 {
            true => {
                pass_on(&hierarchy.point, &folder)?;
                let home = kernel::myself().cgroup().map_err(|failure| io::Error::other(failure.found))?;
                let home = home.of_v2().ok_or(io::ErrorKind::NotFound)?.join("cgroup.procs");
                let _ = HOME.set(File::options().write(true).open(home)?);
            }
            false => set_up_v1(&hierarchy.point, &folder)?,
        }
        // The checks measure a container's share of the processors. So their own cgroup has the largest
        // weight against the rest of the machine. Then only a container's own limits hold the container back.
        for (file, largest) in [("cpu.shares", "262144"), ("cpu.weight", "10000")] {
            if folder.join(file).exists() {
                fs::write(folder.join(file), largest)?;
            }
        }
        // In the place of the hierarchy and not over it: of two mounts at one place, readers of mountinfo may
        // take the first.
        let aside = tempfile::tempdir()?;
        mount(Some(&folder), aside.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        umount2(&hierarchy.point, MntFlags::MNT_DETACH)?;
        mount(Some(aside.path()), &hierarchy.point, None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
        Ok(own)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = unlinkat(self.top.as_fd(), self.name.as_str(), UnlinkatFlags::RemoveDir);
    }
}

/// Makes a cgroup and locks it. Between the two, the sweep of other checks may lock and remove it. Then it is
/// made anew.
fn make_locked(folder: &Path) -> io::Result<Flock<File>> {
    let mut locked = Ok(None);
    eventually(SOON, || {
        locked = match fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => lock(folder).map(|lock| lock.filter(|_| folder.exists())),
        };
        !matches!(locked, Ok(None))
    });
    locked?.ok_or_else(|| io::Error::other("other checks have locked it"))
}

/// v2: a cgroup has the controllers that the one above it passes on.
fn pass_on(top: &Path, folder: &Path) -> io::Result<()> {
    let there = fs::read_to_string(top.join("cgroup.controllers"))?;
    let words: Vec<_> = there.split_whitespace().filter(|name| CONTROLLERS.contains(name)).collect();
    let words = words.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    for folder in [top, folder] {
        fs::write(folder.join("cgroup.subtree_control"), &words)?;
    }
    Ok(())
}

/// v1: a new cpuset is empty, and so would be those below it.
fn set_up_v1(top: &Path, folder: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if top.join(file).exists() {
            fs::write(folder.join(file), fs::read(top.join(file))?)?;
        }
    }
    Ok(())
}

/// Removes the cgroups of checks that were killed, with those that their runtimes left there.
fn sweep(top: &Path) {
    let carries_name = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) && path.is_dir()
    };
    for left in kernel::listing(top, 1).into_iter().filter(carries_name) {
        if let Ok(Some(_lock)) = lock(&left) {
            // The deepest first: a cgroup with another one in it cannot be removed.
            for below in kernel::listing(&left, 4).into_iter().rev().filter(|path| path.is_dir()) {
                let _ = fs::remove_dir(below);
            }
            let _ = fs::remove_dir(left);
        }
    }
}
