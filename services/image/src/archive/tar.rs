//! Reads an archive's entries as names and bytes, in bounded memory: nothing here touches a file system.

use crated_types::{Error, Fault, Result};
use std::io::{self, Read};

const BLOCK: usize = 512;
/// Longest extended header or long name, in bytes.
const EXTENDED_MAX: u64 = 1 << 20;
/// Most entries of an archive.
const ENTRIES_MAX: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    /// A symbolic or hard link.
    Link,
    Other,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: EntryKind,
    /// Target of a link, as written.
    pub(super) link: String,
    pub(super) symbolic: bool,
    pub(super) size: u64,
}

/// The reader; between two entries it reads as the first one's bytes.
#[derive(Debug)]
pub(super) struct Reader<R> {
    input: R,
    left: u64,
    padding: u64,
    entries: u64,
}

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::new(Fault::Malformed, format!("archive: {what}"))
}

fn failed(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => malformed("it ends in the middle"),
        Err(error) => malformed("it cannot be read").caused_by(error),
    }
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, entries: 0 }
    }

    /// The next entry; what was not read of the last one is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let (mut long_name, mut long_link, mut size) = (None, None, None);
        loop {
            self.skip()?;
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(malformed(format_args!("more than {ENTRIES_MAX} entries")));
            }
            let header = ::tar::Header::from_byte_slice(&block);
            check_sum(&block)?;
            let told = header.entry_size().map_err(|error| malformed(error.to_string()))?;
            match block[156] {
                b'L' => long_name = Some(text(self.extended(told)?)?),
                b'K' => long_link = Some(text(self.extended(told)?)?),
                b'g' => drop(self.extended(told)?),
                b'x' => {
                    for (key, value) in pax(&self.extended(told)?)? {
                        match key.as_str() {
                            "path" => long_name = Some(value),
                            "linkpath" => long_link = Some(value),
                            "size" => size = Some(value.parse().map_err(|_| malformed("a size that is no number"))?),
                            _ => {}
                        }
                    }
                }
                flag => {
                    let kind = match flag {
                        0 | b'0' | b'7' => EntryKind::File,
                        b'1' | b'2' => EntryKind::Link,
                        _ => EntryKind::Other,
                    };
                    let size = size.unwrap_or(told);
                    self.set(if kind == EntryKind::File { size } else { told });
                    let name = match long_name {
                        Some(name) => name,
                        None => text(header.path_bytes().into_owned())?,
                    };
                    let link = match long_link {
                        Some(link) => link,
                        None => text(header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default())?,
                    };
                    let kind = if name.ends_with('/') { EntryKind::Other } else { kind };
                    return Ok(Some(Entry {
                        name: normal(&name),
                        kind,
                        link,
                        symbolic: flag == b'2',
                        size: self.left,
                    }));
                }
            }
        }
    }

    fn set(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip(&mut self) -> Result<()> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink()).map_err(failed)?;
        if skipped < rest { Err(malformed("it ends in the middle")) } else { Ok(()) }
    }

    /// The next header; nothing where the archive just stops.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(malformed("it ends in the middle of a header")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Some(block))
    }

    fn extended(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENDED_MAX {
            return Err(malformed(format_args!("an extended header of {size} bytes, {EXTENDED_MAX} are the most")));
        }
        self.set(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Reads the whole entry, which has at most `limit` bytes.
    pub(super) fn whole(&mut self, name: &str, limit: u64) -> Result<Vec<u8>> {
        if self.left > limit {
            return Err(malformed(format_args!("{name} has {} bytes, {limit} are the most", self.left)));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Fills `buffer` as far as the entry goes.
    pub(super) fn fill(&mut self, buffer: &mut Vec<u8>, length: usize) -> Result<()> {
        buffer.clear();
        self.by_ref().take(length as u64).read_to_end(buffer).map_err(failed)?;
        Ok(())
    }

    /// Reads what is left behind the archive, so that checksums of its compression are checked.
    pub(super) fn drain(mut self) -> Result<()> {
        io::copy(&mut self.input, &mut io::sink()).map(drop).map_err(failed)
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.input.read(&mut buffer[..length])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// The header's checksum, which tells a tar from other files.
fn check_sum(block: &[u8; BLOCK]) -> Result<()> {
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    let told = std::str::from_utf8(&block[148..156]).ok().map(|text| text.trim_matches(['\0', ' ']));
    match told.and_then(|text| u32::from_str_radix(text, 8).ok()) {
        Some(told) if told == sum => Ok(()),
        _ => Err(malformed("this is no tar archive, or a damaged one (a header's checksum is wrong)")),
    }
}

fn text(mut bytes: Vec<u8>) -> Result<String> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    String::from_utf8(bytes).map_err(|_| malformed("a name is not UTF-8"))
}

/// Records of a PAX header: `<length> <key>=<value>\n`.
fn pax(bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let bad = || malformed("a PAX header is malformed");
    let mut records = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize =
            std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        let record = rest.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
        rest = &rest[length..];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let key = String::from_utf8(record[..equals].to_vec()).map_err(|_| bad())?;
        if let Ok(value) = String::from_utf8(record[equals + 1..].to_vec()) {
            records.push((key, value));
        }
    }
    Ok(records)
}

/// A name without `./`, empty parts and `..`: names are only keys here.
pub(super) fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_names_and_links_are_read() {
        let mut builder = ::tar::Builder::new(Vec::new());
        let long = format!("./{}/file", "d".repeat(200));
        let mut header = ::tar::Header::new_gnu();
        header.set_size(3);
        builder.append_data(&mut header, &long, &b"abc"[..]).unwrap();
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(::tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "b/layer.tar", "../a/layer.tar").unwrap();
        let bytes = builder.into_inner().unwrap();
        let mut reader = Reader::new(&bytes[..]);
        let first = reader.next().unwrap().unwrap();
        assert_eq!((first.name.len(), first.size, first.kind), (205, 3, EntryKind::File));
        assert_eq!(reader.whole("x", 3).unwrap(), b"abc");
        let second = reader.next().unwrap().unwrap();
        assert_eq!((second.link.as_str(), second.symbolic), ("../a/layer.tar", true));
        assert_eq!(reader.next().unwrap(), None);
        assert!(Reader::new(&bytes[..1100]).next().is_err());
        let mut cut = Reader::new(&bytes[..1537]);
        cut.next().unwrap();
        assert!(cut.next().is_err());
        assert!(Reader::new(&[7_u8; 1024][..]).next().is_err());
    }

    #[test]
    fn names_stay_below_the_root() {
        assert_eq!(normal("./a//b/../c"), "a/c");
        assert_eq!(normal("/../../etc/passwd"), "etc/passwd");
    }

    proptest! {
        #[test]
        fn pax_records_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = pax(&bytes);
        }
    }
}
