//! The layers on disk: backends that keep the folders of snapshots and know nothing but numbers.
//!
//! Names, kinds, parents and labels of snapshots live in the metadata store; a [`Backend`] is told the parents at each
//! call. An id that has no record is an orphan, found by [`Backend::ids`] and removed. All methods block: async callers
//! go through [`Offload`].
//!
//! ```text
//! create ──▶ active ──commit──▶ committed (may be a parent)      remove: renamed into trash/, O(1)
//! view   ──▶ read-only, no copy of anything                      cleanup: empties trash/
//! ```
//! What every backend keeps on disk: `<root>/snapshots/<n>` (whole, or absent), `<root>/new/…` (being made),
//! `<root>/trash/…` (being removed). A crash leaves things in `new/` and `trash/` only; opening moves the former to the latter.

pub mod btrfs;
pub mod native;
pub mod offload;
pub mod overlay;
mod places;
pub mod suite;

pub use btrfs::Btrfs;
pub use native::Native;
pub use offload::Offload;
pub use overlay::Overlay;

use crated_types::{Mount, Result};
use std::fmt;
use std::path::Path;

/// The number of a snapshot; never used twice by the metadata store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a snapshot is to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A view.
    ReadOnly,
    /// An active snapshot.
    ReadWrite,
}

/// Disk used by one snapshot, parents excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Keeps the folders of snapshots. `parents` are always nearest first, and all committed.
///
/// Methods for different ids may run at the same time; for one id the caller orders them.
pub trait Backend: Send + Sync + fmt::Debug {
    /// The plugin's id, as containerd's clients know it: `overlayfs`, `native`, `btrfs`.
    fn name(&self) -> &'static str;

    /// The folder that all snapshots are in.
    fn root(&self) -> &Path;

    /// Makes a writable snapshot over `parents`: whole or, after a crash or an error, not there at all.
    ///
    /// # Errors
    /// `AlreadyExists` where the id is there, `NotFound` where a parent is not.
    fn create(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()>;

    /// Makes a view over `parents`: as [`create`](Self::create), but nothing is copied and [`mounts`](Self::mounts) is
    /// only called with [`Access::ReadOnly`].
    ///
    /// # Errors
    /// As for `create`.
    fn view(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()>;

    /// The mounts that show the snapshot; touches no disk but to see that it is there.
    ///
    /// # Errors
    /// `NotFound` where the id or a parent is not there.
    fn mounts(&self, id: SnapshotId, parents: &[SnapshotId], access: Access) -> Result<Vec<Mount>>;

    /// Freezes an active snapshot: all of it is on the disk when this answers. Doing it again is no error.
    ///
    /// # Errors
    /// `NotFound`, or the disk's.
    fn commit(&self, id: SnapshotId) -> Result<Usage>;

    /// Removes a snapshot in constant time: it is gone from [`ids`](Self::ids), its bytes are freed by
    /// [`cleanup`](Self::cleanup). One that is not there is no error.
    ///
    /// # Errors
    /// The disk's.
    fn remove(&self, id: SnapshotId) -> Result<()>;

    /// Counts disk use now; parents excluded. Zero for views.
    ///
    /// # Errors
    /// `NotFound`, or the disk's.
    fn usage(&self, id: SnapshotId) -> Result<Usage>;

    /// Every snapshot that is on disk, in ascending order.
    ///
    /// # Errors
    /// The disk's.
    fn ids(&self) -> Result<Vec<SnapshotId>>;

    /// Frees what [`remove`](Self::remove) put aside; may take long, may run beside everything else.
    ///
    /// # Errors
    /// The first that was met; the rest is freed nevertheless.
    fn cleanup(&self) -> Result<()>;

    /// What clients may ask of it: `rebase` (commit may set a parent).
    fn capabilities(&self) -> &[&'static str];
}
