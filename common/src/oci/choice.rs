//! Which documents of a layout or archive are images, and which of the images is meant.
//!
//! Signatures, attestations and SBOMs lie beside the image that they are about. They are manifests, too, so
//! a runtime has to tell them apart. If it took the first manifest, it could run a signature.
//! Sources: OCI image specification v1.1, manifest.md, "Guidelines for Artifact Usage"; Docker's page "Image
//! attestation storage"; cosign's SIGNATURE_SPEC.md.

use super::digest::Digest;
use super::model::{
    CONFIG, DOCKER_CONFIG, Descriptor, ImageConfig, Index, Manifest, Platform, REFERENCE_TYPE, architecture,
};
use crate::sys::error::{Error, Result};

/// An image that the user can mean.
pub(super) struct Choice<T> {
    /// Its tags and whole names.
    pub(super) names: Vec<String>,
    pub(super) digest: String,
    pub(super) platform: Option<Platform>,
    pub(super) value: T,
}

/// How many images an error lists.
const MAX_LISTED: usize = 8;

/// The images with this tag. Without one, the images with the tag `latest`, or all if there is no such image.
pub(super) fn choose<'a, T>(
    images: &'a [T],
    names: impl Fn(&T) -> Vec<String>,
    tag: Option<&str>,
    image: &str,
) -> Result<Vec<&'a T>> {
    if images.is_empty() {
        return Err(Error::new(format!("{image}: no image is in it")));
    }
    let wanted = tag.unwrap_or("latest");
    let has = |it: &&T| names(it).iter().any(|name| is_wanted(name, wanted));
    let chosen: Vec<_> = images.iter().filter(has).collect();
    match tag {
        Some(tag) if chosen.is_empty() => Err(Error::new(format!("{image}: no image has the tag {tag:?}"))
            .hint(list(images.iter().flat_map(&names)))),
        None if chosen.is_empty() => Ok(images.iter().collect()),
        _ => Ok(chosen),
    }
}

/// For an error: the tags that are there.
pub(super) fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    if names.is_empty() { "it has no tags".into() } else { format!("its tags: {}", names.join(", ")) }
}

/// Whether a tag stands for an image of this name. The wanted name is the whole tag, or the part after its
/// last colon or after a slash, as in docker.io/library/debian:12.
fn is_wanted(name: &str, wanted: &str) -> bool {
    name == wanted
        || name.rsplit_once(':').is_some_and(|(_, last)| last == wanted && !last.contains('/'))
        || name.strip_suffix(wanted).is_some_and(|before| before.ends_with('/'))
}

/// The digest that stands in the place of a tag.
pub(super) fn as_digest(tag: Option<&str>) -> Option<&str> {
    tag.filter(|tag| Digest::parse(tag, "").is_ok())
}

/// The only one of these images that is for this machine. Of several variants of one image this is the lowest
/// variant, because only that one runs on every machine of the architecture.
///
/// # Errors
/// None is left, or several. Then the error lists what to write for each.
pub(super) fn only<T>(image: &str, mut choices: Vec<Choice<T>>) -> Result<T> {
    let platforms: Vec<_> =
        choices.iter().filter_map(|it| it.platform.as_ref()).map(Platform::to_string).collect();
    choices.retain(|it| it.platform.as_ref().is_none_or(Platform::is_here));
    let variants: Vec<_> = choices.iter().map(|it| (it.names.clone(), variant(it).to_owned())).collect();
    let is_lowest = |it: &Choice<T>| {
        !variants.iter().any(|(names, other)| *names == it.names && other.as_str() < variant(it))
    };
    choices.retain(is_lowest);
    match choices.len() {
        0 => Err(not_here(image, platforms)),
        1 => Ok(choices.remove(0).value),
        _ => Err(several(image, &choices)),
    }
}

/// The variant of the architecture; nothing for the variant that every such machine has.
fn variant<T>(choice: &Choice<T>) -> &str {
    let variant = choice.platform.as_ref().and_then(|it| it.rest.get("variant")?.as_str());
    match (variant.unwrap_or_default(), architecture()) {
        ("v1", "amd64") | ("v8", "arm64") => "",
        (variant, _) => variant,
    }
}

pub(super) fn not_here(image: &str, platforms: impl IntoIterator<Item = String>) -> Error {
    let platforms = platforms.into_iter().collect::<std::collections::BTreeSet<_>>();
    let platforms = platforms.into_iter().collect::<Vec<_>>().join(", ");
    Error::new(format!("the image {image} is not for this machine, linux/{}", architecture()))
        .hint(format!("it is for {platforms}"))
}

/// The value does not say enough: for each image, what to write.
fn several<T>(image: &str, choices: &[Choice<T>]) -> Error {
    let line = |it: &Choice<T>| {
        let others = || choices.iter().filter(|other| other.digest != it.digest);
        let is_own = |name: &&String| {
            !others().any(|other| other.names.iter().any(|of_other| is_wanted(of_other, name)))
        };
        let platform = it.platform.as_ref().map_or("platform unknown".to_owned(), Platform::to_string);
        match it.names.iter().find(is_own) {
            Some(name) => {
                let short: String = it.digest.chars().take("sha256:".len() + 12).collect();
                format!("{image}:{name} ({short}, {platform})")
            }
            None => format!("{image}:{} ({platform})", it.digest),
        }
    };
    let mut lines: Vec<_> = choices.iter().take(MAX_LISTED).map(line).collect();
    if choices.len() > MAX_LISTED {
        lines.push(format!("and {} more", choices.len() - MAX_LISTED));
    }
    Error::new(format!("the image {image}: several images in it are for this machine"))
        .hint(format!("write which one: {}", lines.join(", ")))
}

/// For which machines an image is by its config. An index need not say it.
pub(super) fn platform_of(config: &[u8]) -> Option<Platform> {
    let ImageConfig { architecture, os, .. } = serde_json::from_slice(config).ok()?;
    let is_told = !architecture.is_empty() && !os.is_empty();
    is_told.then(|| Platform { architecture, os, rest: std::collections::BTreeMap::new() })
}

/// What a descriptor names instead of an image, as far as the descriptor tells it.
pub(super) fn other_by_descriptor(descriptor: &Descriptor) -> Option<String> {
    if let Some(kind) = artifact_type(&descriptor.rest) {
        return Some(kind);
    }
    // BuildKit gives its attestations the config of an image, and a platform that no machine has.
    if let Some(kind) = descriptor.annotations.get(REFERENCE_TYPE) {
        return Some(kind.clone());
    }
    let platform = descriptor.platform.as_ref().map(Platform::to_string);
    platform.filter(|platform| platform == "unknown/unknown")
}

/// The same by the index.
pub(super) fn other_by_index(index: &Index) -> Option<String> {
    artifact_type(&index.rest)
}

/// The same by the manifest.
pub(super) fn other_by_manifest(manifest: &Manifest) -> Option<String> {
    if let Some(kind) = artifact_type(&manifest.rest) {
        return Some(kind);
    }
    let config = &manifest.config.media_type;
    if !is_image(config) {
        return Some(config.clone());
    }
    // cosign gives a signature the config of an image. Its layer is the signed text.
    let is_filesystem = |layer: &Descriptor| {
        ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."]
            .iter()
            .any(|begin| layer.media_type.starts_with(begin))
    };
    let first = manifest.layers.first()?;
    (!manifest.layers.iter().any(is_filesystem)).then(|| first.media_type.clone())
}

fn artifact_type(fields: &std::collections::BTreeMap<String, serde_json::Value>) -> Option<String> {
    let kind = fields.get("artifactType")?.as_str()?;
    (!is_image(kind)).then(|| kind.to_owned())
}

/// Whether a config of this media type can be an image's. Old registries replaced the type by one of the last
/// four; Docker takes these for images, too.
fn is_image(media_type: &str) -> bool {
    [CONFIG, DOCKER_CONFIG, "application/octet-stream", "application/json", "text/html", ""]
        .contains(&media_type)
}
