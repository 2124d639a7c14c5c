//! What must be root becomes root through sudo, and nothing else does. sudo(8).

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

/// The first step that needs no root.
pub const ROOTLESS: u8 = 4;

/// The command that runs a program as root, with the caller's environment. `None` where the caller is not
/// root, and sudo is not there or cannot ask for a password.
pub fn command(program: &Path) -> Option<Command> {
    if geteuid().is_root() {
        return Some(Command::new(program));
    }
    let quietly = |words: &[&str]| {
        let mut sudo = Command::new("sudo");
        sudo.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sudo.status().is_ok_and(|status| status.success())
    };
    let may_at_once = quietly(&["-n", "true"]);
    let may_ask = quietly(&["-V"]) && io::stdin().is_terminal();
    if !(may_at_once || may_ask) {
        return None;
    }
    if !may_at_once {
        eprintln!("congo: without a user namespace only root makes containers, so sudo asks for a password");
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-E", "--"]).arg(program);
    Some(sudo)
}
