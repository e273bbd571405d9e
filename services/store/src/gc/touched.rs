//! What was written or referred to since a collection began, so that it is not taken.
//!
//! The writer of the metadata log notes every commit here while a collection runs, before it judges the next one. A sweep is a commit,
//! too: it names the keys on which its right to delete rests, and is refused where one of them was noted. So there is no moment between
//! "nothing refers to it" and "it is gone", and no writer ever waits for the collector.

use crated_core::Op;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::graph;

/// Keys that were put or referred to while a collection runs.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    active: AtomicBool,
    keys: Mutex<HashSet<Vec<u8>>>,
}

impl Touched {
    fn keys(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a commit that passed.
    pub(crate) fn note(&self, ops: &[Op]) {
        if !self.active.load(Ordering::SeqCst) {
            return;
        }
        let mut keys = self.keys();
        for op in ops {
            if let Op::Put(key, value) = op {
                keys.extend(graph::references(key, value));
                keys.insert(key.clone());
            }
        }
    }

    /// The first of `wanted` that was noted.
    pub(crate) fn any(&self, wanted: &[Vec<u8>]) -> Option<Vec<u8>> {
        if wanted.is_empty() {
            return None;
        }
        let keys = self.keys();
        wanted.iter().find(|key| keys.contains(*key)).cloned()
    }

    /// All that was noted.
    pub(crate) fn all(&self) -> Vec<Vec<u8>> {
        self.keys().iter().cloned().collect()
    }

    /// Starts noting, until the answer is dropped.
    pub(crate) fn start(self: &Arc<Self>) -> Noting {
        self.keys().clear();
        self.active.store(true, Ordering::SeqCst);
        Noting(Arc::clone(self))
    }
}

/// Notes are taken while this lives.
#[derive(Debug)]
pub(crate) struct Noting(Arc<Touched>);

impl Drop for Noting {
    fn drop(&mut self) {
        self.0.active.store(false, Ordering::SeqCst);
        self.0.keys().clear();
    }
}
