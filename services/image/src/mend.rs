//! Makes again what the store lost: blobs from the registries that their labels name, snapshots of layers from content.

use crate::fetch::Fetcher;
use crate::inspect;
use crate::manifest::{self, Document, ImageConfig, Manifest, OciDescriptor};
use crate::progress::Progress;
use crate::registry::{Access, DOCUMENT_MAX};
use crate::service::{ImageService, Inner, target};
use crate::unpack::Unpacker;
use crate::{fetch, lease};
use async_trait::async_trait;
use crated_core::check::{Kept, Mender};
use crated_core::record::Image;
use crated_types::label::{DISTRIBUTION_SOURCE, GC_REF_CONTENT};
use crated_types::{Descriptor, Error, Fault, Kind, Labels, Reference, Result, Scope, SnapshotKey};
use std::collections::BTreeMap;

/// Repositories that are asked for one blob.
const SOURCES_MAX: usize = 16;

/// Where a blob can be had, from its labels.
fn sources(blob: &Kept) -> Vec<Reference> {
    let named = blob.labels.iter().filter_map(|(key, value)| Some((key.strip_prefix(DISTRIBUTION_SOURCE)?, value)));
    named
        .flat_map(|(host, paths)| paths.split(',').map(move |path| format!("{host}/{path}@{}", blob.digest)))
        .filter_map(|text| Reference::parse(&text).ok())
        .take(SOURCES_MAX)
        .collect()
}

impl Inner {
    /// A document where it refers to others, else a blob; where the registry does not know it as one, as the other.
    async fn refetch_from(&self, scope: &Scope, blob: &Kept, reference: &Reference) -> Result<()> {
        let fetcher = Fetcher {
            content: self.content.clone(),
            repository: self.registry.repository(reference, Access::default()).await?,
            scope: scope.clone(),
            progress: Progress::default(),
            stop: self.options.shutdown.child_token(),
        };
        let descriptor = Descriptor {
            media_type: String::new(),
            digest: blob.digest.clone(),
            size: blob.size,
            annotations: BTreeMap::new(),
        };
        let likely = blob.labels.keys().any(|key| key.starts_with(GC_REF_CONTENT));
        for document in [likely, !likely] {
            let answer = if document {
                self.refetch_document(&fetcher, &descriptor).await
            } else {
                fetcher.blob(&OciDescriptor::from(&descriptor), None).await
            };
            match answer {
                Err(error) if error.is_not_found() && document == likely => {}
                answer => return answer,
            }
        }
        Err(Error::not_found(Kind::Content, &blob.digest))
    }

    async fn refetch_document(&self, fetcher: &Fetcher, descriptor: &Descriptor) -> Result<()> {
        if descriptor.size > DOCUMENT_MAX {
            return Err(Error::not_found(Kind::Content, &descriptor.digest)); // then it is none
        }
        let bytes = fetcher.stopping(fetcher.repository.document(descriptor)).await?;
        let reference = fetch::ingest_ref("", &descriptor.digest)?;
        let digest = &descriptor.digest;
        self.content.write_all(&fetcher.scope, &reference, bytes.into(), digest, Labels::new()).await.map(drop)
    }

    /// Every manifest below an image's target that is here and has its configuration here.
    async fn manifests(&self, scope: &Scope, image: &Image) -> Result<Vec<(Manifest, ImageConfig)>> {
        let mut open = vec![(target(image)?, 0)];
        let mut found = Vec::new();
        while let Some((at, depth)) = open.pop() {
            match inspect::document(&*self.content, scope, &at).await {
                Ok(Document::Index(index)) if depth < inspect::DEPTH_MAX => {
                    open.extend(index.manifests.iter().map(|entry| (Descriptor::from(entry), depth + 1)));
                }
                Ok(Document::Manifest(manifest)) => {
                    let Ok(bytes) = self.content.read_all(scope, &manifest.config.digest, DOCUMENT_MAX).await else {
                        continue;
                    };
                    if let Ok(config) = ImageConfig::parse(&bytes)
                        && inspect::check_layers(&manifest, &config).is_ok()
                    {
                        found.push((*manifest, config));
                    }
                }
                Ok(Document::Index(_)) => {}
                // variants for other platforms are not here
                Err(error) if depth > 0 && error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl Mender for ImageService {
    async fn refetch(&self, scope: &Scope, blob: &Kept) -> Result<String> {
        let mut failure = Error::new(Fault::NotFound, "no label names a registry that it came from")
            .on(Kind::Content, &blob.digest)
            .remedy_is("load or pull its image again");
        for reference in sources(blob) {
            match self.0.refetch_from(scope, blob, &reference).await {
                Ok(()) => return Ok(reference.name()),
                Err(error) => {
                    tracing::warn!(digest = %blob.digest, source = reference.name(), %error, "a damaged blob was not fetched again");
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn unpack_again(&self, scope: &Scope, image: &Image, snapshotter: &str, name: &SnapshotKey) -> Result<bool> {
        let snapshotter = self.0.snapshotter(snapshotter)?;
        for (manifest, config) in self.0.manifests(scope, image).await? {
            let chain = manifest::chain_ids(&config.rootfs.diff_ids);
            let Some(index) = chain.iter().position(|id| id.as_str() == name.as_str()) else { continue };
            let (service, snapshotter) = (self.0.clone(), snapshotter.clone());
            lease::with(self.0.clone(), scope, "mend", move |scope| async move {
                let stop = service.options.shutdown.child_token();
                let unpacker =
                    Unpacker { service: &service, scope: &scope, snapshotter, progress: Progress::default(), stop };
                unpacker.renew(&manifest, &config, index).await
            })
            .await?;
            return Ok(true);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_every_repository_of_every_host() {
        let digest = manifest::sha256(b"x");
        let labels = Labels::from([
            (format!("{DISTRIBUTION_SOURCE}quay.io"), "a/b,c".to_owned()),
            (format!("{DISTRIBUTION_SOURCE}127.0.0.1:5000"), "bb".to_owned()),
            ("other".to_owned(), "x".to_owned()),
        ]);
        let blob = Kept { namespace: "default".parse().unwrap(), digest: digest.clone(), size: 1, labels };
        let found: Vec<String> = sources(&blob).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [format!("127.0.0.1:5000/bb@{digest}"), format!("quay.io/a/b@{digest}"), format!("quay.io/c@{digest}")]
        );
    }
}
