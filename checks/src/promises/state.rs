//! The folders in which the runtime keeps its state, and the locks in them. No other user may hold a lock for
//! which the runtime waits, nor change what is in the folders. flock(2), symlink(7), proc_pid_fdinfo(5).

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use serde_json::json;

use super::bridge::Member;
use crate::container::Container;
use crate::image::{Layout, base, config};
use crate::kernel::{Process, eventually, listing};
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect, tree};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "many.private-locks",
        "No other user of the host can open what the runtime has locked, and so keep it waiting.",
        private_locks)
        .needs(&[Need::Root])
        .hint("Whoever can open a file can lock it, flock(2), even read-only: folders of mode 0700, files of \
               mode 0600, the cgroup's folder too; also those that are there already."),
    Check::since(2, "signal.ends-waiting",
        "A run that waits for another one's lock, with Ctrl-C blocked already, ends all the same, and leaves \
         nothing.", ends_waiting)
        .needs(&[Need::Bridge])
        .hint("A blocked signal does not end flock(2): try with LOCK_NB again and again, and look at \
               sigpending(2) in between."),
    Check::since(0, "bad.state-folder",
        "A state folder of another user, one to which others may write, and a link in its place or in it are \
         refused, and nothing is changed.", state_folder)
        .hint("lstat(2): a folder, of root or the caller, without the bits of mode 0022. What a link in it \
               leads to would be emptied, or overwritten."),
];

const SOON: Duration = Duration::from_secs(10);

/// An ordinary user.
const NOBODY: u32 = 65534;

/// What the runtime has open and locked.
fn locked(runtime: Process) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for descriptor in runtime.descriptors()? {
        let of_lock = |line: &str| line.starts_with("lock:") && line.contains("FLOCK");
        if runtime.read(&format!("fdinfo/{descriptor}"))?.lines().any(of_lock) {
            found.push(fs::read_link(runtime.path(&format!("fd/{descriptor}")))?);
        }
    }
    Ok(found)
}

/// Whether an ordinary user can open a file, or a folder, to read.
fn opens_for_nobody(path: &Path) -> Result<bool, Failure> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec < \"$1\"", "sh"]).arg(path).uid(NOBODY).gid(NOBODY).stderr(Stdio::null());
    Ok(shell.status()?.success())
}

fn private_locks(subject: &Subject) -> Checked {
    let mut options = Vec::new();
    if subject.step() >= 2 && Need::Bridge.met().is_ok() {
        options.extend(["--network", "bridge"]);
    }
    if subject.step() >= 3 {
        options.extend(["-v", "checked-locks:/mnt/it", "--keep", "checked-locks"]);
    }
    subject.run(&[&options[..], &["true"]].concat())?.ok()?;
    // As they might have been made before, or by hand.
    let wide = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755));
    for path in listing(&subject.home(), 2) {
        let is_folder = path.is_dir() && !path.is_symlink();
        if is_folder && !path.starts_with(subject.home().join("rootfs")) {
            wide(&path)?;
        }
    }
    if options.contains(&"bridge") {
        // It goes with the last container on a bridge.
        fs::create_dir_all(subject.home().join("run"))?;
        wide(&subject.home().join("run"))?;
    }
    let container = subject.hold(&options)?;
    let locked = locked(container.runtime())?;
    ensure(!locked.is_empty(), || Failure::new("a lock that tells that the runtime lives", "none"))?;
    for path in locked {
        let opens = opens_for_nobody(&path)?;
        ensure(!opens, || {
            Failure::new(format!("an ordinary user cannot open {}", path.display()), "it can, and lock it")
        })?;
    }
    container.output()?.status_is(0)
}

fn ends_waiting(subject: &Subject) -> Checked {
    let other = Member::new(subject, &[])?;
    let mut folders = listing(&subject.home().join("run"), 1).into_iter();
    let no_folder = || Failure::new("a folder for the network namespace in the state folder", "none");
    let folder = folders.find(|path| path.is_dir()).ok_or_else(no_folder)?;
    let lock = Flock::lock(File::open(&folder)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let run = subject.start(&["--network", "bridge", "true"])?;
        let bit = 1_u64 << (signal as u32 - 1);
        let blocks = || {
            let mask = run.runtime().status("SigBlk").unwrap_or_default();
            u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask & bit != 0)
        };
        ensure(eventually(SOON, blocks), || {
            Failure::new(format!("the run blocks {signal}, in order to clean up after it"), "it does not")
        })?;
        run.signal(signal)?;
        ensure(eventually(SOON, || run.runtime().is_zombie()), || {
            Failure::new(
                format!("{signal} ends a run that waits for the lock on {}", folder.display()),
                "it still waits",
            )
        })?;
        let output = run.output()?;
        output.status_is(128 + signal as i32)?;
        ensure(output.stderr.contains(signal.as_str()), || {
            Failure::new(format!("stderr names {signal}"), format!("{:?}", output.stderr))
        })?;
    }
    let containers = listing(&subject.home().join("containers"), 1);
    let left = containers.len().saturating_sub(usize::from(subject.step() >= 3));
    expect("the number of folders that the ended runs have left", 0, left)?;
    drop(lock);
    other.end()
}

/// Runs with this state folder, and sees what is `named` refused, and nothing done to it and to the `victim`.
fn refused(subject: &Subject, home: &Path, named: &Path, victim: &Path, arguments: &[&str]) -> Checked {
    let looked = || Ok::<_, Failure>((tree::read(victim)?, listing(named, 3)));
    let before = looked()?;
    let mut command = subject.command(arguments);
    let run = Container::start(command.env("CONGO_HOME", home))?.output()?;
    let after = looked()?;
    let what = format!("with CONGO_HOME={} and {arguments:?}", home.display());
    tree::same(&what, &before.0, &after.0)?;
    expect(format!("what is in {} {what}", named.display()), before.1, after.1)?;
    let is_named = run.stderr.contains(&*named.to_string_lossy());
    ensure(run.status == 125 && is_named && run.stdout.is_empty(), || {
        Failure::new(
            format!("{what}: status 125, and an error about {}", named.display()),
            format!("{}: {}", run.ending(), run.stderr),
        )
    })
}

fn state_folder(subject: &Subject) -> Checked {
    let victim = subject.empty_folder("of-somebody")?;
    // By these names it would be used, or swept away.
    for name in ["host/bin", ".host.building-1", "0123456789ab/upper", "checked/_data", "net-1"] {
        fs::create_dir_all(victim.join(name))?;
        fs::write(victim.join(name).join("file"), "kept")?;
    }
    let made = |mode: u32| {
        let home = subject.empty_folder("state-of-somebody")?;
        fs::set_permissions(&home, Permissions::from_mode(mode)).map(|()| home)
    };
    for mode in [0o777, 0o1777, 0o775] {
        let home = made(mode)?;
        refused(subject, &home, &home, &victim, &["true"])?;
    }
    if nix::unistd::geteuid().is_root() {
        let home = made(0o755)?;
        chown(&home, Some(NOBODY), Some(NOBODY))?;
        refused(subject, &home, &home, &victim, &["true"])?;
    }
    let link = subject.file("link-to-state");
    symlink(made(0o755)?, &link)?;
    refused(subject, &link, &link, &victim, &["true"])?;
    refused(subject, &link.join(""), &link, &victim, &["true"])?;

    let mut inside: Vec<(&str, Vec<&str>)> = vec![("rootfs", vec!["true"])];
    if subject.step() >= 2 && Need::Bridge.met().is_ok() {
        inside.push(("run", vec!["--network", "bridge", "true"]));
    }
    let (root, image);
    if subject.step() >= 3 {
        root = subject.root()?.to_owned();
        image = Layout::of(subject, "state-folder", &config(json!({})), &[base()?])?.name();
        inside.push(("containers", vec!["--rootfs", &root, "true"]));
        inside.push(("kept", vec!["--rootfs", &root, "--keep", "checked", "true"]));
        inside.push(("volumes", vec!["--rootfs", &root, "-v", "checked:/mnt", "true"]));
        inside.push(("layers", vec!["--image", &image, "true"]));
    }
    for (name, arguments) in inside {
        let (home, whole) = (made(0o755)?, subject.home());
        let place = home.join(name);
        if name != "rootfs" && whole.join("rootfs").exists() && arguments[0] != "--rootfs" {
            // So that nothing is built.
            let copied = Command::new("cp").arg("-a").arg(whole.join("rootfs")).arg(&home).status()?;
            ensure(copied.success(), || Failure::new("a copy of the root", copied))?;
        }
        symlink(&victim, &place)?;
        refused(subject, &home, &place, &victim, &arguments)?;
        if nix::unistd::geteuid().is_root() {
            fs::remove_file(&place)?;
            fs::create_dir(&place)?;
            chown(&place, Some(NOBODY), None)?;
            refused(subject, &home, &place, &victim, &arguments)?;
        }
    }
    Ok(())
}
