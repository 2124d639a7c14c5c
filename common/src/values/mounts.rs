//! `--mount`: volumes and tmpfs, in the form `KEY=VALUE,KEY=VALUE`; and what holds for all mounts together.
//!
//! It says the same as `--volume` and `--tmpfs`, by names. So a path may have a colon, and in quotes a comma.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::names::folder_name;
use super::path::{host_path, target, without_nul};
use super::volume::is_consistency;
use super::{Invalid, Propagation, Source, Tmpfs, Volume};
use crate::sys::error::{Error, Result};

const KEYS: &str = "expected KEY=VALUE with keys among type, source, target, readonly, bind-propagation, \
                    idmap, consistency, volume-nocopy, tmpfs-size and tmpfs-mode, with commas between them";

/// The value of one `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// `type=bind` or `type=volume`.
    Volume(Volume),
    /// `type=tmpfs`.
    Tmpfs(Tmpfs),
}

impl Mount {
    /// Where the container finds it.
    pub fn target(&self) -> &Path {
        match self {
            Mount::Volume(volume) => &volume.target,
            Mount::Tmpfs(tmpfs) => &tmpfs.target,
        }
    }
}

/// Reads a value of `--mount`: `type=bind,source=/srv,target=/srv,readonly`. Without a type it is a volume.
///
/// # Errors
/// An unknown key, one twice, or one that its type does not have; no target; a value that is none for its
/// key.
pub fn mount(text: OsString) -> Result<Mount, Invalid> {
    let mut given = Given::read(without_nul(&text)?)?;
    let kind = given.take("type").map(|kind| kind.to_ascii_lowercase());
    let place = given.take("target").ok_or("expected a target: target=/data")?;
    let place = target(place.as_bytes())?;
    let read_only = given.flag("readonly")?;
    if let Some(word) = given.take("consistency")
        && !is_consistency(word.as_bytes())
        && word != "default"
    {
        return Err("expected consistency=default, consistent, cached or delegated".into());
    }
    let kind = kind.as_ref().map_or(&b"volume"[..], |kind| kind.as_bytes());
    let mount = match kind {
        b"tmpfs" => {
            let mut tmpfs = Tmpfs { read_only, ..Tmpfs::new(place) };
            if let Some(size) = given.take("tmpfs-size") {
                tmpfs.set_size(&size.to_string_lossy())?;
            }
            if let Some(mode) = given.take("tmpfs-mode") {
                tmpfs.set_mode(&mode.to_string_lossy())?;
            }
            Mount::Tmpfs(tmpfs)
        }
        b"bind" => Mount::Volume(Volume {
            read_only,
            propagation: given.propagation()?,
            idmap: given.flag("idmap")?,
            copy: false,
            ..Volume::new(given.host_source()?, place)
        }),
        b"volume" => Mount::Volume(Volume {
            read_only,
            copy: !given.flag("volume-nocopy")?,
            ..Volume::new(given.named_source()?, place)
        }),
        _ => return Err("expected type=bind, type=volume or type=tmpfs".into()),
    };
    match given.0.keys().next() {
        Some(key) => Err(format!("type={} takes no {key}", String::from_utf8_lossy(kind)).into()),
        None => Ok(mount),
    }
}

/// The keys of one value, each under the first of its names.
struct Given(BTreeMap<&'static str, Option<OsString>>);

impl Given {
    fn read(text: &[u8]) -> Result<Given, Invalid> {
        let mut given = BTreeMap::new();
        for field in fields(text)? {
            let bytes = field.as_bytes();
            let equals = bytes.iter().position(|&byte| byte == b'=');
            let key = key(&bytes[..equals.unwrap_or(bytes.len())]).ok_or(KEYS)?;
            let value = equals.map(|at| OsStr::from_bytes(&bytes[at + 1..]).to_owned());
            if value.is_none() && !["idmap", "readonly", "volume-nocopy"].contains(&key) {
                return Err(format!("expected a value: {key}=…").into());
            }
            if given.insert(key, value).is_some() {
                return Err(format!("expected {key} once, not twice").into());
            }
        }
        Ok(Given(given))
    }

    fn take(&mut self, key: &str) -> Option<OsString> {
        self.0.remove(key).flatten()
    }

    /// Whether it is there, and not `=false`.
    fn flag(&mut self, key: &str) -> Result<bool, Invalid> {
        match self.0.remove(key) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(value)) => match value.as_bytes() {
                b"true" | b"1" => Ok(true),
                b"false" | b"0" => Ok(false),
                _ => Err(format!("expected {key}=true or {key}=false").into()),
            },
        }
    }

    fn host_source(&mut self) -> Result<Source, Invalid> {
        let path = self.take("source").map(|source| host_path(source.as_bytes())).transpose()?.flatten();
        path.map(Source::Host)
            .ok_or_else(|| "expected a source that starts with /, ./ or ../: source=/srv/www".into())
    }

    fn named_source(&mut self) -> Result<Source, Invalid> {
        match self.take("source") {
            // Docker takes an empty one for none.
            None => Ok(Source::Anonymous),
            Some(name) if name.is_empty() => Ok(Source::Anonymous),
            Some(name) => folder_name(name.as_bytes())
                .map(Source::Named)
                .map_err(|error| format!("{error}; a path of the host needs type=bind").into()),
        }
    }

    fn propagation(&mut self) -> Result<Propagation, Invalid> {
        match self.take("bind-propagation") {
            None => Ok(Propagation::default()),
            Some(value) => Propagation::read(value.as_bytes()).ok_or_else(|| {
                "expected bind-propagation=private, slave, shared, rprivate, rslave or rshared".into()
            }),
        }
    }
}

/// The first of a key's names, in any case.
fn key(text: &[u8]) -> Option<&'static str> {
    Some(match text.to_ascii_lowercase().as_slice() {
        b"type" => "type",
        b"source" | b"src" => "source",
        b"target" | b"dst" | b"destination" => "target",
        b"readonly" | b"ro" => "readonly",
        b"bind-propagation" => "bind-propagation",
        b"idmap" => "idmap",
        b"consistency" => "consistency",
        b"volume-nocopy" => "volume-nocopy",
        b"tmpfs-size" => "tmpfs-size",
        b"tmpfs-mode" => "tmpfs-mode",
        _ => return None,
    })
}

/// The fields of a value of `--mount`, as Docker reads a line of CSV. A field in double quotes may have
/// commas, and two quotes in it are one.
fn fields(text: &[u8]) -> Result<Vec<OsString>, Invalid> {
    const QUOTES: &str = "expected a double quote only around a whole KEY=VALUE, and \"\" for one in it";
    let (mut fields, mut rest) = (Vec::new(), text);
    loop {
        let (field, after) = match rest.strip_prefix(b"\"") {
            Some(quoted) => quoted_field(quoted).ok_or(QUOTES)?,
            None => {
                let end = rest.iter().position(|&byte| byte == b',').unwrap_or(rest.len());
                (Cow::Borrowed(&rest[..end]), &rest[end..])
            }
        };
        if matches!(field, Cow::Borrowed(plain) if plain.contains(&b'"')) {
            return Err(QUOTES.into());
        }
        fields.push(OsString::from_vec(field.into_owned()));
        match after.split_first() {
            None => return Ok(fields),
            Some((b',', next)) => rest = next,
            Some(_) => return Err(QUOTES.into()),
        }
    }
}

/// The field in quotes, of which the first is already taken, and the rest of the value.
fn quoted_field(mut rest: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let mut field = Vec::new();
    loop {
        let end = rest.iter().position(|&byte| byte == b'"')?;
        field.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                field.push(b'"');
                rest = after;
            }
            None => return Some((Cow::Owned(field), rest)),
        }
    }
}

/// Checks the targets of all `--volume`, `--mount` and `--tmpfs`: the later one would hide the other.
///
/// # Errors
/// The same one twice.
pub fn check_targets<'a>(targets: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let mut seen = BTreeSet::new();
    match targets.into_iter().find(|target| !seen.insert(*target)) {
        Some(twice) => Err(Error::new(format!("{}: two volumes have this TARGET", twice.display()))
            .hint("give each --volume, --mount and --tmpfs a TARGET of its own")),
        None => Ok(()),
    }
}

/// Checks that the sources are there which nobody makes, before anything is made.
///
/// # Errors
/// One of `--mount` is missing.
pub fn check_sources<'a>(mounts: impl IntoIterator<Item = &'a Mount>) -> Result<()> {
    let missing = mounts.into_iter().find_map(|mount| match mount {
        Mount::Volume(Volume { source: Source::Host(path), create_source: false, .. }) => {
            path.metadata().err().map(|error| (path, error))
        }
        _ => None,
    });
    missing.map_or(Ok(()), |(path, error)| {
        Err(Error::from_io(format!("--mount source={}", path.display()), &error)
            .hint("expected a path that is there: --volume makes a folder that is missing, --mount does not"))
    })
}

#[cfg(test)]
mod tests;
