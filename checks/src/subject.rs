//! The binary that is tried, with a state folder of its own, and ways to run it.
//!
//! Every run has a time limit: no check can hang. Touches the state folder and what the binary touches.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use crate::container::{Container, Output};
use crate::installed::program;
use crate::kernel::{Cgroup, Mount, identity, listing};
use crate::{Checked, Failure, ensure};

/// The first run builds the root filesystem.
pub const FIRST_LIMIT: Duration = Duration::from_secs(120);

/// How the checks' own temporary folders begin.
pub(crate) const PREFIX: &str = "congo-checks-";

/// A variable of the host that no container may see.
pub const SECRET: &str = "CONGO_CHECKS_SECRET";

/// A runtime, and where it keeps its state during the checks.
#[derive(Debug)]
pub struct Subject {
    binary: PathBuf,
    step: u8,
    folder: TempDir,
    /// Held until the folder is gone: a folder whose lock is free was left by checks that were killed.
    _lock: Flock<File>,
    copy_of_root: OnceLock<PathBuf>,
}

impl Subject {
    /// The runtime at `binary`, which claims to be this step. Runs it once, so that the root filesystem is
    /// there; that this run fails is for the checks to say.
    ///
    /// # Errors
    /// When there is no such file, or no temporary folder.
    pub fn new(binary: &Path, step: u8) -> io::Result<Subject> {
        Ok(Subject::within(binary, step, FIRST_LIMIT)?.0)
    }

    /// The same with another limit for the first run. Also says whether that run ended in time.
    ///
    /// # Errors
    /// As [`new`](Subject::new).
    pub fn within(binary: &Path, step: u8, limit: Duration) -> io::Result<(Subject, Checked)> {
        let binary = fs::canonicalize(binary)?;
        sweep();
        let (folder, lock) = loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
            let lock = lock(folder.path())?.filter(|_| folder.path().exists());
            // Without a lock, the sweep of other checks came in between.
            if let Some(lock) = lock {
                break (folder, lock);
            }
        };
        // One check is an ordinary user.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        for name in ["home", "tmp", "files"] {
            fs::create_dir(folder.path().join(name))?;
        }
        let subject = Subject { binary, step, folder, _lock: lock, copy_of_root: OnceLock::new() };
        let first = match Container::start(&mut subject.command(&["true"])) {
            Ok(run) => run.output_within(limit).map(|_| ()),
            // The checks say what is wrong with it.
            Err(_) => Ok(()),
        };
        Ok((subject, first))
    }

    /// The binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Which step it claims to be.
    pub fn step(&self) -> u8 {
        self.step
    }

    /// The options with which the container's root is the host's root with all its rights, as always before
    /// step 4. They are for checks that are not about users.
    pub fn as_host_root(&self) -> &'static [&'static str] {
        match self.step {
            0..4 => &[],
            // It is root of its own namespace there.
            _ if !nix::unistd::geteuid().is_root() => &["--cap-add", "ALL"],
            _ => &["--userns", "host", "--cap-add", "ALL"],
        }
    }

    /// Its state folder, `$CONGO_HOME`.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Its folder for temporary files, `$TMPDIR`.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    /// Removes what a check has made at the paths of [`Subject::file`]. All of them together would fill a
    /// host whose files lie in memory. Only after a check that has left nothing behind: a mount that is still
    /// there would lead to other files. What cannot be removed yet goes with the whole folder.
    pub(crate) fn remove_files(&self) {
        let entries = fs::read_dir(self.file("")).into_iter().flatten().flatten();
        for entry in entries {
            let _ = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
                _ => fs::remove_file(entry.path()),
            };
        }
    }

    /// A path for a file that a check makes on the host. It is there until the check ends.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("files").join(name)
    }

    /// Writes such a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> io::Result<String> {
        let path = self.file(name);
        fs::write(&path, content)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// A folder at the path of this name, without anything in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn empty_folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.file(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// The runtime with these arguments, not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).envs(self.environment()).stdin(Stdio::null());
        command
    }

    /// The same from a shell that first does this: change its umask, or a limit.
    pub(crate) fn command_after(&self, first: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]).arg(&self.binary).args(arguments);
        command.envs(self.environment()).stdin(Stdio::null());
        command
    }

    /// The same under strace, which lets time go by before each of these calls: whoever does not wait is seen
    /// to be early.
    pub(crate) fn command_slow_at(&self, calls: &str, arguments: &[&str]) -> Command {
        self.command_slow(calls, "delay_enter=500000", arguments)
    }

    /// The same before the first of these calls of each process.
    pub(crate) fn command_slow_at_first(&self, calls: &str, arguments: &[&str]) -> Command {
        self.command_slow(calls, "delay_enter=500000:when=1", arguments)
    }

    fn command_slow(&self, calls: &str, how: &str, arguments: &[&str]) -> Command {
        let mut strace = Command::new(program("strace").unwrap_or_default());
        strace.args(["--follow-forks", "--quiet=all", "--output", "/dev/null"]);
        strace.args([format!("--trace={calls}"), format!("--inject={calls}:{how}")]);
        strace.arg(&self.binary).args(arguments).envs(self.environment()).stdin(Stdio::null());
        strace
    }

    /// The same under strace, which answers each call with this path, and no other one, that it is forbidden.
    pub(crate) fn command_without(&self, path: &str, arguments: &[&str]) -> Command {
        let mut strace = Command::new(program("strace").unwrap_or_default());
        strace.args(["--follow-forks", "--quiet=all", "--output", "/dev/null", "--trace-path", path]);
        strace.args(["--trace=%file", "--inject=%file:error=EACCES"]);
        strace.arg(&self.binary).args(arguments).envs(self.environment()).stdin(Stdio::null());
        strace
    }

    /// What the runtime's environment has more than the checks' own.
    pub fn environment(&self) -> [(&'static str, OsString); 4] {
        [
            ("CONGO_HOME", self.home().into()),
            ("TMPDIR", self.temporary().into()),
            ("TERM", "xterm".into()),
            (SECRET, "seen".into()),
        ]
    }

    /// Runs it to its end, with nothing on its stdin.
    ///
    /// # Errors
    /// When it cannot be started or takes too long.
    pub fn run(&self, arguments: &[&str]) -> Result<Output, Failure> {
        Container::start(&mut self.command(arguments))?.output()
    }

    /// Runs a shell script in a container with these options, to its end.
    ///
    /// # Errors
    /// As [`run`](Subject::run).
    pub fn sh(&self, options: &[&str], script: &str) -> Result<Output, Failure> {
        self.run(&[options, &["sh", "-c", script]].concat())
    }

    /// Starts it with pipes at its three streams.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Result<Container, Failure> {
        Container::start(self.command(arguments).stdin(Stdio::piped()))
    }

    /// A container with these options that waits to be looked at: its command is `cat`, and it has answered.
    ///
    /// # Errors
    /// When `cat` does not answer.
    pub fn hold(&self, options: &[&str]) -> Result<Container, Failure> {
        let mut container = self.start(&[options, &["cat"]].concat())?;
        container.say("ready")?;
        container.wait_for("ready")?;
        Ok(container)
    }

    /// Reads something of the cgroup of a container with these options, while it is there.
    ///
    /// # Errors
    /// As [`hold`](Subject::hold), or what `read` fails at.
    pub fn in_cgroup<T>(
        &self,
        options: &[&str],
        read: impl FnOnce(&Cgroup) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let container = self.hold(options)?;
        read(&container.first()?.cgroup()?)
    }

    /// Starts a shell script that prints `ready` when it is.
    ///
    /// # Errors
    /// When it does not.
    pub fn hold_sh(&self, options: &[&str], script: &str) -> Result<Container, Failure> {
        let container = self.start(&[options, &["sh", "-c", script]].concat())?;
        container.wait_for("ready")?;
        Ok(container)
    }

    /// A root filesystem on the host: a copy of the one that the runtime uses by default.
    ///
    /// # Errors
    /// When there is none to copy.
    pub fn root(&self) -> Result<&str, Failure> {
        let path = self.folder.path().join("root");
        if self.copy_of_root.get().is_none() {
            // With the host's owners, as they are on a disk.
            let container = self.hold(self.as_host_root())?;
            let original = container.first()?.path("root/.");
            ensure(identity(&original)? != identity("/")?, || {
                Failure::new("a root to copy that is not the host's", "the host's")
            })?;
            fs::create_dir(&path)?;
            let mut copy = Command::new("cp");
            copy.arg("-a");
            for entry in fs::read_dir(&original)?.flatten() {
                // Not what is mounted there: it is the container's own. No option of cp: busybox has none for
                // it.
                match entry.file_name().to_str() {
                    Some(name @ ("proc" | "dev" | "sys")) => fs::create_dir(path.join(name))?,
                    _ => _ = copy.arg(entry.path()),
                }
            }
            let copied = copy.arg(&path).stderr(Stdio::null()).status()?;
            ensure(path.join("bin/sh").exists(), || {
                Failure::new("the root filesystem can be copied", format!("cp: {copied}"))
            })?;
        }
        let path = self.copy_of_root.get_or_init(|| path);
        path.to_str().ok_or_else(|| Failure::new("a temporary folder with a plain name", path.display()))
    }
}

/// The paths in a state folder, relative, but not what is in roots and unpacked layers.
pub(crate) fn state_folder(home: &Path) -> BTreeSet<PathBuf> {
    let all = listing(home, 2).into_iter();
    let all = all.filter_map(|path| path.strip_prefix(home).map(Path::to_owned).ok());
    // Copies of layers, for kernels without idmapped mounts. Their names tell the layers. An unfinished copy
    // begins with a dot.
    all.filter(|path| !path.starts_with("shifted") || path.as_os_str().as_bytes().starts_with(b"shifted/."))
        .collect()
}

/// Removes the folders of checks that were killed.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && let Ok(Some(_lock)) = lock(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Locks a folder; `None` when another process has locked or removed it.
///
/// # Errors
/// EACCES, EMFILE, ENOLCK.
pub(crate) fn lock(folder: &Path) -> io::Result<Option<Flock<File>>> {
    let file = match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

impl Drop for Subject {
    /// A runtime that left a mount in its state folder must not cost the files behind it when the folder
    /// goes.
    fn drop(&mut self) {
        let inside = || {
            let mounts = Mount::of_host().unwrap_or_default();
            mounts.into_iter().filter(|mount| Path::new(&mount.point).starts_with(self.folder.path()))
        };
        for mount in inside().collect::<Vec<_>>().iter().rev() {
            let _ = umount2(mount.point.as_str(), MntFlags::MNT_DETACH);
        }
        if inside().next().is_some() {
            self.folder.disable_cleanup(true);
        }
    }
}
