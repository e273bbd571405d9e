//! Which manifest of an image runs on a platform, and what its configuration says: reads content, never a layer.

use crate::manifest::{self, Document, ImageConfig, Index, Manifest, OciDescriptor};
use crate::registry::DOCUMENT_MAX;
use bytes::Bytes;
use crated_core::ContentStore;
use crated_core::pull::ImageView;
use crated_types::descriptor::media;
use crated_types::{Descriptor, Digest, Error, Fault, Kind, Platform, Result, Scope, SnapshotKey};

/// Deepest nesting of indexes.
pub(crate) const DEPTH_MAX: usize = 4;

/// Reads a document from the content store.
///
/// # Errors
/// [`Fault::NotFound`] where it is not there; [`Fault::Malformed`].
pub async fn document(content: &dyn ContentStore, scope: &Scope, descriptor: &Descriptor) -> Result<Document> {
    let bytes = content.read_all(scope, &descriptor.digest, DOCUMENT_MAX).await?;
    manifest::parse(&descriptor.media_type, &bytes).map_err(|error| error.on(Kind::Content, &descriptor.digest))
}

/// The entries of an index that run on `platform`, best first. Attestations are none; an entry that tells no platform comes last.
#[must_use]
pub fn candidates(index: &Index, platform: &Platform) -> Vec<OciDescriptor> {
    let mut ranked: Vec<(usize, &OciDescriptor)> = Vec::new();
    for entry in &index.manifests {
        if !media::is_index(&entry.media_type) && !media::is_manifest(&entry.media_type) {
            continue;
        }
        if entry.annotations.contains_key("vnd.docker.reference.digest") {
            continue; // an attestation of buildkit's
        }
        let rank = match &entry.platform {
            None => Some(usize::MAX),
            Some(told) => match told.platform() {
                Some(told) => platform.rank(&told),
                None if told.os.is_empty() && told.architecture.is_empty() => Some(usize::MAX),
                None => None,
            },
        };
        if let Some(rank) = rank {
            ranked.push((rank, entry));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank); // stable: the first of equals wins
    ranked.into_iter().map(|(_, entry)| entry.clone()).collect()
}

/// The error of an image that has nothing for `platform`.
#[must_use]
pub fn no_platform(index: &Index, platform: &Platform, what: &str) -> Error {
    let mut has: Vec<String> =
        index.manifests.iter().filter_map(|entry| entry.platform.as_ref()?.platform()).map(|p| p.to_string()).collect();
    has.dedup();
    has.truncate(32);
    let has = if has.is_empty() { "none that it names".to_owned() } else { has.join(", ") };
    Error::new(Fault::NoPlatform, format!("no variant for {platform} (it has {has})"))
        .on(Kind::Image, what)
        .remedy_is("choose one of those with --platform")
}

/// The manifest for `platform` below `target`, following indexes that are in the content store.
///
/// # Errors
/// [`Fault::NoPlatform`]; [`Fault::NotFound`] where content is missing; [`Fault::Malformed`].
pub async fn find(
    content: &dyn ContentStore,
    scope: &Scope,
    target: &Descriptor,
    platform: &Platform,
    what: &str,
) -> Result<(Descriptor, Manifest)> {
    let mut at = target.clone();
    for _ in 0..DEPTH_MAX {
        match document(content, scope, &at).await? {
            Document::Manifest(manifest) => return Ok((at, *manifest)),
            Document::Index(index) => {
                let list = candidates(&index, platform);
                let Some(first) = list.first() else { return Err(no_platform(&index, platform, what)) };
                let mut chosen = first;
                // Where the best is not here but an equal or lesser one is (a partial import), that one is meant.
                for entry in &list {
                    if content.info(scope, &entry.digest).await.is_ok() {
                        chosen = entry;
                        break;
                    }
                }
                at = chosen.into();
            }
        }
    }
    Err(Error::new(Fault::Malformed, format!("indexes are nested more than {DEPTH_MAX} deep")).on(Kind::Image, what))
}

/// Manifest, configuration and its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Where the manifest is.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration.
    pub config: ImageConfig,
    /// The configuration's bytes.
    pub config_bytes: Bytes,
}

impl Resolved {
    /// The names of the snapshots of its layers, lowest first.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<Digest> {
        manifest::chain_ids(&self.config.rootfs.diff_ids)
    }
}

/// Manifest and configuration of an image for a platform.
///
/// # Errors
/// As [`find`].
pub async fn image_config(
    content: &dyn ContentStore,
    scope: &Scope,
    target: &Descriptor,
    platform: &Platform,
    what: &str,
) -> Result<Resolved> {
    let (descriptor, manifest) = find(content, scope, target, platform, what).await?;
    let config_bytes = content.read_all(scope, &manifest.config.digest, DOCUMENT_MAX).await?;
    let config = ImageConfig::parse(&config_bytes).map_err(|error| error.on(Kind::Content, &manifest.config.digest))?;
    check_layers(&manifest, &config).map_err(|error| error.on(Kind::Content, &descriptor.digest))?;
    Ok(Resolved { descriptor, manifest, config, config_bytes })
}

/// A manifest and its configuration must speak of the same layers.
pub(crate) fn check_layers(manifest: &Manifest, config: &ImageConfig) -> Result<()> {
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if media::is_config(&manifest.config.media_type) && layers != diff_ids {
        let what = format!("the manifest has {layers} layers, its configuration {diff_ids}");
        return Err(Error::new(Fault::Malformed, what));
    }
    Ok(())
}

/// Bytes of manifest, configuration and compressed layers.
#[must_use]
pub fn image_size(descriptor: &Descriptor, manifest: &Manifest) -> u64 {
    manifest.layers.iter().map(|layer| layer.size).fold(descriptor.size + manifest.config.size, u64::saturating_add)
}

/// What `ImagePuller::view` answers.
pub(crate) async fn view(
    content: &dyn ContentStore,
    scope: &Scope,
    target: &Descriptor,
    platform: &Platform,
    what: &str,
) -> Result<ImageView> {
    let resolved = image_config(content, scope, target, platform, what).await?;
    let chain_id = resolved.chain_ids().last().map(|chain| SnapshotKey::new(chain.as_str())).transpose()?;
    Ok(ImageView {
        size: image_size(&resolved.descriptor, &resolved.manifest),
        config: (&resolved.manifest.config).into(),
        config_bytes: resolved.config_bytes,
        platform: resolved.config.platform(),
        diff_ids: resolved.config.rootfs.diff_ids,
        chain_id,
        layers: resolved.manifest.layers.iter().map(Descriptor::from).collect(),
        manifest: resolved.descriptor,
    })
}
