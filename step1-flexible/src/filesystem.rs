//! What the container sees as `/`: mounts of its own, another root, and the two trees that make it usable.
//!
//! Kernel objects: the mount namespace that clone made, the root directory of the process, a proc and a tmpfs
//! filesystem. Order: private first, or the host would get our mounts. Then the root. Then the mounts in it,
//! so that every path, and every symbolic link in a path, is resolved inside.
//! Man pages: mount_namespaces(7), mount(2), chroot(2), proc(5), tmpfs(5).

use std::path::Path;

use common::Result;
use common::fs::path::make_directory;
use common::sys::{chdir, chroot, fchdir, mkdir, mknod, mount, symlink, umask};
use nix::mount::MsFlags;

/// Cuts the link between the host's mounts and their copies in this namespace.
///
/// systemd makes every mount shared: a mount on a copy appears on the original, too. Without this, the
/// container's /proc and /dev would appear on the host, in the root's folder, and stay there.
pub fn make_mounts_private() -> Result<()> {
    mount("none", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")
}

/// Makes `root` the place where absolute paths begin.
///
/// chroot changes how paths are looked up, and nothing else. The host's files are still mounted, and a root
/// process can climb out to them. Step 3 closes this way by pivot_root.
pub fn enter_root(root: &Path) -> Result<()> {
    chroot(root)?;
    // chroot leaves the working directory where it was: outside. `cd ..` would walk through the host.
    chdir("/")
}

/// Mounts a proc filesystem, which shows the PID namespace of the process that mounts it: the container's.
pub fn mount_proc() -> Result<()> {
    mkdir("/proc", 0o555)?;
    // Nothing in /proc is to be executed, opened as a device, or run with other rights.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount("proc", "/proc", "proc", flags, "")
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
pub fn mount_dev() -> Result<()> {
    mkdir("/dev", 0o755)?;
    // No MS_NODEV: this is the one place where devices must work.
    mount("tmpfs", "/dev", "tmpfs", MsFlags::MS_NOSUID, "mode=755,size=65536k")?;
    // The caller's umask would take the write permission for other users from /dev/null.
    umask(0o000);
    for (path, number) in DEVICES {
        mknod(path, 0o666, number)?;
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

/// Makes `path` the working directory, and makes it and those above it where they are missing. By descriptor:
/// a link of /proc would lead out of the root, such as /proc/1/root with --pid host.
pub fn enter_workdir(path: &Path) -> Result<()> {
    fchdir(&make_directory(path)?)
}
