//! How far the log reached, in a file beside it: a log that has lost its end looks like an older one, and with the index lost nothing
//! else would tell. Written with each snapshot and when the store closes, always behind the sync of what it names.
//!
//! `"CRTAIL1\0" store_id:8 revision:8 frame_crc:4 crc:4`

use crated_core::Revision;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::error::{Result, StoreError};
use super::frame::{StoreId, u32_at, u64_at};
use super::segment::sync_folder;

const MAGIC: &[u8; 8] = b"CRTAIL1\0";
const SIZE: usize = 32;

/// A place that the log had reached durably.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The store.
    pub id: StoreId,
    /// The last commit.
    pub revision: Revision,
    /// Checksum of the frame that ends with it.
    pub crc: u32,
}

/// Its file.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("tail")
}

impl Tail {
    /// Writes it, durably. A store goes on where that fails: it is a help and no truth.
    pub(crate) fn write(self, folder: &Path) {
        let temporary = folder.join("tail.tmp");
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&self.encode()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&temporary, path(folder)))
            .and_then(|()| sync_folder(folder));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&temporary);
            tracing::debug!(%error, folder = %folder.display(), "the end of the log is not noted");
        }
    }

    /// Reads it; one that is not there or damaged says nothing.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        match std::fs::read(path(folder)) {
            Ok(bytes) => Ok(Self::decode(&bytes)),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::io("read", &path(folder), &source)),
        }
    }

    fn encode(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.id.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.revision.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.crc.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let holds = bytes.len() == SIZE && &bytes[..8] == MAGIC && crc32fast::hash(&bytes[..28]) == u32_at(bytes, 28);
        holds.then(|| Self {
            id: StoreId(u64_at(bytes, 8)),
            revision: Revision(u64_at(bytes, 16)),
            crc: u32_at(bytes, 24),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_says_nothing() {
        let folder = crate::metadata::tests::folder();
        assert_eq!(Tail::read(folder.path()).unwrap(), None);
        let tail = Tail { id: StoreId(7), revision: Revision(9), crc: 3 };
        tail.write(folder.path());
        assert_eq!(Tail::read(folder.path()).unwrap(), Some(tail));
        let whole = std::fs::read(path(folder.path())).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_eq!(Tail::decode(&bytes), None, "byte {at}");
        }
        assert_eq!(Tail::decode(&whole[..20]), None);
    }
}
