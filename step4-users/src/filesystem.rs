//! What the container sees as `/`: mounts of its own, another root, and the two trees that make it usable.
//!
//! Kernel objects: the mount namespace that clone made, the root directory of the process, a proc and a tmpfs
//! filesystem. Order: private first, or the host would get our mounts. Then the root. Then the mounts in it,
//! so that every path, and every symbolic link in a path, is resolved inside.
//! Man pages: mount_namespaces(7), mount(2), pivot_root(2), proc(5), tmpfs(5).

use std::path::Path;

use common::Result;
use common::fs::mount::{Detached, remount_read_only};
use common::fs::path::make_directory;
use common::sys::{chdir, fchdir, mkdir, mount, pivot_root, symlink, umask, umount2, write_file};
use nix::mount::{MntFlags, MsFlags};

use crate::user_namespace::UserNamespace;

/// Cuts the link between the host's mounts and their copies in this namespace.
///
/// systemd makes every mount shared: a mount on a copy appears on the original, too. Without this, the
/// container's /proc and /dev would appear on the host, in the root's folder, and stay there.
pub fn make_mounts_private() -> Result<()> {
    mount("none", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")
}

/// In the child, while the host's is in sight: makes a proc filesystem, which shows the PID namespace of the
/// process that makes it. In a user namespace (step 4) the process must see a proc already.
pub fn open_proc() -> Result<Detached> {
    Detached::filesystem("proc", false)
}

/// In the child, too: makes a sysfs, the kernel's own view of itself. It shows the links of the network
/// namespace of the process that makes it. Read-only, as most of it is the host's.
pub fn open_sys() -> Result<Detached> {
    Detached::filesystem("sysfs", true)
}

/// In the parent: the host's sysfs, for a container in the host's network, without the mounts below it. Only
/// root of the owner of a network namespace may make its sysfs.
pub fn open_host_sys() -> Result<Detached> {
    let mut sys = Detached::copy_of_one(Path::new("/sys"))?;
    sys.set_propagation(MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    sys.make_read_only()?;
    Ok(sys)
}

/// In the parent: the host's devices, as mounts: a user namespace allows no new devices. Read-only keeps
/// their modes and owners, which are the host's. A process can still write to the device itself.
pub fn open_devices() -> Result<Vec<(&'static str, Detached)>> {
    let open = |(path, number): &(&'static str, (u64, u64))| {
        let mut device = Detached::copy_of_device(Path::new(path), *number)?;
        device.set_propagation(MsFlags::MS_PRIVATE)?;
        device.make_read_only()?;
        Ok((*path, device))
    };
    DEVICES.iter().map(open).collect()
}

/// Makes the mount `root` the root of this mount namespace, and gives up the host's.
///
/// chroot would only change where paths begin, and leave the host mounted, for a root process to climb back
/// to. Here the host's root is unmounted from the namespace, so no path and no `..` of the container leads
/// there. Only a file that this process still has open leads there, until it is closed.
pub fn enter_root(root: Detached) -> Result<()> {
    root.enter()?;
    // Over the host's root: for this path the process needs no right.
    root.attach("/")?;
    // "." for both: no folder is needed in the new root to put the old one. It then lies on top of the new
    // one, and is what "." means, until it is detached.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// Mounts the container's proc filesystem.
pub fn mount_proc(proc: Detached) -> Result<()> {
    mkdir("/proc", 0o555)?;
    proc.attach("/proc")
}

/// The devices that programs take for granted, with their numbers from the kernel's admin-guide/devices.
const DEVICES: [(&str, (u64, u64)); 6] = [
    ("/dev/null", (1, 3)),
    ("/dev/zero", (1, 5)),
    ("/dev/full", (1, 7)),
    ("/dev/random", (1, 8)),
    ("/dev/urandom", (1, 9)),
    // It is the terminal of the process that opens it, so it may be shared.
    ("/dev/tty", (5, 0)),
];

/// Fills /dev with these devices, and not with the host's disks and memory.
///
/// On a tmpfs, so that they are gone with the namespace and never get into the root on disk.
pub fn mount_dev(devices: Vec<(&str, Detached)>) -> Result<()> {
    mkdir("/dev", 0o755)?;
    // MS_NODEV: the devices are mounts of their own. No other device in here works.
    mount("tmpfs", "/dev", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755,size=65536k")?;
    for (path, device) in devices {
        write_file(path, "")?;
        device.attach(path)?;
    }
    // Docker's umask for a container's files, whatever the caller's umask was.
    umask(0o022);
    // A shell's `<(…)` needs these, and a program that writes to "/dev/stdout".
    symlink("/proc/self/fd", "/dev/fd")?;
    symlink("/proc/self/fd/0", "/dev/stdin")?;
    symlink("/proc/self/fd/1", "/dev/stdout")?;
    symlink("/proc/self/fd/2", "/dev/stderr")?;
    // The kernel's own memory, as a core file for a debugger.
    symlink("/proc/kcore", "/dev/core")
}

/// Mounts the container's view of the kernel.
pub fn mount_sys(sys: Detached) -> Result<()> {
    mkdir("/sys", 0o555)?;
    sys.attach("/sys")
}

/// Mounts pseudo-terminals of the container's own: each devpts counts from 0, and shows only those opened by
/// its `ptmx`.
pub fn mount_pts(users: &UserNamespace) -> Result<()> {
    mkdir("/dev/pts", 0o755)?;
    // gid 5 is the group tty in every distribution. Only its members may write to other users' terminals.
    // A namespace with a single user does not have that group.
    let options = match users.has_group(5) {
        true => "newinstance,ptmxmode=666,mode=620,gid=5",
        false => "newinstance,ptmxmode=666,mode=620",
    };
    mount("devpts", "/dev/pts", "devpts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, options)?;
    symlink("pts/ptmx", "/dev/ptmx")
}

/// Makes the root read-only, and not what is mounted in it: a property of this one mount. A remount with
/// MS_BIND changes it, and takes away each other flag of the mount that is not named again.
pub fn make_root_read_only() -> Result<()> {
    remount_read_only("/")
}

/// Makes `path` the working directory, and makes it and those above it where they are missing. By descriptor:
/// a link of /proc would lead out of the root, such as /proc/1/root with --pid host.
pub fn enter_workdir(path: &Path) -> Result<()> {
    fchdir(&make_directory(path)?)
}
