//! The records that stand before an entry of a tar archive and say what its header has no room for.
//!
//! A record is `LENGTH KEY=VALUE`, and a newline. The OCI image specification asks for `SCHILY.xattr.*`
//! (layer.md, "Change Types"). Sources: "pax Interchange Format" in pax(1) of POSIX.1-2017; for
//! `GNU.sparse.*`, "Storing Sparse Files" in the GNU tar manual.

use std::io;

use super::super::refusal::invalid;

/// What records have said about the entry that follows.
#[derive(Debug, Default)]
pub(in crate::oci) struct Extra {
    pub(in crate::oci) name: Option<Vec<u8>>,
    pub(in crate::oci) link: Option<Vec<u8>>,
    pub(in crate::oci) size: Option<u64>,
    pub(in crate::oci) uid: Option<u64>,
    pub(in crate::oci) gid: Option<u64>,
    pub(in crate::oci) mtime: Option<(i64, u32)>,
    pub(in crate::oci) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The version of the form in which the holes of a sparse file are described.
    pub(in crate::oci) sparse: Option<String>,
    pub(in crate::oci) sparse_name: Option<Vec<u8>>,
    pub(in crate::oci) sparse_size: Option<u64>,
    /// Offsets and lengths in turn.
    numbers: Vec<u64>,
}

impl Extra {
    pub(in crate::oci) fn read_pax(&mut self, mut data: &[u8]) -> io::Result<()> {
        let wrong = || invalid("a pax record is not LENGTH KEY=VALUE");
        while !data.is_empty() {
            let space = data.iter().position(|&byte| byte == b' ').ok_or_else(wrong)?;
            let length = decimal(&data[..space]).and_then(|it| usize::try_from(it).ok()).ok_or_else(wrong)?;
            // The length counts itself, the space and the newline.
            let record =
                data.get(space + 1..length).and_then(|it| it.strip_suffix(b"\n")).ok_or_else(wrong)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            data = &data[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let number = || {
            let what = || invalid(format!("its pax record {} is no number", String::from_utf8_lossy(key)));
            decimal(value).ok_or_else(what)
        };
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.retain(|(there, _)| there != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(|| invalid("its time is no number"))?),
            b"GNU.sparse.major" if value == b"1" => self.sparse = Some("1.0".into()),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.numbers.push(number()?),
            b"GNU.sparse.map" => {
                let numbers = value.split(|&byte| byte == b',').map(decimal).collect::<Option<Vec<_>>>();
                self.numbers = numbers.ok_or_else(|| invalid("a sparse file's list of pieces"))?;
            }
            _ => {}
        }
        if key.starts_with(b"GNU.sparse.") && self.sparse.is_none() {
            self.sparse = Some("0".into());
        }
        Ok(())
    }

    /// The pieces of a sparse file, where the records have them.
    pub(in crate::oci) fn pieces(&self) -> io::Result<Vec<(u64, u64)>> {
        let (pairs, rest) = self.numbers.as_chunks::<2>();
        if rest.is_empty() {
            Ok(pairs.iter().map(|&[offset, length]| (offset, length)).collect())
        } else {
            Err(invalid("a sparse file's list of pieces"))
        }
    }
}

/// `str::parse` alone would also take a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds since 1970, which may be negative and have a fraction, as seconds below and nanoseconds above.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = str::from_utf8(value).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(seconds.as_bytes())?).ok()?;
    decimal(fraction.get(..fraction.len().min(9))?.as_bytes()).or(fraction.is_empty().then_some(0))?;
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        for text in ["", "x", "1.x", "--1", "1.-5", "99999999999999999999"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn records() {
        let mut extra = Extra::default();
        extra.read_pax(b"12 path=a=b\n27 SCHILY.xattr.user.x=1\n2\n").unwrap();
        assert_eq!(extra.name.as_deref(), Some(&b"a=b"[..]));
        assert_eq!(extra.xattrs, [(b"user.x".to_vec(), b"1\n2".to_vec())]);
        for text in ["12", "99 path=a\n", "8 path=a\n", "3 x\n", "-5 a=b\n", "0 a=b\n", "12 uid=12xy\n"] {
            assert!(Extra::default().read_pax(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
