//! The documents of an image, as far as a runtime reads them.
//!
//! The models of the crate `oci-spec` drop fields that they do not know. Here such fields are kept, because
//! `--commit` may add an image to an index of another tool. The fields of that tool must stay.
//! Sources: OCI image specification, descriptor.md, image-index.md, manifest.md, config.md; for `docker
//! save`, the Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::error::{Error, Result};
use crate::values::Invalid;

/// The tag of an image in a layout.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Where Docker and containerd note the whole name, of which the other annotation then has the tag only.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
/// What BuildKit writes at a manifest that is about another one: `attestation-manifest`.
pub(super) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The media types of OCI.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// What Docker called the same before.
pub(super) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(super) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub(super) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Reads a document. `what` names it.
pub(super) fn parse<T: DeserializeOwned>(document: &[u8], what: impl Fn() -> String) -> Result<T> {
    serde_json::from_slice(document).map_err(|error| {
        Error::new(format!("{}: {error}", what())).hint("the image is damaged, or of an unknown format")
    })
}

/// Names a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    /// The fields that only other programs read. They are written back unchanged.
    #[serde(flatten)]
    pub(super) rest: BTreeMap<String, serde_json::Value>,
}

/// For which machines an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(flatten)]
    pub(super) rest: BTreeMap<String, serde_json::Value>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.rest.get("variant").and_then(|it| it.as_str()).map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// Whether this machine's kernel runs it.
    pub(super) fn is_here(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }
}

/// Reads a value of `--platform`: `linux/amd64`, perhaps with a variant, or one of the two parts alone. It
/// can only be this machine's.
///
/// # Errors
/// It is another machine's.
pub fn platform(text: &str) -> Result<String, Invalid> {
    let here = architecture();
    let is_here = |name: &str| name == here || name == std::env::consts::ARCH;
    let mut parts = text.split('/');
    let fits = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(one), None, None, None) => one == "linux" || is_here(one),
        (Some(os), Some(name), variant, None) => os == "linux" && is_here(name) && variant != Some(""),
        _ => false,
    };
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("expected linux/{here}, which this machine runs").into())
    }
}

/// This machine's architecture by the name that Go gives it, as images have it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
    #[serde(flatten)]
    pub(super) rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    /// The descriptor says it, too, and umoci nowhere else.
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    #[serde(flatten)]
    pub(super) rest: BTreeMap<String, serde_json::Value>,
}

/// Of the config, what [`Config`](super::Config) is read from.
#[derive(Debug, Deserialize)]
pub(super) struct ImageConfig {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) config: Option<Execution>,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Execution {
    pub(super) env: Option<Vec<String>>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) working_dir: Option<String>,
    pub(super) user: Option<String>,
    pub(super) volumes: Option<BTreeMap<String, serde_json::Value>>,
    pub(super) stop_signal: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) diff_ids: Vec<String>,
}

/// An image in the `manifest.json` of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}
