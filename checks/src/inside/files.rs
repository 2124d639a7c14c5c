//! Attacks on files of the host. None does harm where it succeeds: a file is opened to be written, and
//! nothing is written; its mode is set to what it is.
//!
//! Kernel objects: the runtime's own file, file handles, cgroup file systems.
//! Man pages: proc_pid_exe(5), open_by_handle_at(2), cgroups(7).

use std::fmt::Write;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use common::sys::attack::handle::{self, Handle};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// To open the file at a path for writing, and to change its mode, from within the namespaces of a process of
/// the host. That process's id follows. Prints `file=DEVICE:INODE write=OUTCOME chmod=OUTCOME`.
pub const OVERWRITE: &str = "overwrite";

/// To read a file by its handle, `KIND:HEX`, from the file system of the folder that comes first. Prints
/// `read=CONTENT`.
pub const HANDLE: &str = "handle";

/// To mount cgroup file systems and to look for a `release_agent`. Prints what came of each try.
pub const CGROUPS: &str = "cgroups";

/// What came of a call, as the name of its errno.
fn outcome<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "done".into(),
        Err(error) => {
            error.raw_os_error().map_or("failed".into(), |code| format!("{:?}", Errno::from_raw(code)))
        }
    }
}

/// Does what is asked for, if it is one of these.
pub(super) fn act(asked: &str, arguments: &mut impl Iterator<Item = String>) -> Option<String> {
    let mut next = || arguments.next().unwrap_or_default();
    Some(match asked {
        OVERWRITE => {
            let (path, process) = (next(), next());
            overwrite(Path::new(&path), &process).unwrap_or_else(|error| format!("file=none {error}"))
        }
        HANDLE => {
            let (folder, handle) = (next(), next());
            let content = by_handle(Path::new(&folder), &handle);
            format!("read={}", content.unwrap_or_else(|error| outcome::<()>(Err(error))))
        }
        CGROUPS => cgroups(),
        _ => return None,
    })
}

fn overwrite(path: &Path, process: &str) -> io::Result<String> {
    if !process.is_empty() {
        join(process)?;
    }
    let file = File::open(path)?;
    let there = file.metadata()?;
    let write = outcome(OpenOptions::new().write(true).open(path));
    let chmod = outcome(file.set_permissions(Permissions::from_mode(there.mode() & 0o7777)));
    Ok(format!("file={}:{} write={write} chmod={chmod}", there.dev(), there.ino()))
}

/// Enters the user and the mount namespace of a process, as the root of that user namespace. No process there
/// can do more than this one can. As the host's root it could do more, because that owns the host's files.
fn join(process: &str) -> io::Result<()> {
    let open = |kind: &str| File::open(format!("/proc/{process}/ns/{kind}"));
    let (user, mount) = (open("user")?, open("mnt")?);
    let own = fs::metadata("/proc/self/ns/user")?;
    // The kernel refuses to enter the user namespace in which one is.
    if own.ino() != user.metadata()?.ino() {
        setns(user, CloneFlags::CLONE_NEWUSER)?;
        // Where an ordinary user's namespace forbids this call, the groups stay: that is no less.
        let _ = setgroups(&[]);
        let (group, user) = (Gid::from_raw(0), Uid::from_raw(0));
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
    }
    Ok(setns(mount, CloneFlags::CLONE_NEWNS)?)
}

fn by_handle(folder: &Path, text: &str) -> io::Result<String> {
    let malformed = || io::Error::from(Errno::EINVAL);
    let (kind, hex) = text.split_once(':').ok_or_else(malformed)?;
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
    let bytes = bytes.collect::<Option<Vec<_>>>().ok_or_else(malformed)?;
    let handle = Handle { kind: kind.parse().map_err(|_| malformed())?, bytes };
    let mut content = String::new();
    File::from(handle::open(File::open(folder)?, &handle)?).read_to_string(&mut content)?;
    Ok(content)
}

/// As [`HANDLE`] wants it.
pub(crate) fn handle_of(path: &Path) -> io::Result<String> {
    let handle = handle::of(path)?;
    let mut text = format!("{}:", handle.kind);
    for byte in handle.bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// First with what the process has, then as root of a user namespace of its own, which was CVE-2022-0492.
fn cgroups() -> String {
    let mut found = String::new();
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Of version 1 only what there is: a mount of another controller would take it away from version 2.
    let controllers =
        text.lines().filter_map(|line| line.split(':').nth(1)).find(|it| !it.is_empty() && !it.contains('='));
    let mut attempt = |who: &str| {
        for (kind, options) in
            [Some(("cgroup2", None)), controllers.map(|it| ("cgroup", Some(it)))].into_iter().flatten()
        {
            let at = Path::new("/mounted-by-checks");
            let _ = fs::create_dir(at);
            let mounted = mount(Some("none"), at, Some(kind), MsFlags::empty(), options);
            let _ = write!(found, "{who}-mount={} ", outcome(mounted.map_err(io::Error::from)));
            if mounted.is_ok() {
                // Opened only: what is written there, root of the host executes.
                let agent = OpenOptions::new().write(true).open(at.join("release_agent"));
                let _ = write!(found, "release-agent={} ", outcome(agent));
                let _ = nix::mount::umount(at);
            }
        }
    };
    attempt("root");
    let namespaces = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
    let unshared = unshare(namespaces);
    if unshared.is_ok() {
        attempt("user-namespace");
    }
    let _ = fs::remove_dir("/mounted-by-checks");
    let _ = write!(found, "unshare={}", outcome(unshared.map_err(io::Error::from)));
    found
}
