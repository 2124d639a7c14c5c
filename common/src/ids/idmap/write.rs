//! Writing the maps of a process in a new user namespace, from outside.
//!
//! Who has CAP_SETUID and CAP_SETGID writes what it likes. Others may map their own user and group only, and for the
//! group must give up setgroups(2) first: a group that takes a right away, as in `rwx---r-x`, could be left by it. For
//! more there are newuidmap(1) and newgidmap(1), which are set-user-ID root and ask `/etc/subuid` and `/etc/subgid`.
//! Man pages: user_namespaces(7), newuidmap(1), subuid(5).

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::unistd::{Pid, geteuid};

use super::{IdMap, IdMaps, line};
use crate::sys::call;
use crate::sys::error::{Error, Hint, Result};

impl IdMaps {
    /// Gives the user namespace of `process`, a child of this one, its maps: once, before it goes on.
    ///
    /// # Errors
    /// EPERM for ids that are not this user's; newuidmap(1) is not installed, or refuses.
    pub fn write(&self, process: Pid) -> Result<()> {
        let refused = "a map is written once, by who may be these users on the host: root, or for its own ids each user";
        if geteuid().is_root() {
            write(process, "gid_map", &self.groups.to_string()).hint_if(Errno::EPERM, refused)?;
            return write(process, "uid_map", &self.users.to_string()).hint_if(Errno::EPERM, refused);
        }
        if self.is_single() {
            write(process, "setgroups", "deny")?;
            write(process, "gid_map", &self.groups.to_string()).hint_if(Errno::EPERM, refused)?;
            return write(process, "uid_map", &self.users.to_string()).hint_if(Errno::EPERM, refused);
        }
        ask("newgidmap", "/etc/subgid", process, &self.groups)?;
        ask("newuidmap", "/etc/subuid", process, &self.users)
    }
}

fn write(process: Pid, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{process}/{file}");
    let errno = |error: io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    call(
        "user_namespaces(7)",
        || format!("write({path:?}, {text:?})"),
        || {
            let mut file = OpenOptions::new().write(true).open(&path).map_err(errno)?;
            // One write: the kernel takes no second one.
            file.write(text.as_bytes()).map_err(errno)
        },
    )
    .map(drop)
}

/// Runs one of the two programs.
fn ask(program: &str, list: &str, process: Pid, map: &IdMap) -> Result<()> {
    let numbers = map.ranges().iter().flat_map(|range| [range.container, range.host, range.size]);
    let arguments: Vec<_> =
        [process.to_string()].into_iter().chain(numbers.map(|it| it.to_string())).collect();
    let what = format!("{program} {} for {}", process, line(map));
    let turn = crate::sys::explain::Turn::take();
    let output = Command::new(program).args(&arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(format!("{program}: not installed"))
            .hint("install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora)"),
        _ => Error::from_io(what.clone(), &error),
    })?;
    if let Some(turn) = turn {
        turn.line(format_args!("{program} {}", arguments.join(" ")), output.status, "newuidmap(1)");
    }
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it said nothing");
    Err(Error::new(format!("{what}: {said}")).hint(format!(
        "{list} must give you these ids, in a line USER:FIRST:COUNT, and {program} must be set-user-ID root"
    )))
}
