//! Reading a file while another writes it: how a layer is applied as its bytes arrive.
//!
//! ```text
//! download ─▶ Ingest::write ─▶ Growth::advance ┄┄ Condvar ┄┄▶ Follower::read (blocking thread) ─▶ apply
//! ```
//! The bytes are not verified yet when they are read; who applies them commits nothing before the ingest is committed.

use crated_types::{Error, Fault};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// How far a file has grown.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    written: u64,
    end: End,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Whole,
    Broken,
}

impl Growth {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The writer's end. Dropped before [`Writer::finish`] it breaks the follower off.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Growth>);

impl Writer {
    /// A writer and the follower of `file`.
    pub(crate) fn new(file: File) -> (Self, Follower) {
        let growth = Arc::new(Growth::default());
        (Self(growth.clone()), Follower { file, at: 0, growth })
    }

    /// `written` bytes can be read.
    pub(crate) fn advance(&self, written: u64) {
        self.0.set(|state| state.written = written);
    }

    /// There are no more bytes.
    pub(crate) fn finish(self) {
        self.0.set(|state| state.end = End::Whole);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.set(|state| {
            if state.end == End::Open {
                state.end = End::Broken;
            }
        });
    }
}

/// The reader's end; it blocks until there are bytes.
#[derive(Debug)]
pub(crate) struct Follower {
    file: File,
    at: u64,
    growth: Arc<Growth>,
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.growth.lock();
        let available = loop {
            if state.end == End::Broken {
                let error = Error::new(Fault::Cancelled, "the download of this layer ended early");
                return Err(io::Error::other(error));
            }
            if state.written > self.at {
                break state.written - self.at;
            }
            if state.end == End::Whole {
                return Ok(0);
            }
            state = self.growth.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let length = buffer.len().min(usize::try_from(available).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        if read == 0 && length > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the ingest is shorter than what was written"));
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// A reader that ends with an error once it is told to stop.
#[derive(Debug)]
pub(crate) struct Stoppable<R> {
    pub(crate) reader: R,
    pub(crate) stop: CancellationToken,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other(Error::new(Fault::Cancelled, "nobody waits for it any more")));
        }
        self.reader.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_follower_reads_what_is_written_and_ends_with_the_writer() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let (writer, mut follower) = Writer::new(file.reopen().unwrap());
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            follower.read_to_end(&mut bytes).map(|_| bytes)
        });
        for part in 0..100_u64 {
            file.write_all(&[part as u8; 10]).unwrap();
            writer.advance((part + 1) * 10);
        }
        writer.finish();
        assert_eq!(reader.join().unwrap().unwrap().len(), 1000);
    }

    #[test]
    fn a_broken_write_breaks_the_reader() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (writer, mut follower) = Writer::new(file.reopen().unwrap());
        let reader = std::thread::spawn(move || follower.read(&mut [0; 1]));
        drop(writer);
        assert!(reader.join().unwrap().is_err());
    }
}
