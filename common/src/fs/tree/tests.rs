//! What copying a tree says when it fails, and that removing one leads nowhere else. That a copy is as the
//! original, and that a tree may be deep, are the checks `volume.filled-exactly` and `overlay.deep`.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;
use crate::testing::in_mount_namespace;

fn bind(source: &Path, target: &Path) {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

#[test]
fn a_copy_that_fails_says_where() {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    fs::create_dir_all(from.join("sub")).unwrap();
    fs::create_dir_all(to.join("sub")).unwrap();
    let original = open(&from, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    assert!(!is_empty(&original).unwrap());
    let to = open(&to, DIRECTORY, Mode::empty()).unwrap();
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
    fs::write(tree.join("file"), "").unwrap();
    symlink(&other, tree.join("link")).unwrap();
    if nix::unistd::geteuid().is_root() {
        // As the overlay's work folder is.
        fs::set_permissions(tree.join("work/work"), fs::Permissions::from_mode(0o0)).unwrap();
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
fn what_is_mounted_in_a_tree_is_not_removed() {
    in_mount_namespace(|home| {
        let (tree, of_user) = (home.join("tree"), home.join("of-user"));
        let (folder, file) = (of_user.join("folder"), of_user.join("folder/file"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(&file, "").unwrap();
        // Mounts of the same file system, which no number of a device tells apart.
        let targets = [tree.clone(), tree.join("deep/er"), tree.join("a"), tree.join("deep/file")];
        for (source, target) in [&of_user, &of_user, &folder, &file].into_iter().zip(targets) {
            fs::create_dir_all(&target).unwrap();
            if source == &file {
                fs::remove_dir(&target).unwrap();
                fs::write(&target, "").unwrap();
            }
            bind(source, &target);
            let error = remove_tree(&tree).unwrap_err();
            let expected = format!("remove {}: something is mounted on {}", tree.display(), target.display());
            assert_eq!(error.to_string(), expected);
            assert!(file.exists());
            umount2(&target, MntFlags::MNT_DETACH).unwrap();
            remove_tree(&tree).unwrap();
            assert!(!tree.exists() && file.exists());
        }
    });
}

#[cfg(feature = "seccomp")]
#[test]
fn a_tree_is_removed_where_a_filter_knows_no_openat2() {
    let home = tempfile::tempdir().unwrap();
    let tree = home.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    crate::testing::without_calls(&[nix::libc::SYS_openat2], {
        let tree = tree.clone();
        move || remove_tree(&tree).unwrap()
    });
    assert!(!tree.exists());
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
    let there = fs::metadata(&to).unwrap();
    assert_eq!((there.mode() & 0o7777, there.mtime()), (0o1750, 0));
    assert!(!to.join("not-this").exists());
    assert!(copy_attributes(&from, &folder.path().join("none")).is_err());
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
