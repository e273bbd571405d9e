//! One connection: HTTP/2 with bounds, ended gracefully when the daemon stops.

use super::{Life, Peer, Stack, preface};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::Service as _;

/// Streams of one connection. Go's clients use one connection for everything, waits included.
const STREAMS: u32 = 4096;
/// Bytes that a peer may send ahead on a stream, and on a connection: enough for content in chunks of megabytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of answers that wait for a stream's peer to take them.
const SEND_BUFFER: usize = 256 << 10;
/// How long a connection may be open without a single call, and how long its end may take then.
const FIRST_CALL: Duration = Duration::from_secs(60);
const FAREWELL: Duration = Duration::from_secs(1);
/// Largest list of request headers, in bytes.
const HEADERS_MAX: u32 = 64 << 10;

/// What connections share.
#[derive(Clone, Debug)]
pub struct Acceptor {
    /// Layers and adapters.
    pub stack: Stack,
    /// When to stop, and who waits for us.
    pub life: Life,
    /// Bounds the connections.
    pub connections: Arc<Semaphore>,
}

impl Acceptor {
    /// Answers the calls of one connection until its peer goes or the daemon stops.
    pub async fn serve<I>(self, io: I, peer: Peer, keep_alive: Option<Duration>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { stack, life, .. } = self;
        let io = match preface::read(io).await {
            Ok(io) => io,
            Err(error) => return tracing::debug!(%error, who = %peer.who, "connection refused"),
        };
        let asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&asked);
        let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            asks.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            let mut stack = stack.clone();
            async move { stack.call(request.map(Body::new)).await }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADERS_MAX)
            .keep_alive_interval(keep_alive);
        let connection = builder.serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = life.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = unasked(&asked) => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Ends where a connection has carried no call for [`FIRST_CALL`].
async fn unasked(asked: &AtomicBool) {
    tokio::time::sleep(FIRST_CALL).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// What a failed `accept` needs: time for descriptors to come back.
pub(super) async fn rest(error: &std::io::Error) {
    tracing::warn!(%error, "accept failed");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
