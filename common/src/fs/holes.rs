//! Files with holes: stretches that nobody has written. They read as zeroes and take no room on the disk.
//!
//! Kernel object: a file's map from offsets to blocks of the disk. lseek(2) tells where data begins and where
//! it ends. Whoever copies such a file byte by byte fills the disk with zeroes: 2 MB of an image can become a
//! terabyte. A hole is made by not writing there; ftruncate(2) makes one at the end of the file.
//! Man pages: lseek(2), "SEEK_HOLE and SEEK_DATA"; ftruncate(2).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

#[cfg(feature = "image")]
pub(crate) use blocks::{data_in, write};

/// Where the next data of the file is, from `offset` on. `None` when only a hole follows, or the end.
fn next_data(file: &File, offset: u64) -> nix::Result<Option<Range<u64>>> {
    let seek = |offset: u64, whence| {
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        lseek(file, offset, whence).map(i64::cast_unsigned)
    };
    match seek(offset, Whence::SeekData) {
        Ok(start) => Ok(Some(start..seek(start, Whence::SeekHole)?)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Copies all data of `from` into the empty file `to`, and leaves holes where `from` has some.
///
/// # Errors
/// ENOSPC, EFBIG, EIO.
pub(crate) fn copy(mut from: &File, mut to: &File) -> io::Result<()> {
    let mut offset = 0;
    while let Some(data) = next_data(from, offset)? {
        from.seek(SeekFrom::Start(data.start))?;
        to.seek(SeekFrom::Start(data.start))?;
        io::copy(&mut from.take(data.end - data.start), &mut to)?;
        offset = data.end;
    }
    let size = from.seek(SeekFrom::End(0))?;
    // After the last data there may be a hole.
    if size > offset { to.set_len(size) } else { Ok(()) }
}

/// Holes found by what is in a file, block by block.
#[cfg(feature = "image")]
mod blocks {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Most file systems have blocks of this size. So many zeroes in a row, at a multiple of this number,
    /// need no block of the disk.
    const BLOCK: usize = 4096;
    /// An archive lists the holes of a file from this size on.
    const LISTED: usize = 1 << 16;

    static ZEROES: [u8; LISTED] = [0; LISTED];

    fn is_zero(bytes: &[u8]) -> bool {
        bytes == &ZEROES[..bytes.len()]
    }

    /// Reads until the buffer is full, or nothing follows.
    fn fill(mut reader: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        let mut have = 0;
        while have < buffer.len() {
            match reader.read(&mut buffer[have..]) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(have)
    }

    /// Writes what the reader has to the file, from `offset` on, but for blocks of zeroes. Where nothing else
    /// is behind them, the file ends before the last of them: give it its size afterwards. Returns the offset
    /// at the end.
    ///
    /// # Errors
    /// Those of the reader; ENOSPC, EFBIG, EIO.
    pub(crate) fn write(mut reader: impl Read, file: &File, mut offset: u64) -> io::Result<u64> {
        let mut buffer = vec![0; LISTED];
        loop {
            // So that all later ones begin at a block of the file.
            let first = LISTED - (offset % BLOCK as u64) as usize;
            let count = fill(&mut reader, &mut buffer[..first])?;
            let have = &buffer[..count];
            let (begin, blocks) = have.split_at(count.min(first % BLOCK));
            let mut at = offset;
            // Neighbours go in one call.
            for run in std::iter::once(begin).chain(runs(blocks)) {
                if !is_zero(run) {
                    file.write_all_at(run, at)?;
                }
                at += run.len() as u64;
            }
            offset = at;
            if count < first {
                return Ok(offset);
            }
        }
    }

    /// Splits into runs of blocks that are all zero, or all not.
    fn runs(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
        std::iter::from_fn(move || {
            let zero = is_zero(rest.chunks(BLOCK).next()?);
            let same = rest.chunks(BLOCK).take_while(|block| is_zero(block) == zero);
            let (run, after) = rest.split_at(same.map(<[u8]>::len).sum());
            rest = after;
            Some(run)
        })
    }

    /// Where a file of this size has other bytes than zeroes: the ranges between its holes of 64 KiB and
    /// more. The content alone decides where a hole is, and lseek(2) only spares the reading. So the same
    /// content gives the same ranges on every file system.
    ///
    /// # Errors
    /// EIO.
    pub(crate) fn data_in(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut buffer = vec![0; LISTED];
        let (mut offset, mut data) = (0, 0..0);
        while offset < size {
            if data.end <= offset {
                let Some(next) = next_data(file, offset)?.filter(|next| next.start < size) else { break };
                offset = next.start - next.start % LISTED as u64;
                data = next;
            }
            let end = size.min(offset + LISTED as u64);
            let block = &mut buffer[..(end - offset) as usize];
            file.read_exact_at(block, offset)?;
            if !is_zero(block) {
                match found.last_mut() {
                    Some(last) if last.end == offset => last.end = end,
                    _ => found.push(offset..end),
                }
            }
            offset = end;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    const GIB: u64 = 1 << 30;

    fn with_holes() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 300_000_000).unwrap();
        // Written, and zero all the same.
        file.write_all_at(&[0; 1 << 17], 400_000_000).unwrap();
        file.set_len(GIB).unwrap();
        file
    }

    fn takes_little(file: &File) {
        let there = file.metadata().unwrap();
        assert_eq!(there.len(), GIB);
        assert!(there.blocks() < 4096, "{} blocks", there.blocks());
    }

    #[test]
    fn a_copy_has_the_holes() {
        let (from, to) = (with_holes(), tempfile::tempfile().unwrap());
        copy(&from, &to).unwrap();
        takes_little(&to);
        for (offset, text) in [(0, &b"begin\0"[..]), (299_999_999, b"\0middle\0"), (GIB - 1, b"\0")] {
            let mut found = vec![1; text.len()];
            to.read_exact_at(&mut found, offset).unwrap();
            assert_eq!(found, text);
        }
        let (mut from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all(b"without").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 7);
    }

    #[cfg(feature = "image")]
    #[test]
    fn data_is_what_is_not_zero() {
        const LISTED: u64 = 1 << 16;
        let middle = 300_000_000 / LISTED * LISTED;
        assert_eq!(data_in(&with_holes(), GIB).unwrap(), [0..LISTED, middle..middle + LISTED]);
        let full = tempfile::tempfile().unwrap();
        full.write_all_at(&[1; 100_000], 0).unwrap();
        assert_eq!(data_in(&full, 100_000).unwrap().first(), Some(&(0..100_000)));
        assert_eq!(data_in(&tempfile::tempfile().unwrap(), 0).unwrap(), []);
    }

    #[cfg(feature = "image")]
    #[test]
    fn blocks_of_zeroes_are_not_written() {
        // The beginnings and ends are no whole blocks.
        for at in [0, 1, 4095, 4096, 70_000] {
            let mut bytes = vec![0; 1 << 20];
            bytes[0] = 1;
            bytes[500_000] = 2;
            bytes[(1 << 20) - 10_000] = 3;
            let file = tempfile::tempfile().unwrap();
            let end = write(&bytes[..], &file, at).unwrap();
            assert_eq!(end, at + bytes.len() as u64);
            file.set_len(end).unwrap();
            let mut found = vec![9; bytes.len()];
            file.read_exact_at(&mut found, at).unwrap();
            assert!(found == bytes, "written at {at}");
            let blocks = file.metadata().unwrap().blocks();
            assert!(blocks <= 8 * 8, "{blocks} blocks, written at {at}");
        }
    }
}
