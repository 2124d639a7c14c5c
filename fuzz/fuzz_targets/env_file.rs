//! The file of `--env-file`. Its variables, written again, are read as the same.

#![no_main]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use common::values::env_file;
use libfuzzer_sys::fuzz_target;

mod scratch;

fuzz_target!(init: scratch::enter(), |input: &[u8]| {
    scratch::file("/env", input);
    let variables = match env_file(Path::new("/env")) {
        Ok(variables) => variables,
        Err(error) => return assert!(error.to_string().starts_with("--env-file /env: "), "{error}"),
    };
    // A first line keeps a BOM in the first name.
    let mut text = b"#\n".to_vec();
    for (name, value) in &variables {
        assert!(!name.is_empty() && !name.as_bytes().contains(&b'='), "{name:?}");
        for part in [Some(name), value.as_ref()].into_iter().flatten() {
            assert!(!part.as_bytes().contains(&0) && !part.as_bytes().contains(&b'\n'), "{part:?}");
        }
        text.extend_from_slice(name.as_bytes());
        if let Some(value) = value {
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
        }
        // The reader takes one CR away.
        text.extend_from_slice(b"\r\n");
    }
    scratch::file("/env", &text);
    assert_eq!(env_file(Path::new("/env")).ok(), Some(variables), "{:?}", String::from_utf8_lossy(&text));
});
