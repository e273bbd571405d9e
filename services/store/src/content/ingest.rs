//! A write in progress.
//!
//! ```text
//! ingest ─▶ Borrowed (the bytes are known in another namespace) ──commit──▶ blob record
//!    │          │ write: copies the old bytes · truncate: starts over
//!    ▼          ▼
//!  Writing: file and running digest ──commit: verify, sync, rename, sync the folder──▶ blob record
//! ```
//! The file and the digest travel to a blocking thread and back with each chunk. A future that is dropped meanwhile leaves them in
//! `pending`, where the next call finds them.

use async_trait::async_trait;
use bytes::Bytes;
use crated_core::content::IngestStatus;
use crated_core::record::Blob;
use crated_core::{Commit, Ingest};
use crated_types::{Digest, Error, Fault, Kind, Result, Scope};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::task::JoinHandle;

use super::Inner;
use super::disk::reopen;
use super::hash::Hasher;
use super::locks::{Pin, ReferenceGuard};

/// Bytes on disk and their digest so far.
#[derive(Debug)]
pub(crate) struct Writing {
    /// The data file.
    pub file: Arc<File>,
    /// Digest of its bytes.
    pub hasher: Hasher,
    /// How many those are.
    pub offset: u64,
}

/// Where an ingest stands.
#[derive(Debug)]
pub(crate) enum State {
    /// Its own bytes.
    Writing(Writing),
    /// The bytes of a blob of another namespace.
    Borrowed(Pin, Arc<File>, Digest),
}

/// A write in progress.
#[derive(Debug)]
pub(crate) struct OpenIngest {
    /// The store.
    pub inner: Arc<Inner>,
    /// Whose it is.
    pub scope: Scope,
    /// Keeps other writers out.
    pub guard: ReferenceGuard,
    /// Its folder.
    pub folder: String,
    /// As of the last call.
    pub status: IngestStatus,
    /// Taken while a blocking thread has it.
    pub state: Option<State>,
    /// A blocking call whose future was dropped.
    pub pending: Option<JoinHandle<(State, Result<()>)>>,
}

impl OpenIngest {
    fn lost(&self) -> Error {
        Error::internal("the state of the ingest was lost").on(Kind::Ingest, &self.status.reference)
    }

    fn failed(&self, what: &'static str, source: std::io::Error) -> Error {
        Error::os(what, source).on(Kind::Ingest, &self.status.reference)
    }

    /// Waits for a call whose future was dropped.
    async fn settle(&mut self) -> Result<()> {
        let Some(pending) = self.pending.as_mut() else { return Ok(()) };
        let joined = pending.await;
        self.pending = None;
        let (state, result) = joined.map_err(|_| self.lost())?;
        if let State::Writing(writing) = &state {
            self.status.offset = writing.offset;
        }
        self.status.updated_at = SystemTime::now();
        self.state = Some(state);
        result
    }

    /// Runs a blocking step on the state.
    async fn step(&mut self, work: impl FnOnce(State) -> (State, Result<()>) + Send + 'static) -> Result<()> {
        self.settle().await?;
        let state = self.state.take().ok_or_else(|| self.lost())?;
        self.pending = Some(tokio::task::spawn_blocking(move || work(state)));
        self.settle().await
    }

    /// Gives the ingest bytes of its own: a copy of those that it borrowed, or none.
    async fn own(&mut self, copy: bool) -> Result<()> {
        self.settle().await?;
        if !matches!(self.state, Some(State::Borrowed(..))) {
            return Ok(());
        }
        let (disk, folder) = (self.inner.disk.clone(), self.folder.clone());
        let (reference, total) = (self.status.reference.clone(), self.status.total);
        self.step(move |state| {
            let State::Borrowed(pin, blob, digest) = state else { return (state, Ok(())) };
            let made = disk.open_ingest(&folder, &reference, total).and_then(|file| {
                let offset = if copy { copy_bytes(&blob, &file)? } else { 0 };
                let hasher = Hasher::of_file(digest.algorithm(), &file, offset)
                    .map_err(|source| Error::os("read the copied bytes", source))?;
                Ok(Writing { file: Arc::new(file), hasher, offset })
            });
            match made {
                Ok(writing) => (State::Writing(writing), Ok(())),
                Err(error) => (State::Borrowed(pin, blob, digest), Err(error)),
            }
        })
        .await?;
        if !copy {
            self.status.offset = 0;
        }
        Ok(())
    }
}

fn copy_bytes(from: &File, to: &File) -> Result<u64> {
    let failed = |source| Error::os("copy the bytes of a blob", source);
    to.set_len(0).map_err(failed)?;
    let mut from = reopen(from)?;
    let mut to: &File = to;
    std::io::copy(&mut from, &mut to).map_err(failed)
}

/// Appends a chunk. A chunk that was written in part is written again by the next call.
fn append(state: State, chunk: &Bytes) -> (State, Result<()>) {
    let State::Writing(mut writing) = state else {
        return (state, Err(Error::internal("an ingest without bytes of its own")));
    };
    match writing.file.write_all_at(chunk, writing.offset) {
        Ok(()) => {
            writing.hasher.update(chunk);
            writing.offset += chunk.len() as u64;
            (State::Writing(writing), Ok(()))
        }
        Err(source) => {
            let _ = writing.file.set_len(writing.offset);
            (State::Writing(writing), Err(Error::os("write", source)))
        }
    }
}

#[async_trait]
impl Ingest for OpenIngest {
    fn status(&self) -> IngestStatus {
        self.status.clone()
    }

    fn digest(&self) -> Digest {
        match &self.state {
            Some(State::Writing(writing)) => writing.hasher.digest(),
            Some(State::Borrowed(_, _, digest)) => digest.clone(),
            // a call was cancelled and its bytes are still on their way
            None => Hasher::new(crated_types::digest::Algorithm::Sha256).digest(),
        }
    }

    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.own(true).await?;
        crated_core::fail::point("content.write")?;
        if chunk.is_empty() {
            return Ok(());
        }
        let reference = self.status.reference.clone();
        self.step(move |state| append(state, &chunk)).await.map_err(|error| error.on(Kind::Ingest, reference))
    }

    async fn truncate(&mut self) -> Result<()> {
        self.own(false).await?;
        self.step(|state| {
            let State::Writing(mut writing) = state else { return (state, Ok(())) };
            let cut = writing.file.set_len(0).map_err(|source| Error::os("truncate", source));
            if cut.is_ok() {
                writing.hasher = Hasher::new(writing.hasher.algorithm());
                writing.offset = 0;
            }
            (State::Writing(writing), cut)
        })
        .await
    }

    async fn commit(mut self: Box<Self>, commit: Commit) -> Result<Blob> {
        self.settle().await?;
        // in a task of its own: the client may go, the change ends whole
        match tokio::spawn(self.publish(commit)).await {
            Ok(answer) => answer,
            Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
            Err(_) => Err(Error::new(Fault::NotReady, "the daemon is stopping")),
        }
    }

    fn file(&self) -> Result<File> {
        match &self.state {
            Some(State::Writing(writing)) => reopen(&writing.file),
            Some(State::Borrowed(_, blob, _)) => reopen(blob),
            None => File::open(self.inner.disk.data(&self.folder)).map_err(|source| self.failed("open", source)),
        }
    }
}

impl OpenIngest {
    async fn publish(self: Box<Self>, commit: Commit) -> Result<Blob> {
        let labels = crated_types::label::stored(commit.labels);
        crated_types::label::check(&labels)?;
        let expected = commit.expected.digest.or_else(|| self.status.expected.clone());
        let size = match self.state.as_ref().ok_or_else(|| self.lost())? {
            State::Writing(writing) => writing.offset,
            State::Borrowed(..) => self.status.total,
        };
        if let Some(wanted) = commit.expected.size.filter(|wanted| *wanted > 0 && *wanted != size) {
            let why = format!("unexpected commit size {size}, expected {wanted}");
            return Err(Error::new(Fault::SizeMismatch, why).on(Kind::Ingest, &self.status.reference));
        }
        let digest = self.checked(expected).await?;
        // nobody may sweep or publish these bytes until the record is written
        let _alone = self.inner.locks.alone(&digest).await;
        let (disk, folder) = (self.inner.disk.clone(), self.folder.clone());
        if let Some(State::Writing(writing)) = &self.state {
            let (file, digest) = (Arc::clone(&writing.file), digest.clone());
            crated_core::fail::point("content.commit.publish")?;
            crate::blocking::run(move || disk.publish(&folder, &file, &digest, size)).await??;
        }
        crated_core::fail::point("content.commit.record")?;
        let answer = self.inner.record(&self.scope, &self.status.reference, &digest, size, labels).await;
        if answer.as_ref().is_ok() || answer.as_ref().is_err_and(Error::is_already_exists) {
            let (disk, folder) = (self.inner.disk.clone(), self.folder.clone());
            // left over it is found by the collector
            crated_core::fail::moment("content.commit.clean");
            let _ = crate::blocking::run(move || disk.remove_ingest(&folder)).await?;
        }
        drop(self.guard);
        answer
    }

    /// The digest of the bytes, which must be the expected one.
    async fn checked(&self, expected: Option<Digest>) -> Result<Digest> {
        let digest = match self.state.as_ref().ok_or_else(|| self.lost())? {
            State::Borrowed(_, _, digest) => digest.clone(),
            State::Writing(writing) => match &expected {
                Some(wanted) if wanted.algorithm() != writing.hasher.algorithm() => {
                    let (file, offset, algorithm) = (Arc::clone(&writing.file), writing.offset, wanted.algorithm());
                    let hashed = crate::blocking::run(move || Hasher::of_file(algorithm, &file, offset)).await?;
                    hashed.map_err(|source| self.failed("read", source))?.digest()
                }
                _ => writing.hasher.digest(),
            },
        };
        match expected {
            Some(wanted) if wanted != digest => {
                let why = format!("unexpected commit digest {digest}, expected {wanted}");
                Err(Error::new(Fault::DigestMismatch, why).on(Kind::Ingest, &self.status.reference))
            }
            _ => Ok(digest),
        }
    }
}
