//! Mounting an overlay as each kernel can.
//!
//! Kernel objects: an overlay filesystem. Its layers are open folders, which its options name as
//! `/proc/self/fd/N`. This module tries each way: a kernel that cannot go it answers EINVAL.
//!
//! | since Linux | what the kernel can do | before |
//! | --- | --- | --- |
//! | 5.10 | `volatile` | the kernel syncs the layer's file system when the overlay goes |
//! | 6.15 | take layers that are attached nowhere | a helper attaches them in a mount namespace of its own |
//!
//! Man pages: mount(8), fsopen(2), fsconfig(2), fsmount(2), mount_namespaces(7); the kernel's
//! filesystems/overlayfs, "Volatile mount".

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags};

use crate::fs::tree::remove_tree;
use crate::sys::error::{Context, Result};
use crate::sys::{mount, open, umount2};

/// The last of an overlay's options, where it is wanted.
const VOLATILE: &str = ",volatile";

/// An overlay that is mounted at a place.
#[derive(Debug)]
pub struct Overlay {
    root: OwnedFd,
    place: PathBuf,
}

impl Overlay {
    /// Its topmost directory.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.root
    }

    /// Unmounts it: umount2(2).
    ///
    /// # Errors
    /// EBUSY when a file in it is open.
    pub fn unmount(self) -> Result<()> {
        drop(self.root);
        umount2(self.place, MntFlags::empty())
    }
}

/// Mounts an overlay at `place`. If the options end with `,volatile`, and the kernel does not know that
/// (before 5.10), mounts it without.
///
/// # Errors
/// Those of mount(2): EINVAL, ELOOP for layers that overlap, ENODEV without overlayfs.
pub fn mount_overlay(place: &Path, options: &str) -> Result<Overlay> {
    mount_with(place, MsFlags::empty(), options)?;
    Ok(Overlay { root: open_folder(place)?, place: place.to_owned() })
}

/// Opens a folder for an overlay to be told of: `/proc/self/fd/N`.
///
/// # Errors
/// ENOENT, ENOTDIR.
pub fn open_folder(folder: &Path) -> Result<OwnedFd> {
    open(folder, OFlag::O_PATH | OFlag::O_DIRECTORY)
}

fn mount_with(place: &Path, flags: MsFlags, options: &str) -> Result<()> {
    let mount = |options| mount("overlay", place, "overlay", flags, options);
    match (mount(options), options.strip_suffix(VOLATILE)) {
        (Err(error), Some(lasting)) if error.errno() == Some(Errno::EINVAL) => mount(lasting),
        (mounted, _) => mounted,
    }
}

/// Lets the writable layer of a volatile overlay, which is no longer mounted, be mounted once more. The
/// kernel refuses that, as it cannot know whether the machine has crashed since: then a part of the layer may
/// be missing. So this function first writes everything to the disk, and then removes the folder `work` with
/// the kernel's mark. The mark goes also if not everything could be written: a part is better than nothing.
///
/// # Errors
/// EIO, ENOSPC: not everything could be written.
pub fn make_lasting(upper: &Path, work: &Path) -> Result<()> {
    let folder = File::open(upper).at("open", upper)?;
    let written = rustix::fs::syncfs(&folder).at("write to the disk", upper);
    remove_tree(work)?;
    written
}

#[cfg(feature = "idmap")]
pub(crate) use site::Site;

#[cfg(feature = "idmap")]
mod site {
    use std::cell::{Cell, RefCell};
    use std::os::fd::OwnedFd;
    use std::path::{Path, PathBuf};

    use nix::errno::Errno;
    use nix::mount::{MntFlags, MsFlags};

    use super::super::{Detached, in_private_namespace};
    use super::{mount_with, open_folder};
    use crate::sys::error::Result;
    use crate::sys::mounts::{attach_at, new_overlay};
    use crate::sys::umount2;

    /// Where an overlay is put together, out of the host's sight.
    #[derive(Debug, Default)]
    pub(crate) struct Site {
        /// Folders of the host, mounted once more with the container's owners. Those above come first.
        mounts: RefCell<Vec<(PathBuf, Detached)>>,
        /// Whether they are attached over the folders, in a mount namespace that is this process's own.
        attached: Cell<bool>,
    }

    impl Site {
        pub(crate) fn new(mounts: Vec<(PathBuf, Detached)>) -> Site {
            Site { mounts: RefCell::new(mounts), attached: Cell::new(false) }
        }

        /// Puts an overlay together by `build`, and returns it attached nowhere.
        ///
        /// At first `build` works where it is. When the kernel answers EINVAL, it takes no layer that is
        /// attached nowhere (before 6.15), or not by these calls (before 6.7). Then a helper in a mount
        /// namespace of its own attaches the mounts over their folders, and calls `build` once more. This
        /// process must have one thread. Whatever comes of it, the mounts are gone afterwards.
        ///
        /// # Errors
        /// What `build` fails at; EPERM without `CAP_SYS_ADMIN`.
        pub(crate) fn build(&self, build: impl Fn() -> Result<Detached>) -> Result<Detached> {
            let built = self.put_together(build);
            // They show files of other containers as those of this one's root. Through a descriptor that is
            // open in the child, a process of the container could change them.
            self.mounts.take();
            built
        }

        fn put_together(&self, build: impl Fn() -> Result<Detached>) -> Result<Detached> {
            match build() {
                Err(error) if error.errno() == Some(Errno::EINVAL) => {}
                built => return built,
            }
            in_private_namespace(|| {
                for (folder, tree) in self.mounts.borrow_mut().iter_mut() {
                    // The copy of a shared mount is shared with the host. The host would get an overlay
                    // that is mounted in it, too. And the overlay would be shared itself, which
                    // pivot_root(2) refuses.
                    tree.set_propagation(MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
                    attach_at(tree.descriptor(), &open_folder(folder)?)?;
                }
                // The helper's own copy of the value, which ends with it.
                self.attached.set(true);
                build()
            })
        }

        /// Opens a folder of the host, with the container's owners.
        ///
        /// # Errors
        /// ENOENT, ENOTDIR.
        pub(crate) fn open(&self, folder: &Path) -> Result<OwnedFd> {
            let has_it =
                |(above, _): &&(PathBuf, Detached)| !self.attached.get() && folder.starts_with(above);
            // The last one lies deepest.
            match self.mounts.borrow().iter().rev().find(has_it) {
                Some((above, mount)) => mount.open_below(folder.strip_prefix(above).unwrap_or(folder)),
                None => open_folder(folder),
            }
        }

        /// Mounts an overlay, in which no device works. `place` is a folder over which a kernel can mount the
        /// overlay for a moment, if it has to be attached somewhere.
        ///
        /// # Errors
        /// As [`mount_overlay`](super::mount_overlay).
        pub(crate) fn overlay(&self, place: &Path, options: &str) -> Result<Detached> {
            if !self.attached.get() {
                return new_overlay(options).map(Detached::new);
            }
            mount_with(place, MsFlags::MS_NODEV, options)?;
            let copy = Detached::copy_of(place);
            umount2(place, MntFlags::MNT_DETACH)?;
            copy
        }
    }

    #[cfg(test)]
    mod tests {
        use std::fs;
        use std::os::fd::AsRawFd;

        use super::super::super::mountinfo;
        use super::*;
        use crate::sys::error::Error;
        use crate::testing::in_mount_namespace;

        #[test]
        fn where_a_layer_must_be_attached_a_helper_does_it() {
            in_mount_namespace(|home| {
                let [lower, upper, work] = ["lower", "upper", "work"].map(|name| home.join(name));
                [&lower, &upper, &work].iter().for_each(|path| fs::create_dir(path).unwrap());
                fs::write(lower.join("file"), "").unwrap();
                // As systemd has the host's root.
                for (source, flags) in [(Some(home), MsFlags::MS_BIND), (None, MsFlags::MS_SHARED)] {
                    nix::mount::mount(source, home, None::<&str>, flags, None::<&str>).unwrap();
                }
                // What the kernel answers before 6.15 is told here by the story itself.
                for must_be_attached in [false, true] {
                    let site = Site::new(vec![(home.to_owned(), Detached::copy_of(home).unwrap())]);
                    let built = site.build(|| {
                        if must_be_attached && !site.attached.get() {
                            return Err(Error::from_errno("an older kernel", Errno::EINVAL));
                        }
                        let [lower, upper, work] =
                            [&lower, &upper, &work].map(|path| site.open(path).unwrap());
                        let name = |folder: &OwnedFd| format!("/proc/self/fd/{}", folder.as_raw_fd());
                        let (upper, work) = (name(&upper), name(&work));
                        let options = format!("lowerdir={},upperdir={upper},workdir={work}", name(&lower));
                        site.overlay(home, &options)
                    });
                    let root = built.unwrap();
                    let link = format!("/proc/self/fd/{}", root.descriptor().as_raw_fd());
                    fs::remove_file(Path::new(&link).join("file")).unwrap();
                    assert!(lower.join("file").exists() && upper.join("file").symlink_metadata().is_ok());
                    fs::remove_file(upper.join("file")).unwrap();
                    // Attached to a mount that shares nothing, it shares only what it shared before.
                    let private = tempfile::tempdir().unwrap();
                    let attached = root.attach_at(&open_folder(private.path()).unwrap()).unwrap();
                    assert!(!mountinfo::of_file(&attached.0).unwrap().unwrap().shared, "{must_be_attached}");
                    umount2(private.path(), MntFlags::MNT_DETACH).unwrap();
                }
                umount2(home, MntFlags::MNT_DETACH).unwrap();
            });
        }
    }
}
