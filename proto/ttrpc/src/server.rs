//! The answering side: services by name, connections with bounded concurrency.
//!
//! Each call runs in a task of its connection; answers go out in whatever order they are ready. When a peer is wholly gone
//! its calls are dropped, so a change that must end whole belongs to an owner task of the service. A peer that only stopped
//! sending (half-closed) still gets the answers that are due.

use crate::connection::{QUEUE, gone, write_all};
use crate::frame::{self, Frame, Kind, MESSAGE_MAX, NO_DATA, REMOTE_CLOSED, REMOTE_OPEN};
use crate::status;
use crate::stream::{Incoming, STREAM_QUEUE, ServerStream, too_long};
use bytes::Bytes;
use crated_api::google::rpc::Status;
use crated_api::ttrpc::{Request, Response};
use crated_types::{Code, Error, Result};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Calls that a connection may have in flight, unless [`Server::concurrency`] says otherwise. Each `Wait` is one.
pub const CONCURRENCY: usize = 1024;

/// What came beside a request.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Keys and values as they came.
    pub metadata: Vec<(String, String)>,
    /// How long the caller waits.
    pub timeout: Option<Duration>,
    /// User and process of the peer, as the kernel knows them.
    pub peer: Peer,
}

/// The process at the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process, where known.
    pub pid: Option<i32>,
}

impl Context {
    /// The first value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// A service: dispatches on the method's name, on encoded messages.
#[crate::async_trait]
pub trait Service: Send + Sync {
    /// Answers a call; [`unknown_method`] where there is none of that name.
    async fn call(&self, context: Context, method: &str, payload: Bytes) -> Result<Bytes>;

    /// Answers a streaming call. `Some` is the one answer of a call that only the client streams, `None` ends a server's stream.
    async fn stream(
        &self,
        context: Context,
        method: &str,
        first: Bytes,
        stream: ServerStream,
    ) -> Result<Option<Bytes>> {
        let (_, _, _) = (context, first, stream);
        Err(unknown_method(method))
    }
}

/// The error of a method that does not exist.
#[must_use]
pub fn unknown_method(method: &str) -> Error {
    Error::peer(Code::Unimplemented, format!("method {method}"))
}

/// Decodes a request's payload.
///
/// # Errors
/// [`Code::InvalidArgument`] where it is none.
pub fn decode<M: Message + Default>(payload: Bytes) -> Result<M> {
    M::decode(payload).map_err(|error| Error::invalid("payload", error))
}

/// Encodes an answer.
#[must_use]
pub fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Services behind a socket; clones share them.
#[derive(Clone)]
pub struct Server {
    services: Arc<BTreeMap<String, Arc<dyn Service>>>,
    concurrency: usize,
    only_uid: Option<u32>,
    details: bool,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("services", &self.services.keys()).finish_non_exhaustive()
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// A server without services.
    #[must_use]
    pub fn new() -> Self {
        Self { services: Arc::default(), concurrency: CONCURRENCY, only_uid: None, details: false }
    }

    /// Adds a service under its full name, e.g. `containerd.task.v3.Task`.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>, service: Arc<dyn Service>) -> Self {
        let mut services = (*self.services).clone();
        services.insert(name.into(), service);
        self.services = Arc::new(services);
        self
    }

    /// Bounds the calls in flight of a connection; one too many is answered with ResourceExhausted.
    #[must_use]
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// Sends fault, step, object and remedy beside the text of an error. containerd's clients would show them as noise.
    #[must_use]
    pub fn details(mut self, on: bool) -> Self {
        self.details = on;
        self
    }

    /// Hangs up on peers of another user.
    #[must_use]
    pub fn only_user(mut self, uid: u32) -> Self {
        self.only_uid = Some(uid);
        self
    }

    /// Accepts and answers for ever; dropped, all connections close.
    ///
    /// # Errors
    /// None today: a failed accept (descriptors used up) waits and goes on.
    pub async fn serve(&self, listener: UnixListener) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let server = self.clone();
                        connections.spawn(async move { server.serve_connection(stream).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Ok(Err(error)) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                }
            }
        }
    }

    /// Answers one connection until its peer is done.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn serve_connection(&self, stream: UnixStream) -> io::Result<()> {
        let credentials = stream.peer_cred()?;
        if self.only_uid.is_some_and(|uid| uid != credentials.uid()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("peer has uid {}", credentials.uid())));
        }
        let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
        let (read, mut write) = stream.into_split();
        let (frames, mut queue) = mpsc::channel(QUEUE);
        let mut connection =
            Connection { server: self, peer, frames, calls: JoinSet::new(), streams: HashMap::new(), last: 0 };
        let mut reader = BufReader::with_capacity(4096, read);
        let incoming = async {
            connection.receive(&mut reader).await?;
            // The peer sends no more. It may still read: finish what is due unless it hangs up.
            let Connection { mut calls, frames, streams, .. } = connection;
            drop((frames, streams));
            tokio::select! {
                () = async { while calls.join_next().await.is_some() {} } => Ok(()),
                ended = gone(reader.get_ref().as_ref()) => ended.and(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        let outgoing = write_all(&mut write, &mut queue);
        let ((), ()) = tokio::try_join!(incoming, outgoing)?;
        Ok(())
    }
}

struct Connection<'a> {
    server: &'a Server,
    peer: Peer,
    frames: mpsc::Sender<Bytes>,
    calls: JoinSet<u32>,
    streams: HashMap<u32, mpsc::Sender<Incoming>>,
    last: u32,
}

impl Connection<'_> {
    async fn receive(&mut self, reader: &mut BufReader<tokio::net::unix::OwnedReadHalf>) -> io::Result<()> {
        while let Some(frame) = frame::read(reader).await? {
            while let Some(ended) = self.calls.try_join_next() {
                if let Ok(stream) = ended {
                    self.streams.remove(&stream);
                }
            }
            match frame.head.kind {
                Kind::Request => self.request(frame).await,
                Kind::Data => self.data(frame).await,
                Kind::Response | Kind::Other(_) => {}
            }
        }
        Ok(())
    }

    async fn refuse(&self, stream: u32, status: Status) {
        let _ = self.frames.send(response(stream, Response { status: Some(status), payload: Vec::new() })).await;
    }

    async fn request(&mut self, frame: Frame) {
        let stream = frame.head.stream;
        let Some(message) = frame.message else {
            let error = too_long(frame.head.length as usize);
            return self.refuse(stream, status::status(Code::ResourceExhausted, error.to_string())).await;
        };
        if stream.is_multiple_of(2) {
            return self
                .refuse(
                    stream,
                    status::status(Code::InvalidArgument, "StreamID must be odd for client initiated streams"),
                )
                .await;
        }
        if stream <= self.last {
            return self
                .refuse(stream, status::status(Code::InvalidArgument, "StreamID cannot be re-used and must increment"))
                .await;
        }
        self.last = stream;
        let request = match Request::decode(message) {
            Ok(request) => request,
            Err(error) => {
                return self
                    .refuse(stream, status::status(Code::InvalidArgument, format!("unmarshal request: {error}")))
                    .await;
            }
        };
        let Some(service) = self.server.services.get(&request.service).cloned() else {
            return self
                .refuse(stream, status::status(Code::Unimplemented, format!("service {}", request.service)))
                .await;
        };
        if self.calls.len() >= self.server.concurrency {
            let text = format!("{} calls of this connection are in flight", self.calls.len());
            return self.refuse(stream, status::status(Code::ResourceExhausted, text)).await;
        }
        self.start(service, stream, frame.head.flags, request);
    }

    fn start(&mut self, service: Arc<dyn Service>, stream: u32, flags: u8, request: Request) {
        let timeout = u64::try_from(request.timeout_nano).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
        let metadata = request.metadata.into_iter().map(|pair| (pair.key, pair.value)).collect();
        let context = Context { metadata, timeout, peer: self.peer };
        let (frames, details) = (self.frames.clone(), self.server.details);
        let (method, payload) = (request.method, Bytes::from(request.payload));
        if flags & (REMOTE_OPEN | REMOTE_CLOSED) == 0 {
            self.calls.spawn(async move {
                let result = deadline(timeout, service.call(context, &method, payload)).await;
                let _ = frames.send(answer(stream, result, details)).await;
                stream
            });
            return;
        }
        let incoming = (flags & REMOTE_OPEN != 0).then(|| {
            let (sender, incoming) = mpsc::channel(STREAM_QUEUE);
            self.streams.insert(stream, sender);
            incoming
        });
        self.calls.spawn(async move {
            let end = ServerStream { stream, frames: frames.clone(), incoming };
            let last = match deadline(timeout, service.stream(context, &method, payload, end)).await {
                Ok(None) => frame::encode(stream, Kind::Data, REMOTE_CLOSED | NO_DATA, &[]),
                Ok(Some(payload)) => answer(stream, Ok(payload), details),
                Err(error) => answer(stream, Err(error), details),
            };
            let _ = frames.send(last).await;
            stream
        });
    }

    async fn data(&mut self, frame: Frame) {
        let stream = frame.head.stream;
        // Data of a stream that has ended is late, not wrong.
        let Some(sender) = self.streams.get(&stream) else { return };
        let closes = frame.head.flags & REMOTE_CLOSED != 0;
        match frame.message {
            Some(message) if frame.head.flags & NO_DATA == 0 => {
                let _ = sender.send(Incoming::Data(message)).await;
            }
            Some(_) => {}
            None => tracing::warn!(stream, length = frame.head.length, "overlong data frame ends its stream"),
        }
        if closes || frame.head.length as usize > MESSAGE_MAX {
            self.streams.remove(&stream);
        }
    }
}

async fn deadline<T>(timeout: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout {
        None => work.await,
        Some(timeout) => match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::peer(Code::DeadlineExceeded, "context deadline exceeded")),
        },
    }
}

fn answer(stream: u32, result: Result<Bytes>, details: bool) -> Bytes {
    let message = match result {
        Ok(payload) => Response { status: None, payload: payload.into() },
        Err(error) => {
            let mut status = status::to_status(&error);
            if !details {
                status.details.clear();
            }
            Response { status: Some(status), payload: Vec::new() }
        }
    };
    response(stream, message)
}

fn response(stream: u32, message: Response) -> Bytes {
    let length = message.encoded_len();
    let bytes = if length > MESSAGE_MAX {
        Response { status: Some(status::to_status(&too_long(length))), payload: Vec::new() }.encode_to_vec()
    } else {
        message.encode_to_vec()
    };
    frame::encode(stream, Kind::Response, 0, &bytes)
}
