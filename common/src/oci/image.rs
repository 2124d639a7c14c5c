//! An image: its documents, read and verified, and its layers, unpacked when they are needed.

use std::path::{Path, PathBuf};

use super::apply::Limits;
use super::config::Config;
use super::digest::Digest;
use super::layer::{Layer, Stack};
use super::model::{self, ImageConfig, parse};
use super::reference::Reference;
use super::source::Source;
use super::{docker, layout, store};
use crate::sys::error::{Error, Result, tell};

/// An image whose documents were read and verified. Its layers are verified when they are unpacked.
#[derive(Debug)]
pub struct Image {
    /// How it wants its command to be run.
    pub config: Config,
    pub(super) source: Source,
    pub(super) layers: Vec<Layer>,
    pub(super) diff_ids: Vec<Digest>,
    /// The config as it is written, for an image that is made from this one.
    pub(super) document: Vec<u8>,
}

impl Image {
    /// Finds the image in a folder or an archive, and reads its index, manifest and config; from an index,
    /// the manifest for this machine.
    ///
    /// # Errors
    /// There is no image, or none for this machine, or none with the tag: then the hint lists the tags. A
    /// blob is missing, or has a wrong digest or size. A media type is unknown. The documents do not fit
    /// together.
    pub fn open(reference: &Reference) -> Result<Image> {
        let source = Source::open(&reference.path)?;
        let tag = reference.tag.as_deref();
        // Docker writes both since version 25. The one with digests is the better one.
        let saved = if source.is_archive() && source.find("index.json")?.is_none() {
            source.document("manifest.json")?
        } else {
            None
        };
        let parts = match saved {
            Some(manifest) => docker::open(&source, &manifest, tag)?,
            None => layout::open(&source, tag)?,
        };
        let image = source.path().display();
        let config: ImageConfig = parse(&parts.config, || format!("the config of the image {image}"))?;
        let what = format!("the config of the image {image}");
        if config.rootfs.kind != "layers" {
            return Err(Error::new(format!("{what}: unknown rootfs type {:?}", config.rootfs.kind)));
        }
        let diff_ids = &config.rootfs.diff_ids;
        let diff_ids = diff_ids.iter().map(|text| Digest::parse(text, &what)).collect::<Result<Vec<_>>>()?;
        if diff_ids.len() != parts.layers.len() {
            let (layers, ids) = (parts.layers.len(), diff_ids.len());
            return Err(Error::new(format!(
                "the image {image} has {layers} layers, and its config has {ids}"
            )));
        }
        if !(config.os.is_empty() || config.os == "linux") {
            return Err(Error::new(format!("the image {image} is for {}, not for Linux", config.os)));
        }
        if !(config.architecture.is_empty() || config.architecture == model::architecture()) {
            let (is, here) = (&config.architecture, model::architecture());
            tell(format_args!(
                "congo: the image is for {is}, and this machine is {here}: its programs may not run"
            ));
        }
        let config = Config::new(&config);
        Ok(Image { config, source, layers: parts.layers, diff_ids, document: parts.config })
    }

    /// The unpacked layers, lowest first, one folder each at least. Layers that the store in `state` lacks
    /// are unpacked, with a progress bar on a terminal, and one line otherwise. This process must have one
    /// thread. Call it before signals are blocked, so that Ctrl-C ends it. An ordinary user calls it in a
    /// user namespace with its subordinate ids (`idmap::in_user_namespace`). Files, owners and attributes
    /// that cannot be made there are left out, and told.
    ///
    /// # Errors
    /// A layer is damaged, or does what no layer may; no overlay can be mounted; the file system is full.
    pub fn unpack(&self, state: &Path) -> Result<Vec<PathBuf>> {
        self.unpack_within(state, Limits::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`unpack`](Image::unpack).
    pub fn unpack_within(&self, state: &Path, limits: Limits) -> Result<Vec<PathBuf>> {
        let stack = Stack { source: &self.source, layers: &self.layers, diff_ids: &self.diff_ids };
        store::unpack(stack, state, limits)
    }
}
