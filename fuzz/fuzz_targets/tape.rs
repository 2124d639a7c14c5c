//! Headers of tar archives.

/// The archive with the right checksum in each block that looks like a header. Otherwise nearly all changed
/// headers would be refused for their checksum alone.
pub fn with_checksums(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for header in archive.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    archive
}

/// A member of an archive.
#[allow(dead_code, reason = "only documents are put into an archive")]
pub fn member(name: &str, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let mut member = with_checksums(&block);
    member.extend_from_slice(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}
