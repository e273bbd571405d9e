//! Values that are too big for one record of sled lie there in parts: a node of over 128 KiB goes into a file of its own, which sled
//! never syncs and whose failed write can hang it. A leaf has up to 17 records, and some more when it merges.
//!
//! ```text
//! key                  revision:8 crc:4 "\0CRPARTS" length:4     no value of a client reads so: its checksum would have to hold
//! "\0part" key n:4     the n-th part of the sealed value
//! ```

use bytes::Bytes;

use super::frame::u32_at;
use super::seal::{HEAD, unseal};

/// Longest sealed value that is one record.
const WHOLE: usize = PART;
const PART: usize = 4 << 10;
const MARK: &[u8; 8] = b"\0CRPARTS";

fn part_key(key: &[u8], number: usize) -> Vec<u8> {
    [&b"\0part"[..], key, &(number as u32).to_be_bytes()].concat()
}

/// Puts a sealed value.
pub(crate) fn insert(batch: &mut sled::Batch, key: &[u8], sealed: &[u8]) {
    if sealed.len() <= WHOLE {
        batch.insert(key, sealed);
        return;
    }
    for (number, part) in sealed.chunks(PART).enumerate() {
        batch.insert(part_key(key, number), part);
    }
    batch.insert(key, [&sealed[..HEAD], MARK, &(sealed.len() as u32).to_le_bytes()].concat());
}

/// Removes a sealed value; `old` is all of it.
pub(crate) fn remove(batch: &mut sled::Batch, key: &[u8], old: &[u8]) {
    batch.remove(key);
    if old.len() > WHOLE {
        (0..old.len().div_ceil(PART)).for_each(|number| batch.remove(part_key(key, number)));
    }
}

/// The sealed value of what sled has under a key. Where a part is missing it is one that fails its checksum.
pub(crate) fn whole(db: &sled::Db, key: &[u8], found: &[u8]) -> sled::Result<Bytes> {
    let found = Bytes::copy_from_slice(found);
    if found.len() != HEAD + 12 || &found[HEAD..HEAD + 8] != MARK || unseal(key, &found).is_ok() {
        return Ok(found);
    }
    let length = u32_at(&found, HEAD + 8) as usize;
    let mut sealed = Vec::new();
    for number in 0..length.div_ceil(PART) {
        match db.get(part_key(key, number))? {
            Some(part) => sealed.extend_from_slice(&part),
            None => return Ok(found),
        }
    }
    Ok(sealed.into())
}
