//! The version of what records mean, in a file beside the log: a store of a newer crated is refused before anything is touched.
//!
//! ```text
//! schema       the version that this store has, or is on its way to; not there: 1
//! migrating    the version that it comes from, as long as it is on its way
//! ```
//! The older program meets the raised `schema` and stays away; the newer one meets `migrating` and begins again.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::error::{Result, StoreError};
use super::segment::sync_folder;

/// The version that this program writes.
pub(crate) const SCHEMA: u32 = 2;
const MIGRATING: &str = "migrating";

fn number(path: &Path) -> Result<Option<u32>> {
    let bad = || StoreError::corrupt(path, 0, "not a number");
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| bad()),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) if source.kind() == std::io::ErrorKind::InvalidData => Err(bad()),
        Err(source) => Err(StoreError::io("read", path, &source)),
    }
}

/// The version of a store.
pub(crate) fn read(folder: &Path) -> Result<u32> {
    Ok(number(&folder.join("schema"))?.unwrap_or(1))
}

/// Refuses the store of a newer program.
pub(crate) fn check(folder: &Path) -> Result<()> {
    of_records(folder)?;
    match read(folder)? {
        found if found > SCHEMA => Err(StoreError::Newer { folder: folder.display().to_string(), found }),
        _ => Ok(()),
    }
}

/// The version that the records of a store have: where a migration was interrupted, the one that it began with.
pub(crate) fn of_records(folder: &Path) -> Result<u32> {
    match number(&folder.join(MIGRATING))? {
        Some(from) => Ok(from.min(read(folder)?)),
        None => read(folder),
    }
}

/// Notes the version of a new store. Where it cannot be written it stays away, which means 1.
pub(crate) fn note(folder: &Path, version: u32) {
    if folder.join("schema").exists() {
        return;
    }
    if let Err(error) = write(folder, "schema", version) {
        tracing::debug!(%error, "the schema version is not noted");
    }
}

/// Says, durably, that records of version `from` are being changed to those of this program.
pub(crate) fn begin(folder: &Path, from: u32) -> Result<()> {
    write(folder, MIGRATING, from)?;
    write(folder, "schema", SCHEMA)
}

/// Says, durably, that they are.
pub(crate) fn end(folder: &Path) -> Result<()> {
    let path = folder.join(MIGRATING);
    std::fs::remove_file(&path)
        .and_then(|()| sync_folder(folder))
        .map_err(|source| StoreError::io("remove", &path, &source))
}

fn write(folder: &Path, name: &str, version: u32) -> Result<()> {
    let (path, temporary) = (folder.join(name), folder.join(format!("{name}.tmp")));
    File::create(&temporary)
        .and_then(|mut file| writeln!(file, "{version}").and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, &path))
        .and_then(|()| sync_folder(folder))
        .map_err(|source| {
            let _ = std::fs::remove_file(&temporary);
            StoreError::io("write", &path, &source)
        })
}
