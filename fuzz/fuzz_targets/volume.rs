//! The values of `--volume`. A value, written again, is read as the same.

#![no_main]

use std::os::unix::ffi::OsStrExt;

use common::values::{Source, volume};
use libfuzzer_sys::fuzz_target;

mod shared;

fuzz_target!(|input: &[u8]| {
    let read = match volume(shared::value(input)) {
        Ok(read) => read,
        Err(error) => return shared::check_error(&error),
    };
    shared::check_target(&read.target);
    shared::check_source(&read);
    let mut text = match &read.source {
        Source::Host(path) => [path.as_os_str().as_bytes(), b":"].concat(),
        Source::Named(name) => format!("{name}:").into_bytes(),
        Source::Anonymous => Vec::new(),
    };
    // The working directory, which is put before `./`, has no colon.
    text.extend_from_slice(read.target.as_os_str().as_bytes());
    // An anonymous volume has no options.
    if read.source != Source::Anonymous {
        text.extend_from_slice(if read.read_only { b":ro" } else { b":rw" });
    }
    if matches!(read.source, Source::Host(_)) {
        text.extend_from_slice(format!(",{}", shared::word(read.propagation)).as_bytes());
    }
    for (holds, word) in [(!read.copy, &b",nocopy"[..]), (read.idmap, b",idmap")] {
        text.extend_from_slice(if holds { word } else { b"" });
    }
    assert_eq!(volume(shared::value(&text)), Ok(read), "{:?}", String::from_utf8_lossy(&text));
});
