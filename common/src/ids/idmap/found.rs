//! The ids of one container: where they come from, and what holds them for as long as the runtime lives.
//!
//! Kernel objects: a user namespace as a descriptor, for idmapped mounts and for setns(2); the lock on a
//! range of ids.
//! Man pages: user_namespaces(7), subuid(5), setns(2).

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::{Pid, geteuid};

use super::layers::Early;
use super::{HostIds, IdMaps, Shift, enter_own, enter_parent_of, in_user_namespace, own, owner_of, require};
use super::{keep_id, look_whether_groups_are_denied, make_user_namespace, subordinate};
use crate::fs::mount::map_all;
use crate::fs::rootfs;
use crate::keep::state::tell_once;
use crate::sys::error::{Error, Result};
use crate::sys::namespace::{is_own_namespace, is_same_namespace, open_namespace};
use crate::values::UsernsMode;

/// Which ids of the host the container's ids are.
#[derive(Debug)]
pub struct Ids {
    /// The host's ids are here those that this process sees.
    pub maps: IdMaps,
    namespace: Option<OwnedFd>,
    shifted: bool,
    early: RefCell<Early>,
    /// For as long as the runtime lives, if they are Congo's own.
    _taken: Option<HostIds>,
}

impl Ids {
    /// For root: these.
    ///
    /// # Errors
    /// They have no root; those of [`user_namespace`](super::user_namespace).
    pub fn of_root(maps: IdMaps) -> Result<Ids> {
        maps.root()?;
        look_whether_groups_are_denied()?;
        let (namespace, placeholder) = make_user_namespace(&maps)?;
        let early = Early { mounts: Vec::new(), _placeholder: Some(placeholder) };
        Ok(Ids { maps, namespace: Some(namespace), shifted: true, early: early.into(), _taken: None })
    }

    /// For root: a range that neither a user of the host nor another container has. Where the layers in these
    /// folders cannot be mounted with other ids, they are copied. Then all containers have one range, or each
    /// would need a copy.
    ///
    /// # Errors
    /// No range is free; those of [`user_namespace`](super::user_namespace).
    pub fn unused<'a>(layers: impl IntoIterator<Item = &'a Path>) -> Result<Ids> {
        let taken = HostIds::take()?;
        let mut ids = Ids::of_root(taken.maps())?;
        let Some(mounts) = map_all(layers, ids.to_join()?)? else { return Ids::of_root(HostIds::shared()?) };
        ids.early.get_mut().mounts = mounts;
        Ok(Ids { _taken: Some(taken), ..ids })
    }

    /// For an ordinary user: its own ids and its subordinate ones. Makes this process root of a user
    /// namespace that has them, in which the container's own one will lie. `write_maps` writes the maps of a
    /// process.
    ///
    /// # Errors
    /// With `keep-id`, the user has no subordinate ids; those of `enter_own`.
    pub fn of_caller(
        userns: Option<UsernsMode>,
        state: &Path,
        write_maps: impl FnOnce(Pid, &IdMaps) -> Result<()>,
    ) -> Result<Ids> {
        let maps = match userns {
            Some(UsernsMode::KeepId) => require(keep_id()?)?,
            _ => subordinate()?.unwrap_or_else(|| {
                let line = "no subordinate ids (/etc/subuid, /etc/subgid; package uidmap), so containers \
                    have one user: root, you";
                tell_once(state, "no-ids", format_args!("congo: {line}"));
                own()
            }),
        };
        enter_own(|runtime| write_maps(runtime, &maps))?;
        Ok(Ids {
            maps: maps.within(),
            namespace: None,
            shifted: false,
            early: RefCell::default(),
            _taken: None,
        })
    }

    /// Another container's: this one joins its user namespace. `option` is what the user wrote.
    /// Makes an ordinary user's process root of the namespace in which that one lies.
    ///
    /// # Errors
    /// The container is another user's, or has no user namespace of its own; it has ended.
    pub fn of_container(pid: i32, option: &str) -> Result<Ids> {
        let namespace = open_namespace(pid, "user", option)?;
        if is_own_namespace(&namespace, "user")? {
            return Err(Error::new(format!(
                "{option}: it is in the user namespace of the host, or in yours"
            ))
            .hint("share it with --userns host, if you are root"));
        }
        if owner_of(&namespace)? != geteuid() {
            return Err(Error::new(format!("{option}: the container is another user's")).hint(
                "the owner of a user namespace may do everything in it, and to each process that joins it",
            ));
        }
        let shifted = geteuid().is_root();
        if shifted {
            look_whether_groups_are_denied()?;
        } else {
            // The runtime of that container is root there, of the same user: all that it mounts belongs to
            // it.
            enter_parent_of(&namespace)?;
        }
        let maps = IdMaps::of_process(pid)?;
        let taken = if shifted { HostIds::share(&maps)? } else { None };
        Ok(Ids { maps, namespace: Some(namespace), shifted, early: RefCell::default(), _taken: taken })
    }

    /// The user namespace of the container that this one shares something with.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn to_join(&self) -> Result<&OwnedFd> {
        self.namespace.as_ref().ok_or_else(|| Error::new("join a user namespace: it is not open"))
    }

    /// Whether files have other ids on the disk than this process sees. That is so for root, because root's
    /// containers have ids of their own.
    pub fn are_shifted(&self) -> bool {
        self.shifted
    }

    /// What shows such files with the container's owners. `None` where files have the same ids.
    pub fn shift(&self) -> Option<Shift<'_>> {
        let namespace = self.namespace.as_ref().filter(|_| self.shifted)?;
        Some(Shift { maps: &self.maps, namespace, early: &self.early })
    }
}

/// Refuses to share with containers that are in two user namespaces, and ids that are chosen beside those of
/// another container. A process is in one user namespace, and with its rights there it enters only what
/// belongs to that.
///
/// # Errors
/// One of these; a container has ended, or is another user's.
pub fn check_shared(userns: Option<UsernsMode>, ids_chosen: bool, shared: &[(i32, String)]) -> Result<()> {
    let others = shared.iter().map(|(pid, option)| open_namespace(*pid, "user", option));
    let others = others.collect::<Result<Vec<_>>>()?;
    if userns == Some(UsernsMode::Host) {
        return Ok(());
    }
    // Before anything is made. In a user namespace of its own, a container may do nothing to processes that
    // belong to the host's.
    if let Some((_, option)) = shared.last().filter(|(_, option)| option == "--pid host") {
        return Err(Error::new(format!("{option}: not with users of its own"))
            .hint("add --userns host: root of the container is then root of the host"));
    }
    for (both, options) in others.windows(2).zip(shared.windows(2)) {
        if !is_same_namespace(&both[0], &both[1])? {
            let (first, second) = (&options[0].1, &options[1].1);
            return Err(Error::new(format!("{second}: it has other users than the one of {first}"))
                .hint("share both with one container, or let that one share the other's"));
        }
    }
    match shared {
        [(_, option), ..] if ids_chosen => Err(Error::new(format!(
            "{option}: it goes with the ids of that container"
        ))
        .hint("leave out --userns, --uidmap, --gidmap and --subuidname, or take --userns host as root")),
        _ => Ok(()),
    }
}

/// Where the roots lie that Congo makes. With `keep-id` the container's root is a subordinate id and not the
/// caller. So these roots have another owner on the disk, and another folder.
pub fn roots(userns: Option<UsernsMode>, state: &Path) -> PathBuf {
    match userns {
        Some(UsernsMode::KeepId) => state.join("keep-id"),
        _ => state.to_owned(),
    }
}

/// Builds the root that Congo makes of the host's programs, if it is not there. It belongs to its maker, and
/// with `keep-id` that must be the container's root: a subordinate id of the caller.
///
/// # Errors
/// Those of [`rootfs::default_root_in`] and [`in_user_namespace`].
pub fn build_default_root(userns: Option<UsernsMode>, roots: &Path) -> Result<()> {
    let build = || rootfs::default_root_in(roots).map(drop);
    match userns {
        Some(UsernsMode::KeepId) if !geteuid().is_root() => in_user_namespace(&require(keep_id()?)?, build),
        _ => build(),
    }
}
