//! The last resort: every record that holds, from wherever it stands, the newest of each key; then a new store of them.

use bytes::Bytes;
use crated_core::{Op, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::error::{Result, StoreError};
use super::frame::StoreId;
use super::index::{Index, Opener, all_of};
use super::offline::Repair;
use super::recover::{self, opener};
use super::seal::{Sealed, seal};
use super::segment::{self, Segment, sync_folder};
use super::tail::Tail;
use super::{Hook, Options, snapshot};

/// What was found so far.
#[derive(Default)]
struct Found {
    /// The newest trace of each key; a deletion is one, too.
    records: BTreeMap<Vec<u8>, (Revision, Option<Bytes>)>,
    /// Revisions that were read in the log.
    read: BTreeSet<u64>,
    /// Up to here a snapshot has everything.
    base: Revision,
    newest: Revision,
    id: Option<StoreId>,
}

impl Found {
    fn take(&mut self, key: Vec<u8>, revision: Revision, sealed: Option<Bytes>) {
        self.newest = self.newest.max(revision);
        let known = self.records.entry(key).or_insert((Revision::ABSENT, None));
        if revision > known.0 {
            *known = (revision, sealed);
        }
    }

    fn take_sealed(&mut self, key: &[u8], sealed: Bytes) {
        if let Ok(stored) = super::seal::unseal(key, &sealed) {
            self.take(key.to_vec(), stored.revision, Some(sealed));
        }
    }

    fn snapshots(&mut self, folder: &Path) -> Result<()> {
        for (_, path) in segment::list(folder, "snap")? {
            let Ok(snapshot) = snapshot::open(&path) else { continue };
            self.id = self.id.or(Some(snapshot.id));
            self.base = self.base.max(snapshot.revision);
            self.newest = self.newest.max(snapshot.revision);
            snapshot.each(&mut |key, sealed| {
                self.take_sealed(&key, sealed);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Whole frames, wherever they stand.
    fn log(&mut self, folder: &Path) -> Result<()> {
        let segments = segment::list(folder, "seg")?;
        let readable = segments.iter().find_map(|(_, path)| Segment::read(path, Revision(u64::MAX), |_, _| {}).ok());
        self.id = readable.map(|segment| segment.id).or(self.id);
        let Some(id) = self.id else { return Ok(()) };
        for (_, path) in segments {
            segment::frames(&path, id, |revision, ops| {
                self.read.insert(revision.0);
                self.newest = self.newest.max(revision);
                for op in ops {
                    match op {
                        Op::Put(key, value) => {
                            let sealed = seal(&key, revision, &value);
                            self.take(key, revision, Some(sealed));
                        }
                        Op::Delete(key) => self.take(key, revision, None),
                        Op::Expect(..) | Op::Event(_) => {}
                    }
                }
            })?;
        }
        Ok(())
    }

    fn index(&mut self, opener: &Opener) {
        let Ok(index) = opener.what_holds() else { return };
        let _ = index.scan(b"", b"", |key, sealed| {
            self.take_sealed(key, sealed);
            ControlFlow::Continue(())
        });
    }

    fn lost(&self) -> Vec<(u64, u64)> {
        let mut lost: Vec<(u64, u64)> = Vec::new();
        for revision in (self.base.0 + 1..=self.newest.0).filter(|revision| !self.read.contains(revision)) {
            match lost.last_mut() {
                Some((_, last)) if *last + 1 == revision => *last = revision,
                _ => lost.push((revision, revision)),
            }
        }
        lost
    }
}

/// Reads everything of `copy` and puts a new store into `folder`.
pub(crate) fn salvage(folder: &Path, copy: &Path) -> Result<Repair> {
    let mut found = Found::default();
    found.snapshots(&copy.join("snap"))?;
    found.log(&copy.join("log"))?;
    found.index(&opener(copy, &Options::default()));
    // numbers that were given out are not given out again
    found.newest = found.newest.max(Tail::read(copy)?.unwrap_or_default().revision);
    let lost = found.lost();
    let records: Sealed = found.records.into_iter().filter_map(|(key, (_, sealed))| Some((key, sealed?))).collect();
    let index = Index::memory();
    index.load(found.newest, &|| {}, &all_of(&records))?;
    let new = folder.join("snap.new");
    let failed = |source| StoreError::io("set aside in", folder, &source);
    let _ = std::fs::remove_dir_all(&new);
    std::fs::create_dir(&new).map_err(failed)?;
    // never the old number: what is left of the old log must not pass for ours
    snapshot::write(&new, recover::new_id()?, found.newest, &index, &Hook::default())?;
    // an end in the middle leaves a store that is refused, not an empty one
    let mut aside = Vec::new();
    for part in ["index", "snap", "log"] {
        aside.extend(set_aside(folder, part).map_err(failed)?);
        if part == "snap" {
            std::fs::rename(&new, folder.join("snap")).map_err(failed)?;
        }
        sync_folder(folder).map_err(failed)?;
    }
    std::fs::create_dir(folder.join("log")).and_then(|()| sync_folder(folder)).map_err(failed)?;
    Ok(Repair { lost, aside, ..Repair::default() })
}

/// Renames a folder to the first free name of `<part>.bad`, `<part>.bad-2`, …
fn set_aside(folder: &Path, part: &str) -> std::io::Result<Option<PathBuf>> {
    let free = (1..).map(|number| match number {
        1 => folder.join(format!("{part}.bad")),
        _ => folder.join(format!("{part}.bad-{number}")),
    });
    let Some(to) = free.into_iter().find(|path| !path.exists()) else { return Ok(None) };
    match std::fs::rename(folder.join(part), &to) {
        Ok(()) => Ok(Some(to)),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(source),
    }
}
