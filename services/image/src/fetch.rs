//! From a registry into the content store: documents whole, blobs through resumable ingests.

use crate::follow::{Follower, Writer};
use crate::labels;
use crate::manifest::{self, Document, OciDescriptor, ingest_prefix};
use crate::progress::Progress;
use crate::registry::{DOCUMENT_MAX, Repository};
use bytes::{Bytes, BytesMut};
use crated_core::{Commit, ContentStore, Expected, Ingest};
use crated_types::{Descriptor, Error, Fault, IngestRef, Kind, Labels, Result, Scope};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How often a blob that someone else writes is looked at, and how long without progress of theirs.
const LOCK_POLL: Duration = Duration::from_millis(100);
const LOCK_PATIENCE: Duration = Duration::from_secs(300);

/// Bytes that are gathered before they are written: a write has a price of its own.
const CHUNK: usize = 128 << 10;

/// Where an unpacker gets a layer.
#[derive(Debug)]
pub(crate) enum Feed {
    /// It is in the content store.
    Stored,
    /// It arrives: bytes can be read, but are not verified before the download has ended.
    Arriving(Follower),
}

/// The fetching half of one pull.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    pub(crate) content: Arc<dyn ContentStore>,
    pub(crate) repository: Repository,
    pub(crate) scope: Scope,
    pub(crate) progress: Progress,
    pub(crate) stop: CancellationToken,
}

/// The reference of an ingest, as containerd's clients choose it.
pub(crate) fn ingest_ref(media_type: &str, digest: &crated_types::Digest) -> Result<IngestRef> {
    IngestRef::new(&format!("{}-{digest}", ingest_prefix(media_type)))
}

impl Fetcher {
    /// An index or a manifest: from the content store, else from the registry and then in the content store, labelled.
    pub(crate) async fn document(&self, descriptor: &Descriptor) -> Result<Document> {
        let digest = &descriptor.digest;
        let reference = ingest_ref(&descriptor.media_type, digest)?;
        let id = reference.to_string();
        let of = |error: Error| error.on(Kind::Content, digest).at("read manifest");
        match self.content.read_all(&self.scope, digest, DOCUMENT_MAX).await {
            Ok(bytes) => {
                let document = manifest::parse(&descriptor.media_type, &bytes).map_err(of)?;
                self.join_lease(&reference, descriptor).await?;
                labels::add(&*self.content, &self.scope, digest, labels::children(&document)).await?;
                labels::add_source(&*self.content, &self.scope, digest, self.repository.reference()).await?;
                self.progress.step(&id, "exists");
                Ok(document)
            }
            // Damaged bytes are replaced as those that are missing.
            Err(error) if error.is_not_found() || error.fault() == Fault::Corrupt => {
                self.progress.bytes(&id, "downloading", 0, descriptor.size);
                let bytes = self.stopping(self.repository.document(descriptor)).await?;
                let document = manifest::parse(&descriptor.media_type, &bytes).map_err(of)?;
                let mut labels = labels::children(&document);
                labels.extend([labels::source(self.repository.reference(), &Labels::new())]);
                self.content.write_all(&self.scope, &reference, bytes.into(), digest, labels).await?;
                self.progress.bytes(&id, "done", descriptor.size, descriptor.size);
                Ok(document)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes an existing blob a resource of the scope's lease: the store does so when the blob is asked to be written again.
    async fn join_lease(&self, reference: &IngestRef, descriptor: &Descriptor) -> Result<()> {
        let expected = Expected { digest: Some(descriptor.digest.clone()), size: Some(descriptor.size) };
        match self.content.ingest(&self.scope, reference, expected).await {
            Ok(ingest) => {
                drop(ingest);
                self.content.abort(&self.scope, reference).await
            }
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A small blob (a configuration), read whole afterwards.
    pub(crate) async fn small(&self, descriptor: &OciDescriptor) -> Result<Bytes> {
        if descriptor.size > DOCUMENT_MAX {
            return Err(Error::new(Fault::Malformed, format!("a configuration of {} bytes", descriptor.size))
                .on(Kind::Content, &descriptor.digest));
        }
        self.blob(descriptor, None).await?;
        self.content.read_all(&self.scope, &descriptor.digest, DOCUMENT_MAX).await
    }

    /// A blob, into the content store. `feed` is told where it can be read as soon as that is known.
    pub(crate) async fn blob(&self, descriptor: &OciDescriptor, mut feed: Option<oneshot::Sender<Feed>>) -> Result<()> {
        self.stopping(std::future::ready(Ok(()))).await?;
        let reference = ingest_ref(&descriptor.media_type, &descriptor.digest)?;
        let id = reference.to_string();
        let mut again = true;
        loop {
            let Some(ingest) = self.open(&reference, descriptor).await? else {
                labels::add_source(&*self.content, &self.scope, &descriptor.digest, self.repository.reference())
                    .await?;
                self.progress.bytes(&id, "exists", descriptor.size, descriptor.size);
                break;
            };
            let resumed = ingest.status().offset > 0;
            // Bytes of an earlier attempt are not shown before they are verified: if they are wrong we start over.
            let early = if resumed { None } else { feed.take() };
            match self.download(descriptor, &id, ingest, early).await {
                Ok(()) => {
                    self.progress.bytes(&id, "done", descriptor.size, descriptor.size);
                    break;
                }
                Err(error) if matches!(error.fault(), Fault::DigestMismatch | Fault::SizeMismatch) => {
                    // Kept, these bytes would spoil every later attempt.
                    self.content.abort(&self.scope, &reference).await.or_else(absent_is_fine)?;
                    if !(resumed && std::mem::take(&mut again)) {
                        return Err(error.on(Kind::Content, &descriptor.digest).at("fetch layer").remedy_is(
                            "the registry or the image is broken: pull again, and if it stays so tell who pushed it",
                        ));
                    }
                    tracing::warn!(digest = %descriptor.digest, "resumed bytes are wrong, starting over");
                    self.progress.bytes(&id, "retrying", 0, descriptor.size);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(feed) = feed {
            let _ = feed.send(Feed::Stored); // who does not unpack does not listen
        }
        Ok(())
    }

    /// The ingest of a blob, or `None` where the blob is there. Waits while another writes it.
    async fn open(&self, reference: &IngestRef, descriptor: &OciDescriptor) -> Result<Option<Box<dyn Ingest>>> {
        let expected = Expected { digest: Some(descriptor.digest.clone()), size: Some(descriptor.size) };
        let mut seen = (0, Instant::now());
        loop {
            match self.content.ingest(&self.scope, reference, expected.clone()).await {
                Ok(mut ingest) => {
                    if ingest.status().offset > descriptor.size {
                        ingest.truncate().await?;
                    }
                    return Ok(Some(ingest));
                }
                Err(error) if error.is_already_exists() => return Ok(None),
                Err(error) if error.fault() == Fault::Locked => {
                    let offset = self.content.status(&self.scope, reference).await.map_or(0, |status| status.offset);
                    if offset != seen.0 {
                        seen = (offset, Instant::now());
                    }
                    if seen.1.elapsed() > LOCK_PATIENCE {
                        return Err(error.at("fetch layer"));
                    }
                    self.progress.bytes(reference.as_str(), "waiting", offset, descriptor.size);
                    self.stopping(async {
                        tokio::time::sleep(LOCK_POLL).await;
                        Ok(())
                    })
                    .await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn download(
        &self,
        descriptor: &OciDescriptor,
        id: &str,
        mut ingest: Box<dyn Ingest>,
        feed: Option<oneshot::Sender<Feed>>,
    ) -> Result<()> {
        let mut writer = None;
        if let Some(feed) = feed {
            let (end, follower) = Writer::new(ingest.file()?);
            let _ = feed.send(Feed::Arriving(follower));
            writer = Some(end);
        }
        let mut offset = ingest.status().offset;
        self.progress.bytes(id, "downloading", offset, descriptor.size);
        if offset < descriptor.size {
            let mut reader = self.stopping(self.repository.blob(descriptor, offset)).await?;
            let mut buffer = BytesMut::new();
            loop {
                let next = self.stopping(reader.next()).await;
                if let Ok(Some(chunk)) = &next {
                    buffer.extend_from_slice(chunk);
                    if buffer.len() < CHUNK {
                        continue;
                    }
                }
                // Also after a failure: what has come is kept for the next attempt.
                let chunk = buffer.split().freeze();
                offset += chunk.len() as u64;
                ingest.write(chunk).await?;
                if let Some(writer) = &writer {
                    writer.advance(offset);
                }
                self.progress.bytes(id, "downloading", offset, descriptor.size);
                if next?.is_none() {
                    break;
                }
            }
        }
        let expected = Expected { digest: Some(descriptor.digest.clone()), size: Some(descriptor.size) };
        let labels = Labels::from([labels::source(self.repository.reference(), &Labels::new())]);
        // The digest is known before the bytes are synced: the unpacker may read on while that is done.
        let computed = ingest.digest();
        if computed != descriptor.digest {
            return Err(Error::new(Fault::DigestMismatch, format!("the {offset} bytes that came hash to {computed}")));
        }
        if let Some(writer) = writer {
            writer.finish();
        }
        match ingest.commit(Commit { expected, labels }).await {
            Err(error) if error.is_already_exists() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Waits for `work`, or until nobody wants it any more.
    pub(crate) async fn stopping<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::new(Fault::Cancelled, "nobody waits for it any more")),
            answer = work => answer,
        }
    }
}

fn absent_is_fine(error: Error) -> Result<()> {
    if error.is_not_found() { Ok(()) } else { Err(error) }
}
