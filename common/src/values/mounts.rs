//! `--mount`: volumes and tmpfs, in the form `KEY=VALUE,KEY=VALUE`.
//!
//! It says the same as `--volume` and `--tmpfs`, by names. So a path may have a colon, and in quotes a comma.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::tmpfs::{Tmpfs, tmpfs_mode, tmpfs_size};
use super::volume::{
    Mount, Propagation, Source, Volume, fields, host_path, read_name, read_target, without_nul,
};

const KEYS: &str = "expected KEY=VALUE with keys among type, source, target, readonly, bind-propagation, \
                    idmap, volume-nocopy, tmpfs-size and tmpfs-mode, with commas between them";

/// Reads a value of `--mount`: `type=bind,source=/srv,target=/srv,readonly`. Without a type it is a volume.
///
/// # Errors
///
/// An unknown key, one twice, or one that its type does not have; no target; a value that is none for its key.
pub fn mount(text: OsString) -> Result<Mount, String> {
    let mut given = Given::read(without_nul(&text)?)?;
    let kind = given.take("type").map(|kind| kind.to_ascii_lowercase());
    let target = given.take("target").ok_or("expected a target: target=/data")?;
    let target = read_target(target.as_bytes())?;
    let read_only = given.flag("readonly")?;
    let kind = kind.as_ref().map_or(&b"volume"[..], |kind| kind.as_bytes());
    let mount = match kind {
        b"tmpfs" => {
            let mut tmpfs = Tmpfs { read_only, ..Tmpfs::new(target) };
            for (key, read) in [("tmpfs-size", tmpfs_size as fn(&str) -> _), ("tmpfs-mode", tmpfs_mode)] {
                if let Some(value) = given.take(key) {
                    tmpfs.add(&read(&value.to_string_lossy())?);
                }
            }
            Mount::Tmpfs(tmpfs)
        }
        b"bind" => Mount::Volume(Volume {
            source: given.host_source()?,
            target,
            read_only,
            propagation: given.propagation()?,
            idmap: given.flag("idmap")?,
            copy: false,
            create_source: false,
        }),
        b"volume" => Mount::Volume(Volume {
            source: given.named_source()?,
            target,
            read_only,
            propagation: Propagation::default(),
            idmap: false,
            copy: !given.flag("volume-nocopy")?,
            create_source: false,
        }),
        _ => return Err("expected type=bind, type=volume or type=tmpfs".into()),
    };
    match given.0.keys().next() {
        Some(key) => Err(format!("type={} takes no {key}", String::from_utf8_lossy(kind))),
        None => Ok(mount),
    }
}

/// What was given, by the first of each key's names.
struct Given(BTreeMap<&'static str, Option<OsString>>);

impl Given {
    fn read(text: &[u8]) -> Result<Given, String> {
        let mut given = BTreeMap::new();
        for field in fields(text)? {
            let bytes = field.as_bytes();
            let equals = bytes.iter().position(|&byte| byte == b'=');
            let key = key(&bytes[..equals.unwrap_or(bytes.len())]).ok_or(KEYS)?;
            let value = equals.map(|at| OsStr::from_bytes(&bytes[at + 1..]).to_owned());
            if value.is_none() && !["idmap", "readonly", "volume-nocopy"].contains(&key) {
                return Err(format!("expected a value: {key}=…"));
            }
            if given.insert(key, value).is_some() {
                return Err(format!("expected {key} once, not twice"));
            }
        }
        Ok(Given(given))
    }

    fn take(&mut self, key: &str) -> Option<OsString> {
        self.0.remove(key).flatten()
    }

    /// Whether it is there, and not `=false`.
    fn flag(&mut self, key: &str) -> Result<bool, String> {
        match self.0.remove(key) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(value)) => match value.as_bytes() {
                b"true" | b"1" => Ok(true),
                b"false" | b"0" => Ok(false),
                _ => Err(format!("expected {key}=true or {key}=false")),
            },
        }
    }

    fn host_source(&mut self) -> Result<Source, String> {
        let path = self.take("source").map(|source| host_path(source.as_bytes())).transpose()?.flatten();
        path.map(Source::Host)
            .ok_or_else(|| "expected a source that starts with /, ./ or ../: source=/srv/www".into())
    }

    fn named_source(&mut self) -> Result<Source, String> {
        match self.take("source") {
            // Docker takes an empty one for none.
            None => Ok(Source::Anonymous),
            Some(name) if name.is_empty() => Ok(Source::Anonymous),
            Some(name) => read_name(name.as_bytes())
                .map(Source::Named)
                .map_err(|error| format!("{error}; a path of the host needs type=bind")),
        }
    }

    fn propagation(&mut self) -> Result<Propagation, String> {
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
        b"volume-nocopy" => "volume-nocopy",
        b"tmpfs-size" => "tmpfs-size",
        b"tmpfs-mode" => "tmpfs-mode",
        _ => return None,
    })
}
