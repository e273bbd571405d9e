//! PAX extended headers: `length key=value\n` records.

use super::super::limits::{Limits, malformed};
use super::Time;
use crated_types::Result;

/// What an extended header says of the entry that follows it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) atime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Major number of GNU's sparse format, where it is 1.
    pub(super) sparse_map_in_data: bool,
    pub(super) sparse_size: Option<u64>,
    /// Formats 0.0 and 0.1.
    pub(super) sparse_map: Option<Vec<(u64, u64)>>,
}

impl Pax {
    pub(super) fn parse(mut body: &[u8], name: &[u8], limits: &Limits) -> Result<Self> {
        let bad = |why: &str| malformed(name, format_args!("extended header: {why}"));
        let mut pax = Self::default();
        let mut sparse_name = None;
        let mut offset = None;
        while !body.is_empty() && body[0] != 0 {
            let blank = body.iter().take(20).position(|byte| *byte == b' ').ok_or_else(|| bad("no length"))?;
            let length = decimal(&body[..blank]).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| *length > blank + 1 && *length <= body.len());
            let (record, rest) = body.split_at(length.ok_or_else(|| bad("a wrong length"))?);
            body = rest;
            let record = record[blank + 1..].strip_suffix(b"\n").ok_or_else(|| bad("a record without an end"))?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(|| bad("a record without a key"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let number = || decimal(value).ok_or_else(|| bad("a number that is none"));
            if let Some(key) = key.strip_prefix(b"SCHILY.xattr.") {
                pax.xattrs.push((key.to_vec(), value.to_vec()));
                continue;
            }
            match key {
                _ if value.is_empty() => {} // takes back what a global header says; we take nothing from those
                b"path" => pax.path = Some(value.to_vec()),
                b"linkpath" => pax.link = Some(value.to_vec()),
                b"size" => pax.size = Some(number()?),
                b"uid" => pax.uid = Some(number()?),
                b"gid" => pax.gid = Some(number()?),
                b"mtime" => pax.mtime = Some(time(value).ok_or_else(|| bad("a time that is none"))?),
                b"atime" => pax.atime = Some(time(value).ok_or_else(|| bad("a time that is none"))?),
                b"GNU.sparse.major" => pax.sparse_map_in_data = value == b"1",
                b"GNU.sparse.name" => sparse_name = Some(value.to_vec()),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => pax.sparse_size = Some(number()?),
                b"GNU.sparse.offset" => offset = Some(number()?),
                b"GNU.sparse.numbytes" => {
                    let offset = offset.take().ok_or_else(|| bad("a sparse length without its offset"))?;
                    pax.segment((offset, number()?), limits).ok_or_else(|| bad("too many sparse segments"))?;
                }
                b"GNU.sparse.map" => {
                    let numbers: Option<Vec<_>> = value.split(|byte| *byte == b',').map(decimal).collect();
                    let numbers = numbers.filter(|numbers| numbers.len() % 2 == 0);
                    for pair in numbers.ok_or_else(|| bad("a sparse map that is none"))?.chunks_exact(2) {
                        pax.segment((pair[0], pair[1]), limits).ok_or_else(|| bad("too many sparse segments"))?;
                    }
                }
                _ => {}
            }
        }
        if sparse_name.is_some() {
            pax.path = sparse_name;
        }
        Ok(pax)
    }

    fn segment(&mut self, segment: (u64, u64), limits: &Limits) -> Option<()> {
        let map = self.sparse_map.get_or_insert_default();
        map.push(segment);
        (map.len() <= limits.segments).then_some(())
    }
}

/// Digits only.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds with an optional sign and fraction; what is finer than a nanosecond is cut off.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?).ok()?;
    let fraction = text.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0u32, |value, place| value * 10 + u32::from(fraction.get(place).map_or(0, |d| d - b'0')));
    Some(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_epoch() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        assert_eq!(time(b"x"), None);
    }

    #[test]
    fn records_are_read_and_lies_refused() {
        let pax = Pax::parse(b"12 path=a/b\n26 SCHILY.xattr.user.a=\0=\n", b"x", &Limits::default()).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"\0=".to_vec())]);
        for bad in
            [&b"99 path=a\n"[..], b"5 path", b"0 path=a\n", b"path=a\n", b"8 a=b\n\n\n1", b"18446744073709551616 a=b\n"]
        {
            assert!(Pax::parse(bad, b"x", &Limits::default()).is_err(), "{bad:?}");
        }
    }
}
