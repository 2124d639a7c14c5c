//! User namespaces: which ids of the host those of a container are.
//!
//! Kernel objects: `/proc/PID/uid_map`, `gid_map` and `setgroups` of a process in a new user namespace, each
//! written once; the namespace as a descriptor, for idmapped mounts.
//!
//! Order:
//! - Choose the maps ([`IdMaps`]): from the options, from [`HostIds`], from [`subordinate`].
//! - Clone with CLONE_NEWUSER.
//! - The parent writes the maps, and says "go".
//! - The child calls [`become_root`]. Until then its user is nobody.
//!
//! Man pages: user_namespaces(7), subuid(5), newuidmap(1), mount_setattr(2).

mod files;
mod found;
mod host_ids;
mod layers;
mod namespace;
mod shifted;
mod subordinate;
#[cfg(test)]
mod tests;
mod write;

use std::fmt::{self, Display, Write};
use std::fs::File;
use std::io::Read;

use nix::fcntl::OFlag;

use crate::sys::error::{Context, Error, Result};
use crate::sys::namespace::open_of;
use crate::values::IdRange;

pub use files::with_files_of;
pub use found::{Ids, build_default_root, check_shared, roots};
pub use host_ids::{HostIds, unused_ids};
pub use layers::{Shift, ShiftedLayers, mount_own};
pub(crate) use namespace::start_in_user_namespace;
pub use namespace::{become_root, in_own_namespace, in_user_namespace, user_namespace};
use namespace::{enter_own, enter_parent_of, look_whether_groups_are_denied, make_user_namespace, owner_of};
pub use shifted::give;
use subordinate::{keep_id, require};
pub use subordinate::{own, subordinate, subordinate_of};
pub use write::{newuidmap, write_map};

/// How many lines the kernel takes, since 4.15.
const MAX_RANGES: usize = 340;
/// The kernel takes a map in one write of less than a page.
const MAX_TEXT: usize = 4096;

/// A map of ids: ranges that do not overlap, neither in the container nor on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap(Vec<IdRange>);

/// The maps of users and of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// For `/proc/PID/uid_map`.
    pub users: IdMap,
    /// For `/proc/PID/gid_map`.
    pub groups: IdMap,
}

impl IdMap {
    /// Takes the ranges of an option, `--uidmap` or `--gidmap`, if they go together.
    ///
    /// # Errors
    /// No ranges, too many, or two that overlap.
    pub fn new(option: &str, ranges: Vec<IdRange>) -> Result<IdMap> {
        for (number, one) in ranges.iter().enumerate() {
            for other in &ranges[..number] {
                let (container, host) =
                    (overlap(one, other, |it| it.container), overlap(one, other, |it| it.host));
                if container || host {
                    let side = if container { "in the container" } else { "on the host" };
                    return Err(Error::new(format!(
                        "{option} {}: overlaps {} {side}",
                        Text(one),
                        Text(other)
                    ))
                    .hint("each id may stand in one range only: CONTAINER:HOST:SIZE"));
                }
            }
        }
        let map = IdMap(ranges);
        let (count, bytes) = (map.0.len(), map.to_string().len());
        if count == 0 {
            return Err(
                Error::new(format!("{option}: no ids")).hint("expected CONTAINER:HOST:SIZE at least once")
            );
        }
        if count > MAX_RANGES || bytes >= MAX_TEXT {
            return Err(Error::new(format!("{option}: {count} ranges of {bytes} bytes"))
                .hint(format!("the kernel takes at most {MAX_RANGES}, in less than {MAX_TEXT} bytes")));
        }
        Ok(map)
    }

    /// One range.
    fn of(container: u32, host: u32, size: u32) -> IdMap {
        IdMap(vec![IdRange { container, host, size }])
    }

    /// Its ranges.
    pub fn ranges(&self) -> &[IdRange] {
        &self.0
    }

    /// Which id of the host the container's is, if it is any.
    pub fn to_host(&self, id: u32) -> Option<u32> {
        translate(&self.0, id, |it| it.container, |it| it.host)
    }

    /// Which id of the container the host's is, if it is any.
    pub fn to_container(&self, id: u32) -> Option<u32> {
        translate(&self.0, id, |it| it.host, |it| it.container)
    }
}

/// As the kernel reads it: user_namespaces(7).
impl Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|IdRange { container, host, size }| writeln!(f, "{container} {host} {size}"))
    }
}

impl IdMaps {
    /// Those of `--uidmap` and `--gidmap`; without groups, as the users.
    ///
    /// # Errors
    /// Those of [`IdMap::new`].
    pub fn given(users: &[IdRange], groups: &[IdRange]) -> Result<IdMaps> {
        let users = IdMap::new("--uidmap", users.to_vec())?;
        let groups = match groups {
            [] => users.clone(),
            groups => IdMap::new("--gidmap", groups.to_vec())?,
        };
        Ok(IdMaps { users, groups })
    }

    /// The same range for users and groups, from 0 on.
    pub fn from_zero(host: u32, size: u32) -> IdMaps {
        IdMaps { users: IdMap::of(0, host, size), groups: IdMap::of(0, host, size) }
    }

    /// Those of a process, with the host's ids as this process has them.
    ///
    /// # Errors
    /// ENOENT when it has ended.
    pub fn of_process(process: i32) -> Result<IdMaps> {
        let read = |file: &str| {
            let mut text = String::new();
            let mut opened = File::from(open_of(process, file, OFlag::O_RDONLY)?);
            opened.read_to_string(&mut text).context(format_args!("read /proc/{process}/{file}"))?;
            let range = |line: &str| {
                let mut numbers = line.split_whitespace().filter_map(|number| number.parse().ok());
                let mut next = || numbers.next();
                Some(IdRange { container: next()?, host: next()?, size: next()? })
            };
            Ok(IdMap(text.lines().filter_map(range).collect()))
        };
        Ok(IdMaps { users: read("uid_map")?, groups: read("gid_map")? })
    }

    /// The same ids on both sides: for a namespace within the one that has these maps.
    pub fn within(&self) -> IdMaps {
        let same = |map: &IdMap| {
            IdMap(map.0.iter().map(|range| IdRange { host: range.container, ..*range }).collect())
        };
        IdMaps { users: same(&self.users), groups: same(&self.groups) }
    }

    /// Which ids of the host the container's root has.
    ///
    /// # Errors
    /// When its ids 0 are none on the host.
    pub fn root(&self) -> Result<(u32, u32)> {
        self.users.to_host(0).zip(self.groups.to_host(0)).ok_or_else(|| {
            Error::new("the container's user 0 or group 0 is none on the host").hint(
                "the container's root is what mounts and makes devices: let a map begin with 0:HOST:SIZE",
            )
        })
    }

    /// Whether it is all that an ordinary user may write without help: one user and one group.
    pub fn is_single(&self) -> bool {
        let single = |map: &IdMap| matches!(map.0[..], [IdRange { size: 1, .. }]);
        single(&self.users) && single(&self.groups)
    }
}

fn overlap(one: &IdRange, other: &IdRange, first: impl Fn(&IdRange) -> u32) -> bool {
    let (one, other) = ((first(one), one.size), (first(other), other.size));
    u64::from(one.0) < u64::from(other.0) + u64::from(other.1)
        && u64::from(other.0) < u64::from(one.0) + u64::from(one.1)
}

fn translate(
    ranges: &[IdRange],
    id: u32,
    from: impl Fn(&IdRange) -> u32,
    to: impl Fn(&IdRange) -> u32,
) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(from(range)).filter(|&offset| offset < range.size)?;
        to(range).checked_add(offset)
    })
}

/// A range as the options write it.
struct Text<'a>(&'a IdRange);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IdRange { container, host, size } = self.0;
        write!(f, "{container}:{host}:{size}")
    }
}

/// A map in one line.
fn line(map: &IdMap) -> String {
    let mut text = String::new();
    for range in map.ranges() {
        let _ = write!(text, "{}{}", if text.is_empty() { "" } else { ", " }, Text(range));
    }
    text
}
