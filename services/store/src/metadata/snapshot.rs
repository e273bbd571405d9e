//! A snapshot of the metadata: every record at one revision, in one checksummed file.
//!
//! `"CRSNAP2\0" store_id:8 revision:8 (klen:4 vlen:4 key sealed)* 0xffffffff count:8 crc:4`

use bytes::Bytes;
use crated_core::Revision;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use super::crash::Hook;
use super::error::{Result, StoreError};
use super::frame::{StoreId, u32_at, u64_at};
use super::index::Index;
use super::seal::Sealed;
use super::segment::{self, sync_folder};

const MAGIC: &[u8; 8] = b"CRSNAP2\0";
const END: u32 = u32::MAX;
const HEAD: usize = 24;

/// A snapshot as it was read.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The store that it belongs to.
    pub id: StoreId,
    /// Replaying the log from behind this revision makes it exact.
    pub revision: Revision,
    /// Records in key order.
    pub records: Sealed,
}

/// Writes a snapshot of an index beside running commits. It is fuzzy, so it is named by the index's revision before it began.
pub(crate) fn write(folder: &Path, id: StoreId, revision: Revision, index: &Index, hook: &Hook) -> Result<()> {
    let temporary = folder.join("snap.tmp");
    let path = folder.join(segment::name(revision, "snap"));
    let written = (|| {
        hook.io().map_err(|source| StoreError::io("write", &temporary, &source))?;
        let mut writer = Writer::create(&temporary)?;
        writer.put(MAGIC);
        writer.put(&id.0.to_le_bytes());
        writer.put(&revision.0.to_le_bytes());
        let mut count = 0_u64;
        index.scan(b"", b"", |key, sealed| {
            writer.put(&(key.len() as u32).to_le_bytes());
            writer.put(&(sealed.len() as u32).to_le_bytes());
            writer.put(key);
            writer.put(&sealed);
            count += 1;
            if writer.fault.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        writer.put(&END.to_le_bytes());
        writer.put(&count.to_le_bytes());
        let rename = || {
            hook.io()?;
            std::fs::rename(&temporary, &path)?;
            sync_folder(folder)
        };
        writer.finish().and_then(|()| rename()).map_err(|source| StoreError::io("write", &path, &source))
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

struct Writer {
    file: std::io::BufWriter<File>,
    sum: crc32fast::Hasher,
    fault: Option<std::io::Error>,
}

impl Writer {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|source| StoreError::io("create", path, &source))?;
        Ok(Self { file: std::io::BufWriter::with_capacity(1 << 16, file), sum: crc32fast::Hasher::new(), fault: None })
    }

    fn put(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        if self.fault.is_none() {
            self.fault = self.file.write_all(bytes).err();
        }
    }

    fn finish(mut self) -> std::io::Result<()> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.file.write_all(&self.sum.finalize().to_le_bytes())?;
        self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }
}

/// Reads a snapshot whole.
pub(crate) fn read(path: &Path) -> Result<Snapshot> {
    let bytes = Bytes::from(std::fs::read(path).map_err(|source| StoreError::io("read", path, &source))?);
    let bad = |at: usize| StoreError::corrupt(path, at as u64, "snapshot");
    let sum = bytes.len().checked_sub(4).filter(|sum| *sum >= HEAD + 12).ok_or_else(|| bad(0))?;
    if &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..sum]) != u32_at(&bytes, sum) {
        return Err(bad(0));
    }
    let mut records = Vec::new();
    let mut at = HEAD;
    while u32_at(&bytes, at) != END {
        let (key, value) = (u32_at(&bytes, at) as usize, u32_at(&bytes, at + 4) as usize);
        let (start, end) = (at + 8 + key, at + 8 + key + value);
        if end + 12 > sum {
            return Err(bad(at));
        }
        records.push((bytes[at + 8..start].to_vec(), Bytes::copy_from_slice(&bytes[start..end])));
        at = end;
    }
    if u64_at(&bytes, at + 4) != records.len() as u64 {
        return Err(bad(at));
    }
    Ok(Snapshot { id: StoreId(u64_at(&bytes, 8)), revision: Revision(u64_at(&bytes, 16)), records })
}

/// The newest snapshot of a folder that can be read.
pub(crate) fn newest(folder: &Path) -> Result<Option<Snapshot>> {
    Ok(segment::list(folder, "snap")?.iter().rev().find_map(|(_, path)| read(path).ok()))
}
