//! Reads docker's json-file logs: rotated files first, from the n-th last line on, and on behind the end, over rotations.

use bytes::Bytes;
use crated_api::crated::engine::v1::{LogEntry, LogsRequest};
use crated_types::{Error, Result};
use prost_types::Timestamp;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;
/// Longest line of a log; a longer one is told in pieces.
const LINE_MAX: usize = 1 << 20;
/// Most rotated files that are looked for.
const FILES_MAX: u32 = 1000;

/// Which entries a client wants.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    stdout: bool,
    stderr: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Filter {
    pub(super) fn new(request: &LogsRequest) -> Self {
        let both = !request.stdout && !request.stderr;
        Self {
            stdout: request.stdout || both,
            stderr: request.stderr || both,
            since: request.since,
            until: request.until,
        }
    }

    pub(super) fn passes(&self, entry: &LogEntry) -> bool {
        let stream = if entry.stream == "stderr" { self.stderr } else { self.stdout };
        stream && self.since.is_none_or(|since| order(entry.time) >= order(Some(since)))
    }

    /// Whether the entry, and so every one behind it, is too young.
    pub(super) fn ended_by(&self, entry: &LogEntry) -> bool {
        self.until.is_some_and(|until| entry.time.is_some() && order(entry.time) > order(Some(until)))
    }
}

fn order(time: Option<Timestamp>) -> (i64, i32) {
    time.map_or((i64::MAX, 0), |time| (time.seconds, time.nanos))
}

/// A place in a log.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    /// None before the first file is there.
    file: Option<File>,
    /// Files behind this one, the oldest last.
    newer: Vec<File>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are read.
    used: usize,
}

impl Reader {
    /// Opens a log at its first line, or at the `tail`-th last one.
    pub(super) fn open(path: &Path, tail: Option<usize>) -> Result<Self> {
        let failed = |error| Error::os(format!("read log {}", path.display()), error);
        let mut files = open_all(path).map_err(failed)?;
        if let Some(mut lines) = tail {
            let mut keep = files.len();
            for (index, file) in files.iter_mut().enumerate().rev() {
                let (offset, found) = tail_offset(file, lines).map_err(failed)?;
                file.seek(SeekFrom::Start(offset)).map_err(failed)?;
                keep = index;
                lines -= found;
                if lines == 0 {
                    break;
                }
            }
            files.drain(..keep);
        }
        files.reverse();
        let file = files.pop();
        Ok(Self { path: path.to_owned(), file, newer: files, buffer: Vec::new(), used: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// At most `most` entries; none where nothing more is there now.
    pub(super) fn read(&mut self, most: usize) -> Result<Vec<LogEntry>> {
        let mut entries = Vec::new();
        while entries.len() < most {
            if let Some(line) = self.line() {
                entries.extend(entry(&line));
                continue;
            }
            if !self.fill().map_err(|error| Error::os(format!("read log {}", self.path.display()), error))? {
                break;
            }
        }
        Ok(entries)
    }

    /// The next whole line in the buffer.
    fn line(&mut self) -> Option<Vec<u8>> {
        let rest = &self.buffer[self.used..];
        let end = match rest.iter().position(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if rest.len() >= LINE_MAX => rest.len(),
            None => return None,
        };
        let line = rest[..end].to_vec();
        self.used += end;
        Some(line)
    }

    /// Reads on; at the end of a file goes to the next one. Answers whether there was anything.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.used);
        self.used = 0;
        loop {
            let Some(file) = &mut self.file else {
                return match File::open(&self.path) {
                    Ok(file) => {
                        self.file = Some(file);
                        self.fill()
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                    Err(error) => Err(error),
                };
            };
            if read_into(file, &mut self.buffer)? > 0 {
                return Ok(true);
            }
            match self.newer.pop() {
                Some(next) => self.file = Some(next),
                None => match successors(&self.path, file)? {
                    Next::Same => return Ok(false),
                    Next::Emptied => {
                        file.seek(SeekFrom::Start(0))?;
                        self.buffer.clear();
                    }
                    Next::Files(mut files) => {
                        // It may have grown between our last read and its rotation.
                        if read_into(file, &mut self.buffer)? > 0 {
                            return Ok(true);
                        }
                        files.reverse();
                        self.file = files.pop();
                        self.newer = files;
                    }
                },
            }
        }
    }
}

fn read_into(file: &mut File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let before = buffer.len();
    buffer.resize(before + BLOCK, 0);
    let got = loop {
        match file.read(&mut buffer[before..]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            answer => break answer,
        }
    };
    buffer.truncate(before + *got.as_ref().unwrap_or(&0));
    got
}

/// What stands behind the end of a file.
enum Next {
    /// It is still the one that is written.
    Same,
    /// It was cut to nothing and is written anew.
    Emptied,
    /// It was rotated away: the files since, oldest first.
    Files(Vec<File>),
}

fn successors(path: &Path, file: &mut File) -> io::Result<Next> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) if there.ino() == ours.ino() => {
            let shrunk = ours.len() < file.stream_position()?;
            return Ok(if shrunk { Next::Emptied } else { Next::Same });
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Next::Same), // between rename and creation, or removed
        Err(error) => return Err(error),
    }
    let files = open_all(path)?;
    let mut newer = Vec::new();
    // Newest first, up to ours: where it is rotated out of sight, all that is there is newer.
    for file in files.into_iter().rev() {
        if file.metadata()?.ino() == ours.ino() {
            break;
        }
        newer.push(file);
    }
    newer.reverse();
    Ok(Next::Files(newer))
}

/// The files of a log, oldest first: `log.2`, `log.1`, `log`.
fn open_all(path: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for number in 0..FILES_MAX {
        let mut name = path.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        match File::open(Path::new(&name)) {
            Ok(file) => files.push(file),
            Err(error) if error.kind() == ErrorKind::NotFound && number == 0 => {}
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    files.reverse();
    Ok(files)
}

/// Where the last `lines` lines of a file begin, and how many of them it has. Reads backwards, block by block.
fn tail_offset(file: &File, lines: usize) -> io::Result<(u64, usize)> {
    let mut end = file.metadata()?.len();
    let size = end;
    if lines == 0 {
        return Ok((size, 0));
    }
    let mut found = 0;
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let length = usize::try_from(end - start).map_err(io::Error::other)?;
        file.read_exact_at(&mut block[..length], start)?;
        for at in (0..length).rev() {
            // A line begins behind a line end; the last line end of the file ends the last line.
            if block[at] == b'\n' && start + at as u64 + 1 != size {
                found += 1;
                if found == lines {
                    return Ok((start + at as u64 + 1, found));
                }
            }
        }
        end = start;
    }
    let first = usize::from(size > 0);
    Ok((0, found + first))
}

/// A line of the log; a line that is no entry is told as it is.
fn entry(line: &[u8]) -> Option<LogEntry> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        log: String,
        #[serde(default)]
        stream: String,
        #[serde(default)]
        time: String,
    }
    if line.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    Some(match serde_json::from_slice::<Line>(line) {
        Ok(line) => LogEntry {
            stream: line.stream,
            time: line
                .time
                .parse::<jiff::Timestamp>()
                .ok()
                .map(|time| Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }),
            line: Bytes::from(line.log),
        },
        Err(_) => LogEntry { stream: "stdout".into(), time: None, line: Bytes::copy_from_slice(line) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text(number: usize) -> String {
        let stream = if number.is_multiple_of(2) { "stdout" } else { "stderr" };
        format!(
            "{{\"log\":\"line {number}\\n\",\"stream\":\"{stream}\",\"time\":\"2026-01-01T00:00:{:02}.5Z\"}}\n",
            number % 60
        )
    }

    fn append(path: &Path, numbers: std::ops::Range<usize>) {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        for number in numbers {
            file.write_all(text(number).as_bytes()).unwrap();
        }
    }

    fn rotate(path: &Path) {
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
        let _ = std::fs::rename(numbered(1), numbered(2));
        std::fs::rename(path, numbered(1)).unwrap();
    }

    fn seen(reader: &mut Reader) -> Vec<usize> {
        let mut all = Vec::new();
        loop {
            let batch = reader.read(7).unwrap();
            if batch.is_empty() {
                return all;
            }
            for entry in batch {
                let line = String::from_utf8(entry.line.to_vec()).unwrap();
                all.push(line.trim().strip_prefix("line ").unwrap().parse().unwrap());
            }
        }
    }

    #[test]
    fn rotated_files_are_read_in_order_and_tails_cross_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, 0..10);
        rotate(&path);
        append(&path, 10..20);
        rotate(&path);
        append(&path, 20..25);
        assert_eq!(seen(&mut Reader::open(&path, None).unwrap()), (0..25).collect::<Vec<_>>());
        for tail in [0, 1, 4, 5, 6, 15, 16, 25, 99] {
            let from = 25_usize.saturating_sub(tail);
            assert_eq!(seen(&mut Reader::open(&path, Some(tail)).unwrap()), (from..25).collect::<Vec<_>>(), "{tail}");
        }
    }

    #[test]
    fn a_follower_sees_every_line_over_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut reader = Reader::open(&path, None).unwrap();
        assert!(seen(&mut reader).is_empty());
        append(&path, 0..3);
        assert_eq!(seen(&mut reader), [0, 1, 2]);
        append(&path, 3..4);
        rotate(&path);
        append(&path, 4..5);
        rotate(&path);
        append(&path, 5..6);
        assert_eq!(seen(&mut reader), [3, 4, 5]);
        assert!(seen(&mut reader).is_empty());
    }

    #[test]
    fn a_line_is_told_when_it_is_whole_and_a_cut_file_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let whole = text(0);
        let (one, two) = whole.split_at(20);
        std::fs::write(&path, one).unwrap();
        let mut reader = Reader::open(&path, None).unwrap();
        assert!(seen(&mut reader).is_empty());
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(two.as_bytes()).unwrap();
        assert_eq!(seen(&mut reader), [0]);
        std::fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        append(&path, 1..1);
        assert!(seen(&mut reader).is_empty());
        append(&path, 1..2);
        assert_eq!(seen(&mut reader), [1]);
    }

    #[test]
    fn tails_are_found_over_block_borders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, 0..3000);
        for tail in [1, 700, 1500, 2999, 3000] {
            assert_eq!(seen(&mut Reader::open(&path, Some(tail)).unwrap()).first(), Some(&(3000 - tail)), "{tail}");
        }
    }

    #[test]
    fn streams_and_times_are_filtered() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let request =
            LogsRequest { stderr: true, since: at(1_767_225_602), until: at(1_767_225_606), ..LogsRequest::default() };
        let filter = Filter::new(&request);
        let entries: Vec<_> = (0..10).map(|number| entry(text(number).as_bytes()).unwrap()).collect();
        let kept: Vec<_> = entries
            .iter()
            .take_while(|entry| !filter.ended_by(entry))
            .filter(|entry| filter.passes(entry))
            .map(|entry| entry.line.clone())
            .collect();
        assert_eq!(kept, ["line 3\n", "line 5\n"]);
        assert!(Filter::new(&LogsRequest::default()).passes(&entries[0]));
    }

    #[test]
    fn what_is_no_entry_is_told_as_it_is() {
        assert_eq!(entry(b"rubbish\n").unwrap().line, "rubbish\n");
        assert!(entry(b"\n").is_none());
    }
}
