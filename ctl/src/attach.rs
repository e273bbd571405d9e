//! The client side of the attach protocol: a session with a container's shim that needs no daemon.

use crate::failure::Failure;
use crated_types::attach::{self, FRAME_MAX, FrameType, HEAD, Hello};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// What a shim sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of standard output, or of the terminal.
    Stdout(Vec<u8>),
    /// Bytes of standard error.
    Stderr(Vec<u8>),
    /// The process ended; nothing follows.
    Exit(u32),
    /// The shim hung up: it died, or the client was told to go.
    Closed,
}

/// The reading half of a session.
#[derive(Debug)]
pub struct Reader {
    stream: OwnedReadHalf,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// The writing half of a session.
#[derive(Debug)]
pub struct Writer {
    stream: OwnedWriteHalf,
}

/// Connects and waits until the shim has attached us: output from then on is ours.
///
/// # Errors
/// Where the shim is gone or refuses.
pub async fn attach(socket: &Path, hello: &Hello) -> Result<(Reader, Writer), Failure> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| Failure::new(format!("cannot attach at {}: {error}", socket.display())))?;
    let (read, mut write) = stream.into_split();
    write.write_all(&attach::frame(FrameType::Hello, &hello.encode())).await?;
    let mut reader = Reader { stream: read, terminal: false };
    match reader.frame().await? {
        Some((FrameType::Attached, payload)) => reader.terminal = payload.first() == Some(&1),
        Some((FrameType::Error, payload)) => {
            return Err(Failure::new(format!("attach refused: {}", String::from_utf8_lossy(&payload))));
        }
        Some((kind, _)) => return Err(Failure::new(format!("attach: the shim began with a {kind:?} frame"))),
        None => return Err(Failure::new("attach: the shim hung up")),
    }
    Ok((reader, Writer { stream: write }))
}

impl Reader {
    async fn frame(&mut self) -> Result<Option<(FrameType, Vec<u8>)>, Failure> {
        let mut head = [0; HEAD];
        match self.stream.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let (kind, length) = attach::head(head)?;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok(Some((kind, payload)))
    }

    /// The next thing that the shim sends.
    ///
    /// # Errors
    /// Where the connection breaks or the shim drops us.
    pub async fn next(&mut self) -> Result<Output, Failure> {
        loop {
            return Ok(match self.frame().await? {
                Some((FrameType::Stdout, bytes)) => Output::Stdout(bytes),
                Some((FrameType::Stderr, bytes)) => Output::Stderr(bytes),
                Some((FrameType::Exit, payload)) => {
                    let status = payload.try_into().map_err(|_| Failure::new("attach: malformed exit frame"))?;
                    Output::Exit(u32::from_be_bytes(status))
                }
                Some((FrameType::Error, payload)) => {
                    return Err(Failure::new(format!("detached by the shim: {}", String::from_utf8_lossy(&payload))));
                }
                Some(_) => continue,
                None => Output::Closed,
            });
        }
    }
}

impl Writer {
    /// Sends bytes for standard input.
    ///
    /// # Errors
    /// Where the shim is gone.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for chunk in bytes.chunks(FRAME_MAX) {
            self.stream.write_all(&attach::frame(FrameType::Stdin, chunk)).await?;
        }
        Ok(())
    }

    /// Says that standard input has ended.
    ///
    /// # Errors
    /// Where the shim is gone.
    pub async fn close_stdin(&mut self) -> Result<(), Failure> {
        Ok(self.stream.write_all(&attach::frame(FrameType::StdinClosed, &[])).await?)
    }

    /// Tells the terminal's size.
    ///
    /// # Errors
    /// Where the shim is gone.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<(), Failure> {
        let [a, b] = columns.to_be_bytes();
        let [c, d] = rows.to_be_bytes();
        Ok(self.stream.write_all(&attach::frame(FrameType::Resize, &[a, b, c, d])).await?)
    }

    /// Leaves; the process goes on.
    ///
    /// # Errors
    /// Where the shim is gone.
    pub async fn detach(&mut self) -> Result<(), Failure> {
        Ok(self.stream.write_all(&attach::frame(FrameType::Detach, &[])).await?)
    }
}
