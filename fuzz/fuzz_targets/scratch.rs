//! The folder of a target whose reader touches files: a tmpfs without a name, which is the process's root.
//!
//! No other process can see it, and it ends with the process, however that ends. An input that leads out of
//! its folder finds only the files that the target has put there. libFuzzer keeps its own files in the
//! working directory, which stays outside. So libFuzzer gets relative paths only. The target needs root.
//! Man pages: fsopen(2), fsmount(2), chroot(2), tmpfs(5).

#![allow(dead_code, reason = "a target needs some of it")]

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use rustix::process::{chroot, fchdir};

/// Makes the tmpfs, and makes it the root of this process.
pub fn enter() {
    let outside = File::open(".").expect("the working directory can be opened");
    fchdir(make()).expect("its root is a folder");
    chroot(".").expect("root may call chroot");
    fchdir(&outside).expect("the working directory is still there");
}

/// Makes the tmpfs, and returns its root. The process stays outside: some readers need `/proc`.
pub fn make() -> OwnedFd {
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("root may make a tmpfs");
    for (key, value) in [("size", "64m"), ("nr_inodes", "20000"), ("mode", "755")] {
        fsconfig_set_string(&tmpfs, key, value).expect("a tmpfs has these options");
    }
    fsconfig_create(&tmpfs).expect("a tmpfs can be made");
    // An input may make devices. Nobody can open them here.
    let flags = MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, flags).expect("a tmpfs can be mounted")
}

/// Makes a file, and the folders above it.
pub fn file(path: &str, content: &[u8]) {
    fs::create_dir_all(Path::new(path).parent().expect("a file has a folder")).expect("the folder is ours");
    fs::write(path, content).expect("the file is ours");
}

/// Removes the folder, if it is there.
pub fn remove(path: &str) {
    if fs::exists(path).expect("the folder is ours") {
        fs::remove_dir_all(path).expect("the folder is ours");
    }
}

/// The names in a folder, in order.
pub fn names(path: &str) -> Vec<String> {
    let entries = fs::read_dir(path).expect("the folder is there");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.map(|it| it.file_name());
    let mut names: Vec<_> =
        entries.map(|it| name(it).expect("a folder can be read").to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
