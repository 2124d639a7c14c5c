//! The newer mount calls (5.2): a mount as a descriptor, which is attached to a place later.
//!
//! Kernel object: a mount that is attached nowhere, until it is. So what is found by the host's paths can be
//! put into a root in which they mean nothing. Order: copy while the source is in sight; make it read-only
//! and set its propagation while nobody can reach it; attach. A kernel that cannot change what is attached
//! nowhere (before 5.12) does so right after it is attached. Man pages: open_tree(2), move_mount(2),
//! mount_setattr(2), setns(2).

mod attributes;
pub(crate) mod mountinfo;
mod overlay;
#[cfg(feature = "idmap")]
mod private;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, stat};
#[cfg(feature = "values")]
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::sys::call;
use crate::sys::error::{Context, Error, Hint, Result};
use crate::sys::mounts::{self, copy_mount, copy_mounts, new_filesystem};
use crate::sys::namespace::{enter, open_namespace, open_of};
use crate::sys::privilege::Privilege;
pub(crate) use mountinfo::beneath as mounts_beneath;
#[cfg(feature = "idmap")]
pub(crate) use overlay::Site;
pub use overlay::{Overlay, make_lasting, mount_overlay, open_folder};
#[cfg(feature = "idmap")]
pub use private::in_private_namespace;

/// Since which Linux an overlay takes idmapped mounts as its layers. The file systems have them since earlier
/// or later.
#[cfg(feature = "idmap")]
const IDMAPPED_LAYERS: (u32, u32) = (5, 19);

/// Makes the attached mount at `path` read-only, and none that lies in it. All its other flags stay: mount(2)
/// with MS_REMOUNT and MS_BIND replaces them, so they are read from mountinfo, and named again.
///
/// # Errors
/// EPERM; when `/proc` is not mounted.
pub fn remount_read_only(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let opened = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).at("open", path)?;
    attributes::remount(&opened, &mountinfo::of(&opened)?, MsFlags::MS_RDONLY)
}

/// Mounts the folders `paths` with the owners that the user namespace `userns` has for them, for an overlay.
/// For a folder that is still to be made, it mounts the nearest folder above it. `None` where one cannot be
/// mounted so: each file system can have another answer.
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`.
#[cfg(feature = "idmap")]
pub(crate) fn map_all<'a>(
    paths: impl IntoIterator<Item = &'a Path>,
    userns: &OwnedFd,
) -> Result<Option<Vec<(std::path::PathBuf, Detached)>>> {
    let mut mapped = Vec::new();
    for path in paths {
        let there = path.ancestors().find(|path| path.is_dir()).unwrap_or(path);
        match Detached::mapped(there, userns)? {
            Some(mount) => mapped.push((there.to_owned(), mount)),
            None => return Ok(None),
        }
    }
    Ok(Some(mapped))
}

/// A copy of a mount, attached nowhere yet. Dropped before it is, it is gone.
#[derive(Debug)]
pub struct Detached {
    tree: OwnedFd,
    /// What the kernel cannot do before the tree is attached.
    later: Later,
}

#[derive(Debug, Default)]
struct Later {
    read_only: bool,
    no_devices: bool,
    propagation: Option<MsFlags>,
    /// The mounts below the tree have to be covered.
    cover: bool,
}

/// The mounts of a container, to be copied from there.
#[derive(Debug)]
pub struct ContainerMounts {
    root: OwnedFd,
    namespace: OwnedFd,
}

impl ContainerMounts {
    /// Opens them by one of the container's processes. `option` is what the user wrote, for the error.
    ///
    /// # Errors
    /// As [`open_namespace`].
    pub fn open(pid: i32, option: &str) -> Result<ContainerMounts> {
        let namespace = open_namespace(pid, "mnt", option)?;
        let root = open_of(pid, "root", OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        let root = root.map_err(|error| Error::new(format!("{option}: {error}")))?;
        Ok(ContainerMounts { root, namespace })
    }

    /// Copies the directory at `path`, which begins at the container's root, as
    /// [`copy_of_directory`](Detached::copy_of_directory). This process, which must have one thread, visits
    /// that container's mount namespace for it, as the kernel copies mounts of the caller's namespace only.
    /// It comes back to `/`.
    ///
    /// # Errors
    /// ENOTDIR, ELOOP when a part of the path is no directory: a link could lead out of that container.
    pub fn copy(&self, path: &str) -> Result<Detached> {
        let here = File::open("/proc/self/ns/mnt").context("open /proc/self/ns/mnt")?;
        enter(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        let copy = Detached::beneath(self.root.as_fd(), path);
        enter(&here.into(), CloneFlags::CLONE_NEWNS)?;
        let mut copy = copy?;
        // That container may share this directory with the host, by a volume. A mount of this container in it
        // would then be mounted on the host, too.
        copy.set_propagation(MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
        Ok(copy)
    }
}

/// A mount that is attached, as a descriptor: whatever is mounted over it or renamed, it is still meant.
#[derive(Debug)]
pub struct Attached(OwnedFd);

impl Detached {
    fn new(tree: OwnedFd) -> Detached {
        Detached { tree, later: Later::default() }
    }

    /// Copies what is at `path`, a directory or a file, as a bind mount of it, with all that is mounted
    /// below. Follows symbolic links, as the host sees them.
    ///
    /// # Errors
    /// ENOENT; EPERM without `CAP_SYS_ADMIN`; EINVAL when it must not be copied (MS_UNBINDABLE) or lies in
    /// another mount namespace.
    pub fn copy_of(path: &Path) -> Result<Detached> {
        copy_mounts(path)
            .map(Detached::new)
            .hint_if(Errno::EINVAL, "that mount is unbindable, or belongs to another mount namespace")
    }

    /// Copies what is at `path`, without what is mounted below it. Follows symbolic links.
    ///
    /// The mounts that a user namespace has from outside are locked together. The kernel refuses to copy one
    /// of them alone, because the copy could show a folder that another mount hides. Then the copy has all of
    /// them. When it is attached, each mount below is covered with an empty filesystem.
    ///
    /// # Errors
    /// As [`copy_of`](Detached::copy_of).
    pub fn copy_of_one(path: &Path) -> Result<Detached> {
        let opened = crate::sys::open(path, OFlag::O_PATH)?;
        match copy_mount(&opened, &format!("{path:?}")) {
            Err(error) if error.errno() == Some(Errno::EINVAL) => {
                let mut copy = Detached::copy_of(path)?;
                copy.later.cover = true;
                Ok(copy)
            }
            copied => copied.map(Detached::new),
        }
    }

    /// Copies the mount of one device, as [`copy_of`](Detached::copy_of). Refuses anything at `path` but the
    /// character device `major:minor`, because somebody may have put another file in its place.
    ///
    /// # Errors
    /// As [`copy_of`](Detached::copy_of); it is another file.
    pub fn copy_of_device(path: &Path, (major, minor): (u64, u64)) -> Result<Detached> {
        const HIDDEN: &str = "something else lies there: the host's own, or a volume over /dev or in it";
        let copy = Detached::copy_of(path).hint_if(Errno::ENOENT, HIDDEN)?;
        let found = fstat(&copy.tree).context("fstat")?;
        let is_character_device = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
        if is_character_device && found.st_rdev == nix::sys::stat::makedev(major, minor) {
            return Ok(copy);
        }
        Err(Error::new(format!("{}: not the character device {major}:{minor}", path.display())).hint(HIDDEN))
    }

    /// Copies the mount of the device at `path`, whichever it is, as [`copy_of`](Detached::copy_of).
    ///
    /// # Errors
    /// As [`copy_of`](Detached::copy_of); it is no device, or lies on a mount on which devices do not work.
    #[cfg(feature = "values")]
    pub fn copy_of_any_device(path: &Path) -> Result<Detached> {
        let copy = Detached::copy_of(path)?;
        let kind = SFlag::from_bits_truncate(fstat(&copy.tree).context("fstat")?.st_mode) & SFlag::S_IFMT;
        let named = path.display();
        if kind != SFlag::S_IFCHR && kind != SFlag::S_IFBLK {
            return Err(Error::new(format!("--device {named}: this is no device any more")));
        }
        let system = fstatvfs(&copy.tree).context(format_args!("--device {named}: fstatvfs"))?;
        if system.flags().contains(FsFlags::ST_NODEV) {
            return Err(Error::new(format!("--device {named}: it lies on a mount with nodev"))
                .hint("no device works there, not even on the host: make it elsewhere"));
        }
        Ok(copy)
    }

    /// A new filesystem of this kind, attached nowhere yet. Nothing on it is executed, opened as a device, or
    /// run with other rights. In a user namespace the kernel makes a proc or a sysfs only while another one
    /// is in sight that hides nothing. So this has to come before the host is out of sight.
    ///
    /// # Errors
    /// EPERM without `CAP_SYS_ADMIN` in the namespace that it shows, and in a container that hides a part of
    /// its own.
    pub fn filesystem(kind: &str, read_only: bool) -> Result<Detached> {
        new_filesystem(kind, read_only).map(Detached::new)
    }

    /// Copies the mount in which the directory `path` lies, as a bind mount of that directory alone, without
    /// what is mounted below it. Follows no links.
    ///
    /// # Errors
    /// ENOENT, EPERM without `CAP_SYS_ADMIN`.
    pub fn copy_of_directory(path: &str) -> Result<Detached> {
        let root = File::open("/").context("open /")?;
        Detached::beneath(root.as_fd(), path)
    }

    /// The same for a directory that is open.
    #[cfg(feature = "idmap")]
    pub(crate) fn copy_of_open(directory: &OwnedFd) -> Result<Detached> {
        copy_mount(directory, &directory.as_raw_fd().to_string()).map(Detached::new)
    }

    /// The root of the tree. Through this descriptor, files in the tree can be read and made, though it is
    /// attached nowhere.
    #[cfg(feature = "idmap")]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.tree
    }

    /// Follows no links.
    fn beneath(root: BorrowedFd<'_>, path: &str) -> Result<Detached> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = root.try_clone_to_owned().context("dup")?;
        for name in path.trim_matches('/').split('/') {
            directory = openat(&directory, name, flags, Mode::empty())
                .context(format_args!("open {name} of {path}"))?;
        }
        copy_mount(directory, &format!("{path:?}")).map(Detached::new)
    }

    /// Gives it up: the kernel unmounts it.
    ///
    /// # Errors
    /// None.
    #[cfg(feature = "idmap")]
    pub fn unmount(self) -> Result<()> {
        drop(self.tree);
        Ok(())
    }

    /// Makes it the working directory: from there everything is found by relative paths, wherever it will be
    /// attached.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn enter(&self) -> Result<()> {
        let tree = self.tree.as_raw_fd();
        call("chdir(2)", || format!("fchdir({tree})"), || nix::unistd::fchdir(&self.tree))
    }

    /// Opens its directory, through the mount: with its map of ids.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn open_directory(&self) -> Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(&self.tree, ".", flags, Mode::empty()).context("open a mount that is attached nowhere")
    }

    /// Opens a directory in it, through the mount: with its map of ids. `path` is relative.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR.
    #[cfg(feature = "idmap")]
    fn open_below(&self, path: &Path) -> Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(&self.tree, path, flags, Mode::empty()).at("open in a mount that is attached nowhere", path)
    }

    /// Whether it is a directory, and so has to be attached at one.
    ///
    /// # Errors
    /// None that the caller can cause.
    pub fn is_directory(&self) -> Result<bool> {
        let status = fstat(&self.tree).context("fstat a mount")?;
        Ok(status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
    }

    /// Makes the tree read-only, with all mounts below it. This is done while the tree is attached nowhere,
    /// so there is no moment at which somebody could write to it. Before 5.12 the kernel changes attached
    /// mounts only, so [`attach_at`](Detached::attach_at) does it as its last act.
    ///
    /// # Errors
    /// EPERM without `CAP_SYS_ADMIN`.
    pub fn make_read_only(&mut self) -> Result<()> {
        self.later.read_only = !attributes::make_read_only(&self.tree)?;
        Ok(())
    }

    /// Lets no device in it work, nor in what is mounted below it. Before 5.12 as
    /// [`make_read_only`](Detached::make_read_only).
    ///
    /// # Errors
    /// EPERM without `CAP_SYS_ADMIN`.
    pub fn forbid_devices(&mut self) -> Result<()> {
        self.later.no_devices = !attributes::forbid_devices(&self.tree)?;
        Ok(())
    }

    /// Whether it shows the whole of the host's /dev, and not a folder in it. In such a folder, a container
    /// with `CAP_MKNOD` could make the device file of any disk: `--device` gives it single ones.
    ///
    /// # Errors
    /// EIO and the like.
    pub fn is_of_dev(&self) -> Result<bool> {
        let place = |status: FileStat| (status.st_dev, status.st_ino);
        let its = fstat(&self.tree).context("fstat")?;
        // A /dev that is no filesystem of its own is a folder like any other.
        let is_mounted = stat("/").is_ok_and(|root| root.st_dev != its.st_dev);
        Ok(is_mounted && stat("/dev").map(place) == Ok(place(its)))
    }

    /// The mount itself, if it is read-only already. It is attached nowhere, and so stays as it is for good.
    #[cfg(feature = "idmap")]
    pub(crate) fn into_read_only(self) -> Option<OwnedFd> {
        (!self.later.read_only).then_some(self.tree)
    }

    /// Shows its files with other owners: those that the user namespace `userns` has for them. A file of user
    /// 0 on the disk belongs to that namespace's root here. A file that this root makes here gets user 0 on
    /// the disk. Mounts below the tree stay as they are. See
    /// [`user_namespace`](crate::ids::idmap::user_namespace).
    ///
    /// Returns whether that could be done. It cannot before Linux 5.12, nor on each file system, nor twice.
    /// Then the tree is as it was, and [`ShiftedLayers`](crate::ids::idmap::ShiftedLayers) are the way that
    /// remains.
    ///
    /// # Errors
    /// EBADF and the like, if `userns` is no user namespace.
    #[cfg(feature = "idmap")]
    pub fn map_ids(&mut self, userns: &OwnedFd) -> Result<bool> {
        attributes::map_ids(&self.tree, userns)
    }

    /// Copies what is at `path`, as [`copy_of`](Detached::copy_of), with the owners that `userns` has, for an
    /// overlay. `None` when this kernel, or the file system, cannot.
    ///
    /// # Errors
    /// As [`copy_of`](Detached::copy_of).
    #[cfg(feature = "idmap")]
    pub(crate) fn mapped(path: &Path, userns: &OwnedFd) -> Result<Option<Detached>> {
        if crate::sys::kernel::version()? < IDMAPPED_LAYERS {
            return Ok(None);
        }
        let mut copy = Detached::copy_of(path)?;
        Ok(copy.map_ids(userns)?.then_some(copy))
    }

    /// Maps the ids as [`map_ids`](Detached::map_ids) of what is at `path`, where nothing but that will do.
    ///
    /// # Errors
    /// This kernel, or that file system, cannot: which one it is.
    #[cfg(feature = "idmap")]
    pub fn must_map_ids(mut self, userns: &OwnedFd, path: &Path) -> Result<Detached> {
        if self.map_ids(userns)? {
            return Ok(self);
        }
        let file = crate::sys::open(path, OFlag::O_PATH)?;
        let kind = mountinfo::of_file(&file)?.map_or_else(|| "that file system".into(), |mount| mount.kind);
        let (major, minor) = crate::sys::kernel::version()?;
        Err(Error::new(format!(
            "{}: map its owners: Linux {major}.{minor} cannot do that on {kind}, or they are mapped already",
            path.display()
        ))
        .hint(
            "idmapped mounts need Linux 5.12 on ext4, 5.13 on xfs, 5.15 on btrfs, 6.3 on tmpfs, 6.12 on FUSE",
        ))
    }

    /// Sets how the tree shares later mounts with others: one of MS_PRIVATE, MS_SLAVE, MS_SHARED, perhaps
    /// with MS_REC. The copy of a shared mount is shared with the host, so this has to be done before
    /// anything is mounted in it. Before 5.12 as [`make_read_only`](Detached::make_read_only).
    ///
    /// # Errors
    /// EINVAL for other flags.
    pub fn set_propagation(&mut self, flags: MsFlags) -> Result<()> {
        self.later.propagation = (!attributes::set_propagation(&self.tree, flags)?).then_some(flags);
        Ok(())
    }

    /// Attaches it at the directory `target`.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EPERM without `CAP_SYS_ADMIN`.
    pub fn attach(self, target: &str) -> Result<()> {
        mounts::attach(&self.tree, target)?;
        self.attached().map(drop)
    }

    /// Attaches the tree at the open file `target`: a directory if the tree's root is one, a file if that is
    /// a file. A path that was checked before could have a link in its place by now. A descriptor cannot.
    ///
    /// # Errors
    /// EINVAL when one is a directory and the other is not, or the target is in another mount namespace;
    /// EPERM without `CAP_SYS_ADMIN`.
    pub fn attach_at(self, target: &OwnedFd) -> Result<Attached> {
        mounts::attach_at(&self.tree, target)?;
        self.attached()
    }

    /// What could not be done before.
    fn attached(self) -> Result<Attached> {
        let attached = Attached(self.tree);
        if let Some(flags) = self.later.propagation {
            attached.set_propagation(flags)?;
        }
        if self.later.no_devices {
            attributes::remount_each(&attached.0, MsFlags::MS_NODEV)?;
        }
        if self.later.read_only {
            attached.make_read_only()?;
        }
        if self.later.cover {
            attributes::cover_each_below(&attached.0)?;
        }
        Ok(attached)
    }
}

/// Refuses a propagation that would come to nothing for the source at `path`. A copy of a mount shares with
/// the host only what the mount itself shares. If there is nothing at `path` yet, the folder in which it will
/// be made counts.
///
/// # Errors
/// MS_SHARED for a mount that is not shared. MS_SLAVE for one that is neither shared nor a slave. EACCES.
pub fn check_propagation(path: &Path, flags: MsFlags) -> Result<()> {
    if !flags.intersects(MsFlags::MS_SHARED | MsFlags::MS_SLAVE) {
        return Ok(());
    }
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let opened = open(there, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let opened = opened.at("open", there)?;
    let mount = mountinfo::of(&opened)?;
    if mount.shared || mount.slave && !flags.contains(MsFlags::MS_SHARED) {
        return Ok(());
    }
    let (path, point) = (path.display(), mount.point.display());
    // In a user namespace, such as an ordinary user's runtime makes, the host's shared mounts are slaves.
    // Root's mounts are slaves where somebody has made them so.
    if mount.slave {
        let hint = match Privilege::caller_is_root() {
            true => {
                format!("mount --make-shared {point} changes that; or take rslave, to get the host's alone")
            }
            false => {
                "the kernel lets none of an ordinary user's out; or take rslave, to get the host's".into()
            }
        };
        let what = format!("--volume {path}: its mount {point} gives no mounts to the host");
        return Err(Error::new(what).hint(hint));
    }
    Err(Error::new(format!("--volume {path}: it lies on the mount {point}, which is not shared"))
        .hint(format!("mount --make-shared {point}; or leave shared and slave away")))
}

impl Attached {
    /// Makes it read-only, with all that is mounted below it. Before 5.12, mount after mount.
    ///
    /// # Errors
    /// EPERM without `CAP_SYS_ADMIN`.
    pub fn make_read_only(&self) -> Result<()> {
        if attributes::make_read_only(&self.0)? {
            return Ok(());
        }
        attributes::remount_each(&self.0, MsFlags::MS_RDONLY)
    }

    /// Sets how the tree shares later mounts with others, as [`Detached::set_propagation`].
    ///
    /// # Errors
    /// EINVAL for other flags.
    pub fn set_propagation(&self, flags: MsFlags) -> Result<()> {
        if attributes::set_propagation(&self.0, flags)? {
            return Ok(());
        }
        attributes::remount_propagation(&self.0, flags)
    }
}
