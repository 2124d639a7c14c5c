//! 65,536 ids of the host for one container, which no other container and no user of the host has.
//!
//! They lie between 0x7000_0000 and 0x7FFD_FFFF. Below, up to 0x6FFF_FFFF, systemd gives ids to its own containers, and
//! distributions to users in `/etc/subuid`, from 100,000 on; above, systemd has ids for foreign images, and from 2^31 on
//! programs count with a sign, and Podman has its own. So this is what systemd's list of ids calls unused.
//!
//! Kernel objects: a folder with a file for each range that is taken, and locks on them (flock(2)), which the kernel
//! releases when their holder ends, however it ends: a file whose lock is free is free. What Congo keeps on a disk does not
//! have these ids (see mount_setattr(2), idmapped mounts), so a range can be given away again at once. What a container
//! has left in a folder of the host's, the next one with its range finds as its own.
//! Source: systemd, "Users, Groups, UIDs and GIDs on systemd Systems". Man pages: flock(2), subuid(5).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::IdMaps;
use super::subordinate::{SUBGID, SUBUID, read};
use crate::ids::passwd;
use crate::keep::lock::{is_at, make_folder};
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

/// A range that no other container gets for as long as the value lives. When the last one of its containers ends, its file
/// goes.
#[derive(Debug)]
pub struct HostIds {
    first: u32,
    path: PathBuf,
    /// Who gives it back: not a child that has a copy of this value.
    owner: u32,
    /// Shared: with those who have called [`share`](HostIds::share).
    lock: Flock<File>,
}

impl HostIds {
    /// Takes the lowest range that is free.
    ///
    /// # Errors
    /// EACCES, EROFS where no folder may be made; all ranges are taken.
    pub fn take() -> Result<HostIds> {
        take_from(Path::new(RUN), &taken_on_host()?)
    }

    /// Keeps the range of another container, which this one is to share, from being given away when that one ends. `None` when
    /// those ids are not Congo's to give, or that container has ended.
    pub fn share(maps: &IdMaps) -> Option<HostIds> {
        share_in(Path::new(RUN), maps)
    }

    /// The maps of all containers whose files have their ids on the disk: the same each time, or the files would have to
    /// be given to others at each start.
    ///
    /// # Errors
    /// The host has given them to somebody else.
    pub fn shared() -> Result<IdMaps> {
        shared(&taken_on_host()?)
    }

    /// The maps of a container that has them.
    pub fn maps(&self) -> IdMaps {
        IdMaps::from_zero(self.first, SIZE)
    }
}

impl Drop for HostIds {
    fn drop(&mut self) {
        // Who has it alone is the last one. Still locked, so nobody has taken it since.
        if self.owner == std::process::id()
            && self.lock.relock(FlockArg::LockExclusiveNonblock).is_ok()
            && is_at(&self.lock, &self.path)
        {
            let _ = fs::remove_file(&self.path);
            // The folders too, if nobody else has anything there.
            for folder in self.path.ancestors().skip(1).take(2) {
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

fn take_from(run_dir: &Path, taken: &[(u32, u32)]) -> Result<HostIds> {
    let folder = run_dir.join("ids");
    sweep(&folder);
    let mut firsts = (0..RANGES).map(|number| FIRST + number * SIZE);
    while let Some(first) = firsts.find(|&first| !taken.iter().any(|&other| overlaps(first, other))) {
        if let Some(ids) = try_range(&folder, first)? {
            return Ok(ids);
        }
    }
    Err(Error::new(format!("--userns auto: all {RANGES} ranges of host ids are taken"))
        .hint("end a container, or choose ids: --uidmap 0:HOST:SIZE --gidmap 0:HOST:SIZE"))
}

fn share_in(run_dir: &Path, maps: &IdMaps) -> Option<HostIds> {
    let first = maps.users.to_host(0)?;
    let path = run_dir.join("ids").join(first.to_string());
    let lock = Flock::lock(File::open(&path).ok()?, FlockArg::LockSharedNonblock).ok()?;
    is_at(&lock, &path).then(|| HostIds { first, path, owner: std::process::id(), lock })
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

/// Removes what killed runtimes have left.
fn sweep(folder: &Path) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(file) = File::open(&path) else { continue };
        if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            && is_at(&lock, &path)
        {
            let _ = fs::remove_file(&path);
        }
    }
}

/// `None` when another runtime has it.
fn try_range(folder: &Path, first: u32) -> Result<Option<HostIds>> {
    let path = folder.join(first.to_string());
    loop {
        make_folder(folder).at("make", folder)?;
        let file = match OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path) {
            // The last one that had ids has removed the folder between the two calls.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.at("write", &path)?,
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // The kernel gives up the one kind of lock before it takes the other, so somebody may have come in between.
            Ok(lock) if lock.relock(FlockArg::LockSharedNonblock).is_err() => return Ok(None),
            // Its last owner may have removed the file between the two calls.
            Ok(lock) if !is_at(&lock, &path) => {}
            Ok(lock) => {
                return Ok(Some(HostIds { first, path, owner: std::process::id(), lock }));
            }
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(Error::from_errno(format!("flock({path:?}, LOCK_EX)"), errno)),
        }
    }
}

/// What the host's own lists give to others: the first id, and how many.
fn taken_on_host() -> Result<Vec<(u32, u32)>> {
    let mut taken = Vec::new();
    for list in [SUBUID, SUBGID] {
        taken.extend(read(Path::new(list))?.iter().map(|line| (line.first, line.count)));
    }
    taken.extend(passwd::ids_on_host().into_iter().map(|id| (id, 1)));
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
        let other = share_in(run.path(), &one.maps()).unwrap();
        drop(one);
        assert_eq!(take().first, FIRST + SIZE);
        drop(other);
        assert_eq!(take().first, FIRST);
        assert!(share_in(run.path(), &IdMaps::from_zero(1000, SIZE)).is_none());
    }

    #[test]
    fn what_a_killed_runtime_has_left_is_free() {
        let (run, living) = (tempfile::tempdir().unwrap(), FIRST + SIZE);
        let folder = run.path().join("ids");
        fs::create_dir(&folder).unwrap();
        for number in 0..3 {
            fs::write(folder.join((FIRST + number * SIZE).to_string()), "").unwrap();
        }
        let lives = File::open(folder.join(living.to_string())).unwrap();
        let lock = Flock::lock(lives, FlockArg::LockExclusiveNonblock).unwrap();
        let ids = take_from(run.path(), &[]).unwrap();
        assert_eq!(ids.first, FIRST);
        drop(ids);
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [living.to_string().as_str()], "the living one's");
        drop(lock);
        drop(take_from(run.path(), &[]).unwrap());
        assert!(!folder.exists());
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
