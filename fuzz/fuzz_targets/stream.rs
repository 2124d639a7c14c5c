//! A stream that is compressed: gzip in several parts, zstd in several frames. The first byte chooses. The
//! bytes that come out do not depend on the sizes in which they are read.

#![no_main]

use std::io::{self, BufReader, Read};

use common::oci::{Compression, decompress};
use libfuzzer_sys::fuzz_target;

/// A bomb is for the limits, which are not tried here.
const MOST: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((first, archive)) = input.split_first() else { return };
    let compression = [Compression::None, Compression::Gzip, Compression::Zstd][usize::from(first % 3)];
    let read = |piece: usize| -> io::Result<Vec<u8>> {
        let mut stream = decompress(compression, archive)?.take(MOST);
        let (mut all, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    };
    let (whole, pieces) = (read(64 << 10), read(7));
    assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok());
    if compression == Compression::None {
        assert_eq!(whole.ok().as_deref(), Some(archive));
    } else if let Ok(whole) = whole {
        // The source, too, may give few bytes at a time.
        let slow = decompress(compression, BufReader::with_capacity(1, archive)).map(|it| it.take(MOST));
        let mut all = Vec::new();
        slow.and_then(|mut it| it.read_to_end(&mut all)).expect("it was read before");
        assert!(all == whole);
    }
});
