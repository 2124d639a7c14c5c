//! `--volume`, `--mount`, `--tmpfs` and `--keep`: what is mounted where in the container.
//!
//! They end in bind mounts (open_tree(2), move_mount(2)), mount_setattr(2) and tmpfs(5) in the container's mount
//! namespace. A path may be any bytes but NUL, so these are read as bytes. A target is cleaned as Docker cleans it, by its
//! text; links in it are resolved later, beneath the container's root.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::mount::MsFlags;

use super::tmpfs::Tmpfs;
use crate::sys::error::{Error, Result};

/// What is said of a `--volume` that has not the form at all.
const EXPECTED: &str = "expected SOURCE:TARGET[:OPTIONS] or TARGET, such as /srv/www:/www:ro or data:/data";
/// The options of `--volume`.
const OPTIONS: &str = "expected options among ro, rw, idmap, nocopy, z, Z and one of private, slave, shared, rprivate, \
                       rslave, rshared, with commas between them";

/// Where a volume's data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// At this absolute path of the host.
    Host(PathBuf),
    /// In the state folder, under this name.
    Named(String),
    /// In the container's own folder.
    Anonymous,
}

/// With whom a volume shares what is mounted in it later: mount_namespaces(7). With an `R`, so do the mounts below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// With nobody, and the mounts below as they are.
    Private,
    /// With nobody.
    #[default]
    RPrivate,
    /// It gets what is mounted on the host, and the mounts below as they are.
    Slave,
    /// It gets what is mounted on the host.
    RSlave,
    /// It and the host get from each other, and the mounts below as they are.
    Shared,
    /// It and the host get from each other.
    RShared,
}

impl Propagation {
    /// As the options write it.
    pub(super) fn read(text: &[u8]) -> Option<Propagation> {
        Some(match text {
            b"private" => Propagation::Private,
            b"rprivate" => Propagation::RPrivate,
            b"slave" => Propagation::Slave,
            b"rslave" => Propagation::RSlave,
            b"shared" => Propagation::Shared,
            b"rshared" => Propagation::RShared,
            _ => return None,
        })
    }

    /// As mount(2) takes it.
    pub fn flags(self) -> MsFlags {
        match self {
            Propagation::Private => MsFlags::MS_PRIVATE,
            Propagation::RPrivate => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
            Propagation::Slave => MsFlags::MS_SLAVE,
            Propagation::RSlave => MsFlags::MS_SLAVE | MsFlags::MS_REC,
            Propagation::Shared => MsFlags::MS_SHARED,
            Propagation::RShared => MsFlags::MS_SHARED | MsFlags::MS_REC,
        }
    }
}

/// A directory or file that the container shares with the host, or that outlives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where its data is.
    pub source: Source,
    /// Where the container finds it: an absolute path, cleaned, and not `/`.
    pub target: PathBuf,
    /// Whether the container may not write to it, nor to what is mounted below it.
    pub read_only: bool,
    /// With whom it shares later mounts.
    pub propagation: Propagation,
    /// Whether who owns a file on the disk, by number, owns it in the container, too: Podman's word for it.
    pub idmap: bool,
    /// Whether an empty one is filled with what the root has at the target.
    pub copy: bool,
    /// Whether a source that is missing on the host is made, as a folder.
    pub create_source: bool,
}

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

/// Reads a value of `--volume`: `SOURCE:TARGET[:OPTIONS]`, or `TARGET[:OPTIONS]` for an anonymous volume.
///
/// # Errors
///
/// Not of this form; a source that is neither a path nor a volume's name; a target that is not absolute, or `/`; an
/// option that is none, or that contradicts another.
pub fn volume(text: OsString) -> Result<Volume, String> {
    let parts: Vec<_> = without_nul(&text)?.split(|&byte| byte == b':').collect();
    // `/data:ro` is a volume with an option, as nothing that is absolute is one.
    let (source, target, options) = match parts[..] {
        [target] => (None, target, None),
        [target, options]
            if !options.starts_with(b"/") && target.starts_with(b"/") && are_options(options) =>
        {
            (None, target, Some(options))
        }
        [source, target] => (Some(source), target, None),
        [source, target, options] => (Some(source), target, Some(options)),
        _ => return Err(EXPECTED.into()),
    };
    if source.is_some_and(<[u8]>::is_empty) || target.is_empty() {
        return Err(EXPECTED.into());
    }
    let source = source.map_or(Ok(Source::Anonymous), read_source)?;
    let volume = Volume {
        source,
        target: read_target(target)?,
        read_only: false,
        propagation: Propagation::default(),
        idmap: false,
        copy: true,
        create_source: true,
    };
    options.map_or(Ok(volume.clone()), |options| with_options(volume, options))
}

fn are_options(text: &[u8]) -> bool {
    let known = [&b"ro"[..], b"rw", b"idmap", b"nocopy", b"z", b"Z"];
    text.split(|&byte| byte == b',').all(|word| known.contains(&word) || Propagation::read(word).is_some())
}

fn with_options(mut volume: Volume, options: &[u8]) -> Result<Volume, String> {
    let (mut access, mut propagation) = (None, None);
    let is_host = matches!(volume.source, Source::Host(_));
    for word in options.split(|&byte| byte == b',') {
        match word {
            b"ro" | b"rw" if access.replace(word).is_some_and(|other| other != word) => {
                return Err("expected ro or rw, not both".into());
            }
            b"ro" | b"rw" => volume.read_only = word == b"ro",
            b"nocopy" if is_host => {
                return Err(
                    "a path of the host is never filled: expected nocopy for named volumes only".into()
                );
            }
            b"nocopy" => volume.copy = false,
            b"idmap" if is_host => volume.idmap = true,
            b"idmap" => {
                return Err("a volume of Congo's own has the container's ids by itself: expected idmap for a path of the \
                            host only"
                    .into());
            }
            // Labels for SELinux, which Congo does not set.
            b"z" | b"Z" => {}
            _ => match Propagation::read(word) {
                Some(_) if !is_host => {
                    return Err("expected a propagation for a path of the host only".into());
                }
                Some(kind) if propagation.replace(kind).is_some_and(|other| other != kind) => {
                    return Err("expected one propagation, not two".into());
                }
                Some(kind) => volume.propagation = kind,
                None => return Err(OPTIONS.into()),
            },
        }
    }
    Ok(volume)
}

/// A path of the host, or the name of a volume.
fn read_source(text: &[u8]) -> Result<Source, String> {
    if let Some(path) = host_path(text)? {
        return Ok(Source::Host(path));
    }
    read_name(text)
        .map(Source::Named)
        .map_err(|error| format!("{error}; or a path of the host that starts with /, ./ or ../"))
}

/// An absolute path, or one that says that it begins at the working directory; `None` when it is a name.
pub(super) fn host_path(text: &[u8]) -> Result<Option<PathBuf>, String> {
    let path = Path::new(OsStr::from_bytes(text));
    match path.components().next() {
        Some(Component::RootDir) => Ok(Some(path.to_owned())),
        Some(Component::CurDir | Component::ParentDir) => {
            let here = std::env::current_dir().map_err(|error| format!("no working directory: {error}"))?;
            // Takes `.` away and leaves `..`, which behind a link is another directory than the text says.
            Ok(Some(here.join(path).components().collect()))
        }
        _ => Ok(None),
    }
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`: Docker's names of volumes.
pub(super) fn read_name(text: &[u8]) -> Result<String, String> {
    let plain = text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte));
    let begins = text.first().is_some_and(u8::is_ascii_alphanumeric);
    // It becomes the name of a folder.
    if !plain || !begins || !(2..=255).contains(&text.len()) {
        return Err(
            "expected a name of 2 to 255 letters, digits, '_', '.' and '-', beginning with a letter \
                    or digit"
                .into(),
        );
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// An absolute path, cleaned of `.`, `..` and double slashes by its text, that is not the root.
pub(super) fn read_target(text: &[u8]) -> Result<PathBuf, String> {
    let path = Path::new(OsStr::from_bytes(text));
    if !path.is_absolute() {
        return Err("expected an absolute path in the container, such as /data, as TARGET".into());
    }
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => _ = cleaned.pop(),
            Component::Normal(name) => cleaned.push(name),
            _ => {}
        }
    }
    if cleaned.parent().is_none() {
        return Err(
            "expected another path than / as TARGET: the container's root is no place for a volume".into()
        );
    }
    if ["/proc", "/sys"].iter().any(|own| cleaned.starts_with(own)) {
        return Err(
            "expected a path outside of /proc and /sys as TARGET: they show what limits the container".into(),
        );
    }
    Ok(cleaned)
}

pub(super) fn without_nul(text: &OsStr) -> Result<&[u8], String> {
    let bytes = text.as_bytes();
    if bytes.contains(&0) { Err("a path cannot have a NUL byte".into()) } else { Ok(bytes) }
}

/// Reads the value of `--keep`: a name, as a volume's.
///
/// # Errors
///
/// Too short, too long, or with another character.
pub fn keep_name(text: &str) -> Result<String, String> {
    read_name(text.as_bytes())
}

/// Checks the targets of all `--volume`, `--mount` and `--tmpfs`: the later one would hide the other.
///
/// # Errors
///
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
///
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

/// The fields of a value of `--mount`, as Docker reads a line of CSV: a field in double quotes may have commas, and
/// two quotes in it are one.
pub(super) fn fields(text: &[u8]) -> Result<Vec<OsString>, String> {
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

/// What is in quotes, of which the first is already taken, and what follows.
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

#[cfg(test)]
mod tests;
