//! Indexes, manifests and image configurations as they come from registries and archives: hostile, and of many makers.
//!
//! Reading is tolerant in what does not matter (absent lists, nulls, unknown fields) and strict in what does: digests, sizes, and
//! that a document is one thing only. One with both `layers` and `manifests` is refused (CVE-2021-41190).

use crated_types::descriptor::media;
use crated_types::digest::Algorithm;
use crated_types::{Descriptor, Digest, Error, Fault, Platform, Result};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::collections::BTreeMap;

/// Most entries of an index or a manifest; real ones have dozens, 127 layers is what an overlay can take.
const ENTRIES_MAX: usize = 4096;
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

/// A descriptor with everything that the image-spec lets it have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciDescriptor {
    /// Media type.
    #[serde(default)]
    pub media_type: String,
    /// Digest.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Other places where the content can be had.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<OciPlatform>,
    /// Artifact type.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

/// A platform in an index, with what Windows adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciPlatform {
    /// Architecture.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Variant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl OciPlatform {
    /// The platform in its normal form; `None` where it is `unknown/unknown` (an attestation) or empty.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        if self.os.is_empty() || self.architecture.is_empty() || self.os == "unknown" || self.architecture == "unknown"
        {
            return None;
        }
        Some(Platform::new(&self.os, &self.architecture, &self.variant))
    }
}

impl From<&OciDescriptor> for Descriptor {
    fn from(descriptor: &OciDescriptor) -> Self {
        Self {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            annotations: descriptor.annotations.clone(),
        }
    }
}

impl From<&Descriptor> for OciDescriptor {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            urls: Vec::new(),
            annotations: descriptor.annotations.clone(),
            platform: None,
            artifact_type: String::new(),
        }
    }
}

/// An index: variants of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// The variants, attestations among them.
    pub manifests: Vec<OciDescriptor>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest: one image, or an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: OciDescriptor,
    /// The layers, lowest first.
    pub layers: Vec<OciDescriptor>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// An index or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// An index.
    Index(Index),
    /// A manifest.
    Manifest(Box<Manifest>),
}

impl Document {
    /// What it refers to, in order: manifests, or the configuration and the layers.
    #[must_use]
    pub fn children(&self) -> Vec<OciDescriptor> {
        match self {
            Self::Index(index) => index.manifests.clone(),
            Self::Manifest(manifest) => std::iter::once(&manifest.config).chain(&manifest.layers).cloned().collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<OciDescriptor>>,
    #[serde(default)]
    config: Option<OciDescriptor>,
    #[serde(default)]
    layers: Option<Vec<OciDescriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a document of `media_type`.
///
/// # Errors
/// [`Fault::Malformed`] that says what is wrong; [`Fault::Unsupported`] for docker's schema 1.
pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Document> {
    let raw = raw(bytes)?;
    let bad = |what: String| Error::new(Fault::Malformed, what);
    if let Some(told) = raw.media_type.as_deref().filter(|told| !told.is_empty() && *told != media_type) {
        return Err(bad(format!("a document of type {media_type:?} calls itself {told:?}")));
    }
    build(raw, media::is_index(media_type), media_type)
}

fn raw(bytes: &[u8]) -> Result<Raw> {
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Fault::Malformed, "no index or manifest").caused_by(error))?;
    if raw.fs_layers.is_some() {
        return Err(schema1());
    }
    if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
        return Err(Error::new(
            Fault::Malformed,
            "a document is an index and a manifest at once (it has manifests and layers or config)",
        )
        .remedy_is("such a document is read differently by different programs: do not use this image"));
    }
    Ok(raw)
}

fn schema1() -> Error {
    Error::new(Fault::Unsupported, "the image has docker's manifest of schema 1, which has been out of use since 2017")
        .remedy_is("let its maker push it again with a tool of today")
}

fn build(raw: Raw, index: bool, media_type: &str) -> Result<Document> {
    let bad = |what: String| Error::new(Fault::Malformed, what);
    let annotations = raw.annotations.unwrap_or_default();
    let list = if index { raw.manifests } else { raw.layers };
    let list = list.unwrap_or_default();
    if list.len() > ENTRIES_MAX {
        return Err(bad(format!("{} entries, {ENTRIES_MAX} are the most", list.len())));
    }
    if let Some(entry) = list.iter().find(|entry| i64::try_from(entry.size).is_err()) {
        return Err(bad(format!("{} has a size of {}", entry.digest, entry.size)));
    }
    if index {
        return Ok(Document::Index(Index { manifests: list, annotations }));
    }
    let config = raw.config.ok_or_else(|| bad(format!("a document of type {media_type:?} has no config")))?;
    if config.size > crate::registry::DOCUMENT_MAX {
        return Err(bad(format!("a configuration of {} bytes", config.size)));
    }
    Ok(Document::Manifest(Box::new(Manifest { config, layers: list, annotations })))
}

/// The media type of a document: `told` where it is one, else what the document calls itself, else by its shape.
///
/// # Errors
/// As [`parse`].
pub fn detect(told: &str, bytes: &[u8]) -> Result<String> {
    if told.starts_with(SCHEMA1) {
        return Err(schema1());
    }
    if media::is_index(told) || media::is_manifest(told) {
        parse(told, bytes)?;
        return Ok(told.to_owned());
    }
    let raw = raw(bytes)?;
    let own = raw.media_type.as_deref().unwrap_or_default();
    if media::is_index(own) || media::is_manifest(own) {
        return Ok(own.to_owned());
    }
    match (&raw.manifests, &raw.config) {
        (Some(_), None) => Ok(media::OCI_INDEX.into()),
        (None, Some(config)) if config.media_type == media::DOCKER_CONFIG => Ok(media::DOCKER_MANIFEST.into()),
        (None, Some(_)) => Ok(media::OCI_MANIFEST.into()),
        _ => Err(Error::new(Fault::Malformed, "neither an index nor a manifest")),
    }
}

/// An image configuration: what we read of it. The blob itself is never written anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Architecture.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// Operating system.
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    /// Variant.
    #[serde(deserialize_with = "or_default")]
    pub variant: String,
    /// RFC 3339 time of the build.
    #[serde(deserialize_with = "or_default")]
    pub created: String,
    /// Who made it.
    #[serde(deserialize_with = "or_default")]
    pub author: String,
    /// How to run it.
    #[serde(deserialize_with = "or_default")]
    pub config: RunConfig,
    /// Its layers, uncompressed.
    #[serde(deserialize_with = "or_default")]
    pub rootfs: RootFs,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Fault::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::new(Fault::Malformed, "no image configuration").caused_by(error))
    }

    /// Its platform in the normal form; what it leaves out is the host's.
    #[must_use]
    pub fn platform(&self) -> Platform {
        let host = Platform::host();
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
        Platform::new(&or(&self.os, &host.os), &or(&self.architecture, &host.architecture), &self.variant)
    }
}

/// How an image wants to be run (image-spec, config.md §Properties, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user[:group]`.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// Ports, `80/tcp`.
    #[serde(deserialize_with = "or_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Program and first arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Arguments, or the program where there is no entry point.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Folders that want to be volumes.
    #[serde(deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Working folder.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to end.
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    /// Health check of docker's, as it is.
    #[serde(deserialize_with = "or_default")]
    pub healthcheck: Option<serde_json::Value>,
}

/// Layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

/// The names of the snapshots that stand for each layer and all below it (image-spec, config.md §Layer ChainID).
///
/// ```
/// # use crated_types::Digest;
/// let a: Digest = format!("sha256:{}", "a".repeat(64)).parse()?;
/// let chain = crated_image::manifest::chain_ids(&[a.clone(), a.clone()]);
/// assert_eq!(chain[0], a);
/// assert_eq!(chain[1], crated_image::manifest::sha256(format!("{a} {a}").as_bytes()));
/// # Ok::<(), crated_types::Error>(())
/// ```
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(below) => sha256(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

/// The SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::sha256(sha2::Sha256::digest(bytes).into())
}

/// The digest of `bytes` by `algorithm`.
#[must_use]
pub fn digest_with(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    match algorithm {
        Algorithm::Sha256 => sha256(bytes),
        Algorithm::Sha512 => Digest::sha512(sha2::Sha512::digest(bytes).into()),
    }
}

/// The first part of the reference under which containerd's clients ingest a blob of `media_type`.
#[must_use]
pub fn ingest_prefix(media_type: &str) -> &'static str {
    if media::is_index(media_type) {
        "index"
    } else if media::is_manifest(media_type) {
        "manifest"
    } else if media::is_config(media_type) {
        "config"
    } else if media::is_layer(media_type) {
        "layer"
    } else if media_type.starts_with("application/vnd.in-toto") {
        "attestation"
    } else {
        "unknown"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(kind: &str) -> String {
        format!(r#"{{"mediaType":"{kind}","digest":"sha256:{}","size":3}}"#, "a".repeat(64))
    }

    #[test]
    fn documents_are_one_thing_only() {
        let d = descriptor("x/y");
        let both = format!(r#"{{"manifests":[{d}],"layers":[{d}],"config":{d}}}"#);
        for kind in [media::OCI_INDEX, media::OCI_MANIFEST, media::DOCKER_LIST, media::DOCKER_MANIFEST, "text/html"] {
            assert_eq!(parse(kind, both.as_bytes()).unwrap_err().fault(), Fault::Malformed);
            assert_eq!(detect(kind, both.as_bytes()).unwrap_err().fault(), Fault::Malformed);
        }
        let liar = format!(r#"{{"mediaType":"{}","config":{d}}}"#, media::DOCKER_MANIFEST);
        assert!(parse(media::OCI_MANIFEST, liar.as_bytes()).is_err());
        let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert_eq!(detect("", old).unwrap_err().fault(), Fault::Unsupported);
    }

    #[test]
    fn makers_differ_in_what_they_leave_out() {
        let d = descriptor(media::DOCKER_CONFIG);
        let text = format!(r#"{{"config":{d},"layers":null,"annotations":null}}"#);
        let Document::Manifest(manifest) = parse(media::OCI_MANIFEST, text.as_bytes()).unwrap() else { panic!() };
        assert!(manifest.layers.is_empty());
        assert_eq!(detect("application/json", text.as_bytes()).unwrap(), media::DOCKER_MANIFEST);
        assert_eq!(detect("", br#"{"manifests":[]}"#).unwrap(), media::OCI_INDEX);
        assert!(detect("", b"{}").is_err());
        let config = br#"{"os":"linux","architecture":"amd64","config":{"Env":null,"Cmd":["a"],"Extra":1},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = ImageConfig::parse(config).unwrap();
        assert_eq!((config.config.cmd.len(), config.config.env.len()), (1, 0));
        assert!(ImageConfig::parse(br#"{"config":null,"rootfs":null}"#).is_ok());
    }

    #[test]
    fn sizes_and_digests_are_checked() {
        for entry in [
            r#"{"digest":"sha256:../../etc","size":1}"#.to_owned(),
            descriptor("x").replace(":3}", ":-3}"),
            descriptor("x").replace(":3}", ":18446744073709551615}"),
        ] {
            let text = format!(r#"{{"manifests":[{entry}]}}"#);
            assert!(parse(media::OCI_INDEX, text.as_bytes()).is_err(), "{entry}");
        }
    }
}
