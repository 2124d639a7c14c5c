//! Where a call can fail: in which process, which call, on what; and the errors that it can really give.

use std::fmt::{self, Display};
use std::fs;
use std::str::FromStr;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;
use regex::Regex;
use syscalls::Sysno;

use super::trace::{self, Call};

/// A system call of one process, told apart from all others in a way that each run of the same command line
/// repeats.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The process by its descent: `runtime`, and `runtime.2` for the second process that it made.
    pub process: String,
    /// The call and its object: `openat(/proc/self/mountinfo)`.
    pub what: String,
    /// How often the process has made this call before.
    pub turn: usize,
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.process, self.what)?;
        if self.turn > 0 { write!(f, " #{}", self.turn + 1) } else { Ok(()) }
    }
}

/// The call's name: `openat`.
pub fn name(call: &Call) -> &'static str {
    usize::try_from(call.number).ok().and_then(Sysno::new).map_or("unknown", |number| number.name())
}

/// The number of the call of a place: `openat(/dev/null)`.
pub fn number(what: &str) -> Option<u32> {
    let (name, object) = what.split_once('(')?;
    let known = Sysno::from_str(name).ok().map(|number| number as u32);
    known.or_else(|| object.strip_suffix(')')?.strip_prefix('#')?.parse().ok())
}

/// The call with what tells it from others: paths, the files behind descriptors, flags.
pub fn describe(pid: Pid, call: &Call) -> String {
    let [a, b, c, d, ..] = call.arguments;
    let path = |address: u64| match address {
        0 => "NULL".to_owned(),
        _ => trace::text(pid, address).unwrap_or_else(|| "?".into()),
    };
    let file = |number: u64| of_descriptor(pid, number);
    // Relative to a directory.
    let at = |folder: u64, address: u64| {
        let path = path(address);
        if path.starts_with('/') || folder as i32 == libc::AT_FDCWD {
            return path;
        }
        format!("{}/{path}", file(folder))
    };
    let name = name(call);
    let object = match name {
        "open" | "stat" | "lstat" | "access" | "mkdir" | "rmdir" | "unlink" | "chdir" | "chroot"
        | "statfs" | "readlink" | "chmod" | "chown" | "lchown" | "mknod" | "umount2" | "execve"
        | "truncate" => path(a),
        "fsopen" | "memfd_create" => path(a),
        "openat" | "openat2" | "newfstatat" | "statx" | "mkdirat" | "unlinkat" | "readlinkat"
        | "faccessat" | "faccessat2" | "mknodat" | "fchownat" | "fchmodat" | "utimensat" | "open_tree"
        | "mount_setattr" | "execveat" => at(a, b),
        "rename" | "link" | "symlink" | "pivot_root" => format!("{}, {}", path(a), path(b)),
        "renameat" | "renameat2" | "linkat" | "move_mount" => format!("{}, {}", at(a, b), at(c, d)),
        "symlinkat" => format!("{}, {}", path(a), at(b, c)),
        "mount" => format!("{}, {}, {}, {d:#x}", path(a), path(b), path(c)),
        "read" | "write" | "pread64" | "pwrite64" | "readv" | "writev" | "sendto" | "recvfrom"
        | "sendmsg" | "recvmsg" | "fstat" | "getdents64" | "flock" | "ftruncate" | "fchmod" | "fchown"
        | "fchdir" | "lseek" | "fsync" | "close" | "bind" | "connect" | "listen" | "setsockopt"
        | "getsockopt" | "fsmount" | "fgetxattr" | "fsetxattr" | "flistxattr" | "fstatfs" | "fallocate"
        | "setns" | "shutdown" => file(a),
        "ioctl" => format!("{}, {b:#x}", file(a)),
        "fcntl" => format!("{}, {b}, {c:#x}", file(a)),
        "fsconfig" => format!("{}, {b}, {}", file(a), path(c)),
        "getxattr" | "lgetxattr" | "setxattr" | "lsetxattr" | "listxattr" | "llistxattr" => {
            let name = if name.contains("list") { String::new() } else { format!(", {}", path(b)) };
            path(a) + &name
        }
        "dup2" | "dup3" => format!("{}, {b}", file(a)),
        "prctl" => format!("{a}, {b}"),
        "clone" | "unshare" => format!("{:#x}", a & !0xff),
        "clone3" => format!("{:#x}", flags_of_clone3(pid, call)),
        "socket" | "socketpair" => format!("{a}, {b:#x}"),
        "mmap" => format!("{d:#x}"),
        "keyctl" | "setuid" | "setgid" | "setresuid" | "setresgid" | "setgroups" | "umask" | "prlimit64"
        | "seccomp" | "kill" | "rt_sigaction" | "rt_sigprocmask" | "waitid" | "wait4" => match name {
            "prlimit64" => format!("{b}"),
            "kill" => format!("{b}"),
            "waitid" | "wait4" => String::new(),
            _ => format!("{a}"),
        },
        // Newer than the list of names.
        "unknown" => return format!("{name}(#{})", call.number),
        _ => String::new(),
    };
    format!("{name}({})", steady(&object))
}

/// With which flags clone3(2) makes a process.
fn flags_of_clone3(pid: Pid, call: &Call) -> u64 {
    let bytes = trace::memory(pid, call.arguments[0], 8);
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

/// What a descriptor leads to.
fn of_descriptor(pid: Pid, number: u64) -> String {
    let number = number as i32;
    if number == libc::AT_FDCWD {
        return ".".into();
    }
    let link = fs::read_link(format!("/proc/{pid}/fd/{number}"));
    link.map_or_else(|_| "?".into(), |link| link.to_string_lossy().into_owned())
}

/// The text without what each run has anew: process ids, random names, numbers of sockets and descriptors.
pub fn steady(text: &str) -> String {
    static PARTS: LazyLock<[(Regex, &str); 9]> = LazyLock::new(|| {
        let part = |expression: &str, by| (Regex::new(expression).expect("a regular expression"), by);
        [
            part(r"/tmp/congo-checks-[0-9A-Za-z]+", "$$T"),
            part(r"/tmp/faults-[0-9A-Za-z]+", "$$F"),
            part(r"congo-[0-9a-f]{12}", "congo-N"),
            part(r"\.tmp[0-9A-Za-z]{6}", ".tmpN"),
            part(r"(socket|pipe|mnt|net|uts|user|pid|ipc|cgroup):\[\d+\]", "${1}:[N]"),
            part(r"/fd/\d+", "/fd/N"),
            part(r"/pts/\d+", "/pts/N"),
            part(r"\b[0-9a-f]{16,}\b", "HASH"),
            part(r"\b\d{3,}\b", "N"),
        ]
    });
    PARTS.iter().fold(text.to_owned(), |text, (part, by)| part.replace_all(&text, *by).into_owned())
}

/// The errors that a call can give, whatever its arguments, on a machine that lacks something or forbids it.
/// None for a call that cannot fail, or whose failure is an answer: what is not there, or not yet.
pub fn errnos(pid: Pid, call: &Call) -> &'static [Errno] {
    use Errno as E;
    let [a, b, _, flags, ..] = call.arguments;
    let of_socket = || of_descriptor(pid, a).starts_with("socket:");
    let of_pipe = || of_descriptor(pid, a).starts_with("pipe:");
    match name(call) {
        "open" | "openat" | "openat2" => &[E::EACCES, E::EMFILE, E::EIO],
        "creat" | "mkdir" | "mkdirat" | "symlink" | "symlinkat" | "link" | "linkat" | "rename"
        | "renameat" | "renameat2" => &[E::EACCES, E::ENOSPC, E::EIO],
        "mknod" | "mknodat" => &[E::EPERM, E::ENOSPC],
        "unlink" | "unlinkat" | "rmdir" => &[E::EACCES, E::EBUSY, E::EIO],
        "mount" | "umount2" | "unshare" | "setns" | "fsconfig" | "move_mount" | "mount_setattr" => {
            &[E::EPERM, E::ENOMEM]
        }
        "fsopen" | "fsmount" | "open_tree" => &[E::EPERM, E::ENOMEM, E::EMFILE],
        "pivot_root" => &[E::EPERM, E::EBUSY, E::ENOMEM],
        "chroot" | "chdir" | "fchdir" => &[E::EACCES, E::ENOMEM],
        "clone" | "clone3" | "fork" | "vfork" => &[E::EAGAIN, E::ENOMEM, E::EPERM],
        "execve" | "execveat" => &[E::ENOMEM, E::EACCES, E::EIO],
        "read" | "pread64" | "readv" | "recvfrom" | "recvmsg" if of_socket() => &[E::EINTR, E::ENOMEM],
        "write" | "pwrite64" | "writev" | "sendto" | "sendmsg" if of_socket() => &[E::EINTR, E::ENOBUFS],
        // No disk is behind it.
        "read" | "readv" | "write" | "writev" if of_pipe() => &[E::EINTR],
        // A terminal that was hung up. The main end tells its end so, which is no fault.
        "read" | "readv" if of_descriptor(pid, a).ends_with("/ptmx") => &[E::EINTR],
        "write" | "writev" if of_descriptor(pid, a).starts_with("/dev/pts/") => &[E::EINTR, E::EIO],
        "read" | "pread64" | "readv" => &[E::EINTR, E::EIO],
        "write" | "pwrite64" | "writev" | "copy_file_range" | "sendfile" => &[E::EINTR, E::ENOSPC, E::EIO],
        "ftruncate" | "truncate" | "fallocate" | "fsync" => &[E::ENOSPC, E::EIO],
        "stat" | "lstat" | "newfstatat" | "statx" | "statfs" | "readlink" | "readlinkat" => {
            &[E::EACCES, E::EIO]
        }
        "access" | "faccessat" | "faccessat2" | "fstat" | "getdents64" | "fstatfs" => &[E::EIO],
        "chmod" | "fchmod" | "fchmodat" | "chown" | "lchown" | "fchown" | "fchownat" | "utimensat" => {
            &[E::EPERM, E::EIO]
        }
        "getxattr" | "lgetxattr" | "fgetxattr" | "listxattr" | "llistxattr" | "flistxattr" => &[E::EIO],
        "setxattr" | "lsetxattr" | "fsetxattr" => &[E::ENOSPC, E::EPERM],
        "setuid" | "setgid" | "setresuid" | "setresgid" => &[E::EPERM, E::EAGAIN],
        "setgroups" | "capset" | "prlimit64" | "sethostname" | "setsid" | "setpgid" | "kill"
        | "pidfd_send_signal" | "personality" => &[E::EPERM],
        // PR_SET_NAME, and those that only ask.
        "prctl" if matches!(a as i32, libc::PR_SET_NAME | libc::PR_GET_DUMPABLE) => &[],
        "prctl" | "seccomp" => &[E::EPERM, E::ENOMEM],
        "keyctl" => &[E::EPERM, E::EDQUOT, E::ENOMEM],
        "socket" | "socketpair" => &[E::EMFILE, E::ENOBUFS],
        "bind" | "connect" | "listen" | "setsockopt" => &[E::ENOBUFS],
        "pipe2" | "pipe" | "dup" | "eventfd2" | "epoll_create1" | "timerfd_create" | "signalfd4"
        | "memfd_create" | "pidfd_open" => &[E::EMFILE, E::ENOMEM],
        "fcntl" if matches!(b as i32, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => &[E::EMFILE],
        "fcntl" if b as i32 == libc::F_SETFL => &[E::EPERM],
        "fcntl" if b as i32 == libc::F_ADD_SEALS => &[E::EBUSY, E::EPERM],
        "flock" => &[E::EINTR, E::ENOLCK],
        "ioctl" => &[E::EIO],
        "poll" | "ppoll" | "epoll_wait" | "epoll_pwait" => &[E::EINTR, E::ENOMEM],
        "wait4" | "waitid" | "rt_sigtimedwait" => &[E::EINTR],
        "close_range" => &[E::EMFILE],
        // A memory that processes share. The heap's own is not asked for by the runtime.
        "mmap" if flags as i32 & libc::MAP_SHARED != 0 => &[E::ENOMEM],
        _ => &[],
    }
}

/// Whether the call changes nothing: a kill right before it is the same as one before the next call.
pub fn changes_nothing(call: &Call) -> bool {
    let name = name(call);
    ["stat", "read", "getdents", "access", "get", "poll", "lseek", "brk", "mmap", "munmap", "rt_sig", "futex"]
        .iter()
        .any(|part| name.contains(part))
        || matches!(
            name,
            "statx" | "close" | "madvise" | "mprotect" | "sched_yield" | "sigaltstack" | "mremap"
        )
        || name == "fcntl" && call.arguments[1] as i32 != libc::F_ADD_SEALS
}

#[cfg(test)]
mod tests {
    use nix::libc;

    use super::{number, steady};

    #[test]
    fn a_place_tells_the_number_of_its_call() {
        assert_eq!(number("mount(none, /, NULL, 0x44000)"), Some(libc::SYS_mount as u32));
        assert_eq!(number("openat($T/home/a (b))"), Some(libc::SYS_openat as u32));
        assert_eq!((number("unknown(#999)"), number("unknown()")), (Some(999), None));
    }

    #[test]
    fn what_differs_in_each_run_is_left_out() {
        for (text, expected) in [
            ("/tmp/congo-checks-a1B2c3/home/run", "$T/home/run"),
            ("/sys/fs/cgroup/pids/congo-0123456789ab/pids.max", "/sys/fs/cgroup/pids/congo-N/pids.max"),
            ("/tmp/faults-Hib0Um/stderr", "$F/stderr"),
            ("socket:[123456]", "socket:[N]"),
            ("/proc/1234/uid_map", "/proc/N/uid_map"),
            ("0x7c020000", "0x7c020000"),
            ("/dev/pts/3", "/dev/pts/N"),
        ] {
            assert_eq!(steady(text), expected);
        }
    }
}
