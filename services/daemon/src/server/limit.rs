//! How many calls work at a time: one too many is refused at once, with words that say so.

use super::body::Watched;
use super::method::{Method, Shape};
use super::{Request, Response, refusal};
use crate::config::Limits;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Semaphore;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

/// Makes [`Limit`].
#[derive(Clone, Debug)]
pub struct LimitLayer {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl LimitLayer {
    /// The bounds of the configuration.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let semaphore = |permits: u64| {
            let permits = usize::try_from(permits).unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
        };
        Self { calls: semaphore(limits.concurrent_requests), streams: semaphore(limits.concurrent_streams) }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;
    fn layer(&self, inner: S) -> Limit<S> {
        Limit { inner, layer: self.clone() }
    }
}

/// Refuses calls above the bounds.
#[derive(Clone, Debug)]
pub struct Limit<S> {
    inner: S,
    layer: LimitLayer,
}

impl<S> Service<Request> for Limit<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let shape = request.extensions().get::<Arc<Method>>().map_or(Shape::Unary, |method| method.shape);
        let (permits, what) = match shape {
            Shape::Unary => (&self.layer.calls, "limits.concurrent_requests"),
            Shape::Wait | Shape::Stream | Shape::Watch => (&self.layer.streams, "limits.concurrent_streams"),
        };
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            let text = format!("too many calls at a time, try again later or raise {what}: resource exhausted");
            return async move { Ok(refusal(Code::ResourceExhausted, text)) }.boxed();
        };
        let work = self.inner.call(request);
        async move {
            let response = work.await?;
            Ok(match shape {
                Shape::Unary | Shape::Wait => response,
                Shape::Stream | Shape::Watch => response.map(|body| Body::new(Watched::new(body, permit))),
            })
        }
        .boxed()
    }
}
