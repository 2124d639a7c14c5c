//! A layer as a stream: decompressed on the fly, with both digests verified at its end.
//!
//! The manifest has the digest of the compressed bytes. The config has the digest of the tar stream, the
//! layer's DiffID. Both digests are known only after the last byte. Until then no unpacked file may be used.
//! Sources: OCI image specification, layer.md; config.md, "Layer DiffID".

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

use super::digest::{Digest, Sum, Summing};
use super::model::{DOCKER_LAYER, LAYER};
use super::source::{Source, wrong_digest};
use super::tar::Entries;
use crate::sys::error::{Error, Result};

/// A layer's blob.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) member: String,
    pub(super) digest: Option<Digest>,
    pub(super) compression: Compression,
}

/// The layers of an image, lowest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stack<'a> {
    pub(super) source: &'a Source,
    pub(super) layers: &'a [Layer],
    /// The digest of each layer's tar archive.
    pub(super) diff_ids: &'a [Digest],
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// As gzip does, also in several parts, one behind the other.
    Gzip,
    /// As zstd does, also in several frames.
    Zstd,
}

impl Compression {
    pub(super) fn by_magic(magic: [u8; 4]) -> Compression {
        match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // Also a frame that is to be skipped: images for lazy pulling begin with one.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// Reads the media type of a layer, of OCI or of Docker.
    pub(super) fn of_media_type(media_type: &str) -> Option<Compression> {
        let [oci, docker] = [LAYER, DOCKER_LAYER].map(|begin| media_type.strip_prefix(begin));
        Some(match oci.or(docker)? {
            "" => Compression::None,
            "+gzip" if oci.is_some() => Compression::Gzip,
            "+zstd" if oci.is_some() => Compression::Zstd,
            ".gzip" if docker.is_some() => Compression::Gzip,
            ".zstd" if docker.is_some() => Compression::Zstd,
            _ => return None,
        })
    }

    /// The end of the media type.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
        }
    }
}

/// Opens a compressed stream.
///
/// # Errors
/// No memory for the decompressor.
pub fn decompress<'a>(compression: Compression, reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(Gzip(Some(GzDecoder::new(BufReader::new(reader))))),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(reader)?),
    })
}

/// The members of a gzip file, one behind the other; `None` when all are read. Zeros may follow, with which
/// archives are filled up to whole blocks: gzip(1) and tar(1) take no notice of them.
struct Gzip<R: Read>(Option<GzDecoder<BufReader<R>>>);

impl<R: Read> Gzip<R> {
    /// What follows a member: another one, nothing, or zeros and nothing.
    fn after(mut reader: BufReader<R>) -> io::Result<Option<GzDecoder<BufReader<R>>>> {
        let mut is_padded = false;
        loop {
            let next = reader.fill_buf()?;
            if next.is_empty() {
                return Ok(None);
            }
            let zeros = next.iter().take_while(|&&byte| byte == 0).count();
            if zeros == 0 && is_padded {
                let why = "gzip: something else follows the zeros behind its end";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            if zeros == 0 {
                return Ok(Some(GzDecoder::new(reader)));
            }
            is_padded = true;
            reader.consume(zeros);
        }
    }
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.0 = match self.0.take() {
                Some(member) => Self::after(member.into_inner())?,
                None => None,
            };
        }
        Ok(0)
    }
}

/// A layer that is being read. Ask it for [`verify`](Stream::verify) before you believe what you read.
pub(super) struct Stream<'a> {
    reader: Summing<Box<dyn Read + 'a>>,
    blob: Sum,
    digest: Option<Digest>,
    diff_id: Digest,
}

impl<'a> Stream<'a> {
    /// `limit` is for the bytes that come out. For a blob without a digest of its own, that of its content
    /// must do.
    pub(super) fn new(
        blob: impl Read + 'a,
        compression: Compression,
        digest: Option<Digest>,
        diff_id: Digest,
        limit: u64,
    ) -> io::Result<Self> {
        let blob = Summing::new(blob, u64::MAX);
        let sum = blob.sum.clone();
        Ok(Stream { reader: Summing::new(decompress(compression, blob)?, limit), blob: sum, digest, diff_id })
    }

    /// The entries of the archive. They borrow the stream, which is asked for the digests afterwards.
    pub(super) fn entries(&mut self) -> Entries<&mut Self> {
        Entries::new(self)
    }

    /// How many bytes of the archive were read.
    pub(super) fn count(&self) -> u64 {
        self.reader.sum.count()
    }

    /// Reads what follows the archive's end, and compares the digests. `what` names the layer.
    pub(super) fn verify(mut self, what: &str) -> Result<()> {
        io::copy(&mut self, &mut io::sink()).map_err(|error| broken(what, &error))?;
        match self.digest {
            Some(digest) if digest != self.blob.digest() => {
                return Err(wrong_digest(what, self.blob.digest()));
            }
            _ => {}
        }
        let is = self.reader.sum.digest();
        if is == self.diff_id {
            return Ok(());
        }
        Err(Error::new(format!(
            "{what}: its tar archive has the digest {is}, and the config says {}",
            self.diff_id
        ))
        .hint("the image is damaged: copy it again"))
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// The error for a stream that cannot be read to its end.
pub(super) fn broken(what: &str, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Error::new(format!("{what}: it ends too early")).hint("the image is damaged: copy it again");
    }
    let told = Error::from_io(what, error);
    // An error without a number comes from the archive or its compression, not from the kernel.
    if error.raw_os_error().is_some() { told } else { told.hint("the image is damaged: copy it again") }
}
