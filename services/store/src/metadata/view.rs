//! What readers see: durable changes that the index has not got yet, above the index.

use bytes::Bytes;
use crated_core::{Cursor, Revision, Stored};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

use super::error::Result;
use super::index::Index;
use super::seal::{Changes, unseal};

/// Bytes of events that are kept in memory for subscribers that are nearly up to date.
const RECENT_BYTES: usize = 2 << 20;
/// How long a commit that waits for nothing may stay unsynced, about.
const UNSYNCED: Duration = Duration::from_millis(10);
/// How long changes gather before they go to the index: each batch costs it two syncs.
const BATCH: Duration = Duration::from_millis(100);

/// Changes that do not wait so long.
const BATCH_CHANGES: usize = 512;

/// Changes on their way into the index: `current` grows, `frozen` is being applied.
#[derive(Default)]
pub(crate) struct View {
    /// Newest changes.
    pub current: Changes,
    /// The revision of the newest.
    pub revision: Revision,
    /// Bytes of `current`.
    pub bytes: usize,
    /// The batch that the indexer applies now.
    pub frozen: Arc<Changes>,
    /// The indexer that serves: another took over from one that stands still.
    pub indexer: u64,
}

/// The log as readers of events see it.
#[derive(Default)]
pub(crate) struct Durable {
    /// Newest durable revision.
    pub revision: Revision,
    /// First revision whose events are kept.
    pub oldest: Revision,
    /// Segments by first revision.
    pub segments: Vec<(Revision, PathBuf)>,
    recent: VecDeque<(Cursor, Bytes)>,
    recent_bytes: usize,
    recent_from: Cursor,
    /// What is written behind `revision` and not known to be on the disk: the segment and the newest revision.
    unsynced: Option<(Arc<File>, Revision)>,
    /// Its events: nobody is told of them before the disk has them, so that a cursor never names what a power cut took.
    pending: VecDeque<(Cursor, Bytes)>,
}

impl Durable {
    /// A log that ends at `revision`.
    pub(crate) fn new(revision: Revision, segments: Vec<(Revision, PathBuf)>) -> Self {
        let oldest = segments.first().map_or(Revision(revision.0 + 1), |segment| segment.0);
        let recent_from = Cursor { revision, index: u32::MAX };
        Self { revision, oldest, segments, recent_from, ..Self::default() }
    }

    /// Adds commits up to `revision` that are written to `file` and not yet synced.
    pub(crate) fn wrote(&mut self, file: Arc<File>, revision: Revision, events: Vec<(Cursor, Bytes)>) {
        self.unsynced = Some((file, revision));
        self.pending.extend(events);
    }

    /// Everything up to `revision` is on the disk, these `events` of the newest commits included; whether there are events to tell of.
    pub(crate) fn synced(&mut self, revision: Revision, events: Vec<(Cursor, Bytes)>) -> bool {
        if revision <= self.revision {
            return false;
        }
        self.revision = revision;
        if self.unsynced.as_ref().is_some_and(|(_, newest)| *newest <= revision) {
            self.unsynced = None;
        }
        let behind = self.pending.partition_point(|(cursor, _)| cursor.revision <= revision);
        let told: Vec<_> = self.pending.drain(..behind).chain(events).collect();
        let any = !told.is_empty();
        for (cursor, event) in told {
            self.push(cursor, event);
        }
        any
    }

    fn push(&mut self, cursor: Cursor, event: Bytes) {
        self.recent_bytes += event.len() + 64;
        self.recent.push_back((cursor, event));
        while self.recent_bytes > RECENT_BYTES {
            let Some((cursor, event)) = self.recent.pop_front() else { break };
            self.recent_bytes -= event.len() + 64;
            self.recent_from = cursor;
        }
    }

    /// Events behind a cursor, where memory has all of them.
    pub(crate) fn recent(&self, after: Cursor, max: usize) -> Option<Vec<(Cursor, Bytes)>> {
        if after < self.recent_from {
            return None;
        }
        let start = self.recent.partition_point(|(cursor, _)| *cursor <= after);
        Some(self.recent.iter().skip(start).take(max).cloned().collect())
    }
}

/// What the threads of a store share.
pub(crate) struct Shared {
    /// See [`View`].
    pub view: RwLock<View>,
    index: RwLock<Arc<Index>>,
    /// Since when the indexer waits for the index.
    pub applying: Mutex<Option<Instant>>,
    /// Why the index is to be replaced.
    pub index_bad: Mutex<Option<String>>,
    /// What is wrong with the store, if anything.
    pub health: Mutex<Option<String>>,
    /// See [`Durable`].
    pub durable: Mutex<Durable>,
    /// Longest that readers or a sweep kept the writer, in nanoseconds.
    held: AtomicU64,
    /// Wakes those that follow events.
    pub newest: watch::Sender<Revision>,
    /// Why the log can no longer be written: a sync beside the writer failed.
    pub log_bad: Mutex<Option<String>>,
}

/// Locks; a poisoned lock means a panic elsewhere, the data are whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Readers' view of an opened store.
    pub(crate) fn new(index: Index, durable: Durable) -> Self {
        let health = (!index.is_sled()).then(|| "the index is in memory: sled cannot be used".to_owned());
        let newest = watch::channel(durable.revision).0;
        Self {
            newest,
            log_bad: Mutex::default(),
            view: RwLock::default(),
            index: RwLock::new(Arc::new(index)),
            applying: Mutex::default(),
            index_bad: Mutex::default(),
            health: Mutex::new(health),
            durable: Mutex::new(durable),
            held: AtomicU64::default(),
        }
    }

    /// Notes how long the writer was kept.
    pub(crate) fn note_hold(&self, since: Instant) {
        self.held.fetch_max(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The longest of them since the last call.
    pub(crate) fn take_hold(&self) -> Duration {
        Duration::from_nanos(self.held.swap(0, Ordering::Relaxed))
    }

    /// Waits until the disk has all that was written when this was called.
    ///
    /// # Errors
    /// The sync's: what the disk holds is unknown then, and the log must not be written any more.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        let Some((file, revision)) = lock(&self.durable).unsynced.clone() else { return Ok(()) };
        file.sync_data()?;
        let any = lock(&self.durable).synced(revision, Vec::new());
        if any {
            self.tell();
        }
        Ok(())
    }

    /// Wakes those that follow events.
    pub(crate) fn tell(&self) {
        self.newest.send_replace(lock(&self.durable).revision);
    }

    /// The index that serves now.
    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another index in its place.
    pub(crate) fn replace_index(&self, index: Index) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        *lock(&self.index_bad) = None;
    }

    /// Reads one record.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Stored>> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(change) = view.current.get(key).or_else(|| view.frozen.get(key)) {
            return change.as_ref().map(|sealed| unseal(key, sealed)).transpose();
        }
        drop(view); // nothing newer was pending, so what the index says now is at least as new
        self.index().get(key)?.map(|sealed| unseal(key, &sealed)).transpose()
    }

    /// Reads a page of records, as of one revision: while the view is held, `current` stands still and covers whatever half of
    /// `frozen` the index has.
    pub(crate) fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Stored)>> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let start = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        let mut changes: BTreeMap<&[u8], Option<&Bytes>> = BTreeMap::new();
        for part in [&*view.frozen, &view.current] {
            let range = part.range::<[u8], _>((start, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
            changes.extend(range.map(|(key, change)| (&key[..], change.as_ref())));
        }
        let mut changes = changes.into_iter().peekable();
        let mut page = Page { found: Vec::new(), limit, fault: None };
        self.index().scan(prefix, after, |key, sealed| {
            while let Some((key, change)) = changes.next_if(|(changed, _)| *changed < key) {
                page.push(key, change);
            }
            match changes.next_if(|(changed, _)| *changed == key) {
                Some((_, change)) => page.push(key, change),
                None => page.push(key, Some(&sealed)),
            }
            if page.full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        for (key, change) in changes {
            page.push(key, change);
        }
        page.fault.map_or(Ok(page.found), Err)
    }

    /// Whether so many changes wait that the index should have them: while sled takes a batch, it answers nobody.
    fn is_much(&self) -> bool {
        self.view.read().unwrap_or_else(PoisonError::into_inner).current.len() > BATCH_CHANGES
    }

    /// Puts a new indexer in the place of the one that serves; answers its number.
    pub(crate) fn next_indexer(&self) -> u64 {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        view.indexer += 1;
        *lock(&self.applying) = None;
        view.indexer
    }

    /// The indexer: moves durable changes into the index, behind the answers, in batches of [`BATCH`].
    pub(crate) fn run_indexer(&self, number: u64, woken: &Mutex<Receiver<()>>) {
        loop {
            let mut open = lock(woken).recv().is_ok();
            let mut failed = None;
            if open {
                std::thread::sleep(UNSYNCED);
                let until = Instant::now() + BATCH;
                while open && failed.is_none() && Instant::now() < until && !self.is_much() {
                    failed = self.sync().err();
                    let left = until.saturating_duration_since(Instant::now()).min(UNSYNCED);
                    open = !matches!(lock(woken).recv_timeout(left), Err(RecvTimeoutError::Disconnected));
                }
            }
            let (changes, revision) = {
                let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                view.frozen = Arc::new(std::mem::take(&mut view.current));
                view.bytes = 0;
                *lock(&self.applying) = Some(Instant::now());
                (Arc::clone(&view.frozen), view.revision)
            };
            // The index never runs ahead of what the disk has of the log.
            // a sync that failed is never tried again: the kernel forgets the pages, and the next one would say that all is well
            if let Some(source) = failed.or_else(|| self.sync().err()) {
                *lock(&self.log_bad) = Some(format!("the log could not be synced: {source}"));
                return; // what is frozen stays readable; a restart reads what the disk has
            }
            let ended = self.apply(number, (&changes, revision), woken, open);
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            if view.indexer != number {
                return;
            }
            *lock(&self.applying) = None;
            if ended {
                return; // the log has it all
            }
            view.frozen = Arc::default();
            if !open {
                return;
            }
        }
    }

    /// Applies a batch to whatever index serves; true where the store closes without it.
    fn apply(
        &self,
        number: u64,
        (changes, revision): (&Changes, Revision),
        woken: &Mutex<Receiver<()>>,
        open: bool,
    ) -> bool {
        while let Err(error) = self.index().apply(changes, revision) {
            if self.view.read().unwrap_or_else(PoisonError::into_inner).indexer != number {
                return true;
            }
            // the writer puts an index in memory in its place; until then `frozen` answers for these records
            *lock(&self.index_bad) = Some(error.to_string());
            if !open || matches!(lock(woken).try_recv(), Err(TryRecvError::Disconnected)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

/// A page of a scan as it fills.
struct Page {
    found: Vec<(Vec<u8>, Stored)>,
    limit: usize,
    fault: Option<super::error::StoreError>,
}

impl Page {
    fn full(&self) -> bool {
        self.found.len() >= self.limit || self.fault.is_some()
    }

    fn push(&mut self, key: &[u8], sealed: Option<&Bytes>) {
        let Some(sealed) = sealed.filter(|_| !self.full()) else { return };
        match unseal(key, sealed) {
            Ok(stored) => self.found.push((key.to_vec(), stored)),
            Err(fault) => self.fault = Some(fault),
        }
    }
}
