//! The values of `--image` and `--commit`. What is read is what was written, and an error is one short line.

#![no_main]

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use common::oci::{reference, target};
use libfuzzer_sys::fuzz_target;

mod scratch;

fuzz_target!(
    init: {
        scratch::enter();
        for name in ["/image", "/image:1", "/a:b", "/a:b:c"] {
            fs::create_dir(name).expect("the root is ours");
        }
    },
    |input: &[u8]| {
        let value = OsString::from_vec(input.to_vec());
        for read in [reference(value.clone()), target(value.clone())] {
            match read {
                Ok(read) => {
                    let tag = read.tag.map(|tag| format!(":{tag}")).unwrap_or_default();
                    assert_eq!([read.path.as_os_str().as_bytes(), tag.as_bytes()].concat(), input);
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(!error.contains('\n') && error.len() < 200, "{error}");
                }
            }
        }
    }
);
