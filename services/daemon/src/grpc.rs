//! The gRPC adapters: each method decodes, calls one port, encodes.

pub mod containers;
pub mod content;
pub mod convert;
pub mod diff;
pub mod engine;
pub mod events;
pub mod health;
pub mod images;
pub mod introspection;
pub mod leases;
pub mod namespaces;
pub mod reflection;
pub mod snapshots;
pub mod tasks;
pub mod version;

mod write;

use crated_api::status::from_error;
use crated_core::Mask;
use crated_types::filter::{Filter, Filters};
use crated_types::{Actor, Error, Fault, LeaseId, Namespace, Scope};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

/// The answer of a method.
pub type Answer<T> = Result<Response<T>, Status>;

type Mount = Box<dyn Fn(&mut RoutesBuilder) + Send + Sync>;

/// A service, ready to be mounted.
pub struct Adapter {
    /// Full name of the service.
    pub service: &'static str,
    mount: Mount,
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.service)
    }
}

impl Adapter {
    /// Takes a generated server.
    pub fn of<S>(server: S) -> Arc<Self>
    where
        S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let mount: Mount = Box::new(move |routes| {
            routes.add_service(server.clone());
        });
        Arc::new(Self { service: S::NAME, mount })
    }

    /// Adds it to the routes.
    pub fn mount(&self, routes: &mut RoutesBuilder) {
        (self.mount)(routes);
    }
}

/// Wraps an adapter in its generated server with the daemon's message bounds.
macro_rules! serve {
    ($server:path, $adapter:expr, $limits:expr) => {{
        let most = usize::try_from($limits.message_bytes).unwrap_or(crated_api::MESSAGE_MAX);
        $crate::grpc::Adapter::of(
            <$server>::new($adapter).max_decoding_message_size(most).max_encoding_message_size(most),
        )
    }};
}
pub(crate) use serve;

/// Who asks: set by the server for every call.
fn actor<T>(request: &Request<T>) -> Actor {
    request.extensions().get::<Actor>().cloned().unwrap_or_else(|| Actor::daemon("grpc"))
}

fn metadata<'r, T>(request: &'r Request<T>, key: &'static str) -> Result<&'r str, Status> {
    match request.metadata().get(key) {
        None => Ok(""),
        Some(value) => value.to_str().map_err(|_| from_error(Error::invalid(key, "must be ASCII"))),
    }
}

/// Namespace, lease and actor of a call.
fn scope<T>(request: &Request<T>) -> Result<Scope, Status> {
    let name = metadata(request, crated_api::NAMESPACE_KEY)?;
    if name.is_empty() {
        return Err(from_error(Error::new(Fault::Precondition, "namespace is required")));
    }
    let mut scope = Scope::new(Namespace::new(name).map_err(from_error)?, actor(request));
    let lease = metadata(request, crated_api::LEASE_KEY)?;
    if !lease.is_empty() {
        scope.lease = Some(LeaseId::new(lease).map_err(from_error)?);
    }
    Ok(scope)
}

/// The filters of a request.
fn filters(texts: &[String]) -> Result<Filters, Status> {
    Filter::parse_all(texts).map_err(from_error)
}

/// The mask of a request.
fn mask(mask: Option<prost_types::FieldMask>) -> Mask {
    Mask::new(mask.map(|mask| mask.paths))
}

/// A result of a port as an answer.
fn answer<T, U: From<T>>(result: crated_types::Result<T>) -> Answer<U> {
    result.map(|value| Response::new(value.into())).map_err(from_error)
}

/// What must be in a request and is not.
fn missing(field: &str) -> Status {
    from_error(Error::invalid(field, "is required"))
}
