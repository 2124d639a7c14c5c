//! The values of `--tmpfs`. A value, written again, is read as the same.

#![no_main]

use std::os::unix::ffi::OsStrExt;

use common::values::tmpfs;
use libfuzzer_sys::fuzz_target;

mod shared;

fuzz_target!(|input: &[u8]| {
    let read = match tmpfs(shared::value(input)) {
        Ok(read) => read,
        Err(error) => return shared::check_error(&error),
    };
    shared::check_target(&read.target);
    // A user's comma may end no option but a list of memory nodes.
    let keys = ["size=", "mode=", "uid=", "gid=", "nr_inodes=", "nr_blocks=", "mpol="];
    let is_node = |it: &str| it.starts_with(|first: char| first.is_ascii_digit());
    let known = |it: &str| it.is_empty() || is_node(it) || keys.iter().any(|key| it.starts_with(key));
    assert!(read.options.split(',').all(known), "{}", read.options);
    let mut words = vec![if read.read_only { "ro" } else { "rw" }, "exec", "suid", "dev"];
    words.extend(read.flags.iter_names().map(|(name, _)| match name {
        "MS_NOEXEC" => "noexec",
        "MS_NOSUID" => "nosuid",
        "MS_NODEV" => "nodev",
        "MS_NOATIME" => "noatime",
        "MS_RELATIME" => "relatime",
        "MS_STRICTATIME" => "strictatime",
        "MS_NODIRATIME" => "nodiratime",
        "MS_SYNCHRONOUS" => "sync",
        "MS_DIRSYNC" => "dirsync",
        other => panic!("a flag that --tmpfs does not set: {other}"),
    }));
    words.extend(read.options.split(',').filter(|it| !it.is_empty()));
    let text = [read.target.as_os_str().as_bytes(), b":", words.join(",").as_bytes()].concat();
    assert_eq!(tmpfs(shared::value(&text)), Ok(read), "{:?}", String::from_utf8_lossy(&text));
});
