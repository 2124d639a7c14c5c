//! What a case needs on the host: a filesystem for the state folder, a cgroup with a limit, a full pipe.
//!
//! Each is gone when dropped. Kernel objects: a tmpfs, an overlay on a tmpfs, an ext4 on a loop device, and a
//! cgroup of the controller pids. Order: on the host of the checks' own. Man pages: mount(2), tmpfs(5),
//! cgroups(7), pipe(7).

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use checks::Subject;
use checks::kernel::hierarchies;
use nix::fcntl::{FcntlArg, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::statfs;
use nix::unistd::chown;

use super::{Change, Reader};

/// What a tmpfs for the state folder has when nothing is missing.
const PLENTY: &str = "size=256m,nr_inodes=20000,mode=755";

/// A cgroup of the tool's own, for processes that are to have a limit.
#[derive(Debug)]
pub struct Limited {
    /// Its folder.
    pub folder: PathBuf,
    /// Its `cgroup.procs`, to be written.
    pub processes: File,
}

impl Limited {
    /// Makes it.
    ///
    /// # Errors
    /// When no hierarchy has the controller, or it cannot have one more cgroup.
    pub fn make() -> Result<Limited> {
        let all = hierarchies().map_err(|failure| anyhow!(failure.found))?;
        let hierarchy = all.iter().find(|it| it.controllers.iter().any(|name| name == "pids"));
        let folder = hierarchy.context("no cgroup has the controller pids")?.point.join("faults-limited");
        fs::create_dir(&folder).with_context(|| format!("mkdir {}", folder.display()))?;
        let procs = folder.join("cgroup.procs");
        match File::options().write(true).open(&procs) {
            Ok(processes) => Ok(Limited { folder, processes }),
            Err(error) => {
                let _ = fs::remove_dir(&folder);
                Err(error).with_context(|| format!("open {}", procs.display()))
            }
        }
    }

    /// Sets how many processes it may have.
    ///
    /// # Errors
    /// When the kernel does not take the number.
    pub fn set(&self, most: &str) -> Result<()> {
        let file = self.folder.join("pids.max");
        fs::write(&file, most).with_context(|| format!("write {most:?} to {}", file.display()))
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A filesystem over the state folder, and what lies below it.
#[derive(Debug)]
pub struct Mounted {
    home: PathBuf,
    owner: u32,
    below: Option<PathBuf>,
}

impl Mounted {
    /// Mounts a new, empty one.
    ///
    /// # Errors
    /// When the kernel cannot, or a program for it is missing.
    pub fn mount(subject: &Subject, kind: &str, (home, owner): (PathBuf, u32)) -> Result<Mounted> {
        let mut mounted = Mounted { home, owner, below: None };
        match kind {
            "tmpfs" => tmpfs(&mounted.home, PLENTY)?,
            "overlay" => {
                let below = subject.file("below");
                fs::create_dir_all(&below)?;
                tmpfs(&below, PLENTY)?;
                mounted.below = Some(below.clone());
                let folders = ["lower", "upper", "work"].map(|name| below.join(name));
                folders.iter().try_for_each(fs::create_dir)?;
                let [lower, upper, work] = folders.each_ref().map(|folder| folder.display());
                let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
                mount(Some("overlay"), &mounted.home, Some("overlay"), MsFlags::empty(), Some(&*options))
                    .context("mount an overlay")?;
            }
            _ => {
                let image = subject.file("disk");
                File::create(&image)?.set_len(256 << 20)?;
                call("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image])?;
                call("mount", &["-o".as_ref(), "loop".as_ref(), &image, &mounted.home])?;
                // The mount keeps it.
                fs::remove_file(&image)?;
                let _ = fs::remove_dir(mounted.home.join("lost+found"));
            }
        }
        mounted.give()?;
        Ok(mounted)
    }

    fn give(&self) -> Result<()> {
        Ok(chown(&self.home, Some(self.owner.into()), Some(self.owner.into()))?)
    }

    /// A tmpfs becomes what the case says.
    ///
    /// # Errors
    /// When a file cannot be removed, or the kernel does not take the new options.
    pub fn change(&self, change: &Change) -> Result<()> {
        if change.empties() {
            // A new mount in its place would be a change on the host.
            for entry in fs::read_dir(&self.home)? {
                let path = entry?.path();
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.with_context(|| format!("remove {}", path.display()))?;
            }
        }
        let now = statfs(&self.home)?;
        let used = (now.blocks() - now.blocks_free()) * u64::try_from(now.block_size())?;
        match *change {
            Change::Bytes { left, .. } => self.remount(MsFlags::empty(), &format!("size={}", used + left)),
            Change::Inodes { left, .. } => {
                let inodes = now.files() - now.files_free() + left;
                self.remount(MsFlags::empty(), &format!("nr_inodes={inodes}"))
            }
            Change::ReadOnly { .. } => self.remount(MsFlags::MS_RDONLY, PLENTY),
            _ => Ok(()),
        }
    }

    /// The tmpfs has plenty again, and can be written.
    ///
    /// # Errors
    /// EINVAL, ENOMEM.
    pub fn lift(&self, change: &Change) -> Result<()> {
        match change {
            Change::Nothing => Ok(()),
            _ => self.remount(MsFlags::empty(), PLENTY),
        }
    }

    fn remount(&self, flags: MsFlags, options: &str) -> Result<()> {
        let flags = MsFlags::MS_REMOUNT | flags;
        mount(None::<&str>, &self.home, None::<&str>, flags, Some(options))
            .with_context(|| format!("remount the state folder with {options}"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for path in [Some(&self.home), self.below.as_ref()].into_iter().flatten() {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}

fn tmpfs(path: &Path, options: &str) -> Result<()> {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options)).context("mount a tmpfs")
}

fn call(program: &str, arguments: &[&Path]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// A pipe with this reader: full, unless the reader is gone.
///
/// # Errors
/// EMFILE.
pub fn pipe(reader: Reader) -> Result<(Option<PipeReader>, PipeWriter)> {
    let (read, mut write) = std::io::pipe()?;
    if reader == Reader::Gone {
        return Ok((None, write));
    }
    let size = usize::try_from(fcntl(&write, FcntlArg::F_GETPIPE_SZ)?)?;
    write.write_all(&vec![0; size])?;
    Ok((Some(read), write))
}
