//! How long a call lives: unary ones in a task of their own up to a deadline, streams and waits until their client goes,
//! their own deadline comes, or the daemon stops.

use super::around::{Answer, Around};
use super::body::Until;
use super::method::{Method, Shape};
use super::{Life, Request, Response, refusal};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tracing::Instrument;

/// Gives calls their owner and their end.
#[derive(Clone, Debug)]
pub struct Lifetime {
    longest: Duration,
    life: Life,
}

impl Lifetime {
    /// Unary calls get `longest` at most.
    #[must_use]
    pub fn new(longest: Duration, life: Life) -> Self {
        Self { longest, life }
    }
}

impl Around for Lifetime {
    fn around<S>(&self, inner: &mut S, request: Request) -> Answer
    where
        S: Service<Request, Response = Response, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let shape = request.extensions().get::<Arc<Method>>().map_or(Shape::Unary, |method| method.shape);
        let asked = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
        let Self { longest, life } = self.clone();
        let work = inner.call(request);
        match shape {
            Shape::Unary => {
                let task = life.tracker.spawn(work.in_current_span());
                let limit = asked.unwrap_or(longest).min(longest);
                async move {
                    Ok(match tokio::time::timeout(limit, task).await {
                        Ok(Ok(Ok(response))) => response,
                        Ok(Err(broken)) => {
                            tracing::error!(error = %broken, "call panicked");
                            refusal(Code::Internal, "the call's handler panicked, a bug of crated: internal")
                        }
                        Err(_) => refusal(Code::DeadlineExceeded, "context deadline exceeded"),
                    })
                }
                .boxed()
            }
            Shape::Wait | Shape::Stream | Shape::Watch => {
                let until = asked.map(|asked| Instant::now() + asked);
                let end = move |life: &Life| end(until, (shape != Shape::Stream).then(|| life.stop.clone()));
                async move {
                    let response = tokio::select! {
                        response = work => response?,
                        status = end(&life) => return Ok(status.into_http()),
                    };
                    Ok(if shape == Shape::Wait || response.headers().contains_key("grpc-status") {
                        response
                    } else {
                        response.map(|body| Body::new(Until::new(body, end(&life))))
                    })
                }
                .boxed()
            }
        }
    }
}

/// The status with which a stream or wait ends from outside.
fn end(until: Option<Instant>, stop: Option<tokio_util::sync::CancellationToken>) -> BoxFuture<'static, Status> {
    async move {
        let late = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let stopped = async {
            match stop {
                Some(stop) => stop.cancelled_owned().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = late => Status::deadline_exceeded("context deadline exceeded"),
            () = stopped => Status::unavailable("crated is stopping: unavailable"),
        }
    }
    .boxed()
}

/// A `grpc-timeout`: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::timeout;
    use std::time::Duration;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("10S"), Some(Duration::from_secs(10)));
        assert_eq!(timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(timeout("1H"), Some(Duration::from_secs(3600)));
        for bad in ["", "S", "10", "123456789S", "-1S", "1x", "1é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
