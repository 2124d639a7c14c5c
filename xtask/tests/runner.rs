//! The script through which cargo starts every program: it asks sudo for what needs root, and for nothing
//! else.
//!
//! Here `id`, `sudo` and the programs are scripts, so that nothing of this depends on who runs the test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use xtask::workspace;

const PROGRAM: &str = "echo \"$# arguments, the second is '$2', home '$CONGO_HOME', FOO '$FOO'\"; exit 7";
const SUDO: &str = "echo \"sudo $1\"; [ \"$1\" != -n ] || exit 1; [ \"$1\" != -E ] || shift; exec \"$@\"";
/// Drops the environment, as sudo does by itself, and refuses to do otherwise.
const STRICT_SUDO: &str =
    "case \"$*\" in *-E*) echo 'sudo: sorry, you are not allowed to preserve the environment'
    exit 1 ;; esac; exec env -i PATH=\"$PATH\" \"$@\"";

fn script(folder: &Path, name: &str, body: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a program of this name as cargo would, and gives its output and exit status.
fn run(name: &str, uid: u32, sudo: Option<&str>) -> (String, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), name, PROGRAM);
    script(folder.path(), "id", &format!("echo {uid}"));
    for tool in ["sh", "env"] {
        script(folder.path(), tool, &format!("exec /usr/bin/{tool} \"$@\""));
    }
    if let Some(body) = sudo {
        script(folder.path(), "sudo", body);
    }
    let output = Command::new(workspace::root().join(".cargo/run-as-root-if-needed"))
        .arg(folder.path().join(name))
        .args(["-c", "a  b"])
        .env_clear()
        .envs([
            ("PATH", folder.path().as_os_str()),
            ("CONGO_HOME", "/tmp/c d".as_ref()),
            ("FOO", "1".as_ref()),
        ])
        .output()
        .unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

const AS_IS: &str = "2 arguments, the second is 'a  b', home '/tmp/c d', FOO '1'\n";

#[test]
fn a_step_asks_sudo_when_the_caller_is_not_root() {
    for name in ["step0-basic", "step3-storage"] {
        assert_eq!(run(name, 1000, Some(SUDO)), (format!("sudo -E\n{AS_IS}"), Some(7)));
    }
}

#[test]
fn everything_else_runs_as_it_is() {
    let as_is = (AS_IS.to_owned(), Some(7));
    assert_eq!(run("step0-basic", 0, Some(SUDO)), as_is, "as root");
    assert_eq!(run("step0-basic", 1000, None), as_is, "without sudo");
    for name in ["step4-users", "step0_basic-0123456789abcdef", "acceptance-0123456789abcdef", "xtask"] {
        assert_eq!(run(name, 1000, Some(SUDO)), as_is, "{name}");
    }
}

#[test]
fn a_sudo_that_keeps_no_environment_still_gets_the_state_folder() {
    let expected = "2 arguments, the second is 'a  b', home '/tmp/c d', FOO ''\n";
    assert_eq!(run("step0-basic", 1000, Some(STRICT_SUDO)), (expected.to_owned(), Some(7)));
}
