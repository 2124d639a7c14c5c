//! Writing the maps of a process in a new user namespace, from outside.
//!
//! May which process write which maps? That stands in step 4's `user_namespace.rs`; [`IdMaps::write`] follows
//! it, for the helpers here.
//! Man pages: user_namespaces(7), newuidmap(1), subuid(5).

use std::fmt::Display;
use std::io;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::unistd::{Pid, geteuid};

use super::{IdMap, IdMaps, line};
use crate::sys::error::{Error, Hint, Result};
use crate::sys::explain::Turn;
use crate::sys::write_value;

impl IdMaps {
    /// Gives the user namespace of `process`, a child of this one, its maps: once, before it goes on.
    ///
    /// # Errors
    /// EPERM for ids that are not this user's; those of [`newuidmap`].
    pub(super) fn write(&self, process: Pid) -> Result<()> {
        if !geteuid().is_root() {
            if !self.is_single() {
                return newuidmap(process, self);
            }
            write_map(process, "setgroups", "deny")?;
        }
        write_map(process, "gid_map", &self.groups)?;
        write_map(process, "uid_map", &self.users)
    }
}

/// Writes `/proc/PID/uid_map`, `gid_map` or `setgroups`, each of which the kernel takes once and in one
/// write.
///
/// # Errors
/// EPERM for ids that are not this user's, or a second time.
pub fn write_map(process: Pid, file: &str, text: impl Display) -> Result<()> {
    let refused =
        "a map is written once, by who may be these users on the host: root, or for its own ids each user";
    write_value("user_namespaces(7)", format!("/proc/{process}/{file}"), &text.to_string())
        .hint_if(Errno::EPERM, refused)
}

/// Has newgidmap(1) and newuidmap(1) write the maps, which are set-user-ID root and ask `/etc/subgid` and
/// `/etc/subuid`.
///
/// # Errors
/// They are not installed, or refuse.
pub fn newuidmap(process: Pid, maps: &IdMaps) -> Result<()> {
    ask("newgidmap", "/etc/subgid", process, &maps.groups)?;
    ask("newuidmap", "/etc/subuid", process, &maps.users)
}

/// Runs one of the two programs.
fn ask(program: &str, list: &str, process: Pid, map: &IdMap) -> Result<()> {
    let numbers = map.ranges().iter().flat_map(|range| [range.container, range.host, range.size]);
    let arguments: Vec<_> =
        [process.to_string()].into_iter().chain(numbers.map(|it| it.to_string())).collect();
    let what = format!("{program} {} for {}", process, line(map));
    let turn = Turn::take();
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
