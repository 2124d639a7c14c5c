//! Claims of this process. A lock belongs to an open file, so threads are as good as processes here.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn one_has_it_alone_or_many_share_it() {
    let home = tempfile::tempdir().unwrap();
    for make in [Make::File, Make::Folder] {
        let path = home.path().join(format!("run/{make:?}"));
        assert!(
            Claim::of(&path, FlockOperation::NonBlockingLockExclusive).unwrap().is_none(),
            "nothing is there"
        );
        assert_eq!(maker_of(&path).unwrap(), Maker::Ended);
        let first = Claim::take(make, &path).unwrap().unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, if make == Make::File { 0o600 } else { 0o700 });
        assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
        assert!(Claim::take(make, &path).unwrap().is_none());
        assert_eq!(maker_of(&path).unwrap(), Maker::Lives);
        assert!(first.let_share(FlockOperation::LockShared).unwrap());
        let second = Claim::share(make, &path).unwrap();
        drop(first);
        assert!(Claim::take(make, &path).unwrap().is_none());
        drop(second);
        assert_eq!(maker_of(&path).unwrap(), Maker::Died, "its claim is free, and it is still there");
    }
}

#[test]
fn the_last_one_takes_the_entry_with_it() {
    let home = tempfile::tempdir().unwrap();
    let above = home.path().join("run");
    for make in [Make::File, Make::Folder] {
        let path = above.join("claims/one");
        let first = Claim::take(make, &path).unwrap().unwrap().going(2);
        assert!(first.let_share(FlockOperation::LockShared).unwrap() && first.goes());
        let mut second = Claim::share(make, &path).unwrap().going(2);
        drop(first);
        assert!(path.exists(), "another one shares it");
        second.leave();
        assert!(!second.goes());
        drop(second.going(1));
        assert_eq!(names(home.path()), ["run"], "as many folders as it says");
        drop(Claim::wait(make, &path).unwrap().going(2));
        assert!(!above.exists() && home.path().exists());
        // Its name is another entry's by now.
        let first = Claim::wait(make, &path).unwrap().going(2);
        fs::rename(&path, above.join("elsewhere")).unwrap();
        let second = Claim::wait(make, &path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        fs::remove_dir_all(&above).unwrap();
    }
}

#[test]
fn an_entry_that_cannot_go_is_told() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("one")).unwrap();
    // rmdir(2): the name must not be a dot.
    let path = home.path().join("one/.");
    let claim = Claim::of(&path, FlockOperation::LockExclusive).unwrap().unwrap();
    let told = claim.remove(0).unwrap_err().to_string();
    assert_eq!(told.lines().next(), Some(&*format!("remove {}: EINVAL: Invalid argument", path.display())));
    let other = home.path().join("other/two");
    let claim = Claim::take(Make::File, &other).unwrap().unwrap();
    fs::write(home.path().join("other/three"), "").unwrap();
    claim.remove(1).unwrap();
    assert_eq!(names(&home.path().join("other")), ["three"], "a folder that others need stays");
}

#[test]
fn what_goes_while_its_lock_is_converted_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("claim");
    for how in [FlockOperation::LockShared, FlockOperation::NonBlockingLockShared] {
        let claim = Claim::take(Make::File, &path).unwrap().unwrap();
        // As a sweep does that has it alone, between the two locks of this one.
        fs::remove_file(&path).unwrap();
        assert!(!claim.let_share(how).unwrap());
        let other = Claim::take(Make::File, &path).unwrap();
        assert!(other.is_some() && !claim.let_share(how).unwrap(), "its name is another one's");
    }
}

#[test]
fn a_copy_of_the_process_leaves_the_claim_to_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("claim");
    let claim = Claim::take(Make::File, &path).unwrap().unwrap().going(0);
    let Some(child) = crate::sys::clone::fork().unwrap() else {
        // Whatever its pid is: in a new PID namespace it may be the parent's.
        drop(claim);
        crate::sys::clone::exit_now(0);
    };
    nix::sys::wait::waitpid(child, None).unwrap();
    assert_eq!(maker_of(&path).unwrap(), Maker::Lives);
    // And a copy that lives keeps nothing locked that this process gives back.
    let (mut parents, mut childs) = std::os::unix::net::UnixStream::pair().unwrap();
    let Some(child) = crate::sys::clone::fork().unwrap() else {
        drop(parents);
        let _ = io::Read::read(&mut childs, &mut [0]);
        crate::sys::clone::exit_now(0);
    };
    drop(childs);
    let mut claim = claim;
    claim.leave();
    drop(claim);
    assert_eq!(maker_of(&path).unwrap(), Maker::Died);
    io::Write::write_all(&mut parents, b"x").unwrap();
    nix::sys::wait::waitpid(child, None).unwrap();
}

/// In /proc/self open(2) says ENOENT for a file that it cannot make, and so each time.
#[test]
fn what_can_never_be_claimed_is_an_error() {
    let error = Claim::wait(Make::File, Path::new("/proc/self/no-such-file")).unwrap_err();
    assert!(error.to_string().contains("1000 times"), "{error}");
    let home = tempfile::tempdir().unwrap();
    let error = Claim::new(|| Ok(home.path().join("never-made"))).unwrap_err();
    assert!(error.to_string().contains("1000 times"), "{error}");
}

#[test]
fn folders_above_are_made_as_any_other() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("above/own");
    own::make(&folder, 0o700).unwrap();
    let other = home.path().join("other");
    fs::create_dir(&other).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!((mode(folder.parent().unwrap()), mode(&folder)), (mode(&other), 0o700));
}

#[test]
fn what_is_no_claim_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let [file, link, folder] = ["file", "link", "folder"].map(|name| home.path().join(name));
    fs::write(&file, "").unwrap();
    let mode = 0o644;
    fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    fs::create_dir(&folder).unwrap();
    symlink(&folder, &link).unwrap();
    for (make, path, errno) in [
        (Make::Folder, &file, Errno::EEXIST),
        (Make::Folder, &file.join("x"), Errno::ENOTDIR),
        (Make::File, &file.join("x"), Errno::ENOTDIR),
        (Make::File, &folder, Errno::EISDIR),
        (Make::Folder, &link, Errno::ELOOP),
        (Make::File, &link, Errno::ELOOP),
    ] {
        assert_eq!(Claim::wait(make, path).unwrap_err().errno(), Some(errno), "{make:?} {path:?}");
    }
    assert_eq!(file.metadata().unwrap().mode() & 0o777, mode, "what is refused is not changed");
}

#[test]
fn a_folder_that_goes_while_others_wait_for_it_is_made_anew() {
    let home = tempfile::tempdir().unwrap();
    let (run, holders) = (home.path().join("run"), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..400 {
                    let make = if number % 2 == 0 { Make::Folder } else { Make::File };
                    let path = run.join(format!("{make:?}"));
                    let claim = Claim::wait(make, &path).unwrap().going(1);
                    if make == Make::Folder {
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        assert!(path.exists(), "whoever comes next would lock another one");
                        holders.fetch_sub(1, Ordering::SeqCst);
                    }
                    drop(claim);
                }
            });
        }
    });
    assert!(!run.exists());
}

#[test]
fn a_sweep_removes_a_few_of_the_dead_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("claims");
    sweep(&folder, |_| true, |_| panic!("nothing is there")).unwrap();
    fs::create_dir(&folder).unwrap();
    const COUNT: usize = DEAD + 3;
    for number in 0..COUNT {
        fs::write(folder.join(format!("claim-{number:02}")), "").unwrap();
    }
    fs::write(folder.join("another"), "").unwrap();
    symlink("another", folder.join("claim-link")).unwrap();
    let living = Claim::take(Make::File, &folder.join("claim-00")).unwrap();
    let is_claim = |name: &OsStr| name.to_string_lossy().starts_with("claim-");
    let remove = |path: &Path| {
        assert_eq!(maker_of(path).unwrap(), Maker::Lives, "it is locked meanwhile");
        fs::remove_file(path).at("remove", path)
    };
    sweep(&folder, is_claim, remove).unwrap();
    // At the most the living one and the link are among those at which it looked.
    let left = names(&folder).len();
    assert!((COUNT + 2 - DEAD..=COUNT + 4 - DEAD).contains(&left), "{left}");
    // Wherever it begins: some sweeps later all of the dead were seen.
    for _ in 0..20 {
        sweep(&folder, is_claim, remove).unwrap();
    }
    assert_eq!(names(&folder), ["another", "claim-00", "claim-link"]);
    // A failure is told, and no error. So is what is no claim.
    drop(living);
    let mut told = Vec::new();
    sweep_and_tell(
        &folder,
        is_claim,
        |path| fs::remove_dir(path).at("remove", path),
        |error| {
            told.push((error.errno().unwrap(), error.in_one_line().contains("symbolic link")));
        },
    )
    .unwrap();
    told.sort_by_key(|told| told.1);
    assert_eq!(told, [(Errno::ENOTDIR, false), (Errno::ELOOP, true)]);
    assert_eq!(names(&folder), ["another", "claim-00", "claim-link"]);
}

#[test]
fn among_many_living_a_sweep_looks_at_a_few_and_finds_every_dead_one_in_the_end() {
    let home = tempfile::tempdir().unwrap();
    let claim = |number: usize| Claim::take(Make::File, &home.path().join(number.to_string())).unwrap();
    let living: Vec<_> = (0..5 * LIVING).map(claim).collect();
    let dead = home.path().join("dead");
    fs::write(&dead, "").unwrap();
    let mut sweeps = 0;
    while dead.exists() {
        sweep(home.path(), |_| true, |path| fs::remove_file(path).at("remove", path)).unwrap();
        sweeps += 1;
        // One in five or so finds it.
        assert!(sweeps < 1000);
    }
    assert_eq!(names(home.path()).len(), living.len());
}

#[test]
fn a_blocked_signal_ends_the_wait_for_a_lock() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("claims/one");
    let held = Claim::take(Make::Folder, &path).unwrap().unwrap();
    let waits = |claim: fn(&Path) -> Error| {
        let mut set = nix::sys::signal::SigSet::empty();
        set.add(Signal::SIGTERM);
        set.thread_block().unwrap();
        // To this thread, which nobody else hears of.
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        let (begun, error) = (Instant::now(), claim(&path));
        assert_eq!(error.status(), 128 + 15);
        let expected = format!("interrupted by SIGTERM while waiting for the lock of {}", path.display());
        assert_eq!(error.to_string(), expected);
        assert!(begun.elapsed() > GRACE, "one that others are about to give back is waited for");
    };
    let claims: [fn(&Path) -> Error; 3] = [
        |path| Claim::wait(Make::Folder, path).unwrap_err(),
        |path| Claim::share(Make::Folder, path).unwrap_err(),
        |path| Claim::of(path, FlockOperation::LockExclusive).unwrap_err(),
    ];
    thread::scope(|scope| claims.map(|claim| scope.spawn(move || waits(claim))).map(|it| it.join().unwrap()));
    drop(held);
    Claim::wait(Make::Folder, &path).unwrap();
}

#[test]
fn nothing_that_a_panic_drops_waits_for_a_lock() {
    /// Needs the lock when it is dropped, as what has to be undone on the host does.
    struct Undone<'a>(&'a Path, &'a AtomicUsize);
    impl Drop for Undone<'_> {
        fn drop(&mut self) {
            if Claim::wait(Make::Folder, self.0).is_err_and(|error| error.to_string().contains("panic")) {
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    let home = tempfile::tempdir().unwrap();
    let (path, told) = (home.path().join("claims/one"), AtomicUsize::new(0));
    let ended = thread::scope(|scope| {
        let both = || {
            let _held = Claim::take(Make::Folder, &path).unwrap().unwrap();
            let _undone = Undone(&path, &told);
            panic!("on purpose");
        };
        scope.spawn(both).join()
    });
    ended.unwrap_err();
    assert_eq!(told.into_inner(), 1);
    drop(Claim::take(Make::Folder, &path).unwrap().expect("the panic has freed it"));
}
