//! Users of roots that are as they should be, and of roots that somebody made to harm.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::values::user;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    # daemon:x:1:1::/:/bin/false\n\
    bad:x:one:1::/bad:\nbad:x:1\nbad\n:x:1:1::/:\nbad:x:4294967296:1::/:\n\
    bad:x:4294967295:1::/:\nbad:x:-1:1::/:\n\
    web:x:33:44:Web,,,:/var/www:/bin/false\r\n\
    web:x:99:99:second:/second:\n\
    twin:x:33:55::/twin:\n\
    no-home:x:7:8::relative:\n\
    12:x:500:500::/number:\n";
const GROUP: &str = "root:x:0:\nadm:x:4:web,root\nweb:x:44:\nbad:x:x:web\nbad\n\
    disk:x:6:webb,xweb,web x\nlogs:x:9:other,web\nagain:x:9:web\n";

struct Root {
    folder: tempfile::TempDir,
    open: OwnedFd,
}

impl Root {
    fn new(passwd: &[u8], group: &[u8]) -> Root {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(folder.path().join("etc/passwd"), passwd).unwrap();
        fs::write(folder.path().join("etc/group"), group).unwrap();
        let open = File::open(folder.path()).unwrap().into();
        Root { folder, open }
    }

    fn who(&self, text: &str) -> Result<Identity> {
        resolve(&self.open, &user(text).unwrap())
    }
}

fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Identity> {
    Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.into() })
}

#[test]
fn names_and_numbers_as_docker_has_them() {
    let root = Root::new(PASSWD.as_bytes(), GROUP.as_bytes());
    assert_eq!(root.who("root"), identity(0, 0, &[4], "/root"));
    assert_eq!(root.who("web"), identity(33, 44, &[4, 9], "/var/www"));
    assert_eq!(root.who("33"), identity(33, 44, &[4, 9], "/var/www"));
    assert_eq!(root.who("web:adm"), identity(33, 4, &[], "/var/www"));
    assert_eq!(root.who("web:1234"), identity(33, 1234, &[], "/var/www"));
    assert_eq!(root.who("1000"), identity(1000, 0, &[], "/"));
    assert_eq!(root.who("1000:adm"), identity(1000, 4, &[], "/"));
    assert_eq!(root.who("no-home"), identity(7, 8, &[], "/"));
    // A number is an id, also where somebody has it as a name.
    assert_eq!(root.who("12"), identity(12, 0, &[], "/"));
    for (text, what) in
        [("nobody", "user \"nobody\""), ("bad", "user \"bad\""), ("web:none", "group \"none\"")]
    {
        let error = root.who(text).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(error.status(), 125);
    }
}

#[test]
fn a_root_without_these_files_has_numbers_only() {
    let root = Root::new(b"", b"");
    fs::remove_dir_all(root.folder.path().join("etc")).unwrap();
    assert_eq!(root.who("0"), identity(0, 0, &[], "/"));
    assert!(root.who("root").unwrap_err().to_string().contains("no user \"root\""));
}

#[test]
fn a_link_leads_to_no_file_of_the_host() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("passwd");
    fs::write(&secret, "spy:x:77:77::/:\n").unwrap();
    let root = Root::new(b"", b"");
    let passwd = root.folder.path().join("etc/passwd");
    for target in [secret.clone(), Path::new("../../../../../..").join(secret.strip_prefix("/").unwrap())] {
        fs::remove_file(&passwd).unwrap();
        symlink(target, &passwd).unwrap();
        assert!(root.who("spy").is_err());
    }
    // A link within the root is fine.
    fs::write(root.folder.path().join("users"), "in:x:5:6::/in:\n").unwrap();
    fs::remove_file(&passwd).unwrap();
    symlink("/users", &passwd).unwrap();
    assert_eq!(root.who("in"), identity(5, 6, &[], "/in"));
}

#[test]
fn what_is_no_file_is_not_opened() {
    let root = Root::new(b"", b"");
    let passwd = root.folder.path().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, Mode::S_IRWXU).unwrap();
    // Without an end, as a test that hangs says nothing.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(root.who("0").unwrap_err().to_string()));
    let error =
        receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("a pipe must not be waited for");
    assert!(error.contains("it is no file"), "{error}");
}

#[test]
fn a_file_without_end_is_refused() {
    let root = Root::new(b"", b"");
    // A hole: it costs no disk.
    File::options()
        .write(true)
        .open(root.folder.path().join("etc/passwd"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert!(root.who("0").unwrap_err().to_string().contains("more than 16 MiB"));
}

#[test]
fn one_line_of_megabytes_is_only_slow() {
    let line = [b"a".repeat(8 << 20), b":x:1:2::/home:".to_vec()].concat();
    let root = Root::new(&[&line[..], b"\nweb:x:3:4::/:\n"].concat(), &b"x:".repeat(1 << 20));
    assert_eq!(root.who("web"), identity(3, 4, &[], "/"));
    assert_eq!(root.who("1"), identity(1, 2, &[], "/home"));
}

#[test]
fn no_more_groups_than_the_kernel_takes() {
    let groups: String = (0..70_000).map(|id| format!("g{id}:x:{id}:u\n")).collect();
    let root = Root::new(b"u:x:1:1::/:", groups.as_bytes());
    assert_eq!(root.who("u").unwrap().groups.len(), 65535);
}

#[test]
fn bytes_that_are_no_text_stay_what_they_are() {
    let root = Root::new(b"\xff\xfe:x:1:2::/\xff:\nu:x:3:4:\xff:/h\0me:\n", b"g\xff:x:5:u\n");
    assert_eq!(root.who("1").unwrap().home.as_os_str().as_bytes(), b"/\xff");
    assert_eq!(root.who("u"), identity(3, 4, &[5], "/"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is in the files: no panic, and no id that means "none".
    #[test]
    fn any_bytes_are_harmless(
        passwd in proptest::collection::vec(any::<u8>(), 0..300),
        group in "([a-c,:0-9\n\u{0}]|u:x:[0-9]{1,11}:){0,60}",
        who in prop_oneof![Just("u"), Just("0"), Just("a:b"), Just("1:a"), Just("4294967294")],
    ) {
        let root = Root::new(&[&passwd[..], b"\n", group.as_bytes()].concat(), group.as_bytes());
        if let Ok(found) = root.who(who) {
            prop_assert!(found.uid != u32::MAX && found.gid != u32::MAX && !found.groups.contains(&u32::MAX));
            prop_assert!(found.home.is_absolute());
        }
    }

    /// A user that is in the file is found, whatever stands around it.
    #[test]
    fn a_user_is_found_among_others(before in "[a-z:0-9\n]{0,80}", id in 0..u32::MAX, gid in 0..u32::MAX) {
        prop_assume!(!before.contains("needle"));
        let root = Root::new(format!("{before}\nneedle:x:{id}:{gid}::/n:\n{before}").as_bytes(), b"");
        prop_assert_eq!(root.who("needle"), identity(id, gid, &[], "/n"));
    }
}
