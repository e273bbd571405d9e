//! Copies between a process and the world: one task a stream, its buffer only there while bytes flow.

use super::hub::Hub;
use super::jsonlog::Stream;
use crate::log;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// Bytes moved at once.
const BUFFER: usize = 16 << 10;
/// EIO: what a terminal's master says when the last holder of its other end is gone.
const EIO: i32 = 5;

/// A descriptor that never blocks.
pub(crate) type Polled = AsyncFd<File>;

/// Takes a descriptor into the runtime.
pub(crate) fn polled(fd: OwnedFd, interest: Interest) -> std::io::Result<Polled> {
    crated_sys::fs::set_nonblocking(fd.as_fd(), true)?;
    watched(fd, interest)
}

/// Watches a descriptor that its owner never exchanges.
#[expect(deprecated, reason = "the successor is unsafe for types that may exchange their descriptor: these do not")]
pub(crate) fn watched<T: From<OwnedFd> + AsRawFd>(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(T::from(fd), interest)
}

/// Where bytes go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Nowhere; they are read all the same.
    Null,
    /// A file.
    File(File),
    /// A FIFO or pipe.
    Pipe(Rc<Polled>),
    /// A terminal's master, from the client's input.
    Terminal(Rc<Polled>),
    /// The log and the attached clients.
    Hub(Rc<Hub>, Stream),
}

impl Sink {
    async fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Null => Ok(()),
            Self::File(file) => file.write_all(data),
            Self::Pipe(pipe) | Self::Terminal(pipe) => write_all(pipe, data).await,
            Self::Hub(hub, stream) => {
                hub.output(*stream, data).await;
                Ok(())
            }
        }
    }
}

/// Writes all of it, waiting where the other side is slow.
pub(crate) async fn write_all(to: &Polled, mut data: &[u8]) -> std::io::Result<()> {
    while !data.is_empty() {
        let written = to.async_io(Interest::WRITABLE, |mut file: &File| file.write(data)).await?;
        data = &data[written..];
    }
    Ok(())
}

/// What one attempt to read brought.
enum Got {
    Data(usize),
    Empty,
    End,
}

fn try_read(from: &Polled, buffer: &mut [u8]) -> Got {
    loop {
        match (&mut from.get_ref() as &mut &File).read(buffer) {
            Ok(0) => return Got::End,
            Ok(length) => return Got::Data(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Got::Empty,
            Err(error) => {
                if error.raw_os_error() != Some(EIO) {
                    log::warn(format_args!("output ends: {error}"));
                }
                return Got::End;
            }
        }
    }
}

/// Copies a process' output until it ends. Once `exited` says so, what is left in the pipe is taken and `drained` is called:
/// a grandchild that holds the stream open delays nobody. After that the copy goes on for as long as somebody writes.
pub(crate) async fn output(from: Rc<Polled>, mut to: Sink, mut exited: watch::Receiver<bool>, drained: impl FnOnce()) {
    let mut drained = Some(drained);
    let mut broken = false;
    loop {
        let was_exited = *exited.borrow();
        let mut buffer = vec![0; BUFFER];
        match try_read(&from, &mut buffer) {
            Got::Data(length) => {
                if !broken && let Err(error) = to.write(&buffer[..length]).await {
                    log::debug(format_args!("output is dropped: {error}"));
                    broken = true;
                }
                // One thread serves all: a process that writes without end must not have it alone.
                tokio::task::yield_now().await;
                continue;
            }
            Got::End => break,
            Got::Empty => {}
        }
        drop(buffer);
        if was_exited && let Some(drained) = drained.take() {
            drained();
        }
        tokio::select! {
            ready = from.readable() => match ready {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => break,
            },
            changed = exited.changed(), if !was_exited => if changed.is_err() { break },
        }
    }
    drop(to);
    if let Some(drained) = drained {
        drained();
    }
}

/// Copies a client's input to a terminal until one of them ends.
pub(crate) async fn input(from: Polled, to: Rc<Polled>) {
    let mut sink = Sink::Terminal(to);
    loop {
        let mut buffer = vec![0; BUFFER];
        match try_read(&from, &mut buffer) {
            Got::Data(length) => {
                if sink.write(&buffer[..length]).await.is_err() {
                    return;
                }
                continue;
            }
            Got::End => return,
            Got::Empty => {}
        }
        drop(buffer);
        match from.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => return,
        }
    }
}
