//! FIFOs that a client made: opened so that no side waits for the other, and a client that goes neither blocks nor kills.

use crated_sys::OFlag;
use crated_types::{Error, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FIFO: u32 = 0o010_000;

fn open(path: &Path, flags: OFlag) -> Result<OwnedFd> {
    crated_sys::fs::open(path, flags, 0).map_err(|error| Error::os(format!("open {}", path.display()), error.into()))
}

fn is_fifo(fd: &OwnedFd) -> bool {
    crated_sys::fs::stat(fd.as_fd()).is_ok_and(|stat| stat.kind() == FIFO)
}

/// The reading end for the process, and a writing end that keeps its input open until `CloseIO`.
pub(crate) fn input(path: &str) -> Result<(OwnedFd, Option<OwnedFd>)> {
    let path = Path::new(path);
    // Open for both never waits (fifo(7)); with it open, the others do not either.
    let both = match crated_sys::fs::open(path, OFlag::O_RDWR, 0) {
        Ok(both) if is_fifo(&both) => both,
        _ => return Ok((open(path, OFlag::O_RDONLY)?, None)),
    };
    let (read, write) = (open(path, OFlag::O_RDONLY)?, open(path, OFlag::O_WRONLY)?);
    drop(both);
    Ok((read, Some(write)))
}

/// The writing end for the process, and what keeps the FIFO readable while the process lives.
pub(crate) fn output(path: &str) -> Result<(OwnedFd, Option<Kept>)> {
    let path = Path::new(path);
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND;
    match crated_sys::fs::open(path, OFlag::O_RDWR, 0) {
        Ok(both) if is_fifo(&both) => {
            let write = open(path, flags)?;
            Ok((write, Some(Kept { path: path.into(), _end: both })))
        }
        _ => Ok((open(path, flags)?, None)),
    }
}

/// An end of an output FIFO that the shim holds.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    _end: OwnedFd,
}

impl Kept {
    /// The process has ended. Where a client reads, the FIFO is let go, so that the client sees the end behind the last
    /// byte. Where none does yet, a writing end stays: the kernel forgets the bytes when nobody holds the FIFO.
    pub(crate) fn release(self) -> Option<Self> {
        let write = open(&self.path, OFlag::O_WRONLY | OFlag::O_NONBLOCK).ok()?;
        let Self { path, _end: both } = self;
        drop(both);
        // A writing end is "readable" (POLLERR) just where nobody reads.
        let unread = crated_sys::poll::readable(write.as_fd(), Some(Duration::ZERO)).unwrap_or(false);
        unread.then_some(Self { path, _end: write })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn fifo() -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        crated_sys::fs::mknod_at(crated_sys::fs::cwd(), &path, FIFO | 0o700, 0).unwrap();
        (dir, path.to_str().unwrap().to_owned())
    }

    #[test]
    fn output_is_kept_for_a_late_reader() {
        let (_dir, path) = fifo();
        let (end, kept) = output(&path).unwrap();
        std::fs::File::from(end).write_all(b"last words").unwrap();
        let kept = kept.unwrap().release().expect("nobody reads");
        let mut reader = std::fs::File::open(&path).unwrap();
        drop(kept);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }

    #[test]
    fn a_reader_sees_the_end() {
        let (_dir, path) = fifo();
        let (end, kept) = output(&path).unwrap();
        let mut reader = std::fs::File::open(&path).unwrap();
        std::fs::File::from(end).write_all(b"x").unwrap();
        assert!(kept.unwrap().release().is_none());
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn input_lasts_until_it_is_let_go() {
        let (_dir, path) = fifo();
        let (end, held) = input(&path).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"in").unwrap();
        let mut end = std::fs::File::from(end);
        let mut bytes = [0; 2];
        end.read_exact(&mut bytes).unwrap();
        assert!(!crated_sys::poll::readable(end.as_fd(), Some(Duration::ZERO)).unwrap());
        drop(held);
        assert_eq!(end.read(&mut bytes).unwrap(), 0);
    }
}
