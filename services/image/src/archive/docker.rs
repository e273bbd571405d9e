//! docker's `manifest.json`: images of an archive by the paths of their parts.

use crate::layer::Compression;
use crate::manifest::{self, ImageConfig, OciDescriptor};
use crate::registry::DOCUMENT_MAX;
use crate::service::Inner;
use crated_types::descriptor::media;
use crated_types::{Descriptor, Digest, Error, Fault, IngestRef, Result, Scope};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// One image of `manifest.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) layers: Option<Vec<String>>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Item>> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Fault::Malformed, "archive: manifest.json").caused_by(error))
}

/// What the archive held: blobs by path, and links.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) blobs: HashMap<String, (Digest, u64)>,
    pub(super) links: HashMap<String, String>,
}

impl Files {
    /// The blob at `path`, through at most a few links.
    pub(super) fn get(&self, path: &str) -> Result<&(Digest, u64)> {
        let mut path = super::tar::normal(path);
        for _ in 0..8 {
            if let Some(found) = self.blobs.get(&path) {
                return Ok(found);
            }
            let Some(target) = self.links.get(&path) else { break };
            path.clone_from(target);
        }
        Err(Error::new(Fault::Malformed, format!("archive: manifest.json names {path:?}, which is not in it")))
    }
}

/// Makes a manifest for `item`, stores it and answers where it is.
pub(super) async fn manifest(service: &Inner, scope: &Scope, files: &Files, item: &Item) -> Result<Descriptor> {
    let (digest, size) = files.get(&item.config)?.clone();
    let bytes = service.content.read_all(scope, &digest, DOCUMENT_MAX).await?;
    let config = ImageConfig::parse(&bytes)?;
    let paths = item.layers.clone().unwrap_or_default();
    if paths.len() != config.rootfs.diff_ids.len() {
        let what =
            format!("archive: {} layers, but its configuration has {}", paths.len(), config.rootfs.diff_ids.len());
        return Err(Error::new(Fault::Malformed, what));
    }
    let mut layers = Vec::new();
    for path in &paths {
        let (digest, size) = files.get(path)?.clone();
        let start = service.content.open(scope, &digest).await?.read_at(0, 4).await?;
        let kind = match Compression::sniff(&start) {
            Compression::None => media::DOCKER_LAYER,
            Compression::Gzip => media::DOCKER_LAYER_GZIP,
            Compression::Zstd => media::DOCKER_LAYER_ZSTD,
        };
        layers.push(descriptor(kind, digest, size));
    }
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media::DOCKER_MANIFEST,
        "config": descriptor(media::DOCKER_CONFIG, digest, size),
        "layers": layers,
    });
    let bytes = serde_json::to_vec(&document).map_err(|error| Error::internal("encode a manifest").caused_by(error))?;
    let (digest, size) = (manifest::sha256(&bytes), bytes.len() as u64);
    let labels = crate::labels::children(&manifest::parse(media::DOCKER_MANIFEST, &bytes)?);
    let reference = IngestRef::new(&format!("manifest-{digest}"))?;
    service.content.write_all(scope, &reference, bytes.into(), &digest, labels).await?;
    Ok(Descriptor { media_type: media::DOCKER_MANIFEST.into(), digest, size, annotations: BTreeMap::new() })
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> OciDescriptor {
    OciDescriptor::from(&Descriptor { media_type: media_type.into(), digest, size, annotations: BTreeMap::new() })
}
