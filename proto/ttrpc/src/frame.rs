//! Frames: ten bytes of head and a message, read and written whole.

use bytes::{BufMut, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a head.
pub const HEAD: usize = 10;
/// Longest message, in bytes (4 MiB).
pub const MESSAGE_MAX: usize = 4 << 20;
/// Flag of a request or data frame: the sender sends no more on this stream.
pub const REMOTE_CLOSED: u8 = 1;
/// Flag of a request: more data follows on this stream.
pub const REMOTE_OPEN: u8 = 2;
/// Flag of a data frame: it carries no message.
pub const NO_DATA: u8 = 4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens a stream, client to server.
    Request,
    /// Ends a stream, server to client.
    Response,
    /// A message of a streaming call, either way.
    Data,
    /// A type this version does not know; skipped by both sides.
    Other(u8),
}

impl Kind {
    const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Data,
            other => Self::Other(other),
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
            Self::Other(byte) => byte,
        }
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of message that follow.
    pub length: u32,
    /// The stream; odd where the client opened it.
    pub stream: u32,
    /// What the frame is.
    pub kind: Kind,
    /// [`REMOTE_CLOSED`], [`REMOTE_OPEN`], [`NO_DATA`].
    pub flags: u8,
}

impl Head {
    /// The head as bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&self.length.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.stream.to_be_bytes());
        bytes[8] = self.kind.byte();
        bytes[9] = self.flags;
        bytes
    }

    /// The head of bytes; every ten bytes are one.
    #[must_use]
    pub fn decode(bytes: [u8; HEAD]) -> Self {
        Self {
            length: u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            stream: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            kind: Kind::from_byte(bytes[8]),
            flags: bytes[9],
        }
    }
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its head.
    pub head: Head,
    /// Its message; `None` where it was longer than [`MESSAGE_MAX`] and was skipped.
    pub message: Option<Bytes>,
}

/// A frame as bytes.
///
/// # Panics
/// Where `message` is longer than [`MESSAGE_MAX`]: callers have checked.
#[must_use]
pub fn encode(stream: u32, kind: Kind, flags: u8, message: &[u8]) -> Bytes {
    assert!(message.len() <= MESSAGE_MAX, "callers check the message limit");
    let mut bytes = BytesMut::with_capacity(HEAD + message.len());
    bytes.put_slice(&Head { length: message.len() as u32, stream, kind, flags }.encode());
    bytes.put_slice(message);
    bytes.freeze()
}

/// Reads one frame; `None` at a clean end. A message over the limit is skipped, in constant memory.
///
/// # Errors
/// What the reader says, and `UnexpectedEof` inside of a frame.
///
/// # Cancel safety
/// None: a dropped future may have eaten half a frame.
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Option<Frame>> {
    let mut bytes = [0; HEAD];
    let first = reader.read(&mut bytes).await?;
    if first == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut bytes[first..]).await?;
    let head = Head::decode(bytes);
    let length = head.length as usize;
    if length > MESSAGE_MAX {
        skip(reader, length).await?;
        return Ok(Some(Frame { head, message: None }));
    }
    // Memory grows with what came, not with what was announced.
    let mut message = BytesMut::with_capacity(length.min(16 << 10));
    let mut body = reader.take(length as u64);
    while message.len() < length {
        if body.read_buf(&mut message).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(Frame { head, message: Some(message.freeze()) }))
}

async fn skip<R: AsyncRead + Unpin>(reader: &mut R, length: usize) -> io::Result<()> {
    let mut scratch = vec![0; 16 << 10];
    let mut left = length;
    while left > 0 {
        let wanted = left.min(scratch.len());
        match reader.read(&mut scratch[..wanted]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => left -= got,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn the_head_is_ten_big_endian_bytes() {
        let head = Head { length: 0x0102_0304, stream: 5, kind: Kind::Request, flags: REMOTE_OPEN };
        assert_eq!(head.encode(), [1, 2, 3, 4, 0, 0, 0, 5, 1, 2]);
        assert_eq!(encode(1, Kind::Data, NO_DATA | REMOTE_CLOSED, b"").as_ref(), [0, 0, 0, 0, 0, 0, 0, 1, 3, 5]);
    }

    #[test]
    fn an_overlong_message_is_skipped_and_the_next_is_read() {
        let mut bytes =
            Head { length: MESSAGE_MAX as u32 + 1, stream: 7, kind: Kind::Request, flags: 0 }.encode().to_vec();
        bytes.resize(HEAD + MESSAGE_MAX + 1, 9);
        bytes.extend(encode(9, Kind::Response, 0, b"next"));
        let mut reader = bytes.as_slice();
        run(async {
            let long = read(&mut reader).await.unwrap().unwrap();
            assert_eq!((long.head.stream, long.message), (7, None));
            let next = read(&mut reader).await.unwrap().unwrap();
            assert_eq!((next.head.stream, next.message.as_deref()), (9, Some(b"next".as_slice())));
            assert_eq!(read(&mut reader).await.unwrap(), None);
        });
    }

    proptest! {
        #[test]
        fn every_ten_bytes_are_a_head(bytes: [u8; HEAD]) {
            prop_assert_eq!(Head::decode(bytes).encode(), bytes);
        }

        #[test]
        fn frames_come_back_as_they_went(frames in proptest::collection::vec((any::<u32>(), any::<u8>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..8)) {
            let mut bytes = Vec::new();
            for (stream, kind, flags, message) in &frames {
                bytes.extend(encode(*stream, Kind::from_byte(*kind), *flags, message));
            }
            let mut reader = bytes.as_slice();
            run(async {
                for (stream, kind, flags, message) in &frames {
                    let frame = read(&mut reader).await.unwrap().unwrap();
                    assert_eq!((frame.head.stream, frame.head.kind.byte(), frame.head.flags), (*stream, *kind, *flags));
                    assert_eq!(frame.message.as_deref(), Some(message.as_slice()));
                }
                assert_eq!(read(&mut reader).await.unwrap(), None);
            });
        }

        #[test]
        fn any_bytes_end_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = bytes.as_slice();
            run(async { while let Ok(Some(_)) = read(&mut reader).await {} });
        }
    }
}
