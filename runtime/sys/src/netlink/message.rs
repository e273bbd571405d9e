//! Messages and attributes of netlink: lengths of 16 and 32 bits, aligned to 4 bytes, in the host's order.

use crate::error::{Errno, Result, SysError};

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
/// NLA_F_NESTED | NLA_F_NET_BYTEORDER.
const TYPE_FLAGS: u16 = 0xc000;
const NESTED: u16 = 0x8000;

/// Rounded up to the border of the next attribute.
pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A request that is being written.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
    name: String,
    too_long: bool,
}

impl Message {
    /// A request of a kind; `name` is for its error.
    pub fn new(kind: u16, flags: u16, name: impl Into<String>) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        Self { bytes, name: name.into(), too_long: false }
    }

    /// What it is, for errors.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Appends the fixed part that stands before the attributes.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = 4 + value.len();
        // A length that wraps would let the value be read as further attributes (CVE-2021-43784).
        self.too_long |= length > usize::from(u16::MAX);
        self.bytes.extend_from_slice(&(length as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a number in the host's order.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends a text with its NUL.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends an attribute of attributes.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = filled.bytes.len() - start;
        filled.too_long |= length > usize::from(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        filled
    }

    /// Bytes so far.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// The bytes with their length, number and flags. EMSGSIZE where an attribute is longer than its length can say.
    pub(crate) fn finish(mut self, sequence: u32, flags: u16) -> Result<Vec<u8>> {
        let Ok(length) = u32::try_from(self.bytes.len()) else {
            return Err(SysError::new("netlink", self.name, Errno::EMSGSIZE));
        };
        if self.too_long {
            return Err(SysError::new("netlink", self.name, Errno::EMSGSIZE));
        }
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let all = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.bytes)
    }
}

/// `struct nlmsghdr` of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
}

/// The messages of a datagram; what is cut ends the walk.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
        let (head, body) = (bytes.get(..HEADER)?, bytes.get(HEADER..length)?);
        let header = Header {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            sequence: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
        };
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((header, body))
    })
}

/// Attributes that came.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// Kind and value of each; what is cut ends the walk.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut bytes = self.0;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
            let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & !TYPE_FLAGS;
            let value = bytes.get(4..length)?;
            bytes = bytes.get(align(length)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The value of the first of a kind.
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// A number in the host's order.
    pub fn number(&self, kind: u16) -> Option<u32> {
        self.find(kind)?.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    /// A text up to its NUL.
    pub fn text(&self, kind: u16) -> Option<String> {
        let value = self.find(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// The attributes within one.
    pub fn inner(&self, kind: u16) -> Option<Attributes<'a>> {
        self.find(kind).map(Attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let message = Message::new(16, 0x600, "m")
            .fixed(&[1; 5])
            .number(1, 7)
            .nest(2, |inner| inner.text(3, "eth0").attribute(4, &[9; 3]))
            .attribute(5, &[]);
        let bytes = message.finish(42, 4).unwrap();
        let all: Vec<_> = messages(&bytes).collect();
        let [(header, body)] = all[..] else { panic!("{all:?}") };
        assert_eq!((header.kind, header.flags, header.sequence), (16, 0x605, 42));
        let attributes = Attributes(&body[8..]);
        assert_eq!(attributes.number(1), Some(7));
        let inner = attributes.inner(2).unwrap();
        assert_eq!((inner.text(3).unwrap().as_str(), inner.find(4)), ("eth0", Some(&[9; 3][..])));
        assert_eq!(attributes.find(5), Some(&[][..]));
        assert_eq!(attributes.find(6), None);
    }

    #[test]
    fn an_attribute_that_is_too_long_is_refused() {
        let long = vec![0; 70_000];
        assert_eq!(Message::new(1, 0, "m").attribute(1, &long).finish(1, 0).unwrap_err().errno(), Errno::EMSGSIZE);
        let nested = Message::new(1, 0, "m").nest(1, |m| m.attribute(1, &long[..40_000]).attribute(2, &long[..40_000]));
        assert_eq!(nested.finish(1, 0).unwrap_err().errno(), Errno::EMSGSIZE);
    }

    #[test]
    fn damaged_bytes_end_the_walk() {
        for length in 0..40usize {
            for fill in [0, 1, 3, 4, 16, 255] {
                let bytes = vec![fill; length];
                assert!(messages(&bytes).count() <= length && Attributes(&bytes).iter().count() <= length);
            }
        }
    }
}
