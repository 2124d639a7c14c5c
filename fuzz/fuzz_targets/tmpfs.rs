//! The values of `--tmpfs`. What is read can be written again, and is then read as the same.

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
    // mount(2) takes a page of options, and no comma of a user's may end one.
    let known = |it: &str| it.is_empty() || it.starts_with("size=") || it.starts_with("mode=");
    assert!(read.options.split(',').all(known));
    let mut words = vec![if read.read_only { "ro" } else { "rw" }, "exec", "suid", "dev"];
    words.extend(read.flags.iter_names().filter_map(|(name, _)| match name {
        "MS_NOEXEC" => Some("noexec"),
        "MS_NOSUID" => Some("nosuid"),
        "MS_NODEV" => Some("nodev"),
        _ => None,
    }));
    words.extend(read.options.split(',').filter(|it| !it.is_empty()));
    let text = [read.target.as_os_str().as_bytes(), b":", words.join(",").as_bytes()].concat();
    assert_eq!(tmpfs(shared::value(&text)), Ok(read), "{:?}", String::from_utf8_lossy(&text));
});
