//! The tar reader: ustar, GNU (long names, sparse files) and PAX (POSIX.1-2017 pax, GNU tar manual §Sparse Formats).
//!
//! It believes nothing: numbers are checked, extended headers and sparse maps are bounded by [`Limits`].

mod header;
mod pax;
mod sparse;

use super::limits::{Limits, malformed};
use crated_types::{Error, Result};
use header::{BLOCK, Header};
use pax::Pax;
use std::io::BufRead;

/// Seconds since the epoch and nanoseconds.
pub(super) type Time = (i64, u32);

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Folder,
    Fifo,
}

/// One entry, its extended headers taken in.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryKind,
    /// Permission bits with set-id and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Length of the file, holes included.
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) atime: Option<Time>,
    /// Target of a link.
    pub(super) link: Vec<u8>,
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of what is no hole, for a sparse file.
    pub(super) segments: Option<Vec<(u64, u64)>>,
}

/// Reads the entries of an archive.
#[derive(Debug)]
pub(super) struct Tar<R> {
    input: R,
    limits: Limits,
    /// Bytes of the current entry's data that were not read.
    left: u64,
    padding: u64,
    entries: u64,
}

impl<R: BufRead> Tar<R> {
    pub(super) fn new(input: R, limits: Limits) -> Self {
        Self { input, limits, left: 0, padding: 0, entries: 0 }
    }

    /// Entries met so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// The next entry, or nothing at the archive's end. What was not read of the last one is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = Header::parse(&block)?;
            match header.flag {
                b'x' | b'X' => pax = Pax::parse(&self.body(&header)?, header.name(), &self.limits)?,
                b'g' => drop(self.body(&header)?),
                b'L' => long_name = Some(until_nul(self.body(&header)?)),
                b'K' => long_link = Some(until_nul(self.body(&header)?)),
                _ => return self.entry(&block, &header, pax, long_name, long_link).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        header: &Header,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        self.entries += 1;
        let name = pax.path.take().or(long_name).unwrap_or_else(|| header.name().to_vec());
        if self.entries > self.limits.entries {
            return Err(malformed(&name, format_args!("more than {} entries", self.limits.entries)));
        }
        let kind = match header.flag {
            b'0' | 0 | b'7' if name.ends_with(b"/") => EntryKind::Folder,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Character,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Folder,
            b'6' => EntryKind::Fifo,
            other => return Err(malformed(&name, format_args!("type {:?} is unknown", char::from(other)))),
        };
        let id = |number: u64| {
            u32::try_from(number)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| malformed(&name, format_args!("owner {number} is no user or group id")))
        };
        let mut entry = Entry {
            kind,
            mode: header.mode & 0o7777,
            uid: id(pax.uid.unwrap_or(header.uid))?,
            gid: id(pax.gid.unwrap_or(header.gid))?,
            size: 0,
            mtime: pax.mtime.unwrap_or((header.mtime, 0)),
            atime: pax.atime,
            link: pax.link.take().or(long_link).unwrap_or_else(|| header.link().to_vec()),
            device: header.device,
            xattrs: std::mem::take(&mut pax.xattrs),
            segments: None,
            name,
        };
        if kind == EntryKind::File {
            self.set_data(pax.size.unwrap_or(header.size));
            entry.size = self.left;
            self.sparse(block, header, &pax, &mut entry)?;
        }
        if entry.name.contains(&0) || entry.link.contains(&0) {
            return Err(malformed(&entry.name, "a NUL in a name"));
        }
        Ok(entry)
    }

    fn set_data(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// Passes the next `length` bytes of the entry's data to `take`, in pieces, without a copy.
    pub(super) fn data(&mut self, name: &[u8], length: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut wanted = length.min(self.left);
        while wanted > 0 {
            let available = self.input.fill_buf().map_err(|error| Error::os("read layer", error))?;
            if available.is_empty() {
                return Err(malformed(name, "the archive ends within its data"));
            }
            let length = usize::try_from(wanted).unwrap_or(usize::MAX).min(available.len());
            take(&available[..length])?;
            self.input.consume(length);
            wanted -= length as u64;
            self.left -= length as u64;
        }
        Ok(())
    }

    fn skip(&mut self) -> Result<()> {
        self.data(b"", u64::MAX, |_| Ok(()))?;
        self.left = std::mem::take(&mut self.padding);
        if self.data(b"", u64::MAX, |_| Ok(())).is_err() {
            self.left = 0; // padding cut off at the archive's end is harmless
        }
        Ok(())
    }

    /// The next 512 bytes; nothing where the input ends before them.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.input.fill_buf().map_err(|error| Error::os("read layer", error))?;
            if available.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(malformed(b"", "the archive ends within a header")) };
            }
            let length = available.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&available[..length]);
            self.input.consume(length);
            filled += length;
        }
        Ok(Some(block))
    }

    /// The whole body of an extended header.
    fn body(&mut self, header: &Header) -> Result<Vec<u8>> {
        if header.size > self.limits.header {
            return Err(malformed(header.name(), format_args!("an extended header of {} bytes", header.size)));
        }
        self.set_data(header.size);
        let mut body = Vec::new();
        self.data(header.name(), header.size, |piece| {
            body.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(body)
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
