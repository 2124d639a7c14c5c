//! Maps by themselves, and copies of layers for other owners.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, mknod};
use proptest::prelude::*;

use super::shifted::{shifted_copies, shifted_copy, unshifted_copy};
use super::subordinate::{Line, around, in_a_row, parse};
use super::*;
use crate::fs::mount::in_private_namespace;
use crate::fs::xattr;
use crate::sys::mount;
use crate::testing::in_mount_namespace;
use crate::values::id_range;

const HOST: u32 = 0x7000_0000;

fn map(ranges: &[&str]) -> Result<IdMap> {
    IdMap::new("--uidmap", ranges.iter().map(|range| id_range(range).unwrap()).collect())
}

fn maps() -> IdMaps {
    IdMaps::from_zero(HOST, 65536)
}

fn ranges(map: &IdMap) -> String {
    line(map)
}

#[test]
fn both_ways() {
    let map = map(&["0:100000:1000", "1000:5:1", "1001:200000:10"]).unwrap();
    assert_eq!(map.to_string(), "0 100000 1000\n1000 5 1\n1001 200000 10\n");
    for (container, host) in [(0, 100_000), (999, 100_999), (1000, 5), (1001, 200_000), (1010, 200_009)] {
        assert_eq!((map.to_host(container), map.to_container(host)), (Some(host), Some(container)));
    }
    assert_eq!([map.to_host(1011), map.to_container(4), map.to_container(99_999)], [None; 3]);
    let all = IdMap::of(0, 0, u32::MAX);
    assert_eq!([all.to_host(u32::MAX - 1), all.to_host(u32::MAX)], [Some(u32::MAX - 1), None]);
}

#[test]
fn ranges_that_do_not_go_together() {
    for (wrong, side) in [
        (["0:10:5", "4:100:1"], "--uidmap 4:100:1: overlaps 0:10:5 in the container"),
        (["0:10:5", "50:14:3"], "--uidmap 50:14:3: overlaps 0:10:5 on the host"),
    ] {
        assert_eq!(map(&wrong).unwrap_err().to_string(), side);
    }
    map(&["0:10:5", "5:15:1"]).unwrap();
    assert!(map(&[]).unwrap_err().to_string().contains("no ids"));
    let many = |count: u32, size| {
        IdMap::new(
            "--gidmap",
            (0..count).map(|at| IdRange { container: at * 2, host: at * 2, size }).collect(),
        )
    };
    many(340, 1).unwrap();
    assert!(many(341, 1).unwrap_err().to_string().starts_with("--gidmap: 341 ranges"));
    let long =
        (0..200).map(|at| IdRange { container: 4_000_000_000 + at, host: 4_000_000_000 + at, size: 1 });
    assert!(IdMap::new("--gidmap", long.collect()).is_err(), "more than the kernel takes in one write");
}

#[test]
fn lines_of_subordinate_ids() {
    let line = |user: &str, first, count| Some(Line { user: user.into(), first, count });
    assert_eq!(parse(b"ann:100000:65536"), line("ann", 100_000, 65536));
    assert_eq!(parse(b"1000:0:4294967294"), line("1000", 0, u32::MAX - 1));
    for wrong in [
        "",
        "ann",
        "ann:1",
        "ann:1:",
        "ann:1:0",
        "ann:1:2:3",
        ":1:2",
        "#ann:1:2",
        "ann: 1:2",
        "ann:-1:2",
        "ann:4294967294:2",
        "ann:1:4294967295",
        "ann:1:2 ",
    ] {
        assert_eq!(parse(wrong.as_bytes()), None, "{wrong:?}");
    }
}

#[test]
fn subordinate_ids_in_a_row() {
    let lines = |lines: &[(u32, u32)]| -> Vec<_> {
        lines.iter().map(|&(first, count)| Line { user: Vec::new(), first, count }).collect()
    };
    let two = lines(&[(100_000, 65536), (300_000, 10)]);
    assert_eq!(ranges(&in_a_row(&two)), "0:100000:65536, 65536:300000:10");
    assert_eq!(ranges(&around(0, 1000, &two)), "0:1000:1, 1:100000:65536, 65537:300000:10");
    // keep-id: all others around the caller's own id.
    assert_eq!(
        ranges(&around(1000, 1000, &two)),
        "0:100000:1000, 1000:1000:1, 1001:101000:64536, 65537:300000:10"
    );
    assert_eq!(ranges(&around(1000, 1000, &lines(&[(5000, 10)]))), "0:5000:10, 1000:1000:1");
    assert_eq!(ranges(&around(10, 10, &lines(&[(5000, 10), (6000, 2)]))), "0:5000:10, 10:10:1, 11:6000:2");
    // A user may have its own id as a subordinate one, too. The maps have it once.
    assert_eq!(ranges(&around(0, 1000, &lines(&[(1000, 5), (7, 1)]))), "0:1000:1, 1:1001:4, 5:7:1");
    assert_eq!(
        ranges(&around(30_000, 30_000, &lines(&[(20_000, 65536)]))),
        "0:20000:10000, 10000:30001:20000, 30000:30000:1, 30001:50001:35535"
    );
    assert_eq!(ranges(&around(3, 3, &[])), "3:3:1");
}

proptest! {
    /// Whatever the lists say: the kernel would take what is made of it, and each id has at most one place.
    #[test]
    fn any_lists_make_a_map(
        lines in proptest::collection::vec((any::<u32>(), 1..200_000_u32), 0..12),
        own in proptest::option::of((0..3000_u32, any::<u32>())),
    ) {
        let lines: Vec<_> = lines
            .into_iter()
            .filter(|(first, count)| first.checked_add(*count).is_some())
            .map(|(first, count)| Line { user: Vec::new(), first, count })
            .collect();
        let own = own.filter(|own| own.1 != u32::MAX);
        let made = own.map_or_else(|| in_a_row(&lines), |(container, host)| around(container, host, &lines));
        if let Some((container, host)) = own {
            prop_assert_eq!(made.to_host(container), Some(host));
        }
        if !made.ranges().is_empty() {
            prop_assert_eq!(IdMap::new("x", made.ranges().to_vec()), Ok(made));
        }
    }

    #[test]
    fn any_line_is_harmless(line in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Some(line) = parse(&line) {
            prop_assert!(line.count > 0 && line.first.checked_add(line.count).is_some());
        }
    }
}

#[test]
fn what_fails_in_a_user_namespace_is_told() {
    in_mount_namespace(|_| {
        let error = in_user_namespace(&maps(), || Err(Error::new("x").hint("y"))).unwrap_err();
        assert_eq!(error, Error::new("x").hint("y"));
        let no_root = IdMaps { users: IdMap::of(1, 1, 1), ..maps() };
        let error = in_user_namespace(&no_root, || Ok(())).unwrap_err();
        assert_eq!(error.errno(), Some(nix::errno::Errno::EINVAL), "{error}");
    });
}

#[test]
#[cfg(feature = "capability")]
fn groups_stay_only_where_they_must() {
    in_mount_namespace(|_| {
        let error = in_user_namespace(&maps(), || {
            // Then setgroups(2) says EPERM, and not because the namespace denies it.
            caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_SETGID).unwrap();
            become_root()
        });
        assert_eq!(error.unwrap_err().errno(), Some(nix::errno::Errno::EPERM));
    });
}

fn owner(path: &Path) -> (u32, u32) {
    let there = fs::symlink_metadata(path).unwrap();
    (there.uid(), there.gid())
}

#[test]
fn what_fails_in_a_private_namespace_is_told() {
    in_mount_namespace(|_| {
        let error = in_private_namespace(|| Err(Error::new("x").hint("y"))).unwrap_err();
        assert_eq!(error, Error::new("x").hint("y"));
    });
}

#[test]
fn copies_of_layers_that_overlap_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (layer, inner) = (home.path().join("layer"), home.path().join("layer/inner"));
    fs::create_dir_all(&inner).unwrap();
    for other in [&layer, &inner] {
        for pair in [[&layer, other], [other, &layer]] {
            let store = home.path().join("store");
            let error = shifted_copies(pair.into_iter().map(|it| it.as_path()), &store, &maps()).unwrap_err();
            assert_eq!(error.errno(), Some(nix::errno::Errno::ELOOP));
            assert!(!store.exists());
        }
    }
}

/// `cap_net_raw+ep`, version 2 of the kernel's structure.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_shifted_copy_is_a_layer_of_that_container() {
    in_mount_namespace(|home| {
        let (layer, store) = (home.join("layer"), home.join("store"));
        fs::create_dir_all(layer.join("opaque")).unwrap();
        for (name, user, mode) in [("su", 0, 0o4755), ("raw", 3, 0o755), ("stranger", 200_000, 0o644)] {
            let path = layer.join(name);
            fs::write(&path, name).unwrap();
            chown(&path, Some(user), Some(4)).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        xattr::set(&layer.join("raw"), "security.capability", &CAPABILITY).unwrap();
        xattr::set(&layer.join("opaque"), "trusted.overlay.opaque", b"y").unwrap();
        mknod(&layer.join("gone"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
        // What a killed runtime has left.
        fs::create_dir_all(store.join(".copying/half")).unwrap();
        let made = shifted_copy(&layer, &store, &maps()).unwrap();
        let copy = made.path.clone();
        assert_eq!(
            fs::metadata(&store).unwrap().mode() & 0o777,
            0o755 & fs::metadata(&store).unwrap().mode()
        );
        assert!(!copy.join("half").exists());
        assert_eq!((owner(&copy), owner(&copy.join("su"))), ((HOST, HOST), (HOST, HOST + 4)));
        assert_eq!(fs::metadata(copy.join("su")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(owner(&copy.join("stranger")), (HOST + 65534, HOST + 4));
        assert!(crate::fs::tree::is_opaque(&copy.join("opaque")));
        let gone = fs::symlink_metadata(copy.join("gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        // The kernel shows capabilities without a root's id to that root only.
        let raw = copy.join("raw");
        assert_eq!(xattr::get(&raw, "security.capability").unwrap().len(), 24);
        for open in [home, &store] {
            fs::set_permissions(open, PermissionsExt::from_mode(0o755)).unwrap();
        }
        in_user_namespace(&maps(), || {
            assert_eq!(xattr::get(&raw, "security.capability").unwrap(), CAPABILITY);
            Ok(())
        })
        .unwrap();
        // Back again, and it is what it was.
        let back = home.join("back");
        unshifted_copy(&copy, &back, &maps()).unwrap();
        assert_eq!((owner(&back), owner(&back.join("raw"))), ((0, 0), (3, 4)));
        assert_eq!(xattr::get(&back.join("raw"), "security.capability").unwrap(), CAPABILITY);
        assert!(crate::fs::tree::is_opaque(&back.join("opaque")));
        // A path may be any bytes, and what is mounted in it is no part of it.
        let odd = home.join(std::ffi::OsStr::new("o:d,d"));
        let odd = odd.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff \\"));
        fs::create_dir_all(odd.join("below")).unwrap();
        mount("none", odd.join("below"), "tmpfs", MsFlags::empty(), "").unwrap();
        fs::write(odd.join("below/file"), "").unwrap();
        let odd = shifted_copy(&odd, &store, &maps()).unwrap();
        assert!(odd.path.join("below").is_dir() && !odd.path.join("below/file").exists());
        // It is made once.
        fs::remove_file(copy.join("su")).unwrap();
        assert_eq!(shifted_copy(&layer, &store, &maps()).unwrap().path, copy);
        assert!(!copy.join("su").exists());
        // Others' is another, with all that the layer has.
        let others = shifted_copy(&layer, &store, &IdMaps::from_zero(HOST + 65536, 65536)).unwrap();
        assert!(others.path != copy && others.path.join("su").exists());
        // When the layer changes, it is made anew; the old one goes when nobody uses it.
        let change = |content: &str| {
            fs::write(layer.join("stranger"), content).unwrap();
            shifted_copy(&layer, &store, &maps()).unwrap()
        };
        let newer = change("newer");
        assert_eq!(fs::read_to_string(newer.path.join("stranger")).unwrap(), "newer");
        assert!(copy.exists() && others.path.exists(), "they are in use");
        drop(made);
        let newest = change("newest");
        assert!(!copy.exists() && newer.path.exists() && others.path.exists() && newest.path.exists());
    });
}

#[test]
fn an_empty_folder_is_given_to_the_container_and_nothing_is_taken_from_others() {
    in_mount_namespace(|home| {
        let folder = home.join("folder");
        fs::create_dir(&folder).unwrap();
        let give = |maps: &IdMaps| give(&folder, maps, "x");
        give(&maps()).unwrap();
        assert_eq!(owner(&folder), (HOST, HOST));
        fs::write(folder.join("file"), "").unwrap();
        give(&maps()).unwrap();
        assert!(give(&IdMaps::from_zero(HOST + 65536, 65536)).is_err());
        assert_eq!(owner(&folder), (HOST, HOST));
    });
}
