//! The version of what records mean, in a file beside the log: a store of a newer crated is refused before anything is touched.
//!
//! A migration raises the file first (written beside, synced, renamed, the folder synced), then changes records by ordinary commits
//! that can be run again. There is none yet: version 1 is the first, and a store without the file has it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::error::{Result, StoreError};

/// The version that this program writes.
pub(crate) const SCHEMA: u32 = 1;

/// The version of a store.
pub(crate) fn read(folder: &Path) -> Result<u32> {
    let path = folder.join("schema");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| StoreError::corrupt(&path, 0, "not a number")),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(1),
        Err(source) if source.kind() == std::io::ErrorKind::InvalidData => {
            Err(StoreError::corrupt(&path, 0, "not a number"))
        }
        Err(source) => Err(StoreError::io("read", &path, &source)),
    }
}

/// Refuses the store of a newer program.
pub(crate) fn check(folder: &Path) -> Result<()> {
    match read(folder)? {
        found if found > SCHEMA => Err(StoreError::Newer { folder: folder.display().to_string(), found }),
        _ => Ok(()),
    }
}

/// Writes the version of a new store. Where it cannot be written it stays away, which means 1.
pub(crate) fn note(folder: &Path) {
    let path = folder.join("schema");
    if path.exists() {
        return;
    }
    let temporary = folder.join("schema.tmp");
    let written = File::create(&temporary)
        .and_then(|mut file| writeln!(file, "{SCHEMA}").and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, &path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        tracing::debug!(%error, path = %path.display(), "the schema version is not noted");
    }
}
