//! Port: blobs by digest, and the resumable ingests that become them.

use async_trait::async_trait;
use bytes::Bytes;
use crated_types::filter::Filters;
use crated_types::{Digest, Error, Fault, IngestRef, Labels, Result, Scope};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use crate::mask::Mask;
use crate::record::Blob;

/// What a writer knows of the bytes that it is going to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Their digest.
    pub digest: Option<Digest>,
    /// Their number.
    pub size: Option<u64>,
}

/// What turns an ingest into a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// What must hold; nothing given: what is there becomes the blob.
    pub expected: Expected,
    /// Labels of the blob.
    pub labels: Labels,
}

/// The state of an ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    /// Its reference.
    pub reference: IngestRef,
    /// Bytes written.
    pub offset: u64,
    /// Bytes expected; 0 where unknown.
    pub total: u64,
    /// Digest expected.
    pub expected: Option<Digest>,
    /// Start.
    pub started_at: SystemTime,
    /// Last write.
    pub updated_at: SystemTime,
}

/// Immutable blobs, seen only in the namespaces that committed them, and the writes that become them.
#[async_trait]
pub trait ContentStore: Send + Sync + Debug {
    /// Describes a blob.
    async fn info(&self, scope: &Scope, digest: &Digest) -> Result<Blob>;
    /// Opens a blob for positional reads.
    async fn open(&self, scope: &Scope, digest: &Digest) -> Result<Arc<dyn BlobReader>>;
    /// Blobs that pass, in order of their digests.
    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Blob>>;
    /// Changes labels.
    async fn update(&self, scope: &Scope, digest: &Digest, labels: &Labels, mask: &Mask) -> Result<Blob>;
    /// Removes a blob from this namespace.
    async fn delete(&self, scope: &Scope, digest: &Digest) -> Result<()>;

    /// Starts or resumes an ingest and locks its reference until the answer is dropped.
    ///
    /// # Errors
    /// [`Fault::Locked`] where another writer has it; [`Fault::AlreadyExists`] where the expected digest is a blob of this
    /// namespace (which then joins the scope's lease).
    async fn ingest(&self, scope: &Scope, reference: &IngestRef, expected: Expected) -> Result<Box<dyn Ingest>>;
    /// The state of an ingest.
    async fn status(&self, scope: &Scope, reference: &IngestRef) -> Result<IngestStatus>;
    /// Ingests that pass, in order of their references.
    async fn statuses(&self, scope: &Scope, filters: &Filters) -> Result<Vec<IngestStatus>>;
    /// Throws an ingest away.
    async fn abort(&self, scope: &Scope, reference: &IngestRef) -> Result<()>;

    /// Reads a whole blob of at most `limit` bytes (manifests, configurations).
    async fn read_all(&self, scope: &Scope, digest: &Digest, limit: u64) -> Result<Bytes> {
        let blob = self.open(scope, digest).await?;
        if blob.size() > limit {
            return Err(Error::new(Fault::Malformed, format!("{} bytes, at most {limit} are read", blob.size()))
                .on(crated_types::Kind::Content, digest));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(blob.size()).unwrap_or(0));
        while (bytes.len() as u64) < blob.size() {
            let chunk = blob.read_at(bytes.len() as u64, 1 << 20).await?;
            if chunk.is_empty() {
                break;
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    /// Writes a small blob whole and answers its record; one that exists already gets the labels added.
    async fn write_all(
        &self,
        scope: &Scope,
        reference: &IngestRef,
        bytes: Bytes,
        digest: &Digest,
        labels: Labels,
    ) -> Result<Blob> {
        let expected = Expected { digest: Some(digest.clone()), size: Some(bytes.len() as u64) };
        let written = async {
            let mut ingest = self.ingest(scope, reference, expected.clone()).await?;
            if ingest.status().offset != 0 {
                ingest.truncate().await?;
            }
            ingest.write(bytes).await?;
            ingest.commit(Commit { expected, labels: labels.clone() }).await
        };
        match written.await {
            Err(error) if error.is_already_exists() => {
                let paths = labels.keys().map(|key| format!("labels.{key}")).collect::<Vec<_>>();
                if paths.is_empty() {
                    return self.info(scope, digest).await;
                }
                self.update(scope, digest, &labels, &Mask::Paths(paths)).await
            }
            answer => answer,
        }
    }
}

/// An open blob.
#[async_trait]
pub trait BlobReader: Send + Sync + Debug {
    /// Bytes.
    fn size(&self) -> u64;
    /// Reads at most `length` bytes at `offset`; an empty answer is the end.
    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes>;
    /// A file positioned at the start, for blocking readers on their own threads.
    fn file(&self) -> Result<std::fs::File>;
}

/// A write in progress. Dropped it keeps its bytes, and a later [`ContentStore::ingest`] resumes.
#[async_trait]
pub trait Ingest: Send + Debug {
    /// Where it stands.
    fn status(&self) -> IngestStatus;
    /// The digest of the bytes so far (in the expected digest's algorithm, else SHA-256).
    fn digest(&self) -> Digest;
    /// Appends.
    async fn write(&mut self, chunk: Bytes) -> Result<()>;
    /// Starts over at offset 0.
    async fn truncate(&mut self) -> Result<()>;
    /// Verifies, syncs and publishes. Where it fails for a digest or a size, the ingest stays with its bytes.
    async fn commit(self: Box<Self>, commit: Commit) -> Result<Blob>;
    /// The file with the bytes so far, for readers that follow the write.
    fn file(&self) -> Result<std::fs::File>;
}
