//! Layers: a tar stream into a folder ([`apply`]), and the difference of two folders into a tar stream ([`diff`]).
//!
//! ```text
//! apply:  reader ─▶ decompress ─┬─▶ SHA-256 (to the last byte)         one thread each, bounded queues of buffers
//!                               └─▶ tar entries ─▶ Tree ─▶ openat, write, futimens
//! diff:   walk upper beside lower (or an overlay's upper folder alone) ─▶ tar ─▶ SHA-256 ─▶ compress ─▶ SHA-256 ─▶ writer
//! ```
//! All of it blocks. A layer's bytes are hostile: every name is walked by descriptors, one component at a time, and a
//! symbolic link is resolved by us against the layer's root; see [`mod@tree`].

mod apply;
pub mod compress;
mod diff;
mod limits;
mod mounts;
mod pipe;
mod read;
mod tree;
mod write;

#[cfg(test)]
mod tests;

pub use compress::Compression;
pub use limits::Limits;
pub use mounts::with_mounts;

use crated_types::{Digest, Mount, Result};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a whiteout becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The root is a whole tree: a whiteout deletes.
    Direct,
    /// The root is an upper folder of overlayfs: a whiteout becomes a 0/0 device, an opaque folder gets its attribute.
    Overlay {
        /// The folders below, nearest first: folders that the layer does not mention are made as they are there.
        lower: Vec<PathBuf>,
    },
}

/// Where a layer is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyTarget {
    /// The folder; it must exist.
    pub root: PathBuf,
    /// What whiteouts become.
    pub mode: Mode,
}

impl ApplyTarget {
    /// A whole tree: whiteouts delete.
    pub fn direct(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), mode: Mode::Direct }
    }

    /// The upper folder of an overlay over `lower`, nearest first.
    pub fn overlay(upper: impl Into<PathBuf>, lower: Vec<PathBuf>) -> Self {
        Self { root: upper.into(), mode: Mode::Overlay { lower } }
    }
}

/// How a layer is applied.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// What a hostile layer may cost.
    pub limits: Limits,
    /// Whether the file system is synced before the answer.
    pub sync: bool,
}

/// What was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// SHA-256 of the uncompressed tar, trailing bytes included.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub size: u64,
    /// Entries of the tar.
    pub entries: u64,
}

/// Applies a layer (tar, gzip or zstd, told by its first bytes) as it is read; reads to the end of `reader`.
///
/// # Errors
/// `Malformed` with the entry's name for a hostile or damaged layer, `DiskFull`, or what the reader or the kernel says
/// (an error of this project inside an `io::Error` is passed on). The target then holds a part: throw it away.
pub fn apply(reader: impl Read + Send, target: &ApplyTarget, options: &ApplyOptions) -> Result<Applied> {
    apply::run(reader, target, options)
}

/// Applies a layer to a snapshot's mounts: straight to the upper folder of a single overlay or to the source of a bind
/// mount, else to the mounts at a private place.
///
/// # Errors
/// As for [`apply`], and those of mounting.
pub fn apply_to_mounts(reader: impl Read + Send, mounts: &[Mount], options: &ApplyOptions) -> Result<Applied> {
    match mounts::target(mounts) {
        Some(target) => apply(reader, &target, options),
        None => with_mounts(mounts, |root| apply(reader, &ApplyTarget::direct(root), options)),
    }
}

/// How a layer is made.
#[derive(Clone, Debug)]
pub struct DiffOptions {
    /// How it is compressed.
    pub compression: Compression,
    /// No time in the layer is later; whiteouts have this time (else the epoch).
    pub source_date_epoch: Option<SystemTime>,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self { compression: Compression::Gzip, source_date_epoch: None }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// SHA-256 of the bytes that the writer got.
    pub digest: Digest,
    /// Bytes that the writer got.
    pub size: u64,
    /// SHA-256 of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub diff_size: u64,
    /// Entries of the tar.
    pub entries: u64,
}

/// Writes the layer that makes `upper` of `lower` (of nothing where there is none). The same trees give the same bytes.
///
/// # Errors
/// The kernel's or the writer's.
pub fn diff(lower: Option<&Path>, upper: &Path, writer: impl Write, options: &DiffOptions) -> Result<Written> {
    diff::trees(lower, upper, writer, options)
}

/// Writes the layer that an overlay's upper folder is, reading nothing else: 0/0 devices become whiteouts, opaque
/// folders get their mark.
///
/// # Errors
/// `Unsupported` before anything is written where the folder holds redirects or metadata-only copies; the kernel's or
/// the writer's.
pub fn diff_upperdir(upper: &Path, writer: impl Write, options: &DiffOptions) -> Result<Written> {
    diff::upper(upper, writer, options)
}

/// Writes the layer that makes `upper` of `lower`, both given as a snapshot's mounts (none: nothing). Where `upper` is an
/// overlay whose lower folders are exactly `lower`, only its upper folder is read.
///
/// # Errors
/// As for [`diff`], and those of mounting.
pub fn diff_mounts(lower: &[Mount], upper: &[Mount], mut writer: impl Write, options: &DiffOptions) -> Result<Written> {
    if let Some(folder) = mounts::upper_over(lower, upper) {
        match diff_upperdir(&folder, &mut writer, options) {
            Err(error) if error.fault() == crated_types::Fault::Unsupported => {}
            answer => return answer,
        }
    }
    with_mounts(upper, |upper| {
        if lower.is_empty() {
            return diff(None, upper, writer, options);
        }
        with_mounts(lower, |lower| diff(Some(lower), upper, writer, options))
    })
}
