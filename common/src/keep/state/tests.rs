//! Folders and volumes of this process and of others at once.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::*;
use crate::fs::tree::{is_empty, remove_tree};
use crate::sys::mount;
use crate::testing::in_mount_namespace;

fn containers(state: &Path) -> Vec<PathBuf> {
    fs::read_dir(state.join("containers")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_folder_lives_as_long_as_its_runtime() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let one = ContainerFolder::create(&state).unwrap();
    let other = ContainerFolder::create(&state).unwrap();
    assert_ne!(one.path, other.path);
    // Programs in it may be set-user-ID.
    assert_eq!((mode(&one.path), mode(&state.join("containers"))), (0o700, 0o700));
    fs::create_dir_all(one.path.join("work/work")).unwrap();
    fs::write(other.path.join("file"), "").unwrap();
    drop(ContainerFolder::create(&state).unwrap());
    assert_eq!(containers(&state).len(), 2, "the folders of the living stay");
    drop(one);
    assert_eq!(containers(&state), std::slice::from_ref(&other.path));
    other.remove().unwrap();
    assert_eq!(containers(&state), [] as [PathBuf; 0]);
}

#[test]
fn what_is_mounted_in_a_folder_is_left_alone() {
    in_mount_namespace(|home| {
        let dead = home.join("containers/dead/upper");
        fs::create_dir_all(&dead).unwrap();
        mount("tmpfs", &dead, "tmpfs", MsFlags::empty(), "size=1m").unwrap();
        fs::write(dead.join("file"), "").unwrap();
        let own = ContainerFolder::create(home).unwrap();
        assert!(dead.join("file").exists());
        mount("tmpfs", &own.path, "tmpfs", MsFlags::empty(), "size=1m").unwrap();
        let path = own.path.clone();
        let error = own.remove().unwrap_err();
        let expected = format!("remove {}: something is mounted on {}", path.display(), path.display());
        assert_eq!(error.to_string(), expected);
    });
}

#[test]
fn many_at_once() {
    let home = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let folder = ContainerFolder::create(home.path()).unwrap();
                    fs::write(folder.path.join("file"), "").unwrap();
                    assert!(folder.path.join("file").exists(), "nobody else removes it");
                    folder.remove().unwrap();
                }
            });
        }
    });
    assert_eq!(containers(home.path()), [] as [PathBuf; 0]);
}

/// The files in the volume `data`, when it is locked by one more.
fn files_of(state: &Path) -> Vec<String> {
    let volumes = Volumes::lock(state, ["data"]).unwrap();
    let entries = fs::read_dir(volumes.open("data").unwrap().path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn image(home: &Path) -> OwnedFd {
    let image = home.join("image");
    fs::create_dir_all(image.join("sub")).unwrap();
    for number in 0..50 {
        fs::write(image.join(format!("file{number}")), "content").unwrap();
    }
    open(&image, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

#[test]
fn a_volume_is_filled_once() {
    let home = tempfile::tempdir().unwrap();
    let (image, filled) = (image(home.path()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let volumes = Volumes::lock(home.path(), ["data"]).unwrap();
                let volume = volumes.open("data").unwrap();
                let path = volume.path.clone();
                filled.fetch_add(usize::from(is_empty(&volume.data).unwrap()), Ordering::Relaxed);
                volume.fill(&image).unwrap();
                assert_eq!(fs::read_dir(path).unwrap().count(), 51, "all of it, or one has to wait");
            });
        }
    });
    assert_eq!(filled.into_inner(), 1);
    assert_eq!(mode(&home.path().join("volumes")), 0o700);
    // Whoever empties it gets it filled again, as in Docker; and whoever removes it.
    let data = home.path().join("volumes/data/_data");
    for remove in [&data, data.parent().unwrap()] {
        remove_tree(remove).unwrap();
        let volumes = Volumes::lock(home.path(), ["data"]).unwrap();
        assert_eq!(mode(&data), 0o755);
        volumes.open("data").unwrap().release().unwrap();
        drop(volumes);
        assert_eq!(files_of(home.path()).len(), 0);
        let volumes = Volumes::lock(home.path(), ["data"]).unwrap();
        volumes.open("data").unwrap().fill(&image).unwrap();
        drop(volumes);
        assert_eq!(files_of(home.path()).len(), 51);
    }
}

#[test]
fn a_volume_is_filled_where_its_path_leads_nowhere() {
    let home = tempfile::tempdir().unwrap();
    let image = image(home.path());
    let state = home.path().join("state");
    let volumes = Volumes::lock(&state, ["data"]).unwrap();
    let volume = volumes.open("data").unwrap();
    // As after pivot_root: the container's root may have a file at the first part of the path.
    let elsewhere = home.path().join("elsewhere");
    fs::rename(&state, &elsewhere).unwrap();
    fs::write(&state, "").unwrap();
    volume.fill(&image).unwrap();
    assert_eq!(files_of(&elsewhere).len(), 51);
}

#[test]
fn who_waits_for_a_volume_does_not_wait_for_a_container_to_end() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path();
    for _ in 0..10 {
        // It ends before it has filled the volume, for which three others wait.
        let first = Volumes::lock(state, ["data"]).unwrap();
        let (sender, locked) = channel();
        for _ in 0..3 {
            let (state, sender) = (state.to_owned(), sender.clone());
            thread::spawn(move || {
                let volumes = Volumes::lock(&state, ["data"]).unwrap();
                volumes.open("data").unwrap().release().unwrap();
                // As long as a container runs, its volumes are locked.
                sender.send(volumes).unwrap();
            });
        }
        thread::sleep(Duration::from_millis(30));
        drop(first);
        let running: Vec<_> =
            (0..3).map_while(|_| locked.recv_timeout(Duration::from_secs(5)).ok()).collect();
        assert_eq!(running.len(), 3, "so many run at once");
    }
}

#[test]
fn a_volume_at_two_places_is_filled_once() {
    let home = tempfile::tempdir().unwrap();
    let image = image(home.path());
    let volumes = Volumes::lock(home.path(), ["data", "data"]).unwrap();
    let (first, second) = (volumes.open("data").unwrap(), volumes.open("data").unwrap());
    assert_eq!(first.path, second.path);
    first.release().unwrap();
    second.fill(&image).unwrap();
    drop(volumes);
    assert_eq!(files_of(home.path()).len(), 0);
}

#[test]
fn what_was_told_is_remembered() {
    let state = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        tell_once(state.path(), "a-thing", format_args!("congo: a test tells it"));
        assert!(state.path().join("told/a-thing").exists());
    }
    // Where nothing can be kept, it is told, and no failure.
    tell_once(&state.path().join("told/a-thing"), "a-thing", format_args!("congo: a test tells it"));
}
