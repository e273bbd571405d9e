//! The container's log in docker's json-file format: one object a line, rotated by size.
//!
//! A line of output that has no end yet is kept back until it has one, grows past 16 KiB, or the stream ends. What cannot be
//! written (a full disk) is lost, counted, and told once; the container never notices.

use crate::log;
use crated_types::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::SystemTime;

/// Longest piece of one entry, in bytes (docker's).
const PIECE: usize = 16 << 10;

/// Which stream bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout = 0,
    Stderr = 1,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of one process.
#[derive(Debug)]
pub(crate) struct JsonLog {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    max_files: u32,
    partial: [Vec<u8>; 2],
    failing: bool,
}

fn open(path: &PathBuf) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).read(true).mode(0o640).open(path)
}

impl JsonLog {
    /// Opens the log, to be appended to.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn open(path: PathBuf, max_size: u64, max_files: u32) -> Result<Self> {
        let file = open(&path).map_err(|error| Error::os(format!("open log {}", path.display()), error))?;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let mut log = Self { path, file, size, max_size, max_files, partial: Default::default(), failing: false };
        log.close_broken_line();
        Ok(log)
    }

    /// A log that was cut in the middle of a line goes on with a new one.
    fn close_broken_line(&mut self) {
        let mut last = [b'\n'];
        if self.size > 0 && self.file.read_at(&mut last, self.size - 1).is_ok() && last != [b'\n'] {
            self.append(b"\n");
        }
    }

    /// Takes output.
    pub(crate) fn write(&mut self, stream: Stream, data: &[u8]) {
        let time = crate::time::rfc3339(SystemTime::now());
        let mut entries = Vec::with_capacity(data.len() + data.len() / 4 + 96);
        let mut ends = Vec::new();
        let partial = &mut self.partial[stream as usize];
        let mut rest = data;
        while !rest.is_empty() {
            let room = PIECE - partial.len();
            let end = rest.iter().take(room).position(|byte| *byte == b'\n').map(|at| at + 1);
            let (piece, more) = rest.split_at(end.unwrap_or(room.min(rest.len())));
            rest = more;
            if end.is_some() && partial.is_empty() {
                encode(&mut entries, piece, stream, &time);
                ends.push(entries.len());
                continue;
            }
            partial.extend_from_slice(piece);
            if end.is_some() || partial.len() >= PIECE {
                let cut = if end.is_some() { partial.len() } else { whole(partial) };
                encode(&mut entries, &partial[..cut], stream, &time);
                ends.push(entries.len());
                partial.drain(..cut);
            }
        }
        if partial.is_empty() {
            *partial = Vec::new();
        }
        self.append_entries(&entries, &ends);
    }

    /// Appends whole entries, file by file: many short lines become much more than was read.
    fn append_entries(&mut self, entries: &[u8], ends: &[usize]) {
        let (mut start, mut held) = (0, 0);
        for end in ends {
            let more = (*end - start) as u64;
            if self.max_size > 0 && held > start && self.size + more > self.max_size {
                self.append(&entries[start..held]);
                start = held;
            }
            held = *end;
        }
        self.append(&entries[start..]);
    }

    /// A stream has ended: what is kept back is written.
    pub(crate) fn finish(&mut self, stream: Stream) {
        let partial = std::mem::take(&mut self.partial[stream as usize]);
        if !partial.is_empty() {
            let mut entry = Vec::new();
            encode(&mut entry, &partial, stream, &crate::time::rfc3339(SystemTime::now()));
            self.append(&entry);
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let result = self.rotate_for(bytes.len() as u64).and_then(|()| self.file.write_all(bytes));
        match result {
            Ok(()) => {
                self.size += bytes.len() as u64;
                self.failing = false;
            }
            Err(error) => {
                // No half line stays behind.
                let _ = self.file.set_len(self.size);
                if !self.failing {
                    log::warn(format_args!("log {} loses output: {error}", self.path.display()));
                }
                self.failing = true;
            }
        }
    }

    fn rotate_for(&mut self, more: u64) -> std::io::Result<()> {
        if self.max_size == 0 || self.size == 0 || self.size + more <= self.max_size {
            return Ok(());
        }
        if self.max_files <= 1 {
            self.file.set_len(0)?;
        } else {
            let numbered = |number: u32| {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            };
            for number in (1..self.max_files - 1).rev() {
                match std::fs::rename(numbered(number), numbered(number + 1)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            std::fs::rename(&self.path, numbered(1))?;
            self.file = open(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

/// How much of `bytes` can be cut off without splitting a character.
fn whole(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    for at in (tail..bytes.len()).rev() {
        let needed = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => break,
        };
        return if bytes.len() - at < needed { at } else { bytes.len() };
    }
    bytes.len()
}

fn encode(out: &mut Vec<u8>, text: &[u8], stream: Stream, time: &str) {
    out.extend_from_slice(b"{\"log\":\"");
    for chunk in text.utf8_chunks() {
        escape(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Escapes as JSON asks, copying what needs none in one piece.
fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let special: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f | 0x7f => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        if special.is_empty() {
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            out.extend_from_slice(special);
        }
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn entries(path: &std::path::Path) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(path).unwrap();
        let entry = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            assert!(value["time"].as_str().unwrap().ends_with('Z'));
            (value["stream"].as_str().unwrap().to_owned(), value["log"].as_str().unwrap().to_owned())
        };
        text.lines().map(entry).collect()
    }

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let mut log = JsonLog::open(path.clone(), 0, 1).unwrap();
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"o\n\xff\x01\"\\\t\n");
        log.write(Stream::Stdout, b"end");
        log.finish(Stream::Stdout);
        let expected =
            [("stdout", "one\n"), ("stderr", "err\n"), ("stdout", "two\n"), ("stdout", "\u{fffd}\u{1}\"\\\t\n")];
        let mut expected: Vec<_> = expected.iter().map(|(s, l)| ((*s).to_owned(), (*l).to_owned())).collect();
        expected.push(("stdout".into(), "end".into()));
        assert_eq!(entries(&path), expected);
    }

    #[test]
    fn many_short_lines_at_once_keep_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let mut log = JsonLog::open(path.clone(), 1000, 3).unwrap();
        let lines: Vec<String> = (0..60).map(|number| format!("{number}\n")).collect();
        log.write(Stream::Stdout, lines.concat().as_bytes());
        let mut kept = Vec::new();
        for name in ["l.2", "l.1", "l"] {
            let path = dir.path().join(name);
            assert!(std::fs::metadata(&path).unwrap().len() <= 1000, "{name}");
            kept.extend(entries(&path).into_iter().map(|(_, text)| text));
        }
        assert_eq!(kept, lines[lines.len() - kept.len()..]);
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let mut log = JsonLog::open(path.clone(), 0, 1).unwrap();
        let long = format!("a{}\n", "é".repeat(20_000));
        log.write(Stream::Stdout, long.as_bytes());
        let entries = entries(&path);
        assert!(entries.len() == 3 && entries.iter().all(|(_, text)| text.len() <= PIECE));
        assert_eq!(entries.iter().map(|(_, text)| text.as_str()).collect::<String>(), long);
    }

    #[test]
    fn full_files_are_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let mut log = JsonLog::open(path.clone(), 200, 3).unwrap();
        for number in 0..20 {
            log.write(Stream::Stdout, format!("{number}\n").as_bytes());
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["l", "l.1", "l.2"]);
        assert_eq!(entries(&path).last().unwrap().1, "19\n");
        assert!(std::fs::metadata(&path).unwrap().len() <= 200);
        let before = entries(&dir.path().join("l.1")).len();
        assert!(before > 1);
        drop(log);
        let mut log = JsonLog::open(path.clone(), 200, 1).unwrap();
        for _ in 0..20 {
            log.write(Stream::Stderr, b"x\n");
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= 200);
    }

    #[test]
    fn a_broken_line_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        std::fs::write(&path, "{\"log\":\"cut").unwrap();
        JsonLog::open(path.clone(), 0, 1).unwrap().write(Stream::Stdout, b"next\n");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().nth(1).unwrap().contains("next"));
    }

    #[test]
    fn a_full_disk_is_no_error() {
        let mut log = JsonLog::open("/dev/full".into(), 0, 1).unwrap();
        log.write(Stream::Stdout, b"lost\n");
        assert!(log.failing);
    }
}
