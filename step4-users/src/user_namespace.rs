//! Who the container's users are on the host: nobody.
//!
//! Kernel object: a user namespace, with a map from its ids to the host's. Its root may do everything to what belongs to
//! the namespace, such as its mounts, its network and the files of its ids, and nothing to the host. Order: the clone makes it,
//! together with all others, which so belong to it; the parent writes the maps, as only who stands outside may; the child
//! becomes root. An ordinary user first becomes root of a namespace of its own, and then goes on as root does.
//! Man pages: user_namespaces(7), subuid(5), mount_setattr(2).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use common::fs::mount::can_map_ids;
use common::fs::rootfs;
use common::ids::idmap::{self, HostIds, IdMap, IdMaps};
use common::keep::state::tell_once;
use common::sys::namespace::{enter, is_own_namespace, is_same_namespace, open_namespace};
use common::sys::{die_with_parent, give_streams, unshare};
use common::values::UsernsMode;
use common::{Error, Result};
use nix::sched::CloneFlags;
use nix::unistd::{Pid, geteuid};

use crate::cli::Users;

/// The user namespace of a container.
pub enum UserNamespace {
    /// None: its root is the host's.
    Host,
    /// The ids of the one that the runtime itself is in, an ordinary user's: files have them already.
    Same(IdMaps),
    /// Other ids than the files have on the disk.
    Shifted {
        /// Which.
        maps: IdMaps,
        /// The same as a descriptor, for mounts.
        namespace: OwnedFd,
        /// For as long as the runtime lives, if they are Congo's own.
        _taken: Option<HostIds>,
    },
    /// That of another container, whose network or memory this one shares: they belong to it.
    Joined {
        /// Its ids, and which of the host they are.
        maps: IdMaps,
        /// The namespace.
        namespace: OwnedFd,
        /// Whether files have other ids on the disk.
        shifted: bool,
        /// For as long as the runtime lives, if they are Congo's own.
        _shared: Option<HostIds>,
    },
}

/// Refuses what no one could be given, before anything is made. `shared` are the containers with which this one is to share
/// something.
pub fn check(options: &Users, shared: &[(i32, String)]) -> Result<()> {
    let others = shared.iter().map(|(pid, option)| open_namespace(*pid, "user", option));
    let others = others.collect::<Result<Vec<_>>>()?;
    // A process is in one user namespace, and with its rights there it enters only what belongs to that.
    if let [one, other] = others.as_slice()
        && options.userns != Some(UsernsMode::Host)
        && !is_same_namespace(one, other)?
    {
        let (first, second) = (&shared[0].1, &shared[1].1);
        return Err(Error::new(format!("{second}: it has other users than the one of {first}"))
            .hint("share both with one container, or let that one share the other's"));
    }
    if let Some(user) = &options.subordinate {
        idmap::subordinate_of(user)?;
    }
    if options.uid_map.is_empty() { Ok(()) } else { given(options)?.root().map(drop) }
}

impl UserNamespace {
    /// In the parent: finds the ids, for a root whose layers lie in these folders. An ordinary user is root of its own
    /// namespace from here on.
    pub fn prepare<'a>(
        options: &Users,
        shared: &[(i32, String)],
        state: &Path,
        layers: impl IntoIterator<Item = &'a Path>,
    ) -> Result<UserNamespace> {
        if let Some((pid, option)) = shared.first().filter(|_| options.userns != Some(UsernsMode::Host)) {
            return UserNamespace::join_that_of(*pid, option, options);
        }
        if !geteuid().is_root() {
            return UserNamespace::of_ordinary_user(options, state);
        }
        let (maps, taken) = match (&options.userns, &options.subordinate, options.uid_map.as_slice()) {
            (_, Some(user), _) => (idmap::subordinate_of(user)?, None),
            (None | Some(UsernsMode::Auto), None, []) => {
                let taken = HostIds::take()?;
                (taken.maps(), Some(taken))
            }
            (Some(UsernsMode::Host), ..) => return Ok(UserNamespace::Host),
            _ => (given(options)?, None),
        };
        maps.root()?;
        let namespace = idmap::user_namespace(&maps)?;
        if taken.is_some() && !can_map_ids(layers, &namespace)? {
            // The layers have to be copied. For each range there would be a copy.
            let maps = HostIds::shared()?;
            let namespace = idmap::user_namespace(&maps)?;
            return Ok(UserNamespace::Shifted { maps, namespace, _taken: None });
        }
        Ok(UserNamespace::Shifted { maps, namespace, _taken: taken })
    }

    fn join_that_of(pid: i32, option: &str, options: &Users) -> Result<UserNamespace> {
        if options.ids_chosen() {
            return Err(Error::new(format!("{option}: it goes with the ids of that container")).hint(
                "leave out --userns, --uidmap, --gidmap and --subuidname, or take --userns host as root",
            ));
        }
        let namespace = open_namespace(pid, "user", option)?;
        if is_own_namespace(&namespace, "user")? {
            return Err(Error::new(format!(
                "{option}: it is in the user namespace of the host, or in yours"
            ))
            .hint("share it with --userns host, if you are root"));
        }
        let shifted = geteuid().is_root();
        if idmap::owner_of(&namespace)? != geteuid() {
            return Err(Error::new(format!("{option}: the container is another user's"))
                .hint("who has made its user namespace may do what it likes in there, and to who joins it"));
        }
        if !shifted {
            // The runtime of that container is root there, of the same user: all that it mounts belongs to it.
            idmap::enter_parent_of(&namespace)?;
        }
        let maps = IdMaps::of_process(pid)?;
        let shared = if shifted { HostIds::share(&maps) } else { None };
        Ok(UserNamespace::Joined { maps, namespace, shifted, _shared: shared })
    }

    fn of_ordinary_user(options: &Users, state: &Path) -> Result<UserNamespace> {
        let maps = match options.userns {
            Some(UsernsMode::KeepId) => idmap::require(idmap::keep_id()?)?,
            _ => idmap::subordinate()?.unwrap_or_else(|| {
                let line =
                    "no subordinate ids (/etc/subuid, /etc/subgid; package uidmap), so containers have one user: root, you";
                tell_once(state, "no-ids", format_args!("congo: {line}"));
                idmap::own()
            }),
        };
        idmap::enter_own(&maps)?;
        Ok(UserNamespace::Same(maps.within()))
    }

    /// Whether the caller is no root.
    pub fn is_ordinary(&self) -> bool {
        matches!(self, UserNamespace::Same(_) | UserNamespace::Joined { shifted: false, .. })
    }

    /// Which of these namespaces the clone has to make. [`join`](Self::join) makes the others: they must belong to a user
    /// namespace that the child joins first. A process cannot make a PID namespace for itself.
    pub fn at_birth(&self, namespaces: CloneFlags) -> CloneFlags {
        match self {
            UserNamespace::Host => namespaces,
            UserNamespace::Joined { .. } => namespaces & CloneFlags::CLONE_NEWPID,
            // The kernel makes it first, so all others belong to it, and its root may do everything to them.
            _ => namespaces | CloneFlags::CLONE_NEWUSER,
        }
    }

    /// In the parent, once the child is there: writes its maps, which can be done once.
    pub fn connect(&self, child: Pid) -> Result<()> {
        match self {
            UserNamespace::Host | UserNamespace::Joined { .. } => Ok(()),
            UserNamespace::Same(maps) | UserNamespace::Shifted { maps, .. } => maps.write(child),
        }
    }

    /// In the parent: gives the container's root the pipes that it has from the caller. `/dev/stdout` is a
    /// path, and who opens it must have the right to.
    pub fn give_streams(&self) -> Result<()> {
        let Some((maps, _)) = self.shift() else { return Ok(()) };
        let (user, group) = maps.root()?;
        give_streams(user, group)
    }

    /// In the child: joins that of another container, and makes there the namespaces that are not made yet.
    pub fn join(&self, namespaces: CloneFlags) -> Result<()> {
        let UserNamespace::Joined { namespace, .. } = self else { return Ok(()) };
        enter(namespace, CloneFlags::CLONE_NEWUSER)?;
        unshare(namespaces - CloneFlags::CLONE_NEWPID)
    }

    /// In the child: becomes the root of it. Until then it is who called, to whom the host's files are open, but without any
    /// capability for them.
    pub fn become_root(&self) -> Result<()> {
        match self {
            UserNamespace::Host => Ok(()),
            // A change of ids takes away the wish to die with the parent.
            _ => idmap::become_root().and_then(|()| die_with_parent()),
        }
    }

    /// Whether the container has this group.
    pub fn has_group(&self, group: u32) -> bool {
        match self {
            UserNamespace::Host => true,
            UserNamespace::Same(maps)
            | UserNamespace::Shifted { maps, .. }
            | UserNamespace::Joined { maps, .. } => maps.groups.to_host(group).is_some(),
        }
    }

    /// The maps and the descriptor, where what is on the disk has other ids than the container.
    pub fn shift(&self) -> Option<(&IdMaps, &OwnedFd)> {
        match self {
            UserNamespace::Shifted { maps, namespace, .. }
            | UserNamespace::Joined { maps, namespace, shifted: true, .. } => Some((maps, namespace)),
            _ => None,
        }
    }
}

/// Where the roots lie that Congo makes. With `keep-id` the container's root is not the caller but a subordinate id, so
/// these have another owner on the disk, and another folder.
pub fn roots(options: &Users, state: &Path) -> PathBuf {
    match options.userns {
        Some(UsernsMode::KeepId) => state.join("keep-id"),
        _ => state.to_owned(),
    }
}

/// The root that Congo makes of the host's programs. It belongs to who makes it, and with `keep-id` that must be the
/// container's root.
pub fn default_root(options: &Users, state: &Path) -> Result<PathBuf> {
    let roots = roots(options, state);
    if roots != state && !geteuid().is_root() {
        let maps = idmap::require(idmap::keep_id()?)?;
        idmap::in_user_namespace(&maps, || rootfs::default_root_in(&roots).map(drop))?;
    }
    rootfs::default_root_in(&roots)
}

fn given(options: &Users) -> Result<IdMaps> {
    let users = IdMap::new("--uidmap", options.uid_map.clone())?;
    let groups = match options.gid_map.is_empty() {
        true => users.clone(),
        false => IdMap::new("--gidmap", options.gid_map.clone())?,
    };
    Ok(IdMaps { users, groups })
}
