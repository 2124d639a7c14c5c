//! A tree with one of everything, and its copy.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use nix::sys::stat::makedev;
use nix::unistd::mkfifo;

use super::*;
use crate::testing::skipped;

/// What is known of a file, but for where its data lies.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    kind_and_mode: u32,
    owner: (u32, u32),
    device: u64,
    modified: (i64, i64),
    content: Vec<u8>,
    links: u64,
    attributes: BTreeMap<OsString, Vec<u8>>,
}

fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    xattr::list(path)
        .unwrap()
        .into_iter()
        .map(|name| (name.clone(), xattr::get(path, name).unwrap()))
        .collect()
}

fn known(folder: &Path, name: &Path, all: &mut BTreeMap<PathBuf, Known>) {
    let path = folder.join(name);
    let status = fs::symlink_metadata(&path).unwrap();
    let content = match status.file_type() {
        kind if kind.is_file() => fs::read(&path).unwrap(),
        kind if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
        _ => Vec::new(),
    };
    let device = status.file_type();
    let device = if device.is_char_device() || device.is_block_device() { status.rdev() } else { 0 };
    all.insert(
        name.to_owned(),
        Known {
            kind_and_mode: status.mode(),
            owner: (status.uid(), status.gid()),
            device,
            modified: (status.mtime(), status.mtime_nsec()),
            content,
            links: status.nlink(),
            attributes: attributes(&path),
        },
    );
    if status.is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            known(folder, &name.join(entry.unwrap().file_name()), all);
        }
    }
}

fn everything(folder: &Path) -> BTreeMap<PathBuf, Known> {
    let mut all = BTreeMap::new();
    known(folder, Path::new(""), &mut all);
    all
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, seconds: i64) {
    let time = TimeSpec::new(seconds, 123_456_789);
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
}

/// Fills a folder with files, and says whether it may have devices and owners.
fn fill(folder: &Path, is_root: bool) {
    let at = |name: &str| folder.join(name);
    fs::create_dir_all(at("sub/deep")).unwrap();
    fs::write(at("sub/large"), vec![7; 300_000]).unwrap();
    fs::write(at("program"), "#!/bin/sh\n").unwrap();
    fs::write(at("a\nname \\ with \"everything\""), "").unwrap();
    fs::hard_link(at("program"), at("sub/same")).unwrap();
    symlink("/nowhere", at("dangling")).unwrap();
    symlink("sub", at("to-a-folder")).unwrap();
    mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
    drop(UnixListener::bind(at("socket")).unwrap());
    if is_root {
        mknodat(nix::fcntl::AT_FDCWD, &at("device"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();
        for (name, owner) in [("program", 1234), ("dangling", 99), ("sub", 55), ("", 4321)] {
            std::os::unix::fs::lchown(at(name), Some(owner), Some(owner + 1)).unwrap();
        }
        xattr::set(&at("program"), "trusted.test", b"value\0with zero").unwrap();
        xattr::set(&at("dangling"), "trusted.link", b"of the link itself").unwrap();
        xattr::set(&at("program"), "security.capability", &CAP_NET_RAW).unwrap();
    }
    xattr::set(&at("sub"), "user.test", b"").unwrap();
    set_mode(&at("program"), 0o4751);
    set_mode(&at("sub/large"), 0o0);
    set_mode(&at("sub/deep"), 0o1777);
    set_mode(&at("sub"), 0o2750);
    set_mode(folder, 0o711);
    for (index, name) in ["sub/same", "dangling", "sub/deep", "pipe", "sub", ""].iter().enumerate() {
        set_time(&at(name), 1_000_000_000 + index as i64);
    }
}

/// A file capability, as the kernel keeps it: revision 2, effective, bit 13.
const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_copy_is_as_the_original() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root may give files to others");
    }
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    fill(&from, true);
    // As a target of a volume is open: only to name it.
    let original = open(&from, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    copy_contents(&original, &to).unwrap();
    let (original, copied) = (everything(&from), everything(&to));
    assert_eq!(original.len(), 12);
    assert_eq!(original[Path::new("program")].attributes.len(), 2);
    for (path, known) in &original {
        assert_eq!(copied.get(path), Some(known), "{path:?}");
    }
    assert_eq!(copied.len(), original.len());
    let inode = |name| fs::metadata(to.join(name)).unwrap().ino();
    assert_eq!(inode("program"), inode("sub/same"));
    assert_ne!(inode("program"), fs::metadata(from.join("program")).unwrap().ino());
}

#[test]
fn a_copy_that_fails_says_where() {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    fs::create_dir_all(from.join("sub")).unwrap();
    fs::create_dir_all(to.join("sub")).unwrap();
    let original = open(&from, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    assert!(!is_empty(&original).unwrap());
    let error = copy_contents(&original, &to).unwrap_err();
    assert_eq!(error.to_string(), "copy /sub: EEXIST: File exists");
}

#[test]
fn a_tree_is_removed_and_its_links_are_not_followed() {
    let home = tempfile::tempdir().unwrap();
    let (tree, other) = (home.path().join("tree"), home.path().join("other"));
    fs::create_dir_all(tree.join("work/work")).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "").unwrap();
    fill(&tree, false);
    symlink(&other, tree.join("link")).unwrap();
    if nix::unistd::geteuid().is_root() {
        // As the overlay's work folder is.
        set_mode(&tree.join("work/work"), 0);
    }
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    symlink(&other, &tree).unwrap();
    remove_tree(&tree).unwrap();
    assert!(fs::symlink_metadata(&tree).is_err());
    assert!(other.join("file").exists());
    remove_tree(&tree).unwrap();
    remove_tree(&other.join("file")).unwrap();
    assert!(!other.join("file").exists());
}

#[test]
fn a_folder_gets_the_attributes_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
    for path in [&from, &to] {
        fs::create_dir(path).unwrap();
    }
    fs::write(from.join("not-this"), "").unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o1750)).unwrap();
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    fs::File::open(&from).unwrap().set_times(time).unwrap();
    copy_attributes(&from, &to).unwrap();
    let (one, other) = (everything(&from), everything(&to));
    assert_eq!(other.len(), 1);
    let [one, other] = [one, other].map(|mut all| all.remove(Path::new("")).unwrap());
    assert_eq!((one.kind_and_mode, one.modified), (other.kind_and_mode, other.modified));
    assert!(copy_attributes(&from, &folder.path().join("none")).is_err());
}

/// In the environment of another process of these tests: the folder that it works in.
const FOLDER: &str = "CONGO_TEST_FOLDER";

/// The other process: removes a tree that is far deeper than it may have descriptors.
#[test]
#[ignore = "a part of another test, which starts it"]
fn with_few_descriptors() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    nix::sys::resource::setrlimit(limit, 40, 40).unwrap();
    let tree = Path::new(&folder).join("tree");
    fs::create_dir(&tree).unwrap();
    let mut here = open(&tree, DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..600 {
        for name in ["ab", "cd"] {
            mkdirat(&here, name, Mode::S_IRWXU).unwrap();
        }
        here = openat(&here, "ab", DIRECTORY, Mode::empty()).unwrap();
    }
    drop(here);
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
}

#[test]
fn a_tree_may_be_deep() {
    let home = tempfile::tempdir().unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["tree::tests::with_few_descriptors", "--exact", "--ignored"])
        .env(FOLDER, home.path())
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn who_moves_a_folder_leads_the_removal_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    let (tree, outside) = (home.path().join("tree"), home.path().join("outside"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    fs::create_dir(&outside).unwrap();
    let lost = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Out of the tree, to where `..` is a folder with files of its own, and back.
            while !stop.load(relaxed) {
                let _ = fs::rename(tree.join("a/b"), outside.join("b"));
                let _ = fs::rename(outside.join("b"), tree.join("a/b"));
            }
        });
        let mut lost = 0;
        for _ in 0..40 {
            for number in 0..5 {
                fs::create_dir_all(tree.join(format!("a/b/{number}"))).unwrap_or_default();
                fs::create_dir_all(tree.join(format!("a/{number}"))).unwrap_or_default();
                fs::create_dir_all(outside.join(format!("{number}"))).unwrap();
                fs::write(outside.join(format!("{number}/file")), "").unwrap();
            }
            // That it is moved out may keep it from being removed, and that is all.
            let _ = remove_tree(&tree);
            lost += (0..5).filter(|number| !outside.join(format!("{number}/file")).exists()).count();
        }
        stop.store(true, relaxed);
        lost
    });
    assert_eq!(lost, 0);
}
