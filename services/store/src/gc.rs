//! The collector: takes content, snapshots, expired images, leases and ingests that nothing keeps (containerd's rules).
//!
//! Roots: what unexpired leases hold (without its references where the lease is flat), images that have not expired, containers, ingests
//! that are written or have not expired, whatever is labelled `containerd.io/gc.root`. Edges: image → target, container → snapshot,
//! snapshot → parent, ingest → expected blob, and labels (see `graph`). Containers and namespaces are never taken.
//!
//! ```text
//! 1 note    from here on the log's writer notes every key that a commit puts or refers to (`touched`)
//! 2 mark    scan the tables page by page, walk from the roots; what is not reached is a candidate
//! 3 sweep   candidates in batches, referrers before what they refer to; a batch is one commit with the records' revisions, and is
//!           refused where a key of it, or anything that kept one, was touched; then what touched keys keep is spared, and it goes on
//! 4 files   blobs, ingests and backend numbers without a record are removed, but those that are in the making
//! ```
//! Why nothing referenced is ever taken: a reference that existed at 2 was marked, one made since 1 was noted before its commit was
//! answered, and a sweep is judged by the same thread in the order of commits. What a touched candidate keeps is spared, too, because
//! referrers go first: as long as a candidate is there, what it keeps is. (Records that keep each other in a ring go in one order or another;
//! one that is referred to just then may stay alone.) No writer waits for any of this; a sweep that loses is tried again.

pub(crate) mod graph;
mod mark;
pub(crate) mod requests;
mod sweep;
#[cfg(test)]
mod tests;
pub(crate) mod touched;

use crated_core::MetadataStore;
use crated_types::Result;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::content::Content;
use crate::metadata::Metadata;
use crate::snapshots::Snapshots;
pub use requests::Requests;
use requests::Waiter;

/// From a request to its collection, so that many requests share one.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Collections that nobody waits for take at most one part in so many of the time.
const SHARE: u32 = 50;

/// What a collection took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Records of blobs.
    pub blobs: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Expired images.
    pub images: usize,
    /// Expired leases.
    pub leases: usize,
    /// Expired ingests.
    pub ingests: usize,
    /// Files and folders without a record.
    pub files: usize,
}

/// Collects what nothing keeps.
#[derive(Debug)]
pub struct Collector {
    metadata: Arc<Metadata>,
    content: Arc<Content>,
    snapshots: Vec<Arc<Snapshots>>,
    requests: Requests,
    queue: Mutex<Option<mpsc::Receiver<Waiter>>>,
    /// One collection at a time.
    alone: tokio::sync::Mutex<()>,
}

impl Collector {
    /// A collector over these stores, which serves `requests` once it [runs](Self::run).
    #[must_use]
    pub fn new(
        metadata: Arc<Metadata>,
        content: Arc<Content>,
        snapshots: Vec<Arc<Snapshots>>,
        requests: Requests,
    ) -> Arc<Self> {
        let queue = Mutex::new(requests.take_queue());
        Arc::new(Self { metadata, content, snapshots, requests, queue, alone: tokio::sync::Mutex::default() })
    }

    /// Serves requests until `token` is cancelled; collects once at its start.
    pub async fn run(self: Arc<Self>, token: CancellationToken) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut queue) = queue else { return };
        let mut not_before = Instant::now();
        self.requests.request();
        loop {
            let waiter = tokio::select! {
                () = token.cancelled() => return,
                waiter = queue.recv() => waiter,
                () = self.slot(not_before) => None,
            };
            let mut waiters: Vec<Waiter> = waiter.into_iter().collect();
            while let Ok(waiter) = queue.try_recv() {
                waiters.push(waiter);
            }
            let begun = Instant::now();
            let result = tokio::select! {
                () = token.cancelled() => return,
                result = self.collect() => result,
            };
            not_before = Instant::now() + begun.elapsed() * SHARE;
            match result {
                Ok(collected) => {
                    if collected != Collected::default() {
                        tracing::info!(?collected, elapsed = ?begun.elapsed(), "garbage collected");
                    }
                    waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(()))));
                }
                Err(error) => {
                    tracing::warn!(%error, "garbage collection failed");
                    for waiter in waiters {
                        let _ = waiter.send(Err(crated_types::Error::new(error.fault(), error.to_string())));
                    }
                    // a full disk or a damaged record does not go away by itself quickly
                    not_before = not_before.max(Instant::now() + Duration::from_secs(1));
                }
            }
        }
    }

    /// Waits until a collection is due and may run.
    async fn slot(&self, not_before: Instant) {
        self.requests.due().await;
        let at = not_before.max(Instant::now() + DEBOUNCE);
        // what is asked for while we wait is served by the same collection
        tokio::time::sleep_until(at.into()).await;
    }

    /// One whole collection.
    ///
    /// # Errors
    /// The stores'; what was taken until then is taken.
    pub async fn collect(&self) -> Result<Collected> {
        let _alone = self.alone.lock().await;
        let mut collected = Collected::default();
        {
            let _noting = self.metadata.touched().start();
            // A commit that was judged before the noting began may become visible between two scans: a blob would be seen
            // and its lease's mark not. Behind an empty commit all of those are visible.
            self.metadata.commit(Vec::new()).await?;
            let marked = mark::mark(&*self.metadata, &self.content).await?;
            sweep::sweep(&self.metadata, marked, &mut collected).await?;
        }
        collected.files += self.content.sweep().await?;
        for snapshots in &self.snapshots {
            collected.files += snapshots.sweep().await?;
        }
        Ok(collected)
    }
}
