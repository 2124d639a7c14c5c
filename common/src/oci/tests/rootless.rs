//! The store of an ordinary user, unpacked in a user namespace.

use std::os::unix::fs::chown;

use super::*;
use crate::ids::idmap::{in_own_namespace, in_user_namespace, own, subordinate};
use crate::ids::privilege::Privilege;
use crate::keep::state::ContainerFolder;
use crate::sys::mount;
use crate::testing::{as_user, kernel, with_lists};

/// A layer with files that need root, and a layer that removes and replaces some of them.
fn layers() -> [Vec<u8>; 2] {
    let below = Archive::default()
        .folder("a")
        .file("a/old", "")
        .file("b", "below")
        .pax("uid", "33")
        .pax("gid", "44")
        .with(EntryType::Regular, "web", "", b"", 0o4755)
        .with(EntryType::Block, "device", "", b"", 0o666)
        .pax("SCHILY.xattr.trusted.note", "x")
        .file("noted", "");
    let above = Archive::default().file("a/.wh..wh..opq", "").folder("a").file("a/new", "").file(".wh.b", "");
    [below.end(), above.end()]
}

/// Gives the folder and all files in it to the user `nobody`.
fn give_away(path: &Path) {
    chown(path, Some(65534), Some(65534)).unwrap();
    for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            give_away(&entry.path());
        } else {
            chown(entry.path(), Some(65534), Some(65534)).unwrap();
        }
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let there = fs::symlink_metadata(path).unwrap();
    (there.uid(), there.gid())
}

#[test]
fn an_ordinary_user_has_a_store_of_its_own() {
    if kernel() < (5, 11) {
        return skipped("it needs overlays in a user namespace: Linux 5.11");
    }
    let layout = Layout::plain(&layers());
    give_away(layout.0.path());
    with_lists("65534:500000:100\n", move |_| {
        let (image, state) = (layout.reference(), layout.state());
        as_user(|| {
            let image = Image::open(&image).unwrap();
            in_own_namespace(|| image.unpack(&state).map(drop)).unwrap();
            // Now they are there, and the user itself finds them.
            let layers = image.unpack(&state).unwrap();
            let (below, above) = (&layers[0], &layers[1]);
            assert_eq!(
                (owner(&below.join("web")), owner(&below.join("b"))),
                ((500_032, 500_043), (65534, 65534))
            );
            assert_eq!(fs::metadata(below.join("web")).unwrap().mode() & 0o7777, 0o4755);
            assert!(!below.join("device").exists() && below.join("noted").exists());
            assert!(fs::symlink_metadata(above.join("b")).unwrap().file_type().is_char_device());
            assert!(above.join("a/new").exists());
            merged(&state, &layers);
        });
    });
}

/// What a container sees of these layers, and that what it has made can be removed.
fn merged(state: &Path, layers: &[PathBuf]) {
    let folder = ContainerFolder::create(state).unwrap();
    for name in ["root", "upper", "work"] {
        fs::create_dir(folder.path.join(name)).unwrap();
    }
    in_user_namespace(&subordinate().unwrap().unwrap_or_else(own), || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let at = folder.path.display();
        let (above, below) = (layers[1].display(), layers[0].display());
        let more = Privilege::current().overlay_options();
        let options = format!("lowerdir={above}:{below},upperdir={at}/upper,workdir={at}/work,{more}");
        let root = folder.path.join("root");
        mount("overlay", &root, "overlay", nix::mount::MsFlags::empty(), &options)?;
        let names: Vec<_> = fs::read_dir(root.join("a")).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["new"], "an opaque folder hides what is below");
        assert!(!root.join("b").exists());
        fs::create_dir(root.join("others")).unwrap();
        fs::write(root.join("others/file"), "").unwrap();
        let _ = chown(root.join("others"), Some(5), Some(5));
        fs::remove_dir_all(root.join("a")).unwrap();
        fs::create_dir(root.join("a")).unwrap();
        Ok(())
    })
    .unwrap();
    assert!(crate::fs::tree::is_opaque(&folder.path.join("upper/a")));
    let path = folder.path.clone();
    folder.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn without_subordinate_ids_root_has_all_files() {
    if kernel() < (5, 11) {
        return skipped("it needs overlays in a user namespace: Linux 5.11");
    }
    let layout = Layout::plain(&layers());
    give_away(layout.0.path());
    with_lists("other:500000:100\n", move |_| {
        let (image, state) = (layout.reference(), layout.state());
        as_user(|| {
            assert_eq!(subordinate().unwrap(), None);
            let image = Image::open(&image).unwrap();
            in_own_namespace(|| image.unpack(&state).map(drop)).unwrap();
            let layers = image.unpack(&state).unwrap();
            assert_eq!(owner(&layers[0].join("web")), (65534, 65534));
            merged(&state, &layers);
        });
    });
}
