//! The calling side: any number of calls in flight over one connection.
//!
//! One task reads and hands answers to the calls that wait for them, one writes. A dropped call is forgotten: its answer,
//! when it comes, is thrown away. When the last [`Client`] of a connection is dropped, the connection closes.

use crate::connection::{QUEUE, write_all};
use crate::frame::{self, Kind, MESSAGE_MAX, NO_DATA, REMOTE_CLOSED, REMOTE_OPEN};
use crate::status;
use crate::stream::{ClientStream, Incoming, STREAM_QUEUE, too_long};
use bytes::Bytes;
use crated_api::ttrpc::{KeyValue, Request, Response};
use crated_types::{Error, Fault, Result};
use prost::Message;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// What goes beside a request.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// How long to wait; the peer is told, too. `None` waits until the connection is lost.
    pub timeout: Option<Duration>,
    /// Keys and values for the peer, such as [`crate::NAMESPACE_KEY`].
    pub metadata: Vec<(String, String)>,
}

impl CallOptions {
    /// No metadata, and a deadline.
    #[must_use]
    pub fn within(timeout: Duration) -> Self {
        Self { timeout: Some(timeout), metadata: Vec::new() }
    }

    /// Adds a key and its value.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }
}

/// A connection to a ttrpc server; clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    frames: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    closed: watch::Receiver<bool>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

#[derive(Debug, Default)]
struct Shared(Mutex<Streams>);

#[derive(Debug, Default)]
struct Streams {
    last: Option<u32>,
    waiting: HashMap<u32, Waiting>,
    lost: Option<String>,
}

#[derive(Debug)]
enum Waiting {
    Answer(oneshot::Sender<Response>),
    Stream(mpsc::Sender<Incoming>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, reason: &str) {
        let mut streams = self.lock();
        streams.lost.get_or_insert_with(|| reason.to_owned());
        streams.waiting.clear();
    }
}

/// A stream that is waited for; dropped, it is forgotten.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) stream: u32,
    shared: Arc<Shared>,
    /// Keeps the connection.
    _client: Client,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.stream);
    }
}

pub(crate) fn malformed(error: prost::DecodeError) -> Error {
    Error::new(Fault::Malformed, "ttrpc: message does not decode").caused_by(error)
}

fn lost(reason: &str) -> Error {
    Error::new(Fault::Unreachable, format!("ttrpc: connection lost: {reason}"))
}

impl Client {
    /// Connects to a unix socket.
    ///
    /// # Errors
    /// The operating system's, with the path.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path).await;
        stream.map(Self::from_stream).map_err(|error| Error::os(format!("connect {}", path.display()), error))
    }

    /// Speaks over a stream that is connected already. Must be called inside of a tokio runtime.
    #[must_use]
    pub fn from_stream(stream: UnixStream) -> Self {
        let (read, mut write) = stream.into_split();
        let (frames, mut queue) = mpsc::channel(QUEUE);
        let (close, closed) = watch::channel(false);
        let close = Arc::new(close);
        let shared = Arc::new(Shared::default());
        let reader = tokio::spawn({
            let (shared, close) = (Arc::clone(&shared), Arc::clone(&close));
            async move {
                let reason = match receive(read, &shared).await {
                    Ok(()) => "closed by the peer".to_owned(),
                    Err(error) => error.to_string(),
                };
                shared.close(&reason);
                close.send_replace(true);
            }
        });
        let writer = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                if let Err(error) = write_all(&mut write, &mut queue).await {
                    shared.close(&error.to_string());
                    close.send_replace(true);
                }
            }
        });
        Self { handle: Arc::new(Handle { frames, shared, closed, reader, writer }) }
    }

    /// Ends when the connection is lost: to a daemon, "the shim is dead".
    pub async fn closed(&self) {
        let mut closed = self.handle.closed.clone();
        // An error means that both tasks are gone, which is the same.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Whether the connection is lost.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.shared.lock().lost.is_some()
    }

    /// Calls `service`/`method` and awaits the answer.
    ///
    /// # Errors
    /// The server's status as it came; [`Fault::TimedOut`] past the deadline, [`Fault::Unreachable`] where the connection is
    /// lost, [`Fault::Exhausted`] where the request is over the message limit.
    ///
    /// # Cancel safety
    /// Dropped, the answer is thrown away when it comes; the server may have done the work.
    pub async fn call<Req: Message, Resp: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &Req,
        options: CallOptions,
    ) -> Result<Resp> {
        let payload = self.call_bytes(service, method, request.encode_to_vec(), options).await?;
        Resp::decode(payload).map_err(|error| malformed(error).at(format!("{service}/{method}")))
    }

    /// As [`Client::call`], on encoded messages.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_bytes(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        options: CallOptions,
    ) -> Result<Bytes> {
        let timeout = options.timeout;
        let request = request(service, method, payload, options);
        let work = async {
            let (answer, response) = oneshot::channel();
            let _registration = self.open(&request, 0, Waiting::Answer(answer)).await?;
            let response = response.await.map_err(|_| self.lost())?;
            match status::from_status(response.status) {
                Some(error) => Err(error),
                None => Ok(Bytes::from(response.payload)),
            }
        };
        let Some(timeout) = timeout else { return work.await };
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => {
                Err(Error::new(Fault::TimedOut, format!("ttrpc: {service}/{method} did not answer within {timeout:?}")))
            }
        }
    }

    /// Opens a streaming call whose first message is `request`; `more` says whether [`ClientStream::send`] will follow.
    ///
    /// # Errors
    /// As [`Client::call`], for the opening only.
    pub async fn stream(
        &self,
        service: &str,
        method: &str,
        first: &impl Message,
        more: bool,
        options: CallOptions,
    ) -> Result<ClientStream> {
        let request = request(service, method, first.encode_to_vec(), options);
        let (sender, incoming) = mpsc::channel(STREAM_QUEUE);
        let flags = if more { REMOTE_OPEN } else { REMOTE_CLOSED };
        let registration = self.open(&request, flags, Waiting::Stream(sender)).await?;
        Ok(ClientStream { frames: self.handle.frames.clone(), incoming, registration, ended: false })
    }

    async fn open(&self, request: &Request, flags: u8, waiting: Waiting) -> Result<Registration> {
        let length = request.encoded_len();
        if length > MESSAGE_MAX {
            return Err(too_long(length));
        }
        let permit = self.handle.frames.reserve().await.map_err(|_| self.lost())?;
        // Numbers grow on the wire, so number and place in the queue are taken together.
        let mut streams = self.handle.shared.lock();
        if let Some(reason) = &streams.lost {
            return Err(lost(reason));
        }
        let stream = match streams.last {
            None => 1,
            Some(last) => last.checked_add(2).ok_or_else(|| lost("stream numbers are used up"))?,
        };
        streams.last = Some(stream);
        streams.waiting.insert(stream, waiting);
        permit.send(frame::encode(stream, Kind::Request, flags, &request.encode_to_vec()));
        Ok(Registration { stream, shared: Arc::clone(&self.handle.shared), _client: self.clone() })
    }

    fn lost(&self) -> Error {
        lost(self.handle.shared.lock().lost.as_deref().unwrap_or("closed"))
    }
}

fn request(service: &str, method: &str, payload: Vec<u8>, options: CallOptions) -> Request {
    Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        timeout_nano: options.timeout.map_or(0, |timeout| i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX)),
        metadata: options.metadata.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
    }
}

async fn receive(half: OwnedReadHalf, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(4096, half);
    while let Some(frame) = frame::read(&mut reader).await? {
        let stream = frame.head.stream;
        match frame.head.kind {
            Kind::Response => {
                let response = match frame.message {
                    None => Response {
                        status: Some(status::to_status(&too_long(frame.head.length as usize))),
                        payload: Vec::new(),
                    },
                    Some(message) => Response::decode(message).unwrap_or_else(|error| Response {
                        status: Some(status::to_status(&malformed(error))),
                        payload: Vec::new(),
                    }),
                };
                let waiting = shared.lock().waiting.remove(&stream);
                match waiting {
                    // A caller that gave up has dropped its end.
                    Some(Waiting::Answer(answer)) => drop(answer.send(response)),
                    Some(Waiting::Stream(sender)) => drop(sender.send(Incoming::Response(response)).await),
                    None => {}
                }
            }
            Kind::Data => data(shared, stream, frame.head.flags, frame.message).await,
            Kind::Request | Kind::Other(_) => {}
        }
    }
    Ok(())
}

async fn data(shared: &Shared, stream: u32, flags: u8, message: Option<Bytes>) {
    let sender = match shared.lock().waiting.get(&stream) {
        Some(Waiting::Stream(sender)) => sender.clone(),
        _ => return,
    };
    let Some(message) = message else {
        let status = Some(status::to_status(&too_long(MESSAGE_MAX + 1)));
        shared.lock().waiting.remove(&stream);
        let _ = sender.send(Incoming::Response(Response { status, payload: Vec::new() })).await;
        return;
    };
    if flags & NO_DATA == 0 {
        let _ = sender.send(Incoming::Data(message)).await;
    }
    if flags & REMOTE_CLOSED != 0 {
        shared.lock().waiting.remove(&stream);
        let _ = sender.send(Incoming::End).await;
    }
}
