//! One slot a container: the lock that puts its operations in a row, and the bell that rings when its record changed.
//!
//! Lock order: at most one slot's lock is held at a time, and never while waiting for a process to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedMutexGuard, watch};

/// The slot of one container.
#[derive(Debug)]
pub(crate) struct Slot {
    lock: Arc<tokio::sync::Mutex<()>>,
    changed: watch::Sender<u64>,
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
        let slot = Arc::new(Slot { lock: Arc::default(), changed: watch::channel(0).0 });
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
