//! Resolving a path beneath a root: a link that a container or an image has put there must not lead outside.
//!
//! A path that is looked at and then used is two lookups, and between them somebody may put a link in its
//! place. So the result is a descriptor.
//!
//! openat2(2) of Linux 5.6 does all of it in the kernel. Before 5.6, and to make missing files, this module
//! walks from name to name. It opens each name without following it, and follows links by hand, beneath the
//! root. A walk goes up by going back to the directory that it came from. So it does no harm if somebody
//! moves that directory meanwhile.
//! Man pages: openat2(2), path_resolution(7), symlink(7), open(2) on O_PATH.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::unistd::symlinkat;

use crate::fs::mount::mountinfo::{id_of, shared_around};
use crate::sys::error::{Context, Error, Hint, Result};
use crate::sys::mounts::mount_id;
use crate::sys::{call, open};

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory, to attach a directory at.
    Directory,
    /// An empty file, to attach anything else at.
    File,
    /// A symbolic link to this place, where nothing else is.
    Link(&'static str),
}

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;
/// How often the kernel is asked again when a rename somewhere kept it from being certain of a `..`.
const MAX_TRIES: usize = 64;
/// Opens a name itself, whatever it is, and gives no right to read it.
const ITSELF: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Opens `path` beneath the directory `root` (O_PATH). Symbolic links are followed as if `root` were `/`, so
/// neither they nor `..` lead outside. Not followed are those of /proc that are none, such as
/// `/proc/self/root`.
///
/// # Errors
/// ENOENT, ENOTDIR; ELOOP when links lead in a circle.
pub fn open_beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    match by_openat2(root, path) {
        // Before 5.6; or forbidden by a filter that does not know the call; or never certain.
        Err(error) if matches!(error.errno(), Some(Errno::ENOSYS | Errno::EPERM | Errno::EAGAIN)) => {
            walk(root, path, None)
        }
        result => result,
    }
}

/// Opens a path of names beneath the directory `root` itself, whatever it is, for no reading (O_PATH). No
/// symbolic link is followed: one on the way is an error, one at the end is what is opened.
///
/// # Errors
/// ENOENT, ENOTDIR; ELOOP for a link on the way.
#[cfg(feature = "image")]
pub(crate) fn open_itself(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(ITSELF).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match openat2(root, path, how) {
        // As in `open_beneath`.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let mut names = path.iter();
            let first = openat(root, names.next().unwrap_or_default(), ITSELF, Mode::empty())?;
            names.try_fold(first, |above, name| openat(&above, name, ITSELF, Mode::empty()))
        }
        result => result,
    }
}

/// The same as [`open_beneath`], and makes what is missing: directories on the way, and `what` at its end.
/// Where a link leads to a place that is not there yet, it is made at that place. Modes are those of mkdir(1)
/// and touch(1), less the umask.
///
/// # Errors
/// Those of [`open_beneath`]; EROFS; EISDIR or ENOTDIR when something else than `what` is there. A missing
/// name lies in a mount that is shared with the host.
pub fn make_beneath(root: &OwnedFd, path: &Path, what: Kind) -> Result<OwnedFd> {
    if let Kind::Link(target) = what {
        return make_link(root, path, target);
    }
    let opened = match open_beneath(root, path) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => {
            // What is made in a shared mount would stay, as that folder is the host's. Before Linux 5.8 not
            // every caller can ask for the mount. Then `check_target` refuses the place afterwards, and what
            // was made stays.
            let known = mount_id(root).is_some();
            let may_make = |here: &OwnedFd| if known { refuse_shared(root, here, path) } else { Ok(()) };
            walk_if(root, path, Some(what), may_make)
                .hint_if(Errno::EROFS, "the file system is read-only there: make that path in it beforehand")
        }
        result => result,
    }?;
    let wrong = |errno, hint| Err(Error::from_errno(format!("mount on {path:?}"), errno).hint(hint));
    match (is_directory(&status(&opened)?), what) {
        (true, Kind::File) => wrong(Errno::EISDIR, "a directory is there, and the source is none"),
        (false, Kind::Directory) => {
            wrong(Errno::ENOTDIR, "what is there is no directory, and the source is one")
        }
        _ => Ok(opened),
    }
}

/// Opens the directory `path` beneath the root of this process, and makes it, and those above it, as far as
/// they are missing. Where a link leads to a place that is not there yet, the directory is made at that
/// place. The links of /proc that lead to what a process has open, such as its root, are not followed.
///
/// # Errors
/// EROFS, EACCES, ENOTDIR; ELOOP when links lead in a circle, or through /proc.
pub fn make_directory(path: &Path) -> Result<OwnedFd> {
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let opened = open_beneath(&root, path).or_else(|error| match error.errno() {
        Some(Errno::ENOENT) => walk(&root, path, Some(Kind::Directory)),
        _ => Err(error),
    })?;
    if is_directory(&status(&opened)?) {
        Ok(opened)
    } else {
        Err(Error::from_errno(format!("chdir({path:?})"), Errno::ENOTDIR))
    }
}

/// Makes sure that there is something at `path` on which a file can be mounted. If not, makes an empty file,
/// with the directories above it. If `path` is a symbolic link, the file is made at the place to which the
/// link leads beneath the root. Links of /proc are not followed, because they lead to files that this process
/// has open.
///
/// # Errors
/// EROFS, EACCES, ENOTDIR; EISDIR when a directory is there; ELOOP when links lead in a circle, or through
/// /proc.
pub fn make_mount_point(path: impl AsRef<Path>) -> Result<()> {
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    make_beneath(&root, path.as_ref(), Kind::File).map(drop)
}

/// Refuses targets that nothing may be mounted over: the root itself, procfs and sysfs. In those two the
/// kernel describes the container and its limits, and programs judge both by that. Refuses targets in a mount
/// that is shared with the host, too. `named` is what the user wrote.
///
/// # Errors
/// It is one of these.
pub fn check_target(root: &OwnedFd, target: &OwnedFd, named: &Path) -> Result<()> {
    let identity = |status: FileStat| (status.st_dev, status.st_ino);
    if identity(status(root)?) == identity(status(target)?) {
        return Err(Error::new(format!("mount on {named:?}: that is the container's root"))
            .hint("expected a directory or a file beneath it"));
    }
    let system = fstatfs(target).context(format_args!("statfs {named:?}"))?;
    let name = match system.filesystem_type() {
        PROC_SUPER_MAGIC => "procfs",
        SYSFS_MAGIC => "sysfs",
        _ => return refuse_shared(root, target, named),
    };
    Err(Error::new(format!("mount on {named:?}: that lies on the container's {name}"))
        .hint("expected a path outside of /proc and /sys"))
}

/// Refuses a place in a shared mount: a volume with `shared`, or what is mounted below a volume. The kernel
/// repeats there each mount that the container gets, on the host, too. The host's one stays when the
/// container ends, as the end of a mount namespace unmounts nothing elsewhere.
fn refuse_shared(root: &OwnedFd, place: &OwnedFd, named: &Path) -> Result<()> {
    // The root itself is never shared, because pivot_root(2) refuses that. Most places lie there, and for
    // them the list of mounts need not be read.
    if id_of(place)? == id_of(root)? {
        return Ok(());
    }
    let Some(point) = shared_around(place)? else { return Ok(()) };
    let what = format!("mount on {named:?}: that lies on the mount {point:?}, which is shared with the host");
    Err(Error::new(what).hint(
        "the host would get the new mount, too, and keep it. Expected a path outside of that mount; or give \
         the volume rslave or rprivate",
    ))
}

/// Makes a link beneath the root, and its directory if that is missing. The link is not followed.
fn make_link(root: &OwnedFd, path: &Path, target: &'static str) -> Result<OwnedFd> {
    let above = make_beneath(root, path.parent().unwrap_or(Path::new("/")), Kind::Directory)?;
    let name = path.file_name().unwrap_or_default();
    let made =
        make_in(&above, name, Kind::Link(target)).and_then(|()| openat(&above, name, ITSELF, Mode::empty()));
    made.context(format_args!("make the link {path:?} beneath the container's root"))
}

fn by_openat2(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    let names = "{O_PATH|O_CLOEXEC, 0, RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS}";
    call(
        "openat2(2)",
        || format!("openat2({}, {path:?}, {names})", root.as_raw_fd()),
        || {
            let mut tries = (0..MAX_TRIES).map(|_| openat2(root, path, how));
            tries.find(|result| !matches!(result, Err(Errno::EAGAIN))).unwrap_or(Err(Errno::EAGAIN))
        },
    )
}

/// The way without openat2(2), which also makes what is missing, if that is asked for.
fn walk(root: &OwnedFd, path: &Path, make: Option<Kind>) -> Result<OwnedFd> {
    walk_if(root, path, make, |_| Ok(()))
}

/// The same. `may_make` is asked of each directory in which a name is missing, before the name is made there.
fn walk_if(
    root: &OwnedFd,
    path: &Path,
    make: Option<Kind>,
    may_make: impl Fn(&OwnedFd) -> Result<()>,
) -> Result<OwnedFd> {
    let what = || format!("open {path:?} beneath the container's root");
    if path.as_os_str().is_empty() {
        return Err(Errno::ENOENT).context(what());
    }
    let mut walk = Walk { root, way: Vec::new(), rest: names(path.as_os_str()).collect(), links: 0 };
    while let Some(name) = walk.rest.pop_front() {
        let mut gone = walk.step(&name, None);
        if gone == Err(Errno::ENOENT) && make.is_some() {
            may_make(walk.here())?;
            gone = walk.step(&name, make);
        }
        gone.context(what())?;
    }
    walk.end().context(what())
}

/// Where a walk is.
struct Walk<'a> {
    root: &'a OwnedFd,
    /// The directories beneath the root that it went through, and last where it is.
    way: Vec<OwnedFd>,
    /// The names still to go.
    rest: VecDeque<OsString>,
    links: usize,
}

impl Walk<'_> {
    /// Where it has come to.
    fn end(mut self) -> nix::Result<OwnedFd> {
        match self.way.pop() {
            Some(here) => Ok(here),
            None => openat(self.root, ".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()),
        }
    }

    fn here(&self) -> &OwnedFd {
        self.way.last().unwrap_or(self.root)
    }

    fn step(&mut self, name: &OsStr, make: Option<Kind>) -> nix::Result<()> {
        if !is_directory(&fstat(self.here())?) {
            return Err(Errno::ENOTDIR);
        }
        if name == "." {
            return Ok(());
        }
        if name == ".." {
            // Above the root is the root.
            self.way.pop();
            return Ok(());
        }
        let next = self.open(name, make)?;
        if fstat(&next)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits() {
            self.way.push(next);
            return Ok(());
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        // Read from the descriptor, so it is the link that was opened.
        let text = readlinkat(&next, "")?;
        if text.as_bytes().starts_with(b"/") {
            self.way.clear();
        }
        for name in names(&text).rev() {
            self.rest.push_front(name);
        }
        Ok(())
    }

    /// Opens a name where the walk is, and makes it if it is missing.
    fn open(&self, name: &OsStr, make: Option<Kind>) -> nix::Result<OwnedFd> {
        // A file that this loop has just made may be gone again, when somebody renames it.
        for _ in 0..MAX_TRIES {
            match (openat(self.here(), name, ITSELF, Mode::empty()), make) {
                (Err(Errno::ENOENT), Some(what)) => {
                    let what = if self.rest.is_empty() { what } else { Kind::Directory };
                    make_in(self.here(), name, what)?;
                }
                (result, _) => return result,
            }
        }
        Err(Errno::ENOENT)
    }
}

/// Makes one name. That another process was faster is no error: what it made is opened as anything that was
/// there.
fn make_in(directory: &OwnedFd, name: &OsStr, what: Kind) -> nix::Result<()> {
    let made = match what {
        Kind::Directory => mkdirat(directory, name, Mode::from_bits_truncate(0o755)),
        Kind::File => {
            // O_EXCL follows no link, not even one that leads nowhere.
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            openat(directory, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
        }
        Kind::Link(target) => symlinkat(target, directory, name),
    };
    if made == Err(Errno::EEXIST) { Ok(()) } else { made }
}

/// The names of a path. A slash at the end says that a directory is meant: as if `.` followed.
fn names(path: &OsStr) -> impl DoubleEndedIterator<Item = OsString> + use<> {
    let mut names: Vec<_> = path
        .as_bytes()
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect();
    if path.as_bytes().ends_with(b"/") {
        names.push(".".into());
    }
    names.into_iter()
}

fn is_directory(status: &FileStat) -> bool {
    status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

fn status(open: &OwnedFd) -> Result<FileStat> {
    fstat(open).context("fstat")
}
