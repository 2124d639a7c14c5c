//! Where the sessions of the documentation run: a folder, a shell, and who it belongs to.
//!
//! Kernel objects: a process group for each session, so that all of it can be ended; as root a network
//! namespace; the ids of an ordinary user, whom root becomes where a session is one's. Man pages:
//! credentials(7), network_namespaces(7).

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::workspace::{self, Build};

/// How long a block may take. The programs are built before the first one starts. But a `cargo` may have to
/// wait for the build of another block.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// As whom root runs what is an ordinary user's: the one whom the kernel, and every distribution, calls
/// nobody.
const NOBODY: u32 = 65534;

/// The first step that needs no root.
const ROOTLESS: u8 = 4;

/// Who runs a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Caller,
    Root,
    User,
}

impl Who {
    /// Whether root has to become somebody else for it.
    fn is_other(self) -> bool {
        self == Who::User && geteuid().is_root()
    }
}

/// What all blocks share: the built programs, and one state folder for each user, so that the root filesystem
/// is made once.
pub struct Sandbox {
    pub(super) folder: TempDir,
    pub(super) target: PathBuf,
    pub(super) limit: Duration,
}

impl Sandbox {
    /// Builds the steps, and runs one as root and one as an ordinary user, so that no block has to show what
    /// a first run prints.
    ///
    /// # Errors
    /// When cargo fails, or one of the two does not run.
    pub fn new() -> Result<Self> {
        // One by one: together, cargo would give `common` the features of all, and `cargo run` builds again.
        let (mut target, mut rootless) = (PathBuf::new(), Vec::new());
        for step in workspace::steps()? {
            target = workspace::build(&[&step.name], Build::Debug)?;
            if step.number >= ROOTLESS {
                rootless.push(target.join(&step.name));
            }
        }
        workspace::build(&["congo"], Build::Debug)?;
        workspace::build(&["xtask"], Build::Debug)?;
        let target = target.parent().context("the workspace has no step")?.to_owned();

        let folder = tempfile::Builder::new().prefix("congo-readme-").tempdir()?;
        // A step may go on as an ordinary user, who has to get in here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        // The commands stand in the text as one types them in a clone. But here the current folder is another
        // one, and cargo must still build the workspace at its own place, or it would build all of it anew.
        let cargo = format!(
            "#!/bin/sh\ncommand=$1; shift\ncase $command in\n\
             xtask | congo) exec '{cargo}' run --quiet --manifest-path '{root}/Cargo.toml' \
             --package $command -- \"$@\" ;;\n\
             *) exec '{cargo}' \"$command\" --manifest-path '{root}/Cargo.toml' \"$@\" ;;\nesac\n",
            cargo = workspace::cargo().get_program().display(),
            root = workspace::root().display(),
        );
        let sandbox = Sandbox { folder, target, limit: TIME_LIMIT };
        sandbox.install("bin", &cargo)?;
        if geteuid().is_root() {
            sandbox.install_for_user(&rootless)?;
            let output = sandbox.shell("cargo run -p step0-basic -- true; echo status $?", Who::Root);
            ensure!(output.ends_with("status 0\n"), "step 0 does not run:\n{output}");
        }
        let output = sandbox.shell("cargo run -p step4-users -- true; echo status $?", Who::User);
        ensure!(output.ends_with("status 0\n"), "step 4 does not run as an ordinary user:\n{output}");
        Ok(sandbox)
    }

    /// The sandbox of a stage's sessions: `cargo congo run` runs this program, the stage's own.
    ///
    /// # Errors
    /// When the folder cannot be made, or the program does not run.
    pub fn of_stage(program: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("congo-stage-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        // Copied: an ordinary user need not be able to enter the target folder.
        let copy = folder.path().join(program.file_name().context("a program without a name")?);
        fs::copy(program, &copy)?;
        let cargo = format!(
            "#!/bin/sh\nif [ \"$1 $2\" != 'congo run' ]; then echo 'here: cargo congo run -- …'; exit 1; fi\n\
             shift 2; if [ \"$1\" = -- ]; then shift; fi; exec '{}' \"$@\"\n",
            copy.display()
        );
        let target = folder.path().to_owned();
        let sandbox = Sandbox { folder, target, limit: TIME_LIMIT };
        sandbox.install("bin", &cargo)?;
        sandbox.install("user-bin", &cargo)?;
        let state = sandbox.folder.path().join("user-state");
        fs::create_dir(&state)?;
        if geteuid().is_root() {
            chown(&state, Some(NOBODY), Some(NOBODY))?;
        }
        // So that no session shows what a first run prints.
        for who in [Who::Root, Who::User] {
            if who == Who::User || geteuid().is_root() {
                sandbox.shell("cargo congo run -- true", who);
            }
        }
        Ok(sandbox)
    }

    /// Makes a folder with a `cargo` in it.
    fn install(&self, name: &str, cargo: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder)?;
        fs::write(folder.join("cargo"), cargo)?;
        fs::set_permissions(folder.join("cargo"), fs::Permissions::from_mode(0o755))?;
        Ok(folder)
    }

    /// What an ordinary user has who is only there because root becomes it: the programs alone, as neither
    /// cargo nor the workspace need be open to it; and a state folder.
    fn install_for_user(&self, programs: &[PathBuf]) -> Result<()> {
        let cargo = "#!/bin/sh\nif [ \"$1 $2\" != 'run -p' ]; then echo 'here: cargo run -p STEP -- …'; \
                     exit 1; fi\n\
            program=$3; shift 3; if [ \"$1\" = -- ]; then shift; fi; exec \"${0%/*}/$program\" \"$@\"\n";
        let folder = self.install("user-bin", cargo)?;
        for program in programs {
            fs::copy(program, folder.join(program.file_name().context("a program without a name")?))?;
        }
        let state = self.folder.path().join("user-state");
        fs::create_dir(&state)?;
        chown(&state, Some(NOBODY), Some(NOBODY))?;
        Ok(())
    }

    /// Runs a script in a folder of its own, and returns what it printed, on stdout and stderr.
    pub(super) fn shell(&self, script: &str, who: Who) -> String {
        match self.try_shell(script, who) {
            Ok(output) => output,
            Err(error) => format!("(the session could not be run: {error:#})\n"),
        }
    }

    fn try_shell(&self, script: &str, who: Who) -> Result<String> {
        let folder = tempfile::tempdir_in(self.folder.path())?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        for entry in workspace::root().read_dir()? {
            let entry = entry?;
            if entry.file_name() != "target" && entry.file_name() != ".git" {
                symlink(entry.path(), folder.path().join(entry.file_name()))?;
            }
        }
        symlink(&self.target, folder.path().join("target"))?;
        let (programs, state) = match who.is_other() {
            true => ("user-bin", "user-state"),
            false => ("bin", "state"),
        };

        let mut path = self.folder.path().join(programs).into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        // What cargo sets for us, a learner's shell does not have; and it would make cargo build again.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO") && !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&&*name) {
                shell.env_remove(&*name);
            }
        }
        let (mut reader, writer) = std::io::pipe()?;
        shell
            .args(["-c", script])
            .current_dir(folder.path())
            .env("PATH", path)
            .env("PWD", folder.path())
            .env("CONGO_HOME", self.folder.path().join(state))
            .env("CARGO_TERM_QUIET", "true")
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        if who.is_other() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
            // Rust drops root's supplementary groups, too.
            shell.uid(NOBODY).gid(NOBODY).env("HOME", folder.path()).env_remove("XDG_RUNTIME_DIR");
        }
        let mut child = start(&mut shell).context("starting sh")?;
        drop(shell); // It holds the pipe's other end, for which the reader waits.

        let (send, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = reader.read_to_end(&mut bytes);
            let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
        });
        let group = Pid::from_raw(child.id().cast_signed());
        let output = output.recv_timeout(self.limit).unwrap_or_else(|_| {
            // The whole group: a command that runs in the background holds the pipe open, too.
            let _ = killpg(group, Signal::SIGKILL);
            let late = output.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
            format!("{late}(ended after {} seconds)\n", self.limit.as_secs())
        });
        child.wait()?;
        Ok(output)
    }
}

/// Starts a session; as root in a network namespace of its own: what it shows of bridges and rules must not
/// touch the host's.
fn start(shell: &mut Command) -> Result<Child> {
    if !geteuid().is_root() {
        return Ok(shell.spawn()?);
    }
    let started = thread::scope(|scope| {
        let in_own_network = || {
            checks::host::own_network()?;
            Ok(shell.spawn()?)
        };
        scope.spawn(in_own_network).join()
    });
    started.unwrap_or_else(|_| bail!("the thread that starts it broke off"))
}
