//! Sparse files: GNU's old header (type `S`) and PAX formats 0.0, 0.1 and 1.0 (GNU tar manual, §Storing Sparse Files).

use super::super::limits::malformed;
use super::header::{BLOCK, number};
use super::pax::{Pax, decimal};
use super::{Entry, Header, Tar};
use crated_types::Result;
use std::io::BufRead;

impl<R: BufRead> Tar<R> {
    /// Reads the map of a sparse file, checks it, and puts it with the real size into the entry.
    pub(super) fn sparse(&mut self, block: &[u8; BLOCK], header: &Header, pax: &Pax, entry: &mut Entry) -> Result<()> {
        let name = entry.name.clone();
        let (segments, size) = if header.flag == b'S' {
            let size = field(&block[483..495]).ok_or_else(|| malformed(&name, "real size is no number"))?;
            (self.old_map(block, &name)?, size)
        } else if pax.sparse_map_in_data {
            let size = pax.sparse_size.ok_or_else(|| malformed(&name, "a sparse file without its real size"))?;
            (self.map_in_data(&name)?, size)
        } else if let (Some(map), Some(size)) = (&pax.sparse_map, pax.sparse_size) {
            (map.clone(), size)
        } else {
            return Ok(());
        };
        let mut end = 0u64;
        let mut stored = 0u64;
        for (offset, length) in &segments {
            let next = offset.checked_add(*length).filter(|next| *next <= size && *offset >= end);
            end = next.ok_or_else(|| malformed(&name, "a sparse map out of order or out of bounds"))?;
            stored += length;
        }
        if stored != self.left || i64::try_from(size).is_err() {
            return Err(malformed(&name, "a sparse map that does not fit the data"));
        }
        entry.size = size;
        entry.segments = Some(segments);
        Ok(())
    }

    /// Four segments in the header, then 21 a block while the last byte says that more follow.
    fn old_map(&mut self, block: &[u8; BLOCK], name: &[u8]) -> Result<Vec<(u64, u64)>> {
        let mut segments = Vec::new();
        self.take_segments(&block[386..482], &mut segments, name)?;
        let mut more = block[482] != 0;
        while more {
            let block = self.block()?.ok_or_else(|| malformed(name, "the archive ends within a sparse map"))?;
            self.take_segments(&block[..504], &mut segments, name)?;
            more = block[504] != 0;
        }
        Ok(segments)
    }

    fn take_segments(&self, bytes: &[u8], segments: &mut Vec<(u64, u64)>, name: &[u8]) -> Result<()> {
        for pair in bytes.chunks_exact(24) {
            if pair[0] == 0 {
                break;
            }
            let segment = field(&pair[..12]).zip(field(&pair[12..]));
            segments.push(segment.ok_or_else(|| malformed(name, "a sparse map that is none"))?);
        }
        if segments.len() > self.limits.segments {
            return Err(malformed(name, "too many sparse segments"));
        }
        Ok(())
    }

    /// Format 1.0: a count and pairs, one decimal a line, in blocks of their own before the data.
    fn map_in_data(&mut self, name: &[u8]) -> Result<Vec<(u64, u64)>> {
        let bad = || malformed(name, "a sparse map that is none");
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            if self.left < BLOCK as u64 {
                return Err(bad());
            }
            let block = self.block()?.ok_or_else(|| malformed(name, "the archive ends within a sparse map"))?;
            self.left -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(bad());
                    }
                    continue;
                }
                let number = decimal(&std::mem::take(&mut line)).ok_or_else(bad)?;
                match wanted {
                    None => {
                        let count = usize::try_from(number).ok().filter(|count| *count <= self.limits.segments);
                        wanted = Some(count.ok_or_else(bad)? * 2);
                    }
                    Some(_) => numbers.push(number),
                }
                if wanted == Some(numbers.len()) {
                    break;
                }
            }
        }
        Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

fn field(bytes: &[u8]) -> Option<u64> {
    u64::try_from(number(bytes)?).ok()
}
