//! The tar format, read as a stream: one entry after the other, and the data of each.
//!
//! Every number is checked, and every record that has to be held in memory has a bound. The reader knows
//! ustar, the pax records (names, numbers, times, extended attributes), and GNU's long names. It knows sparse
//! files in the old GNU form and in the three forms of pax. Any other entry is an error, never skipped.
//!
//! Why not the reader of the crate `tar`? It holds records of any size in memory. It ends a record at the
//! first newline, although an attribute may contain one. It reads no times before 1970, and no sparse files
//! of pax.
//!
//! Sources: pax(1) of POSIX.1-2017, the chapters "Basic Tar Format" and "Storing Sparse Files" of the GNU tar
//! manual.

pub(super) mod pax;

use std::io::{self, Read};

use super::refusal::invalid;
use pax::Extra;

/// The unit of the format: headers are one, and data is filled up to a multiple of it.
pub(super) const BLOCK: usize = 512;
/// How much pax records and long names may take for one entry. A name has 4096 bytes at most, an extended
/// attribute 64 KiB.
const MAX_EXTENSIONS: u64 = 4 << 20;
/// How many pieces a sparse file may have.
const MAX_PIECES: usize = 1 << 20;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file with content.
    File,
    /// Another name of a file that is there already.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A folder.
    Folder,
    /// A named pipe.
    Fifo,
    /// Something that a root filesystem has no use for.
    Other(u8),
}

/// A file whose holes are not in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// The size of the file with its holes.
    pub size: u64,
    /// Where the data belongs: offset and length, in order.
    pub pieces: Vec<(u64, u64)>,
}

/// One entry, as the archive describes it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, as it is written.
    pub name: Vec<u8>,
    /// What a link says.
    pub link: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// The permission bits, with setuid, setgid and the sticky bit.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was modified: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// How many bytes of data follow in the archive.
    pub size: u64,
    /// Extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes, if the file has holes.
    pub sparse: Option<Sparse>,
    /// Where in the archive its data begins.
    pub offset: u64,
}

/// Reads the entries of an archive; between two of them, the data of the first, as a [`Read`].
#[derive(Debug)]
pub struct Entries<R> {
    reader: R,
    offset: u64,
    left: u64,
    padding: u64,
}

impl<R: Read> Entries<R> {
    /// Begins at the first byte of an archive.
    pub fn new(reader: R) -> Self {
        Entries { reader, offset: 0, left: 0, padding: 0 }
    }

    /// The next entry; the rest of the data of the one before is passed over. `None` at the end.
    ///
    /// # Errors
    /// The archive ends too early, a checksum or a number is wrong, or a record is too long.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut extra = Extra::default();
        let mut allowed = MAX_EXTENSIONS;
        loop {
            self.pass_over()?;
            let Some(header) = self.header()? else {
                return if allowed == MAX_EXTENSIONS {
                    Ok(None)
                } else {
                    Err(invalid("it ends with a pax record"))
                };
            };
            let size = unsigned(&header[124..136], "size")?;
            let kind = header[156];
            if let b'x' | b'L' | b'K' = kind {
                if size > allowed {
                    return Err(invalid(format!("a record of {size} bytes before an entry")));
                }
                // So that records without any data come to an end, too.
                allowed -= size.max(1);
                let record = self.record(size)?;
                match kind {
                    b'x' => extra.read_pax(&record)?,
                    b'L' => extra.name = Some(until_nul(&record).to_vec()),
                    _ => extra.link = Some(until_nul(&record).to_vec()),
                }
            } else if kind == b'g' {
                // Comments, such as git's: what they say about all entries, no image relies on.
                self.begin(size);
            } else {
                return self.entry(&header, extra).map(Some);
            }
        }
    }

    fn entry(&mut self, header: &[u8; BLOCK], mut extra: Extra) -> io::Result<Entry> {
        let mut name = extra.name.take().unwrap_or_else(|| name(header));
        let kind = match header[156] {
            // Before POSIX, a folder was a file whose name ends in a slash.
            b'0' | 0 | b'7' if name.ends_with(b"/") => Kind::Folder,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let has_data = matches!(kind, Kind::File | Kind::Other(_));
        let written = extra.size.map_or_else(|| unsigned(&header[124..136], "size"), Ok)?;
        // Old archives note the size of the file with a link to it, and no data follows.
        let size = if has_data { written } else { 0 };
        let mut sparse = None;
        if header[156] == b'S' {
            sparse = Some(self.old_gnu_pieces(header)?);
            self.begin(size);
        } else {
            self.begin(size);
            if kind == Kind::File && extra.sparse.is_some() {
                if let Some(real) = extra.sparse_name.take() {
                    name = real;
                }
                sparse = Some(self.pax_pieces(&extra)?);
            }
        }
        if let Some(sparse) = &sparse {
            check(sparse, self.left)?;
        }
        let device =
            |range| u32::try_from(unsigned(&header[range], "device")?).map_err(|_| invalid("its device"));
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let owner = |pax: Option<u64>, range, what| {
            let number = pax.map_or_else(|| unsigned(&header[range], what), Ok)?;
            u32::try_from(number)
                .ok()
                .filter(|&id| id != u32::MAX)
                .ok_or_else(|| invalid(format!("its {what} {number}")))
        };
        Ok(Entry {
            link: extra.link.take().unwrap_or_else(|| until_nul(&header[157..257]).to_vec()),
            kind,
            mode: (unsigned(&header[100..108], "mode")? & 0o7777) as u32,
            uid: owner(extra.uid, 108..116, "owner")?,
            gid: owner(extra.gid, 116..124, "group")?,
            mtime: extra
                .mtime
                .map_or_else(|| Ok((number(&header[136..148], "time")?, 0)), Ok::<_, io::Error>)?,
            device: if is_device { (device(329..337)?, device(337..345)?) } else { (0, 0) },
            size: self.left,
            xattrs: extra.xattrs,
            sparse,
            offset: self.offset,
            name,
        })
    }

    /// The next header; `None` where the archive ends, with its block of zeroes or without.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.reader.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.offset += BLOCK as u64;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        // The sum of all bytes, where those of the sum itself count as spaces.
        let sum: i64 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { i64::from(byte) })
            .sum();
        if number(&block[148..156], "checksum")? != sum {
            return Err(invalid("a header's checksum is wrong"));
        }
        Ok(Some(block))
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn record(&mut self, size: u64) -> io::Result<Vec<u8>> {
        self.begin(size);
        let mut record = Vec::new();
        self.read_to_end(&mut record)?;
        Ok(record)
    }

    fn pass_over(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink())?;
        let wanted = std::mem::take(&mut self.padding);
        let passed = io::copy(&mut self.reader.by_ref().take(wanted), &mut io::sink())?;
        self.offset += passed;
        if passed == wanted { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Four pieces in the header, and as many blocks with 21 more as it takes.
    fn old_gnu_pieces(&mut self, header: &[u8; BLOCK]) -> io::Result<Sparse> {
        let mut pieces = Vec::new();
        let mut add = |bytes: &[u8]| {
            for piece in bytes.chunks_exact(24).filter(|piece| piece[12] != 0) {
                pieces.push((unsigned(&piece[..12], "piece")?, unsigned(&piece[12..], "piece")?));
            }
            if pieces.len() > MAX_PIECES { Err(invalid("a sparse file of too many pieces")) } else { Ok(()) }
        };
        add(&header[386..482])?;
        let mut more = header[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.reader.read_exact(&mut block)?;
            self.offset += BLOCK as u64;
            add(&block[..504])?;
            more = block[504] != 0;
        }
        Ok(Sparse { size: unsigned(&header[483..495], "size")?, pieces })
    }

    /// Version 1.0 has the pieces as lines before the data; 0.0 and 0.1 have them in the records.
    fn pax_pieces(&mut self, extra: &Extra) -> io::Result<Sparse> {
        let size = extra.sparse_size.ok_or_else(|| invalid("a sparse file without its size"))?;
        if extra.sparse.as_deref() != Some("1.0") {
            return Ok(Sparse { size, pieces: extra.pieces()? });
        }
        let before = self.left;
        let count = usize::try_from(self.line()?).ok().filter(|&count| count <= MAX_PIECES);
        let count = count.ok_or_else(|| invalid("a sparse file of too many pieces"))?;
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push((self.line()?, self.line()?));
        }
        // The lines are filled up to whole blocks.
        let rest = (before - self.left).wrapping_neg() % BLOCK as u64;
        let passed = io::copy(&mut self.by_ref().take(rest), &mut io::sink())?;
        if passed == rest { Ok(Sparse { size, pieces }) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// A decimal number and the end of its line.
    fn line(&mut self) -> io::Result<u64> {
        let mut value = 0_u64;
        loop {
            let mut byte = [0];
            self.read_exact(&mut byte)?;
            let next = match byte[0] {
                b'\n' => return Ok(value),
                digit @ b'0'..=b'9' => {
                    value.checked_mul(10).and_then(|it| it.checked_add(u64::from(digit - b'0')))
                }
                _ => None,
            };
            value = next.ok_or_else(|| invalid("a sparse file's list of pieces"))?;
        }
    }
}

/// The data of the entry that was read last.
impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        self.offset += count as u64;
        Ok(count)
    }
}

/// The pieces must be in order, within the file, and together as long as the data.
fn check(sparse: &Sparse, data: u64) -> io::Result<()> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for &(offset, length) in &sparse.pieces {
        let next = offset.checked_add(length).filter(|&next| offset >= end && next <= sparse.size);
        end = next.ok_or_else(|| invalid("a sparse file's pieces overlap or lie outside"))?;
        sum += length;
    }
    if sum == data { Ok(()) } else { Err(invalid("a sparse file's pieces are not as long as its data")) }
}

/// ustar has a long name in two fields. GNU tar has other things in the second.
fn name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number in a header: octal digits, or, where the first bit is set, a signed one in base 256.
fn number(field: &[u8], what: &str) -> io::Result<i64> {
    let wrong = || invalid(format!("its {what} is no number: {:?}", String::from_utf8_lossy(field)));
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = i128::from(field[0] & 0x7f) - if negative { 0x80 } else { 0 };
        // Twelve bytes at most.
        let value = field[1..].iter().fold(first, |value, &byte| value * 256 + i128::from(byte));
        return i64::try_from(value).map_err(|_| wrong());
    }
    let text = str::from_utf8(field).map_err(|_| wrong())?.trim_matches(['\0', ' ']);
    if text.is_empty() {
        return Ok(0);
    }
    // A sign is none of the digits.
    if !text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return Err(wrong());
    }
    i64::from_str_radix(text, 8).map_err(|_| wrong())
}

fn unsigned(field: &[u8], what: &str) -> io::Result<u64> {
    let value = number(field, what)?;
    u64::try_from(value).map_err(|_| invalid(format!("its {what} is {value}")))
}
