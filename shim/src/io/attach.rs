//! The attach socket: terminals of people, served by the shim itself, so that a session outlives the daemon.

use super::hub::{Hub, Ticket};
use crate::log;
use crated_types::attach::{self, FrameType, HEAD, Hello};
use crated_types::{Error, Fault, Kind, Result};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket and the processes behind it.
#[derive(Debug)]
pub(crate) struct Switchboard {
    path: PathBuf,
    hubs: RefCell<HashMap<(String, String), Weak<Hub>>>,
    listening: RefCell<bool>,
    attached: Cell<usize>,
    left: Notify,
}

impl Switchboard {
    /// A socket beside `socket`, that is not bound before it is needed.
    pub(crate) fn beside(socket: &std::path::Path) -> Rc<Self> {
        let mut path = socket.to_owned().into_os_string();
        path.push(attach::SOCKET_SUFFIX);
        Rc::new(Self {
            path: path.into(),
            hubs: RefCell::default(),
            listening: RefCell::new(false),
            attached: Cell::new(0),
            left: Notify::new(),
        })
    }

    /// Makes a process attachable for as long as its hub lives.
    ///
    /// # Errors
    /// Where the socket cannot be bound.
    pub(crate) fn add(self: &Rc<Self>, container: &str, exec: &str, hub: &Rc<Hub>) -> Result<()> {
        if !*self.listening.borrow() {
            let _ = std::fs::remove_file(&self.path);
            let listener = crate::socket::listen(&self.path)?;
            let listener = UnixListener::from_std(listener)
                .map_err(|error| Error::os(format!("listen at {}", self.path.display()), error))?;
            tokio::task::spawn_local(Rc::clone(self).accept(listener));
            *self.listening.borrow_mut() = true;
        }
        let mut hubs = self.hubs.borrow_mut();
        hubs.retain(|_, hub| hub.strong_count() > 0);
        hubs.insert((container.into(), exec.into()), Rc::downgrade(hub));
        Ok(())
    }

    /// Ends when nobody is attached.
    pub(crate) async fn idle(&self) {
        loop {
            let left = self.left.notified();
            if self.attached.get() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Removes the socket's file.
    pub(crate) fn unlink(&self) {
        if *self.listening.borrow() {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    async fn accept(self: Rc<Self>, listener: UnixListener) {
        let own = crate::serve::own_uid();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
                        let board = Rc::clone(&self);
                        board.attached.set(board.attached.get() + 1);
                        tokio::task::spawn_local(async move {
                            board.serve(stream).await;
                            board.attached.set(board.attached.get() - 1);
                            board.left.notify_waiters();
                        });
                    }
                }
                Err(error) => {
                    log::warn(format_args!("attach: accept: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(&self, stream: UnixStream) {
        let (mut read, mut write) = stream.into_split();
        match self.admit(&mut read).await {
            Ok((hub, ticket)) => {
                let number = ticket.number;
                let incoming = receive(read, &hub, number);
                let outgoing = send(&mut write, ticket);
                tokio::select! {
                    // What a client is owed at once goes out before its farewell is read.
                    biased;
                    () = outgoing => { hub.leave(number); }
                    farewell = incoming => match farewell {
                        Farewell::Detached => { hub.leave(number); }
                        Farewell::Vanished => hub.vanished(number),
                    },
                }
            }
            Err(error) => {
                let text = error.to_string();
                let _ = write.write_all(&attach::frame(FrameType::Error, text.as_bytes())).await;
            }
        }
    }

    async fn admit(&self, read: &mut OwnedReadHalf) -> Result<(Rc<Hub>, Ticket)> {
        let first = tokio::time::timeout(PATIENCE, frame(read))
            .await
            .map_err(|_| Error::new(Fault::TimedOut, "attach: no hello frame"))?
            .ok_or_else(|| Error::new(Fault::Malformed, "attach: no hello frame"))?;
        if first.0 != FrameType::Hello {
            return Err(Error::new(Fault::Malformed, "attach: the first frame is no hello"));
        }
        let hello = Hello::decode(&first.1)?;
        let key = (hello.container.clone(), hello.exec.clone());
        let hub = self.hubs.borrow().get(&key).and_then(Weak::upgrade);
        let hub = hub.ok_or_else(|| match hello.exec.as_str() {
            "" => Error::not_found(Kind::Task, &hello.container),
            exec => Error::not_found(Kind::Exec, exec),
        })?;
        let ticket = hub.attach(hello);
        Ok((hub, ticket))
    }
}

/// How a client went.
enum Farewell {
    Detached,
    Vanished,
}

async fn frame(read: &mut OwnedReadHalf) -> Option<(FrameType, Vec<u8>)> {
    let mut bytes = [0; HEAD];
    read.read_exact(&mut bytes).await.ok()?;
    let (kind, length) = attach::head(bytes).ok()?;
    let mut payload = vec![0; length];
    read.read_exact(&mut payload).await.ok()?;
    Some((kind, payload))
}

async fn receive(mut read: OwnedReadHalf, hub: &Hub, number: u64) -> Farewell {
    while let Some((kind, payload)) = frame(&mut read).await {
        match kind {
            FrameType::Stdin => hub.input(&payload).await,
            FrameType::StdinClosed => hub.close_input(number),
            FrameType::Resize => {
                if let [c1, c0, r1, r0] = payload[..] {
                    hub.resize(u16::from_be_bytes([c1, c0]), u16::from_be_bytes([r1, r0]));
                }
            }
            FrameType::Detach => return Farewell::Detached,
            // Frames of the shim's side make no sense here.
            FrameType::Hello
            | FrameType::Attached
            | FrameType::Stdout
            | FrameType::Stderr
            | FrameType::Exit
            | FrameType::Error => return Farewell::Vanished,
        }
    }
    Farewell::Vanished
}

async fn send(write: &mut OwnedWriteHalf, ticket: Ticket) {
    let Ticket { first, mut queue, .. } = ticket;
    for frame in first {
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
    while let Some(frame) = queue.recv().await {
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}
