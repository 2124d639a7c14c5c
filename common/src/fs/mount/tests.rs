//! Trees of mounts, on threads with mount namespaces of their own: by the newer call and by the older one.

use std::fs;
use std::path::PathBuf;

use nix::fcntl::open;

use super::*;
use crate::sys::mount;
use crate::testing::in_mount_namespace;

const DATA: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// A source with another mount below it, and a place to attach it; the name has what mountinfo writes as
/// numbers.
struct Folders {
    source: PathBuf,
    target: PathBuf,
}

impl Folders {
    fn new(home: &Path) -> Folders {
        let (source, target) = (home.join("a \\ \n source"), home.join("a \\ \n target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        tmpfs(&source, MsFlags::MS_NOSUID | MsFlags::MS_NOATIME);
        fs::create_dir(source.join("below")).unwrap();
        tmpfs(&source.join("below"), DATA);
        fs::create_dir(source.join("below/deep")).unwrap();
        tmpfs(&source.join("below/deep"), MsFlags::MS_STRICTATIME);
        Folders { source, target }
    }

    fn places(&self) -> [PathBuf; 3] {
        ["x", "below/x", "below/deep/x"].map(|name| self.target.join(name))
    }

    /// Each can be read, none can be written, and the source can.
    fn assert_read_only(&self) {
        for place in self.places() {
            let error = fs::write(&place, "").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::EROFS as i32), "{place:?}");
        }
        fs::write(self.source.join("below/deep/new"), "").unwrap();
        assert!(self.target.join("below/deep/new").exists());
    }
}

fn tmpfs(at: &Path, flags: MsFlags) {
    mount("tmpfs", at, "tmpfs", flags, "size=1m").unwrap();
}

fn path_descriptor(path: &Path) -> OwnedFd {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

/// The options of the mounts at and below a path, in the order of their paths.
fn options(path: &Path) -> Vec<String> {
    let (top, mut below) = mountinfo::of_tree(&path_descriptor(path)).unwrap();
    below.insert(0, top);
    below.sort_by(|one, other| one.point.cmp(&other.point));
    below.into_iter().map(|mount| mount.options).collect()
}

#[test]
fn a_copy_has_what_is_mounted_below() {
    in_mount_namespace(|home| {
        let folders = Folders::new(home);
        let link = folders.source.with_file_name("link");
        std::os::unix::fs::symlink(&folders.source, &link).unwrap();
        let tree = Detached::copy_of(&link).unwrap();
        assert!(tree.is_directory().unwrap());
        fs::write(folders.source.join("below/deep/x"), "deep").unwrap();
        tree.attach_at(&path_descriptor(&folders.target)).unwrap();
        assert_eq!(fs::read_to_string(folders.target.join("below/deep/x")).unwrap(), "deep");
        assert!(mounts_beneath(&folders.target).unwrap().is_some());
        assert_eq!(mounts_beneath(&link.with_file_name("none")).unwrap(), None);
    });
}

#[test]
fn a_copy_of_the_directory_alone() {
    in_mount_namespace(|home| {
        let folders = Folders::new(home);
        let tree = Detached::copy_of_directory(folders.source.to_str().unwrap()).unwrap();
        tree.attach(folders.target.to_str().unwrap()).unwrap();
        assert!(folders.target.join("below").exists());
        assert!(!folders.target.join("below/deep").exists());
    });
}

#[test]
fn a_tree_is_writable_unless_it_is_made_read_only() {
    in_mount_namespace(|home| {
        let folders = Folders::new(home);
        let tree = Detached::copy_of(&folders.source).unwrap();
        let attached = tree.attach_at(&path_descriptor(&folders.target)).unwrap();
        for place in folders.places() {
            fs::write(place, "").unwrap();
        }
        attached.make_read_only().unwrap();
        folders.assert_read_only();
    });
}

/// What a kernel before 5.12 cannot do earlier is done by the time that it is attached.
#[test]
fn read_only_as_soon_as_it_is_attached() {
    in_mount_namespace(|home| {
        let folders = Folders::new(home);
        let mut tree = Detached::copy_of(&folders.source).unwrap();
        tree.later = Later {
            read_only: true,
            no_devices: true,
            propagation: Some(MsFlags::MS_SLAVE | MsFlags::MS_REC),
            cover: false,
        };
        tree.attach_at(&path_descriptor(&folders.target)).unwrap();
        folders.assert_read_only();
    });
}

#[test]
fn read_only_in_the_older_way_and_all_other_flags_stay() {
    in_mount_namespace(|home| {
        let folders = Folders::new(home);
        let tree = Detached::copy_of(&folders.source).unwrap();
        let attached = tree.attach_at(&path_descriptor(&folders.target)).unwrap();
        let before = options(&folders.target);
        assert_eq!(before, ["rw,nosuid,noatime", "rw,nosuid,nodev,noexec,relatime", "rw"]);
        attributes::remount_each(&attached.0, MsFlags::MS_RDONLY).unwrap();
        folders.assert_read_only();
        let expected: Vec<_> = before.iter().map(|options| options.replace("rw", "ro")).collect();
        assert_eq!(options(&folders.target), expected);
        assert_eq!(options(&folders.source), before);
    });
}

/// One that stayed writable must not pass for read-only.
#[test]
fn the_older_way_cannot_reach_a_covered_mount_and_says_so() {
    in_mount_namespace(|home| {
        let folders = Folders::new(home);
        tmpfs(&folders.source.join("below"), DATA);
        let tree = Detached::copy_of(&folders.source).unwrap();
        let attached = tree.attach_at(&path_descriptor(&folders.target)).unwrap();
        let error = attributes::remount_each(&attached.0, MsFlags::MS_RDONLY).unwrap_err();
        assert!(error.to_string().ends_with("something else is there now"), "{error}");
    });
}

/// What is mounted on one side after the copy: is it on the other? In both directions.
fn shared(flags: MsFlags, older: bool) -> (bool, bool) {
    let (sender, receiver) = std::sync::mpsc::channel();
    in_mount_namespace(move |home| {
        let folders = Folders::new(home);
        mount("none", &folders.source, "", MsFlags::MS_SHARED | MsFlags::MS_REC, "").unwrap();
        for name in ["below/one", "below/other"] {
            fs::create_dir(folders.source.join(name)).unwrap();
        }
        let mut tree = Detached::copy_of(&folders.source).unwrap();
        let target = path_descriptor(&folders.target);
        if older {
            let attached = tree.attach_at(&target).unwrap();
            attributes::remount_propagation(&attached.0, flags).unwrap();
        } else {
            tree.set_propagation(flags).unwrap();
            tree.attach_at(&target).unwrap();
        }
        let arrives = |from: &Path, to: &Path, name: &str| {
            tmpfs(&from.join(name), DATA);
            fs::write(from.join(name).join("here"), "").unwrap();
            to.join(name).join("here").exists()
        };
        let in_container = arrives(&folders.source, &folders.target, "below/one");
        let on_host = arrives(&folders.target, &folders.source, "below/other");
        sender.send((in_container, on_host)).unwrap();
    });
    receiver.recv().unwrap()
}

#[test]
fn propagation_in_both_ways() {
    if !nix::unistd::geteuid().is_root() {
        return crate::testing::skipped("it needs mounts, for which one must be root");
    }
    for older in [false, true] {
        let recursive = |flag| shared(flag | MsFlags::MS_REC, older);
        assert_eq!(recursive(MsFlags::MS_PRIVATE), (false, false), "{older}");
        assert_eq!(recursive(MsFlags::MS_SLAVE), (true, false), "{older}");
        assert_eq!(recursive(MsFlags::MS_SHARED), (true, true), "{older}");
        // The mount below stays as it is: shared with the source's.
        assert_eq!(shared(MsFlags::MS_PRIVATE, older), (true, true), "{older}");
    }
}

#[test]
fn propagation_that_is_none() {
    in_mount_namespace(|home| {
        let folders = Folders::new(home);
        let mut tree = Detached::copy_of(&folders.source).unwrap();
        let error = tree.set_propagation(MsFlags::MS_SLAVE | MsFlags::MS_SHARED).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL));
    });
}
