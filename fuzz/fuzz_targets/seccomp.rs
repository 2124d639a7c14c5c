//! A seccomp profile in Docker's JSON format. A profile is compiled for a process without capabilities,
//! and for one with all of them. The kernel takes a program of 4096 instructions, and no empty one.

#![no_main]

use std::path::Path;

use common::security::seccomp::Profile;
use libfuzzer_sys::fuzz_target;

mod scratch;

fuzz_target!(init: scratch::enter(), |input: &[u8]| {
    scratch::file("/profile", input);
    let profile = match Profile::read(Path::new("/profile")) {
        Ok(profile) => profile,
        Err(error) => return assert!(error.to_string().contains("the seccomp profile /profile"), "{error}"),
    };
    for capabilities in [Default::default(), caps::all()] {
        match profile.compile(&capabilities) {
            Ok(filter) => {
                assert!((1..=4096).contains(&filter.instructions()), "{}", filter.instructions());
                assert_eq!(profile.compile(&capabilities).ok(), Some(filter));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
