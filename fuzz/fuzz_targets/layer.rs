//! A layer's stream: decompression, headers, pax records, the maps of sparse files. The first byte chooses
//! how it is compressed. Nothing may panic, and no input may take more memory than the bounds of the reader
//! allow.

#![no_main]

use std::io::{self, Read};

use common::oci::{Compression, Entries, decompress};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((first, archive)) = input.split_first() else { return };
    let compression = [Compression::None, Compression::Gzip, Compression::Zstd][usize::from(first % 3)];
    let Ok(stream) = decompress(compression, archive) else { return };
    // A bomb is for the limits, which are not tried here.
    let mut entries = Entries::new(stream.take(16 << 20));
    while let Ok(Some(entry)) = entries.next_entry() {
        let read = io::copy(&mut entries, &mut io::sink());
        assert!(read.is_err() || read.is_ok_and(|count| count == entry.size));
        if let Some(sparse) = entry.sparse {
            assert!(sparse.pieces.iter().all(|(offset, length)| offset + length <= sparse.size));
        }
    }
});
