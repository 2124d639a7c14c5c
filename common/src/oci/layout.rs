//! An OCI layout: from its index by the tag to a manifest for this machine.
//!
//! Order: `index.json`, then indexes within it, then a manifest, its config and its layers. Everything but
//! `index.json` is named by its digest, and verified. An index that names itself, or one that names too many,
//! comes to an end here.
//! Sources: OCI image specification, image-layout.md, image-index.md, manifest.md.

use super::layer::{Compression, Layer};
use super::model::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, IMAGE_NAME, INDEX, Index, MANIFEST, Manifest, Platform,
    REF_NAME, architecture, parse,
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
    let chosen = choose(&index.manifests, names, tag, &image.to_string())?;
    if chosen.iter().any(|it| it.digest != chosen[0].digest && names(it) != names(chosen[0])) {
        return Err(several(&image.to_string()));
    }
    let mut read = 0;
    let manifest = manifest(source, chosen, 0, &mut read)?.ok_or_else(|| {
        let there = platforms(&index.manifests);
        let error =
            Error::new(format!("the image {image} is not for this machine, linux/{}", architecture()));
        if there.is_empty() { error } else { error.hint(format!("it is for {there}")) }
    })?;
    let config = source.verified(&manifest.config)?;
    let layers =
        manifest.layers.into_iter().map(|descriptor| layer(source, descriptor)).collect::<Result<_>>()?;
    Ok(Parts { config, layers })
}

/// The tag says not enough.
pub(super) fn several(image: &str) -> Error {
    Error::new(format!("the image {image}: several images have that tag, or none has one"))
        .hint("give the whole name, PATH:NAME:TAG")
}

/// The images with this tag; without one, the only image, or the one with the tag `latest`.
pub(super) fn choose<'a, T>(
    images: &'a [T],
    names: impl Fn(&T) -> Vec<String>,
    tag: Option<&str>,
    image: &str,
) -> Result<Vec<&'a T>> {
    let tags: Vec<_> =
        images.iter().flat_map(&names).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let list =
        || if tags.is_empty() { "it has no tags".into() } else { format!("its tags: {}", tags.join(", ")) };
    if images.is_empty() {
        return Err(Error::new(format!("{image}: no image is in it")));
    }
    // Images that differ in their platform only have the same names, or none.
    if tag.is_none() && images.iter().all(|it| names(it) == names(&images[0])) {
        return Ok(images.iter().collect());
    }
    let wanted = tag.unwrap_or("latest");
    // The whole name, or what follows its last colon, or a slash: docker.io/library/debian:12.
    let is_wanted = |name: &String| {
        name == wanted
            || name.rsplit_once(':').is_some_and(|(_, last)| last == wanted && !last.contains('/'))
            || name.strip_suffix(wanted).is_some_and(|before| before.ends_with('/'))
    };
    let chosen: Vec<_> = images.iter().filter(|image| names(image).iter().any(&is_wanted)).collect();
    match (chosen.is_empty(), tag) {
        (false, _) => Ok(chosen),
        (true, Some(tag)) => Err(Error::new(format!("{image}: no image has the tag {tag:?}")).hint(list())),
        (true, None) => Err(Error::new(format!("{image}: several images, and none has the tag latest"))
            .hint(format!("add :TAG; {}", list()))),
    }
}

/// The first manifest for this machine. A manifest without a platform is taken for one.
fn manifest(
    source: &Source,
    descriptors: Vec<&Descriptor>,
    depth: usize,
    read: &mut usize,
) -> Result<Option<Manifest>> {
    let image = source.path().display();
    let fits = |it: &&Descriptor| it.platform.as_ref().is_none_or(Platform::is_here);
    for descriptor in descriptors.into_iter().filter(fits) {
        let what = || format!("manifest {} of the image {image}", descriptor.digest);
        match descriptor.media_type.as_str() {
            MANIFEST | DOCKER_MANIFEST => return parse(&source.verified(descriptor)?, what).map(Some),
            INDEX | DOCKER_INDEX => {
                *read += 1;
                if depth == MAX_DEPTH || *read > MAX_INDEXES {
                    return Err(Error::new(format!(
                        "the image {image}: its indexes name each other without an end"
                    )));
                }
                let index: Index = parse(&source.verified(descriptor)?, what)?;
                if let Some(found) = manifest(source, index.manifests.iter().collect(), depth + 1, read)? {
                    return Ok(Some(found));
                }
            }
            other => return Err(unknown(&what(), other, "an OCI or Docker manifest or index")),
        }
    }
    Ok(None)
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

fn platforms(manifests: &[Descriptor]) -> String {
    let names = manifests.iter().filter_map(|it| it.platform.as_ref());
    let names: std::collections::BTreeSet<_> =
        names.map(|it| format!("{}/{}", it.os, it.architecture)).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}
