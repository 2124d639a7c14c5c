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
/// EPERM for ids that are not this user's, or a second time; EINVAL for ranges that overlap; ENOENT when the
/// process has ended.
pub fn write_map(process: Pid, file: &str, text: impl Display) -> Result<()> {
    write_value("user_namespaces(7)", format!("/proc/{process}/{file}"), &text.to_string())
        .hint_if(Errno::EPERM, refusal(file))
        .hint_if(Errno::ENOENT, "the process has ended, or this kernel has no user namespaces")
}

/// Why the kernel refuses to write this file, though it is there.
fn refusal(file: &str) -> &'static str {
    match file {
        "setgroups" => {
            "deny is written before gid_map, and by the user that made the namespace: too late, or not yours"
        }
        "gid_map" => {
            "it is written once: root may map any groups, a user only its own one, after deny in setgroups"
        }
        _ => "it is written once: root may map any users, a user only itself",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// This process is in a user namespace whose files were all written long ago.
    #[test]
    fn each_file_has_its_own_hint() {
        if !geteuid().is_root() {
            return crate::testing::skipped("it needs root: other users may not open the files");
        }
        let mut hints = std::collections::BTreeSet::new();
        for (file, text) in [("setgroups", "deny"), ("gid_map", "0 0 1"), ("uid_map", "0 0 1")] {
            let error = write_map(Pid::this(), file, text).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EPERM), "{error}");
            hints.insert(error.in_one_line().rsplit_once("; ").unwrap().1.to_owned());
        }
        assert_eq!(hints.len(), 3);
    }
}
