//! Bodies of answers that are watched to their end, or ended from outside.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;

/// Is told of the trailers of a body, and dropped with it.
pub trait Ending: Send {
    /// The trailers are on their way.
    fn trailers(&mut self, trailers: &HeaderMap);
}

/// Holds its place as long as the body lives.
impl Ending for std::sync::Arc<super::arrival::Held> {
    fn trailers(&mut self, _: &HeaderMap) {}
}

/// A body with an [`Ending`].
pub(super) struct Watched<E> {
    body: Body,
    ending: E,
}

impl<E> Watched<E> {
    pub(super) fn new(body: Body, ending: E) -> Self {
        Self { body, ending }
    }
}

impl<E: Ending + Unpin> http_body::Body for Watched<E> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.ending.trailers(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that ends with a status when something happens (the daemon stops, time runs out).
pub(super) struct Until {
    body: Option<Body>,
    end: BoxFuture<'static, Status>,
}

impl Until {
    pub(super) fn new(body: Body, end: BoxFuture<'static, Status>) -> Self {
        Self { body: Some(body), end }
    }
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let status = std::task::ready!(self.end.as_mut().poll(cx));
        self.body = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(match status.add_header(&mut trailers) {
            Ok(()) => Some(Ok(Frame::trailers(trailers))),
            Err(status) => Some(Err(status)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}
