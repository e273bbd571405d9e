//! What a request sends. Its place among the calls that work is taken once its first message is there, which must be soon: calls
//! that send nothing, or byte by byte, hold up nobody. What is in memory of messages under way is bounded for all together.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

/// From a request's head to the end of its first message.
pub const FIRST_MESSAGE: Duration = Duration::from_secs(20);
/// Bytes before each message: a flag and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// Bytes of messages under way, of all calls.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    most: u64,
}

impl Budget {
    /// At most so many bytes.
    #[must_use]
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), most })
    }
}

/// What one call holds: its place, and bytes of its messages.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: AtomicU64,
    places: Arc<Semaphore>,
    what: &'static str,
    place: OnceLock<OwnedSemaphorePermit>,
}

impl Held {
    /// Nothing yet; `what` names the bound of the places.
    #[must_use]
    pub fn new(budget: Arc<Budget>, places: Arc<Semaphore>, what: &'static str) -> Arc<Self> {
        Arc::new(Self { budget, bytes: AtomicU64::new(0), places, what, place: OnceLock::new() })
    }

    fn take(&self, bytes: u64) -> Result<(), Status> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.budget.most {
            return Ok(());
        }
        Err(Status::resource_exhausted(
            "too many bytes of requests are under way, try again later or raise limits.request_bytes: resource exhausted",
        ))
    }

    fn free(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The first message is there: the call may work, if it finds a place.
    fn arrived(&self) -> Result<(), Status> {
        if self.place.get().is_some() {
            return Ok(());
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let what = self.what;
            return Err(Status::resource_exhausted(format!(
                "too many calls at a time, try again later or raise {what}: resource exhausted"
            )));
        };
        let _ = self.place.set(place); // one body, one caller
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// Whether a message's bytes count until it is whole or until its call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// One message, which the call works on.
    Call,
    /// One message after the other.
    Message,
}

/// Follows the messages in the bytes of a body.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX],
    known: usize,
    left: u64,
    /// Bytes of the message under way.
    partial: u64,
    whole: bool,
}

impl Messages {
    /// Reads on; answers how many bytes of messages that are whole now came before.
    fn pass(&mut self, mut data: &[u8]) -> u64 {
        let mut ended = 0;
        while !data.is_empty() {
            if self.known < PREFIX {
                let part = (PREFIX - self.known).min(data.len());
                self.prefix[self.known..self.known + part].copy_from_slice(&data[..part]);
                self.known += part;
                self.partial += part as u64;
                data = &data[part..];
                if self.known < PREFIX {
                    break;
                }
                let [_, length @ ..] = self.prefix;
                self.left = u64::from(u32::from_be_bytes(length));
            }
            let part = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
            self.left -= part as u64;
            self.partial += part as u64;
            data = &data[part..];
            if self.left == 0 {
                self.whole = true;
                ended += std::mem::take(&mut self.partial);
                self.known = 0;
            }
        }
        ended
    }
}

/// The body of a request.
pub(super) struct Arrival {
    body: Body,
    held: Arc<Held>,
    keep: Keep,
    messages: Messages,
    late: Option<Pin<Box<Sleep>>>,
}

impl Arrival {
    /// Watches `body` for the call that has `held`.
    pub(super) fn new(body: Body, held: Arc<Held>, keep: Keep) -> Self {
        Self { body, held, keep, messages: Messages::default(), late: None }
    }

    fn pass(&mut self, data: &[u8]) -> Result<(), Status> {
        self.held.take(data.len() as u64)?;
        let ended = self.messages.pass(data);
        if self.keep == Keep::Message {
            self.held.free(ended);
        }
        if self.messages.whole { self.held.arrived() } else { Ok(()) }
    }
}

impl http_body::Body for Arrival {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let passed = match &frame {
                Some(Ok(frame)) => frame.data_ref().map_or(Ok(()), |data| self.pass(data)),
                _ => Ok(()),
            };
            return Poll::Ready(match passed {
                Ok(()) => frame,
                Err(status) => Some(Err(status)),
            });
        }
        if !self.messages.whole {
            // made only for requests whose message does not come with their head
            let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(FIRST_MESSAGE)));
            if late.as_mut().poll(cx).is_ready() {
                let text = format!("no message came within {} s: context deadline exceeded", FIRST_MESSAGE.as_secs());
                return Poll::Ready(Some(Err(Status::deadline_exceeded(text))));
            }
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![7; length as usize]);
        bytes
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let stream = [message(0), message(3), message(300), message(1)].concat();
        for step in [1, 2, 4, 5, 7, 1000] {
            let mut messages = Messages::default();
            let ended: u64 = stream.chunks(step).map(|chunk| messages.pass(chunk)).sum();
            assert_eq!((ended, messages.partial, messages.whole), (stream.len() as u64, 0, true), "{step}");
        }
        let mut messages = Messages::default();
        assert_eq!(messages.pass(&message(9)[..8]), 0);
        assert_eq!((messages.partial, messages.whole), (8, false));
    }

    #[test]
    fn what_a_call_holds_is_free_when_it_ends() {
        let budget = Budget::new(10);
        let places = Arc::new(Semaphore::new(1));
        let held = Held::new(Arc::clone(&budget), Arc::clone(&places), "x");
        held.take(8).unwrap();
        held.arrived().unwrap();
        held.arrived().unwrap();
        let other = Held::new(Arc::clone(&budget), Arc::clone(&places), "limits.x");
        assert!(other.arrived().unwrap_err().message().contains("limits.x"));
        assert!(other.take(3).unwrap_err().message().contains("limits.request_bytes"));
        drop((held, other));
        assert_eq!((budget.used.load(Ordering::Relaxed), places.available_permits()), (0, 1));
    }
}
