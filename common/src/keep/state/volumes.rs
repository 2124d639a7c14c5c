//! Volumes of Congo's own: those with a name, which containers share, and those without, which go with their
//! container.
//!
//! Kernel object: for each container that uses a named volume, a lock on the volume's folder, flock(2), as
//! long as it runs. A shared lock is enough to use the volume. A runtime must have the lock alone to fill the
//! volume, or to remove a half-filled one that a killed runtime has left. So no runtime ever removes a file
//! that a container has written. A runtime that comes meanwhile waits.
//!
//! In `volumes/NAME/` are `_data` and, if a runtime last found the volume empty, `filling`. That file is
//! empty until it is certain what is in `_data`, and then one byte long. The parent makes and opens it. The
//! child fills the volume, and then writes the byte by that descriptor. So the child needs no right to write
//! beside `_data`. Nor does it have to tell the parent, which may be dead by then.
//!
//! Order: all locks, in the order of the names, so that no two containers wait for each other. The locks come
//! before signals are blocked, so that a waiting runtime can be ended. Man pages: flock(2), mkdir(2).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use rustix::fs::FlockOperation;

use super::make_folder;
use crate::fs::claim::{Claim, Make};
use crate::fs::tree::{copy_contents, is_empty, remove_contents, remove_tree};
use crate::sys::error::{Context, Error, Result, tell};

/// In a volume's folder: whether the volume is being filled.
const FILLING: &str = "filling";

/// Between two looks at a volume that is being given back.
const PAUSE: Duration = Duration::from_millis(1);

/// The named volumes of one container, locked as long as the value lives.
#[derive(Debug, Default)]
pub struct Volumes(BTreeMap<String, Locked>);

#[derive(Debug)]
struct Locked {
    data: PathBuf,
    claim: Arc<Claim>,
    /// The open [`FILLING`] of a volume that is empty and nobody else's, until somebody takes it to fill the
    /// volume.
    mark: RefCell<Option<File>>,
    /// Whether another container used it, too, when it was locked.
    shared: bool,
}

/// A volume of Congo's own.
#[derive(Debug)]
pub struct OwnVolume {
    /// Where its data is: what is mounted.
    pub path: PathBuf,
    /// The same, open: what is filled.
    pub data: OwnedFd,
    /// Whether it may be filled: it is empty, and nobody else uses it.
    may_be_filled: bool,
    /// What ends the filling of a named one.
    filling: Option<(Arc<Claim>, File)>,
    /// Its name, when it is empty but may not be filled, as another container uses it.
    in_use: Option<String>,
}

impl Volumes {
    /// Locks the volumes of these names, and makes those that are missing. Waits while another runtime fills
    /// one of them; a signal then ends this process as usual.
    ///
    /// # Errors
    /// EACCES, EROFS, ENOSPC.
    pub fn lock<'n>(state: &Path, names: impl IntoIterator<Item = &'n str>) -> Result<Volumes> {
        let names: BTreeSet<_> = names.into_iter().collect();
        let locked = names.into_iter().map(|name| Ok((name.to_owned(), Locked::new(state, name)?)));
        locked.collect::<Result<_>>().map(Volumes)
    }

    /// Opens one of them. The second time it is left to the first one to fill it.
    ///
    /// # Errors
    /// ENOENT when it is none of them, or somebody has removed it.
    pub fn open(&self, name: &str) -> Result<OwnVolume> {
        let none = || Error::from_errno(format!("open the volume {name}"), Errno::ENOENT);
        let (name, locked) = self.0.get_key_value(name).ok_or_else(none)?;
        let data = open(&locked.data)?;
        let filling = locked.mark.take().map(|mark| (Arc::clone(&locked.claim), mark));
        let in_use = (locked.shared && is_empty(&data)?).then(|| name.clone());
        let may_be_filled = filling.is_some();
        Ok(OwnVolume { path: locked.data.clone(), data, may_be_filled, filling, in_use })
    }
}

impl Locked {
    fn new(state: &Path, name: &str) -> Result<Locked> {
        let volumes = make_folder(state, "volumes")?;
        let folder = volumes.join(name);
        let (claim, shared) = alone_or_shared(&folder)?;
        let (data, filling) = (folder.join("_data"), folder.join(FILLING));
        if !shared && is_half_filled(&folder) {
            // The user may have mounted a disk there since. Its files are not the half of a copy.
            remove_tree(&data)?;
        }
        make_data(&data)?;
        let mut mark = None;
        if !shared {
            remove_tree(&filling)?;
            if is_empty(&open(&data)?)? {
                mark = Some(File::create_new(&filling).at("make", &filling)?);
            } else if !claim.let_share(FlockOperation::LockShared)? {
                return Err(Errno::ENOENT).at("share the volume", &folder);
            }
        }
        Ok(Locked { data, claim: Arc::new(claim), mark: RefCell::new(mark), shared })
    }
}

/// Claims a volume's folder: alone, or, when others use it, as one of them. Returns the claim and whether
/// there are others.
fn alone_or_shared(folder: &Path) -> Result<(Claim, bool)> {
    loop {
        if let Some(claim) = Claim::take(Make::Folder, folder)? {
            return Ok((claim, false));
        }
        // Waits for the one that has it alone.
        let claim = Claim::share(Make::Folder, folder)?;
        if !is_half_filled(folder) {
            return Ok((claim, true));
        }
        drop(claim);
        // That one has ended before the volume was filled. All who see that give it back, and one of them
        // gets it alone. To wait for the lock instead would be to wait for the end of that one's container,
        // if another one is faster.
        thread::sleep(PAUSE);
    }
}

fn is_half_filled(folder: &Path) -> bool {
    fs::symlink_metadata(folder.join(FILLING)).is_ok_and(|mark| mark.len() == 0)
}

/// Makes the folder of the data, with the mode of any directory in a root, whatever the umask, until it is
/// filled from there.
fn make_data(path: &Path) -> Result<()> {
    match fs::create_dir(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755))) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.at("make", path),
    }
}

fn open(data: &Path) -> Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
    options.open(data).map(OwnedFd::from).at("open", data)
}

/// Makes a missing source folder of a volume, and those above it, and says so. It is for all users of the
/// container, whatever the caller's umask.
///
/// # Errors
/// EACCES, EROFS, ENOSPC; ENOTDIR where a file is in the way.
pub fn make_source(path: &Path) -> Result<()> {
    make_for_all(path).context(format_args!("--volume: make {}", path.display()))?;
    tell(format_args!("congo: made the folder {}, which was missing", path.display()));
    Ok(())
}

fn make_for_all(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent().filter(|above| !above.exists()) {
        make_for_all(above)?;
    }
    match fs::create_dir(path) {
        // Another runtime was faster.
        Err(_) if path.is_dir() => Ok(()),
        made => made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755))),
    }
}

impl OwnVolume {
    /// Makes one without a name in a container's folder: the `number` tells it from others of the container.
    ///
    /// # Errors
    /// EACCES, EROFS, ENOSPC.
    pub fn anonymous(container: &Path, number: usize) -> Result<Self> {
        let path = make_folder(container, "volumes")?.join(number.to_string());
        make_data(&path)?;
        Ok(OwnVolume { data: open(&path)?, path, may_be_filled: true, filling: None, in_use: None })
    }
}

impl OwnVolume {
    /// Fills it with what the directory `from` has, if it is empty and only this container's, and lets other
    /// containers use it. When that fails it is empty again. Works by descriptors, so the state folder may be
    /// out of sight; /proc may not.
    ///
    /// # Errors
    /// Those of [`copy_contents`](crate::fs::tree::copy_contents).
    pub fn fill(self, from: &OwnedFd) -> Result<()> {
        if let Some(name) = self.in_use.as_ref().filter(|_| is_empty(from).is_ok_and(|empty| !empty)) {
            tell(format_args!("congo: the volume {name} is empty, but in use, so it is not filled"));
        }
        if self.may_be_filled
            && let Err(error) = copy_contents(from, &self.data)
        {
            // A half would pass for the whole. Where even that fails, the next one does it, as nobody has
            // written "done".
            remove_contents(&self.data).context(format_args!("{error}; and then empty the volume"))?;
            self.release()?;
            return Err(error);
        }
        self.release()
    }

    /// Lets other containers use it, filled or not.
    ///
    /// # Errors
    /// EIO, ENOSPC.
    pub fn release(self) -> Result<()> {
        let Some((claim, mut mark)) = self.filling else { return Ok(()) };
        mark.write_all(b"1").context("write that a volume is filled")?;
        claim.let_share_unseen()
    }
}

#[cfg(test)]
mod tests {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;
    use crate::testing::in_mount_namespace;

    #[test]
    fn a_disk_that_the_user_has_mounted_is_not_emptied() {
        in_mount_namespace(|home| {
            let folder = home.join("volumes/v");
            let data = folder.join("_data");
            fs::create_dir_all(&data).unwrap();
            // As a runtime leaves it that was killed while it filled the volume.
            File::create(folder.join(FILLING)).unwrap();
            mount(None::<&str>, &data, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            fs::write(data.join("file"), "of the user").unwrap();
            let error = Locked::new(home, "v").map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("something is mounted on"), "{error}");
            assert!(data.join("file").exists());
            umount2(&data, MntFlags::MNT_DETACH).unwrap();
            assert!(Locked::new(home, "v").is_ok());
        });
    }
}
