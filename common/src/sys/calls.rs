//! The system calls that the lessons make, one function each, with the kernel's name and order of arguments.
//!
//! Each makes its call and nothing else, and tells it to [`explain`] with its real arguments. It turns an
//! errno into an [`Error`] that names the call and the arguments. So a lesson reads as the list of requests
//! to the kernel.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::resource::{RLIM_INFINITY, Resource, rlim_t};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{Gid, Pid, Uid, getppid};

use crate::sys::error::{Context, Error, Hint, Result};
use crate::sys::explain;
use crate::sys::folder::names_in;

/// Attaches a filesystem at `target`, or changes the mount that is there, as the flags say: mount(2). An
/// empty `fstype` or `data` is passed as NULL.
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN` in the mount namespace's user namespace, ENOENT without a target, EBUSY,
/// ENODEV for a filesystem that the kernel does not have.
pub fn mount(
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    fstype: &str,
    flags: MsFlags,
    data: &str,
) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    let not_empty = |text| Some(text).filter(|text: &&str| !text.is_empty());
    call(
        "mount(2)",
        || {
            let flags = names(flags.iter_names().map(|(name, _)| name));
            let (fstype, data) = (OrNull(not_empty(fstype)), OrNull(not_empty(data)));
            format!("mount({source:?}, {target:?}, {fstype}, {flags}, {data})")
        },
        || nix::mount::mount(Some(source), target, not_empty(fstype), flags, not_empty(data)),
    )
}

/// Makes `path` the directory at which this process's absolute paths begin: chroot(2). The working directory
/// stays where it is, outside.
///
/// # Errors
/// EPERM without `CAP_SYS_CHROOT`, ENOENT, ENOTDIR.
pub fn chroot(path: &Path) -> Result<()> {
    call("chroot(2)", || format!("chroot({path:?})"), || nix::unistd::chroot(path))
}

/// Makes the mount at `new` the root of this mount namespace, and attaches the one that was it at `put_old`:
/// pivot_root(2). With `"."` for both, the old root lies on top of the new one, until it is detached.
///
/// # Errors
/// - EINVAL when `new` is not a mount of its own.
/// - EINVAL when the mount above it, or that of the root, is shared.
/// - EINVAL when `put_old` does not lie beneath it.
/// - EBUSY when one of them is the root already.
/// - EPERM without `CAP_SYS_ADMIN`.
pub fn pivot_root(new: &str, put_old: &str) -> Result<()> {
    call(
        "pivot_root(2)",
        || format!("pivot_root({new:?}, {put_old:?})"),
        || nix::unistd::pivot_root(new, put_old),
    )
}

/// Changes the working directory: chdir(2).
///
/// # Errors
/// ENOENT, ENOTDIR, EACCES.
pub fn chdir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    call("chdir(2)", || format!("chdir({path:?})"), || nix::unistd::chdir(path))
}

/// Changes the working directory to one that is open: fchdir(2).
///
/// # Errors
/// EACCES.
pub fn fchdir(directory: &OwnedFd) -> Result<()> {
    call("fchdir(2)", || format!("fchdir({})", directory.as_raw_fd()), || nix::unistd::fchdir(directory))
}

/// Undoes a mount: umount2(2).
///
/// # Errors
/// EBUSY when it is in use, unless MNT_DETACH is among the flags; EINVAL when nothing is mounted there.
pub fn umount2(target: impl AsRef<Path>, flags: MntFlags) -> Result<()> {
    let target = target.as_ref();
    let flag_names = || names(flags.iter_names().map(|(name, _)| name));
    call(
        "umount(2)",
        || format!("umount2({target:?}, {})", flag_names()),
        || nix::mount::umount2(target, flags),
    )
}

/// Moves this process, which must have one thread, into new namespaces, one for each flag: unshare(2).
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`, EINVAL for a namespace that the kernel does not have, ENOSPC at a limit.
pub fn unshare(flags: CloneFlags) -> Result<()> {
    let flag_names = || names(flags.iter_names().map(|(name, _)| name));
    call("unshare(2)", || format!("unshare({})", flag_names()), || nix::sched::unshare(flags))
}

/// Sets the host name of this process's UTS namespace: sethostname(2).
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN` in the namespace's user namespace, EINVAL for more than 64 bytes.
pub fn sethostname(name: &str) -> Result<()> {
    call("sethostname(2)", || format!("sethostname({name:?})"), || nix::unistd::sethostname(name))
}

/// Makes a directory with these permissions, less the umask: mkdir(2). A directory that is there already is
/// fine. A symbolic link to one is not: it would lead later mounts and files to another place.
///
/// # Errors
/// ENOENT when its parent is not there, ENOTDIR, EACCES, EROFS; EEXIST when `path` is something else.
pub fn mkdir(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    let path = path.as_ref();
    let result = call(
        "mkdir(2)",
        || format!("mkdir({path:?}, 0{mode:o})"),
        || nix::unistd::mkdir(path, Mode::from_bits_truncate(mode)),
    );
    match result {
        Err(error) if error.errno() == Some(Errno::EEXIST) => match path.symlink_metadata() {
            Ok(there) if there.is_dir() => Ok(()),
            Ok(_) => Err(error.hint("what is there is not a directory, or a symbolic link to one")),
            // The kernel has just found something there, but does not say what.
            Err(unknown) => Err(Error::from_io(format!("stat {}", path.display()), &unknown)),
        },
        result => result,
    }
}

/// Opens a file, close-on-exec: open(2).
///
/// # Errors
/// ENOENT, EACCES, and many more.
pub fn open(path: impl AsRef<Path>, flags: OFlag) -> Result<OwnedFd> {
    let path = path.as_ref();
    let flags = flags | OFlag::O_CLOEXEC;
    let flag_names = || names(flags.iter_names().map(|(name, _)| name));
    call(
        "open(2)",
        || format!("open({path:?}, {})", flag_names()),
        || nix::fcntl::open(path, flags, Mode::empty()),
    )
}

/// Makes a file that everybody may read, with this content.
///
/// # Errors
/// EEXIST, ENOSPC, EROFS.
pub fn write_file(path: impl AsRef<Path>, content: &str) -> Result<()> {
    let path = path.as_ref();
    call(
        "open(2), write(2)",
        || format!("write({path:?}, {} bytes)", content.len()),
        || fs::write(path, content),
    )
}

/// Writes a value to a file of the kernel's, such as those in `/proc` and in a cgroup. Does so in one
/// write(2), as the kernel takes no value in parts. `man` is the page about it.
///
/// # Errors
/// ENOENT when this kernel has no such file; what the kernel says of the value; when it takes a part of it.
pub fn write_value(man: &str, path: impl AsRef<Path>, value: &str) -> Result<()> {
    let path = path.as_ref();
    let open_and_write = || {
        // Without O_CREAT: a file that the kernel does not have must give ENOENT, not EACCES.
        write_at_once(&mut fs::OpenOptions::new().write(true).open(path)?, value.as_bytes())
    };
    call(man, || format!("write({path:?}, {value:?})"), open_and_write).map(drop)
}

/// The kernel takes what comes in a second call for another value. So the rest of a value of which it has
/// taken a part cannot be written.
fn write_at_once(file: &mut impl io::Write, value: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(value) {
            // A signal came before anything was written.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(count) if count < value.len() => {
                let what = format!("the kernel took {count} of {} bytes", value.len());
                return Err(io::Error::new(io::ErrorKind::WriteZero, what));
            }
            result => return result,
        }
    }
}

/// Makes a character device with these permissions, less the umask: mknod(2).
///
/// # Errors
/// EPERM without `CAP_MKNOD` in the first user namespace, EEXIST.
pub fn mknod(path: impl AsRef<Path>, mode: u32, (major, minor): (u64, u64)) -> Result<()> {
    let path = path.as_ref();
    call(
        "mknod(2)",
        || format!("mknod({path:?}, S_IFCHR|0{mode:o}, makedev({major}, {minor}))"),
        || {
            let device = nix::sys::stat::makedev(major, minor);
            nix::sys::stat::mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(mode), device)
        },
    )
}

/// Makes a symbolic link at `link` that says `target`: symlink(2).
///
/// # Errors
/// EEXIST, ENOENT, EROFS.
pub fn symlink(target: &str, link: impl AsRef<Path>) -> Result<()> {
    let link = link.as_ref();
    call(
        "symlink(2)",
        || format!("symlink({target:?}, {link:?})"),
        || nix::unistd::symlinkat(target, nix::fcntl::AT_FDCWD, link),
    )
}

/// Sets which permissions new files of this process do not get: umask(2). It cannot fail.
pub fn umask(mask: u32) {
    let before = nix::sys::stat::umask(Mode::from_bits_truncate(mask));
    explain::line(format_args!("umask({mask:03o})"), format_args!("{:03o}", before.bits()), "umask(2)");
}

/// Runs `story` with another [`umask`], and sets the one of before again.
pub fn with_umask<T>(mask: u32, story: impl FnOnce() -> T) -> T {
    let before = nix::sys::stat::umask(Mode::from_bits_truncate(mask));
    let told = story();
    nix::sys::stat::umask(before);
    told
}

/// Limits a resource of this process and of those that it starts: setrlimit(2). `soft` holds, and may be
/// raised up to `hard`; both in the unit of the resource.
///
/// # Errors
/// EPERM when `hard` would rise without `CAP_SYS_RESOURCE`, or above `/proc/sys/fs/nr_open` for
/// RLIMIT_NOFILE.
pub fn setrlimit(resource: Resource, soft: rlim_t, hard: rlim_t) -> Result<()> {
    call(
        "setrlimit(2)",
        || format!("setrlimit({resource:?}, {{{}, {}}})", Limit(soft), Limit(hard)),
        || nix::sys::resource::setrlimit(resource, soft, hard),
    )
}

/// Asks the kernel to send SIGKILL to this process when the parent dies: prctl(2), `PR_SET_PDEATHSIG`. The
/// kernel forgets it when the process changes its effective user or group, or executes a program that does.
///
/// # Errors
/// None that the arguments can cause.
pub fn die_with_parent() -> Result<()> {
    call(
        "PR_SET_PDEATHSIG(2const)",
        || "prctl(PR_SET_PDEATHSIG, SIGKILL)".into(),
        || nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL),
    )
}

/// The same in a child of the process `parent`, which may have died before this call. Then this process has
/// another parent now, and no signal would come.
///
/// # Errors
/// ESRCH when the parent has died.
pub fn die_with(parent: Pid) -> Result<()> {
    die_with_parent()?;
    match getppid() == parent {
        true => Ok(()),
        false => Err(Error::from_errno(format!("the parent {parent} of this process"), Errno::ESRCH)),
    }
}

/// A limit as getrlimit(2) names it.
struct Limit(rlim_t);

impl Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == RLIM_INFINITY { f.write_str("RLIM_INFINITY") } else { self.0.fmt(f) }
    }
}

/// Lets another process, a child in a user namespace of its own, raise its limit of a resource up to `hard`:
/// prlimit(2). What holds for it stays as it is.
///
/// # Errors
/// EPERM without `CAP_SYS_RESOURCE`; ESRCH when it has ended.
pub fn allow_limit(process: Pid, resource: Resource, hard: rlim_t) -> Result<()> {
    let kind = resource as libc::__rlimit_resource_t;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one structure; NULL sets nothing.
    Errno::result(unsafe { libc::prlimit(process.as_raw(), kind, std::ptr::null(), &raw mut limit) })
        .context(format_args!("prlimit({process}, {resource:?})"))?;
    if hard <= limit.rlim_max {
        return Ok(());
    }
    limit.rlim_max = hard;
    call(
        "prlimit(2)",
        || format!("prlimit({process}, {resource:?}, {{{}, {}}}, NULL)", Limit(limit.rlim_cur), Limit(hard)),
        || {
            // SAFETY: the kernel reads one structure; NULL asks for no old value.
            let result =
                unsafe { libc::prlimit(process.as_raw(), kind, &raw const limit, std::ptr::null_mut()) };
            Errno::result(result).map(drop)
        },
    )
}

/// Sets the supplementary groups: setgroups(2). `primary` is one of them, and the first. Where a user
/// namespace may set none, it does nothing unless there are `others`.
///
/// # Errors
/// EPERM without `CAP_SETGID`, or in a user namespace that may not; EINVAL for a group that it does not have.
pub fn setgroups(primary: u32, others: &[u32]) -> Result<()> {
    // The price of a map that needed no help: user_namespaces(7).
    let denied = || fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny");
    if others.is_empty() && denied() {
        return Ok(());
    }
    let others = others.iter().filter(|&&group| group != primary);
    let groups: Vec<_> = [&primary].into_iter().chain(others).map(|&group| Gid::from_raw(group)).collect();
    call("setgroups(2)", || format!("setgroups({groups:?})"), || nix::unistd::setgroups(&groups))
        .hint_if(Errno::EINVAL, NO_SUCH_ID)
        .hint_if(Errno::EPERM, "--user: without ids in /etc/subuid and /etc/subgid there is no other group")
}

const NO_SUCH_ID: &str =
    "--user: expected one of the container's ids: it has those of /proc/self/uid_map and gid_map";

/// Sets all three group ids: setresgid(2).
///
/// # Errors
/// EPERM without `CAP_SETGID`; EINVAL for a group that the user namespace does not have.
pub fn setresgid(group: u32) -> Result<()> {
    let id = Gid::from_raw(group);
    call(
        "setresgid(2)",
        || format!("setresgid({group}, {group}, {group})"),
        || nix::unistd::setresgid(id, id, id),
    )
    .hint_if(Errno::EINVAL, NO_SUCH_ID)
}

/// Sets all three user ids: setresuid(2). Root's capabilities go with them, unless they are kept.
///
/// # Errors
/// EPERM without `CAP_SETUID`. EINVAL if the user namespace does not have the user.
pub fn setresuid(user: u32) -> Result<()> {
    let id = Uid::from_raw(user);
    call(
        "setresuid(2)",
        || format!("setresuid({user}, {user}, {user})"),
        || nix::unistd::setresuid(id, id, id),
    )
    .hint_if(Errno::EINVAL, NO_SUCH_ID)
}

/// statfs(2). `libc` does not have it.
const PIPEFS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x5049_5045);

/// Gives those of the three streams that are pipes to a user: fchown(2). Other files stay whose they are.
///
/// # Errors
/// EPERM without `CAP_CHOWN`.
pub fn give_streams(user: u32, group: u32) -> Result<()> {
    let streams = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for stream in [streams.0.as_fd(), streams.1.as_fd(), streams.2.as_fd()] {
        // A pipe that has a name on a disk is somebody's file.
        let is_pipe = nix::sys::statfs::fstatfs(stream).is_ok_and(|it| it.filesystem_type() == PIPEFS_MAGIC);
        if is_pipe {
            call(
                "fchown(2)",
                || format!("fchown({}, {user}, {group})", stream.as_raw_fd()),
                || nix::unistd::fchown(stream, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))),
            )?;
        }
    }
    Ok(())
}

/// The type of the file at this path, which may be a symbolic link. `None` only where the kernel says that
/// nothing is there. If something else keeps us from looking, the file may exist, and a protection of it must
/// not be left out.
///
/// # Errors
/// EACCES, EIO, ELOOP and the like.
pub fn what_is_at(path: &Path) -> Result<Option<fs::FileType>> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        there => there.at("look at", path).map(|there| Some(there.file_type())),
    }
}

/// The folders `/sys/devices/system/cpu/cpuN` of this machine's CPUs; none where no sysfs is mounted.
///
/// # Errors
/// As [`what_is_at`].
pub fn folders_of_cpus() -> Result<Vec<PathBuf>> {
    numbered("/sys/devices/system/cpu", "cpu")
}

/// The entries of a folder with a name of this kind and a number; none where the folder is not there.
fn numbered(folder: impl AsRef<Path>, kind: &str) -> Result<Vec<PathBuf>> {
    let folder = folder.as_ref();
    let names = match names_in(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.at("read", folder)?,
    };
    let is_number = |rest: &[u8]| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit);
    let is_one = |name: &OsString| name.as_bytes().strip_prefix(kind.as_bytes()).is_some_and(is_number);
    Ok(names.into_iter().filter(is_one).map(|name| folder.join(name)).collect())
}

/// Sets no_new_privs for this thread and all that it starts, for ever: prctl(2), `PR_SET_NO_NEW_PRIVS`. Then
/// execve(2) gives no process new rights, not even by a set-user-ID bit or a file's capabilities.
///
/// # Errors
/// None that the caller can cause.
pub fn set_no_new_privs() -> Result<()> {
    call(
        "PR_SET_NO_NEW_PRIVS(2const)",
        || "prctl(PR_SET_NO_NEW_PRIVS, 1)".into(),
        nix::sys::prctl::set_no_new_privs,
    )
}

/// Protects this process from others of the same user, until it becomes another program: prctl(2),
/// `PR_SET_DUMPABLE`. They reach neither its memory, by ptrace(2), nor its open files.
///
/// # Errors
/// None that the caller can cause.
pub fn set_not_dumpable() -> Result<()> {
    call(
        "PR_SET_DUMPABLE(2const)",
        || "prctl(PR_SET_DUMPABLE, 0)".into(),
        || nix::sys::prctl::set_dumpable(false),
    )
}

/// Makes the call, tells it, and gives an error its name and arguments.
pub(crate) fn call<T: Returned, E: Into<io::Error>>(
    man: &str,
    name_and_arguments: impl Fn() -> String,
    action: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<T> {
    // The turn is taken before the call, so that the other process cannot tell what follows from it first.
    let turn = explain::Turn::take();
    let result = action().map_err(E::into);
    if let Some(turn) = turn {
        match &result {
            Ok(value) => turn.line(name_and_arguments(), value.number(), man),
            Err(error) => turn.line(name_and_arguments(), failed(error), man),
        }
    }
    result.map_err(|error| Error::from_io(name_and_arguments(), &error))
}

/// What a call returned that failed, as strace would show it. An error that is not the kernel's has words
/// only.
fn failed(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("-1 {:?}", Errno::from_raw(code)),
        None => format!("-1 {error}"),
    }
}

/// What a system call returned, as the number that strace would show.
pub(crate) trait Returned {
    fn number(&self) -> usize;
}

impl Returned for () {
    fn number(&self) -> usize {
        0
    }
}

impl Returned for OwnedFd {
    fn number(&self) -> usize {
        usize::try_from(self.as_raw_fd()).unwrap_or_default()
    }
}

impl Returned for crate::sys::pty::WindowSize {
    fn number(&self) -> usize {
        0
    }
}

impl Returned for usize {
    fn number(&self) -> usize {
        *self
    }
}

/// `A|B`, as a C program and strace write flags.
pub(crate) fn names<'a>(flags: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = flags.collect();
    if names.is_empty() { "0".into() } else { names.join("|") }
}

/// A text in quotes, or NULL.
struct OrNull<'a>(Option<&'a str>);

impl Display for OrNull<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(f, "{text:?}"),
            None => f.write_str("NULL"),
        }
    }
}

/// `["sh", "-c", "exit 7"]`.
pub(crate) fn list<T: AsRef<OsStr>>(items: &[T]) -> String {
    let mut text = String::from("[");
    for (index, item) in items.iter().enumerate() {
        let _ = write!(text, "{}{:?}", if index == 0 { "" } else { ", " }, item.as_ref());
    }
    text + "]"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each write with the next of these, the first one last.
    struct Answers(Vec<io::Result<usize>>);

    impl io::Write for Answers {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.pop().unwrap()
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_value_is_written_whole_or_not_at_all() {
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        let write = |answers| write_at_once(&mut Answers(answers), b"value");
        assert_eq!(write(vec![Ok(5), interrupted(), interrupted()]).unwrap(), 5);
        let short = write(vec![Ok(2), interrupted()]).unwrap_err();
        assert_eq!(short.to_string(), "the kernel took 2 of 5 bytes");
        let refused = write(vec![Err(Errno::EINVAL.into())]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EINVAL as i32));
    }

    #[test]
    fn only_what_the_kernel_says_is_not_there_is_not_there() {
        let home = tempfile::tempdir().unwrap();
        let (file, folder) = (home.path().join("file"), home.path().join("folder"));
        assert!(what_is_at(&file).unwrap().is_none());
        assert!(numbered(&folder, "cpu").unwrap().is_empty());
        fs::write(&file, "").unwrap();
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, home.path().join("link")).unwrap();
        assert!(what_is_at(&home.path().join("link")).unwrap().unwrap().is_symlink());
        for name in ["cpu7", "cpu", "cpufreq", "cpu7x", "7"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        assert_eq!(numbered(home.path(), "cpu").unwrap(), [home.path().join("cpu7")]);
        let below = file.join("below");
        assert_eq!(what_is_at(&below).unwrap_err().errno(), Some(Errno::ENOTDIR));
        assert_eq!(numbered(&below, "cpu").unwrap_err().errno(), Some(Errno::ENOTDIR));
    }

    #[test]
    fn an_error_without_a_number_is_narrated_in_words() {
        assert_eq!(failed(&Errno::EBUSY.into()), "-1 EBUSY");
        assert_eq!(failed(&io::Error::other("no such device here")), "-1 no such device here");
    }
}
