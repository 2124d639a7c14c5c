//! Claims: a locked file or folder is the proof that the process that made it lives. Its name says what it
//! claims.
//!
//! Kernel object: a lock on an open file, flock(2). The kernel releases it when its last holder ends, however
//! that ends. So an entry whose lock is free was left by a process that was killed, and the next run may
//! [`sweep`] it away.
//!
//! Between open(2) and flock(2) another process may remove the entry, and a third one may make a new one of
//! that name. The lock then belongs to a file without a name. So each function here looks, once it has the
//! lock, whether the locked file still has its name, and begins anew where it has not. Man pages: flock(2),
//! open(2).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
#[cfg(feature = "network")]
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use rustix::fs::FlockOperation;

use crate::fs::own::{self, Access, TRIES};
use crate::sys::clone::generation;
use crate::sys::error::{Context, Error, Hint, Result, tell};
use crate::sys::explain;
use crate::sys::folder::names_in;
use crate::sys::signal::{blocked_endings, pending_of};

/// How many entries of living processes one run looks at, and how many entries of dead ones it removes at
/// most. However many containers live, the start of another one should not take longer than that.
pub(crate) const LIVING: usize = 8;
pub(crate) const DEAD: usize = 64;

/// Between two looks at a lock that another process has: at first, and in the end.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// How long a wait goes on in spite of a signal. Other runtimes have a lock for milliseconds. One that ends
/// needs it to clean up, also when the user has pressed Ctrl-C once more.
const GRACE: Duration = Duration::from_secs(2);

/// What a claim is made of, where nothing has its name yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    File,
    Folder,
}

/// A file or a folder that this process has locked, alone or with others. Dropped, it is unlocked.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    file: File,
    /// What tells the file from any other.
    identity: Identity,
    is_folder: bool,
    /// Which process has locked it. A child has a copy of the value, and the same lock: it must leave lock
    /// and entry to its parent. Pids cannot tell the two: in a container around us, both may be 1.
    taker: u32,
    /// Whether the entry goes with the value, and then how many folders above it, where they are empty.
    goes: Option<usize>,
}

impl Claim {
    /// Waits until no other process has a claim to `path`, and makes it where it is missing. The entry stays
    /// when the value is dropped, unless [`going`](Claim::going) says otherwise.
    ///
    /// # Errors
    /// EACCES, EROFS, ENOSPC. ELOOP for a symbolic link. ENOLCK where the file system has no locks. The entry
    /// belongs to another user, or others may write to it. A blocked signal that was to end this process ends
    /// the wait.
    pub(crate) fn wait(make: Make, path: &Path) -> Result<Claim> {
        Claim::made(Some(make), path, FlockOperation::LockExclusive).and_then(present(path))
    }

    /// The same, without waiting: `None` when another process has a claim to `path`.
    pub(crate) fn take(make: Make, path: &Path) -> Result<Option<Claim>> {
        Claim::made(Some(make), path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Waits until no other process has `path` for itself, and has it together with all who share it.
    pub(crate) fn share(make: Make, path: &Path) -> Result<Claim> {
        Claim::made(Some(make), path, FlockOperation::LockShared).and_then(present(path))
    }

    /// Claims what is there: `None` when nothing is, or, where `how` does not wait, when another process has
    /// a claim to it.
    pub(crate) fn of(path: &Path, how: FlockOperation) -> Result<Option<Claim>> {
        Claim::made(None, path, how)
    }

    /// Claims a folder under a new name: `make` makes one and returns where it is. Until the folder is
    /// locked, another process may take it for a dead one's and sweep it away; then `make` is called again.
    pub(crate) fn new(mut make: impl FnMut() -> Result<PathBuf>) -> Result<Claim> {
        let mut path = PathBuf::new();
        for _ in 0..TRIES {
            path = make()?;
            match Claim::of(&path, FlockOperation::LockExclusive) {
                Ok(Some(claim)) => return Ok(claim),
                Ok(None) => {}
                Err(error) => {
                    let _ = fs::remove_dir(&path);
                    return Err(error);
                }
            }
        }
        Err(removed_each_time(&path))
    }

    fn made(make: Option<Make>, path: &Path, how: FlockOperation) -> Result<Option<Claim>> {
        for _ in 0..TRIES {
            let file = match open(path, make == Some(Make::File)) {
                // Nothing was ever there. Or somebody removed it, or the folder in which it was, just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let Some(make) = make else { return Ok(None) };
                    let folder = if make == Make::File { path.parent() } else { Some(path) };
                    if let Some(folder) = folder {
                        own::make(folder, Access::Owner.mode()).at("make", folder)?;
                    }
                    continue;
                }
                result => result.at("open", path).hint_if(Errno::ELOOP, LINK)?,
            };
            // Whichever process can open the entry can lock it, and so keep us waiting.
            if make == Some(Make::Folder) && !file.metadata().at("read", path)?.is_dir() {
                return Err(Errno::EEXIST).at("make", path);
            }
            let there = match make {
                Some(Make::File) => own::take(&file, path, 0o600)?,
                Some(Make::Folder) => own::take(&file, path, Access::Owner.mode())?,
                None => file.metadata().at("read", path)?,
            };
            if !flock(&file, path, how)? {
                return Ok(None);
            }
            let identity = identity(&there);
            if is_at(identity, path)? {
                let (path, is_folder, taker) = (path.to_owned(), there.is_dir(), generation());
                return Ok(Some(Claim { path, file, identity, is_folder, taker, goes: None }));
            }
            if make.is_none() {
                return Ok(None);
            }
        }
        Err(removed_each_time(path))
    }

    /// The same, where the entry goes when this process drops the last claim to it: a file, or a folder in
    /// which nothing is. As many folders `above` go with it, where nothing else is in them.
    pub(crate) fn going(mut self, above: usize) -> Claim {
        self.goes = Some(above);
        self
    }

    /// Leaves the entry where it is when the value is dropped.
    pub(crate) fn leave(&mut self) {
        self.goes = None;
    }

    /// Whether the entry goes when this value is dropped.
    pub(crate) fn goes(&self) -> bool {
        self.goes.is_some() && self.is_taker()
    }

    /// Whether this process has taken the lock, and not one of which it is a copy.
    fn is_taker(&self) -> bool {
        self.taker == generation()
    }

    /// Lets others share the claim. The kernel gives up the one kind of lock before it takes the other. In
    /// between, another process may come and have the entry alone. Then this function waits for that process,
    /// or the claim is lost if `how` does not wait. The claim is also lost when the other process has removed
    /// the entry. Returns whether this process still has the claim.
    ///
    /// # Errors
    /// ENOLCK; and EACCES, where the entry is out of sight.
    pub(crate) fn let_share(&self, how: FlockOperation) -> Result<bool> {
        Ok(flock(&self.file, &self.path, how)? && is_at(self.identity, &self.path)?)
    }

    /// The same for a process that has the entry out of sight, as after pivot_root(2): at its path there is
    /// another file now, or none. So this does not ask whether the entry still has its name.
    ///
    /// # Errors
    /// ENOLCK.
    pub(crate) fn let_share_unseen(&self) -> Result<()> {
        flock(&self.file, &self.path, FlockOperation::LockShared).map(drop)
    }

    /// Removes the entry, if no other process has a claim to it, and `above` folders, where they are empty.
    fn remove(&self, above: usize) -> Result<()> {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            // The last one removes it.
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            locked => locked.at("lock", &self.path)?,
        }
        // The lock is still held, so nobody has taken the entry since.
        if !is_at(self.identity, &self.path)? {
            return Ok(());
        }
        for path in self.path.ancestors().take(above + 1) {
            let is_folder = path != self.path || self.is_folder;
            match if is_folder { fs::remove_dir(path) } else { fs::remove_file(path) } {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                // Somebody has mounted a file system there.
                Err(_) if path != self.path && is_mount_point(path) => break,
                result => result.at("remove", path)?,
            }
        }
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    #[cfg(any(test, feature = "network"))]
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }
}

/// The open file that is locked.
#[cfg(feature = "network")]
impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock belongs to the open file, which a copy of this process shares: to unlock it there would
        // unlock it here.
        if !self.is_taker() {
            return;
        }
        if let Some(above) = self.goes
            && let Err(error) = self.remove(above)
        {
            tell(format_args!("congo: an entry stays until the next run: {}", error.in_one_line()));
        }
        // To close the file would not do: a copy of this process that still runs has it open, too.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Why a claim can be no symbolic link, and what to do.
const LINK: &str =
    "Congo makes no symbolic link there, and follows none: find out who made it, and remove it";

fn removed_each_time(path: &Path) -> Error {
    let what = format!("lock {}: {TRIES} times it was gone or replaced before it was locked", path.display());
    Error::new(what).hint("another program removes what is made there: end that program")
}

fn present(path: &Path) -> impl Fn(Option<Claim>) -> Result<Claim> + '_ {
    move |claim| claim.ok_or(Errno::ENOENT).at("lock", path)
}

/// Whether the process that made an entry lives.
#[cfg(any(test, feature = "network"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    Lives,
    Died,
    /// It has just removed the entry.
    Ended,
}

/// Whether the process that made the entry lives.
///
/// # Errors
/// ENOLCK, EACCES, EMFILE: whether it lives is then unknown.
#[cfg(any(test, feature = "network"))]
pub(crate) fn maker_of(path: &Path) -> Result<Maker> {
    let file = match open(path, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Maker::Ended),
        result => result.at("open", path).hint_if(Errno::ELOOP, LINK)?,
    };
    // Shared, as two processes may ask at once.
    Ok(match flock(&file, path, FlockOperation::NonBlockingLockShared)? {
        false => Maker::Lives,
        // The lock is free, and the entry is still there. A process that ends properly removes the entry
        // before it unlocks it.
        true if is_at(identity(&file.metadata().at("stat", path)?), path)? => Maker::Died,
        true => Maker::Ended,
    })
}

/// A name that nobody can guess: twelve digits, each time others. The keys of a `RandomState` are random
/// numbers of the kernel.
pub(crate) fn random_digits() -> String {
    let bits = RandomState::new().hash_one(std::process::id());
    format!("{:012x}", bits >> 16)
}

/// Whether [`random_digits`] can have made this.
pub(crate) fn are_random(name: &[u8]) -> bool {
    name.len() == 12 && name.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes the entries that killed processes have left in `folder`: `is_claim` knows their names, and their
/// locks are free. `remove` gets each one's path, locked until it returns. An entry that it cannot remove
/// stays, and so does one that cannot be opened or locked. The failure is told and not returned, because it
/// must not keep containers from running.
///
/// Of many entries it looks at a few, and begins at a random one. So a start takes no longer when a thousand
/// containers live, and every dead one's entry is found by one of the next runs. Returns the names of the
/// entries that remain.
///
/// # Errors
/// EACCES, EIO when the folder cannot be read. That it is not there is fine.
pub(crate) fn sweep(
    folder: &Path,
    is_claim: impl Fn(&OsStr) -> bool,
    remove: impl FnMut(&Path) -> Result<()>,
) -> Result<Vec<OsString>> {
    sweep_and_tell(folder, is_claim, remove, |error| {
        tell(format_args!("congo: what a killed runtime may have left stays there: {}", error.in_one_line()));
    })
}

/// Lets a list of more than [`LIVING`] begin at a random one of its entries.
pub(crate) fn begin_anywhere<T>(entries: &mut [T]) {
    if entries.len() > LIVING {
        let random = RandomState::new().hash_one(std::process::id()) as usize;
        entries.rotate_left(random % entries.len());
    }
}

fn sweep_and_tell(
    folder: &Path,
    is_claim: impl Fn(&OsStr) -> bool,
    mut remove: impl FnMut(&Path) -> Result<()>,
    mut tell: impl FnMut(&Error),
) -> Result<Vec<OsString>> {
    let mut names = match names_in(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.at("read", folder)?,
    };
    names.retain(|name| is_claim(name));
    begin_anywhere(&mut names);
    let (mut living, mut dead) = (0, 0);
    names.retain(|name| {
        if living == LIVING || dead == DEAD {
            return true;
        }
        let swept = match Claim::of(&folder.join(name), FlockOperation::NonBlockingLockExclusive) {
            // A living one's lock is taken. Or it has just removed the entry.
            Ok(None) => {
                living += 1;
                return true;
            }
            Ok(Some(claim)) => remove(claim.path()),
            Err(error) => Err(error),
        };
        dead += 1;
        let remains = swept.is_err();
        swept.unwrap_or_else(|error| tell(&error));
        remains
    });
    Ok(names)
}

/// Opens the entry at `path`, or makes a file there. Others may be able to write to its folder, so this
/// follows no link and does not wait for the writer of a FIFO.
fn open(path: &Path, make: bool) -> io::Result<File> {
    // A file of our own for writing, too, because NFS grants no exclusive lock otherwise.
    let mut options = OpenOptions::new();
    options.read(true).write(make).create(make).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path)
}

/// Locks an open file; `false` when another process has it, and `how` does not wait. Waits until it is free,
/// or a signal ends this process. Where such a signal is blocked, the wait ends with an error.
fn flock(file: &File, path: &Path, how: FlockOperation) -> Result<bool> {
    // Mostly nobody has it, and then there is nothing to ask about signals.
    let mut locked = rustix::fs::flock(file, without_waiting(how).unwrap_or(how));
    if let (Err(rustix::io::Errno::WOULDBLOCK), Some(at_once)) = (locked, without_waiting(how)) {
        // A panic drops values one after the other. One that waits here would wait for ever if a value that
        // is dropped later has the lock.
        if std::thread::panicking() {
            return Err(Error::new(format!("lock {}: it is taken, and this is a panic", path.display())));
        }
        let endings = blocked_endings();
        locked = match endings.is_empty() {
            true => rustix::fs::flock(file, how),
            false => look_until_free(file, path, at_once, &endings)?,
        };
    }
    match locked {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        result => {
            result.at("lock", path)?;
            explain::line(format_args!("flock({path:?}, {})", name(how)), 0, "flock(2)");
            Ok(true)
        }
    }
}

/// The same operation without waiting; `None` for one that never waits.
fn without_waiting(how: FlockOperation) -> Option<FlockOperation> {
    match how {
        FlockOperation::LockExclusive => Some(FlockOperation::NonBlockingLockExclusive),
        FlockOperation::LockShared => Some(FlockOperation::NonBlockingLockShared),
        _ => None,
    }
}

/// Tries to lock a file again and again. In flock(2) itself the kernel would wait for ever, because no
/// blocked signal ends that call. Then a process that holds the lock could make this runtime one that only
/// SIGKILL ends.
fn look_until_free(
    file: &File,
    path: &Path,
    how: FlockOperation,
    endings: &[Signal],
) -> Result<rustix::io::Result<()>> {
    let (begun, [mut pause, longest]) = (Instant::now(), PAUSES);
    loop {
        let locked = rustix::fs::flock(file, how);
        if locked != Err(rustix::io::Errno::WOULDBLOCK) {
            return Ok(locked);
        }
        if let Some(signal) = pending_of(endings).filter(|_| begun.elapsed() > GRACE) {
            let what = format!("interrupted by {signal} while waiting for the lock of {}", path.display());
            let error = Error::new(what).hint("another process holds it: lslocks tells which one");
            return Err(error.with_status(128 + signal as u8));
        }
        sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

fn name(how: FlockOperation) -> &'static str {
    match how {
        FlockOperation::LockExclusive => "LOCK_EX",
        FlockOperation::NonBlockingLockExclusive => "LOCK_EX|LOCK_NB",
        FlockOperation::LockShared => "LOCK_SH",
        FlockOperation::NonBlockingLockShared => "LOCK_SH|LOCK_NB",
        FlockOperation::Unlock | FlockOperation::NonBlockingUnlock => "LOCK_UN",
    }
}

/// Device and number of a file.
type Identity = (u64, u64);

fn identity(there: &fs::Metadata) -> Identity {
    (there.dev(), there.ino())
}

/// Whether another file system begins at this folder.
fn is_mount_point(folder: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|there| there.dev()).ok();
    folder.parent().is_some_and(|above| device(above) != device(folder))
}

/// Whether this is the file that is at this path now. What cannot be seen is not taken for gone.
fn is_at(file: Identity, path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        there => Ok(identity(&there.at("stat", path)?) == file),
    }
}

#[cfg(test)]
mod tests;
