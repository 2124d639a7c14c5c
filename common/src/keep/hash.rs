//! A hash for names on a disk. It is the same in every build of Congo, so that the next build finds and
//! sweeps the files of this one.
//!
//! It is FNV-1a of 64 bits, and not for what somebody might forge.

/// The hash of these parts. Each part's end counts: `["a", "bc"]` and `["ab", "c"]` differ.
pub(crate) fn stable<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for part in parts {
        part.iter().copied().for_each(&mut add);
        part.len().to_le_bytes().into_iter().for_each(&mut add);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_in_every_build() {
        assert_eq!(stable([]), 0xcbf2_9ce4_8422_2325, "the offset basis of FNV-1a");
        assert_eq!(stable([&b"a"[..], b"bc"]), stable([&b"a"[..], b"bc"]));
        assert_ne!(stable([&b"a"[..], b"bc"]), stable([&b"ab"[..], b"c"]));
    }
}
