//! The store of unpacked layers: one folder for each, named after it and all layers below it, shared by all
//! images.
//!
//! A process of its own unpacks a layer, in a mount namespace of its own. It mounts an overlay: the layers
//! below are the lower ones, and the new folder is the upper one. Then chroot(2) makes the overlay its root.
//! So all names and links of the archive lead to places in the image, and the kernel makes the whiteouts. For
//! the lowest layer a bind mount will do.
//!
//! Order: flock(2) on the store, sweep what a killed unpacking left, unpack beside, verify, rename(2). Both
//! processes hold the lock, and the second dies with the first. So a process that gets the lock is alone.
//! Man pages: mount_namespaces(7), chroot(2), flock(2); Documentation/filesystems/overlayfs.rst of the
//! kernel.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use indicatif::{ProgressBar, ProgressStyle};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::apply::{Limits, Tree};
use super::digest::Digest;
use super::layer::{Layer, Stack, Stream, broken};
use super::refusal::Refusal;
use super::source::Blob;
use crate::fs::claim::{Claim, Make, sweep};
use crate::fs::own::{Access, check_own, is_folder, own_folder};
use crate::fs::tree::{copy_attributes, remove_tree};
use crate::run::helper::Helper;
use crate::sys;
use crate::sys::error::{Context, Error, Result, tell};
use crate::sys::privilege::Privilege;

/// What the name of an unfinished layer begins with.
const UNFINISHED: &str = ".unpacking-";
/// The single layer of an image that has none.
const EMPTY: &str = "empty";

/// mount(2) takes one page of options: enough for some 200 layers, and Docker's limit is 128.
const MAX_OPTIONS: usize = 4096;

/// Where the layers are, lowest first, after those that were missing have been unpacked.
pub(super) fn unpack(image: Stack<'_>, state: &Path, limits: Limits) -> Result<Vec<PathBuf>> {
    check_own(state.to_owned())?;
    let store = check_own(state.join("layers"))?;
    let paths: Vec<_> = if image.layers.is_empty() {
        vec![store.join(EMPTY)]
    } else {
        chain_ids(image.diff_ids).iter().map(|id| store.join(id.hex())).collect()
    };
    let is_there = |path: &&PathBuf| is_folder(path);
    if paths.iter().all(|path| is_there(&path)) {
        return Ok(paths);
    }
    own_folder(state, Access::All)?;
    // The layers have other users' files and programs with a setuid bit. No user of the host may reach them.
    own_folder(&store, Access::Owner)?;
    // Waits until no other process unpacks.
    let _claim = Claim::wait(Make::File, &store.join(".lock"))?;
    // Nobody else unpacks now, so what is unfinished was left by a runtime that was killed.
    sweep(&store, |name| name.as_bytes().starts_with(UNFINISHED.as_bytes()), remove_tree)?;
    if image.layers.is_empty() {
        // Under its name only when it is as it should be.
        let unfinished = store.join(format!("{UNFINISHED}{}", std::process::id()));
        fs::create_dir(&unfinished).at("make", &unfinished)?;
        like_below(&unfinished, &[])?;
        fs::rename(&unfinished, &paths[0]).at("make", &paths[0])?;
        return Ok(paths);
    }
    let mut bytes = 0;
    let mut unpacked = 0;
    for (number, layer) in image.layers.iter().enumerate() {
        // Another process may have unpacked it while this one waited.
        if !is_folder(&paths[number]) {
            let work = Work {
                image,
                layer,
                number,
                diff_id: image.diff_ids[number],
                below: &paths[..number],
                limits,
            };
            bytes += work.unpack(&store, &paths[number])?;
            unpacked += 1;
        }
    }
    if unpacked > 0 && !nix::unistd::isatty(std::io::stderr()).unwrap_or(false) {
        let (layers, mib) = (if unpacked == 1 { "layer" } else { "layers" }, bytes.div_ceil(1 << 20));
        tell(format_args!(
            "congo: unpacked {unpacked} {layers} ({mib} MiB) of {}",
            image.source.path().display()
        ));
    }
    Ok(paths)
}

/// Each layer's identity together with those below it.
fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain = Vec::new();
    for &diff_id in diff_ids {
        chain.push(chain.last().map_or(diff_id, |below: &Digest| below.chain(diff_id)));
    }
    chain
}

/// The root of an overlay looks like that of its upper layer, which may have no entry for it.
fn like_below(upper: &Path, below: &[PathBuf]) -> Result<()> {
    if let Some(below) = below.last() {
        return copy_attributes(below, upper);
    }
    // Where no layer names its root, it is of no time: the same for everybody.
    set_mode(upper, 0o755)?;
    let times = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
    let set = File::open(upper).and_then(|folder| folder.set_times(times));
    set.at("make", upper)
}

/// One layer to unpack.
struct Work<'a> {
    image: Stack<'a>,
    layer: &'a Layer,
    number: usize,
    diff_id: Digest,
    below: &'a [PathBuf],
    limits: Limits,
}

impl Work<'_> {
    /// Returns how many bytes came out of the archive.
    fn unpack(&self, store: &Path, path: &Path) -> Result<u64> {
        let pid = std::process::id();
        let [unfinished, whole] = ["", "-whole"].map(|end| store.join(format!("{UNFINISHED}{pid}{end}")));
        let result = self.unpack_in(&unfinished).and_then(|bytes| {
            fs::rename(unfinished.join("upper"), &whole).at("make", &whole)?;
            Ok(bytes)
        });
        // The error that is already there says more than one about the clean-up.
        let removed = remove_tree(&unfinished);
        let bytes = result?;
        removed?;
        // Last of all: once no layer is missing, no later run sweeps the leftovers of a killed runtime.
        fs::rename(&whole, path).at("make", path)?;
        Ok(bytes)
    }

    fn unpack_in(&self, unfinished: &Path) -> Result<u64> {
        for folder in ["", "upper", "work", "root"] {
            let folder = unfinished.join(folder);
            fs::create_dir(&folder).at("make", &folder)?;
        }
        like_below(&unfinished.join("upper"), self.below)?;
        let blob = self
            .image
            .source
            .find(&self.layer.member)?
            .ok_or_else(|| Error::new(format!("{}: it is gone", self.name())))?;
        let helper = Helper::start("unpacking a layer", |parent| {
            parent.die_with_parent()?;
            self.in_helper(unfinished, blob).map(|bytes| parent.answer(bytes.to_string()))
        })?;
        let bytes = helper.finish()?;
        Ok(String::from_utf8_lossy(&bytes).parse().unwrap_or_default())
    }

    fn in_helper(&self, unfinished: &Path, blob: Blob) -> Result<u64> {
        sys::umask(0);
        let root = unfinished.join("root");
        // Before /proc is out of sight.
        let privilege = Privilege::current();
        sys::unshare(CloneFlags::CLONE_NEWNS)?;
        sys::mount("none", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
        self.mount(unfinished, &root)?;
        let mounted = identity(&root)?;
        sys::chdir(&root)?;
        sys::chroot(Path::new("."))?;
        sys::chdir("/")?;
        // From here on everything is made beneath `/`. Were that the host's, a layer would replace its
        // programs.
        if identity(Path::new("/"))? != mounted {
            return Err(Error::new(format!("{}: its folder did not become the root", self.name())));
        }
        self.apply(blob, privilege)
    }

    /// Mounts the place into which the layer is unpacked: the folder alone, or above the layers below.
    fn mount(&self, unfinished: &Path, root: &Path) -> Result<()> {
        if self.below.is_empty() {
            return sys::mount(unfinished.join("upper"), root, "", MsFlags::MS_BIND, "");
        }
        // By descriptors: their names are short, and have neither ':' nor ','.
        let open = |path: &Path| File::open(path).at("open", path);
        let below = self.below.iter().rev().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
        let (upper, work) = (open(&unfinished.join("upper"))?, open(&unfinished.join("work"))?);
        let options = overlay_options(&below, &upper, &work);
        // A device or a setuid program of the image is of no use while it is unpacked.
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        sys::mount("overlay", root, "overlay", flags, &options).map_err(|error| match error.errno() {
            Some(Errno::ENODEV) => error.hint("this kernel has no overlayfs: modprobe overlay"),
            _ if options.len() >= MAX_OPTIONS => {
                error.hint("it has more layers than mount(2) takes options for")
            }
            Some(Errno::EPERM) => error.hint("without root, overlays need Linux 5.11 or later"),
            _ => error.hint(
                "the state folder must be on a file system that can be an upper layer (ext4, xfs, btrfs, \
                 tmpfs), not on an overlay: set CONGO_HOME",
            ),
        })
    }

    fn apply(&self, blob: Blob, privilege: Privilege) -> Result<u64> {
        let name = self.name();
        let progress = self.progress(blob.size());
        let cannot_read = |error: std::io::Error| broken(&name, &error);
        let mut stream = Stream::new(
            progress.wrap_read(blob),
            self.layer.compression,
            self.layer.digest,
            self.diff_id,
            self.limits.bytes,
        )
        .map_err(cannot_read)?;
        let mut entries = stream.entries();
        let mut tree = Tree::new(Path::new("/"), self.limits, privilege);
        while let Some(entry) = entries.next_entry().map_err(cannot_read)? {
            let told = || format!("{name}: entry {:?}", String::from_utf8_lossy(&entry.name));
            tree.add(&entry, &mut entries).map_err(|refusal| refused(&told(), refusal))?;
        }
        tree.finish().map_err(|refusal| refused(&name, refusal))?.report(&name);
        let bytes = stream.count();
        stream.verify(&name)?;
        progress.finish_and_clear();
        Ok(bytes)
    }

    fn name(&self) -> String {
        let digest = self.layer.digest.unwrap_or(self.diff_id);
        format!("layer {digest} of the image {}", self.image.source.path().display())
    }

    /// Draws itself where stderr is a terminal. It has no thread.
    fn progress(&self, size: u64) -> ProgressBar {
        let template = "unpacking layer {msg} {wide_bar} {bytes}/{total_bytes}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(size).with_style(style).with_message(format!(
            "{}/{}",
            self.number + 1,
            self.image.layers.len()
        ))
    }
}

fn refused(what: &str, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Rule(rule) => {
            Error::new(format!("{what}: {rule}")).hint("no layer may have that, so the image is refused")
        }
        Refusal::Io(error) => broken(what, &error),
    }
}

/// The options of an overlay. The highest lower layer comes first. The defaults of kernels vary, so the
/// options name all that the store relies on. Each layer has all of its data, and no notes of where a folder
/// was moved from.
fn overlay_options(lower: &[File], upper: &File, work: &File) -> String {
    let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let lower: Vec<_> = lower.iter().map(path).collect();
    let (lower, upper, work) = (lower.join(":"), path(upper), path(work));
    let more = Privilege::current().overlay_options();
    format!("lowerdir={lower},upperdir={upper},workdir={work},{more}")
}

/// What tells one folder from another.
fn identity(path: &Path) -> Result<(u64, u64)> {
    let there = fs::metadata(path).at("read", path)?;
    Ok((there.dev(), there.ino()))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).at("make", path)
}
