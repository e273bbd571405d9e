//! Locks by key, which exist only while someone holds or awaits them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

type Entry = (usize, Arc<tokio::sync::Mutex<()>>);

/// A lock for each key.
#[derive(Debug)]
pub(crate) struct Keyed<K: Clone + Eq + Hash>(Mutex<HashMap<K, Entry>>);

impl<K: Clone + Eq + Hash> Default for Keyed<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Keyed<K> {
    /// Waits for the lock of a key.
    pub(crate) async fn lock(self: &Arc<Self>, key: K) -> KeyGuard<K> {
        let mutex = {
            let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.entry(key.clone()).or_default();
            entry.0 += 1;
            Arc::clone(&entry.1)
        };
        let waiting = Waiting { keyed: Arc::clone(self), key };
        KeyGuard { _held: mutex.lock_owned().await, _waiting: waiting }
    }
}

/// A lock of a key; dropped it is free again.
#[derive(Debug)]
pub(crate) struct KeyGuard<K: Clone + Eq + Hash> {
    _held: OwnedMutexGuard<()>,
    _waiting: Waiting<K>,
}

/// Counts as a user of the key from before the wait to after the release.
#[derive(Debug)]
struct Waiting<K: Clone + Eq + Hash> {
    keyed: Arc<Keyed<K>>,
    key: K,
}

impl<K: Clone + Eq + Hash> Drop for Waiting<K> {
    fn drop(&mut self) {
        let mut entries = self.keyed.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&self.key) {
            entry.0 -= 1;
            if entry.0 == 0 {
                entries.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_has_one_holder_and_no_trace_stays() {
        let keyed: Arc<Keyed<&str>> = Arc::default();
        let first = keyed.lock("a").await;
        let _other = keyed.lock("b").await;
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), keyed.lock("a")).await.is_err());
        drop(first);
        drop(keyed.lock("a").await);
        assert_eq!(keyed.0.lock().unwrap().len(), 1);
    }
}
