//! Who the container's users are on the host: nobody.
//!
//! Kernel object: a user namespace, with a map from its ids to the host's. Its root may do everything to what belongs to
//! the namespace, such as its mounts, its network and the files of its ids, and nothing to the host. Order: the clone makes it,
//! together with all others, which so belong to it; the parent writes the maps, as only who stands outside may; the child
//! becomes root. An ordinary user first becomes root of a namespace of its own, and then goes on as root does.
//! Man pages: user_namespaces(7), subuid(5), mount_setattr(2).

use std::os::fd::OwnedFd;
use std::path::Path;

use common::idmap::{self, HostIds, IdMap, IdMaps};
use common::state::tell_once;
use common::syscall::die_with_parent;
use common::values::UsernsMode;
use common::{Error, Result, rootfs};
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
}

impl UserNamespace {
    /// In the parent: finds the ids. An ordinary user is root of its own namespace from here on.
    pub fn prepare(options: &Users, state: &Path) -> Result<UserNamespace> {
        if !geteuid().is_root() {
            return UserNamespace::of_ordinary_user(options, state);
        }
        let (maps, taken) = match (&options.userns, &options.subordinate, options.uid_map.as_slice()) {
            (_, Some(user), _) => (idmap::subordinate_of(user)?, None),
            (None | Some(UsernsMode::Auto), None, []) => {
                let taken = HostIds::take(&rootfs::run_dir()?)?;
                (taken.maps(), Some(taken))
            }
            (Some(UsernsMode::Host), ..) => return Ok(UserNamespace::Host),
            (Some(UsernsMode::KeepId), ..) => {
                return Err(Error::new(
                    "--userns keep-id: the caller is root, whose own ids are the host's root's",
                )
                .hint("expected auto or host from root"));
            }
            _ => (given(options)?, None),
        };
        maps.root()?;
        let namespace = idmap::user_namespace(&maps)?;
        Ok(UserNamespace::Shifted { maps, namespace, _taken: taken })
    }

    fn of_ordinary_user(options: &Users, state: &Path) -> Result<UserNamespace> {
        if !options.uid_map.is_empty() || options.subordinate.is_some() {
            return Err(Error::new("--uidmap, --gidmap and --subuidname are for root")
                .hint("an ordinary user has the ids that /etc/subuid and /etc/subgid give it"));
        }
        let maps = match options.userns {
            Some(UsernsMode::Host) => {
                return Err(Error::new("--userns host: the caller is not root")
                    .hint("expected auto or keep-id from an ordinary user"));
            }
            Some(UsernsMode::KeepId) => idmap::require(idmap::keep_id()?)?,
            _ => idmap::subordinate()?.unwrap_or_else(|| {
                let line =
                    "/etc/subuid has no ids for this user, so containers have one user: root, which is you";
                tell_once(state, "no-ids", format_args!("congo: {line}"));
                idmap::own()
            }),
        };
        idmap::enter_own(&maps)?;
        Ok(UserNamespace::Same(maps.within()))
    }

    /// Whether the caller is no root.
    pub fn is_ordinary(&self) -> bool {
        matches!(self, UserNamespace::Same(_))
    }

    /// The namespace that the clone has to make.
    pub fn namespace(&self) -> CloneFlags {
        match self {
            UserNamespace::Host => CloneFlags::empty(),
            _ => CloneFlags::CLONE_NEWUSER,
        }
    }

    /// In the parent, once the child is there.
    pub fn connect(&self, child: Pid) -> Result<()> {
        match self {
            UserNamespace::Host => Ok(()),
            UserNamespace::Same(maps) | UserNamespace::Shifted { maps, .. } => maps.write(child),
        }
    }

    /// In the child: becomes the root of it. Until then it is who it was on the host, but with no right there.
    pub fn become_root(&self) -> Result<()> {
        match self {
            UserNamespace::Host => Ok(()),
            // A change of ids takes the wish away.
            _ => idmap::become_root().and_then(|()| die_with_parent()),
        }
    }

    /// Whether the container has this group.
    pub fn has_group(&self, group: u32) -> bool {
        match self {
            UserNamespace::Host => true,
            UserNamespace::Same(maps) | UserNamespace::Shifted { maps, .. } => {
                maps.groups.to_host(group).is_some()
            }
        }
    }

    /// The maps and the descriptor, where what is on the disk has other ids than the container.
    pub fn shift(&self) -> Option<(&IdMaps, &OwnedFd)> {
        match self {
            UserNamespace::Shifted { maps, namespace, .. } => Some((maps, namespace)),
            _ => None,
        }
    }
}

fn given(options: &Users) -> Result<IdMaps> {
    let users = IdMap::new("--uidmap", options.uid_map.clone())?;
    let groups = match options.gid_map.is_empty() {
        true => users.clone(),
        false => IdMap::new("--gidmap", options.gid_map.clone())?,
    };
    Ok(IdMaps { users, groups })
}
