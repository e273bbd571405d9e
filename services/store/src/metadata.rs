//! Durable metadata: the commit log is the truth, sled is its index, memory is the spare index.
//!
//! A commit is answered when its group is in the log and `fdatasync` has returned. Readers see it from then on; the index gets it some
//! ms later. One that means nothing after a power cut ([`MetadataStore::commit_soon`]) is answered once it is written; the next durable
//! commit, or the indexer some ms later, syncs it, and its events are told of then. A commit that fails for lack of room leaves no trace and the next one may succeed; after a failed write or sync the store
//! is read-only until a restart has read what the disk really holds.
//!
//! ```text
//! <folder>/lock                     flock; holds our pid
//! <folder>/log/<revision>.seg       the truth (segment, frame); log/spare: the next segment, zero-filled
//! <folder>/snap/<revision>.snap     every record at one revision; two are kept
//! <folder>/index/                   sled; can be deleted at any time
//! ```

pub(crate) mod active;
pub(crate) mod crash;
pub(crate) mod error;
pub(crate) mod frame;
pub(crate) mod index;
pub(crate) mod migrate;
pub mod offline;
pub(crate) mod parts;
pub(crate) mod recover;
pub(crate) mod salvage;
pub(crate) mod schema;
pub(crate) mod seal;
pub(crate) mod segment;
pub(crate) mod snapshot;
pub(crate) mod tail;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod view;
pub(crate) mod writer;

use async_trait::async_trait;
use bytes::Bytes;
use crated_core::{Cursor, LoggedEvent, MetadataStore, Op, Revision, Stored};
use crated_types::{Error, Fault};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::fs::{File, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

pub use crash::Hook;
use error::{Result, StoreError};
use segment::{Segment, sync_folder};
use view::{Shared, lock};
use writer::{Message, Request};

use crate::gc::touched::Touched;

/// Commits that may wait for the writer before senders wait.
const QUEUE: usize = 4096;
/// Records of a scan that are read on the caller's thread.
const SMALL_SCAN: usize = 16;

/// How a store is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a log segment.
    pub segment: u64,
    /// Bytes of log between snapshots; 0: four segments.
    pub snapshot_every: u64,
    /// Bytes of old segments that are kept for event cursors.
    pub keep_events: u64,
    /// Bytes of the index's cache.
    pub cache: u64,
    /// How long sled may make no step; then memory serves in its place.
    pub patience: Duration,
    /// Crash points of tests.
    pub crash: Hook,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment: 2 << 20,
            snapshot_every: 0,
            keep_events: 8 << 20,
            cache: 16 << 20,
            patience: Duration::from_secs(10),
            crash: Hook::default(),
        }
    }
}

/// What opening found and did, for the daemon's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The newest revision.
    pub revision: Revision,
    /// Commits that the index had not got.
    pub replayed: u64,
    /// The log ended in the middle of a group that was never acknowledged.
    pub torn: bool,
    /// Why the index was built again.
    pub rebuilt: Option<String>,
    /// What was wrong with the log, which was healed.
    pub healed: Option<String>,
    /// The index is in memory: sled cannot be used here.
    pub in_memory: bool,
    /// The version that the records had, where they were brought to this program's.
    pub migrated: Option<u32>,
}

/// The durable map of the daemon.
pub struct Metadata {
    queue: Option<mpsc::Sender<Message>>,
    shared: Arc<Shared>,
    touched: Arc<Touched>,
    newest: watch::Receiver<Revision>,
    writer: Option<JoinHandle<()>>,
    lock: File,
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metadata({})", self.revision().0)
    }
}

impl Metadata {
    /// Opens the store of a folder, recovering it where needed. Blocking: some 100 ms for 10,000 records.
    ///
    /// # Errors
    /// [`Fault::InUse`] with the pid of the daemon that has it; [`Fault::Unsupported`] for the store of a newer crated; [`Fault::ReadOnly`] on a
    /// disk that is mounted so; [`Fault::Corrupt`] with file, byte and revisions where nothing could heal it.
    pub fn open(folder: &Path, options: Options) -> crated_types::Result<(Arc<Self>, Report)> {
        schema::check(folder)?;
        let lock = prepare(folder)?;
        let (mut writer, mut report) = recover::recover(folder, options)?;
        let (shared, touched) = (Arc::clone(&writer.shared), Arc::clone(&writer.touched));
        let newest = shared.newest.subscribe();
        let (queue, receiver) = mpsc::channel(QUEUE);
        let weak = queue.downgrade();
        let failed = |source| Error::os("start a thread", source);
        writer.start_indexer().map_err(failed)?;
        schema::note(folder, schema::SCHEMA);
        report.migrated = migrate::run(&mut writer, folder).inspect_err(|_| writer.close())?;
        report.revision = Revision(writer.next.0 - 1);
        let run = move || writer.run(receiver, weak);
        let writer = std::thread::Builder::new().name("store".into()).spawn(run).map_err(failed)?;
        let store = Self { queue: Some(queue), shared, touched, newest, writer: Some(writer), lock };
        Ok((Arc::new(store), report))
    }

    /// What is wrong with the store, if anything: it is read-only, or its index is in memory.
    #[must_use]
    pub fn health(&self) -> Option<String> {
        lock(&self.shared.health).clone()
    }

    /// The longest time that a reader or a sweep of the collector kept the writer from its work, since the last call.
    #[must_use]
    pub fn longest_hold(&self) -> Duration {
        self.shared.take_hold()
    }

    /// References made while a collection runs.
    pub(crate) fn touched(&self) -> &Arc<Touched> {
        &self.touched
    }

    /// A commit of the collector: refused where one of `untouched` was referred to since the collection began.
    pub(crate) async fn sweep(&self, ops: Vec<Op>, untouched: Vec<Vec<u8>>) -> crated_types::Result<Revision> {
        self.send(ops, true, untouched).await
    }

    fn send(
        &self,
        ops: Vec<Op>,
        durable: bool,
        untouched: Vec<Vec<u8>>,
    ) -> impl Future<Output = crated_types::Result<Revision>> + Send + use<> {
        let (answer, result) = oneshot::channel();
        let queue = self.queue.clone().expect("taken in drop only");
        let full = match queue.try_send(Message::Commit(Request { ops, durable, untouched, answer })) {
            // in a task of its own, so that the commit happens whether or not the caller stays
            Err(mpsc::error::TrySendError::Full(message)) => {
                tokio::spawn(async move { queue.send(message).await.is_ok() });
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) | Ok(()) => false,
        };
        async move {
            if full {
                tracing::debug!("the queue of the metadata log is full");
            }
            match result.await {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(Error::new(Fault::ReadOnly, "metadata: the store is closed")),
            }
        }
    }

    /// Reads; where the index is damaged it is built again and the read is repeated once.
    async fn healed<T>(&self, read: impl Fn(&Shared) -> Result<T>) -> crated_types::Result<T> {
        match read(&self.shared) {
            Err(StoreError::Index(why)) => {
                self.rebuild(why).await?;
                Ok(read(&self.shared)?)
            }
            answer => Ok(answer?),
        }
    }

    async fn rebuild(&self, why: String) -> crated_types::Result<()> {
        let closed = || Error::new(Fault::ReadOnly, "metadata: the store is closed");
        let (answer, result) = oneshot::channel();
        let queue = self.queue.as_ref().expect("taken in drop only");
        queue.send(Message::Rebuild(why, answer)).await.map_err(|_| closed())?;
        Ok(result.await.map_err(|_| closed())??)
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        // not by closing alone: a child between fork and exec has a copy
        let _ = self.lock.unlock();
    }
}

/// Makes the folders and takes the lock.
fn prepare(folder: &Path) -> Result<File> {
    for part in ["log", "snap"] {
        let path = folder.join(part);
        std::fs::create_dir_all(&path).map_err(|source| StoreError::io("create", &path, &source))?;
    }
    // records hold what containers are told in secret: environments, registry credentials in labels
    std::fs::set_permissions(folder, Permissions::from_mode(0o700))
        .map_err(|source| StoreError::io("chmod", folder, &source))?;
    for path in folder.parent().into_iter().chain([folder]) {
        sync_folder(path).map_err(|source| StoreError::io("sync", path, &source))?;
    }
    let path = folder.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| StoreError::io("open", &path, &source))?;
    match crated_sys::fs::lock_soon(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(StoreError::InUse(format!("{} is used by process {}", folder.display(), pid.trim())));
        }
        Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", &path, &source)),
    }
    // the pid is a help for people only: a full disk must not keep the store shut
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = written {
        tracing::warn!(%error, path = %path.display(), "the lock file does not hold our pid");
    }
    Ok(file)
}

/// Reads events from segments.
fn events_on_disk(
    durable: Revision,
    segments: &[(Revision, std::path::PathBuf)],
    after: Cursor,
    max: usize,
) -> Result<Vec<(Cursor, Bytes)>> {
    let mut found = Vec::new();
    for (number, (_, path)) in segments.iter().enumerate() {
        if segments.get(number + 1).is_some_and(|next| next.0 <= after.revision) {
            continue;
        }
        Segment::read(path, Revision(after.revision.0.saturating_sub(1)), |revision, ops| {
            let events = ops.into_iter().filter_map(|op| if let Op::Event(event) = op { Some(event) } else { None });
            for (index, event) in events.enumerate() {
                let cursor = Cursor { revision, index: index as u32 };
                if cursor > after && revision <= durable && found.len() < max {
                    found.push((cursor, event));
                }
            }
        })?;
        if found.len() >= max {
            break;
        }
    }
    Ok(found)
}

fn logged((cursor, bytes): (Cursor, Bytes)) -> crated_types::Result<LoggedEvent> {
    let event = prost::Message::decode(bytes)
        .map_err(|source| Error::new(Fault::Corrupt, format!("event {cursor}")).caused_by(source))?;
    Ok(LoggedEvent { cursor, event })
}

#[async_trait]
impl MetadataStore for Metadata {
    async fn get(&self, key: &[u8]) -> crated_types::Result<Option<Stored>> {
        self.healed(|shared| shared.get(key)).await
    }

    async fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> crated_types::Result<Vec<(Vec<u8>, Stored)>> {
        if limit <= SMALL_SCAN {
            return self.healed(|shared| shared.scan(prefix, after, limit)).await;
        }
        let (shared, first, behind) = (Arc::clone(&self.shared), prefix.to_vec(), after.to_vec());
        match crate::blocking::run(move || shared.scan(&first, &behind, limit)).await? {
            Err(StoreError::Index(why)) => {
                self.rebuild(why).await?;
                Ok(self.shared.scan(prefix, after, limit)?)
            }
            answer => Ok(answer?),
        }
    }

    async fn commit(&self, batch: Vec<Op>) -> crated_types::Result<Revision> {
        crated_core::fail::point("store.commit")?;
        let committed = self.send(batch, true, Vec::new()).await;
        crated_core::fail::moment("store.committed");
        committed
    }

    async fn commit_soon(&self, batch: Vec<Op>) -> crated_types::Result<Revision> {
        crated_core::fail::point("store.commit")?;
        let committed = self.send(batch, false, Vec::new()).await;
        crated_core::fail::moment("store.committed");
        committed
    }

    fn revision(&self) -> Revision {
        lock(&self.shared.durable).revision
    }

    async fn events(&self, after: Cursor, max: usize) -> crated_types::Result<Vec<LoggedEvent>> {
        let (revision, segments) = {
            let durable = lock(&self.shared.durable);
            if let Some(events) = durable.recent(after, max) {
                drop(durable);
                return events.into_iter().map(logged).collect();
            }
            if after.revision.0 + 1 < durable.oldest.0 {
                return Err(StoreError::Lagged { oldest: durable.oldest }.into());
            }
            (durable.revision, durable.segments.clone())
        };
        let read = crate::blocking::run(move || events_on_disk(revision, &segments, after, max)).await?;
        match read {
            // a segment was pruned between our look at the list and our reading
            Err(StoreError::Io(_)) if after.revision.0 + 1 < lock(&self.shared.durable).oldest.0 => {
                let oldest = lock(&self.shared.durable).oldest;
                Err(StoreError::Lagged { oldest }.into())
            }
            read => read?.into_iter().map(logged).collect(),
        }
    }

    fn watch(&self) -> BoxStream<'static, Revision> {
        futures::stream::unfold(self.newest.clone(), |mut receiver| async move {
            receiver.changed().await.ok()?;
            let revision = *receiver.borrow_and_update();
            Some((revision, receiver))
        })
        .boxed()
    }
}
