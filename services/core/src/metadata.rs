//! The ordered, durable map below every record, and typed tables over it. `sled` stays behind it.
//!
//! Keys are `<table>/<namespace>/<id>`: tables and namespaces hold no slash, the id is the rest of the key and may.
//! An id of several parts joins them with NUL ([`Table::key2`]).

use async_trait::async_trait;
use bytes::Bytes;
use crated_types::{Error, Fault, Result};
use futures::stream::BoxStream;
use std::fmt::Debug;
use std::marker::PhantomData;

use crate::record::Event;

/// The number of a commit, from 1; a record's revision is that of the commit that last put it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a record that does not exist.
    pub const ABSENT: Self = Self(0);
}

/// A precondition or a change of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The record has this revision ([`Revision::ABSENT`]: there is none), else the whole commit is refused with [`Fault::Conflict`].
    Expect(Vec<u8>, Revision),
    /// Write the record.
    Put(Vec<u8>, Bytes),
    /// Remove the record.
    Delete(Vec<u8>),
    /// A line of the durable event log, in the same commit as its change: an encoded [`Event`].
    Event(Bytes),
}

impl Op {
    /// The operation that logs `event`.
    #[must_use]
    pub fn event(event: &Event) -> Self {
        Self::Event(prost::Message::encode_to_vec(event).into())
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// When it was last put.
    pub revision: Revision,
    /// Its bytes.
    pub value: Bytes,
}

/// A place in the event log: the `index`-th event of commit `revision`. Ordered; the default is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The commit.
    pub revision: Revision,
    /// The event in it, from 0.
    pub index: u32,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.revision.0, self.index)
    }
}

impl std::str::FromStr for Cursor {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid("cursor", format_args!("{text:?} is not REVISION.INDEX"));
        let (revision, index) = text.split_once('.').ok_or_else(bad)?;
        Ok(Self { revision: Revision(revision.parse().map_err(|_| bad())?), index: index.parse().map_err(|_| bad())? })
    }
}

/// An event with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedEvent {
    /// Its place in the log.
    pub cursor: Cursor,
    /// The event.
    pub event: Event,
}

/// The durable map. All reads see a state that a prefix of the commits made.
#[async_trait]
pub trait MetadataStore: Send + Sync + Debug {
    /// Reads one record.
    async fn get(&self, key: &[u8]) -> Result<Option<Stored>>;

    /// Reads at most `limit` records whose key starts with `prefix` and is greater than `after` (empty: from the first),
    /// in byte order of the keys. One call sees one revision.
    async fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Stored)>>;

    /// Applies all or nothing; durable when it answers.
    ///
    /// # Errors
    /// [`Fault::Conflict`] where an [`Op::Expect`] does not hold; [`Fault::DiskFull`] with nothing kept; [`Fault::ReadOnly`].
    ///
    /// # Cancel safety
    /// Once polled the commit happens, whether or not the future is kept.
    async fn commit(&self, batch: Vec<Op>) -> Result<Revision>;

    /// As [`MetadataStore::commit`] in every respect but one: its answer does not wait for the disk. Killing the daemon loses nothing;
    /// a power cut may take it, with whatever later commits were not durable either, never an earlier or a durable later one. For
    /// what means nothing after another boot, and for steps of an operation whose last commit is durable. Its events are told once it
    /// is durable, some ms later.
    async fn commit_soon(&self, batch: Vec<Op>) -> Result<Revision> {
        self.commit(batch).await
    }

    /// The newest durable commit.
    fn revision(&self) -> Revision;

    /// At most `max` events behind `after`, oldest first.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] where events behind `after` are no longer kept.
    async fn events(&self, after: Cursor, max: usize) -> Result<Vec<LoggedEvent>>;

    /// Wakes whenever commits with events became durable: yields the newest revision, coalescing.
    fn watch(&self) -> BoxStream<'static, Revision>;

    /// Every record below `prefix`, read page by page (256 records a page, so that no page holds up a commit).
    async fn scan_all(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Stored)>> {
        const PAGE: usize = 256;
        let mut all: Vec<(Vec<u8>, Stored)> = Vec::new();
        loop {
            let after = all.last().map(|(key, _)| key.clone()).unwrap_or_default();
            let page = self.scan(prefix, &after, PAGE).await?;
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }
}

/// A typed view of the records below one prefix.
#[derive(Debug)]
pub struct Table<R> {
    name: &'static str,
    record: PhantomData<fn() -> R>,
}

impl<R> Clone for Table<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Table<R> {}

impl<R: prost::Message + Default> Table<R> {
    /// The table of `name` (no slash in it).
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, record: PhantomData }
    }

    /// The key of a record in a namespace (empty for records of the whole daemon).
    #[must_use]
    pub fn key(&self, namespace: &str, id: &str) -> Vec<u8> {
        format!("{}/{namespace}/{id}", self.name).into_bytes()
    }

    /// The key of a record whose id has two parts.
    #[must_use]
    pub fn key2(&self, namespace: &str, first: &str, second: &str) -> Vec<u8> {
        format!("{}/{namespace}/{first}\0{second}", self.name).into_bytes()
    }

    /// What every key of a namespace starts with; with an empty namespace, every key of the table.
    #[must_use]
    pub fn prefix(&self, namespace: &str) -> Vec<u8> {
        if namespace.is_empty() {
            format!("{}/", self.name).into_bytes()
        } else {
            format!("{}/{namespace}/", self.name).into_bytes()
        }
    }

    /// Namespace and id of a key of this table.
    #[must_use]
    pub fn parts<'k>(&self, key: &'k [u8]) -> Option<(&'k str, &'k str)> {
        let text = std::str::from_utf8(key).ok()?;
        text.strip_prefix(self.name)?.strip_prefix('/')?.split_once('/')
    }

    /// The operation that writes `record` at `key`.
    #[must_use]
    pub fn put(&self, key: Vec<u8>, record: &R) -> Op {
        Op::Put(key, record.encode_to_vec().into())
    }

    /// Reads bytes of the store.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] that names the key.
    pub fn decode(&self, key: &[u8], value: &Bytes) -> Result<R> {
        R::decode(value.clone()).map_err(|source| {
            Error::new(Fault::Corrupt, format!("record {}", String::from_utf8_lossy(key).replace('\0', "\\0")))
                .caused_by(source)
        })
    }

    /// Reads one record.
    ///
    /// # Errors
    /// The store's, or [`Fault::Corrupt`].
    pub async fn get(&self, store: &dyn MetadataStore, key: &[u8]) -> Result<Option<(Revision, R)>> {
        match store.get(key).await? {
            Some(stored) => Ok(Some((stored.revision, self.decode(key, &stored.value)?))),
            None => Ok(None),
        }
    }

    /// Every record below `prefix` (see [`Table::prefix`]), in key order.
    ///
    /// # Errors
    /// The store's, or [`Fault::Corrupt`].
    pub async fn list(&self, store: &dyn MetadataStore, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Revision, R)>> {
        store
            .scan_all(prefix)
            .await?
            .into_iter()
            .map(|(key, stored)| self.decode(&key, &stored.value).map(|record| (key, stored.revision, record)))
            .collect()
    }
}
