//! One connection: HTTP/2 with bounds, ended gracefully when the daemon stops.

use super::body::{Ending, Watched};
use super::{Life, Peer, Stack, preface};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service as _;

/// Streams of one connection. Go's clients use one connection for everything, waits included.
const STREAMS: u32 = 4096;
/// Bytes that a peer may send ahead on a stream, and on a connection: enough for content in chunks of megabytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of answers that wait for a stream's peer to take them.
const SEND_BUFFER: usize = 256 << 10;
/// How long a connection may be open without a single call, and how long an end may take when no call is under way: a peer
/// that sleeps does not say farewell.
const FIRST_CALL: Duration = Duration::from_secs(60);
const FAREWELL: Duration = Duration::from_secs(1);
/// How often it is looked whether calls are under way while the daemon stops.
const LOOK: Duration = Duration::from_millis(50);
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
        let calls = Calls::default();
        let counts = calls.clone();
        let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            asks.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            let (mut stack, call) = (stack.clone(), counts.begin());
            async move {
                let response = stack.call(request.map(Body::new)).await?;
                Ok::<_, Infallible>(response.map(|body| Body::new(Watched::new(body, call))))
            }
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
                tokio::select! {
                    ended = connection => ended,
                    () = calls.quiet() => Ok(()),
                }
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

/// Calls under way on a connection.
#[derive(Clone, Debug, Default)]
struct Calls(Arc<AtomicUsize>);

/// One of them, until the last byte of its answer.
struct Call(Calls);

impl Calls {
    fn begin(&self) -> Call {
        self.0.fetch_add(1, Ordering::Relaxed);
        Call(self.clone())
    }

    /// Ends once there was none for [`FAREWELL`].
    async fn quiet(&self) {
        let mut since = Instant::now();
        while since.elapsed() < FAREWELL {
            tokio::time::sleep(LOOK).await;
            if self.0.load(Ordering::Relaxed) > 0 {
                since = Instant::now();
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ending for Call {
    fn trailers(&mut self, _: &http::HeaderMap) {}
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
