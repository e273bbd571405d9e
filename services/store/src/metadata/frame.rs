//! Frames of the commit log: one group of commits, checksummed and chained.
//!
//! ```text
//! frame   = "GRP3" len:4 crc:4 prev_crc:4 first_revision:8 count:4 lag:4 payload(len)      little-endian
//! payload = commit{count}      commit = ops:4 op*      op = tag:1 klen:4 vlen:4 key value
//! ```
//! `crc` covers the store's id, then everything but magic and itself; `prev_crc` is that of the frame before, so a frame vouches for
//! all its predecessors. `lag` is how many revisions before its first were not known to be on the disk when it was written: after
//! a power cut those may lack while this frame is whole. The id is random and never leaves the disk: a client cannot store bytes that
//! would pass for a frame.
//!
//! Segments of `CRLOG2`, which an older crated wrote, are read for ever and never written: their frames are "GRP2" and have no `lag`,
//! since each was synced before the next.

use bytes::Bytes;
use crated_core::{Op, Revision};

/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 32;
/// Longest payload.
pub(crate) const PAYLOAD_MAX: usize = 16 << 20;
/// First bytes of a frame.
pub(crate) const MAGIC: &[u8; 4] = b"GRP3";

/// How a segment is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Each frame was synced before the next.
    Two,
    /// Today's.
    Three,
}

impl Format {
    /// All of them, the newest first.
    pub(crate) const ALL: [Self; 2] = [Self::Three, Self::Two];

    /// First bytes of a segment.
    pub(crate) fn segment(self) -> &'static [u8; 8] {
        match self {
            Self::Two => b"CRLOG2\0\0",
            Self::Three => b"CRLOG3\0\0",
        }
    }

    /// First bytes of a frame.
    pub(crate) fn magic(self) -> &'static [u8; 4] {
        match self {
            Self::Two => b"GRP2",
            Self::Three => MAGIC,
        }
    }

    /// Bytes of a frame's head.
    pub(crate) fn head(self) -> usize {
        match self {
            Self::Two => HEAD - 4,
            Self::Three => HEAD,
        }
    }
}

/// Random number of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreId(pub u64);

/// Reads a number; `bytes` is long enough by the caller's check.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

/// Reads a number; `bytes` is long enough by the caller's check.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

/// Appends one commit to a payload, its `Expect`s left out: they were judged.
pub(crate) fn encode(ops: &[Op], out: &mut Vec<u8>) {
    let kept = ops.iter().filter(|op| !matches!(op, Op::Expect(..))).count();
    out.extend((kept as u32).to_le_bytes());
    for op in ops {
        let (tag, key, value): (u8, &[u8], &[u8]) = match op {
            Op::Expect(..) => continue,
            Op::Put(key, value) => (1, key, value),
            Op::Delete(key) => (2, key, &[]),
            Op::Event(value) => (3, &[], value),
        };
        out.push(tag);
        out.extend((key.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
        out.extend(key);
        out.extend(value);
    }
}

/// Bytes that a commit takes in a payload, about.
pub(crate) fn size(ops: &[Op]) -> usize {
    4 + ops
        .iter()
        .map(|op| match op {
            Op::Put(key, value) => 9 + key.len() + value.len(),
            Op::Delete(key) => 9 + key.len(),
            Op::Event(value) => 9 + value.len(),
            Op::Expect(..) => 0,
        })
        .sum::<usize>()
}

/// The commits of a checked payload; `None` where something wrote it that is not us.
pub(crate) fn decode(payload: &Bytes, count: u32) -> Option<Vec<Vec<Op>>> {
    let mut at = 0_usize;
    let mut take = |length: usize| {
        let end = at.checked_add(length).filter(|end| *end <= payload.len())?;
        let piece = payload.slice(at..end);
        at = end;
        Some(piece)
    };
    let mut commits = Vec::new();
    for _ in 0..count {
        let ops = u32_at(&take(4)?, 0);
        let mut commit = Vec::new();
        for _ in 0..ops {
            let head = take(9)?;
            let key = take(u32_at(&head, 1) as usize)?.to_vec();
            let value = take(u32_at(&head, 5) as usize)?;
            commit.push(match head[0] {
                1 => Op::Put(key, value),
                2 => Op::Delete(key),
                3 => Op::Event(value),
                _ => return None,
            });
        }
        commits.push(commit);
    }
    Some(commits)
}

/// The commits of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commits {
    /// Revision of the first.
    pub first: Revision,
    /// How many.
    pub count: u32,
    /// Revisions before the first that were not known to be on the disk.
    pub lag: u32,
}

impl Commits {
    /// The newest revision that was on the disk when the frame was written.
    pub(crate) fn floor(&self) -> Revision {
        Revision(self.first.0.saturating_sub(1 + u64::from(self.lag)))
    }
}

/// A frame as bytes, with its checksum.
pub(crate) fn frame(id: StoreId, previous: u32, commits: Commits, payload: &[u8]) -> (Vec<u8>, u32) {
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.extend(MAGIC);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(previous.to_le_bytes());
    bytes.extend(commits.first.0.to_le_bytes());
    bytes.extend(commits.count.to_le_bytes());
    bytes.extend(commits.lag.to_le_bytes());
    bytes.extend(payload);
    let crc = checksum(id, &bytes[4..8], &bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    (bytes, crc)
}

fn checksum(id: StoreId, length: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.0.to_le_bytes());
    hasher.update(length);
    hasher.update(body);
    hasher.finalize()
}

/// The head of a frame that is whole in itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Bytes of the payload.
    pub length: usize,
    /// Its checksum.
    pub crc: u32,
    /// The checksum of the frame before.
    pub previous: u32,
    /// Its commits.
    pub commits: Commits,
}

/// The frame at `at`, if one stands there.
pub(crate) fn head_at(format: Format, id: StoreId, bytes: &[u8], at: usize) -> Option<Head> {
    let head = bytes.get(at..at + format.head())?;
    if &head[..4] != format.magic() {
        return None;
    }
    let length = u32_at(head, 4) as usize;
    let crc = u32_at(head, 8);
    if length > PAYLOAD_MAX || checksum(id, &head[4..8], bytes.get(at + 12..at + format.head() + length)?) != crc {
        return None;
    }
    let lag = match format {
        Format::Two => 0,
        Format::Three => u32_at(head, 28),
    };
    let commits = Commits { first: Revision(u64_at(head, 16)), count: u32_at(head, 24), lag };
    Some(Head { length, crc, previous: u32_at(head, 12), commits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op() -> impl Strategy<Value = Op> {
        let key = || proptest::collection::vec(any::<u8>(), 0..20);
        let value = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        prop_oneof![
            (key(), value()).prop_map(|(key, value)| Op::Put(key, value)),
            key().prop_map(Op::Delete),
            value().prop_map(Op::Event),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(commits in proptest::collection::vec(proptest::collection::vec(op(), 0..5), 0..5)) {
            let mut payload = Vec::new();
            for ops in &commits {
                encode(ops, &mut payload);
            }
            let told = Commits { first: Revision(9), count: commits.len() as u32, lag: 2 };
            let (bytes, crc) = frame(StoreId(7), 3, told, &payload);
            let head = head_at(Format::Three, StoreId(7), &bytes, 0).unwrap();
            prop_assert_eq!((head.crc, head.previous, head.commits), (crc, 3, told));
            prop_assert!(head_at(Format::Three, StoreId(8), &bytes, 0).is_none());
            prop_assert_eq!(decode(&Bytes::from(payload), commits.len() as u32).unwrap(), commits);
        }

        #[test]
        fn a_changed_bit_is_seen(payload in proptest::collection::vec(any::<u8>(), 1..100), place in any::<proptest::sample::Index>(), bit in 0..8_u32) {
            let (mut bytes, _) = frame(StoreId(1), 0, Commits { first: Revision(1), count: 1, lag: 0 }, &payload);
            let at = place.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(head_at(Format::Three, StoreId(1), &bytes, 0).is_none());
        }

        #[test]
        fn decoding_never_panics(payload in proptest::collection::vec(any::<u8>(), 0..100), count in 0..4_u32) {
            let _ = decode(&Bytes::from(payload), count);
        }
    }
}
