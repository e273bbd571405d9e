//! The attach protocol: how a person's terminal talks to a container's shim, with no daemon in between.
//!
//! A shim that was given the stdio address `crated://…` listens on a unix stream socket (path: the shim's ttrpc socket plus
//! `.attach`, mode 0600). A client sends [`Hello`] as its first frame, then both sides exchange frames: one type byte, a
//! big-endian `u32` length, that many payload bytes (at most [`FRAME_MAX`]). Many clients may be attached at once; each gets
//! the output since its attach, and before it the scroll-back it asked for. A client that does not read is dropped once
//! its queue is full: it never stalls the container.

use crate::error::{Error, Fault, Result};

/// Longest payload of a frame, in bytes.
pub const FRAME_MAX: usize = 64 * 1024;
/// Bytes of a frame's head.
pub const HEAD: usize = 5;
/// Bytes of output that a shim keeps for late clients, per process.
pub const SCROLLBACK: usize = 64 * 1024;
/// What is appended to the path of a shim's ttrpc socket to get its attach socket.
pub const SOCKET_SUFFIX: &str = ".attach";

/// The type byte of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// Client: the first frame, payload [`Hello`].
    Hello = 0,
    /// Client: bytes for standard input.
    Stdin = 1,
    /// Client: standard input has ended.
    StdinClosed = 2,
    /// Client: terminal size, payload columns `u16` then rows `u16`, big-endian.
    Resize = 3,
    /// Client: leaves on purpose; the process goes on.
    Detach = 4,
    /// Shim: the client is attached; payload one byte, 1 where the process has a terminal.
    Attached = 16,
    /// Shim: bytes of standard output (or of the terminal).
    Stdout = 17,
    /// Shim: bytes of standard error.
    Stderr = 18,
    /// Shim: the process ended and all its output was sent; payload exit status `u32` big-endian. The connection closes.
    Exit = 19,
    /// Shim: refused or dropped, payload the reason as text. The connection closes.
    Error = 20,
}

impl FrameType {
    /// The type of a byte of the wire.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Hello,
            1 => Self::Stdin,
            2 => Self::StdinClosed,
            3 => Self::Resize,
            4 => Self::Detach,
            16 => Self::Attached,
            17 => Self::Stdout,
            18 => Self::Stderr,
            19 => Self::Exit,
            20 => Self::Error,
            _ => return None,
        })
    }
}

/// What a client wants of which process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The exec id; empty for the container's init.
    pub exec: String,
    /// The container id (a shim may hold several).
    pub container: String,
    /// Forward standard input. The process' input ends when the last such client sends [`FrameType::StdinClosed`] or,
    /// for a non-terminal process that was created with `stdin_once`, goes away.
    pub stdin: bool,
    /// Send standard output.
    pub stdout: bool,
    /// Send standard error.
    pub stderr: bool,
    /// Send the kept scroll-back first.
    pub scrollback: bool,
}

impl Hello {
    /// The payload: a flags byte (1 stdin, 2 stdout, 4 stderr, 8 scroll-back), `container NUL exec`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let flags = u8::from(self.stdin)
            | u8::from(self.stdout) << 1
            | u8::from(self.stderr) << 2
            | u8::from(self.scrollback) << 3;
        let mut bytes = vec![flags];
        bytes.extend(self.container.as_bytes());
        bytes.push(0);
        bytes.extend(self.exec.as_bytes());
        bytes
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`Fault::Malformed`] where it is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let bad = || Error::new(Fault::Malformed, "attach: hello frame is malformed");
        let (flags, rest) = bytes.split_first().ok_or_else(bad)?;
        let text = std::str::from_utf8(rest).map_err(|_| bad())?;
        let (container, exec) = text.split_once('\0').ok_or_else(bad)?;
        Ok(Self {
            exec: exec.into(),
            container: container.into(),
            stdin: flags & 1 != 0,
            stdout: flags & 2 != 0,
            stderr: flags & 4 != 0,
            scrollback: flags & 8 != 0,
        })
    }
}

/// A frame as bytes.
///
/// # Panics
/// Where `payload` is longer than [`FRAME_MAX`]: callers split.
#[must_use]
pub fn frame(kind: FrameType, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= FRAME_MAX, "callers split long payloads");
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.push(kind as u8);
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Type and payload length of a frame's head.
///
/// # Errors
/// [`Fault::Malformed`] for an unknown type or a length over [`FRAME_MAX`].
pub fn head(bytes: [u8; HEAD]) -> Result<(FrameType, usize)> {
    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    match FrameType::from_byte(bytes[0]) {
        Some(kind) if length <= FRAME_MAX => Ok((kind, length)),
        _ => Err(Error::new(Fault::Malformed, format!("attach: frame type {} with {length} bytes", bytes[0]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let hello = Hello {
            exec: "e".into(),
            container: "c".into(),
            stdin: true,
            stdout: true,
            stderr: false,
            scrollback: true,
        };
        assert_eq!(Hello::decode(&hello.encode()).unwrap(), hello);
        let bytes = frame(FrameType::Stdout, b"abc");
        let (kind, length) = head(bytes[..HEAD].try_into().unwrap()).unwrap();
        assert_eq!((kind, length), (FrameType::Stdout, 3));
    }
}
