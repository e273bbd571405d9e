//! Content: immutable blobs by digest, and the resumable ingests that become them.
//!
//! Bytes lie once on disk; each namespace has its own records of them and sees no other's. A writer that knows the digest of bytes that
//! another namespace has takes them over without sending them (containerd's sharing policy `shared`).
//!
//! ```text
//! ingest: lock the reference, record (name first), then the folder     crash: resumed by the same reference, or expired
//! commit: verify, sync, rename, sync the folder, then one metadata commit {blob, event, lease mark, no ingest}
//!                                                                      crash before it: a file without a record, swept
//! ```

mod check;
mod disk;
mod hash;
mod ingest;
mod locks;
mod reader;
mod sweep;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use crated_api::containerd::events;
use crated_core::content::IngestStatus;
use crated_core::mask::update_labels;
use crated_core::record::{BLOBS, Blob, Event, INGESTS, IngestRecord};
use crated_core::{BlobReader, ContentStore, Expected, Ingest, Mask, MetadataStore, Op, Resource, ResourceKind, time};
use crated_types::digest::Algorithm;
use crated_types::filter::Filters;
use crated_types::{Digest, Error, Fault, IngestRef, Kind, Labels, Result, Scope};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::blocking;
use crate::change::{Frame, change, check_lease};
use crate::fields::Fields;
use crate::gc::Requests;
use disk::Disk;
use hash::Hasher;
use ingest::{OpenIngest, State, Writing};
use locks::Locks;
use reader::Reader;

/// How long an ingest stays that no lease holds.
const INGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The content store of the daemon.
#[derive(Debug)]
pub struct Content {
    inner: Arc<Inner>,
    requests: Requests,
}

/// What open ingests share with the store.
#[derive(Debug)]
pub(crate) struct Inner {
    metadata: Arc<dyn MetadataStore>,
    pub(crate) disk: Disk,
    pub(crate) locks: Arc<Locks>,
}

impl Content {
    /// The store below `root` (containerd's `io.containerd.content.v1.content`). Blocking, short.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(root: &Path, metadata: Arc<dyn MetadataStore>, requests: Requests) -> Result<Arc<Self>> {
        let inner = Inner { metadata, disk: Disk::open(root)?, locks: Arc::default() };
        Ok(Arc::new(Self { inner: Arc::new(inner), requests }))
    }

    /// Whether a writer has this reference now.
    pub(crate) fn is_written(&self, namespace: &str, reference: &str) -> bool {
        self.inner.locks.is_written(namespace, reference)
    }
}

fn missing(scope: &Scope, digest: &Digest) -> Error {
    Error::not_found(Kind::Content, digest).in_namespace(&scope.namespace)
}

fn damaged(digest: &Digest, what: String) -> Error {
    Error::new(Fault::Corrupt, what)
        .on(Kind::Content, digest)
        .remedy_is("run `cratectl system check --repair`, or pull or load its image again")
}

fn no_ingest(scope: &Scope, reference: &IngestRef) -> Error {
    Error::not_found(Kind::Ingest, reference).in_namespace(&scope.namespace)
}

fn blob_key(scope: &Scope, digest: &Digest) -> Vec<u8> {
    BLOBS.key(scope.namespace.as_str(), digest.as_str())
}

fn ingest_key(scope: &Scope, reference: &IngestRef) -> Vec<u8> {
    INGESTS.key(scope.namespace.as_str(), reference.as_str())
}

fn content(digest: &Digest) -> Resource {
    Resource { kind: ResourceKind::Content, id: digest.to_string() }
}

fn ingest(reference: &IngestRef) -> Resource {
    Resource { kind: ResourceKind::Ingest, id: reference.to_string() }
}

impl Inner {
    async fn blob(&self, scope: &Scope, digest: &Digest) -> Result<Blob> {
        let found = BLOBS.get(&*self.metadata, &blob_key(scope, digest)).await?;
        found.map(|(_, blob)| blob).ok_or_else(|| missing(scope, digest))
    }

    /// Whether this namespace has the blob, which then joins the caller's lease. One whose file is gone or cut short may be
    /// written again.
    async fn has(&self, scope: &Scope, digest: &Digest) -> Result<bool> {
        let key = blob_key(scope, digest);
        let Some((_, blob)) = BLOBS.get(&*self.metadata, &key).await? else { return Ok(false) };
        let (disk, wanted) = (self.disk.clone(), digest.clone());
        if blocking::run(move || disk.blob_size(&wanted)).await? != u64::try_from(blob.size).ok() {
            return Ok(false);
        }
        if scope.lease.is_none() {
            return Ok(true);
        }
        let frame = Frame { joins: vec![content(digest)], ..Frame::default() };
        let joined = change(&*self.metadata, scope, &frame, (BLOBS, key), |found| match found {
            Some(_) => Ok((Vec::new(), ())),
            None => Err(missing(scope, digest)),
        });
        match joined.await {
            Err(error) if error.fault() == Fault::NotFound => {
                check_lease(&*self.metadata, scope).await?;
                Ok(false)
            }
            answer => answer.map(|()| true),
        }
    }

    /// Records a published blob and forgets its ingest; where the namespace has it already, that is the error.
    async fn record(
        &self,
        scope: &Scope,
        reference: &IngestRef,
        digest: &Digest,
        size: u64,
        labels: Labels,
    ) -> Result<Blob> {
        let now = time::now();
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let blob = Blob { digest: digest.to_string(), size, labels, created_at: Some(now), updated_at: Some(now) };
        let event = events::ContentCreate { digest: digest.to_string(), size, ..events::ContentCreate::default() };
        let event = Op::event(&Event::new(scope, "/content/create", "containerd.events.ContentCreate", &event));
        let frame = Frame { joins: vec![content(digest)], leaves: vec![ingest(reference)], makes_namespace: true };
        let key = blob_key(scope, digest);
        let written = change(&*self.metadata, scope, &frame, (BLOBS, key.clone()), |found| {
            let mut ops = vec![Op::Delete(ingest_key(scope, reference))];
            if found.is_some() {
                return Ok((ops, None));
            }
            ops.extend([BLOBS.put(key.clone(), &blob), event.clone()]);
            Ok((ops, Some(blob.clone())))
        })
        .await?;
        written.ok_or_else(|| Error::already_exists(Kind::Content, digest).in_namespace(&scope.namespace))
    }

    /// Writes the record of an ingest that starts or goes on.
    async fn begin(&self, scope: &Scope, reference: &IngestRef, expected: &Expected) -> Result<IngestRecord> {
        let expires = scope.lease.is_none().then(|| prost_types::Timestamp::from(SystemTime::now() + INGEST_LIFE));
        let key = ingest_key(scope, reference);
        let frame = Frame::joining(ingest(reference));
        change(&*self.metadata, scope, &frame, (INGESTS, key.clone()), |found| {
            let mut record = found.unwrap_or_else(|| IngestRecord {
                reference: reference.to_string(),
                started_at: Some(time::now()),
                folder: disk::folder(&scope.namespace, reference),
                ..IngestRecord::default()
            });
            if let Some(digest) = &expected.digest {
                record.expected = digest.to_string();
            }
            if let Some(size) = expected.size.filter(|size| *size > 0) {
                record.total = i64::try_from(size).unwrap_or(i64::MAX);
            }
            record.expires_at = expires;
            Ok((vec![INGESTS.put(key.clone(), &record)], record))
        })
        .await
    }

    /// Opens the bytes of an ingest: its own, those of a blob that another namespace has, or none yet.
    fn open_state(&self, record: &IngestRecord, reference: &IngestRef) -> Result<State> {
        let expected = record.expected.parse::<Digest>().ok();
        let total = u64::try_from(record.total).unwrap_or(0);
        let own = std::fs::metadata(self.disk.data(&record.folder)).map_or(0, |found| found.len());
        if let Some(digest) = expected.as_ref().filter(|_| own == 0) {
            let pin = self.locks.pin(digest);
            if let Ok(file) = File::open(self.disk.blob(digest)) {
                let size = file.metadata().map(|found| found.len());
                if size.is_ok_and(|size| total == 0 || total == size) {
                    return Ok(State::Borrowed(pin, Arc::new(file), digest.clone()));
                }
            }
        }
        let failed = |source| Error::os("read", source).on(Kind::Ingest, reference);
        let file = self.disk.open_ingest(&record.folder, reference, total)?;
        let offset = file.metadata().map_err(failed)?.len();
        let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let hasher = Hasher::of_file(algorithm, &file, offset).map_err(failed)?;
        Ok(State::Writing(Writing { file: Arc::new(file), hasher, offset }))
    }

    /// The state of an ingest, from its record and its files.
    fn status_of(&self, record: &IngestRecord) -> Result<IngestStatus> {
        let started = record.started_at.as_ref().map_or(SystemTime::UNIX_EPOCH, time::system);
        let mut status = IngestStatus {
            reference: IngestRef::new(&record.reference)?,
            offset: 0,
            total: u64::try_from(record.total).unwrap_or(0),
            expected: record.expected.parse().ok(),
            started_at: started,
            updated_at: started,
        };
        match std::fs::metadata(self.disk.data(&record.folder)) {
            Ok(found) => {
                status.offset = found.len();
                status.updated_at = found.modified().unwrap_or(started);
            }
            Err(_) => {
                if let Some(size) = status.expected.as_ref().and_then(|digest| self.disk.blob_size(digest)) {
                    (status.offset, status.total) = (size, size);
                }
            }
        }
        Ok(status)
    }
}

#[async_trait]
impl ContentStore for Content {
    async fn info(&self, scope: &Scope, digest: &Digest) -> Result<Blob> {
        self.inner.blob(scope, digest).await
    }

    async fn open(&self, scope: &Scope, digest: &Digest) -> Result<Arc<dyn BlobReader>> {
        let blob = self.inner.blob(scope, digest).await?;
        let path = self.inner.disk.blob(digest);
        let opened = blocking::run(move || File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file))));
        let size = u64::try_from(blob.size).unwrap_or(0);
        match opened.await? {
            Ok((found, file)) if found == size => {
                Ok(Arc::new(Reader { digest: digest.clone(), file: Arc::new(file), size }))
            }
            Ok((found, _)) => Err(damaged(digest, format!("its file has {found} bytes, not {size}"))),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                // removed in this moment, or damaged
                self.inner.blob(scope, digest).await?;
                let aside = self.inner.disk.quarantine_of(digest);
                let known = blocking::run(move || aside.exists().then_some(aside)).await?;
                let what =
                    known.map(|aside| format!("its bytes were damaged and are in quarantine, {}", aside.display()));
                Err(damaged(digest, what.unwrap_or_else(|| "its file is gone".into())))
            }
            Err(source) => Err(Error::os("open", source).on(Kind::Content, digest)),
        }
    }

    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Blob>> {
        let all = BLOBS.list(&*self.inner.metadata, &BLOBS.prefix(scope.namespace.as_str())).await?;
        Ok(all.into_iter().map(|(_, _, blob)| blob).filter(|blob| filters.matches(&Fields(blob))).collect())
    }

    async fn update(&self, scope: &Scope, digest: &Digest, labels: &Labels, mask: &Mask) -> Result<Blob> {
        let key = blob_key(scope, digest);
        let answer = change(&*self.inner.metadata, scope, &Frame::default(), (BLOBS, key.clone()), |found| {
            let mut blob = found.ok_or_else(|| missing(scope, digest))?;
            update_labels("content", digest.as_str(), &mut blob.labels, labels, mask)?;
            blob.updated_at = Some(time::now());
            Ok((vec![BLOBS.put(key.clone(), &blob)], blob))
        })
        .await?;
        self.requests.mutated();
        Ok(answer)
    }

    async fn delete(&self, scope: &Scope, digest: &Digest) -> Result<()> {
        let key = blob_key(scope, digest);
        let frame = Frame::leaving(content(digest));
        change(&*self.inner.metadata, scope, &frame, (BLOBS, key.clone()), |found| {
            found.ok_or_else(|| missing(scope, digest))?;
            Ok((vec![Op::Delete(key.clone()), deleted(scope, digest.as_str())], ()))
        })
        .await?;
        self.requests.request();
        Ok(())
    }

    async fn ingest(&self, scope: &Scope, reference: &IngestRef, expected: Expected) -> Result<Box<dyn Ingest>> {
        let inner = &self.inner;
        let Some(guard) = inner.locks.reference(&scope.namespace, reference) else {
            return Err(Error::new(Fault::Locked, "another writer has it").on(Kind::Ingest, reference));
        };
        check_lease(&*inner.metadata, scope).await?;
        if let Some(digest) = &expected.digest
            && inner.has(scope, digest).await?
        {
            return Err(Error::already_exists(Kind::Content, digest).in_namespace(&scope.namespace));
        }
        let record = inner.begin(scope, reference, &expected).await?;
        let (opener, name) = (Arc::clone(inner), reference.clone());
        let (record, state) =
            blocking::run(move || opener.open_state(&record, &name).map(|state| (record, state))).await??;
        let mut status = inner.status_of(&record)?;
        match &state {
            State::Writing(writing) => status.offset = writing.offset,
            State::Borrowed(_, file, _) => {
                let size =
                    file.metadata().map_err(|source| Error::os("stat", source).on(Kind::Ingest, reference))?.len();
                (status.offset, status.total) = (size, size);
            }
        }
        Ok(Box::new(OpenIngest {
            inner: Arc::clone(inner),
            scope: scope.clone(),
            guard,
            folder: record.folder,
            status,
            state: Some(state),
            pending: None,
        }))
    }

    async fn status(&self, scope: &Scope, reference: &IngestRef) -> Result<IngestStatus> {
        let found = INGESTS.get(&*self.inner.metadata, &ingest_key(scope, reference)).await?;
        let (_, record) = found.ok_or_else(|| no_ingest(scope, reference))?;
        self.inner.status_of(&record)
    }

    async fn statuses(&self, scope: &Scope, filters: &Filters) -> Result<Vec<IngestStatus>> {
        let all = INGESTS.list(&*self.inner.metadata, &INGESTS.prefix(scope.namespace.as_str())).await?;
        let inner = Arc::clone(&self.inner);
        let statuses: Result<Vec<_>> =
            blocking::run(move || all.iter().map(|(_, _, record)| inner.status_of(record)).collect()).await?;
        Ok(statuses?.into_iter().filter(|status| filters.matches(&Fields(status))).collect())
    }

    async fn abort(&self, scope: &Scope, reference: &IngestRef) -> Result<()> {
        let key = ingest_key(scope, reference);
        let frame = Frame::leaving(ingest(reference));
        let folder = change(&*self.inner.metadata, scope, &frame, (INGESTS, key.clone()), |found| {
            let record = found.ok_or_else(|| no_ingest(scope, reference))?;
            Ok((vec![Op::Delete(key.clone())], record.folder))
        })
        .await?;
        let disk = self.inner.disk.clone();
        blocking::run(move || disk.remove_ingest(&folder)).await?
    }
}

/// The event of a blob that is gone.
fn deleted(scope: &Scope, digest: &str) -> Op {
    let event = events::ContentDelete { digest: digest.into() };
    Op::event(&Event::new(scope, "/content/delete", "containerd.events.ContentDelete", &event))
}
