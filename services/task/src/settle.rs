//! Tasks that are still being looked after since the daemon's start: whoever asks for one of them waits until that is over.

use crate::manager::{Inner, Key};
use crated_types::{ContainerId, Namespace};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait for one: as long as the sweep behind a dead shim may take, and a bit.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longest wait for what is being ended under a name that is to be made again.
const SOON: Duration = Duration::from_secs(5);

/// Those tasks; the sender of one that is settled is gone.
#[derive(Debug, Default)]
pub(crate) struct Settling(Mutex<BTreeMap<Key, watch::Sender<()>>>);

impl Settling {
    fn map(&self) -> MutexGuard<'_, BTreeMap<Key, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, key: &Key) -> Option<watch::Receiver<()>> {
        self.map().get(key).map(watch::Sender::subscribe)
    }
}

/// Dropped, its task is settled.
#[derive(Debug)]
pub(crate) struct Unsettled(Arc<Inner>, Key);

impl Unsettled {
    pub(crate) fn begin(inner: &Arc<Inner>, key: Key) -> Self {
        inner.settling.map().insert(key.clone(), watch::channel(()).0);
        Self(inner.clone(), key)
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.settling.map().remove(&self.1);
    }
}

/// Tasks that are being made: one at a time of each name.
#[derive(Debug, Default)]
pub(crate) struct Making(Mutex<BTreeSet<Key>>);

impl Making {
    fn set(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing where somebody makes it already.
    pub(crate) fn begin(&self, key: Key) -> Option<MakingGuard<'_>> {
        let new = self.set().insert(key.clone());
        // Not before it is known: a guard that is dropped takes the key away, and the lock.
        new.then(|| MakingGuard(self, key))
    }

    /// As [`Making::begin`], after what is just being ended under this name.
    pub(crate) async fn begin_soon(&self, key: Key) -> Option<MakingGuard<'_>> {
        let end = tokio::time::Instant::now() + SOON;
        loop {
            let begun = self.begin(key.clone());
            if begun.is_some() || tokio::time::Instant::now() > end {
                return begun;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Dropped, the task is made, or is not.
#[derive(Debug)]
pub(crate) struct MakingGuard<'a>(&'a Making, Key);

impl Drop for MakingGuard<'_> {
    fn drop(&mut self) {
        self.0.set().remove(&self.1);
    }
}

impl Inner {
    /// Resolves once a task is in the state that it has since the daemon's start: found, buried or undone.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn settled(&self, namespace: &Namespace, id: &ContainerId) {
        let Some(mut told) = self.settling.listen(&(namespace.clone(), id.clone())) else { return };
        // The sender's end is what is waited for.
        if tokio::time::timeout(PATIENCE, async { while told.changed().await.is_ok() {} }).await.is_err() {
            tracing::warn!(%namespace, container = %id, "what a crash left of this task is not cleared away yet");
        }
    }
}
