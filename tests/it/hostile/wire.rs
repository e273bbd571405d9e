//! HTTP/2 frames by hand, right and wrong ones (RFC 9113, RFC 7541 without compression).

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// A connection on which nothing happens by itself.
pub(super) struct Wire(pub(super) UnixStream);

/// A frame that came.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// What became of a write or read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Peer {
    There,
    Gone,
}

impl Wire {
    /// Connects and says hello; a peer that does not take what we send holds us up for at most ten seconds.
    pub(super) fn open(socket: &Path) -> Self {
        let mut wire = Self::silent(socket);
        assert_eq!(wire.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Peer::There);
        wire.frame(SETTINGS, 0, 0, &[]);
        wire
    }

    /// Connects and says nothing.
    pub(super) fn silent(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(stream)
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> Peer {
        match self.0.write_all(bytes) {
            Ok(()) => Peer::There,
            Err(_) => Peer::Gone,
        }
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Peer {
        self.raw(&frame(kind, flags, stream, payload))
    }

    /// Asks for a method, in the namespace `default`, without a message yet.
    pub(super) fn ask(&mut self, stream: u32, path: &str) -> Peer {
        self.frame(HEADERS, END_HEADERS, stream, &head(path))
    }

    /// The next frame; `None` where the peer hung up.
    pub(super) fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the daemon neither answers nor hangs up")
            }
            Err(_) => return None,
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame { kind: head[3], payload })
    }

    /// Reads on until a frame of `kind` or the end.
    pub(super) fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    // an integer with a prefix of seven bits (RFC 7541, 5.1)
    let mut left = text.len();
    if left < 127 {
        bytes.push(u8::try_from(left).unwrap());
    } else {
        bytes.push(127);
        left -= 127;
        while left >= 128 {
            bytes.push(u8::try_from(left % 128).unwrap() | 128);
            left /= 128;
        }
        bytes.push(u8::try_from(left).unwrap());
    }
    bytes.extend(text.as_bytes());
}

/// A header that is not kept in the table.
pub(super) fn header(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.push(0);
    text(bytes, name);
    text(bytes, value);
}

/// The headers of a call.
pub(super) fn head(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("containerd-namespace", "default"),
    ];
    for (name, value) in fields {
        header(&mut bytes, name, value);
    }
    bytes
}

/// A message with its prefix.
pub(super) fn message(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend(bytes);
    out
}
