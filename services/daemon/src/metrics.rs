//! Counters for Prometheus over HTTP. Without an address nothing is counted.

use crate::server::Life;
use bytes::Bytes;
use crated_types::{Error, Result};
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpListener;

/// Bounds of the duration histograms, in seconds.
const BUCKETS: [f64; 12] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];
/// Time for the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// How often idle numbers are tidied up.
const UPKEEP: Duration = Duration::from_secs(60);

/// Starts counting and answers `GET /metrics` at `address` until the daemon stops; answers the address that it got.
///
/// # Errors
/// What the system says of the address.
pub async fn serve(address: &str, life: &Life) -> Result<std::net::SocketAddr> {
    let listener =
        TcpListener::bind(address).await.map_err(|error| Error::os(format!("listen on {address} (metrics)"), error))?;
    let bound = listener.local_addr().map_err(|error| Error::os("address of the metrics socket", error))?;
    let recorder = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .map_err(|error| Error::internal(format!("metrics: {error}")))?
        .build_recorder();
    let handle = recorder.handle();
    // A second daemon in one process (tests) shares the first one's recorder.
    let _ = metrics::set_global_recorder(recorder);
    metrics::gauge!("crated_build_info", "version" => crate::VERSION).set(1.0);
    let stop = life.stop.clone();
    let tracker = life.tracker.clone();
    life.tracker.spawn(async move {
        let mut upkeep = tokio::time::interval(UPKEEP);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = upkeep.tick() => handle.run_upkeep(),
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let (handle, stop) = (handle.clone(), stop.clone());
                    tracker.spawn(async move {
                        tokio::select! {
                            () = connection(stream, handle) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
            }
        }
    });
    Ok(bound)
}

async fn connection(stream: tokio::net::TcpStream, handle: PrometheusHandle) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &handle);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "metrics connection ended");
    }
}

fn answer(method: &Method, path: &str, handle: &PrometheusHandle) -> http::Response<Full<Bytes>> {
    let (status, text) = match (method, path) {
        (&Method::GET, "/metrics") => (StatusCode::OK, handle.render()),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into()),
        _ => (StatusCode::NOT_FOUND, "see /metrics\n".into()),
    };
    let mut response = http::Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
