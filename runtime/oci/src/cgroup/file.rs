//! Reading and writing the small files of a cgroup.

use super::error::{Error, Result};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;

/// Longest file that is read; the largest ones list processes.
const FILE_MAX: u64 = 16 << 20;

/// Writes `value` in one call, as cgroup files want it; never creates the file.
pub(super) fn write(dir: &Path, name: &str, value: &str) -> Result<()> {
    let path = dir.join(name);
    let done = OpenOptions::new().write(true).open(&path).and_then(|mut file| write_retried(&mut file, value));
    done.map_err(|source| Error::Write { path, value: value.into(), source })
}

fn write_retried(file: &mut std::fs::File, value: &str) -> io::Result<()> {
    loop {
        match file.write(value.as_bytes()) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The text of a file.
pub(super) fn read(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    let mut text = String::new();
    let done = std::fs::File::open(&path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text));
    done.map_err(Error::file("read", &path))?;
    Ok(text)
}

/// The text of a file that may be absent: other kernels, other configurations.
pub(super) fn read_optional(dir: &Path, name: &str) -> Result<Option<String>> {
    match read(dir, name) {
        Ok(text) => Ok(Some(text)),
        // EOPNOTSUPP: pressure files where accounting is off.
        Err(error) if error.is_not_found() || error.errno() == Some(95) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A number, or `max`, which is [`u64::MAX`]; 0 where the file is absent or holds something else.
pub(super) fn number(dir: &Path, name: &str) -> Result<u64> {
    Ok(read_optional(dir, name)?.map_or(0, |text| parse(text.trim())))
}

pub(super) fn parse(text: &str) -> u64 {
    if text == "max" { u64::MAX } else { text.parse().unwrap_or(0) }
}

/// `key value` lines.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(key, value)| (key, parse(value.trim())))
}

/// The value of `key` among `key value` lines, 0 where it is not there.
pub(super) fn keyed(text: &str, key: &str) -> u64 {
    pairs(text).find(|(name, _)| *name == key).map_or(0, |(_, value)| value)
}
