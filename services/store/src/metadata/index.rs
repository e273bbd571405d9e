//! The index: sled, never believed. Every record carries revision and checksum, the whole carries a [`Tally`]; what does not add up
//! is thrown away and built again from the log. Where sled cannot serve, memory does.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::error::{Result, StoreError};
use super::seal::{Changes, Sealed, Tally, unseal};
use crated_core::Revision;

/// The key of the tally; no record's key starts with NUL.
const TALLY: &[u8] = b"\0applied";

/// Records by key, as of one revision.
pub(crate) struct Index {
    kind: Kind,
    tally: Mutex<Tally>,
}

enum Kind {
    Sled(Handle),
    Memory(RwLock<BTreeMap<Vec<u8>, Bytes>>),
}

/// A sled that has failed once is leaked, never dropped: its drop flushes, that flush can wait for ever, and it would then hold
/// sled's lock, which is one for the whole process: every other sled in it would stand still, too.
struct Handle {
    db: Option<sled::Db>,
    sick: AtomicBool,
}

impl Handle {
    fn run<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T> {
        let db = self.db.as_ref().expect("taken in drop only");
        guarded(|| call(db)).inspect_err(|_| self.sick.store(true, Ordering::SeqCst))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let db = self.db.take();
        if self.sick.load(Ordering::SeqCst) {
            std::mem::forget(db);
            return;
        }
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(db);
            let _ = done.send(());
        });
        let _ = wait.recv_timeout(Duration::from_secs(2));
    }
}

/// sled panics on some damage: a panic is an answer, too.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(StoreError::Index(source.to_string())),
        Err(_) => Err(StoreError::Index("sled panicked".into())),
    }
}

impl Index {
    /// An empty index in memory.
    pub(crate) fn memory() -> Self {
        Self { kind: Kind::Memory(RwLock::default()), tally: Mutex::default() }
    }

    /// Whether it is sled.
    pub(crate) fn is_sled(&self) -> bool {
        matches!(self.kind, Kind::Sled(_))
    }

    /// Opens sled and adds everything up. Any doubt is an error.
    pub(crate) fn open(folder: &Path, cache: u64) -> Result<Self> {
        // A file that outlives the opening of sled means that the last try never came back: do not try again.
        let flag = folder.with_extension("opening");
        if flag.exists() {
            let _ = std::fs::remove_file(&flag);
            return Err(StoreError::Index("the last opening did not end".into()));
        }
        std::fs::write(&flag, b"").map_err(|source| StoreError::io("write", &flag, &source))?;
        let opened = Self::open_sled(folder, cache);
        let _ = std::fs::remove_file(&flag);
        opened
    }

    fn open_sled(folder: &Path, cache: u64) -> Result<Self> {
        let handle = Handle { db: Some(connect(folder, cache)?), sick: AtomicBool::new(true) };
        let mut found = Tally::default();
        let mut said = None;
        let mut records = handle.run(|db| Ok(db.iter()))?;
        while let Some(record) = guarded(|| Ok(records.next()))? {
            let (key, value) = record.map_err(|source| StoreError::Index(source.to_string()))?;
            if key == TALLY {
                said = Tally::decode(&value);
                continue;
            }
            unseal(&key, &Bytes::copy_from_slice(&value))?;
            found.add(&value);
        }
        let said = match said {
            None if found.count == 0 => Tally::default(),
            None => return Err(StoreError::Index("it has no tally".into())),
            Some(said) => said,
        };
        found.applied = said.applied;
        if found != said {
            return Err(StoreError::Index(format!("it does not add up: says {said:?}, holds {found:?}")));
        }
        drop(records);
        handle.sick.store(false, Ordering::SeqCst);
        Ok(Self { kind: Kind::Sled(handle), tally: Mutex::new(found) })
    }

    /// What it holds.
    pub(crate) fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sealed value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match &self.kind {
            Kind::Sled(handle) => Ok(handle.run(|db| db.get(key))?.map(|value| Bytes::copy_from_slice(&value))),
            Kind::Memory(map) => Ok(map.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()),
        }
    }

    /// Calls `each` for the sealed records of a prefix behind `after`, in key order, until it breaks.
    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        after: &[u8],
        mut each: impl FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<()> {
        let start = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        match &self.kind {
            Kind::Sled(handle) => {
                let mut records = handle.run(|db| Ok(db.range::<&[u8], _>((start, Bound::Unbounded))))?;
                // the step itself may panic, not only fail
                while let Some(record) = handle.run(|_| Ok(records.next()))? {
                    let (key, value) = record.map_err(|source| StoreError::Index(source.to_string()))?;
                    if key == TALLY {
                        continue;
                    }
                    if !key.starts_with(prefix) || each(&key, Bytes::copy_from_slice(&value)).is_break() {
                        break;
                    }
                }
            }
            Kind::Memory(map) => {
                let map = map.read().unwrap_or_else(PoisonError::into_inner);
                for (key, value) in map.range::<[u8], _>((start, Bound::Unbounded)) {
                    if !key.starts_with(prefix) || each(key, value.clone()).is_break() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies all changes up to `revision` as one batch, tally included: sled holds all of them or none.
    pub(crate) fn apply(&self, changes: &Changes, revision: Revision) -> Result<()> {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        if revision <= tally.applied {
            return Ok(());
        }
        let mut new = Tally { applied: revision, ..*tally };
        let mut batch = sled::Batch::default();
        for (key, change) in changes {
            let old = self.get(key)?;
            if let Some(old) = &old {
                new.subtract(old);
            }
            match change {
                Some(sealed) => {
                    new.add(sealed);
                    batch.insert(&key[..], &sealed[..]);
                }
                None if old.is_some() => batch.remove(&key[..]),
                None => {} // put and deleted between two batches: sled never hears of it
            }
        }
        match &self.kind {
            Kind::Sled(handle) => {
                batch.insert(TALLY, new.encode());
                handle.run(|db| db.apply_batch(batch))?;
            }
            Kind::Memory(map) => {
                let mut map = map.write().unwrap_or_else(PoisonError::into_inner);
                for (key, change) in changes {
                    match change {
                        Some(sealed) => map.insert(key.clone(), sealed.clone()),
                        None => map.remove(key),
                    };
                }
            }
        }
        *tally = new;
        Ok(())
    }

    /// Fills an empty index with the records of a snapshot; `applied` is what they stand for.
    pub(crate) fn load(&self, records: &Sealed, applied: Revision) -> Result<()> {
        let mut tally = Tally { applied, ..Tally::default() };
        records.iter().for_each(|(_, sealed)| tally.add(sealed));
        match &self.kind {
            Kind::Sled(handle) => {
                for chunk in records.chunks(1000) {
                    let mut batch = sled::Batch::default();
                    for (key, sealed) in chunk {
                        batch.insert(&key[..], &sealed[..]);
                    }
                    handle.run(|db| db.apply_batch(batch))?;
                }
                handle.run(|db| db.insert(TALLY, tally.encode()))?;
            }
            Kind::Memory(map) => {
                map.write().unwrap_or_else(PoisonError::into_inner).extend(records.iter().cloned());
            }
        }
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner) = tally;
        Ok(())
    }
}

/// Opens sled. Its pool threads may hold its lock a moment longer than its last handle; our own lock is what keeps others out.
fn connect(folder: &Path, cache: u64) -> Result<sled::Db> {
    let mut tries = 0;
    loop {
        let config = sled::Config::new().path(folder).cache_capacity(cache).flush_every_ms(None);
        match guarded(|| config.open()) {
            Err(StoreError::Index(why)) if why.contains("acquire lock") && tries < 100 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            answer => return answer,
        }
    }
}
