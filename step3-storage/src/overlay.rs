//! A root of layers: many folders that nobody changes, and on top one that the container may soil.
//!
//! Kernel object: an overlay filesystem. What is read comes from the topmost layer that has it; what is written goes to the
//! writable layer, where the first change to a file copies it up, and a removal leaves a whiteout: a character device
//! 0/0. Order: in the child, when its mounts are private, so that the host never sees it; then it becomes the root.
//! Man pages: mount(8), "overlay"; the kernel's filesystems/overlayfs.

use std::fs::{self, DirBuilder};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use common::state::{ContainerFolder, KeptFolder, kept};
use common::syscall::{mount, open};
use common::tree::{copy_attributes, is_opaque};
use common::{Error, Hint, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;

/// The layers of one container.
pub struct Layers {
    /// Lowest first; the container changes none of them.
    pub lower: Vec<PathBuf>,
    /// The container's own folder, which goes with it.
    pub folder: ContainerFolder,
    /// Where the writable layer is instead, when it is to stay.
    kept: Option<KeptFolder>,
}

impl Layers {
    /// In the parent: makes the folders that the overlay needs.
    pub fn make(state: &Path, lower: Vec<PathBuf>, keep: Option<&str>) -> Result<Layers> {
        let folder = ContainerFolder::create(state)?;
        let kept = keep.map(|name| kept(state, name)).transpose()?;
        let layers = Layers { lower, folder, kept };
        for path in [layers.root(), layers.upper(), layers.work()] {
            if !path.exists() {
                let made = DirBuilder::new().mode(0o755).create(&path);
                made.map_err(|error| Error::from_io(format!("make {}", path.display()), &error))?;
                // The root of an overlay has the owner, mode and time of its uppermost layer.
                if let Some(below) = layers.lower.last().filter(|_| path == layers.upper()) {
                    copy_attributes(below, &path)?;
                }
            }
        }
        Ok(layers)
    }

    /// Where the overlay is mounted.
    pub fn root(&self) -> PathBuf {
        self.folder.path.join("root")
    }

    /// The writable layer.
    pub fn upper(&self) -> PathBuf {
        self.writable().join("upper")
    }

    /// The kernel prepares there what then appears in the writable layer at once. It must be on the same filesystem.
    fn work(&self) -> PathBuf {
        self.writable().join("work")
    }

    fn writable(&self) -> &Path {
        self.kept.as_ref().map_or(&self.folder.path, |kept| &kept.path)
    }

    /// In the child: mounts them as one.
    pub fn mount(&self) -> Result<()> {
        let folder = |path: &Path| open(path, OFlag::O_PATH | OFlag::O_DIRECTORY);
        // By descriptor: a `:` or `,` in a path would end it, and with their whole paths 128 layers would not fit into the
        // one page that mount(2) takes.
        let name = |folder: &OwnedFd| format!("/proc/self/fd/{}", folder.as_raw_fd());
        let lower = self.lower.iter().map(|path| folder(path)).collect::<Result<Vec<_>>>()?;
        let (upper, work) = (folder(&self.upper())?, folder(&self.work())?);
        // The kernel wants the topmost first.
        let lower_names: Vec<_> = lower.iter().rev().map(name).collect();
        let options = format!(
            // Off: what makes of a layer something that only this overlay can read. It may become an image's.
            "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off,index=off",
            lower_names.join(":"),
            name(&upper),
            name(&work)
        );
        mount("overlay", self.root(), "overlay", MsFlags::empty(), &options)
            .hint_if(Errno::ENODEV, "this kernel has no overlay filesystem: modprobe overlay")
            .hint_if(
                Errno::EINVAL,
                "CONGO_HOME must lie on a filesystem that can hold a writable layer, such as ext4, xfs or tmpfs",
            )
    }

    /// What there was at this path before the container ran: in the topmost layer that says anything about it.
    fn before(&self, path: &Path) -> Option<fs::Metadata> {
        for layer in self.lower.iter().rev() {
            match fs::symlink_metadata(layer.join(path)) {
                Ok(there) => return Some(there).filter(|there| !is_whiteout(there)),
                Err(_) if hides(layer, path) => return None,
                Err(_) => {}
            }
        }
        None
    }

    /// What the container has added (A), changed (C) and deleted (D), sorted by path, as `docker diff` lists it.
    pub fn changes(&self) -> Result<Vec<(char, PathBuf)>> {
        let mut changes = Vec::new();
        self.changes_in(Path::new(""), &mut changes)?;
        changes.sort_by(|one, other| one.1.cmp(&other.1));
        Ok(changes)
    }

    fn changes_in(&self, folder: &Path, changes: &mut Vec<(char, PathBuf)>) -> Result<()> {
        let real = self.upper().join(folder);
        let entries = fs::read_dir(&real);
        let entries = entries.map_err(|error| Error::from_io(format!("read {}", real.display()), &error))?;
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            let Ok(now) = fs::symlink_metadata(entry.path()) else { continue };
            let kind = match self.before(&path) {
                _ if is_whiteout(&now) => 'D',
                Some(_) => 'C',
                None => 'A',
            };
            changes.push((kind, Path::new("/").join(&path)));
            if now.is_dir() {
                self.changes_in(&path, changes)?;
            }
        }
        Ok(())
    }
}

/// Whether it says "there is nothing here": a character device 0/0.
fn is_whiteout(file: &fs::Metadata) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    file.file_type().is_char_device() && file.rdev() == 0
}

/// Whether a layer that does not have the path hides it in those below: where a folder on the way is removed or replaced.
fn hides(layer: &Path, path: &Path) -> bool {
    path.ancestors().skip(1).any(|above| {
        let there = fs::symlink_metadata(layer.join(above));
        there.is_ok_and(|there| !there.is_dir()) || is_opaque(&layer.join(above))
    })
}
