//! Between async streams and blocking readers and writers: bounded channels of chunks.

use bytes::{Buf, Bytes};
use crated_types::Result;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

/// Chunks in flight.
const DEPTH: usize = 16;
/// Bytes of a written chunk.
const CHUNK: usize = 128 << 10;

/// A reader of `stream`, for a blocking thread; the future moves the bytes and ends with the stream or the reader.
pub(super) fn reader(
    mut stream: BoxStream<'static, Result<Bytes>>,
) -> (ChannelReader, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    let pump = async move {
        while let Some(chunk) = stream.next().await {
            if sender.send(chunk).await.is_err() {
                break;
            }
        }
    };
    (ChannelReader { receiver, chunk: Bytes::new() }, pump)
}

/// See [`reader`].
#[derive(Debug)]
pub(super) struct ChannelReader {
    receiver: mpsc::Receiver<Result<Bytes>>,
    chunk: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => return Err(io::Error::other(error)),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// A writer for a blocking thread, and the stream of what it writes.
pub(super) fn writer() -> (ChannelWriter, mpsc::Receiver<Result<Bytes>>) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    (ChannelWriter { sender, buffer: Vec::with_capacity(CHUNK) }, receiver)
}

/// See [`writer`].
#[derive(Debug)]
pub(super) struct ChannelWriter {
    sender: mpsc::Sender<Result<Bytes>>,
    buffer: Vec<u8>,
}

impl ChannelWriter {
    /// Where an error is told to the stream.
    pub(super) fn sender(&self) -> mpsc::Sender<Result<Bytes>> {
        self.sender.clone()
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
