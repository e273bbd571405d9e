//! What can go wrong below the metadata port, and what it becomes above.

use crated_core::Revision;
use crated_types::{Error, Fault};
use std::io::ErrorKind;
use std::path::Path;

/// Shorthand for results of this module; errors are clonable because one failed sync answers a whole group.
pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// An error of the store.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// An `Expect` did not hold.
    #[error("record {} is at revision {}, not {}", shown(key), found.0, expected.0)]
    Conflict { key: Vec<u8>, expected: Revision, found: Revision },
    /// Something that is about to be swept was referred to meanwhile.
    #[error("record {} is referred to again", shown(key))]
    Referred { key: Vec<u8> },
    /// The disk is full; nothing of the commit was kept.
    #[error("{0}")]
    Full(String),
    /// Writing has stopped until a restart.
    #[error("{why}")]
    ReadOnly { why: String },
    /// The disk takes no writes at all.
    #[error("{0}")]
    ReadOnlyDisk(String),
    /// Bytes on disk do not add up and nothing could heal them.
    #[error("{file} at byte {offset}: {why}")]
    Corrupt { file: String, offset: u64, why: String },
    /// The index cannot be believed or used.
    #[error("metadata index: {0}")]
    Index(String),
    /// The cursor is older than what is kept.
    #[error("events before revision {} are no longer kept", oldest.0)]
    Lagged { oldest: Revision },
    /// A commit or record over the limit.
    #[error("a commit of {0} bytes, at most {max} fit", max = super::frame::PAYLOAD_MAX / 2)]
    TooLarge(usize),
    /// The folder belongs to another daemon.
    #[error("{0}")]
    InUse(String),
    /// A newer program wrote it.
    #[error("{folder} was written by a newer crated (schema {found})")]
    Newer { folder: String, found: u32 },
    /// Any other failed system call.
    #[error("{0}")]
    Io(String),
}

impl StoreError {
    /// A failed system call on a path; a full disk is told apart.
    pub(crate) fn io(what: &str, path: &Path, source: &std::io::Error) -> Self {
        let text = format!("{what} {}: {source}", path.display());
        match source.kind() {
            _ if is_full(source) => Self::Full(text),
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnlyDisk(text),
            _ => Self::Io(text),
        }
    }

    /// Damage in a file.
    pub(crate) fn corrupt(file: &Path, offset: u64, why: impl Into<String>) -> Self {
        Self::Corrupt { file: file.display().to_string(), offset, why: why.into() }
    }
}

/// Whether a system call failed for lack of room.
pub(crate) fn is_full(source: &std::io::Error) -> bool {
    matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// A key as text, its separators visible.
pub(crate) fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).replace('\0', "\\0")
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let fault = match &error {
            StoreError::Conflict { .. } | StoreError::Referred { .. } => Fault::Conflict,
            StoreError::Full(_) => Fault::DiskFull,
            StoreError::ReadOnly { .. } | StoreError::ReadOnlyDisk(_) => Fault::ReadOnly,
            StoreError::Corrupt { .. } | StoreError::Index(_) => Fault::Corrupt,
            StoreError::Lagged { .. } => Fault::OutOfRange,
            StoreError::TooLarge(_) => Fault::Invalid,
            StoreError::InUse(_) => Fault::InUse,
            StoreError::Newer { .. } => Fault::Unsupported,
            StoreError::Io(_) => Fault::Os,
        };
        let answer = Self::new(fault, format!("metadata: {error}"));
        if matches!(error, StoreError::ReadOnlyDisk(_)) {
            return answer.remedy_is(
                "mount the disk of the daemon's root for writing, or give another --root; nothing was touched",
            );
        }
        match fault {
            Fault::DiskFull => {
                answer.remedy_is("free space on the disk of the daemon's root; the daemon goes on by itself")
            }
            Fault::ReadOnly => answer.remedy_is("see the daemon's log for the failed write, then restart it"),
            Fault::Unsupported => {
                answer.remedy_is("start the crated that wrote it, or give this one another --root; nothing was touched")
            }
            Fault::Corrupt => {
                answer.remedy_is("with the daemon stopped: crated metadata check, then crated metadata repair")
            }
            _ => answer,
        }
    }
}
