//! What the layers have in common: each does something around the call that is behind it.

use super::{Request, Response};
use futures::future::BoxFuture;
use std::convert::Infallible;
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// An answer on its way; it never fails but by its status.
pub type Answer = BoxFuture<'static, Result<Response, Infallible>>;

/// Does something around a call.
pub trait Around: Clone {
    /// Calls `inner` with the request, or refuses.
    fn around<S>(&self, inner: &mut S, request: Request) -> Answer
    where
        S: Service<Request, Response = Response, Error = Infallible>,
        S::Future: Send + 'static;
}

/// An [`Around`] as a layer of tower.
#[derive(Clone, Debug)]
pub struct Wrap<A>(pub A);

/// A service with an [`Around`].
#[derive(Clone, Debug)]
pub struct Wrapped<A, S> {
    around: A,
    inner: S,
}

impl<A: Around, S> Layer<S> for Wrap<A> {
    type Service = Wrapped<A, S>;
    fn layer(&self, inner: S) -> Wrapped<A, S> {
        Wrapped { around: self.0.clone(), inner }
    }
}

impl<A, S> Service<Request> for Wrapped<A, S>
where
    A: Around,
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Answer {
        self.around.around(&mut self.inner, request)
    }
}
