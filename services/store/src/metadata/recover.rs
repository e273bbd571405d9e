//! Opening a store: log, then snapshot, then index, believing nothing that does not add up.
//!
//! ```text
//! segments chained and whole? ── no, index whole and as new ─▶ heal: snapshot from the index, log set aside
//!        │ yes                └─ no, snapshot behind damage ─▶ heal: index from it and the log, log set aside
//!        ▼                    └─ else ───────────────────────▶ refuse, naming file, byte and revisions
//! reseal the last segment ─▶ index adds up? ── no ─▶ delete it; snapshot + log into a new one (or memory)
//!        ▼ yes
//! replay what it has not got ─▶ open
//! ```

use crated_core::{Op, Revision};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Result, StoreError};
use super::frame::StoreId;
use super::index::{Index, Opener};
use super::seal::{Changes, seal};
use super::segment::{self, Segment, sync_folder};
use super::snapshot::{self, Snapshot};
use super::tail::Tail;
use super::view::{Durable, Shared};
use super::writer::Writer;
use super::{Options, Report};

/// The log as it was found.
struct Found {
    segments: Vec<Segment>,
    /// The first damage that is not a torn tail.
    rot: Option<StoreError>,
}

impl Found {
    fn read(folder: &Path, watch: Revision) -> Result<Self> {
        let mut found = Self { segments: Vec::new(), rot: None };
        for (_, path) in segment::list(folder, "seg")? {
            match Segment::look(&path, watch) {
                Ok(segment) => found.add(segment),
                Err(error @ StoreError::Corrupt { .. }) => found.rot = found.rot.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        found.rot = found.rot.take().or_else(|| found.tail());
        Ok(found)
    }

    /// Damage in the last segment: a whole frame stands behind it.
    fn tail(&self) -> Option<StoreError> {
        let (last, later) = self.segments.last().and_then(|last| Some((last, last.later?)))?;
        let why = format!("revisions {}..={} are damaged", last.next.0, later.0);
        Some(StoreError::corrupt(&last.path, last.end, why))
    }

    fn add(&mut self, segment: Segment) {
        if let Some(last) = self.segments.last()
            && (segment.first != last.next || segment.previous != last.crc || segment.id != last.id)
        {
            let why = format!("revisions {}..{} are damaged", last.next.0, segment.first.0);
            self.rot.get_or_insert(StoreError::corrupt(&last.path, last.end, why));
        }
        self.segments.push(segment);
    }

    /// What the note of the log's end says against this log, which reaches as far as `known` with its snapshots.
    fn against(&self, folder: &Path, tail: Option<Tail>, known: Revision) -> Option<StoreError> {
        let tail = tail?;
        let Some(last) = self.segments.last() else {
            let why = format!("revisions {}..={} were durable and are gone", known.0 + 1, tail.revision.0);
            let ours = snapshot::newest(&folder.join("snap")).ok().flatten().is_none_or(|found| found.id == tail.id);
            return (ours && tail.revision > known).then(|| StoreError::corrupt(&folder.join("log"), 0, why));
        };
        if last.id != tail.id {
            return None; // of the store that was here before a repair
        }
        if tail.revision > known {
            let why = format!("revisions {}..={} were durable and are gone", last.next.0, tail.revision.0);
            return Some(StoreError::corrupt(&last.path, last.end, why));
        }
        let other = self.segments.iter().find(|segment| segment.watched.is_some_and(|crc| crc != tail.crc))?;
        let why = format!("revision {} is not the one that was durable", tail.revision.0);
        Some(StoreError::corrupt(&other.path, 0, why))
    }

    /// The revision that the note of the log's end vouches for, where the note is this log's.
    fn vouched(&self, tail: Option<Tail>) -> Revision {
        let ours = |tail: &Tail| self.segments.last().is_none_or(|last| last.id == tail.id);
        tail.filter(ours).unwrap_or_default().revision
    }

    /// The newest revision of which there is a trace.
    fn newest(&self) -> Revision {
        let newest = |segment: &Segment| segment.later.unwrap_or_default().max(Revision(segment.next.0 - 1));
        self.segments.iter().map(newest).max().unwrap_or_default()
    }

    fn last(&self) -> Revision {
        self.segments.last().map_or(Revision(0), |segment| Revision(segment.next.0 - 1))
    }

    fn first(&self) -> Revision {
        self.segments.first().map_or(Revision(1), |segment| segment.first)
    }

    fn paths(&self) -> impl Iterator<Item = &Path> + Clone {
        self.segments.iter().map(|segment| segment.path.as_path())
    }
}

/// How sled is opened below `folder`.
pub(crate) fn opener(folder: &Path, options: &Options) -> Opener {
    Opener {
        folder: folder.join("index"),
        cache: options.cache,
        patience: options.patience,
        hook: options.crash.clone(),
        stuck: Arc::default(),
    }
}

/// Recovers the store of `folder`, which is locked by us.
pub(crate) fn recover(folder: &Path, options: Options) -> Result<(Writer, Report)> {
    let tail = Tail::read(folder)?;
    let mut found = Found::read(&folder.join("log"), tail.unwrap_or_default().revision)?;
    let opener = opener(folder, &options);
    let index = opener.open();
    if let Some(damage) = found.rot.take() {
        let newest = found.newest().max(found.vouched(tail));
        return match index {
            Ok(index) if index.tally().applied >= newest && index.tally().applied.0 > 0 => {
                heal(folder, options, (opener, index), store_id(folder, &found)?, damage.to_string())
            }
            _ => heal_from_snapshot(folder, options, opener, (found, newest), damage),
        };
    }
    let snapshots = segment::list(&folder.join("snap"), "snap")?;
    let known = found.last().max(snapshots.last().map_or(Revision(0), |snapshot| snapshot.0));
    if let Some(damage) = found.against(folder, tail, known) {
        let wanted = tail.unwrap_or_default();
        return match index {
            Ok(index) if index.tally().applied >= wanted.revision.max(known) => {
                heal(folder, options, (opener, index), wanted.id, damage.to_string())
            }
            _ => Err(damage),
        };
    }
    let mut report = Report::default();
    if let Some(last) = found.segments.last_mut() {
        report.torn = last.torn;
        last.reseal()?;
    }
    let id = store_id(folder, &found)?;
    let index = match index {
        Ok(index) if index.tally().applied > known => {
            let why = format!("the log ends at {}, the index is at {}", known.0, index.tally().applied.0);
            return heal(folder, options, (opener, index), id, why);
        }
        index => usable(index, &found, known),
    };
    let replayed = index.and_then(|index| {
        report.replayed = replay(&index, found.paths()).map_err(|error| error.to_string())?;
        Ok(index)
    });
    let index = match replayed {
        Ok(index) => index,
        Err(why) => {
            // a fresh store has neither log nor snapshot nor index: that is no repair
            report.rebuilt = (known.0 > 0).then_some(why);
            let base = snapshot::newest(&folder.join("snap"))?.unwrap_or_default();
            if base.revision.0 + 1 < found.first().0 {
                let why = format!("no whole snapshot for a log that starts at {}", found.first().0);
                return Err(StoreError::corrupt(&folder.join("snap"), 0, why));
            }
            build(&opener, base, found.paths())?
        }
    };
    let applied = index.tally().applied;
    if applied < known {
        let why = format!("revisions {}..={} are missing", applied.0 + 1, known.0);
        return Err(StoreError::corrupt(&folder.join("log"), 0, why));
    }
    report.in_memory = !index.is_sled();
    report.revision = applied;
    let segments = keep(&found);
    let crc = found.segments.last().map_or(0, |segment| segment.crc);
    Ok((writer(folder, options, (opener, index), id, segments, crc), report))
}

/// An index from which the log can be replayed.
fn usable(index: Result<Index>, found: &Found, known: Revision) -> std::result::Result<Index, String> {
    let index = index.map_err(|error| error.to_string())?;
    let (applied, first) = (index.tally().applied, found.first());
    if applied.0 + 1 >= first.0 && (applied.0 > 0 || first.0 == 1) && (applied >= known || !found.segments.is_empty()) {
        return Ok(index);
    }
    Err(format!("index at {} is older than log and snapshots, which end at {}", applied.0, known.0))
}

/// Removes empty segments and lists the others.
fn keep(found: &Found) -> Vec<(Revision, PathBuf, u64)> {
    let (full, empty): (Vec<_>, Vec<_>) = found.segments.iter().partition(|segment| segment.next > segment.first);
    for segment in empty {
        let _ = std::fs::remove_file(&segment.path);
    }
    full.iter().map(|segment| (segment.first, segment.path.clone(), segment.size)).collect()
}

fn writer(
    folder: &Path,
    options: Options,
    (opener, index): (Opener, Index),
    id: StoreId,
    segments: Vec<(Revision, PathBuf, u64)>,
    crc: u32,
) -> Writer {
    let last = index.tally().applied;
    let paths = segments.iter().map(|(first, path, _)| (*first, path.clone())).collect();
    let shared = Shared::new(index, Durable::new(last, paths));
    let mut writer = Writer::new(folder, options, opener, shared, id, Revision(last.0 + 1), crc);
    writer.segments = segments;
    writer
}

/// The store's number: the log's, a snapshot's, or a new one.
fn store_id(folder: &Path, found: &Found) -> Result<StoreId> {
    if let Some(segment) = found.segments.last() {
        return Ok(segment.id);
    }
    if let Some(snapshot) = snapshot::newest(&folder.join("snap"))? {
        return Ok(snapshot.id);
    }
    new_id()
}

/// The number of a new store.
pub(crate) fn new_id() -> Result<StoreId> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| StoreError::io("read", path, &source))?;
    Ok(StoreId(u64::from_le_bytes(bytes)))
}

/// Everything that is wrong with the files of log and snapshots.
pub(crate) fn survey(folder: &Path) -> Result<Vec<StoreError>> {
    let mut wrong = Vec::new();
    let mut found = Found { segments: Vec::new(), rot: None };
    for (_, path) in segment::list(&folder.join("log"), "seg")? {
        match Segment::look(&path, Revision::default()) {
            Ok(segment) => {
                found.add(segment);
                wrong.extend(found.rot.take());
            }
            Err(error @ StoreError::Corrupt { .. }) => wrong.push(error),
            Err(error) => return Err(error),
        }
    }
    wrong.extend(found.tail());
    for (_, path) in segment::list(&folder.join("snap"), "snap")? {
        wrong.extend(snapshot::open(&path).err());
    }
    Ok(wrong)
}

/// The index is whole, the log is not: a new snapshot from the index, the damaged log set aside, a new log after it.
fn heal(
    folder: &Path,
    options: Options,
    (opener, index): (Opener, Index),
    id: StoreId,
    why: String,
) -> Result<(Writer, Report)> {
    let revision = index.tally().applied;
    snapshot::write(&folder.join("snap"), id, revision, &index, &options.crash)?;
    set_aside(folder).map_err(|source| StoreError::io("set aside", &folder.join("log"), &source))?;
    let report = Report { revision, healed: Some(why), in_memory: !index.is_sled(), ..Report::default() };
    Ok((writer(folder, options, (opener, index), id, Vec::new(), 0), report))
}

/// The log is damaged and the index is no help: the newest snapshot may lie behind the damage.
fn heal_from_snapshot(
    folder: &Path,
    options: Options,
    opener: Opener,
    (found, newest): (Found, Revision),
    damage: StoreError,
) -> Result<(Writer, Report)> {
    let Some(base) = snapshot::newest(&folder.join("snap"))? else { return Err(damage) };
    // segments that could not be read at all break the chain between their neighbours
    let Some(from) = found.segments.iter().rposition(|segment| segment.first.0 <= base.revision.0 + 1) else {
        return Err(damage);
    };
    let rest = &found.segments[from..];
    let chained = rest.windows(2).all(|pair| pair[0].next == pair[1].first && pair[0].crc == pair[1].previous);
    let reaches = rest[0].next > base.revision
        && (rest.len() > 1 || rest[0].next.0 > base.revision.0 + 1 || rest[0].later.is_none());
    let sound = chained && reaches && rest.last().is_some_and(|last| last.later.is_none());
    let newest_file = segment::list(&folder.join("log"), "seg")?.last().map(|(_, path)| path.clone());
    if !sound || newest_file != rest.last().map(|last| last.path.clone()) {
        return Err(damage);
    }
    let id = base.id;
    let index = build(&opener, base, rest.iter().map(|segment| segment.path.as_path()))?;
    if index.tally().applied < newest {
        return Err(damage);
    }
    heal(folder, options, (opener, index), id, damage.to_string())
}

fn set_aside(folder: &Path) -> std::io::Result<()> {
    let (from, to) = (folder.join("log"), folder.join("log.bad"));
    match std::fs::remove_dir_all(&to) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(source),
        _ => {}
    }
    std::fs::rename(&from, &to)?;
    std::fs::create_dir(&from)?;
    sync_folder(folder)
}

/// A new index from snapshot and log: sled, or memory where sled will not have it (full disk, or it stands still).
fn build<'a>(opener: &Opener, base: Snapshot, log: impl Iterator<Item = &'a Path>) -> Result<Index> {
    let log: Vec<PathBuf> = log.map(Path::to_path_buf).collect();
    let fill = |base: Snapshot, log: Vec<PathBuf>| {
        move |index: &Index, beat: &dyn Fn()| -> Result<()> {
            index.load(base.revision, beat, &|put| base.each(put))?;
            for path in &log {
                beat();
                replay(index, std::iter::once(path.as_path()))?;
            }
            Ok(())
        }
    };
    match opener.create(fill(base.clone(), log.clone())) {
        Err(error) if !matches!(error, StoreError::Corrupt { .. }) => {
            tracing::warn!(%error, "the metadata index is kept in memory");
            let index = Index::memory();
            fill(base, log)(&index, &|| {})?;
            Ok(index)
        }
        answer => answer,
    }
}

/// Applies what an index has not got yet, a segment at a time; answers how many commits that were.
pub(crate) fn replay<'a>(index: &Index, log: impl Iterator<Item = &'a Path>) -> Result<u64> {
    let from = index.tally().applied;
    for path in log {
        let mut changes = Changes::new();
        let mut last = index.tally().applied;
        let mut gap = None;
        Segment::read(path, last, |revision, ops| {
            if revision <= last || gap.is_some() {
                return;
            }
            if revision.0 != last.0 + 1 {
                gap = Some(revision);
                return;
            }
            for op in ops {
                match op {
                    Op::Put(key, value) => {
                        let sealed = seal(&key, revision, &value);
                        changes.insert(key, Some(sealed));
                    }
                    Op::Delete(key) => {
                        changes.insert(key, None);
                    }
                    Op::Expect(..) | Op::Event(_) => {}
                }
            }
            last = revision;
        })?;
        if let Some(revision) = gap {
            return Err(StoreError::corrupt(path, 0, format!("revision {} follows {}", revision.0, last.0)));
        }
        index.apply(&changes, last)?;
    }
    Ok(index.tally().applied.0 - from.0)
}
