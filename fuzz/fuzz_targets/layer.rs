//! A layer's archive: headers, pax records, the maps of sparse files, whiteouts, links, attributes. It is
//! read, and then unpacked above a layer with links that lead out of it. Nothing outside of its folder may
//! change, and no file may be larger than the limit.

#![no_main]

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use common::oci::{Entries, Limits, unpack_into};
use libfuzzer_sys::fuzz_target;

mod scratch;
mod tape;

const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 100 };

fuzz_target!(
    init: {
        scratch::enter();
        scratch::file("/outside/file", b"outside");
    },
    |input: &[u8]| {
        let archive = tape::with_checksums(input);
        read(&archive);
        make_layer_below();
        let before = ["/", "/outside", "/outside/file"].map(look);
        let unpacked = unpack_into(Path::new("/layer"), &*archive, LIMITS);
        assert_eq!(["/", "/outside", "/outside/file"].map(look), before);
        assert_eq!(scratch::names("/outside"), ["file"]);
        assert_eq!(scratch::names("/"), ["layer", "outside"]);
        let mut folders = vec![Path::new("/layer").to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder of the layer can be read") {
                let path = entry.expect("a folder can be read").path();
                let there = fs::symlink_metadata(&path).expect("nobody else removes it");
                assert!(!there.is_file() || there.len() <= LIMITS.bytes, "{path:?}: {}", there.len());
                // Of overlayfs, this is a whiteout: a layer could hide a file in a way that no reader sees.
                let is_device = there.mode() & 0o170_000 == 0o020_000;
                assert!(!is_device || there.rdev() != 0, "{path:?}");
                if there.is_dir() {
                    folders.push(path);
                }
            }
        }
        if let Err(error) = unpacked {
            assert!(!error.to_string().is_empty());
        }
    }
);

/// The archive alone. The reader gives as many bytes of each file as its header says, or an error.
fn read(archive: &[u8]) {
    let mut entries = Entries::new(archive);
    while let Ok(Some(entry)) = entries.next_entry() {
        let read = io::copy(&mut entries, &mut io::sink());
        assert!(read.is_err() || read.is_ok_and(|count| count == entry.size));
        if let Some(sparse) = entry.sparse {
            assert!(sparse.pieces.iter().all(|(offset, length)| offset + length <= sparse.size));
        }
    }
}

fn make_layer_below() {
    scratch::remove("/layer");
    scratch::file("/layer/a", b"a");
    scratch::file("/layer/d/e/f", b"f");
    for (to, link) in [("/outside", "l"), ("../../outside", "up"), ("d", "s"), ("/outside/file", "d/file")] {
        symlink(to, Path::new("/layer").join(link)).expect("the layer is ours");
    }
}

/// What a change would change.
fn look(path: &str) -> (u32, u32, u32, u64, u64, i64, i64) {
    let it = fs::symlink_metadata(path).expect("it is still there");
    (it.mode(), it.uid(), it.gid(), it.nlink(), it.size(), it.mtime_nsec(), it.ctime_nsec())
}
