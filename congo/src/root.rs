//! What must be root becomes root through sudo, and nothing else does. sudo(8).

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use nix::unistd::geteuid;

use crate::stages::Stage;

/// The first step that needs no root.
pub const ROOTLESS: u8 = 4;

/// The stage of step 4 from which on the runtime needs no root.
const FIRST_WITHOUT_ROOT: &str = "09-without-root";

/// Why most programs must be root.
pub(crate) const NO_USER_NAMESPACE: &str = "without a user namespace only root makes containers";

/// Whether the runtime of this stage refuses to run as an ordinary user.
pub fn needs_root(stage: &Stage) -> bool {
    let number = stage.step.number;
    number < ROOTLESS || (number == ROOTLESS && stage.name.as_str() < FIRST_WITHOUT_ROOT)
}

/// The command that runs a program as root which can do nothing without.
///
/// # Errors
/// When the caller is not root, and sudo is not there or cannot ask for a password.
pub fn demand(program: &Path) -> Result<Command> {
    let command = command(program, NO_USER_NAMESPACE);
    command.context("this needs root, and sudo cannot be asked: start it again as root")
}

/// The command that runs a program as root, with the caller's environment. `why` is told before sudo asks for
/// a password. `None` where the caller is not root, and sudo is not there or cannot ask.
pub fn command(program: &Path, why: &str) -> Option<Command> {
    if geteuid().is_root() {
        return Some(Command::new(program));
    }
    let command = by_sudo(Path::new("sudo"), program, why, io::stdin().is_terminal())?;
    if !command.get_args().any(|word| word == "-E") {
        eprintln!("congo: this sudo keeps no environment, so --env NAME finds nothing of yours");
    }
    Some(command)
}

/// The same through this sudo. `terminal`: whether it can ask for a password.
fn by_sudo(sudo: &Path, program: &Path, why: &str, terminal: bool) -> Option<Command> {
    let ask = |words: &[&str]| -> Option<Output> {
        Command::new(sudo).args(words).env("LC_ALL", "C").stdin(Stdio::null()).output().ok()
    };
    let succeeds = |words: &[&str]| ask(words).is_some_and(|output| output.status.success());
    let may_at_once = succeeds(&["-n", "true"]);
    let may_ask = terminal && succeeds(&["-V"]);
    if !(may_at_once || may_ask) {
        return None;
    }
    if !may_at_once {
        eprintln!("congo: {why}, so sudo asks for a password");
    }
    // A sudo that does not allow -E (sudoers' NOSETENV, sudo-rs) would refuse to start anything. So it is
    // asked first. With -n nobody types a password twice. `.cargo/run-as-root-if-needed` does the same.
    let refuses = ask(&["-n", "-E", "true"]).is_some_and(|output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.contains("preserv") && said.contains("environment")
    });
    let mut command = Command::new(sudo);
    command.args((!refuses).then_some("-E")).arg("--");
    // Set once more by name: a policy without -E drops it, and with it the state folder would be another one.
    if let Some(home) = std::env::var_os("CONGO_HOME") {
        let mut variable = OsString::from("CONGO_HOME=");
        variable.push(home);
        command.arg("env").arg(variable);
    }
    command.arg(program);
    Some(command)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::stages;

    /// The words with which a sudo that acts as this script is called in the end.
    fn words(script: &str, terminal: bool) -> Option<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let sudo = folder.path().join("sudo");
        fs::write(&sudo, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&sudo, fs::Permissions::from_mode(0o755)).unwrap();
        let command = by_sudo(&sudo, Path::new("/the/program"), "", terminal)?;
        Some(command.get_args().map(|word| word.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn the_environment_is_kept_where_sudo_allows_it() {
        assert_eq!(words("exit 0", false).unwrap()[..2], ["-E", "--"]);
        let refuses = "case $2 in -E) echo 'sudo: sorry, you are not allowed to preserve the environment' >&2
            exit 1; esac";
        let words = words(refuses, false).unwrap();
        assert_eq!((words[0].as_str(), words.last().unwrap().as_str()), ("--", "/the/program"));
    }

    #[test]
    fn without_a_terminal_a_sudo_that_wants_a_password_is_of_no_use() {
        let asks = "case $1 in -n) echo 'sudo: a password is required' >&2; exit 1; esac";
        assert_eq!(words(asks, false), None);
        assert_eq!(words(asks, true).unwrap()[0], "-E");
        assert_eq!(by_sudo(Path::new("/no/sudo"), Path::new("/the/program"), "", true).map(|_| ()), None);
    }

    #[test]
    fn the_runtime_needs_root_up_to_the_stage_that_takes_the_demand_away() {
        for stage in stages::all().unwrap() {
            let patch = fs::read_to_string(stage.folder().join("change.patch")).unwrap();
            let takes_away = patch.contains("\n-    process::require_root()?;\n");
            assert_eq!(takes_away, stage.name == FIRST_WITHOUT_ROOT, "{}", stage.id());
            let before = (stage.step.number, stage.name.as_str()) < (ROOTLESS, FIRST_WITHOUT_ROOT);
            assert_eq!(needs_root(&stage), before, "{}", stage.id());
        }
    }
}
