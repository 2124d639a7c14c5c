//! What the tests of several modules need: namespaces of their own, and saying that a test was not run.
//!
//! A thread may leave the namespaces of its process, so a test makes links, rules and settings in a namespace
//! that ends with it. See unshare(2).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::sys::error::tell;

/// Says that a test was not run: past the test harness, which would hide it.
pub(crate) fn skipped(reason: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    tell(format_args!("skipped {name}: {reason}"));
}

/// In the environment of an [`OtherProcess`]: the folder in which it works.
const FOLDER: &str = "CONGO_TEST_FOLDER";

/// This test program once more, in a process of its own: it runs one ignored test, which calls
/// [`other_process`].
pub(crate) struct OtherProcess(Child);

impl OtherProcess {
    pub(crate) fn start(test: &str, folder: &Path) -> OtherProcess {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test.split_once("::").unwrap().1, "--exact", "--ignored", "--nocapture"]);
        command.env(FOLDER, folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        OtherProcess(command.spawn().unwrap())
    }

    /// Waits until it has told what it has taken.
    pub(crate) fn taken(&mut self) -> String {
        let mut lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        let taken = lines.find_map(|line| line.unwrap().strip_prefix("taken ").map(str::to_owned));
        taken.expect("the other process takes something")
    }

    pub(crate) fn end(mut self) {
        drop(self.0.stdin.take());
        // What it still prints must not be lost, or it would end with a broken pipe.
        let _ = std::io::copy(self.0.stdout.as_mut().unwrap(), &mut std::io::sink());
        assert!(self.0.wait().unwrap().success());
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// In an [`OtherProcess`]: takes something in the folder, tells what, and holds it until it is told to end,
/// or killed.
pub(crate) fn other_process<T>(take: impl FnOnce(&Path) -> (String, T)) {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let (what, _taken) = take(&folder);
    println!("\ntaken {what}");
    let _ = std::io::stdin().lines().count();
}

/// Runs a test on a thread with a network namespace of its own; for who is not root, says that it was not
/// run.
pub(crate) fn in_network_namespace(test: impl FnOnce() + Send + 'static) {
    in_namespace(CloneFlags::CLONE_NEWNET, "network", test);
}

/// The same with a mount namespace, in which nothing is shared with the host, and a folder to mount in: it is
/// removed from outside, where nothing is mounted there.
pub(crate) fn in_mount_namespace(test: impl FnOnce(&Path) + Send + 'static) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().canonicalize().unwrap();
    in_namespace(CloneFlags::CLONE_NEWNS, "mount", move || {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        test(&path);
    });
}

fn in_namespace(flag: CloneFlags, name: &str, test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || match unshare(flag) {
        Ok(()) => {
            test();
            true
        }
        Err(_) => false,
    });
    match thread.join() {
        Ok(true) => {}
        Ok(false) => skipped(&format!("it needs a {name} namespace, for which one must be root")),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The version of the kernel: (6, 1).
#[cfg(feature = "idmap")]
pub(crate) fn kernel() -> (u32, u32) {
    let name = nix::sys::utsname::uname().unwrap();
    let mut numbers = name
        .release()
        .to_str()
        .unwrap()
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Runs a part of a test in a process of its own as an ordinary user, nobody.
#[cfg(feature = "idmap")]
pub(crate) fn as_user(test: impl FnOnce()) {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let (user, group) = (Uid::from_raw(65534), Gid::from_raw(65534));
    let Some(child) = crate::sys::clone::fork().unwrap() else {
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            setgroups(&[]).unwrap();
            setresgid(group, group, group).unwrap();
            setresuid(user, user, user).unwrap();
            // As a process that was this user's from its exec on: else its files in /proc would be root's.
            nix::sys::prctl::set_dumpable(true).unwrap();
            test();
        }));
        if let Err(panic) = &passed {
            // What the test harness has captured goes with this process.
            tell(format_args!("{}", panic.downcast_ref::<String>().map_or("failed", String::as_str)));
        }
        crate::sys::clone::exit_now(passed.is_err().into());
    };
    let status = nix::sys::wait::waitpid(child, None).unwrap();
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0), "as an ordinary user");
}

/// Runs a test in a mount namespace in which `/etc/subuid` and `/etc/subgid` have this text.
#[cfg(feature = "idmap")]
pub(crate) fn with_lists(text: &'static str, test: impl FnOnce(&Path) + Send + 'static) {
    if !["newuidmap", "newgidmap"].iter().all(|name| Path::new("/usr/bin").join(name).exists()) {
        return skipped("it needs newuidmap and newgidmap: the package uidmap");
    }
    if !["subuid", "subgid"].iter().all(|name| Path::new("/etc").join(name).exists()) {
        return skipped("it needs /etc/subuid and /etc/subgid to mount over: touch them");
    }
    in_mount_namespace(move |home| {
        let list = home.join("list");
        std::fs::write(&list, text).unwrap();
        for place in ["/etc/subuid", "/etc/subgid"] {
            mount(Some(&list), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        test(home);
    });
}
