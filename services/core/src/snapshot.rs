//! Port: named snapshots of one snapshotter. There is one implementation (`services/store`), over any backend.

use async_trait::async_trait;
use crated_types::filter::Filters;
use crated_types::{Error, Fault, Kind, Labels, Mount, Result, Scope, SnapshotKey};
use std::fmt::Debug;

use crate::mask::Mask;
use crate::record::Snapshot;

/// What a snapshot is; numbers as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum SnapshotKind {
    /// Read-only, with mounts.
    View = 1,
    /// Writable, with mounts.
    Active = 2,
    /// Immutable, may be a parent.
    Committed = 3,
}

impl SnapshotKind {
    /// The kind of a record's number.
    #[must_use]
    pub const fn from_i32(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::View),
            2 => Some(Self::Active),
            3 => Some(Self::Committed),
            _ => None,
        }
    }
}

/// Disk used by one snapshot, parents excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Snapshots by name (SEMANTICS: snapshots has calls, results and errors).
#[async_trait]
pub trait Snapshotter: Send + Sync + Debug {
    /// Its name, e.g. `overlayfs`.
    fn name(&self) -> &str;
    /// Describes one.
    async fn stat(&self, scope: &Scope, key: &SnapshotKey) -> Result<Snapshot>;
    /// Changes labels.
    async fn update(&self, scope: &Scope, key: &SnapshotKey, labels: &Labels, mask: &Mask) -> Result<Snapshot>;
    /// Disk used.
    async fn usage(&self, scope: &Scope, key: &SnapshotKey) -> Result<Usage>;
    /// The mounts of an active one or a view.
    async fn mounts(&self, scope: &Scope, key: &SnapshotKey) -> Result<Vec<Mount>>;
    /// Opens a writable child of `parent`.
    async fn prepare(
        &self,
        scope: &Scope,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>>;
    /// Opens a read-only child of `parent`.
    async fn view(
        &self,
        scope: &Scope,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>>;
    /// Turns the active `key` into the committed `name`; `parent` rebases one that has none.
    async fn commit(
        &self,
        scope: &Scope,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<()>;
    /// Removes one without children.
    async fn remove(&self, scope: &Scope, key: &SnapshotKey) -> Result<()>;
    /// Those that pass, in order of their names.
    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Snapshot>>;
    /// Gives the committed `name` the files of the active `key`, which is gone then: its own folder was lost. Both have the same
    /// parent, children go on with the new files, and a leftover folder is an orphan.
    ///
    /// # Errors
    /// [`crated_types::Fault::Unsupported`] where the implementation has no folders.
    async fn renew(&self, _scope: &Scope, name: &SnapshotKey, _key: &SnapshotKey) -> Result<()> {
        Err(Error::new(Fault::Unsupported, "its files cannot be made again").on(Kind::Snapshot, name))
    }
    /// Finishes what removals left on disk.
    async fn cleanup(&self) -> Result<()>;
}
