//! An OCI layout: from its index by the tag to a manifest for this machine.
//!
//! Order: `index.json`, then indexes within it, then a manifest, its config and its layers. Everything but
//! `index.json` is named by its digest, and verified. An index that names itself, or one that names too many,
//! comes to an end here.
//! Sources: OCI image specification, image-layout.md, image-index.md, manifest.md.

use std::collections::BTreeSet;

use super::choice::{
    Choice, as_digest, choose, list, not_here, only, other_by_descriptor, other_by_index, other_by_manifest,
    platform_of,
};
use super::layer::{Compression, Layer};
use super::model::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, IMAGE_NAME, INDEX, Index, MANIFEST, Manifest, Platform,
    REF_NAME, parse,
};
use super::source::Source;
use crate::sys::error::{Error, Result};

/// What an image's format has in its own way.
pub(super) struct Parts {
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<Layer>,
}

/// How deep indexes may lie in each other, and how many are read. In use are one or two.
const MAX_DEPTH: usize = 4;
const MAX_INDEXES: usize = 32;
/// How many manifests are read. A tag leaves one or two; without a tag all are read.
const MAX_MANIFESTS: usize = 256;

/// Reads the documents of the image with this tag.
pub(super) fn open(source: &Source, tag: Option<&str>) -> Result<Parts> {
    let image = source.path().display();
    let document = source.document("index.json")?.ok_or_else(|| {
        Error::new(format!("the image {image} has no index.json"))
            .hint("expected an OCI layout folder, an OCI archive or a docker save archive")
    })?;
    let index: Index = parse(&document, || format!("index.json of the image {image}"))?;
    let names = |it: &Descriptor| {
        [REF_NAME, IMAGE_NAME].iter().filter_map(|key| it.annotations.get(*key).cloned()).collect::<Vec<_>>()
    };
    let digest = as_digest(tag);
    let chosen = match digest {
        Some(_) => index.manifests.iter().collect(),
        None => choose(&index.manifests, names, tag, &image.to_string())?,
    };
    let mut search = Search::new(source, digest);
    for descriptor in chosen {
        search.visit(descriptor, &names(descriptor), 0, false)?;
    }
    if search.found.is_empty() {
        return Err(search.nothing(tag).hint(list(index.manifests.iter().flat_map(names))));
    }
    let several = search.found.len() > 1;
    for choice in search.found.iter_mut().filter(|it| several && it.platform.is_none()) {
        choice.platform = platform_of(&source.verified(&choice.value.config)?);
    }
    let manifest = only(&image.to_string(), search.found)?;
    let config = source.verified(&manifest.config)?;
    let layers =
        manifest.layers.into_iter().map(|descriptor| layer(source, descriptor)).collect::<Result<_>>()?;
    Ok(Parts { config, layers })
}

/// The way down through the indexes to the images for this machine.
struct Search<'a> {
    source: &'a Source,
    /// The image that is wanted, or the index above it.
    digest: Option<&'a str>,
    found: Vec<Choice<Manifest>>,
    /// The kinds of documents that are no images.
    others: BTreeSet<String>,
    /// The other machines.
    platforms: BTreeSet<String>,
    indexes: usize,
    manifests: usize,
}

impl<'a> Search<'a> {
    fn new(source: &'a Source, digest: Option<&'a str>) -> Search<'a> {
        let (others, platforms) = (BTreeSet::new(), BTreeSet::new());
        Search { source, digest, found: Vec::new(), others, platforms, indexes: 0, manifests: 0 }
    }

    /// Looks at the object that a descriptor names. `names` are those of the image in `index.json`. `below`
    /// says whether it lies in the index that is wanted. A manifest without a platform is taken for one of
    /// this machine.
    fn visit(&mut self, it: &Descriptor, names: &[String], depth: usize, below: bool) -> Result<()> {
        let image = self.source.path().display();
        let what = || format!("manifest {} of the image {image}", it.digest);
        let is_index = [INDEX, DOCKER_INDEX].contains(&it.media_type.as_str());
        let is_wanted = below || self.digest.is_none_or(|digest| digest == it.digest);
        if !is_wanted && !is_index {
            return Ok(());
        }
        if let Some(kind) = other_by_descriptor(it) {
            self.others.insert(kind);
            return Ok(());
        }
        let fits = it.platform.as_ref().is_none_or(Platform::is_here);
        if !fits {
            self.platforms.extend(it.platform.as_ref().filter(|_| is_wanted).map(Platform::to_string));
            return Ok(());
        }
        if is_index {
            self.indexes += 1;
            if depth == MAX_DEPTH || self.indexes > MAX_INDEXES {
                let text = format!("the image {image}: its indexes name each other without an end");
                return Err(Error::new(text).hint("the image is damaged: copy it again"));
            }
            let index: Index = parse(&self.source.verified(it)?, what)?;
            if let Some(kind) = other_by_index(&index) {
                self.others.insert(kind);
                return Ok(());
            }
            return index.manifests.iter().try_for_each(|it| self.visit(it, names, depth + 1, is_wanted));
        }
        if ![MANIFEST, DOCKER_MANIFEST].contains(&it.media_type.as_str()) {
            self.others.insert(it.media_type.clone());
            return Ok(());
        }
        // One image may have several tags.
        if let Some(found) = self.found.iter_mut().find(|found| found.digest == it.digest) {
            found.names.extend(names.iter().cloned());
            return Ok(());
        }
        self.manifests += 1;
        if self.manifests > MAX_MANIFESTS {
            return Err(Error::new(format!("the image {image}: more than {MAX_MANIFESTS} images; add :TAG")));
        }
        let manifest: Manifest = parse(&self.source.verified(it)?, what)?;
        match other_by_manifest(&manifest) {
            Some(kind) => drop(self.others.insert(kind)),
            None => self.found.push(Choice {
                names: names.to_vec(),
                digest: it.digest.clone(),
                platform: it.platform.clone(),
                value: manifest,
            }),
        }
        Ok(())
    }

    /// Why no image was found.
    fn nothing(self, tag: Option<&str>) -> Error {
        let image = self.source.path().display().to_string();
        if !self.platforms.is_empty() {
            return not_here(&image, self.platforms);
        }
        let kinds = self.others.into_iter().collect::<Vec<_>>().join(", ");
        match tag {
            _ if !kinds.is_empty() => Error::new(format!(
                "the image {image}: what is there is no image, but a document such as a signature or an SBOM"
            ))
            .hint(format!("found: {kinds}")),
            Some(tag) => Error::new(format!("{image}: no image is at {tag:?}")),
            None => Error::new(format!("{image}: no image is in it")),
        }
    }
}

fn layer(source: &Source, descriptor: Descriptor) -> Result<Layer> {
    let what = format!("layer {} of the image {}", descriptor.digest, source.path().display());
    let compression = Compression::of_media_type(&descriptor.media_type).ok_or_else(|| {
        unknown(&what, &descriptor.media_type, "a tar layer of OCI or Docker, plain, gzip or zstd")
    })?;
    // Missing and cut blobs are told before anything is unpacked.
    let (digest, _) = source.blob(&descriptor)?;
    Ok(Layer { member: format!("blobs/sha256/{}", digest.hex()), digest: Some(digest), compression })
}

fn unknown(what: &str, media_type: &str, expected: &str) -> Error {
    Error::new(format!("{what}: unknown media type {media_type:?}")).hint(format!("expected {expected}"))
}
