//! `--volume`: a folder or file of the host, or a volume by name, that is mounted in the container.
//!
//! It ends in a bind mount (open_tree(2), move_mount(2)) and mount_setattr(2) in the container's mount
//! namespace.

use std::ffi::OsString;
use std::path::PathBuf;

use nix::mount::MsFlags;

use super::names::folder_name;
use super::{Invalid, path};

/// The error for a `--volume` of another form.
const EXPECTED: &str = "expected SOURCE:TARGET[:OPTIONS] or TARGET, such as /srv/www:/www:ro or data:/data";
/// The options of `--volume`.
const OPTIONS: &str = "expected options among ro, rw, idmap, nocopy, z, Z, consistent, cached, \
                       delegated, and one of private, slave, shared, rprivate, rslave, rshared, with \
                       commas between them";

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

/// How mounts that are made later, in the container or on the host, reach the other side:
/// mount_namespaces(7). With an `R`, so do the mounts below the volume.
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
    /// How later mounts reach the other side.
    pub propagation: Propagation,
    /// Whether who owns a file on the disk, by number, owns it in the container, too: Podman's word for it.
    pub idmap: bool,
    /// Whether an empty volume is filled with the root's files at the target.
    pub copy: bool,
    /// Whether a source that is missing on the host is made, as a folder.
    pub create_source: bool,
}

impl Volume {
    /// One that the container can write to, and that is filled when it is empty; a missing source is an
    /// error.
    pub fn new(source: Source, target: PathBuf) -> Volume {
        let propagation = Propagation::default();
        Volume {
            source,
            target,
            read_only: false,
            propagation,
            idmap: false,
            copy: true,
            create_source: false,
        }
    }
}

/// Reads a value of `--volume`: `SOURCE:TARGET[:OPTIONS]`, or `TARGET` for an anonymous volume.
///
/// # Errors
/// Not of this form. A source that is neither a path nor a volume's name. A target that is not absolute, or
/// `/`. An option that is none, or that contradicts another.
pub fn volume(text: OsString) -> Result<Volume, Invalid> {
    let parts: Vec<_> = path::without_nul(&text)?.split(|&byte| byte == b':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, None),
        // `/data:ro`: Docker refuses an anonymous volume with options, too.
        [_, options] if are_options(options) => return Err(EXPECTED.into()),
        [source, target] => (Some(source), target, None),
        [source, target, options] => (Some(source), target, Some(options)),
        _ => return Err(EXPECTED.into()),
    };
    if source.is_some_and(<[u8]>::is_empty) || target.is_empty() {
        return Err(EXPECTED.into());
    }
    let source = source.map_or(Ok(Source::Anonymous), read_source)?;
    let volume = Volume { create_source: true, ..Volume::new(source, path::target(target)?) };
    options.map_or(Ok(volume.clone()), |options| with_options(volume, options))
}

fn are_options(text: &[u8]) -> bool {
    let known = [&b"ro"[..], b"rw", b"idmap", b"nocopy", b"z", b"Z"];
    text.split(|&byte| byte == b',')
        .all(|word| known.contains(&word) || is_consistency(word) || Propagation::read(word).is_some())
}

/// Whether the word says how soon host and container must see each other's changes. On Linux both have the
/// same files, so it changes nothing.
pub(super) fn is_consistency(word: &[u8]) -> bool {
    [&b"consistent"[..], b"cached", b"delegated"].contains(&word)
}

fn with_options(mut volume: Volume, options: &[u8]) -> Result<Volume, Invalid> {
    let (mut access, mut propagation, mut consistency) = (None, None, None);
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
                return Err("a volume of Congo's own has the container's ids by itself: expected \
                            idmap for a path of the host only"
                    .into());
            }
            // Labels for SELinux, which Congo does not set.
            b"z" | b"Z" => {}
            _ if is_consistency(word) => {
                if consistency.replace(word).is_some_and(|other| other != word) {
                    return Err("expected one of consistent, cached and delegated, not two".into());
                }
            }
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
fn read_source(text: &[u8]) -> Result<Source, Invalid> {
    if let Some(path) = path::host_path(text)? {
        return Ok(Source::Host(path));
    }
    folder_name(text)
        .map(Source::Named)
        .map_err(|error| format!("{error}; or a path of the host that starts with /, ./ or ../").into())
}
