//! In-memory stand-ins for ports, for the tests of the services above them.

use async_trait::async_trait;
use bytes::Bytes;
use crated_types::{Error, Fault, Result};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::metadata::{Cursor, LoggedEvent, MetadataStore, Op, Revision, Stored};
use crate::record::Event;

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    records: BTreeMap<Vec<u8>, Stored>,
    events: Vec<LoggedEvent>,
}

/// A metadata store without a disk.
#[derive(Debug)]
pub struct MemoryMetadata {
    inner: Mutex<Inner>,
    newest: tokio::sync::watch::Sender<Revision>,
}

impl Default for MemoryMetadata {
    fn default() -> Self {
        Self { inner: Mutex::default(), newest: tokio::sync::watch::channel(Revision::default()).0 }
    }
}

impl MemoryMetadata {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every key that is there, for leak checks.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.lock().records.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }
}

#[async_trait]
impl MetadataStore for MemoryMetadata {
    async fn get(&self, key: &[u8]) -> Result<Option<Stored>> {
        Ok(self.lock().records.get(key).cloned())
    }

    async fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Stored)>> {
        let inner = self.lock();
        Ok(inner
            .records
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| key.as_slice() > after)
            .take(limit)
            .map(|(key, stored)| (key.clone(), stored.clone()))
            .collect())
    }

    async fn commit(&self, batch: Vec<Op>) -> Result<Revision> {
        let mut inner = self.lock();
        for op in &batch {
            if let Op::Expect(key, expected) = op {
                let found = inner.records.get(key).map_or(Revision::ABSENT, |stored| stored.revision);
                if found != *expected {
                    return Err(Error::new(Fault::Conflict, format!("record {}", String::from_utf8_lossy(key))));
                }
            }
        }
        inner.revision += 1;
        let revision = Revision(inner.revision);
        let mut index = 0;
        for op in batch {
            match op {
                Op::Expect(..) => {}
                Op::Put(key, value) => {
                    inner.records.insert(key, Stored { revision, value });
                }
                Op::Delete(key) => {
                    inner.records.remove(&key);
                }
                Op::Event(bytes) => {
                    let event = decode(bytes)?;
                    inner.events.push(LoggedEvent { cursor: Cursor { revision, index }, event });
                    index += 1;
                }
            }
        }
        drop(inner);
        self.newest.send_replace(revision);
        Ok(revision)
    }

    fn revision(&self) -> Revision {
        Revision(self.lock().revision)
    }

    async fn events(&self, after: Cursor, max: usize) -> Result<Vec<LoggedEvent>> {
        let inner = self.lock();
        Ok(inner.events.iter().filter(|logged| logged.cursor > after).take(max).cloned().collect())
    }

    fn watch(&self) -> BoxStream<'static, Revision> {
        let receiver = self.newest.subscribe();
        futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.changed().await.ok()?;
            let revision = *receiver.borrow_and_update();
            Some((revision, receiver))
        })
        .boxed()
    }
}

fn decode(bytes: Bytes) -> Result<Event> {
    prost::Message::decode(bytes).map_err(|source| Error::internal("encoded event").caused_by(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_commit_leaves_no_trace() {
        let store = MemoryMetadata::default();
        let key = b"t//a".to_vec();
        let first = vec![Op::Expect(key.clone(), Revision::ABSENT), Op::Put(key.clone(), Bytes::from_static(b"1"))];
        store.commit(first.clone()).await.unwrap();
        assert_eq!(store.commit(first).await.unwrap_err().fault(), Fault::Conflict);
        assert_eq!(store.get(&key).await.unwrap().unwrap().revision, Revision(1));
        assert_eq!(store.keys(), ["t//a"]);
    }
}
