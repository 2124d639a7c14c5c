//! The folders in which a container's own data lies: its writable layer, what it keeps, and named volumes.
//!
//! Kernel objects: folders, each claimed by the runtime that uses it: see [`crate::fs`], `claim`. A
//! container's folder whose runtime was killed is removed by the next one. In the state folder:
//! `containers/ID/`, `kept/NAME/`, `volumes/NAME/_data`, and `told/NAME` for what need not be said again. All
//! are for their owner only: programs in them may be set-user-ID, and other users of the host must not reach
//! those. Man pages: flock(2), mkdir(2).

#[cfg(test)]
mod tests;
mod volumes;

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::fs::claim::{Claim, Make, random_digits, sweep};
use crate::fs::own::{Access, own_folder};
use crate::fs::tree::remove_tree;
use crate::sys::error::{Context, Error, Result, tell};
pub use volumes::{OwnVolume, Volumes, make_source};

/// A container's own folder, `containers/ID/`, claimed as long as the value lives. Dropped, it goes.
#[derive(Debug)]
pub struct ContainerFolder {
    /// Where it is.
    pub path: PathBuf,
    claim: Claim,
}

impl ContainerFolder {
    /// Makes one under a new name, and removes those that killed runtimes have left.
    ///
    /// # Errors
    /// EACCES, EROFS, ENOSPC where no folder can be made.
    pub fn create(state: &Path) -> Result<Self> {
        let folder = make_folder(state, "containers")?;
        sweep(&folder, |_| true, remove_tree)?;
        let claim = Claim::new(|| {
            loop {
                let path = folder.join(random_digits());
                match DirBuilder::new().mode(0o700).create(&path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    made => return made.at("make", &path).map(|()| path),
                }
            }
        })?;
        Ok(ContainerFolder { path: claim.path().to_owned(), claim: claim.going(0) })
    }

    /// Makes a kept one of it, `kept/ID/`, and returns the name to find it by.
    ///
    /// # Errors
    /// EACCES, EROFS, ENOSPC.
    pub fn keep(mut self, state: &Path) -> Result<String> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kept = make_folder(state, "kept")?.join(&name);
        fs::rename(&self.path, &kept).at("make", &kept)?;
        self.claim.leave();
        Ok(name)
    }

    /// Removes it, when nothing uses it any more.
    ///
    /// # Errors
    /// When something is mounted in it.
    pub fn remove(mut self) -> Result<()> {
        // Once is enough.
        self.claim.leave();
        remove_tree(&self.path)
    }
}

impl Drop for ContainerFolder {
    fn drop(&mut self) {
        if self.claim.goes()
            && let Err(error) = remove_tree(&self.path)
        {
            error.report("congo");
        }
    }
}

/// What a container keeps, `kept/NAME/`: claimed as long as the value lives, and never removed by Congo.
#[derive(Debug)]
pub struct KeptFolder {
    /// Where it is.
    pub path: PathBuf,
    _claim: Claim,
}

/// Opens the kept folder of that name, and makes it if it is missing.
///
/// # Errors
/// When another container uses it; EACCES, EROFS, ENOSPC.
pub fn kept(state: &Path, name: &str) -> Result<KeptFolder> {
    let path = make_folder(state, "kept")?.join(name);
    match Claim::take(Make::Folder, &path)? {
        Some(claim) => Ok(KeptFolder { path, _claim: claim }),
        None => Err(Error::new(format!("--keep {name}: another container uses it"))
            .hint("end that container, or keep this one's layer under another name")),
    }
}

/// Tells a line on stderr, if it was never told from this state folder. It serves facts about this host that
/// need not stand on the stderr of each container. `name` says which line it is; the file `told/NAME`
/// remembers it.
pub fn tell_once(state: &Path, name: &str, line: fmt::Arguments<'_>) {
    let told = make_folder(state, "told").and_then(|folder| {
        let path = folder.join(name);
        File::create_new(&path).at("make", &path)
    });
    match told {
        Err(error) if error.errno() == Some(Errno::EEXIST) => {}
        // Rather twice than not at all.
        _ => tell(line),
    }
}

/// Makes `state/name`, for its owner only, and the folders above it. Those that are there must be Congo's
/// own.
fn make_folder(state: &Path, name: &str) -> Result<PathBuf> {
    own_folder(state, Access::All)?;
    own_folder(&state.join(name), Access::Owner)
}
