//! Images made by hand, byte by byte, so that they can also be what no tool would write.
//!
//! Nothing here is shared with a runtime: what reads these images was not written by the same hand. Order:
//! archives of layers, then a layout with blobs, manifests and index. Sources: OCI image specification v1.1;
//! pax(1) of POSIX.

mod programs;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

pub(crate) use programs::{Programs, base};

use crate::container::{Container, Output};
use crate::subject::state_folder;
use crate::tree::{self, Tree};
use crate::{Failure, Subject};

/// The media types of OCI.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// When files were modified, unless something else is asked for.
pub(crate) const MTIME: u64 = 1_000_000_000;

/// A tar archive in the making.
#[derive(Debug, Default, Clone)]
pub(crate) struct Archive(Vec<u8>);

/// An entry of it.
#[derive(Debug, Clone)]
pub(crate) struct Entry<'a> {
    pub(crate) kind: EntryType,
    pub(crate) name: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) data: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) device: (u32, u32),
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Entry {
            kind: EntryType::Regular,
            name: b"",
            link: b"",
            data: b"",
            mode: 0o644,
            owner: (0, 0),
            device: (0, 0),
        }
    }
}

impl Archive {
    /// Adds an entry. Name and link have 100 bytes at most: before a longer one comes a
    /// [`record`](Archive::record).
    pub(crate) fn entry(mut self, entry: &Entry<'_>) -> Archive {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..entry.name.len()].copy_from_slice(entry.name);
        old.linkname[..entry.link.len()].copy_from_slice(entry.link);
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(MTIME);
        header.set_size(entry.data.len() as u64);
        // A ustar header always has these fields.
        let _ = header.set_device_major(entry.device.0).and(header.set_device_minor(entry.device.1));
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(entry.data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a pax record for the entry that follows.
    pub(crate) fn record(self, key: &str, value: &[u8]) -> Archive {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        // The length counts its own digits.
        let mut length = rest.len();
        while length.to_string().len() + rest.len() != length {
            length += 1;
        }
        let data = [length.to_string().as_bytes(), &rest].concat();
        self.entry(&Entry { kind: EntryType::XHeader, name: b"pax", data: &data, ..Entry::default() })
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Archive {
        self.entry(&Entry { name: name.as_bytes(), data: data.as_bytes(), ..Entry::default() })
    }

    pub(crate) fn folder(self, name: &str) -> Archive {
        let kind = EntryType::Directory;
        self.entry(&Entry { kind, name: name.as_bytes(), mode: 0o755, ..Entry::default() })
    }

    pub(crate) fn symlink(self, name: &str, to: &str) -> Archive {
        let (kind, link) = (EntryType::Symlink, to.as_bytes());
        self.entry(&Entry { kind, name: name.as_bytes(), link, mode: 0o777, ..Entry::default() })
    }

    pub(crate) fn hard_link(self, name: &str, to: &str) -> Archive {
        let (kind, link) = (EntryType::Link, to.as_bytes());
        self.entry(&Entry { kind, name: name.as_bytes(), link, ..Entry::default() })
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A layer: what its blob is, and what its archive is.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) media_type: String,
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: String,
}

impl Layer {
    pub(crate) fn plain(archive: Archive) -> Layer {
        let blob = archive.end();
        Layer { media_type: LAYER.into(), diff_id: digest(&blob), blob }
    }

    /// In two members, as pigz and others write it.
    pub(crate) fn gzip(archive: Archive) -> io::Result<Layer> {
        let archive = archive.end();
        let (first, second) = archive.split_at(archive.len() / 2);
        let compressed = |part| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part).and_then(|()| encoder.finish())
        };
        let blob = [compressed(first)?, compressed(second)?].concat();
        Ok(Layer { media_type: format!("{LAYER}+gzip"), diff_id: digest(&archive), blob })
    }

    /// In two frames, with one between them that is to be skipped.
    pub(crate) fn zstd(archive: Archive) -> io::Result<Layer> {
        let archive = archive.end();
        let (first, second) = archive.split_at(archive.len() / 2);
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let blob = [zstd(first), skipped, zstd(second)].concat();
        Ok(Layer { media_type: format!("{LAYER}+zstd"), diff_id: digest(&archive), blob })
    }
}

/// Compressed in one frame.
pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    // Not by the C library, which a learner would have to compile before the first check.
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// As images write it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An OCI layout in the making.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// An empty one at the path of this name.
    pub(crate) fn new(subject: &Subject, name: &str) -> io::Result<Layout> {
        let path = subject.empty_folder(name)?;
        fs::create_dir_all(path.join("blobs/sha256"))?;
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let layout = Layout { path, manifests: Vec::new() };
        layout.write_index()?;
        Ok(layout)
    }

    /// One with a single image.
    pub(crate) fn of(subject: &Subject, name: &str, config: &Value, layers: &[Layer]) -> io::Result<Layout> {
        let mut layout = Layout::new(subject, name)?;
        let manifest = layout.image(config, layers)?;
        layout.add(manifest)?;
        Ok(layout)
    }

    /// As an option's value.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Writes a blob, and returns what describes it.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> io::Result<Value> {
        let digest = digest(bytes);
        fs::write(self.blob_path(&digest), bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }

    /// Writes a document as a blob.
    pub(crate) fn document(&self, media_type: &str, document: &Value) -> io::Result<Value> {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// Writes the blobs of an image whose config has this `config`, and returns what describes its manifest.
    pub(crate) fn image(&self, config: &Value, layers: &[Layer]) -> io::Result<Value> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
        let config = json!({ "architecture": architecture(), "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = self.document(CONFIG, &config)?;
        let layers = layers.iter().map(|layer| self.blob(&layer.media_type, &layer.blob));
        let layers = layers.collect::<io::Result<Vec<_>>>()?;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.document(MANIFEST, &manifest)
    }

    /// Puts it into the index.
    pub(crate) fn add(&mut self, descriptor: Value) -> io::Result<()> {
        self.manifests.push(descriptor);
        self.write_index()
    }

    /// The same under a tag.
    pub(crate) fn add_tagged(&mut self, mut descriptor: Value, tag: &str) -> io::Result<()> {
        descriptor["annotations"] = json!({ REF_NAME: tag });
        self.add(descriptor)
    }

    /// Takes everything out of the index.
    pub(crate) fn clear(&mut self) {
        self.manifests.clear();
    }

    fn write_index(&self) -> io::Result<()> {
        let index = json!({ "schemaVersion": 2, "manifests": self.manifests });
        fs::write(self.path.join("index.json"), index.to_string())
    }

    /// The layout as an archive.
    pub(crate) fn archive(&self, subject: &Subject, name: &str) -> io::Result<String> {
        let mut archive = Archive::default().folder("blobs/").folder("blobs/sha256/");
        for name in ["oci-layout", "index.json"] {
            archive = archive.file(name, &fs::read_to_string(self.path.join(name))?);
        }
        for entry in fs::read_dir(self.path.join("blobs/sha256"))? {
            let entry = entry?;
            let name = [b"blobs/sha256/", entry.file_name().as_bytes()].concat();
            archive =
                archive.entry(&Entry { name: &name, data: &fs::read(entry.path())?, ..Entry::default() });
        }
        subject.write(name, archive.end())
    }
}

/// An image as `docker save` writes it, under this name and tag.
pub(crate) fn saved(
    subject: &Subject,
    name: &str,
    tag: &str,
    config: &Value,
    layers: &[Layer],
) -> io::Result<String> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
    let config = json!({ "architecture": architecture(), "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = config.to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()).trim_start_matches("sha256:"));
    let mut archive = Archive::default().file(&config_name, &config);
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("{number}/layer.tar");
        archive = archive.entry(&Entry { name: name.as_bytes(), data: &layer.blob, ..Entry::default() });
        names.push(name);
    }
    let manifest = json!([{ "Config": config_name, "RepoTags": [tag], "Layers": names }]);
    subject.write(name, archive.file("manifest.json", &manifest.to_string()).end())
}

/// This machine's architecture, as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A config with the PATH that the base needs, and what else is said.
pub(crate) fn config(more: Value) -> Value {
    let mut config = json!({ "Env": ["PATH=/commands"], "Cmd": ["cat"] });
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    config
}

/// A state folder of a check's own: nothing is unpacked there yet, and what remains there is the check's to
/// see.
#[derive(Debug)]
pub(crate) struct Home<'a> {
    subject: &'a Subject,
    pub(crate) path: PathBuf,
}

impl<'a> Home<'a> {
    /// An empty one.
    pub(crate) fn new(subject: &'a Subject, name: &str) -> io::Result<Home<'a>> {
        Ok(Home { subject, path: subject.empty_folder(name)? })
    }

    /// The runtime with this state folder, not yet started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.subject.command(arguments);
        command.env("CONGO_HOME", &self.path);
        command
    }

    /// The same from a shell that first does this.
    pub(crate) fn command_after(&self, first: &str, arguments: &[&str]) -> Command {
        let mut command = self.subject.command_after(first, arguments);
        command.env("CONGO_HOME", &self.path);
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output, Failure> {
        Container::start(&mut self.command(arguments))?.output()
    }

    /// A container that waits to be looked at: its command is the image's, which must be `cat`.
    pub(crate) fn hold(&self, arguments: &[&str]) -> Result<Container, Failure> {
        let mut container = Container::start(self.command(arguments).stdin(Stdio::piped()))?;
        container.say("ready")?;
        container.wait_for("ready")?;
        Ok(container)
    }

    /// What the container of such an image has in the folder `/t`.
    pub(crate) fn tree(&self, arguments: &[&str]) -> Result<Tree, Failure> {
        let container = self.hold(&[self.subject.as_host_root(), arguments].concat())?;
        Ok(tree::read(&container.first()?.path("root/t"))?)
    }

    /// The paths in it, relative, but not what is in unpacked layers.
    pub(crate) fn listing(&self) -> BTreeSet<PathBuf> {
        state_folder(&self.path)
    }
}
