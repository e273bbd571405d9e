//! The server: listeners, connections, and what every call passes through on its way to an adapter.
//!
//! ```text
//! accept ─ peer credentials ─ HTTP/2 ─▶ Observe (span, counters) ─▶ Lifetime (owner task, deadline, stop) ─▶ Limit ─▶ Routes
//! ```
//! A call takes its place among those that work once its first message is there ([`arrival`]). A unary call runs in a task of the daemon's tracker: its client may go or run out of time, the work ends whole. A stream
//! or a wait is dropped with its client.

pub mod around;
pub mod arrival;
pub mod body;
pub mod connection;
pub mod lifetime;
pub mod limit;
pub mod method;
pub mod observe;
pub mod preface;
pub mod tcp;
pub mod unix;

use crate::config::Limits;
use around::Wrap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

/// A request on its way to an adapter.
pub type Request = http::Request<Body>;
/// An answer on its way back.
pub type Response = http::Response<Body>;
/// All layers and adapters.
pub type Stack = BoxCloneSyncService<Request, Response, Infallible>;

/// The process at the other end of a connection, as an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `uid=0 pid=123`, or `tls 192.0.2.1:999`.
    pub who: Arc<str>,
}

/// What the server's parts share.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Cancelled when the daemon is to stop: no call is accepted any more, endless ones are ended.
    pub stop: CancellationToken,
    /// Owner of every task that must end whole.
    pub tracker: TaskTracker,
}

/// Puts the layers before the adapters.
#[must_use]
pub fn stack(routes: Routes, methods: method::Methods, limits: &Limits, life: &Life) -> Stack {
    let service = ServiceBuilder::new()
        .layer(Wrap(observe::Observe::new(methods)))
        .layer(Wrap(lifetime::Lifetime::new(limits.request_deadline(), life.clone())))
        .layer(Wrap(limit::Limit::new(limits)))
        .service(routes.prepare());
    BoxCloneSyncService::new(service)
}

/// The status of a refused call as a whole answer.
fn refusal(code: tonic::Code, text: impl Into<String>) -> Response {
    tonic::Status::new(code, text).into_http()
}

#[cfg(test)]
mod tests;
