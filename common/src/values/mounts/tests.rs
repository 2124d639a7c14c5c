//! Values that are a volume, a mount or a tmpfs, and values that are none.

use std::path::{Component, PathBuf};

use nix::mount::MsFlags;
use proptest::prelude::*;

use super::*;
use crate::values::testing::refused;
use crate::values::{tmpfs, volume};

fn bytes(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// `SOURCE TARGET ro|rw`, and the options that are not the default.
fn told(volume: &Volume) -> String {
    let source = match &volume.source {
        Source::Host(path) => path.display().to_string(),
        Source::Named(name) => name.clone(),
        Source::Anonymous => "-".into(),
    };
    let mut text =
        format!("{source} {} {}", volume.target.display(), if volume.read_only { "ro" } else { "rw" });
    if volume.propagation != Propagation::RPrivate {
        text += &format!(" {:?}", volume.propagation);
    }
    if volume.idmap {
        text += " idmap";
    }
    if !volume.copy {
        text += " nocopy";
    }
    text
}

#[test]
fn volumes() {
    for (text, expected) in [
        ("/srv/www:/www", "/srv/www /www rw"),
        ("/srv/www:/www:ro", "/srv/www /www ro"),
        ("/srv/www:/www:rw,rslave", "/srv/www /www rw RSlave"),
        ("/srv:/www:shared,z,ro,Z", "/srv /www ro Shared"),
        ("/:/host:rw", "/ /host rw"),
        ("/srv:/www:idmap,ro", "/srv /www ro idmap"),
        ("data:/data", "data /data rw"),
        ("a1_.-:/data:nocopy,ro", "a1_.- /data ro nocopy"),
        ("/data", "- /data rw"),
        ("/srv:/www:cached", "/srv /www rw"),
        ("/srv:/www:delegated,ro,delegated", "/srv /www ro"),
        ("data:/www:consistent", "data /www rw"),
        ("data:/a//./b/../c/", "data /a/c rw"),
        ("data:/../../a", "data /a rw"),
        ("/a b:/ä\n", "/a b /ä\n rw"),
        // A path that reads like an option is a path.
        ("/srv:/ro", "/srv /ro rw"),
    ] {
        let volume = volume(text.into()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(told(&volume), expected, "{text:?}");
        assert!(volume.create_source, "{text:?}");
    }
    let here = std::env::current_dir().unwrap();
    for (text, path) in
        [(".", ""), ("./x", "x"), ("..", ".."), ("../x/./y", "../x/y"), ("./a/../b", "a/../b")]
    {
        let source = volume(format!("{text}:/x").into()).unwrap().source;
        let expected: PathBuf = here.join(path).components().collect();
        assert_eq!(source, Source::Host(expected), "{text:?}");
    }
    let volume = volume(bytes(b"/\xff:/\xfe")).unwrap();
    assert_eq!(volume.source, Source::Host(bytes(b"/\xff").into()));
    assert_eq!(volume.target, PathBuf::from(bytes(b"/\xfe")));
}

#[test]
fn what_is_no_volume() {
    let forms = ["", ":", ":/x", "/x:", "/a:/b:ro:x", "/x:ro", "/x:nocopy,ro", "/x:cached", "data:ro"];
    let relative = ["data", "data:x", "/srv:x", "/srv:."];
    let roots = ["/", "/srv:/", "/srv:/a/..", "/srv://."];
    let long = format!("{}:/x", "a".repeat(256));
    let names = ["x:/x", "a/b:/x", "-a:/x", ".hidden:/x", "~/x:/x", "data\n:/x", &long];
    let options = ["/srv:/x:", "/srv:/x:Ro", "/srv:/x:ro,", "/srv:/x:exec", "/srv:/x:idmap=uids=0-1-10"];
    for (begins, texts) in [
        ("expected SOURCE:TARGET", &forms[..]),
        ("expected an absolute path", &relative),
        ("expected another path than /", &roots),
        ("expected a name of 2 to 255", &names),
        ("expected options among", &options),
        ("expected ro or rw, not both", &["/srv:/x:ro,rw"]),
        ("expected one propagation", &["/srv:/x:slave,shared"]),
        ("expected one of consistent", &["/srv:/x:cached,delegated"]),
        ("expected a propagation for a path", &["data:/x:slave"]),
        ("a path of the host is never filled", &["/srv:/x:nocopy"]),
        ("a volume of Congo's own has the container's ids by itself", &["data:/x:idmap"]),
        ("a path cannot have a NUL", &["/srv\0:/x"]),
    ] {
        refused(volume, begins, texts);
    }
    assert!(volume("x:/x".into()).unwrap_err().to_string().contains("starts with /, ./ or ../"));
}

#[test]
fn mounts() {
    for (text, expected) in [
        ("type=bind,source=/srv,target=/www", "/srv /www rw nocopy"),
        ("type=bind,src=/srv,dst=/www,readonly", "/srv /www ro nocopy"),
        ("destination=/www,SRC=/srv,Type=BIND,ro=true", "/srv /www ro nocopy"),
        ("type=bind,src=/srv,dst=/www,ro=false", "/srv /www rw nocopy"),
        ("type=bind,src=/srv,dst=/www,idmap", "/srv /www rw idmap nocopy"),
        ("type=bind,src=/srv,dst=/www,idmap=false", "/srv /www rw nocopy"),
        ("type=bind,src=/srv,dst=/w,bind-propagation=shared", "/srv /w rw Shared nocopy"),
        ("type=volume,source=data,target=/data", "data /data rw"),
        ("source=data,target=/data,consistency=cached", "data /data rw"),
        ("source=data,target=/data,consistency=default", "data /data rw"),
        ("source=data,target=/data,volume-nocopy", "data /data rw nocopy"),
        ("source=data,target=/data,volume-nocopy=false", "data /data rw"),
        ("target=/data", "- /data rw"),
        ("target=/data,source=", "- /data rw"),
        ("type=bind,src=/a:b,dst=/c:d", "/a:b /c:d rw nocopy"),
        ("type=bind,\"src=/a,b\",dst=/c", "/a,b /c rw nocopy"),
        ("type=bind,\"src=/a \"\"b\"\"\",\"dst=/c\"", "/a \"b\" /c rw nocopy"),
        ("type=bind,src=/a=b,dst=/c", "/a=b /c rw nocopy"),
    ] {
        match mount(text.into()) {
            Ok(Mount::Volume(volume)) => {
                assert_eq!(told(&volume), expected, "{text:?}");
                assert!(!volume.create_source, "{text:?}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
    let data_only = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let text = "type=tmpfs,tmpfs-size=1m,target=/a,ro,tmpfs-mode=0700";
    let Ok(Mount::Tmpfs(tmpfs)) = mount(text.into()) else { panic!("{text}") };
    assert_eq!((tmpfs.options.as_str(), tmpfs.flags), ("size=1048576,mode=700", data_only));
    assert!(tmpfs.read_only);
    let mount = mount(bytes(b"type=bind,src=/\xff,dst=/\xfe")).unwrap();
    assert_eq!(mount.target(), bytes(b"/\xfe"));
}

#[test]
fn what_is_no_mount() {
    let forms = ["", "/srv:/x", "target=/x,", "target=/x,size=1m", "target=/x, readonly"];
    let quotes = ["\"target=/x", "\"target=/x\"y", "target=\"/x\""];
    let sources = ["type=bind,target=/x", "type=bind,source=data,target=/x"];
    for (begins, texts) in [
        ("expected KEY=VALUE", &forms[..]),
        ("expected a double quote only", &quotes),
        ("expected a value: target=…", &["target"]),
        ("expected a value: type=…", &["type,target=/x"]),
        ("expected a target", &["source=data"]),
        ("expected an absolute path", &["target=x"]),
        ("expected another path than /", &["target=/"]),
        ("expected type=bind, type=volume or type=tmpfs", &["type=nfs,target=/x", "type=,target=/x"]),
        ("expected a source that starts with /", &sources),
        ("expected a name of 2 to 255", &["type=volume,source=/srv,target=/x"]),
        ("expected target once", &["target=/x,dst=/y"]),
        ("expected readonly once", &["target=/x,ro,readonly=true"]),
        ("expected readonly=true or readonly=false", &["target=/x,ro=yes"]),
        ("expected bind-propagation=", &["type=bind,src=/s,target=/x,bind-propagation=x"]),
        ("type=volume takes no bind-propagation", &["target=/x,bind-propagation=slave"]),
        ("type=bind takes no volume-nocopy", &["type=bind,src=/s,target=/x,volume-nocopy"]),
        ("type=volume takes no idmap", &["type=volume,source=data,target=/x,idmap"]),
        ("type=volume takes no tmpfs-mode", &["type=volume,target=/x,tmpfs-mode=700"]),
        ("type=tmpfs takes no source", &["type=tmpfs,source=/s,target=/x"]),
        ("expected a size of at least", &["type=tmpfs,target=/x,tmpfs-size=0"]),
        ("expected a mode", &["type=tmpfs,target=/x,tmpfs-mode=9"]),
        ("a path cannot have a NUL", &["target=/x\0"]),
    ] {
        refused(mount, begins, texts);
    }
}

#[test]
fn tmpfs_and_what_is_none() {
    let data_only = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (text, target, options, flags, read_only) in [
        ("/run", "/run", "", data_only, false),
        ("/run/:size=64m,mode=1777", "/run", "size=67108864,mode=1777", data_only, false),
        ("/a:size=50%", "/a", "size=50%", data_only, false),
        ("/a:ro,exec", "/a", "", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, true),
        ("/a:suid,dev,exec,mode=755", "/a", "mode=755", MsFlags::empty(), false),
        ("/a:exec,noexec,ro,rw", "/a", "", data_only, false),
    ] {
        let read = tmpfs(text.into()).unwrap();
        assert_eq!((read.target.as_path(), read.options.as_str()), (Path::new(target), options), "{text:?}");
        assert_eq!((read.flags, read.read_only), (flags, read_only), "{text:?}");
    }
    for (begins, texts) in [
        ("expected an absolute path", &["", "run"][..]),
        ("expected another path than /", &["/"]),
        ("expected size=, nr_blocks=", &["/a:", "/a:size", "/a:huge=never", "/a:noexec:ro", "/a:remount"]),
        ("expected a number as uid= and gid=", &["/a:uid=", "/a:gid=-1", "/a:uid=root", "/a:uid=4294967295"]),
        ("expected a number as nr_inodes=", &["/a:nr_inodes=0", "/a:nr_blocks=x", "/a:nr_inodes="]),
        ("expected a size such as", &["/a:size=", "/a:size=-1"]),
        ("expected a size of at least", &["/a:size=0"]),
        ("expected a size of 1% to 100%", &["/a:size=101%", "/a:size=0%"]),
        ("expected a mode", &["/a:mode=", "/a:mode=17777", "/a:mode=+7"]),
    ] {
        refused(tmpfs, begins, texts);
    }
}

#[test]
fn a_target_twice() {
    let targets = ["/a", "/a/b", "/b"].map(Path::new);
    assert_eq!(check_targets(targets), Ok(()));
    let error = check_targets(targets.into_iter().chain([Path::new("/a/b")])).unwrap_err();
    assert_eq!(error.to_string(), "/a/b: two volumes have this TARGET");
}

/// A path of any bytes but NUL and those in `forbidden`, which have a meaning.
fn a_path(forbidden: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8.., 1..20).prop_map(move |bytes| {
        let plain = bytes.into_iter().filter(|byte| !forbidden.contains(byte));
        b"/x".iter().copied().chain(plain).collect()
    })
}

/// As the kernel counts names: none empty, none that goes up.
fn is_clean(path: &Path) -> bool {
    let rebuilt: PathBuf = path.components().collect();
    rebuilt.as_os_str() == path.as_os_str()
        && path.is_absolute()
        && path.components().skip(1).all(|part| matches!(part, Component::Normal(_)))
        && path.parent().is_some()
}

proptest! {
    #[test]
    fn any_path_without_a_colon_is_taken_by_volume(source in a_path(b":"), target in a_path(b":/.")) {
        let text = [&source[..], b":", &target, b":ro"].concat();
        let read = volume(OsString::from_vec(text)).unwrap();
        prop_assert_eq!(read.source, Source::Host(OsString::from_vec(source).into()));
        prop_assert_eq!(read.target.as_os_str().as_bytes(), &target[..]);
    }

    /// Quoted as CSV has it, every path can be given to `--mount`.
    #[test]
    fn any_path_at_all_is_taken_by_mount(source in a_path(b""), target in a_path(b"/.")) {
        let quoted = |key: &str, path: &[u8]| {
            let doubled = path.iter().flat_map(|&byte| if byte == b'"' { vec![byte; 2] } else { vec![byte] });
            [b"\"", key.as_bytes(), &doubled.collect::<Vec<_>>(), b"\""].concat()
        };
        let text = [&b"type=bind,"[..], &quoted("src=", &source), b",", &quoted("dst=", &target)].concat();
        let Ok(Mount::Volume(read)) = mount(OsString::from_vec(text)) else { panic!("not taken") };
        prop_assert_eq!(read.source, Source::Host(OsString::from_vec(source).into()));
        prop_assert_eq!(read.target.as_os_str().as_bytes(), &target[..]);
    }

    /// For any value the user gets one short error line, or a mount that is possible. Its target can be
    /// mounted on, and its name can be a folder's.
    #[test]
    fn any_bytes_are_taken_or_refused_in_one_line(
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        text in r"[-/.:,a-z]{0,30}|(/[a.]{1,3}){1,4}(:(/[b.]{0,3}){1,3}){0,2}",
        words in prop::collection::vec(prop::sample::select(WORDS), 0..6),
        comma in prop::sample::select(&[":", ",", "", "/"][..]),
    ) {
        for value in [bytes, text.into_bytes(), words.join(comma).into_bytes()] {
            let value = OsString::from_vec(value);
            let mounts = [
                volume(value.clone()).map(Mount::Volume),
                mount(value.clone()),
                tmpfs(value).map(Mount::Tmpfs),
            ];
            for read in mounts {
                match read {
                    Ok(read) => {
                        prop_assert!(is_clean(read.target()), "{:?}", read);
                        if let Mount::Volume(Volume { source: Source::Named(name), .. }) = &read {
                            prop_assert!(!name.contains('/') && !name.starts_with('.'));
                        }
                        if let Mount::Volume(Volume { source: Source::Host(path), .. }) = &read {
                            prop_assert!(path.is_absolute());
                        }
                    }
                    Err(error) => {
                        let error = error.to_string();
                        prop_assert!(!error.contains('\n') && error.len() < 300, "{:?}", error);
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_volume_is_can_be_written_again(
        name in r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,20}|/[a-z/]{0,9}|",
        target in a_path(b":/."),
        options in prop::collection::vec(prop::sample::select(OPTIONS), 0..4),
    ) {
        let source = if name.is_empty() { name } else { name + ":" };
        let mut text = [source.as_bytes(), &target].concat();
        if !options.is_empty() {
            text.extend_from_slice(format!(":{}", options.join(",")).as_bytes());
        }
        if let Ok(read) = volume(OsString::from_vec(text)) {
            let mut again = [source.as_bytes(), read.target.as_os_str().as_bytes()].concat();
            // An anonymous volume has no options.
            if !matches!(read.source, Source::Anonymous) {
                again.extend_from_slice(if read.read_only { b":ro" } else { b":rw" });
            }
            if matches!(read.source, Source::Host(_)) {
                let propagation = format!("{:?}", read.propagation).to_lowercase();
                again.extend_from_slice(format!(",{propagation}").as_bytes());
            }
            if read.idmap {
                again.extend_from_slice(b",idmap");
            }
            if !read.copy && matches!(read.source, Source::Named(_)) {
                again.extend_from_slice(b",nocopy");
            }
            prop_assert_eq!(volume(OsString::from_vec(again)), Ok(read));
        }
    }

    /// Any path, and the last word about each flag counts.
    #[test]
    fn any_path_without_a_colon_is_taken_by_tmpfs(
        target in a_path(b":/."),
        flags in prop::collection::vec(prop::sample::select(&["exec", "noexec", "ro", "rw"][..]), 1..6),
    ) {
        let text = [&target[..], b":size=1m,", flags.join(",").as_bytes()].concat();
        let read = tmpfs(OsString::from_vec(text)).unwrap();
        prop_assert_eq!(read.target.as_os_str().as_bytes(), &target[..]);
        prop_assert_eq!(read.options, "size=1048576");
        let last = |one: &str, other: &str| flags.iter().rfind(|it| [one, other].contains(it)).copied();
        prop_assert_eq!(read.read_only, last("ro", "rw") == Some("ro"));
        prop_assert_eq!(read.flags.contains(MsFlags::MS_NOEXEC), last("exec", "noexec") != Some("exec"));
    }
}

/// Some options of `--volume`.
const OPTIONS: &[&str] = &["ro", "rw", "idmap", "nocopy", "z", "slave", "rshared"];

/// What values are made of, so that some of them are right.
const WORDS: &[&str] = &[
    "type=bind",
    "type=tmpfs",
    "type=volume",
    "source=/srv",
    "source=data",
    "src=./x",
    "target=/data",
    "dst=/a/../b",
    "target=/..",
    "readonly",
    "ro=false",
    "ro",
    "volume-nocopy",
    "bind-propagation=slave",
    "tmpfs-size=1m",
    "tmpfs-mode=1777",
    "size=1m",
    "mode=9",
    "\"target=/a,b\"",
    "\"",
    "/srv",
    "/data",
    "data",
    ":",
    "..",
    "\n",
    "é",
];
