//! Numbers of snapshots: never used twice, also not after a crash, so that a folder without a record is an orphan for ever.

use crated_core::{MetadataStore, Op, Table};
use crated_snapshotters::SnapshotId;
use crated_types::Result;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Numbers that are reserved by one commit.
const BLOCK: u64 = 64;

/// The next number of a kind that is not reserved yet.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Counter {
    #[prost(uint64, tag = "1")]
    next: u64,
}

const COUNTERS: Table<Counter> = Table::new("counter");

/// Hands out numbers.
#[derive(Debug)]
pub(crate) struct Ids {
    key: Vec<u8>,
    range: tokio::sync::Mutex<(u64, u64)>,
    making: Mutex<HashSet<u64>>,
}

impl Ids {
    /// The numbers of a snapshotter.
    pub(crate) async fn open(metadata: &dyn MetadataStore, snapshotter: &str) -> Result<Self> {
        let key = COUNTERS.key("", &format!("snapshot/{snapshotter}"));
        let next = COUNTERS.get(metadata, &key).await?.map_or(1, |(_, counter)| counter.next);
        Ok(Self { key, range: tokio::sync::Mutex::new((next, next)), making: Mutex::default() })
    }

    fn making(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new number, which is not an orphan while the answer lives.
    pub(crate) async fn next(self: &Arc<Self>, metadata: &dyn MetadataStore) -> Result<Making> {
        let mut range = self.range.lock().await;
        if range.0 == range.1 {
            let counter = Counter { next: range.1 + BLOCK };
            metadata.commit(vec![COUNTERS.put(self.key.clone(), &counter) as Op]).await?;
            range.1 += BLOCK;
        }
        let number = range.0;
        range.0 += 1;
        self.making().insert(number);
        Ok(Making { ids: Arc::clone(self), number })
    }

    /// Numbers whose snapshot is being made.
    pub(crate) fn in_the_making(&self) -> HashSet<u64> {
        self.making().clone()
    }
}

/// A number whose snapshot is being made.
#[derive(Debug)]
pub(crate) struct Making {
    ids: Arc<Ids>,
    number: u64,
}

impl Making {
    /// The number.
    pub(crate) fn id(&self) -> SnapshotId {
        SnapshotId(self.number)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.ids.making().remove(&self.number);
    }
}
