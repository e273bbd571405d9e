//! The index: sled, never believed. Every record carries revision and checksum, the whole carries a [`Tally`]; what does not add up
//! is thrown away and built again from the log. Where sled cannot serve, memory does.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::crash::Hook;
use super::error::{Result, StoreError};
use super::parts;
use super::seal::{Changes, Sealed, Tally, unseal};
use crated_core::Revision;

/// The key of the tally; no record's key starts with NUL.
const TALLY: &[u8] = b"\0applied";

/// Bytes of records that go into sled at a time while an index is filled.
const LOAD_BYTES: usize = 1 << 20;

/// Takes one sealed record.
pub(crate) type Put<'a> = &'a mut dyn FnMut(Vec<u8>, Bytes) -> Result<()>;

/// Feeds an index with records that are in memory.
pub(crate) fn all_of(records: &Sealed) -> impl Fn(Put<'_>) -> Result<()> + '_ {
    |put| records.iter().try_for_each(|(key, sealed)| put(key.clone(), sealed.clone()))
}

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
    hook: Hook,
}

impl Handle {
    fn run<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T> {
        self.hook.stall();
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
        let (done, wait) = channel();
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

/// Where sled is opened, and how long it may stand still.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of its cache.
    pub cache: u64,
    /// After so long without a step it is given up.
    pub patience: Duration,
    /// Lets a test stop sled.
    pub hook: Hook,
    /// It stood still once: in this process it is not touched again.
    pub stuck: Arc<AtomicBool>,
}

impl Opener {
    /// Opens sled and adds everything up. Any doubt is an error.
    pub(crate) fn open(&self) -> Result<Index> {
        self.patiently(|opener, beat| opener.open_flagged(beat))
    }

    /// A new sled in place of what is there, filled by `fill`, which calls `beat` as it goes.
    pub(crate) fn create(&self, fill: impl FnOnce(&Index, &dyn Fn()) -> Result<()> + Send + 'static) -> Result<Index> {
        self.patiently(move |opener, beat| {
            let _ = std::fs::remove_dir_all(&opener.folder).or_else(|_| std::fs::remove_file(&opener.folder));
            let _ = std::fs::remove_file(opener.flag());
            let index = opener.open_flagged(beat)?;
            fill(&index, beat)?;
            Ok(index)
        })
    }

    /// Runs steps of sled in a thread of their own, which is left behind where it stands still.
    pub(crate) fn patiently(
        &self,
        work: impl FnOnce(&Self, &dyn Fn()) -> Result<Index> + Send + 'static,
    ) -> Result<Index> {
        if self.stuck.load(Ordering::SeqCst) {
            return Err(StoreError::Index("sled stood still before".into()));
        }
        let (sender, steps) = channel();
        let opener = self.clone();
        let run = move || {
            let beats = sender.clone();
            let beat = move || {
                let _ = beats.send(None);
            };
            let _ = sender.send(Some(work(&opener, &beat)));
        };
        let thread = std::thread::Builder::new().name("store-sled".into()).spawn(run);
        thread.map_err(|source| StoreError::Index(format!("start a thread: {source}")))?;
        loop {
            match steps.recv_timeout(self.patience) {
                Ok(None) => {}
                Ok(Some(done)) => return done,
                Err(RecvTimeoutError::Disconnected) => return Err(StoreError::Index("sled panicked".into())),
                Err(RecvTimeoutError::Timeout) => {
                    self.stuck.store(true, Ordering::SeqCst);
                    return Err(StoreError::Index(format!("sled made no step in {:?}", self.patience)));
                }
            }
        }
    }

    /// A file that outlives the opening of sled: the last try never came back.
    pub(crate) fn flag(&self) -> PathBuf {
        self.folder.with_extension("opening")
    }

    /// The records of a sled that hold, in memory, whatever its tally says.
    pub(crate) fn what_holds(&self) -> Result<Index> {
        self.patiently(|opener, beat| {
            let db = Some(connect(&opener.folder, opener.cache)?);
            let handle = Handle { db, sick: AtomicBool::new(true), hook: opener.hook.clone() };
            let mut found = Sealed::new();
            let mut records = handle.run(|db| Ok(db.iter()))?;
            // the first record that cannot be read is the end of what can
            while let Ok(Some(Ok((key, value)))) = guarded(|| Ok(records.next())) {
                beat();
                let Ok(sealed) = handle.run(|db| parts::whole(db, &key, &value)) else { continue };
                if key.first() != Some(&0) && unseal(&key, &sealed).is_ok() {
                    found.push((key.to_vec(), sealed));
                }
            }
            let index = Index::memory();
            index.load(Revision::default(), beat, &all_of(&found))?;
            Ok(index)
        })
    }

    fn open_flagged(&self, beat: &dyn Fn()) -> Result<Index> {
        let flag = self.flag();
        if flag.exists() {
            let _ = std::fs::remove_file(&flag);
            return Err(StoreError::Index("the last opening did not end".into()));
        }
        std::fs::write(&flag, b"").map_err(|source| StoreError::io("write", &flag, &source))?;
        let opened = self.open_sled(beat);
        let _ = std::fs::remove_file(&flag);
        opened
    }

    fn open_sled(&self, beat: &dyn Fn()) -> Result<Index> {
        self.hook.stall();
        let db = Some(connect(&self.folder, self.cache)?);
        let handle = Handle { db, sick: AtomicBool::new(true), hook: self.hook.clone() };
        let mut found = Tally::default();
        let mut said = None;
        let mut records = handle.run(|db| Ok(db.iter()))?;
        while let Some(record) = guarded(|| Ok(records.next()))? {
            let (key, value) = record.map_err(|source| StoreError::Index(source.to_string()))?;
            if key == TALLY {
                said = Tally::decode(&value);
            }
            if key.first() == Some(&0) {
                continue;
            }
            unseal(&key, &handle.run(|db| parts::whole(db, &key, &value))?)?;
            found.add(&value);
            if found.count.is_multiple_of(1000) {
                beat();
            }
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
        Ok(Index { kind: Kind::Sled(handle), tally: Mutex::new(found) })
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Index(sled: {}, {:?})", self.is_sled(), self.tally())
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

    /// What it holds.
    pub(crate) fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sealed value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match &self.kind {
            Kind::Sled(handle) => handle.run(|db| db.get(key)?.map(|value| parts::whole(db, key, &value)).transpose()),
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
                    if key.first() == Some(&0) {
                        continue;
                    }
                    if !key.starts_with(prefix)
                        || each(&key, handle.run(|db| parts::whole(db, &key, &value))?).is_break()
                    {
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
            // put and deleted between two batches: sled never hears of it
            if let Some(old) = &old {
                new.subtract(old);
                parts::remove(&mut batch, key, old);
            }
            if let Some(sealed) = change {
                new.add(sealed);
                parts::insert(&mut batch, key, sealed);
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

    /// Fills an empty index with what `feed` gives; `applied` is what that stands for.
    pub(crate) fn load(&self, applied: Revision, beat: &dyn Fn(), feed: &dyn Fn(Put<'_>) -> Result<()>) -> Result<()> {
        let mut tally = Tally { applied, ..Tally::default() };
        let (mut batch, mut bytes) = (sled::Batch::default(), 0);
        feed(&mut |key, sealed| {
            tally.add(&sealed);
            match &self.kind {
                Kind::Sled(handle) => {
                    bytes += key.len() + sealed.len();
                    parts::insert(&mut batch, &key, &sealed);
                    if bytes > LOAD_BYTES || tally.count.is_multiple_of(1000) {
                        beat();
                        bytes = 0;
                        handle.run(|db| db.apply_batch(std::mem::take(&mut batch)))?;
                    }
                }
                Kind::Memory(map) => {
                    map.write().unwrap_or_else(PoisonError::into_inner).insert(key, sealed);
                }
            }
            Ok(())
        })?;
        if let Kind::Sled(handle) = &self.kind {
            handle.run(|db| db.apply_batch(batch))?;
            handle.run(|db| db.insert(TALLY, tally.encode()))?;
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
