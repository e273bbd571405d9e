//! The outermost layer: a span and the counters of each call, until the last byte of its answer.

use super::around::{Answer, Around};
use super::body::{Ending, Watched};
use super::method::{Method, Methods};
use super::{Peer, Request, Response};
use crated_types::Actor;
use futures::FutureExt;
use http::HeaderMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tonic::body::Body;
use tower::Service;
use tracing::{Instrument, Span};

/// Opens `rpc{method, namespace, request}` and counts.
#[derive(Clone, Debug)]
pub struct Observe {
    methods: Methods,
    boot: Arc<str>,
    count: Arc<AtomicU64>,
}

impl Observe {
    /// Watches calls of `methods`.
    #[must_use]
    pub fn new(methods: Methods) -> Self {
        let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        Self { methods, boot: format!("{seconds:x}").into(), count: Arc::default() }
    }
}

impl Around for Observe {
    fn around<S>(&self, inner: &mut S, mut request: Request) -> Answer
    where
        S: Service<Request, Response = Response, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let method = self.methods.get(request.uri().path());
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let id = match header("x-request-id") {
            given if crated_types::name::is_identifier(given) => given.to_owned(),
            _ => format!("{}-{}", self.boot, self.count.fetch_add(1, Ordering::Relaxed)),
        };
        let namespace = header(crated_api::NAMESPACE_KEY);
        let span = tracing::info_span!("rpc", method = %method.full, namespace, request = %id);
        let who = request.extensions().get::<Peer>().map_or_else(|| "unknown".into(), |peer| Arc::clone(&peer.who));
        request.extensions_mut().insert(Actor { cause: Arc::clone(&method.full), who });
        request.extensions_mut().insert(Arc::clone(&method));
        let call = Call::new(method, span.clone());
        let answer = span.in_scope(|| inner.call(request));
        async move {
            let mut call = call;
            let response = answer.await?;
            call.read(response.headers());
            Ok(response.map(|body| Body::new(Watched::new(body, call))))
        }
        .instrument(span)
        .boxed()
    }
}

/// A call under way; counted as ended when dropped.
struct Call {
    method: Arc<Method>,
    span: Span,
    started: Instant,
    code: Option<tonic::Code>,
    text: String,
}

impl Call {
    fn new(method: Arc<Method>, span: Span) -> Self {
        metrics::gauge!("crated_grpc_in_flight", "service" => method.service.clone()).increment(1.0);
        Self { method, span, started: Instant::now(), code: None, text: String::new() }
    }

    fn read(&mut self, headers: &HeaderMap) {
        if let Some(status) =
            headers.contains_key("grpc-status").then(|| tonic::Status::from_header_map(headers)).flatten()
        {
            self.code = Some(status.code());
            self.text = status.message().to_owned();
        }
    }
}

impl Ending for Call {
    fn trailers(&mut self, trailers: &HeaderMap) {
        self.read(trailers);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let code = self.code.unwrap_or(tonic::Code::Cancelled);
        let Method { service, name, .. } = &*self.method;
        metrics::gauge!("crated_grpc_in_flight", "service" => service.clone()).decrement(1.0);
        metrics::counter!("crated_grpc_calls_total", "service" => service.clone(), "method" => name.clone(),
            "code" => format!("{code:?}"))
        .increment(1);
        metrics::histogram!("crated_grpc_seconds", "service" => service.clone(), "method" => name.clone())
            .record(took.as_secs_f64());
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let _entered = self.span.enter();
        match code {
            tonic::Code::Ok => tracing::debug!(micros, "call ended"),
            tonic::Code::Internal | tonic::Code::DataLoss | tonic::Code::Unknown => {
                tracing::warn!(?code, micros, error = self.text, "call failed");
            }
            _ => tracing::debug!(?code, micros, error = self.text, "call failed"),
        }
    }
}
