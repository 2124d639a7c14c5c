//! The host's ids of the container's users: ids that the host has given to no user.
//!
//! Kernel object: a user namespace, with a map from its ids to the host's. Its root may do everything to
//! objects of the namespace, such as its mounts, its network and the files of its ids. It may do nothing to
//! the host. Order: the clone makes it together with the other namespaces, which then belong to it. The
//! parent writes the maps. The child becomes root. An ordinary user's runtime does all this for itself first.
//! Man pages: user_namespaces(7), subuid(5), newuidmap(1), mount_setattr(2).

use std::path::Path;

use common::Result;
use common::ids::idmap::{self, IdMaps, Ids, Shift, newuidmap, write_map};
use common::sys::namespace::enter;
use common::sys::{die_with_parent, give_streams, unshare};
use common::values::UsernsMode;
use nix::sched::CloneFlags;
use nix::unistd::{Pid, geteuid};

use crate::cli::Users;

/// The user namespace of a container.
pub enum UserNamespace {
    /// None of its own: its root is the host's.
    Host,
    /// A new one.
    New(Ids),
    /// Another container's. This one shares its network or its memory, which belong to that namespace.
    Joined(Ids),
}

impl UserNamespace {
    /// In the parent: finds the ids, for a root whose layers lie in these folders. From here on, an ordinary
    /// user's runtime is root of a namespace of its own.
    pub fn prepare<'a>(
        options: &Users,
        shared: &[(i32, String)],
        state: &Path,
        layers: impl IntoIterator<Item = &'a Path>,
    ) -> Result<UserNamespace> {
        if options.userns == Some(UsernsMode::Host) {
            return Ok(UserNamespace::Host);
        }
        if let Some((pid, option)) = shared.first() {
            return Ids::of_container(*pid, option).map(UserNamespace::Joined);
        }
        let ids = if !geteuid().is_root() {
            Ids::of_caller(options.userns, state, write_maps)?
        } else if let Some(maps) = options.chosen()? {
            Ids::of_root(maps)?
        } else {
            Ids::unused(layers)?
        };
        Ok(UserNamespace::New(ids))
    }

    /// Which of these namespaces the clone has to make. [`join`](Self::join) makes the others, within a user
    /// namespace that the child joins first. A process cannot make a PID namespace for itself.
    pub fn at_birth(&self, namespaces: CloneFlags) -> CloneFlags {
        match self {
            UserNamespace::Host => namespaces,
            // The kernel makes it first, so all others belong to it, and its root may do everything to them.
            UserNamespace::New(_) => namespaces | CloneFlags::CLONE_NEWUSER,
            UserNamespace::Joined(_) => namespaces & CloneFlags::CLONE_NEWPID,
        }
    }

    /// In the parent, once there is a child: writes the maps of its namespace.
    pub fn connect(&self, child: Pid) -> Result<()> {
        if let UserNamespace::New(ids) = self { write_maps(child, &ids.maps) } else { Ok(()) }
    }

    /// In the parent: gives the container's root the pipes that are its standard streams. `/dev/stdout` is a
    /// path, and opening it takes the right to.
    pub fn give_streams(&self) -> Result<()> {
        let Some(Shift { maps, .. }) = self.shift() else { return Ok(()) };
        let (user, group) = maps.root()?;
        give_streams(user, group)
    }

    /// In the child: joins the namespace of another container, and makes there the namespaces that are
    /// missing.
    pub fn join(&self, namespaces: CloneFlags) -> Result<()> {
        let UserNamespace::Joined(ids) = self else { return Ok(()) };
        enter(ids.to_join()?, CloneFlags::CLONE_NEWUSER)?;
        unshare(namespaces - CloneFlags::CLONE_NEWPID)
    }

    /// In the child: becomes root of its namespace. Until here it has the caller's user id, which the host's
    /// files know, but no capability for them.
    pub fn become_root(&self) -> Result<()> {
        if let UserNamespace::Host = self {
            return Ok(());
        }
        idmap::become_root()?;
        // A change of ids has cancelled this.
        die_with_parent()
    }

    /// Whether the caller is an ordinary user.
    pub fn is_ordinary(&self) -> bool {
        self.ids().is_some_and(|ids| !ids.are_shifted())
    }

    /// Whether the container has this group.
    pub fn has_group(&self, group: u32) -> bool {
        self.ids().is_none_or(|ids| ids.maps.groups.to_host(group).is_some())
    }

    /// The maps, and the namespace for mounts, where files have other ids on the disk than in the container.
    pub fn shift(&self) -> Option<Shift<'_>> {
        self.ids()?.shift()
    }

    fn ids(&self) -> Option<&Ids> {
        match self {
            UserNamespace::Host => None,
            UserNamespace::New(ids) | UserNamespace::Joined(ids) => Some(ids),
        }
    }
}

/// Writes a new user namespace's maps: `/proc/PID/uid_map` and `gid_map`. The kernel takes each once, and by
/// rights that the writer has outside: otherwise the new root could become any user of the host.
fn write_maps(process: Pid, maps: &IdMaps) -> Result<()> {
    // Root may write any ids, and so may the root of a user namespace that has them, with CAP_SETUID.
    if !geteuid().is_root() {
        if !maps.is_single() {
            // Two set-user-ID programs write subordinate ids. They look whether the user has them.
            return newuidmap(process, maps);
        }
        // An ordinary user may map only its own two ids, and must give up setgroups(2) first. A group may
        // take a right away, as with `rwx---r-x`; a process that left the group would have that right.
        write_map(process, "setgroups", "deny")?;
    }
    write_map(process, "gid_map", &maps.groups)?;
    write_map(process, "uid_map", &maps.users)
}
