//! What the writer does for the index and for old files: it changes an index that fails for one in memory, goes back to sled with the
//! next snapshot, and prunes.
//!
//! ```text
//! sled ──fails, panics, makes no step──▶ memory, from snapshot and log ──next snapshot: a new sled, filled, caught up──▶ sled
//! ```

use crated_core::Revision;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Message, Writer};
use crate::metadata::error::{Result, StoreError};
use crate::metadata::index::{Index, Opener};
use crate::metadata::recover::replay;
use crate::metadata::segment::{self, sync_folder};
use crate::metadata::snapshot;
use crate::metadata::view::lock;

/// Waits for a helper's end; one that stands still is left behind.
pub(super) fn join(helper: JoinHandle<()>, patience: Duration) {
    let until = Instant::now() + patience;
    while !helper.is_finished() {
        if Instant::now() > until {
            tracing::warn!("a thread of the metadata store stands still and is left behind");
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = helper.join();
}

impl Writer {
    /// Starts the indexer, in place of one that stands still.
    pub(crate) fn start_indexer(&mut self) -> std::io::Result<()> {
        let number = self.shared.next_indexer();
        let (shared, woken) = (Arc::clone(&self.shared), Arc::clone(&self.woken));
        let run = move || shared.run_indexer(number, &woken);
        self.indexer = Some(std::thread::Builder::new().name("store-index".into()).spawn(run)?);
        Ok(())
    }

    /// An update of the index that does not return must not hold commits: memory takes over, and a new indexer.
    pub(super) fn check_indexer(&mut self) {
        let since = *lock(&self.shared.applying);
        if since.is_none_or(|since| since.elapsed() < self.options.patience) {
            return;
        }
        if let Err(error) = self.rebuild("sled does not return from an update") {
            self.stop(format!("no index: {error}"));
        }
        // what was read through the old index may stand still with it
        self.snapper = None;
        if let Err(source) = self.start_indexer() {
            self.stop(format!("start a thread: {source}"));
        }
    }

    /// The index was lost while running: from snapshot and log into memory, at once; sled again with the next snapshot.
    pub(super) fn rebuild(&mut self, why: &str) -> Result<()> {
        tracing::warn!(why, "the metadata index is rebuilt in memory");
        let base = snapshot::newest(&self.folder.join("snap"))?.unwrap_or_default();
        let index = Index::memory();
        index.load(base.revision, &|| {}, &|put| base.each(put))?;
        self.catch_up(&index)?;
        *lock(&self.shared.health) = Some(format!("the index is in memory: {why}"));
        let _ = std::fs::write(self.opener.flag(), b""); // the next start does not trust the folder
        self.shared.replace_index(index);
        crated_sys::malloc::trim();
        Ok(())
    }

    /// Gives an index what it has not got. It never runs ahead of what the disk has of the log: a snapshot of it would, too.
    fn catch_up(&self, index: &Index) -> Result<()> {
        let log = self.folder.join("log");
        self.shared.sync().map_err(|source| StoreError::io("sync", &log, &source))?;
        replay(index, self.segments.iter().map(|segment| segment.1.as_path()))?;
        let applied = index.tally().applied;
        if applied.0 + 1 != self.next.0 {
            return Err(StoreError::Index(format!("rebuilt to {} of {}", applied.0, self.next.0 - 1)));
        }
        Ok(())
    }

    /// sled holds the newest snapshot: once it has the rest of the log it serves again.
    pub(super) fn reindexed(&mut self, index: Index) {
        if self.dead.is_some() || self.shared.index().is_sled() {
            return;
        }
        match self.catch_up(&index) {
            Ok(()) => {
                tracing::info!("the metadata index is in sled again");
                self.shared.replace_index(index); // the one in memory is free now
                *lock(&self.shared.health) = None;
                crated_sys::malloc::trim();
            }
            Err(error) => tracing::warn!(%error, "the metadata index stays in memory"),
        }
    }

    pub(super) fn snapped(&mut self, done: Result<Revision>) {
        if let Some(snapper) = self.snapper.take() {
            join(snapper, self.options.patience);
        }
        let pruned = done.and_then(|_| if self.dead.is_none() { self.prune() } else { Ok(()) });
        if let Err(error) = pruned {
            tracing::warn!(%error, "metadata snapshot failed");
        }
    }

    /// Fuzzy snapshot beside the commits, named by what the index held before it began: replaying from there makes it exact.
    pub(super) fn snapshot(&mut self) {
        self.since_snapshot = 0;
        let index = self.shared.index();
        let (folder, id, hook) = (self.folder.join("snap"), self.id, self.options.crash.clone());
        let (home, tail) = (self.folder.clone(), self.tail());
        let (sender, opener) = (self.sender.clone(), self.opener.clone());
        let log: Vec<PathBuf> = self.segments.iter().map(|segment| segment.1.clone()).collect();
        self.snapper = Some(std::thread::spawn(move || {
            let revision = index.tally().applied;
            let done = snapshot::write(&folder, id, revision, &index, &hook).map(|()| revision);
            if let Some(tail) = tail.filter(|_| done.is_ok()) {
                tail.write(&home);
            }
            let again = if done.is_ok() && !index.is_sled() { reindex(&opener, &folder, log) } else { None };
            drop(index);
            if let Some(sender) = sender.and_then(|sender| sender.upgrade()) {
                // never waits: the writer may be waiting for us
                again.and_then(|index| sender.try_send(Message::Reindexed(index)).ok());
                let _ = sender.try_send(Message::Snapped(done));
            }
        }));
    }

    /// Keeps two snapshots, the log from the older one on, and old segments for event cursors.
    fn prune(&mut self) -> Result<()> {
        let mut snapshots = segment::list(&self.folder.join("snap"), "snap")?;
        while snapshots.len() > 2 {
            let _ = std::fs::remove_file(snapshots.remove(0).1);
        }
        let [older, _] = snapshots.as_slice() else { return Ok(()) };
        let floor = older.0.0 + 1;
        let mut kept: u64 = self.segments.iter().map(|segment| segment.2).sum();
        while self.segments.len() > 1
            && self.segments[1].0.0 <= floor
            && kept > self.options.keep_events + self.segments[0].2
        {
            if self.options.crash.hit() {
                return Ok(());
            }
            let (_, path, size) = self.segments.remove(0);
            {
                let mut durable = lock(&self.shared.durable);
                durable.segments.remove(0);
                durable.oldest = self.segments[0].0;
            }
            std::fs::remove_file(&path).map_err(|source| StoreError::io("remove", &path, &source))?;
            kept -= size;
        }
        let log = self.folder.join("log");
        sync_folder(&log).map_err(|source| StoreError::io("sync", &log, &source))
    }
}

/// A new sled of the newest snapshot and the log so far; `None` where it fails once more.
fn reindex(opener: &Opener, snapshots: &std::path::Path, log: Vec<PathBuf>) -> Option<Index> {
    let snapshots = snapshots.to_path_buf();
    let made = opener.create(move |index, beat| {
        let base = snapshot::newest(&snapshots)?.unwrap_or_default();
        index.load(base.revision, beat, &|put| base.each(put))?;
        for path in &log {
            beat();
            replay(index, std::iter::once(path.as_path()))?;
        }
        Ok(())
    });
    made.inspect_err(|error| tracing::warn!(%error, "sled does not serve again yet")).ok()
}
