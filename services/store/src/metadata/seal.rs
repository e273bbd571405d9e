//! Sealed records and the tally that proves what an index holds.

use bytes::Bytes;
use crated_core::{Revision, Stored};
use std::collections::BTreeMap;

use super::error::{Result, StoreError, shown};
use super::frame::{u32_at, u64_at};

/// Bytes before the value: revision and checksum.
pub(crate) const HEAD: usize = 12;

/// Sealed values by key; `None` is a deletion.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Bytes>>;

/// Sealed records in key order.
pub(crate) type Sealed = Vec<(Vec<u8>, Bytes)>;

fn checksum(key: &[u8], revision: Revision, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(&revision.0.to_le_bytes());
    hasher.update(value);
    hasher.finalize()
}

/// `revision:8 crc:4 value`
pub(crate) fn seal(key: &[u8], revision: Revision, value: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(HEAD + value.len());
    bytes.extend(revision.0.to_le_bytes());
    bytes.extend(checksum(key, revision, value).to_le_bytes());
    bytes.extend(value);
    bytes.into()
}

/// The record of a sealed value.
pub(crate) fn unseal(key: &[u8], sealed: &Bytes) -> Result<Stored> {
    if sealed.len() >= HEAD {
        let (revision, value) = (Revision(u64_at(sealed, 0)), sealed.slice(HEAD..));
        if checksum(key, revision, &value) == u32_at(sealed, 8) {
            return Ok(Stored { revision, value });
        }
    }
    Err(StoreError::Index(format!("record {} fails its checksum", shown(key))))
}

/// What an index holds: the newest applied revision, how many records, the sum of their fingerprints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Newest applied revision.
    pub applied: Revision,
    /// Records.
    pub count: u64,
    /// Sum of their fingerprints, modulo 2^64.
    pub sum: u64,
}

impl Tally {
    /// `applied:8 count:8 sum:8 crc:4`
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            [self.applied.0, self.count, self.sum].iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Reads an encoded one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 28 && crc32fast::hash(&bytes[..24]) == u32_at(bytes, 24)).then(|| Self {
            applied: Revision(u64_at(bytes, 0)),
            count: u64_at(bytes, 8),
            sum: u64_at(bytes, 16),
        })
    }

    /// Counts a sealed record in.
    pub(crate) fn add(&mut self, sealed: &[u8]) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(fingerprint(sealed));
    }

    /// Counts a sealed record out.
    pub(crate) fn subtract(&mut self, sealed: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(fingerprint(sealed));
    }
}

/// A record's share of the sum: its revision and checksum, mixed (splitmix64).
fn fingerprint(sealed: &[u8]) -> u64 {
    if sealed.len() < HEAD {
        return 1;
    }
    let (revision, crc) = (u64_at(sealed, 0), u64::from(u32_at(sealed, 8)));
    let mut mixed = (revision ^ (crc << 32 | crc)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
