//! The first bytes of a connection: HTTP/2's preface, which must be there soon. Until then a peer costs a descriptor and no more.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// How long a peer may take for it.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// What every client of HTTP/2 sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads the preface and gives the connection back with it before what follows.
///
/// # Errors
/// [`ErrorKind::TimedOut`], [`ErrorKind::InvalidData`] where something else comes, and the connection's.
pub async fn read<I: AsyncRead + Unpin>(mut io: I) -> io::Result<Prefaced<I>> {
    let mut bytes = [0; PREFACE.len()];
    match tokio::time::timeout(PATIENCE, io.read_exact(&mut bytes)).await {
        Ok(read) => drop(read?),
        Err(_) => return Err(io::Error::new(ErrorKind::TimedOut, "no preface came")),
    }
    if bytes != *PREFACE {
        return Err(io::Error::new(ErrorKind::InvalidData, "the peer does not speak HTTP/2"));
    }
    Ok(Prefaced { io, given: 0 })
}

/// A connection whose first bytes were read already.
#[derive(Debug)]
pub struct Prefaced<I> {
    io: I,
    /// Bytes of the preface that were read again.
    given: usize,
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefaced<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &PREFACE[self.given..];
        if left.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let part = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..part]);
        self.given += part;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefaced<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test(start_paused = true)]
    async fn a_preface_is_read_twice_and_nothing_else_is_let_in() {
        let (mut peer, io) = tokio::io::duplex(64);
        peer.write_all(PREFACE).await.unwrap();
        peer.write_all(b"next").await.unwrap();
        drop(peer);
        let mut all = Vec::new();
        read(io).await.unwrap().read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [&PREFACE[..], b"next"].concat());

        let (mut peer, io) = tokio::io::duplex(64);
        peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(read(io).await.unwrap_err().kind(), ErrorKind::InvalidData);

        let (mut peer, io) = tokio::io::duplex(64);
        peer.write_all(&PREFACE[..23]).await.unwrap();
        assert_eq!(read(io).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
