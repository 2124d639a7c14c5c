//! The documents of an image, one a line: index, manifest and config of a layout, or those of an archive of
//! `docker save`. What they say about the command names places in the container.
//!
//! No random text has the digest of another one. So `@2` in a document stands for the digest and size of the
//! document in line 2, if that line comes later. In an archive of `docker save` it stands for the name. The
//! first line is line 0.

#![no_main]

use std::fs;

use common::oci::{Image, Reference};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

mod documents;
mod scratch;
mod tape;

fuzz_target!(init: scratch::enter(), |input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let is_saved = *first == b's';
    let mut documents: Vec<Vec<u8>> = rest.split(|&byte| byte == b'\n').take(9).map(<[u8]>::to_vec).collect();
    scratch::remove("/image");
    let mut archive = Vec::new();
    for at in (0..documents.len()).rev() {
        for behind in at + 1..documents.len() {
            let digest = hex(&Sha256::digest(&documents[behind]));
            let (digest, size) = (digest, documents[behind].len());
            let named = match is_saved {
                true => format!("\"{digest}.json\""),
                false => format!("\"digest\":\"sha256:{digest}\",\"size\":{size}"),
            };
            documents[at] = replaced(&documents[at], &[b'@', b'0' + behind as u8], named.as_bytes());
        }
        let name = hex(&Sha256::digest(&documents[at]));
        match (is_saved, at) {
            (true, 0) => archive.extend(tape::member("manifest.json", &documents[at])),
            (true, _) => archive.extend(tape::member(&format!("{name}.json"), &documents[at])),
            (false, 0) => scratch::file("/image/index.json", &documents[at]),
            (false, _) => scratch::file(&format!("/image/blobs/sha256/{name}"), &documents[at]),
        }
    }
    if is_saved {
        scratch::file("/image/archive", &[archive, vec![0; 1024]].concat());
    } else {
        scratch::file("/image/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    }
    let path = if is_saved { "/image/archive" } else { "/image" };
    for tag in [None, Some("latest".to_owned())] {
        documents::check(Image::open(&Reference { path: path.into(), tag }));
    }
    let there = fs::read_dir("/").expect("the root is ours").count();
    assert_eq!(there, 1);
});

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn replaced(text: &[u8], word: &[u8], with: &[u8]) -> Vec<u8> {
    let (mut new, mut rest) = (Vec::new(), text);
    // No document may grow without an end.
    while let Some(at) = rest.windows(word.len()).position(|it| it == word).filter(|_| new.len() < 1 << 16) {
        new.extend_from_slice(&rest[..at]);
        new.extend_from_slice(with);
        rest = &rest[at + word.len()..];
    }
    new.extend_from_slice(rest);
    new
}
