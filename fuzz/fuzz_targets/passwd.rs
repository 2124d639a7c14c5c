//! `/etc/passwd` and `/etc/group` of a container. The first line of the input is the value of `--user`, and a
//! line with `--` alone stands between the two files.

#![no_main]

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use common::ids::passwd::resolve;
use common::values::{NameOrId, user};
use libfuzzer_sys::fuzz_target;

mod scratch;

/// The container's root.
static ROOT: OnceLock<OwnedFd> = OnceLock::new();

fuzz_target!(|input: &[u8]| {
    let Some(at) = input.iter().position(|&byte| byte == b'\n') else { return };
    let Some(wanted) = str::from_utf8(&input[..at]).ok().and_then(|text| user(text).ok()) else { return };
    let files = &input[at + 1..];
    let between = files.windows(4).position(|it| it == b"\n--\n").unwrap_or(files.len());
    let root = ROOT.get_or_init(scratch::make);
    let etc = format!("/proc/self/fd/{}/etc", root.as_raw_fd());
    scratch::file(&format!("{etc}/passwd"), &files[..between]);
    scratch::file(&format!("{etc}/group"), files.get(between + 4..).unwrap_or_default());
    let found = match resolve(root, &wanted) {
        Ok(found) => found,
        Err(error) => return assert!(error.to_string().contains("no "), "{error}"),
    };
    // The last number means "no id" for the kernel.
    assert!(![found.uid, found.gid].iter().chain(&found.groups).any(|&id| id == u32::MAX), "{found:?}");
    assert!(found.home.is_absolute() && !found.home.as_os_str().as_bytes().contains(&0), "{found:?}");
    assert!(found.groups.len() < 65536);
    // A number is itself, whatever the files say.
    if let NameOrId::Id(id) = wanted.user {
        assert_eq!(found.uid, id);
    }
    match wanted.group {
        Some(NameOrId::Id(id)) => assert_eq!((found.gid, found.groups), (id, vec![])),
        Some(NameOrId::Name(_)) => assert!(found.groups.is_empty()),
        None => {}
    }
});
