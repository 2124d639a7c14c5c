//! A root of layers: folders that no container changes, and on top one that the container may change.
//!
//! Kernel object: an overlay filesystem. A read finds the file in the topmost layer that has it. A write goes
//! to the writable layer. The first change to a file copies it up, and a removal leaves a whiteout: a
//! character device 0/0. Order: mounted where mounts are private, so that the host never sees it; then it
//! becomes the root.
//! With a user namespace the parent mounts it, since the container's root may not mount layers of the host.
//! Before that, the parent mounts the layers anew, with the container's owners, or copies them.
//! Man pages: mount(8), "overlay"; the kernel's filesystems/overlayfs.
//! On owners: mount_setattr(2), the kernel's filesystems/idmappings.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use common::fs::mount::{Detached, make_lasting};
use common::fs::overlay::{make_upper, missing};
use common::fs::path::{Kind, make_beneath};
use common::ids::idmap::{ShiftedLayers, with_files_of};
use common::keep::state::{ContainerFolder, KeptFolder, kept};
use common::sys::mkdir;
use common::sys::privilege::Privilege;
use common::{Hint, Result, tell};
use nix::errno::Errno;

use crate::user_namespace::UserNamespace;

/// The places of the mounts that every container has, and a link by which old programs find all mounts.
const MOUNT_POINTS: [(&str, Kind); 7] = [
    ("proc", Kind::Directory),
    ("dev", Kind::Directory),
    ("sys", Kind::Directory),
    ("etc/hosts", Kind::File),
    ("etc/hostname", Kind::File),
    ("etc/resolv.conf", Kind::File),
    ("etc/mtab", Kind::Link("/proc/mounts")),
];

/// The hint where overlayfs refuses layers that overlap.
const NO_OVERLAP: &str =
    "no --layer may lie in another one or in --rootfs, or be given twice; nor may CONGO_HOME lie in one";

/// The layers of one container.
pub struct Layers {
    /// Lowest first; the container changes none of them.
    pub lower: Vec<PathBuf>,
    /// The same layers as they are mounted for the container's users.
    mounted: ShiftedLayers,
    /// The mount points that they lack.
    missing: Vec<&'static (&'static str, Kind)>,
    /// The container's own folder, which goes with it.
    pub folder: ContainerFolder,
    /// The folder of the layers and containers that Congo makes.
    home: PathBuf,
    /// Where the writable layer is instead, when it is to stay.
    kept: Option<KeptFolder>,
}

impl Layers {
    /// In the parent: makes the folders that the overlay needs.
    pub fn make(home: &Path, lower: Vec<PathBuf>, keep: Option<&str>, users: &UserNamespace) -> Result<Self> {
        // Where no idmapped mount can change the owners of files, the container gets copies of the layers.
        let mounted = ShiftedLayers::of(&lower, home, users.shift()).hint_if(Errno::ELOOP, NO_OVERLAP)?;
        let folder = ContainerFolder::create(home)?;
        let kept = keep.map(|name| kept(home, name)).transpose()?;
        let layers = Layers {
            // The root of an image mostly lacks some.
            missing: missing(&lower, &MOUNT_POINTS),
            lower,
            mounted,
            folder,
            home: home.to_owned(),
            kept,
        };
        mkdir(layers.work(), 0o755)?;
        // The root of an overlay has the owner, mode and time of its uppermost layer.
        make_upper(&layers.upper(), layers.mounted.paths().last(), keep.is_some())?;
        if !layers.missing.is_empty() {
            layers.points().iter().try_for_each(|path| mkdir(path, 0o755))?;
        }
        if let Some(name) = keep {
            layers.mounted.claim(&layers.upper(), name, users.shift())?;
        }
        Ok(layers)
    }

    /// Where the overlay is mounted: over the container's folder, when that was opened.
    pub fn root(&self) -> &Path {
        &self.folder.path
    }

    /// The writable layer.
    pub fn upper(&self) -> PathBuf {
        self.writable().join("upper")
    }

    /// Where the kernel prepares a change, which one rename(2) then moves to the writable layer.
    fn work(&self) -> PathBuf {
        self.writable().join("work")
    }

    /// The layer of the missing mount points, and where the kernel prepares a change to that. It lies between
    /// the root and the writable layer. So the mount points are no change of the container, and do not get
    /// into an image.
    fn points(&self) -> [PathBuf; 2] {
        ["points", "points-work"].map(|name| self.folder.path.join(name))
    }

    fn writable(&self) -> &Path {
        self.kept.as_ref().map_or(&self.folder.path, |kept| &kept.path)
    }

    /// In the parent: mounts the layers as one, out of the host's sight, with the container's owners.
    pub fn detached(&self, users: &UserNamespace) -> Result<Detached> {
        let maps = users.shift().map(|shift| shift.maps);
        // With the caller's umask, other users of the container could not enter what is made here. And an
        // overlay makes files as the user that mounts it, so that must be a user of the container.
        self.mounted.build_overlay(|| common::sys::with_umask(0o022, || with_files_of(maps, || self.mount())))
    }

    /// Mounts the layers as one.
    pub fn mount(&self) -> Result<Detached> {
        if self.missing.is_empty() {
            return self.overlay(None, &self.upper(), &self.work());
        }
        let [points, work] = self.points();
        let root = self.overlay(None, &points, &work)?;
        let make = |(path, kind): &&(&str, Kind)| make_beneath(root.descriptor(), Path::new(path), *kind);
        self.missing.iter().try_for_each(|missing| make(missing).map(drop))?;
        root.unmount()?;
        self.overlay(Some(&points), &self.upper(), &self.work())
    }

    fn overlay(&self, above: Option<&Path>, upper: &Path, work: &Path) -> Result<Detached> {
        let folder = |path: &Path| self.mounted.open(path);
        // By descriptor: a `:` or `,` in a path would end it. With their whole paths, 128 layers would not
        // fit into the one page that mount(2) takes.
        let name = |folder: &OwnedFd| format!("/proc/self/fd/{}", folder.as_raw_fd());
        let lower = self.mounted.paths().iter().map(PathBuf::as_path).chain(above);
        let lower = lower.map(folder).collect::<Result<Vec<_>>>()?;
        // When an overlay goes, the kernel saves the whole file system in which upper lies, whoever has
        // written there. That can take long, and a layer that is removed need not be saved.
        let volatile = if upper.starts_with(&self.folder.path) { ",volatile" } else { "" };
        let (upper, work) = (folder(upper)?, folder(work)?);
        // The kernel wants the topmost first.
        let lower_names: Vec<_> = lower.iter().rev().map(name).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},{}{volatile}",
            lower_names.join(":"),
            name(&upper),
            name(&work),
            // Off: features that make a layer readable for this overlay only. An image may get the layer.
            Privilege::current().overlay_options(),
        );
        // A device that an image brings along is no device here.
        self.mounted
            .overlay(self.root(), &options)
            .hint_if(Errno::ENODEV, "this kernel has no overlay filesystem: modprobe overlay")
            .hint_if(Errno::EPERM, "without root, an overlay needs Linux 5.11 or later")
            .hint_if(Errno::ELOOP, NO_OVERLAP)
            .hint_if(Errno::EINVAL, "CONGO_HOME must lie where a writable layer can: ext4, xfs, tmpfs")
    }

    /// The writable layer for an image: with the ids that the container sees.
    pub fn unshifted(&self, users: &UserNamespace) -> Result<PathBuf> {
        self.mounted.for_image(self.upper(), self.folder.path.join("unshifted"), users.shift())
    }

    /// Keeps the writable layer when no image could be made of it, and says how to go on with it.
    pub fn rescue(self) -> Result<()> {
        if self.kept.is_none() {
            let written = make_lasting(&self.upper(), &self.work());
            let name = self.folder.keep(&self.home)?;
            tell(format_args!(
                "congo: what the container has changed is kept: --keep {name} goes on with it"
            ));
            return written;
        }
        Ok(())
    }
}
