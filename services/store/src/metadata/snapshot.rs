//! A snapshot of the metadata: every record at one revision, in one checksummed file.
//!
//! `"CRSNAP2\0" store_id:8 revision:8 (klen:4 vlen:4 key sealed)* 0xffffffff count:8 crc:4`

use bytes::Bytes;
use crated_core::Revision;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::crash::Hook;
use super::error::{Result, StoreError};
use super::frame::{StoreId, u32_at, u64_at};
use super::index::Index;
use super::segment::{self, sync_folder};

const MAGIC: &[u8; 8] = b"CRSNAP2\0";
const END: u32 = u32::MAX;
const HEAD: u64 = 24;

/// A snapshot that was read through once and adds up. Its records are read from its file when they are wanted, one at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Its file; none: nothing, at revision 0.
    file: Option<PathBuf>,
    /// The store that it belongs to.
    pub id: StoreId,
    /// Replaying the log from behind this revision makes it exact.
    pub revision: Revision,
}

impl Snapshot {
    /// Calls `each` for the records, sealed, in key order. Checked once more: where this fails, what was read must not be used.
    pub(crate) fn each(&self, each: &mut dyn FnMut(Vec<u8>, Bytes) -> Result<()>) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| walk(file, each).map(drop))
    }
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

/// Reads a snapshot through.
pub(crate) fn open(path: &Path) -> Result<Snapshot> {
    walk(path, &mut |_, _| Ok(()))
}

/// Reads with the sum of everything read so far.
struct Reader<'a> {
    file: BufReader<File>,
    path: &'a Path,
    sum: crc32fast::Hasher,
    at: u64,
    size: u64,
}

impl Reader<'_> {
    fn bad(&self, at: u64) -> StoreError {
        StoreError::corrupt(self.path, at, "snapshot")
    }

    /// The next bytes, which must stand before the sum at the end.
    fn take(&mut self, length: u64) -> Result<Vec<u8>> {
        if self.at + length + 4 > self.size {
            return Err(self.bad(self.at));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes).map_err(|source| StoreError::io("read", self.path, &source))?;
        self.sum.update(&bytes);
        self.at += length;
        Ok(bytes)
    }

    /// The sum at the end, behind which there is nothing.
    fn sum_holds(&mut self) -> Result<bool> {
        let mut sum = [0; 4];
        self.file.read_exact(&mut sum).map_err(|source| StoreError::io("read", self.path, &source))?;
        Ok(self.at + 4 == self.size && self.sum.clone().finalize() == u32_at(&sum, 0))
    }
}

fn walk(path: &Path, each: &mut dyn FnMut(Vec<u8>, Bytes) -> Result<()>) -> Result<Snapshot> {
    let failed = |source| StoreError::io("read", path, &source);
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let file = BufReader::with_capacity(1 << 16, file);
    let mut reader = Reader { file, path, sum: crc32fast::Hasher::new(), at: 0, size };
    let head = reader.take(HEAD)?;
    if &head[..8] != MAGIC {
        return Err(reader.bad(0));
    }
    let mut count = 0_u64;
    loop {
        let start = reader.at;
        let key = u32_at(&reader.take(4)?, 0);
        if key == END {
            if u64_at(&reader.take(8)?, 0) != count || !reader.sum_holds()? {
                return Err(reader.bad(0));
            }
            let (id, revision) = (StoreId(u64_at(&head, 8)), Revision(u64_at(&head, 16)));
            return Ok(Snapshot { file: Some(path.into()), id, revision });
        }
        let value = u32_at(&reader.take(4)?, 0);
        // a damaged length is met here, before anything is made as long
        if start + 8 + u64::from(key) + u64::from(value) > size {
            return Err(reader.bad(start));
        }
        let key = reader.take(key.into())?;
        let value = reader.take(value.into())?;
        each(key, value.into())?;
        count += 1;
    }
}

/// The newest snapshot of a folder that can be read.
pub(crate) fn newest(folder: &Path) -> Result<Option<Snapshot>> {
    Ok(segment::list(folder, "snap")?.iter().rev().find_map(|(_, path)| open(path).ok()))
}
