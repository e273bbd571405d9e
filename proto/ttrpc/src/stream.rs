//! Both ends of a streaming call. Messages stay in order; a side that does not read holds its connection up, so
//! streaming services get connections of their own.

use crate::client::Registration;
use crate::frame::{self, Kind, MESSAGE_MAX, NO_DATA, REMOTE_CLOSED};
use crate::status;
use bytes::Bytes;
use crated_api::ttrpc::Response;
use crated_types::{Error, Fault, Result};
use prost::Message;
use tokio::sync::mpsc;

/// Messages that wait for a reader of a stream.
pub(crate) const STREAM_QUEUE: usize = 16;

/// What arrives on a stream.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A message.
    Data(Bytes),
    /// The peer sends no more.
    End,
    /// The server's last word.
    Response(Response),
}

pub(crate) fn too_long(length: usize) -> Error {
    Error::new(Fault::Exhausted, format!("message length {length} exceed maximum message size of {MESSAGE_MAX}"))
}

fn hung_up() -> Error {
    Error::new(Fault::Unreachable, "ttrpc: closed")
}

async fn send(frames: &mpsc::Sender<Bytes>, stream: u32, flags: u8, message: &[u8]) -> Result<()> {
    if message.len() > MESSAGE_MAX {
        return Err(too_long(message.len()));
    }
    frames.send(frame::encode(stream, Kind::Data, flags, message)).await.map_err(|_| hung_up())
}

/// The client's end of a streaming call; dropped, the stream is forgotten.
#[derive(Debug)]
pub struct ClientStream {
    pub(crate) frames: mpsc::Sender<Bytes>,
    pub(crate) incoming: mpsc::Receiver<Incoming>,
    pub(crate) registration: Registration,
    pub(crate) ended: bool,
}

impl ClientStream {
    /// Sends a message.
    ///
    /// # Errors
    /// [`Fault::Exhausted`] over the message limit, [`Fault::Unreachable`] where the connection is lost.
    pub async fn send(&self, message: &impl Message) -> Result<()> {
        send(&self.frames, self.registration.stream, 0, &message.encode_to_vec()).await
    }

    /// Says that no more will be sent.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] where the connection is lost.
    pub async fn close_send(&self) -> Result<()> {
        send(&self.frames, self.registration.stream, REMOTE_CLOSED | NO_DATA, &[]).await
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// The server's status, or [`Fault::Unreachable`] where the connection is lost.
    pub async fn recv<M: Message + Default>(&mut self) -> Result<Option<M>> {
        if self.ended {
            return Ok(None);
        }
        let message = match self.incoming.recv().await {
            Some(Incoming::Data(message)) => message,
            Some(Incoming::End) => {
                self.ended = true;
                return Ok(None);
            }
            Some(Incoming::Response(response)) => {
                self.ended = true;
                if let Some(error) = status::from_status(response.status) {
                    return Err(error);
                }
                if response.payload.is_empty() {
                    return Ok(None);
                }
                response.payload.into()
            }
            None => return Err(hung_up()),
        };
        M::decode(message).map(Some).map_err(crate::client::malformed)
    }
}

/// The server's end of a streaming call.
#[derive(Debug)]
pub struct ServerStream {
    pub(crate) stream: u32,
    pub(crate) frames: mpsc::Sender<Bytes>,
    pub(crate) incoming: Option<mpsc::Receiver<Incoming>>,
}

impl ServerStream {
    /// Sends a message.
    ///
    /// # Errors
    /// [`Fault::Exhausted`] over the message limit, [`Fault::Unreachable`] where the connection is lost.
    pub async fn send(&self, message: &impl Message) -> Result<()> {
        send(&self.frames, self.stream, 0, &message.encode_to_vec()).await
    }

    /// The next message of the client; `None` at its end.
    pub async fn recv(&mut self) -> Option<Bytes> {
        match self.incoming.as_mut()?.recv().await {
            Some(Incoming::Data(message)) => Some(message),
            _ => {
                self.incoming = None;
                None
            }
        }
    }
}
