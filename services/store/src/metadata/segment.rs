//! Segments of the commit log as they are read: header, then frames, then zeros.
//!
//! ```text
//! header = "CRLOG3\0\0" store_id:8 first_revision:8 size:8 prev_crc:4 crc:4, zeros up to 64 bytes
//! ```
//! `size` is that of the file: one that was shortened is told apart from a torn tail.

use bytes::Bytes;
use crated_core::{Op, Revision};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::{Result, StoreError, is_full};
use super::frame::{self, Format, StoreId, u32_at, u64_at};

/// Bytes of a segment's header.
pub(crate) const HEADER: usize = 64;

/// The bytes of a header.
pub(crate) fn header(format: Format, id: StoreId, first: Revision, size: u64, previous: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(format.segment());
    bytes[8..16].copy_from_slice(&id.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&first.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&size.to_le_bytes());
    bytes[32..36].copy_from_slice(&previous.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..36]);
    bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a segment holds, as far as it can be believed.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Its file.
    pub path: PathBuf,
    /// How it is written.
    pub format: Format,
    /// The store that it belongs to.
    pub id: StoreId,
    /// Its first revision.
    pub first: Revision,
    /// The revision behind its last whole frame.
    pub next: Revision,
    /// Checksum of the last frame of the segment before.
    pub previous: u32,
    /// Checksum of its last whole frame.
    pub crc: u32,
    /// The byte behind its last whole frame.
    pub end: u64,
    /// The newest revision of a whole frame *behind* a broken one: synced bytes went bad.
    pub later: Option<Revision>,
    /// Something other than zeros follows the last whole frame.
    pub torn: bool,
    /// Bytes of the file.
    pub size: u64,
    /// The checksum of the frame that ends with the revision that was looked for.
    pub watched: Option<u32>,
}

impl Segment {
    /// Reads a segment without its commits, looking for the frame that ends with `watch`.
    pub(crate) fn look(path: &Path, watch: Revision) -> Result<Self> {
        Self::read_watching(path, Revision(u64::MAX), watch, |_, _| {})
    }

    /// Reads a segment and calls `each` for the commits above `after`.
    pub(crate) fn read(path: &Path, after: Revision, each: impl FnMut(Revision, Vec<Op>)) -> Result<Self> {
        Self::read_watching(path, after, Revision::default(), each)
    }

    fn read_watching(
        path: &Path,
        after: Revision,
        watch: Revision,
        mut each: impl FnMut(Revision, Vec<Op>),
    ) -> Result<Self> {
        let bytes = Bytes::from(std::fs::read(path).map_err(|source| StoreError::io("read", path, &source))?);
        let mut segment = Self::open(path, &bytes)?;
        while let Some(head) = frame::head_at(segment.format, segment.id, &bytes, segment.end as usize) {
            if head.previous != segment.crc || head.commits.first != segment.next {
                break;
            }
            let start = segment.end as usize + segment.format.head();
            let behind = segment.next.0 + u64::from(head.commits.count);
            if behind > after.0.saturating_add(1) {
                let commits = frame::decode(&bytes.slice(start..start + head.length), head.commits.count)
                    .ok_or_else(|| StoreError::corrupt(path, segment.end, "frame payload"))?;
                for (number, ops) in commits.into_iter().enumerate() {
                    each(Revision(segment.next.0 + number as u64), ops);
                }
            }
            segment.next = Revision(behind);
            segment.crc = head.crc;
            segment.end = (start + head.length) as u64;
            if behind == watch.0 + 1 {
                segment.watched = Some(head.crc);
            }
        }
        segment.look_behind(&bytes);
        Ok(segment)
    }

    fn open(path: &Path, bytes: &[u8]) -> Result<Self> {
        let format = Format::ALL.into_iter().find(|format| bytes.starts_with(format.segment()));
        let whole = bytes.len() >= HEADER && crc32fast::hash(&bytes[..36]) == u32_at(bytes, 36);
        let Some(format) = format.filter(|_| whole) else {
            return Err(StoreError::corrupt(path, 0, "segment header"));
        };
        let size = u64_at(bytes, 24);
        if size != bytes.len() as u64 {
            return Err(StoreError::corrupt(
                path,
                bytes.len() as u64,
                format!("the file has lost its end, it had {size} bytes"),
            ));
        }
        let (first, previous) = (Revision(u64_at(bytes, 16)), u32_at(bytes, 32));
        Ok(Self {
            path: path.into(),
            format,
            id: StoreId(u64_at(bytes, 8)),
            first,
            next: first,
            previous,
            crc: previous,
            end: HEADER as u64,
            later: None,
            torn: false,
            size,
            watched: None,
        })
    }

    /// A whole frame behind a broken one that was on the disk when it was written means that synced bytes went bad.
    fn look_behind(&mut self, bytes: &[u8]) {
        self.torn = bytes[self.end as usize..].iter().any(|byte| *byte != 0);
        let mut at = if self.torn { self.end as usize } else { bytes.len() };
        while let Some(found) = bytes[at.min(bytes.len())..].windows(4).position(|window| window == self.format.magic())
        {
            at += found;
            if let Some(head) =
                frame::head_at(self.format, self.id, bytes, at).filter(|head| head.commits.floor() >= self.next)
            {
                self.later = Some(Revision(head.commits.first.0 + u64::from(head.commits.count) - 1));
            }
            at += 1;
        }
    }

    /// Makes durable what was read: bytes may stand in the page cache only, or be left over by a failed sync. A torn tail goes.
    pub(crate) fn reseal(&mut self) -> Result<()> {
        match self.copy() {
            Ok(()) => {
                self.size = self.end;
                Ok(())
            }
            // no room for a copy: the same bytes once more, in place, with zeros behind them
            Err(source) if is_full(&source) => {
                self.rewrite().map_err(|source| StoreError::io("rewrite", &self.path, &source))
            }
            Err(source) => Err(StoreError::io("copy", &self.path, &source)),
        }
    }

    fn copy(&self) -> std::io::Result<()> {
        let folder = self.path.parent().expect("a segment has a folder");
        let temporary = folder.join("reseal.tmp");
        let copied = (|| {
            let mut bytes = std::fs::read(&self.path)?;
            bytes.truncate(self.end as usize);
            bytes[..HEADER].copy_from_slice(&header(self.format, self.id, self.first, self.end, self.previous));
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.path)?;
            sync_folder(folder)
        })();
        if copied.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        copied
    }

    fn rewrite(&self) -> std::io::Result<()> {
        let mut bytes = std::fs::read(&self.path)?;
        bytes[self.end as usize..].fill(0);
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()
    }
}

/// Calls `each` for the commits of every whole frame of a file, of any format, in whatever state the rest is.
pub(crate) fn frames(path: &Path, id: StoreId, mut each: impl FnMut(Revision, Vec<Op>)) -> Result<()> {
    let bytes = Bytes::from(std::fs::read(path).map_err(|source| StoreError::io("read", path, &source))?);
    let mut at = 0;
    while at + 4 <= bytes.len() {
        let format = Format::ALL.into_iter().find(|format| bytes[at..].starts_with(format.magic()));
        let Some((format, head)) = format.and_then(|format| Some((format, frame::head_at(format, id, &bytes, at)?)))
        else {
            at += 1;
            continue;
        };
        let start = at + format.head();
        let commits = frame::decode(&bytes.slice(start..start + head.length), head.commits.count);
        for (number, ops) in commits.into_iter().flatten().enumerate() {
            each(Revision(head.commits.first.0 + number as u64), ops);
        }
        at = start + head.length;
    }
    Ok(())
}

/// Makes names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Files of a folder with this ending, by the revision in their names; temporaries are removed, what is foreign is left alone.
///
/// # Errors
/// The disk's; damage where one of these names is no plain file.
pub(crate) fn list(folder: &Path, ending: &str) -> Result<Vec<(Revision, PathBuf)>> {
    let failed = |source| StoreError::io("list", folder, &source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let Some(extension) = path.extension() else { continue };
        if extension == ending {
            let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()) else { continue };
            // a pipe would keep us for ever
            if !entry.file_type().map_err(failed)?.is_file() {
                return Err(StoreError::corrupt(&path, 0, "not a plain file"));
            }
            found.push((Revision(number), path));
        } else if extension == "tmp" {
            let _ = std::fs::remove_file(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The name of the file of a revision.
pub(crate) fn name(revision: Revision, ending: &str) -> String {
    format!("{:020}.{ending}", revision.0)
}
