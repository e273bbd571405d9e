//! The one thread that writes: it drains its queue, judges each commit's `Expect`s in order, writes all that pass as one frame,
//! syncs once, shows them to readers and answers.
//!
//! What queued up while the last sync ran is the next group: no timer, so one writer alone never waits and 64 share a sync.

mod upkeep;

use bytes::Bytes;
use crated_core::{Cursor, Op, Revision};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

use super::Options;
use super::active::{self, Active, Plan};
use super::error::{Result, StoreError, is_full};
use super::frame::{self, Commits, StoreId};
use super::index::{Index, Opener};
use super::seal::seal;
use super::segment::HEADER;
use super::tail::Tail;
use super::view::{Shared, lock};
use crate::gc::touched::Touched;

/// Bytes of changes that may wait for the index before the writer waits, too.
const VIEW_MAX: usize = 16 << 20;
/// Bytes and commits of a group.
const GROUP_BYTES: usize = 1 << 20;
const GROUP_COMMITS: usize = 1024;

/// Where a commit's answer goes.
pub(crate) type Answer = oneshot::Sender<Result<Revision>>;

/// A commit in the queue.
#[derive(Debug)]
pub(crate) struct Request {
    /// Its operations.
    pub ops: Vec<Op>,
    /// Whether its answer waits for the disk.
    pub durable: bool,
    /// For the collector: refused where one of these keys was referred to since the collection began.
    pub untouched: Vec<Vec<u8>>,
    /// Its answer.
    pub answer: Answer,
}

/// What the writer is asked for.
#[derive(Debug)]
pub(crate) enum Message {
    /// Write.
    Commit(Request),
    /// A reader met damage in the index.
    Rebuild(String, oneshot::Sender<Result<()>>),
    /// sled serves again: an index of the newest snapshot.
    Reindexed(Index),
    /// A snapshot is finished.
    Snapped(Result<Revision>),
    /// The spare segment is there, or why not.
    Spare(std::io::Result<()>),
}

/// The state of the writing thread.
pub(crate) struct Writer {
    /// The store's folder.
    pub folder: PathBuf,
    /// How it was opened.
    pub options: Options,
    /// How sled is opened.
    pub opener: Opener,
    /// What readers see.
    pub shared: Arc<Shared>,
    /// References made while a collection runs.
    pub touched: Arc<Touched>,
    /// The store's number.
    pub id: StoreId,
    /// Segments: first revision, file, bytes.
    pub segments: Vec<(Revision, PathBuf, u64)>,
    /// The next revision.
    pub next: Revision,
    /// Checksum of the last frame.
    pub crc: u32,
    active: Option<Active>,
    since_snapshot: u64,
    snapper: Option<JoinHandle<()>>,
    /// Makes the spare segment; one at a time, and none outlives the store.
    sparer: Option<JoinHandle<()>>,
    dead: Option<String>,
    full: bool,
    sender: Option<mpsc::WeakSender<Message>>,
    /// Wakes the indexer; its end is the indexer's.
    wake: Option<SyncSender<()>>,
    woken: Arc<Mutex<Receiver<()>>>,
    indexer: Option<JoinHandle<()>>,
}

/// A group after judgement.
#[derive(Default)]
struct Judged<'a> {
    verdicts: Vec<Result<Revision>>,
    passed: Vec<(Revision, &'a [Op])>,
    payload: Vec<u8>,
    durable: bool,
    index_bad: Option<String>,
}

impl Writer {
    /// The writer of a store that ends before `next`.
    pub(crate) fn new(
        folder: &Path,
        options: Options,
        opener: Opener,
        shared: Shared,
        id: StoreId,
        next: Revision,
        crc: u32,
    ) -> Self {
        let (wake, woken) = sync_channel(1);
        Self {
            folder: folder.into(),
            options,
            opener,
            shared: Arc::new(shared),
            touched: Arc::default(),
            id,
            segments: Vec::new(),
            next,
            crc,
            active: None,
            since_snapshot: 0,
            snapper: None,
            sparer: None,
            dead: None,
            full: false,
            sender: None,
            wake: Some(wake),
            woken: Arc::new(Mutex::new(woken)),
            indexer: None,
        }
    }

    /// Serves until every sender is gone.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Message>, sender: mpsc::WeakSender<Message>) {
        self.sender = Some(sender);
        self.since_snapshot = self.segments.iter().map(|segment| segment.2).sum();
        self.order_spare();
        while let Some(message) = queue.blocking_recv() {
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(message);
            loop {
                match next.take() {
                    Some(Message::Commit(request)) => {
                        bytes += frame::size(&request.ops);
                        group.push(request);
                    }
                    Some(other) => {
                        self.group(std::mem::take(&mut group));
                        self.other(other);
                        bytes = 0;
                    }
                    None => break,
                }
                if bytes < GROUP_BYTES && group.len() < GROUP_COMMITS {
                    next = queue.try_recv().ok();
                }
            }
            self.group(group);
        }
        self.close();
    }

    /// Waits for the helpers and notes the end of the log.
    pub(crate) fn close(&mut self) {
        drop(self.wake.take());
        // a snapshot still being written holds sled open: the next opening would find it locked
        for helper in [self.indexer.take(), self.snapper.take(), self.sparer.take()].into_iter().flatten() {
            upkeep::join(helper, self.options.patience);
        }
        if let Some(tail) = self.tail() {
            tail.write(&self.folder);
        }
    }

    /// How far the log reaches, durably from now on; nothing where it is empty or nobody knows.
    fn tail(&self) -> Option<Tail> {
        let known = self.dead.is_none() && !self.options.crash.dead() && self.next.0 > 1 && self.shared.sync().is_ok();
        known.then(|| Tail { id: self.id, revision: Revision(self.next.0 - 1), crc: self.crc })
    }

    fn other(&mut self, message: Message) {
        match message {
            Message::Commit(_) => {}
            Message::Rebuild(why, answer) => {
                let _ = answer.send(self.rebuild(&why));
            }
            Message::Reindexed(index) => self.reindexed(index),
            Message::Snapped(done) => self.snapped(done),
            Message::Spare(Ok(())) => self.full = false,
            Message::Spare(Err(source)) => {
                self.full = is_full(&source);
                tracing::warn!(error = %source, "no spare segment for the metadata log");
            }
        }
    }

    /// Judges, writes and answers a group.
    fn group(&mut self, group: Vec<Request>) {
        if group.is_empty() {
            return;
        }
        if self.options.crash.dead() {
            self.dead.get_or_insert_with(|| "crash point".into());
        }
        let bad = lock(&self.shared.log_bad).take();
        if let Some(why) = bad {
            self.stop(why);
        }
        if let Some(why) = &self.dead {
            for request in group {
                let _ = request.answer.send(Err(StoreError::ReadOnly { why: why.clone() }));
            }
            return;
        }
        if self.full && self.sparer_is_free() {
            self.full = active::make_spare(&self.folder.join("log"), self.options.segment).is_err();
        }
        self.check_indexer();
        let judged = self.judge(&group);
        let failed = match judged.passed.is_empty() {
            true => None,
            false => match self.write(&judged.payload, judged.passed.len() as u32, judged.durable) {
                Ok(()) => {
                    self.show(&judged.passed, judged.durable);
                    None
                }
                Err(error) => Some(error),
            },
        };
        let Judged { verdicts, index_bad, .. } = judged;
        let index_bad = index_bad.or_else(|| lock(&self.shared.index_bad).clone());
        if let Some(Err(error)) = index_bad.map(|why| self.rebuild(&why)) {
            self.stop(format!("no index: {error}"));
        }
        for (request, verdict) in group.into_iter().zip(verdicts) {
            let answer = match (&verdict, &failed) {
                (Ok(_), Some(error)) => Err(error.clone()),
                _ => verdict,
            };
            let _ = request.answer.send(answer);
        }
        self.wait_for_index();
        if self.snapper.as_ref().is_some_and(JoinHandle::is_finished) {
            self.snapped(Ok(Revision(0))); // its message found the queue full
        }
        if self.since_snapshot > self.snapshot_every() && self.snapper.is_none() && self.dead.is_none() {
            self.snapshot();
        }
    }

    /// One commit before the queue is served.
    pub(crate) fn commit_now(&mut self, ops: Vec<Op>) -> Result<Revision> {
        let (answer, mut result) = oneshot::channel();
        self.group(vec![Request { ops, durable: true, untouched: Vec::new(), answer }]);
        result.try_recv().unwrap_or_else(|_| Err(StoreError::ReadOnly { why: "the commit was not answered".into() }))
    }

    /// Judges each commit against the index and what this group has changed already; a refused one leaves no trace.
    fn judge<'a>(&self, group: &'a [Request]) -> Judged<'a> {
        let mut judged = Judged::default();
        let mut changed: HashMap<&[u8], Revision> = HashMap::new();
        for request in group {
            let revision = Revision(self.next.0 + judged.passed.len() as u64);
            let begun = Instant::now();
            let refusal = self.refusal(request, &changed, judged.payload.len());
            if !request.untouched.is_empty() {
                self.shared.note_hold(begun);
            }
            match refusal {
                Some(error) => {
                    if let StoreError::Index(why) = &error {
                        judged.index_bad = Some(why.clone());
                    }
                    judged.verdicts.push(Err(error));
                    continue;
                }
                None => judged.verdicts.push(Ok(revision)),
            }
            for op in &request.ops {
                match op {
                    Op::Put(key, _) => changed.insert(key, revision),
                    Op::Delete(key) => changed.insert(key, Revision::ABSENT),
                    Op::Expect(..) | Op::Event(_) => None,
                };
            }
            self.touched.note(&request.ops);
            frame::encode(&request.ops, &mut judged.payload);
            judged.passed.push((revision, &request.ops));
            judged.durable |= request.durable;
        }
        judged
    }

    /// Why a commit cannot be; `None` where it can.
    fn refusal(&self, request: &Request, changed: &HashMap<&[u8], Revision>, queued: usize) -> Option<StoreError> {
        for op in &request.ops {
            let Op::Expect(key, expected) = op else { continue };
            let found = match changed.get(&key[..]) {
                Some(revision) => *revision,
                None => match self.shared.get(key) {
                    Ok(stored) => stored.map_or(Revision::ABSENT, |stored| stored.revision),
                    Err(error) => return Some(error),
                },
            };
            if found != *expected {
                return Some(StoreError::Conflict { key: key.clone(), expected: *expected, found });
            }
        }
        if let Some(key) = self.touched.any(&request.untouched) {
            return Some(StoreError::Referred { key });
        }
        let size = frame::size(&request.ops);
        if size > frame::PAYLOAD_MAX / 2 {
            return Some(StoreError::TooLarge(size));
        }
        // The rest of the segment is the reserve of a full disk: what only deletes may still have it.
        if self.full && !shrinks(&request.ops) {
            let room = self.active.as_ref().map_or(0, Active::room);
            if room < (queued + size) as u64 + self.options.segment / 4 {
                return Some(StoreError::Full("no room for the next segment of the log".into()));
            }
        }
        None
    }

    /// Shows written commits to readers, and where they are `durable` their events with all that waited.
    fn show(&mut self, passed: &[(Revision, &[Op])], durable: bool) {
        let newest = Revision(self.next.0 + passed.len() as u64 - 1);
        let mut events = events(passed);
        if !durable && let Some(active) = &self.active {
            // before the view: what the indexer takes from there it has synced by this
            lock(&self.shared.durable).wrote(active.file(), newest, std::mem::take(&mut events));
        }
        {
            let begun = Instant::now();
            let mut view = self.shared.view.write().unwrap_or_else(PoisonError::into_inner);
            self.shared.note_hold(begun);
            for (revision, ops) in passed {
                for op in *ops {
                    match op {
                        Op::Put(key, value) => {
                            view.bytes += key.len() + value.len();
                            view.current.insert(key.clone(), Some(seal(key, *revision, value)));
                        }
                        Op::Delete(key) => {
                            view.bytes += key.len();
                            view.current.insert(key.clone(), None);
                        }
                        Op::Event(_) | Op::Expect(..) => {}
                    }
                }
                view.revision = *revision;
            }
        }
        let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        self.next.0 += passed.len() as u64;
        if durable && lock(&self.shared.durable).synced(newest, events) {
            self.shared.tell();
        }
    }

    /// The index lags far behind: let it catch up, so that memory is bounded.
    fn wait_for_index(&self) {
        let patience = Instant::now() + Duration::from_secs(5);
        let behind = || self.shared.view.read().unwrap_or_else(PoisonError::into_inner).bytes > VIEW_MAX;
        while behind() && lock(&self.shared.index_bad).is_none() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn snapshot_every(&self) -> u64 {
        if self.options.snapshot_every > 0 { self.options.snapshot_every } else { 4 * self.options.segment }
    }

    /// Writes one frame and, where it is to be `durable`, waits for the disk.
    fn write(&mut self, payload: &[u8], count: u32, durable: bool) -> Result<()> {
        if self.active.as_ref().is_none_or(|active| active.room() < payload.len() as u64) {
            self.rotate(payload.len())?;
        }
        let behind = self.next.0 - 1 - lock(&self.shared.durable).revision.0;
        let commits = Commits { first: self.next, count, lag: u32::try_from(behind).unwrap_or(u32::MAX) };
        let active = self.active.as_mut().expect("made just now");
        let before = active.used();
        match active.append(commits, payload, durable, &self.options.crash) {
            Ok(()) => {
                self.crc = active.crc();
                self.since_snapshot += active.used() - before;
                Ok(())
            }
            // After a failed sync nobody knows what the disk holds (the kernel forgets the pages): stop, and let a restart read it.
            Err(source) => {
                let why = format!("the log could not be written: {source}");
                self.stop(why.clone());
                Err(StoreError::ReadOnly { why })
            }
        }
    }

    fn stop(&mut self, why: String) {
        tracing::error!(why, "metadata can only be read until a restart");
        *lock(&self.shared.health) = Some(why.clone());
        self.dead = Some(why);
    }

    fn rotate(&mut self, payload: usize) -> Result<()> {
        // A segment is on the disk before the next one begins: only the last may have lost its end.
        if let Err(source) = self.shared.sync() {
            let why = format!("the log could not be synced: {source}");
            self.stop(why.clone());
            return Err(StoreError::ReadOnly { why });
        }
        let size = self.options.segment.max((HEADER + frame::HEAD + payload) as u64);
        let plan = Plan { id: self.id, first: self.next, previous: self.crc, size };
        let active = Active::create(&self.folder.join("log"), plan, &self.options.crash).map_err(|error| {
            if self.options.crash.dead() {
                self.dead = Some("crash point".into());
                return StoreError::ReadOnly { why: "crash point".into() };
            }
            self.full |= matches!(error, StoreError::Full(_));
            error
        })?;
        self.segments.push((self.next, active.path.clone(), size));
        lock(&self.shared.durable).segments.push((self.next, active.path.clone()));
        self.active = Some(active);
        self.order_spare();
        Ok(())
    }

    fn sparer_is_free(&self) -> bool {
        self.sparer.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Has the next segment zero-filled beside the commits.
    fn order_spare(&mut self) {
        if !self.sparer_is_free() {
            return;
        }
        let (folder, size, sender) = (self.folder.join("log"), self.options.segment, self.sender.clone());
        self.sparer = Some(std::thread::spawn(move || {
            let done = active::make_spare(&folder, size);
            if let Some(sender) = sender.and_then(|sender| sender.upgrade()) {
                let _ = sender.try_send(Message::Spare(done));
            }
        }));
    }
}

/// The events of commits, with their places.
fn events(passed: &[(Revision, &[Op])]) -> Vec<(Cursor, Bytes)> {
    let mut found = Vec::new();
    for (revision, ops) in passed {
        let events = ops.iter().filter_map(|op| if let Op::Event(event) = op { Some(event) } else { None });
        let placed = events.zip(0..).map(|(event, index)| (Cursor { revision: *revision, index }, event.clone()));
        found.extend(placed);
    }
    found
}

/// Whether a commit only takes away.
fn shrinks(ops: &[Op]) -> bool {
    ops.iter().any(|op| matches!(op, Op::Delete(_))) && !ops.iter().any(|op| matches!(op, Op::Put(..)))
}
