//! 65,536 ids of the host for one container, which no other container and no user of the host has.
//!
//! They lie between 0x7000_0000 and 0x7FFD_FFFF, which systemd's list of ids calls unused:
//! - Below, up to 0x6FFF_FFFF, systemd gives ids to its own containers. Distributions give ids from 100,000
//!   on to users in `/etc/subuid`.
//! - Above, systemd has ids for foreign images. From 2^31 on programs count with a sign, and Podman has its
//!   own ids.
//!
//! Kernel objects: a folder with a file for each range that is taken, claimed as long as its container's
//! runtime lives. Files that Congo keeps on a disk do not have these ids (see mount_setattr(2), idmapped
//! mounts). So a range can be given away again at once. If a container has left files in a folder of the
//! host, the next container with its range owns them.
//! Source: systemd, "Users, Groups, UIDs and GIDs on systemd Systems". Man pages: flock(2), subuid(5).

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use rustix::fs::FlockOperation;

use super::IdMaps;
use super::subordinate::{SUBGID, SUBUID, read};
use crate::fs::claim::{Claim, Make, sweep};
use crate::fs::own::{Access, own_folder};
use crate::ids::passwd;
use crate::sys::error::{Context, Error, Result};

/// As many as any image has: ids of 16 bits.
const SIZE: u32 = 1 << 16;
const FIRST: u32 = 0x7000_0000;
/// How many ranges there are for one container each.
const RANGES: u32 = 0x0ffd;
/// Where the list is: one for the host, as its ids are, and not one for each state folder.
const RUN: &str = "/run/congo";
/// The range behind them.
const SHARED: u32 = FIRST + RANGES * SIZE;

/// All ids that [`Ids::unused`](super::Ids::unused) gives to containers. No file of the host's is theirs.
pub fn unused_ids() -> Range<u32> {
    FIRST..SHARED + SIZE
}

/// A range that no other container gets for as long as the value lives. When the last one of its containers
/// ends, its file goes.
#[derive(Debug)]
pub struct HostIds {
    first: u32,
    /// Shared with those who have called [`share`](HostIds::share): the last one gives the range back.
    _claim: Claim,
}

impl HostIds {
    /// Takes the lowest range that is free.
    ///
    /// # Errors
    /// EACCES, EROFS where no folder may be made; all ranges are taken.
    pub fn take() -> Result<HostIds> {
        take_from(Path::new(RUN), &taken_on_host()?)
    }

    /// Keeps the range of another container, which this one is to share, from being given away when that one
    /// ends. `None` when those ids are not Congo's to give, or that container has ended.
    ///
    /// # Errors
    /// The range cannot be locked: a third container could get it.
    pub fn share(maps: &IdMaps) -> Result<Option<HostIds>> {
        share_in(Path::new(RUN), maps)
    }

    /// The maps of all containers that keep files with their ids on the disk. They are the same each time, or
    /// each start would have to give the files to others.
    ///
    /// # Errors
    /// The host has given them to somebody else.
    pub fn shared() -> Result<IdMaps> {
        shared(&taken_on_host()?)
    }

    /// The last one takes the file with it. The folder stays, as the next container needs it again: it costs
    /// more to make than the file.
    fn new(first: u32, claim: Claim) -> HostIds {
        HostIds { first, _claim: claim.going(0) }
    }

    /// The maps of a container that has them.
    pub fn maps(&self) -> IdMaps {
        IdMaps::from_zero(self.first, SIZE)
    }
}

fn take_from(run_dir: &Path, taken: &[(u32, u32)]) -> Result<HostIds> {
    own_folder(run_dir, Access::Owner)?;
    let folder = own_folder(&run_dir.join("ids"), Access::Owner)?;
    // The list of the folder tells which ranges nobody has, so that no file of a living container has to be
    // opened. Only when all ranges are listed, one may be a dead container's.
    let listed = sweep(&folder, |_| true, |path| fs::remove_file(path).at("remove", path))?;
    let listed: HashSet<u32> = listed.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
    let firsts = (0..RANGES).map(|number| FIRST + number * SIZE);
    let ours = firsts.filter(|&first| !taken.iter().any(|&other| overlaps(first, other)));
    let free = ours.clone().filter(|first| !listed.contains(first));
    for first in free.chain(ours.filter(|first| listed.contains(first))) {
        // Another runtime may be faster.
        if let Some(ids) = try_range(&folder, first)? {
            return Ok(ids);
        }
    }
    Err(Error::new(format!("--userns auto: all {RANGES} ranges of host ids are taken"))
        .hint("end a container, or choose ids: --uidmap 0:HOST:SIZE --gidmap 0:HOST:SIZE"))
}

fn share_in(run_dir: &Path, maps: &IdMaps) -> Result<Option<HostIds>> {
    let Some(first) = maps.users.to_host(0) else { return Ok(None) };
    let path = run_dir.join("ids").join(first.to_string());
    let claim = Claim::of(&path, FlockOperation::NonBlockingLockShared)?;
    Ok(claim.map(|claim| HostIds::new(first, claim)))
}

fn shared(taken: &[(u32, u32)]) -> Result<IdMaps> {
    if taken.iter().any(|&other| overlaps(SHARED, other)) {
        return Err(Error::new(format!(
            "--userns auto: the host has given the ids from {SHARED} on to others"
        ))
        .hint("choose ids: --uidmap 0:HOST:SIZE --gidmap 0:HOST:SIZE"));
    }
    Ok(IdMaps::from_zero(SHARED, SIZE))
}

/// `None` when another runtime has it, or has swept its file away while this one shared the lock.
fn try_range(folder: &Path, first: u32) -> Result<Option<HostIds>> {
    let Some(claim) = Claim::take(Make::File, &folder.join(first.to_string()))? else { return Ok(None) };
    let shared = claim.let_share(FlockOperation::NonBlockingLockShared)?;
    Ok(shared.then(|| HostIds::new(first, claim)))
}

/// What the host's own lists give to others: the first id, and how many.
fn taken_on_host() -> Result<Vec<(u32, u32)>> {
    let mut taken = Vec::new();
    for list in [SUBUID, SUBGID] {
        taken.extend(read(Path::new(list))?.iter().map(|line| (line.first, line.count)));
    }
    taken.extend(passwd::ids_on_host()?.into_iter().map(|id| (id, 1)));
    Ok(taken)
}

fn overlaps(first: u32, (other, count): (u32, u32)) -> bool {
    u64::from(first) < u64::from(other) + u64::from(count)
        && u64::from(other) < u64::from(first) + u64::from(SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_containers_never_share_ids() {
        let run = tempfile::tempdir().unwrap();
        let take = || take_from(run.path(), &[]).unwrap();
        let (one, other) = (take(), take());
        assert_eq!((one.first, other.first), (FIRST, FIRST + SIZE));
        assert_eq!(one.maps().users.to_host(65535), Some(0x7000_ffff));
        assert_eq!(one.maps().users.to_host(65536), None);
        drop(one);
        assert!(!run.path().join("ids").join(FIRST.to_string()).exists());
        assert_eq!(take().first, FIRST, "what an ended one had is free again");
    }

    #[test]
    fn what_is_shared_is_taken_until_the_last_one_ends() {
        let run = tempfile::tempdir().unwrap();
        let take = || take_from(run.path(), &[]).unwrap();
        let one = take();
        let other = share_in(run.path(), &one.maps()).unwrap().unwrap();
        drop(one);
        assert_eq!(take().first, FIRST + SIZE);
        drop(other);
        assert_eq!(take().first, FIRST);
        assert!(share_in(run.path(), &IdMaps::from_zero(1000, SIZE)).unwrap().is_none());
        fs::create_dir_all(run.path().join("ids")).unwrap();
        std::os::unix::fs::symlink("elsewhere", run.path().join("ids/7")).unwrap();
        assert!(share_in(run.path(), &IdMaps::from_zero(7, SIZE)).is_err(), "it would not be held");
    }

    #[test]
    fn what_a_killed_runtime_has_left_is_free() {
        let (run, living) = (tempfile::tempdir().unwrap(), FIRST + SIZE);
        let folder = run.path().join("ids");
        fs::create_dir(&folder).unwrap();
        for number in 0..3 {
            fs::write(folder.join((FIRST + number * SIZE).to_string()), "").unwrap();
        }
        let lives = Claim::take(Make::File, &folder.join(living.to_string())).unwrap().unwrap();
        let ids = take_from(run.path(), &[]).unwrap();
        assert_eq!(ids.first, FIRST);
        drop(ids);
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [living.to_string().as_str()], "the living one's");
        drop(lives);
        drop(take_from(run.path(), &[]).unwrap());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "and the folder stays");
    }

    #[test]
    fn the_shared_ids_are_no_single_containers() {
        let first = shared(&[]).unwrap().users.to_host(0).unwrap();
        assert_eq!(first + SIZE, 0x7ffe_0000, "up to systemd's ids for foreign images");
        assert!((0..RANGES).all(|number| !overlaps(FIRST + number * SIZE, (first, SIZE))));
        assert!(shared(&[(first + 9, 1)]).is_err());
    }

    #[test]
    fn ids_of_others_are_left_to_them() {
        let run = tempfile::tempdir().unwrap();
        let take = |taken: &[(u32, u32)]| take_from(run.path(), taken).map(|ids| ids.first);
        assert_eq!(take(&[(FIRST + 65535, 1)]), Ok(FIRST + SIZE));
        assert_eq!(take(&[(FIRST - 10, 11), (FIRST + SIZE, 1)]), Ok(FIRST + 2 * SIZE));
        assert_eq!(take(&[(FIRST - 10, 10)]), Ok(FIRST));
        let all = take(&[(0, u32::MAX)]).unwrap_err();
        assert!(all.to_string().contains("4093 ranges"), "{all}");
        let (last, foreign) = (FIRST + (RANGES - 1) * SIZE + (SIZE - 1), SHARED);
        assert_eq!(last + 1, foreign, "up to those that are shared");
    }

    /// The lock is that of an open file, so threads are as good as processes here.
    #[test]
    fn many_take_ranges_at_once() {
        let run = tempfile::tempdir().unwrap();
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let path = run.path().to_owned();
                std::thread::spawn(move || take_from(&path, &[]).unwrap())
            })
            .collect();
        let ids: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let firsts: std::collections::BTreeSet<_> = ids.iter().map(|ids| ids.first).collect();
        assert_eq!(firsts.len(), 16);
    }
}
