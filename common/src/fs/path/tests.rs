//! Both ways to resolve a path, in trees made to mislead them, and while somebody changes the tree.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{RenameFlags, open, renameat2};
use nix::mount::{MsFlags, mount};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::fs::mount::Detached;
use crate::testing::in_mount_namespace;

fn path_descriptor(path: &Path) -> OwnedFd {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

/// Where an open file is.
fn place(open: &OwnedFd) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd())).unwrap()
}

/// A root, beside it a folder of the host.
struct Home {
    _home: Option<TempDir>,
    root: PathBuf,
    host: PathBuf,
}

impl Home {
    fn new() -> Home {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap();
        Home { _home: Some(home), ..Home::beneath(&path) }
    }

    /// In a folder that somebody else removes.
    fn beneath(path: &Path) -> Home {
        let (root, host) = (path.join("root"), path.join("host"));
        for folder in [&root, &host] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(host.join("secret"), "").unwrap();
        Home { _home: None, root, host }
    }

    fn open(&self) -> OwnedFd {
        path_descriptor(&self.root)
    }

    fn link(&self, text: impl AsRef<Path>, name: &str) {
        symlink(text, self.root.join(name)).unwrap();
    }

    /// Where a path leads, in both ways, as seen in the root.
    fn leads(&self, path: &str) -> Result<String, Errno> {
        let root = self.open();
        let told = |result: Result<OwnedFd>| {
            result.map_err(|error| error.errno().unwrap()).map(|open| {
                let place = place(&open);
                let inside = place.strip_prefix(&self.root);
                inside.unwrap_or_else(|_| panic!("{path} leads to {place:?}")).to_str().unwrap().to_owned()
            })
        };
        let walked = told(walk(&root, path.as_ref(), None));
        // The kernel may give up because of what other tests rename at the same time.
        let by_openat2 = loop {
            match told(by_openat2(&root, path.as_ref())) {
                Err(Errno::EAGAIN) => {}
                result => break result,
            }
        };
        // Only a kernel from before 5.6 has no second way.
        if by_openat2 != Err(Errno::ENOSYS) {
            assert_eq!(walked, by_openat2, "{path}");
        }
        assert_eq!(walked, told(open_beneath(&root, path.as_ref())), "{path}");
        walked
    }

    fn make(&self, path: &str, what: Kind) -> Result<String, Errno> {
        let made = make_beneath(&self.open(), path.as_ref(), what).map_err(|error| error.errno().unwrap())?;
        let place = place(&made);
        let status = fs::metadata(&place).unwrap();
        assert_eq!(status.is_dir(), what == Kind::Directory, "{path}");
        Ok(place.strip_prefix(&self.root).unwrap().to_str().unwrap().to_owned())
    }
}

#[test]
fn links_lead_beneath_the_root() {
    let home = Home::new();
    fs::create_dir_all(home.root.join("a/b")).unwrap();
    fs::write(home.root.join("a/file"), "").unwrap();
    for (text, name) in [
        ("/a/b", "absolute"),
        ("a/b", "relative"),
        ("../../../../../a", "climbing"),
        ("..", "a/b/up"),
        ("/", "a/top"),
        ("loop2", "loop1"),
        ("loop1", "loop2"),
        ("self/x", "self"),
        ("nowhere/x", "dangling"),
        ("a/file/", "slash"),
    ] {
        home.link(text, name);
    }
    home.link(&home.host, "outside");
    home.link(Path::new("..").join("host"), "beside");
    for (path, there) in [
        ("/", ""),
        ("a", "a"),
        ("//a//b/", "a/b"),
        ("absolute", "a/b"),
        ("/absolute/up", "a"),
        ("relative/../file", "a/file"),
        ("climbing/b", "a/b"),
        ("../../..", ""),
        ("a/top/a/top/a", "a"),
        ("a/./b/.", "a/b"),
    ] {
        assert_eq!(home.leads(path).as_deref(), Ok(there), "{path}");
    }
    for (path, errno) in [
        ("", Errno::ENOENT),
        ("none", Errno::ENOENT),
        ("a/file/x", Errno::ENOTDIR),
        ("a/file/", Errno::ENOTDIR),
        ("a/file/..", Errno::ENOTDIR),
        ("slash", Errno::ENOTDIR),
        ("loop1", Errno::ELOOP),
        ("self", Errno::ELOOP),
        ("dangling", Errno::ENOENT),
        ("outside", Errno::ENOENT),
        ("outside/secret", Errno::ENOENT),
        ("beside/secret", Errno::ENOENT),
        ("../host/secret", Errno::ENOENT),
    ] {
        assert_eq!(home.leads(path), Err(errno), "{path}");
    }
}

#[test]
fn as_many_links_as_the_kernel_follows() {
    let home = Home::new();
    fs::create_dir(home.root.join("0")).unwrap();
    for number in 0..41 {
        home.link(number.to_string(), &(number + 1).to_string());
    }
    assert_eq!(home.leads("40").as_deref(), Ok("0"));
    assert_eq!(home.leads("41"), Err(Errno::ELOOP));
}

#[test]
fn what_is_missing_is_made_beneath_the_root() {
    let home = Home::new();
    home.link("/new/place", "dangling");
    home.link("../../../../up", "climbing");
    home.link(&home.host, "outside");
    assert_eq!(home.make("/x/y/z", Kind::Directory).as_deref(), Ok("x/y/z"));
    assert_eq!(home.make("/x/y/file", Kind::File).as_deref(), Ok("x/y/file"));
    assert_eq!(home.make("dangling/file", Kind::File).as_deref(), Ok("new/place/file"));
    assert_eq!(home.make("climbing", Kind::File).as_deref(), Ok("up"));
    assert_eq!(home.make("../..//y", Kind::Directory).as_deref(), Ok("y"));
    assert_eq!(home.make("etc/link", Kind::Link("/proc/mounts")).as_deref(), Ok("etc/link"));
    assert_eq!(fs::read_link(home.root.join("etc/link")).unwrap(), Path::new("/proc/mounts"));
    fs::write(home.root.join("etc/own"), "own").unwrap();
    home.make("etc/own", Kind::Link("/proc/mounts")).unwrap();
    assert_eq!(fs::read(home.root.join("etc/own")).unwrap(), b"own");
    // A file that is there is taken as it is.
    assert_eq!(home.make("dangling/file", Kind::File).as_deref(), Ok("new/place/file"));
    let beneath = home.make("outside/secret/x", Kind::Directory).unwrap();
    assert_eq!(
        home.root.join(beneath),
        home.root.join(home.host.strip_prefix("/").unwrap()).join("secret/x")
    );
    assert_eq!(fs::read_dir(&home.host).unwrap().count(), 1);
    assert_eq!(home.make("x/y/file", Kind::Directory), Err(Errno::ENOTDIR));
    assert_eq!(home.make("x/y", Kind::File), Err(Errno::EISDIR));
    assert_eq!(home.make("x/y/file/below", Kind::File), Err(Errno::ENOTDIR));
    let mode = |path| fs::metadata(home.root.join(path)).unwrap().mode() & 0o7777;
    // Of whatever umask these tests have, no permission to write remains.
    assert_eq!((mode("x/y/z") & !0o755, mode("up") & !0o644), (0, 0));
}

/// Swaps a folder in the root and a link to a folder of the host, again and again, while another thread
/// works. Ends when `work` was outside of the root, or the time is over.
fn while_somebody_swaps(seconds: f32, mut work: impl FnMut(&Home, &OwnedFd) -> bool) -> bool {
    let home = Home::new();
    for folder in ["folder", "folder/below"] {
        fs::create_dir(home.root.join(folder)).unwrap();
    }
    fs::create_dir(home.host.join("below")).unwrap();
    fs::write(home.root.join("folder/secret"), "").unwrap();
    home.link(&home.host, "link");
    let (root, end) = (home.open(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                renameat2(&root, "folder", &root, "link", RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        let until = Instant::now() + Duration::from_secs_f32(seconds);
        let mut was_outside = false;
        while !was_outside && Instant::now() < until {
            was_outside = work(&home, &root);
        }
        end.store(true, Ordering::Relaxed);
        was_outside |= home.host.join("new").exists() || home.host.join("below/new").exists();
        was_outside
    })
}

#[test]
fn nobody_is_fast_enough_to_lead_it_outside() {
    let is_outside =
        |home: &Home, open: Result<OwnedFd>| open.is_ok_and(|open| place(&open).starts_with(&home.host));
    for path in ["folder/secret", "link/secret", "folder/below/../secret"] {
        let path = Path::new(path);
        assert!(
            !while_somebody_swaps(0.7, |home, root| is_outside(home, open_beneath(root, path))),
            "{path:?}"
        );
        assert!(
            !while_somebody_swaps(0.7, |home, root| is_outside(home, walk(root, path, None))),
            "{path:?}"
        );
    }
    for path in ["folder/new", "folder/below/new"] {
        assert!(!while_somebody_swaps(0.7, |home, root| {
            let made = make_beneath(root, path.as_ref(), Kind::File);
            // Made anew each time.
            if let Ok(made) = &made {
                let _ = fs::remove_file(place(made));
            }
            is_outside(home, made)
        }));
    }
}

/// So that the test above means something: whoever looks first and opens then is led outside.
#[test]
fn the_swap_misleads_who_looks_first() {
    assert!(while_somebody_swaps(60.0, |home, root| {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(root, "folder", flags, Mode::empty()).is_ok()
            && openat(root, "folder/secret", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                .is_ok_and(|open| place(&open).starts_with(&home.host))
    }));
}

#[test]
fn what_must_not_be_mounted_over() {
    in_mount_namespace(|home| {
        let home = Home::beneath(home);
        for (name, source) in [("proc", "/proc"), ("sys", "/sys"), ("bound", home.root.to_str().unwrap())] {
            let target = make_beneath(&home.open(), name.as_ref(), Kind::Directory).unwrap();
            Detached::copy_of(source.as_ref()).unwrap().attach_at(&target).unwrap();
        }
        home.link("/proc/self/status", "link");
        home.link("..", "up");
        fs::create_dir(home.root.join("data")).unwrap();
        let check = |path: &str| {
            let root = home.open();
            check_target(&root, &open_beneath(&root, path.as_ref()).unwrap(), path.as_ref())
                .map_err(|error| error.to_string())
        };
        assert_eq!(check("data"), Ok(()));
        for path in ["/", "/data/..", "up", "bound"] {
            let expected = format!("mount on {path:?}: that is the container's root");
            assert_eq!(check(path), Err(expected));
        }
        for (path, name) in [("/proc", "procfs"), ("link", "procfs"), ("sys/kernel", "sysfs")] {
            let expected = format!("mount on {path:?}: that lies on the container's {name}");
            assert_eq!(check(path), Err(expected));
        }
        // A link that is none: whoever followed it would be outside, or where it says nothing about.
        let magic = open_beneath(&home.open(), Path::new("proc/self/root/data"));
        assert!(magic.is_err(), "{magic:?}");
    });
}

#[test]
fn where_nothing_can_be_made() {
    in_mount_namespace(|home| {
        let home = Home::beneath(home);
        let mut tree = Detached::copy_of(&home.root).unwrap();
        tree.make_read_only().unwrap();
        tree.attach_at(&home.open()).unwrap();
        assert_eq!(home.make("x/y", Kind::Directory), Err(Errno::EROFS));
    });
}

#[test]
fn nothing_is_made_in_a_shared_mount() {
    in_mount_namespace(|home| {
        let home = Home::beneath(home);
        let target = make_beneath(&home.open(), Path::new("data"), Kind::Directory).unwrap();
        Detached::copy_of(&home.host).unwrap().attach_at(&target).unwrap();
        let data = home.root.join("data");
        mount(None::<&str>, &data, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        home.link("/nope/../data", "way");
        for path in ["data/new", "way/new", "no/../data/new", "data/no/../../free"] {
            let error = make_beneath(&home.open(), path.as_ref(), Kind::File).unwrap_err();
            assert!(error.to_string().contains("shared with the host"), "{error}");
            assert_eq!(fs::read_dir(&home.host).unwrap().count(), 1, "{path}");
        }
        assert_eq!(home.make("data/../free", Kind::File), Ok("free".into()));
    });
}

/// A name in a small tree, or a few characters that mean something in a path.
fn a_path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", ".", "..", "", "none"]);
    (any::<bool>(), prop::collection::vec(name, 1..6), any::<bool>()).prop_map(|(absolute, names, slash)| {
        let path = names.join("/");
        format!("{}{path}{}", if absolute { "/" } else { "" }, if slash { "/" } else { "" })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the tree, both ways lead to the same place, or to none for the same reason; and what is made
    /// is there.
    #[test]
    fn both_ways_agree(
        entries in prop::collection::vec((a_path(), 0..3, a_path()), 0..14),
        paths in prop::collection::vec(a_path(), 8),
    ) {
        let home = Home::new();
        for (path, kind, text) in entries {
            // By the names alone, so that the tree does not depend on what is tested.
            let names: PathBuf = Path::new(&path).components()
                .filter(|name| matches!(name, std::path::Component::Normal(_))).collect();
            let place = home.root.join(names);
            let parents = place.parent().unwrap();
            if parents.canonicalize().is_ok_and(|parent| parent.starts_with(&home.root)) {
                // A file that is there already stays.
                let _ = match kind {
                    0 => fs::create_dir(&place),
                    1 => fs::File::create_new(&place).map(drop),
                    _ => symlink(text, &place),
                };
            }
        }
        for path in paths {
            let found = home.leads(&path);
            let made = home.make(&path, Kind::Directory);
            match found {
                Err(Errno::ENOENT) if made.is_ok() => prop_assert_eq!(home.leads(&path), made),
                Ok(found) if made.is_ok() => prop_assert_eq!(Ok(found), made),
                Ok(_) => prop_assert_eq!(made, Err(Errno::ENOTDIR)),
                _ => {}
            }
        }
        prop_assert_eq!(fs::read_dir(&home.host).unwrap().count(), 1);
    }
}
