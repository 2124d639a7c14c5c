//! An archive of `docker save`: `manifest.json` names the config and the layers of each image.
//!
//! The archive does not say how a layer is compressed: the layer's first bytes do. Docker writes plain
//! layers, other tools compress them. The config's name is the config's digest, and the config has the
//! digests of the layers' content. No other member has a digest.
//! Source: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".

use super::choice::{Choice, as_digest, choose, only, platform_of};
use super::digest::Digest;
use super::layer::{Compression, Layer};
use super::layout::Parts;
use super::model::{Saved, parse};
use super::source::{Source, wrong_digest};
use crate::sys::error::{Context, Error, Result};

/// Reads the documents of the image with this tag.
pub(super) fn open(source: &Source, manifest: &[u8], tag: Option<&str>) -> Result<Parts> {
    let image = source.path().display();
    let images: Vec<Saved> = parse(manifest, || format!("manifest.json of the image {image}"))?;
    let names = |it: &Saved| it.repo_tags.clone().unwrap_or_default();
    let with_digest = images.iter().find(|it| as_digest(tag) == Some(&*id(it)));
    let mut chosen = match with_digest {
        Some(saved) => vec![saved],
        None => choose(&images, names, tag, &image.to_string())?,
    };
    if chosen.len() > 1 {
        let mut choices: Vec<Choice<&Saved>> = Vec::new();
        for value in chosen {
            let platform = platform_of(&source.document(&value.config)?.unwrap_or_default());
            choices.push(Choice { names: names(value), digest: id(value), platform, value });
        }
        chosen = vec![only(&image.to_string(), choices)?];
    }
    let saved = chosen[0];
    let missing = |name: &str| {
        Error::new(format!("the image {image} has no {name}"))
            .hint("the image is not complete: save it again")
    };
    let config = source.document(&saved.config)?.ok_or_else(|| missing(&saved.config))?;
    if let Ok(named) = Digest::parse(&id(saved), "")
        && named != Digest::of(&config)
    {
        return Err(wrong_digest(&format!("{} of the image {image}", saved.config), Digest::of(&config)));
    }
    let layer = |name: &String| {
        let blob = source.find(name)?.ok_or_else(|| missing(name))?;
        let magic = blob.magic().context(format_args!("read {name} of the image {image}"))?;
        let compression = Compression::by_magic(magic);
        Ok(Layer { member: name.clone(), digest: None, compression })
    };
    Ok(Parts { config, layers: saved.layers.iter().map(layer).collect::<Result<_>>()? })
}

/// The digest of the config, by the name of its file.
fn id(saved: &Saved) -> String {
    let name = saved.config.rsplit('/').next().unwrap_or_default();
    format!("sha256:{}", name.trim_end_matches(".json"))
}
