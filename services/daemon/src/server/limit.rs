//! How many calls work at a time: one too many is refused, with words that say so.

use super::around::{Answer, Around};
use super::arrival::{Arrival, Budget, Held, Keep};
use super::body::Watched;
use super::method::{Method, Shape};
use super::{Request, Response};
use crate::config::Limits;
use futures::FutureExt;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::Service;

/// Refuses calls above the bounds.
#[derive(Clone, Debug)]
pub struct Limit {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    budget: Arc<Budget>,
}

impl Limit {
    /// The bounds of the configuration.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let semaphore = |permits: u64| {
            let permits = usize::try_from(permits).unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
        };
        Self {
            calls: semaphore(limits.concurrent_requests),
            streams: semaphore(limits.concurrent_streams),
            budget: Budget::new(limits.request_bytes),
        }
    }
}

impl Around for Limit {
    fn around<S>(&self, inner: &mut S, request: Request) -> Answer
    where
        S: Service<Request, Response = Response, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let shape = request.extensions().get::<Arc<Method>>().map_or(Shape::Unary, |method| method.shape);
        let (places, what, keep) = match shape {
            Shape::Unary => (&self.calls, "limits.concurrent_requests", Keep::Call),
            Shape::Wait | Shape::Stream | Shape::Watch => (&self.streams, "limits.concurrent_streams", Keep::Message),
        };
        let held = Held::new(Arc::clone(&self.budget), Arc::clone(places), what);
        let body = Arc::clone(&held);
        let work = inner.call(request.map(|sent| Body::new(Arrival::new(sent, body, keep))));
        async move {
            let response = work.await?;
            Ok(match shape {
                Shape::Unary | Shape::Wait => response,
                Shape::Stream | Shape::Watch => response.map(|body| Body::new(Watched::new(body, held))),
            })
        }
        .boxed()
    }
}
