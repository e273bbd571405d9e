//! Migrations: records of an older crated become those of this one, when the store is opened and before anybody reads it.
//!
//! ```text
//! schema raised, `migrating` written ─▶ each step in order, by ordinary commits ─▶ `migrating` removed
//!            crash anywhere: the next opening begins again with the first step; each can be run on its own result
//! ```
//! A new version adds a [`Step`] at the end of [`STEPS`], raises [`schema::SCHEMA`], and gets a store of the version before it under
//! `tests/kept`, written by `cargo run -p crated-store --example kept`.

use crated_core::record::{Mark, SNAPSHOTS};
use crated_core::{Op, Revision, Stored};
use std::path::Path;

use super::error::{Result, StoreError};
use super::schema;
use super::writer::Writer;

/// Records that a step reads and changes at a time.
const PAGE: usize = 256;

/// What a step works on: the store, opened, with nobody else in it.
pub(crate) struct Editor<'a>(&'a mut Writer);

impl Editor<'_> {
    /// Shows each record below `prefix`, and commits what `edit` makes of it, a page at a time.
    fn each(
        &mut self,
        prefix: &[u8],
        mut edit: impl FnMut(&Self, &[u8], &Stored, &mut Vec<Op>) -> Result<()>,
    ) -> Result<()> {
        let mut after = Vec::new();
        loop {
            let page = self.0.shared.scan(prefix, &after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            let mut ops = Vec::new();
            for (key, stored) in &page {
                edit(self, key, stored, &mut ops)?;
            }
            if !ops.is_empty() {
                self.0.commit_now(ops)?;
            }
        }
    }

    fn has(&self, key: &[u8]) -> Result<bool> {
        Ok(self.0.shared.get(key)?.is_some())
    }
}

/// How one version becomes the next.
pub(crate) struct Step {
    /// What it does, for the daemon's log.
    pub what: &'static str,
    /// Does it; run again it changes nothing more.
    pub run: fn(&mut Editor<'_>) -> Result<()>,
}

/// The step from version `n` stands at `n`.
pub(crate) const STEPS: &[Step] = &[
    Step { what: "marks of children on their snapshots' parents", run: children },
    // what the older crated wrote is read as it is; what is written from now on it would take for damage
    Step { what: "a log whose frames need not be synced one by one", run: |_| Ok(()) },
];

/// 0 → 1: a snapshot with a parent has a mark on it; before, a removal looked through all snapshots.
fn children(editor: &mut Editor<'_>) -> Result<()> {
    let bad = |key: &[u8]| StoreError::Index(format!("record {} cannot be read", super::error::shown(key)));
    editor.each(&SNAPSHOTS.prefix(""), |editor, key, stored, ops| {
        let snapshot = SNAPSHOTS.decode(key, &stored.value).map_err(|_| bad(key))?;
        let (namespace, id) = SNAPSHOTS.parts(key).ok_or_else(|| bad(key))?;
        let (snapshotter, name) = id.split_once('\0').ok_or_else(|| bad(key))?;
        let mark = crate::snapshots::child_key(namespace, snapshotter, &snapshot.parent, name);
        if !snapshot.parent.is_empty() && !editor.has(&mark)? {
            ops.extend([Op::Expect(mark.clone(), Revision::ABSENT), crate::snapshots::CHILDREN.put(mark, &Mark {})]);
        }
        Ok(())
    })
}

/// Brings the records of a store to this program's version; answers which one they had, where that was another.
pub(crate) fn run(writer: &mut Writer, folder: &Path) -> Result<Option<u32>> {
    let from = schema::of_records(folder)?;
    let interrupted = from < schema::read(folder)?;
    if from >= schema::SCHEMA && !interrupted {
        return Ok(None);
    }
    schema::begin(folder, from)?;
    for step in &STEPS[from as usize..] {
        tracing::info!(from, to = schema::SCHEMA, what = step.what, "migrating the metadata");
        (step.run)(&mut Editor(writer))?;
    }
    schema::end(folder)?;
    Ok(Some(from))
}
