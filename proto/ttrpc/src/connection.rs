//! The writing half of a connection and the wish to know when a peer is wholly gone.

use bytes::Bytes;
use std::io;
use std::os::fd::AsFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

/// Frames that may wait for the socket, a connection.
pub(crate) const QUEUE: usize = 64;

/// Writes frames in the order of the queue until it closes.
pub(crate) async fn write_all(half: &mut OwnedWriteHalf, queue: &mut mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(frame) = queue.recv().await {
        half.write_all(&frame).await?;
    }
    Ok(())
}

/// Ends when the peer has closed both directions; a peer that only stopped sending still reads.
pub(crate) async fn gone(stream: &UnixStream) -> io::Result<()> {
    // A registration of its own: the writer must keep what it knows of the socket being writable.
    let copy = UnixStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?;
    while !copy.ready(Interest::WRITABLE).await?.is_write_closed() {
        // Forget "writable", so that the next edge (a hang-up) wakes us and a writable socket does not spin.
        let _ = copy.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    Ok(())
}
