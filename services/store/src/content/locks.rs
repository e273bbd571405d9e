//! Who works on which reference and which digest. Memory of this process only: the folder is locked by the metadata store.

use crated_types::{Digest, IngestRef, Namespace};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks of a content store.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    references: Mutex<HashSet<(Namespace, IngestRef)>>,
    digests: Mutex<HashMap<Digest, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Those that hold or wait for `alone`, and those that need the file to stay.
    users: usize,
    alone: Arc<tokio::sync::Mutex<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Locks {
    /// Takes a reference for writing; `None` where another writer has it.
    pub(crate) fn reference(self: &Arc<Self>, namespace: &Namespace, reference: &IngestRef) -> Option<ReferenceGuard> {
        let key = (namespace.clone(), reference.clone());
        lock(&self.references).insert(key.clone()).then(|| ReferenceGuard { locks: Arc::clone(self), key })
    }

    /// Whether a writer has this reference.
    pub(crate) fn is_written(&self, namespace: &str, reference: &str) -> bool {
        lock(&self.references).iter().any(|(ns, name)| ns.as_str() == namespace && name.as_str() == reference)
    }

    /// Keeps the file of a digest from being swept.
    pub(crate) fn pin(self: &Arc<Self>, digest: &Digest) -> Pin {
        lock(&self.digests).entry(digest.clone()).or_default().users += 1;
        Pin { locks: Arc::clone(self), digest: digest.clone() }
    }

    /// Waits until nobody else publishes or sweeps this digest.
    pub(crate) async fn alone(self: &Arc<Self>, digest: &Digest) -> DigestGuard {
        let pin = self.pin(digest);
        let mutex = Arc::clone(&lock(&self.digests).entry(digest.clone()).or_default().alone);
        DigestGuard { _alone: mutex.lock_owned().await, _pin: pin }
    }

    /// Takes a digest for sweeping; `None` where anyone uses it.
    pub(crate) fn unused(self: &Arc<Self>, digest: &Digest) -> Option<DigestGuard> {
        let mut digests = lock(&self.digests);
        if digests.contains_key(digest) {
            return None;
        }
        let entry = digests.entry(digest.clone()).or_default();
        entry.users = 1;
        let alone = Arc::clone(&entry.alone).try_lock_owned().ok()?;
        Some(DigestGuard { _alone: alone, _pin: Pin { locks: Arc::clone(self), digest: digest.clone() } })
    }
}

/// A reference that is being written; dropped it is free again.
#[derive(Debug)]
pub(crate) struct ReferenceGuard {
    locks: Arc<Locks>,
    key: (Namespace, IngestRef),
}

impl Drop for ReferenceGuard {
    fn drop(&mut self) {
        lock(&self.locks.references).remove(&self.key);
    }
}

/// While it lives the digest's file is not swept.
#[derive(Debug)]
pub(crate) struct Pin {
    locks: Arc<Locks>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut digests = lock(&self.locks.digests);
        if let Some(entry) = digests.get_mut(&self.digest) {
            entry.users -= 1;
            if entry.users == 0 {
                digests.remove(&self.digest);
            }
        }
    }
}

/// A digest that nobody else publishes or sweeps. The lock goes before the pin.
#[derive(Debug)]
pub(crate) struct DigestGuard {
    _alone: tokio::sync::OwnedMutexGuard<()>,
    _pin: Pin,
}
