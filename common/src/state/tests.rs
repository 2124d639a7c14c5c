//! Folders of this process, of others at once, and of one that is killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::fcntl::open;
use nix::mount::MsFlags;

use super::*;
use crate::syscall::mount;
use crate::testing::in_mount_namespace;

/// In the environment of another process of these tests: the state folder.
const STATE: &str = "CONGO_TEST_STATE";

/// The other process: takes a folder, a kept one and a volume that it does not fill, and holds them until it is killed.
#[test]
#[ignore = "a part of other tests, which start it"]
fn other_process() {
    let Some(state) = std::env::var_os(STATE) else { return };
    let state = Path::new(&state);
    let folder = ContainerFolder::create(state).unwrap();
    let _kept = kept(state, "layer").unwrap();
    let volume = named_volume(state, "data").unwrap();
    assert!(volume.may_be_filled());
    // As when it is killed while it fills.
    fs::write(volume.path.parent().unwrap().join(FILLING), "").unwrap();
    fs::write(volume.path.join("half"), "").unwrap();
    println!("\nfolder {}", folder.path.display());
    let _ = std::io::stdin().lines().count();
}

fn start(state: &Path) -> (Child, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["state::tests::other_process", "--exact", "--ignored", "--nocapture"])
        .env(STATE, state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let mut folders = lines.filter_map(|line| Some(line.unwrap().strip_prefix("folder ")?.into()));
    let folder = folders.next().expect("the other process takes a folder");
    (child, folder)
}

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
fn what_a_killed_runtime_has_left() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path();
    let (mut child, folder) = start(state);
    fs::create_dir_all(folder.join("upper/etc")).unwrap();
    drop(ContainerFolder::create(state).unwrap());
    assert!(folder.exists(), "it lives");
    let error = kept(state, "layer").unwrap_err();
    assert_eq!(error.to_string(), "--keep layer: another container uses it");
    kept(state, "other").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let own = ContainerFolder::create(state).unwrap();
    assert_eq!(containers(state), std::slice::from_ref(&own.path));
    kept(state, "layer").unwrap();
    let volume = named_volume(state, "data").unwrap();
    assert!(volume.may_be_filled() && !volume.path.join("half").exists());
}

#[test]
fn one_run_removes_so_many_and_no_more() {
    let home = tempfile::tempdir().unwrap();
    for number in 0..SWEPT_AT_ONCE + 3 {
        fs::create_dir_all(home.path().join("containers").join(format!("dead{number}"))).unwrap();
    }
    let own = ContainerFolder::create(home.path()).unwrap();
    assert_eq!(containers(home.path()).len(), 4);
    drop(own);
    let own = ContainerFolder::create(home.path()).unwrap();
    assert_eq!(containers(home.path()), std::slice::from_ref(&own.path));
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
                let mut volume = named_volume(home.path(), "data").unwrap();
                if volume.may_be_filled() {
                    filled.fetch_add(1, Ordering::Relaxed);
                    volume.fill(&image).unwrap();
                }
                assert_eq!(fs::read_dir(&volume.path).unwrap().count(), 51, "all of it, or one has to wait");
                assert!(!volume.may_be_filled());
            });
        }
    });
    assert_eq!(filled.into_inner(), 1);
    assert_eq!(mode(&home.path().join("volumes")), 0o700);
    // Whoever empties it gets it filled again, as in Docker.
    let path = named_volume(home.path(), "data").unwrap().path;
    remove_tree(&path).unwrap();
    let mut volume = named_volume(home.path(), "data").unwrap();
    assert!(volume.may_be_filled() && mode(&path) == 0o755);
    volume.release();
    assert!(named_volume(home.path(), "data").unwrap().may_be_filled());
}

#[test]
fn a_volume_that_was_filled_by_half_is_filled_anew() {
    let home = tempfile::tempdir().unwrap();
    let image = image(home.path());
    let mut volume = named_volume(home.path(), "data").unwrap();
    // Something that is in the way makes the copy fail.
    fs::create_dir(volume.path.join("sub")).unwrap();
    assert_eq!(volume.fill(&image).unwrap_err().errno(), Some(Errno::EEXIST));
    drop(volume);
    let mut volume = named_volume(home.path(), "data").unwrap();
    assert!(volume.may_be_filled());
    volume.fill(&image).unwrap();
    fs::write(volume.path.join("own"), "").unwrap();
    drop(volume);
    let volume = named_volume(home.path(), "data").unwrap();
    assert!(!volume.may_be_filled() && volume.path.join("own").exists());
}

#[test]
fn a_volume_at_two_places_is_filled_once() {
    let home = tempfile::tempdir().unwrap();
    let mut volumes = Volumes::default();
    let first = volumes.open(home.path(), "data").unwrap();
    let second = volumes.open(home.path(), "data").unwrap();
    assert!(first.may_be_filled() && !second.may_be_filled());
    assert_eq!(first.path, second.path);
}

#[test]
fn a_lock_outlives_the_copy_of_it_that_a_parent_drops() {
    let home = tempfile::tempdir().unwrap();
    let volume = named_volume(home.path(), "data").unwrap();
    let folder = home.path().join("volumes/data");
    drop(volume);
    assert!(lock(&folder, FlockArg::LockExclusiveNonblock).is_err());
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
