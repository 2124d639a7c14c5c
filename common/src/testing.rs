//! What the tests of several modules need: namespaces of their own, and saying that a test was not run.
//!
//! A thread may leave the namespaces of its process, so a test makes links, rules and settings in a namespace
//! that ends with it. See unshare(2).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[cfg(feature = "seccomp")]
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
#[cfg(feature = "seccomp")]
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

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

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// In an [`OtherProcess`]: takes something in the folder, tells what, and holds it until it is killed.
pub(crate) fn other_process<T>(take: impl FnOnce(&Path) -> (String, T)) {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let (what, _taken) = take(&folder);
    println!("\ntaken {what}");
    let _ = std::io::stdin().lines().count();
}

/// Runs a test on a thread with a network namespace of its own. If the caller is not root, says that the test
/// was not run.
pub(crate) fn in_network_namespace(test: impl FnOnce() + Send + 'static) {
    in_namespace(CloneFlags::CLONE_NEWNET, "network", test);
}

/// The same with a mount namespace that shares nothing with the host, and a folder to mount in. The folder is
/// removed from outside the namespace, where nothing is mounted on it.
pub(crate) fn in_mount_namespace(test: impl FnOnce(&Path) + Send + 'static) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().canonicalize().unwrap();
    in_namespace(CloneFlags::CLONE_NEWNS, "mount", move || {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        test(&path);
    });
}

/// Runs a test on a thread in which these system calls fail with EPERM. So they do in a container whose
/// filter is older than the calls.
#[cfg(feature = "seccomp")]
pub(crate) fn without_calls(calls: &[libc::c_long], test: impl FnOnce() + Send + 'static) {
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let (others, those) = (SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.cast_unsigned()));
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram = SeccompFilter::new(rules, others, those, arch).unwrap().try_into().unwrap();
    let thread = std::thread::spawn(move || {
        seccompiler::apply_filter(&filter).unwrap();
        test();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
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
