//! What the shim keeps of a process in crated's own mode: its log, its last output, and whoever is attached.
//!
//! ```text
//! pipe or terminal ──▶ output() ──┬▶ log
//!                                 ├▶ scroll-back (64 KiB)
//!                                 └▶ queue of each client ──▶ its socket
//! client's frames ──▶ input() ──▶ pipe or terminal
//! ```
//! Where a client is on its way (`hold`), output waits in pipe or terminal until it is there.
//! A client whose queue is full slows the process for a moment; one that takes nothing for [`PATIENCE`] is dropped.

use super::copy::{Polled, write_all};
use super::jsonlog::{JsonLog, Stream};
use super::uri::Stdin;
use crate::log;
use bytes::Bytes;
use crated_types::attach::{self, FRAME_MAX, FrameType, Hello, SCROLLBACK};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Frames that wait for a client.
const QUEUE: usize = 16;
/// How long a client may take nothing while the process has output.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest that output waits for a first client.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// One process' streams.
#[derive(Debug)]
pub(crate) struct Hub {
    terminal: bool,
    /// When output is taken though nobody has attached yet.
    held_until: Instant,
    arrived: watch::Sender<bool>,
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: Option<JsonLog>,
    scrollback: Scrollback,
    clients: Vec<Attached>,
    last: u64,
    stdin: Stdin,
    /// The pipe or the terminal; `None` where input has ended.
    input: Option<Rc<Polled>>,
    /// The terminal, for its size.
    master: Option<Rc<Polled>>,
    /// A size that was asked for before the terminal was there.
    size: Option<(u16, u16)>,
    exit: Option<u32>,
}

#[derive(Debug)]
struct Attached {
    number: u64,
    hello: Hello,
    queue: mpsc::Sender<Bytes>,
}

/// A client's place in a hub.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) number: u64,
    /// Frames to be sent first: "attached", and the scroll-back.
    pub(crate) first: Vec<Bytes>,
    /// Frames to be sent then; it ends when there are no more.
    pub(crate) queue: mpsc::Receiver<Bytes>,
}

impl Hub {
    /// A hub for a process that does not run yet.
    pub(crate) fn new(terminal: bool, log: Option<JsonLog>, stdin: Stdin, hold: Duration) -> Self {
        let inner = Inner {
            log,
            scrollback: Scrollback::default(),
            clients: Vec::new(),
            last: 0,
            stdin,
            input: None,
            master: None,
            size: None,
            exit: None,
        };
        let held_until = Instant::now() + hold.min(HOLD_MAX);
        Self { terminal, held_until, arrived: watch::Sender::new(hold.is_zero()), inner: RefCell::new(inner) }
    }

    /// Waits for the first client, for as long as output is held for it.
    pub(crate) async fn held(&self) {
        let mut arrived = self.arrived.subscribe();
        let _ = tokio::time::timeout_at(self.held_until, arrived.wait_for(|there| *there)).await;
    }

    /// Gives it the writing end of standard input.
    pub(crate) fn set_input(&self, input: Rc<Polled>) {
        self.inner.borrow_mut().input = Some(input);
    }

    /// Gives it the terminal, which is input and size at once.
    pub(crate) fn set_master(&self, master: Rc<Polled>) {
        let mut inner = self.inner.borrow_mut();
        if inner.stdin != Stdin::None {
            inner.input = Some(Rc::clone(&master));
        }
        inner.master = Some(master);
        let size = inner.size.take();
        drop(inner);
        if let Some((columns, rows)) = size {
            self.resize(columns, rows);
        }
    }

    /// Sets the terminal's size, now or once there is one.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let mut inner = self.inner.borrow_mut();
        match &inner.master {
            Some(master) => {
                if let Err(error) = crated_sys::pty::set_size(master.get_ref().as_fd(), columns, rows) {
                    log::debug(format_args!("terminal keeps its size: {error}"));
                }
            }
            None => inner.size = Some((columns, rows)),
        }
    }

    /// Takes output.
    pub(crate) async fn output(&self, stream: Stream, data: &[u8]) {
        let targets: Vec<(u64, mpsc::Sender<Bytes>)> = {
            let mut inner = self.inner.borrow_mut();
            if let Some(log) = &mut inner.log {
                log.write(stream, data);
            }
            inner.scrollback.push(stream, data);
            let wanted = |client: &&Attached| match stream {
                Stream::Stdout => client.hello.stdout,
                Stream::Stderr => client.hello.stderr,
            };
            inner.clients.iter().filter(wanted).map(|client| (client.number, client.queue.clone())).collect()
        };
        if targets.is_empty() {
            return;
        }
        for piece in data.chunks(FRAME_MAX) {
            let frame = Bytes::from(attach::frame(kind(stream), piece));
            for (number, queue) in &targets {
                self.send(*number, queue, frame.clone()).await;
            }
        }
    }

    async fn send(&self, number: u64, queue: &mpsc::Sender<Bytes>, frame: Bytes) {
        let sent = match queue.try_send(frame) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(frame)) => queue.send_timeout(frame, PATIENCE).await.is_ok(),
        };
        if !sent {
            self.leave(number);
        }
    }

    /// A stream has ended.
    pub(crate) fn finish(&self, stream: Stream) {
        if let Some(log) = &mut self.inner.borrow_mut().log {
            log.finish(stream);
        }
    }

    /// The process has ended and all its output was taken: clients are told and let go.
    pub(crate) async fn exited(&self, status: u32) {
        let clients = {
            let mut inner = self.inner.borrow_mut();
            inner.exit = Some(status);
            inner.input = None;
            inner.master = None;
            std::mem::take(&mut inner.clients)
        };
        let frame = Bytes::from(exit_frame(status));
        for client in clients {
            self.send(client.number, &client.queue, frame.clone()).await;
        }
    }

    /// Lets a client in, with what it missed; after the exit it gets that as well, and its queue ends.
    pub(crate) fn attach(&self, hello: Hello) -> Ticket {
        self.arrived.send_replace(true);
        let mut inner = self.inner.borrow_mut();
        inner.last += 1;
        let number = inner.last;
        let (queue, receiver) = mpsc::channel(QUEUE);
        let mut first = vec![Bytes::from(attach::frame(FrameType::Attached, &[u8::from(self.terminal)]))];
        if hello.scrollback {
            first.extend(inner.scrollback.frames(&hello));
        }
        match inner.exit {
            Some(status) => first.push(exit_frame(status).into()),
            None => inner.clients.push(Attached { number, hello, queue }),
        }
        Ticket { number, first, queue: receiver }
    }

    /// A client has gone, with or without a farewell.
    pub(crate) fn leave(&self, number: u64) -> Option<Hello> {
        let mut inner = self.inner.borrow_mut();
        let at = inner.clients.iter().position(|client| client.number == number)?;
        Some(inner.clients.remove(at).hello)
    }

    /// A client went without saying that it only detaches: where input is for one client, it ends now.
    pub(crate) fn vanished(&self, number: u64) {
        let Some(hello) = self.leave(number) else { return };
        let once = self.inner.borrow().stdin == Stdin::Once && !self.terminal;
        if hello.stdin && once {
            self.close_input(number);
        }
    }

    /// Writes to the process' standard input; slow processes are waited for.
    pub(crate) async fn input(&self, data: &[u8]) {
        let input = self.inner.borrow().input.clone();
        if let Some(input) = input
            && let Err(error) = write_all(&input, data).await
        {
            log::debug(format_args!("input is dropped: {error}"));
            self.inner.borrow_mut().input = None;
        }
    }

    /// A client has no more input: it ends for the process unless another client may still write.
    pub(crate) fn close_input(&self, number: u64) {
        let mut inner = self.inner.borrow_mut();
        for client in inner.clients.iter_mut().filter(|client| client.number == number) {
            client.hello.stdin = false;
        }
        if !self.terminal && !inner.clients.iter().any(|client| client.hello.stdin) {
            inner.input = None;
        }
    }

    /// Ends input for good (`CloseIO`).
    pub(crate) fn end_input(&self) {
        if !self.terminal {
            self.inner.borrow_mut().input = None;
        }
    }
}

fn kind(stream: Stream) -> FrameType {
    match stream {
        Stream::Stdout => FrameType::Stdout,
        Stream::Stderr => FrameType::Stderr,
    }
}

fn exit_frame(status: u32) -> Vec<u8> {
    attach::frame(FrameType::Exit, &status.to_be_bytes())
}

/// The last output of both streams, in order.
#[derive(Debug, Default)]
struct Scrollback {
    pieces: VecDeque<(Stream, Vec<u8>)>,
    length: usize,
}

impl Scrollback {
    fn push(&mut self, stream: Stream, data: &[u8]) {
        let data = &data[data.len().saturating_sub(SCROLLBACK)..];
        match self.pieces.back_mut() {
            Some((last, piece)) if *last == stream && piece.len() + data.len() <= SCROLLBACK / 16 => {
                piece.extend_from_slice(data);
            }
            _ => self.pieces.push_back((stream, data.to_vec())),
        }
        self.length += data.len();
        while self.length > SCROLLBACK {
            let over = self.length - SCROLLBACK;
            let Some((_, piece)) = self.pieces.front_mut() else { return };
            if piece.len() <= over {
                self.length -= piece.len();
                self.pieces.pop_front();
            } else {
                piece.drain(..over);
                self.length -= over;
            }
        }
    }

    fn frames(&self, hello: &Hello) -> Vec<Bytes> {
        let wanted = |stream: Stream| match stream {
            Stream::Stdout => hello.stdout,
            Stream::Stderr => hello.stderr,
        };
        let pieces = self.pieces.iter().filter(|(stream, _)| wanted(*stream));
        pieces
            .flat_map(|(stream, piece)| piece.chunks(FRAME_MAX).map(|part| attach::frame(kind(*stream), part).into()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello { stdout: true, stderr: true, scrollback: true, ..Hello::default() }
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
    }

    #[test]
    fn scrollback_keeps_the_end_in_order() {
        let mut kept = Scrollback::default();
        for number in 0..100_000_u32 {
            let stream = if number % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
            kept.push(stream, format!("{number}\n").as_bytes());
        }
        let total: usize = kept.pieces.iter().map(|(_, piece)| piece.len()).sum();
        assert!(total == kept.length && total <= SCROLLBACK && total > SCROLLBACK - 10);
        assert!(kept.pieces.back().unwrap().1.ends_with(b"99999\n"));
        kept.push(Stream::Stdout, &vec![b'x'; 3 * SCROLLBACK]);
        assert_eq!((kept.length, kept.pieces.len()), (SCROLLBACK, 1));
    }

    #[test]
    fn a_late_client_gets_what_was_and_the_exit() {
        run(async {
            let hub = Hub::new(false, None, Stdin::Open, Duration::ZERO);
            hub.output(Stream::Stdout, b"before").await;
            let mut early = hub.attach(hello());
            assert_eq!(early.first[1].as_ref(), attach::frame(FrameType::Stdout, b"before"));
            hub.output(Stream::Stderr, b"live").await;
            hub.exited(7).await;
            assert_eq!(early.queue.recv().await.unwrap().as_ref(), attach::frame(FrameType::Stderr, b"live"));
            assert_eq!(early.queue.recv().await.unwrap().as_ref(), exit_frame(7));
            assert_eq!(early.queue.recv().await, None);
            let mut late = hub.attach(hello());
            assert_eq!(late.first.len(), 4);
            assert_eq!(late.first[3].as_ref(), exit_frame(7));
            assert_eq!(late.queue.recv().await, None);
        });
    }

    #[test]
    fn output_is_held_for_the_first_client_and_not_for_ever() {
        run(async {
            let hold = Duration::from_secs(5);
            let hub = Hub::new(false, None, Stdin::Open, hold);
            let begun = Instant::now();
            hub.held().await;
            assert_eq!(begun.elapsed(), hold, "nobody came");
            let hub = Hub::new(false, None, Stdin::Open, hold);
            let begun = Instant::now();
            tokio::join!(hub.held(), async {
                tokio::time::sleep(hold / 5).await;
                drop(hub.attach(hello()));
            });
            assert_eq!(begun.elapsed(), hold / 5);
        });
    }

    #[test]
    fn a_client_that_takes_nothing_is_dropped() {
        run(async {
            let hub = Hub::new(false, None, Stdin::Open, Duration::ZERO);
            let stuck = hub.attach(hello());
            let mut other = hub.attach(hello());
            for _ in 0..QUEUE + 2 {
                hub.output(Stream::Stdout, b"x").await;
                assert!(other.queue.recv().await.is_some());
            }
            assert_eq!(hub.inner.borrow().clients.len(), 1);
            drop(stuck);
        });
    }
}
