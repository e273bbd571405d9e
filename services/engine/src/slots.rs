//! One slot a container: the lock that puts its operations in a row, and the bell that rings when its record changed.
//!
//! Lock order: at most one slot's lock is held at a time. A stop lets go of it while the process ends by itself; a removal
//! holds it while a killed process dies.

use prost_types::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedMutexGuard, watch};

/// The end of a container, for those who wait and find it removed.
#[derive(Clone, Debug)]
pub(crate) struct LastExit {
    pub(crate) status: u32,
    pub(crate) at: Timestamp,
    pub(crate) oom_killed: bool,
    pub(crate) error: String,
}

/// The slot of one container.
#[derive(Debug)]
pub(crate) struct Slot {
    lock: Arc<tokio::sync::Mutex<()>>,
    changed: watch::Sender<u64>,
    exit: Mutex<Option<LastExit>>,
}

impl Slot {
    /// Waits for its turn.
    pub(crate) async fn lock(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.lock).lock_owned().await
    }

    /// Rings after a commit that changed the container's record.
    pub(crate) fn ring(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Remembers an end as long as the slot lives.
    pub(crate) fn keep_exit(&self, exit: LastExit) {
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
    }

    /// The last end that was remembered.
    pub(crate) fn last_exit(&self) -> Option<LastExit> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hears every ring from now on.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Slots of everything that is being worked on or waited for.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    map: Mutex<HashMap<(String, String), Weak<Slot>>>,
}

impl Slots {
    /// The slot of `id` in `namespace`; it lives as long as someone holds it.
    pub(crate) fn get(&self, namespace: &str, id: &str) -> Arc<Slot> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), id.to_owned());
        if let Some(slot) = map.get(&key).and_then(Weak::upgrade) {
            return slot;
        }
        if map.len() >= 64 && map.len() == map.capacity() {
            map.retain(|_, slot| slot.strong_count() > 0);
        }
        let slot = Arc::new(Slot { lock: Arc::default(), changed: watch::channel(0).0, exit: Mutex::default() });
        map.insert(key, Arc::downgrade(&slot));
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_container_has_one_lock() {
        let slots = Slots::default();
        let (one, same, other) = (slots.get("n", "a"), slots.get("n", "a"), slots.get("m", "a"));
        let held = one.lock().await;
        assert!(same.lock.try_lock().is_err());
        assert!(other.lock.try_lock().is_ok());
        drop(held);
        assert!(same.lock.try_lock().is_ok());
    }

    #[test]
    fn slots_that_nobody_holds_are_forgotten() {
        let slots = Slots::default();
        for number in 0..10_000 {
            slots.get("n", &number.to_string());
        }
        assert!(slots.map.lock().unwrap().len() < 1000);
    }
}
