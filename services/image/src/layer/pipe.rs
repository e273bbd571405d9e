//! The stream of an uncompressed layer: one thread decompresses, one hashes, the caller's reads entries.
//!
//! Both consumers get the same buffers, in order; the hasher gets all of them, also those that follow the archive's end.

use super::compress::decompress;
use super::limits::malformed;
use crated_types::{Digest, Error, Result};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;

const BUFFER: usize = 256 << 10;
const QUEUE: usize = 16;

#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
}

type Pool = SyncSender<Buffer>;

/// Gives a buffer back to the producer; whoever is second does it.
fn give_back(pool: &Pool, buffer: Arc<Buffer>) {
    if let Some(buffer) = Arc::into_inner(buffer) {
        let _ = pool.try_send(buffer); // the pool is full: freed
    }
}

/// The caller's end: the uncompressed bytes, without a copy.
#[derive(Debug)]
pub(super) struct Stream {
    queue: Receiver<Arc<Buffer>>,
    pool: Pool,
    current: Option<Arc<Buffer>>,
    at: usize,
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|buffer| self.at == buffer.filled) {
            if let Some(done) = self.current.take() {
                give_back(&self.pool, done);
            }
            self.current = self.queue.recv().ok();
            self.at = 0;
        }
        Ok(self.current.as_ref().map_or(&[], |buffer| &buffer.bytes[self.at..buffer.filled]))
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(bytes)?;
        self.consume(read);
        Ok(read)
    }
}

/// A reader that remembers its own failure, to tell it from damage that the decompressor finds.
struct Noted<R> {
    reader: R,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl<R: Read> Read for Noted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    *self.failure.lock().expect("no holder panics") = Some(error);
                    return Err(kind.into());
                }
                answer => return answer,
            }
        }
    }
}

/// Runs `consume` on the decompressed `reader`; answers what it does, and digest and length of all uncompressed bytes.
pub(super) fn with_stream<T>(
    reader: impl Read + Send,
    limit: u64,
    consume: impl FnOnce(&mut Stream) -> Result<T>,
) -> Result<(T, Digest, u64)> {
    let (to_hash, hash_queue) = mpsc::sync_channel(QUEUE);
    let (to_caller, queue) = mpsc::sync_channel(QUEUE);
    let (pool, spare) = mpsc::sync_channel(2 * QUEUE + 4);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let hash_pool = pool.clone();
        let hasher = scope.spawn(move || hash(&hash_queue, &hash_pool));
        let (outlets, stop_flag) = (Outlets { hasher: to_hash, caller: to_caller }, &stop);
        let producer = scope.spawn(move || produce(reader, limit, stop_flag, &spare, &outlets));
        let mut stream = Stream { queue, pool, current: None, at: 0 };
        let answer = consume(&mut stream);
        if answer.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        drop(stream);
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (digest, size) = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        produced?; // a broken stream also ends the entries too early: the cause goes first
        Ok((answer?, digest, size))
    })
}

struct Outlets {
    hasher: SyncSender<Arc<Buffer>>,
    caller: SyncSender<Arc<Buffer>>,
}

fn hash(queue: &Receiver<Arc<Buffer>>, pool: &Pool) -> (Digest, u64) {
    let mut hasher = Sha256::new();
    let mut size = 0;
    while let Ok(buffer) = queue.recv() {
        hasher.update(&buffer.bytes[..buffer.filled]);
        size += buffer.filled as u64;
        give_back(pool, buffer);
    }
    (Digest::sha256(hasher.finalize().into()), size)
}

fn produce(
    reader: impl Read,
    limit: u64,
    stop: &AtomicBool,
    spare: &Receiver<Buffer>,
    outlets: &Outlets,
) -> Result<()> {
    let failure = Arc::new(Mutex::new(None));
    let broken = |error: io::Error| match failure.lock().expect("no holder panics").take() {
        Some(cause) => source_error(cause),
        None => malformed(b"", format_args!("the compressed stream is damaged: {error}")),
    };
    let noted = Noted { reader, failure: Arc::clone(&failure) };
    let mut input = decompress(BufReader::with_capacity(BUFFER, noted)).map_err(&broken)?;
    let mut total = 0;
    loop {
        let mut buffer =
            spare.try_recv().unwrap_or_else(|_| Buffer { bytes: vec![0; BUFFER].into_boxed_slice(), filled: 0 });
        buffer.filled = fill(&mut input, &mut buffer.bytes).map_err(&broken)?;
        let filled = buffer.filled;
        total += filled as u64;
        if total > limit {
            return Err(malformed(b"", format_args!("more than {limit} bytes uncompressed")));
        }
        if filled > 0 {
            let buffer = Arc::new(buffer);
            let _ = outlets.caller.send(Arc::clone(&buffer)); // the archive has ended: the rest is only hashed
            let _ = outlets.hasher.send(buffer);
        }
        if filled < BUFFER || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The error of the layer's source: one of ours inside is passed on as it is.
fn source_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => Error::os("read layer", error),
    }
}
