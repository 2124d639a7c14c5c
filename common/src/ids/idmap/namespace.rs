//! Processes in new user namespaces: one that only lends its namespace, one that works there, and the
//! container's own.
//!
//! Kernel objects: a user namespace, its maps, a socket between the two processes. The child makes the
//! namespace and waits; the parent writes the maps; the child becomes user 0. It dies with the parent: when
//! the socket ends.
//! Man pages: user_namespaces(7), unshare(2), setresuid(2), setgroups(2).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};

use super::{IdMaps, own, subordinate};
use crate::run::helper::{Helper, HelperEnd};
use crate::sys::clone::Placeholder;
use crate::sys::error::{Context, Hint, Result};
pub use crate::sys::namespace::owner_of;
use crate::sys::namespace::{enter, parent_of};
use crate::sys::privilege::Privilege;
use crate::sys::short::read_text;
use crate::sys::{call, unshare};

/// A user namespace with these maps, for [`map_ids`](crate::fs::mount::Detached::map_ids): nobody is in it.
///
/// # Errors
/// Those of `IdMaps::write`; EPERM, ENOSPC where no user namespace may be made.
pub fn user_namespace(maps: &IdMaps) -> Result<OwnedFd> {
    make_user_namespace(maps).map(|(namespace, _)| namespace)
}

/// The same, and the process that was in it. That has been told to end, and ends when it is dropped at the
/// latest.
pub(super) fn make_user_namespace(maps: &IdMaps) -> Result<(OwnedFd, Placeholder)> {
    // A namespace has a file only while a process is in it. A descriptor that was opened then remains.
    let mut placeholder = Placeholder::born_in(CloneFlags::CLONE_NEWUSER)?;
    maps.write(placeholder.process())?;
    let path = format!("/proc/{}/ns/user", placeholder.process());
    let namespace = File::open(&path).at("open", &path)?;
    placeholder.end();
    Ok((namespace.into(), placeholder))
}

/// Runs `story` in a process of its own, as root of a new user namespace with these maps. Only there may an
/// ordinary user change files of its subordinate ids. This process must have one thread.
///
/// # Errors
/// The error of the story; those of `IdMaps::write`; EPERM, ENOSPC where no user namespace may be made.
pub fn in_user_namespace(maps: &IdMaps, story: impl FnOnce() -> Result<()>) -> Result<()> {
    start_in_user_namespace(maps, |_| story())?.finish().map(drop)
}

/// The same, without waiting for the end of the story, which can send a descriptor.
pub(crate) fn start_in_user_namespace(
    maps: &IdMaps,
    story: impl FnOnce(&mut HelperEnd) -> Result<()>,
) -> Result<Helper> {
    let mut helper = mapped(maps, |parent| {
        look_whether_groups_are_denied()?;
        become_root()?;
        parent.die_with_parent()?;
        story(parent)
    })?;
    helper.go();
    Ok(helper)
}

/// The same for an ordinary user, with the ids that it has: the subordinate ones too, if there are any.
///
/// # Errors
/// As [`in_user_namespace`].
pub fn in_own_namespace(story: impl FnOnce() -> Result<()>) -> Result<()> {
    in_user_namespace(&subordinate()?.unwrap_or_else(own), story)
}

/// Makes this process, an ordinary user's, root of a new user namespace. Gives it a mount namespace that
/// belongs to that, and that hears of later mounts of the host. It must have one thread, and stays in both
/// namespaces for good. `write_maps` writes the maps of the process that it is given.
///
/// # Errors
/// As [`in_user_namespace`].
pub fn enter_own(write_maps: impl FnOnce(Pid) -> Result<()>) -> Result<()> {
    let runtime = Pid::this();
    // The maps are written from outside. So the process that stays outside is the helper.
    let mut helper = Helper::start("writing the maps of the user namespace", |parent| {
        parent.wait_for_go()?;
        write_maps(runtime)
    })?;
    unshare(CloneFlags::CLONE_NEWUSER)?;
    Privilege::became_root();
    helper.go();
    helper.finish()?;
    look_whether_groups_are_denied()?;
    become_root()?;
    unshare(CloneFlags::CLONE_NEWNS)
}

/// Makes this process one of the user namespace around `namespace`, and gives it a mount namespace that
/// belongs to that, as [`enter_own`] does. It must have one thread.
///
/// # Errors
/// EPERM when it is not another runtime's of the same user.
pub fn enter_parent_of(namespace: &OwnedFd) -> Result<()> {
    let parent = parent_of(namespace)?;
    enter(&parent, CloneFlags::CLONE_NEWUSER)?;
    Privilege::became_root();
    look_whether_groups_are_denied()?;
    become_root()?;
    unshare(CloneFlags::CLONE_NEWNS)
}

/// A process that has changed its user is closed: its files in `/proc`, among them the maps of its children,
/// are the host's root's. Before Linux 5.14 it cannot even read there itself in which mount a file lies that
/// it has open.
fn stay_readable() -> Result<()> {
    nix::sys::prctl::set_dumpable(true).context("prctl(PR_SET_DUMPABLE, 1)")
}

/// Whether no process of this user namespace may set groups. The namespaces within it have that from it.
static GROUPS_ARE_DENIED: AtomicBool = AtomicBool::new(false);

/// Looks whether groups are denied, and remembers it for this process and its children. This must be done as
/// long as `/proc` is the host's. The container's root may have a `/proc` of its own, and let it tell
/// anything.
pub(super) fn look_whether_groups_are_denied() -> Result<()> {
    let path = "/proc/self/setgroups";
    let text = read_text(path).at("read", path)?;
    GROUPS_ARE_DENIED.store(text.trim() == "deny", Ordering::Relaxed);
    Ok(())
}

/// In a child with a new user namespace, when it has its maps: becomes user 0 and group 0 of it. Until then
/// its ids are those of before, which may be nobody's there. Takes away the wish to die with the parent: ask
/// for that afterwards. The process stays open to others of its user, such as to itself: see
/// [`set_not_dumpable`](crate::sys::set_not_dumpable).
///
/// # Errors
/// EINVAL when the maps have no 0; EPERM where the caller's groups could be given up, and were not.
pub fn become_root() -> Result<()> {
    let zero = "the maps of this user namespace have no id 0";
    let groups = call("setgroups(2)", || "setgroups([])".into(), || setgroups(&[]));
    match groups {
        // "deny", the price of a map without help: the groups of the caller stay, as nobody's.
        Err(error) if error.errno() == Some(Errno::EPERM) && GROUPS_ARE_DENIED.load(Ordering::Relaxed) => {}
        groups => groups?,
    }
    let root = Gid::from_raw(0);
    call("setresgid(2)", || "setresgid(0, 0, 0)".into(), || setresgid(root, root, root))
        .hint_if(Errno::EINVAL, zero)?;
    let root = Uid::from_raw(0);
    call("setresuid(2)", || "setresuid(0, 0, 0)".into(), || setresuid(root, root, root))
        .hint_if(Errno::EINVAL, zero)?;
    stay_readable()
}

/// A helper in a new user namespace with these maps. It waits for its "go", and then lets `story` run.
fn mapped(maps: &IdMaps, story: impl FnOnce(&mut HelperEnd) -> Result<()>) -> Result<Helper> {
    let helper = Helper::born_in(CloneFlags::CLONE_NEWUSER, "working in a user namespace", |parent| {
        parent.wait_for_go()?;
        story(parent)
    })?;
    maps.write(helper.process())?;
    Ok(helper)
}
