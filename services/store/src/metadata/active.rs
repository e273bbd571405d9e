//! The segment that is written. Its room is zero-filled beforehand: an append changes no block map and cannot meet a full disk.

use crated_core::Revision;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::crash::{self, Hook};
use super::error::{Result, StoreError};
use super::frame::{self, Commits, Format, StoreId};
use super::segment::{self, HEADER, sync_folder};

const SPARE: &str = "spare";

/// The end of the log.
#[derive(Debug)]
pub(crate) struct Active {
    file: File,
    /// The same file, opened once more: each opening is told of a failed sync once, so that nobody else's sync hides it from us.
    beside: Arc<File>,
    /// Its file.
    pub path: PathBuf,
    id: StoreId,
    end: u64,
    size: u64,
    crc: u32,
}

/// What a new segment is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The store.
    pub id: StoreId,
    /// The revision of its first commit.
    pub first: Revision,
    /// The checksum of the last frame before it.
    pub previous: u32,
    /// Bytes.
    pub size: u64,
}

impl Active {
    /// Makes a segment, from the spare one where its size fits.
    pub(crate) fn create(folder: &Path, plan: Plan, hook: &Hook) -> Result<Self> {
        let path = folder.join(segment::name(plan.first, "seg"));
        let spare = folder.join(SPARE);
        let made = (|| {
            hook.io()?;
            let (from, file) = match has_spare(folder, plan.size) {
                true => (spare, OpenOptions::new().write(true).open(folder.join(SPARE))?),
                false => {
                    let temporary = folder.join("new.tmp");
                    let file = zeros(&temporary, plan.size)?;
                    (temporary, file)
                }
            };
            file.write_all_at(&segment::header(Format::Three, plan.id, plan.first, plan.size, plan.previous), 0)?;
            file.sync_all()?;
            hook.io()?;
            std::fs::rename(&from, &path)?;
            sync_folder(folder)?;
            let beside = OpenOptions::new().write(true).open(&path)?;
            Ok((file, beside))
        })();
        match made {
            Ok((file, beside)) => Ok(Self {
                file,
                beside: Arc::new(beside),
                path,
                id: plan.id,
                end: HEADER as u64,
                size: plan.size,
                crc: plan.previous,
            }),
            // nothing was acknowledged into it yet: take it away again and say why
            Err(source) => {
                let _ = std::fs::remove_file(folder.join("new.tmp"));
                let _ = std::fs::remove_file(&path);
                Err(StoreError::io("new segment", &path, &source))
            }
        }
    }

    /// Bytes of payload that one more frame may have.
    pub(crate) fn room(&self) -> u64 {
        (self.size - self.end).saturating_sub(frame::HEAD as u64)
    }

    /// The checksum of the last frame.
    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    /// Bytes written.
    pub(crate) fn used(&self) -> u64 {
        self.end
    }

    /// Its file, to be synced by others.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.beside)
    }

    /// Writes one group and, where it is to be `durable`, waits until the disk has it and all before. After an error nobody knows
    /// what the disk holds: the caller must stop.
    pub(crate) fn append(
        &mut self,
        commits: Commits,
        payload: &[u8],
        durable: bool,
        hook: &Hook,
    ) -> std::io::Result<()> {
        let (bytes, crc) = frame::frame(self.id, self.crc, commits, payload);
        if hook.hit() {
            self.file.write_all_at(&bytes[..bytes.len() / 2], self.end)?;
            return Err(crash::error());
        }
        self.file.write_all_at(&bytes, self.end)?;
        hook.io()?;
        if durable {
            self.file.sync_data()?;
            hook.io()?;
        }
        self.end += bytes.len() as u64;
        self.crc = crc;
        Ok(())
    }
}

/// Whether a spare segment of this size is there.
pub(crate) fn has_spare(folder: &Path, size: u64) -> bool {
    std::fs::metadata(folder.join(SPARE)).is_ok_and(|found| found.len() == size)
}

/// Makes the spare segment.
pub(crate) fn make_spare(folder: &Path, size: u64) -> std::io::Result<()> {
    if has_spare(folder, size) {
        return Ok(());
    }
    let temporary = folder.join("spare.tmp");
    let made = zeros(&temporary, size).and_then(|_| std::fs::rename(&temporary, folder.join(SPARE)));
    if made.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    made
}

/// A synced file of zeros; a full disk is met before the first byte is written.
fn zeros(path: &Path, size: u64) -> std::io::Result<File> {
    // always a file of its own: nobody may still be writing into what was left here
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(source),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).open(path)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(source) => return Err(source.into()),
    }
    let block = vec![0; 64 << 10];
    let mut left = size;
    while left > 0 {
        let part = left.min(block.len() as u64);
        file.write_all(&block[..part as usize])?;
        left -= part;
    }
    file.sync_all()?;
    Ok(file)
}
