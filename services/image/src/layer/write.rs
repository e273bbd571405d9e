//! The tar writer: ustar headers, PAX records for what they cannot hold. The same entries give the same bytes.

use std::ffi::CString;
use std::io::{self, Write};

const BLOCK: usize = 512;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What an entry says; `name` of a folder ends with a slash.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) name: &'a [u8],
    /// Type flag of ustar: `0` file, `1` hard link, `2` symbolic link, `3` and `4` devices, `5` folder, `6` FIFO.
    pub(super) flag: u8,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Whole seconds, as the field's layers have them.
    pub(super) mtime: i64,
    pub(super) link: &'a [u8],
    pub(super) device: (u32, u32),
    pub(super) xattrs: &'a [(CString, Vec<u8>)],
}

/// Writes an archive.
#[derive(Debug)]
pub(super) struct TarWriter<W> {
    out: W,
    pub(super) entries: u64,
}

impl<W: Write> TarWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Writes the headers of an entry; `head.size` bytes of data and [`Self::pad`] must follow.
    pub(super) fn head(&mut self, head: &Head<'_>) -> io::Result<()> {
        self.entries += 1;
        let mut pax = Vec::new();
        let textual = |text: &[u8]| text.len() <= 100 && text.is_ascii();
        if !textual(head.link) {
            record(&mut pax, b"linkpath", head.link);
        }
        if !(0..=0o777_7777_7777).contains(&head.mtime) {
            record(&mut pax, b"mtime", head.mtime.to_string().as_bytes());
        }
        if !textual(head.name) {
            record(&mut pax, b"path", head.name);
        }
        for (key, number, largest) in [
            (&b"gid"[..], u64::from(head.gid), 0o777_7777),
            (b"size", head.size, 0o777_7777_7777),
            (b"uid", u64::from(head.uid), 0o777_7777),
        ] {
            if number > largest {
                record(&mut pax, key, number.to_string().as_bytes());
            }
        }
        for (key, value) in head.xattrs {
            record(&mut pax, &[b"SCHILY.xattr.", key.to_bytes()].concat(), value);
        }
        if !pax.is_empty() {
            let header = Head {
                name: b"PaxHeaders.0/entry",
                flag: b'x',
                mode: 0o644,
                uid: 0,
                gid: 0,
                size: pax.len() as u64,
                mtime: 0,
                link: b"",
                device: (0, 0),
                xattrs: &[],
            };
            self.out.write_all(&block(&header))?;
            self.out.write_all(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        self.out.write_all(&block(head))
    }

    /// Writes data of the entry.
    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Fills up the last block of data of this size.
    pub(super) fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.out.write_all(&ZEROS[over..]) }
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&ZEROS)?;
        self.out.write_all(&ZEROS)?;
        Ok(self.out)
    }
}

#[cfg(test)]
impl TarWriter<Vec<u8>> {
    /// What was written so far.
    pub(super) fn clone_out(&self) -> Vec<u8> {
        self.out.clone()
    }
}

/// `length key=value\n`, where the length counts itself.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(length.to_string().as_bytes());
    pax.push(b' ');
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn block(head: &Head<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    text(&mut block[..100], head.name);
    octal(&mut block[100..108], u64::from(head.mode));
    octal(&mut block[108..116], u64::from(head.uid));
    octal(&mut block[116..124], u64::from(head.gid));
    octal(&mut block[124..136], head.size);
    octal(&mut block[136..148], u64::try_from(head.mtime).unwrap_or(0));
    block[156] = head.flag;
    text(&mut block[157..257], head.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], u64::from(head.device.0));
    octal(&mut block[337..345], u64::from(head.device.1));
    block[148..156].fill(b' ');
    let sum = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

fn text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Octal digits and a NUL; 0 for what does not fit, which stands in a PAX record.
fn octal(field: &mut [u8], number: u64) {
    let width = field.len() - 1;
    let digits = format!("{number:0width$o}");
    let digits = if digits.len() > width { "0".repeat(width) } else { digits };
    field[..width].copy_from_slice(digits.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::record;

    #[test]
    fn a_record_counts_itself() {
        for length in [1, 5, 88, 89, 90, 91, 92, 900, 990, 991] {
            let mut pax = Vec::new();
            record(&mut pax, b"path", &vec![b'a'; length]);
            let text = String::from_utf8(pax).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), text.len());
        }
    }
}
