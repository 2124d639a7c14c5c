//! An ordinary user on the checks' host, whoever runs the checks: root becomes `nobody`, an ordinary user
//! stays what it is.
//!
//! Root must arrange some things on the host of such a user: lists of subordinate ids, and a device. For them
//! there is a mount namespace of one check's own. Kernel objects: users, a mount namespace, bind mounts, a
//! device node on a tmpfs. Man pages: credentials(7), subuid(5), mount_namespaces(7).

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{geteuid, getuid};

use crate::container::{Container, Output};
use crate::installed::program;
use crate::needs::TUN;
use crate::{Failure, Subject, ensure};

/// The user that root becomes. It is in every /etc/passwd, which newuidmap(1) insists on.
const NOBODY: u32 = 65534;

/// The first of its subordinate ids, and how many there are.
pub(crate) const SUBORDINATE: (u32, u32) = (200_000, 65_536);

/// The user, with a state folder.
#[derive(Debug)]
pub(crate) struct User<'a> {
    subject: &'a Subject,
    binary: PathBuf,
    /// Where its programs are, if not where everybody's are.
    programs: Option<PathBuf>,
    pub(crate) folder: PathBuf,
    /// Its id on the host.
    pub(crate) id: u32,
}

impl<'a> User<'a> {
    /// The user, with an empty folder under this name.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub(crate) fn new(subject: &'a Subject, name: &str) -> Result<User<'a>, Failure> {
        let folder = subject.empty_folder(name)?;
        if !geteuid().is_root() {
            let binary = subject.binary().to_owned();
            return Ok(User { subject, binary, programs: None, folder, id: getuid().as_raw() });
        }
        chown(&folder, Some(NOBODY), Some(NOBODY))?;
        // The folder in which it was built may be closed to others.
        let binary = subject.file("binary-for-users");
        if !binary.exists() {
            fs::copy(subject.binary(), &binary)?;
            fs::set_permissions(&binary, PermissionsExt::from_mode(0o755))?;
        }
        Ok(User { subject, binary, programs: None, folder, id: NOBODY })
    }

    /// The same on a host that has, of all that the runtime could start, these programs only.
    ///
    /// # Errors
    /// When one is not installed, or for all users in a folder that is searched whatever PATH says.
    pub(crate) fn with_programs_only(mut self, names: &[&str]) -> Result<User<'a>, Failure> {
        let folder = self.subject.empty_folder("programs")?;
        for name in names {
            let program = program(name).map_err(|missing| Failure::new(*name, missing))?;
            symlink(program, folder.join(name))?;
        }
        for name in ["pasta", "slirp4netns"] {
            let found = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(|it| Path::new(it).join(name));
            let missing = names.contains(&name) || found.iter().all(|it| !it.exists());
            ensure(missing, || {
                Failure::new(format!("{name} where programs for all users are"), "among root's")
            })?;
        }
        self.programs = Some(folder);
        Ok(self)
    }

    /// The runtime, started by the user.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).envs(self.subject.environment()).stdin(Stdio::null());
        command.env("CONGO_HOME", &self.folder).env("TMPDIR", &self.folder).current_dir("/");
        if let Some(folder) = &self.programs {
            command.env("PATH", folder);
        }
        if geteuid().is_root() {
            // The supplementary groups go, too.
            command.uid(self.id).gid(self.id);
        }
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it takes too long.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output, Failure> {
        Container::start(&mut self.command(arguments))?.output()
    }

    /// A container that waits to be looked at.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn hold(&self, options: &[&str]) -> Result<Container, Failure> {
        let arguments = [options, &["cat"]].concat();
        let mut container = Container::start(self.command(&arguments).stdin(Stdio::piped()))?;
        container.say("ready")?;
        container.wait_for("ready")?;
        Ok(container)
    }
}

/// Does something on a host on which the user has subordinate ids. For root only.
///
/// # Errors
/// When it cannot be had, or what `action` fails at.
pub(crate) fn with_subordinate_ids<T: Send>(
    subject: &Subject,
    action: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let (first, count) = SUBORDINATE;
    let list = subject.write("subordinate-ids", format!("nobody:{first}:{count}\n"))?;
    in_mount_namespace(|| {
        for place in ["/etc/subuid", "/etc/subgid"] {
            bind(&list, place)?;
        }
        action()
    })
}

/// Does something on a host on which everybody may make a tap device, as udev has it; but not every test
/// machine has udev. An ordinary user takes the host as it is.
///
/// # Errors
/// When it cannot be had, or what `action` fails at.
pub(crate) fn with_tap<T: Send>(
    subject: &Subject,
    action: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    if !geteuid().is_root() {
        return action();
    }
    let folder = subject.empty_folder("devices")?;
    in_mount_namespace(|| {
        mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        let device = folder.join("tun");
        // linux/miscdevice.h: TUN_MINOR.
        mknod(&device, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 200))?;
        fs::set_permissions(&device, PermissionsExt::from_mode(0o666))?;
        bind(&device, TUN)?;
        action()
    })
}

/// The thread's mounts go with it, and with what it has started.
fn in_mount_namespace<T: Send>(action: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    let act = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        action()
    };
    thread::scope(|scope| scope.spawn(act).join())
        .unwrap_or_else(|_| Err(Failure::new("the check works", "its thread broke off")))
}

fn bind(from: impl AsRef<Path>, to: &str) -> nix::Result<()> {
    mount(Some(from.as_ref()), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}
