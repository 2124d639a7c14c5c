//! The file of `--image`: an OCI archive or an archive of `docker save`, perhaps compressed as a whole. What
//! it says about the command names places in the container.

#![no_main]

use std::fs;
use std::io::Write;

use common::oci::{Image, Reference};
use libfuzzer_sys::fuzz_target;

mod documents;
mod scratch;
mod tape;

fuzz_target!(
    init: {
        scratch::enter();
        // For the file without a name into which a compressed archive is decompressed.
        fs::create_dir_all("/var/tmp").expect("the root is ours");
    },
    |input: &[u8]| {
        let mut file = fs::File::create("/image").expect("the root is ours");
        file.write_all(&tape::with_checksums(input)).expect("the root is ours");
        for tag in [None, Some("latest".to_owned())] {
            documents::check(Image::open(&Reference { path: "/image".into(), tag }));
        }
        assert_eq!(scratch::names("/"), ["image", "var"]);
        assert!(scratch::names("/var/tmp").is_empty());
    }
);
