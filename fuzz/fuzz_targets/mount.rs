//! The values of `--mount`, with their quotes. A value, written again, is read as the same.

#![no_main]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use common::values::{Mount, Source, mount};
use libfuzzer_sys::fuzz_target;

mod shared;

fuzz_target!(|input: &[u8]| {
    let read = match mount(shared::value(input)) {
        Ok(read) => read,
        Err(error) => return shared::check_error(&error),
    };
    shared::check_target(read.target());
    // A tmpfs is written in another form, by its own target.
    let Mount::Volume(volume) = &read else { return };
    shared::check_source(volume);
    let mut text = field("target=", volume.target.as_os_str().as_bytes());
    let more = match &volume.source {
        Source::Host(path) => {
            text.extend_from_slice(b",type=bind,");
            text.extend(source(path));
            format!(",idmap={},bind-propagation={}", volume.idmap, shared::word(volume.propagation))
        }
        Source::Named(name) => format!(",type=volume,src={name},volume-nocopy={}", !volume.copy),
        Source::Anonymous => format!(",volume-nocopy={}", !volume.copy),
    };
    text.extend_from_slice(more.as_bytes());
    text.extend_from_slice(format!(",readonly={}", volume.read_only).as_bytes());
    assert_eq!(mount(shared::value(&text)), Ok(read), "{:?}", String::from_utf8_lossy(&text));
});

fn source(path: &Path) -> Vec<u8> {
    field("source=", path.as_os_str().as_bytes())
}

/// In quotes, as CSV has it.
fn field(key: &str, path: &[u8]) -> Vec<u8> {
    let doubled = path.iter().flat_map(|&byte| vec![byte; if byte == b'"' { 2 } else { 1 }]);
    [b"\"", key.as_bytes(), &doubled.collect::<Vec<_>>(), b"\""].concat()
}
