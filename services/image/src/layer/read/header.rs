//! One 512-byte header: fields of ustar and GNU, numbers in octal and base-256.

use super::super::limits::malformed;
use crated_types::Result;

/// Size of a tar block.
pub(super) const BLOCK: usize = 512;

/// The fields that every format has.
#[derive(Debug)]
pub(super) struct Header {
    name: Vec<u8>,
    link: Vec<u8>,
    pub(super) flag: u8,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) device: (u32, u32),
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self> {
        let name = text(&block[..100]);
        check_sum(block, name)?;
        let field = |what: &str, from: usize, length: usize| {
            number(&block[from..from + length]).ok_or_else(|| malformed(name, format_args!("{what} is no number")))
        };
        let positive = |what: &str, from, length| {
            u64::try_from(field(what, from, length)?).map_err(|_| malformed(name, format_args!("{what} is negative")))
        };
        let flag = block[156];
        let ustar = &block[257..263] == b"ustar\0";
        let known = ustar || &block[257..265] == b"ustar  \0";
        let prefix = if ustar { text(&block[345..500]) } else { b"" };
        let mut whole = Vec::with_capacity(prefix.len() + 1 + name.len());
        if !prefix.is_empty() {
            whole.extend_from_slice(prefix);
            whole.push(b'/');
        }
        whole.extend_from_slice(name);
        let device = if known && matches!(flag, b'3' | b'4') {
            let part = |what, from| {
                u32::try_from(positive(what, from, 8)?)
                    .map_err(|_| malformed(name, format_args!("{what} is too large")))
            };
            (part("major number", 329)?, part("minor number", 337)?)
        } else {
            (0, 0)
        };
        Ok(Self {
            link: text(&block[157..257]).to_vec(),
            flag,
            mode: (positive("mode", 100, 8)? & 0o7777) as u32,
            uid: positive("uid", 108, 8)?,
            gid: positive("gid", 116, 8)?,
            size: positive("size", 124, 12)?,
            mtime: field("mtime", 136, 12)?,
            device,
            name: whole,
        })
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn link(&self) -> &[u8] {
        &self.link
    }
}

/// A field of text: up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits between blanks, or base-256 with the highest bit set; empty is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        // Two's complement in the bits behind the mark.
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = if index == 0 { (byte & 0x7f) | if negative { 0x80 } else { 0 } } else { *byte };
            value = value.checked_mul(256)? | i128::from(byte);
            if i64::try_from(value).is_err() {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// The sum of all bytes with the sum's own field taken as blanks; old programs added signed bytes.
fn check_sum(block: &[u8; BLOCK], name: &[u8]) -> Result<()> {
    let said = number(&block[148..156]);
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (index, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    if said == Some(unsigned) || said == Some(signed) {
        return Ok(());
    }
    Err(malformed(name, "the header's checksum is wrong: this is no tar archive, or it is damaged"))
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_of_all_kinds() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"0008\0\0\0\0"), None);
        assert_eq!(number(b"\x80\0\0\0\0\x20\0\0"), Some(0x20_0000));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }
}
