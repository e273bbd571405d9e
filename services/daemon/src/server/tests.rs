//! The layers over services that never answer, or answer when told.

use super::around::Wrap;
use super::lifetime::Lifetime;
use super::limit::Limit;
use super::method::{Method, Shape};
use super::{Life, Request, Response};
use crate::config::Limits;
use http_body_util::BodyExt;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt, service_fn};

fn request(shape: Shape) -> Request {
    let mut request = http::Request::new(Body::empty());
    let method = Method { service: "s".into(), name: "m".into(), full: "s/m".into(), shape };
    request.extensions_mut().insert(Arc::new(method));
    request
}

fn code(response: &Response) -> &str {
    response.headers().get("grpc-status").map_or("none", |value| value.to_str().unwrap())
}

async fn never(_: Request) -> Result<Response, Infallible> {
    std::future::pending().await
}

/// Reads the whole request, as every handler does first, then never answers; a request that breaks off is answered so.
async fn reads(request: Request) -> Result<Response, Infallible> {
    match request.into_body().collect().await {
        Ok(_) => std::future::pending().await,
        Err(status) => Ok(status.into_http()),
    }
}

fn sending(bytes: &[u8]) -> Request {
    request(Shape::Unary).map(|_| Body::new(http_body_util::Full::new(bytes::Bytes::copy_from_slice(bytes))))
}

#[tokio::test]
async fn one_call_too_many_is_refused_with_words() {
    let limits = Limits { concurrent_requests: 1, ..Limits::default() };
    let mut service = Wrap(Limit::new(&limits)).layer(service_fn(reads));
    let mut first = service.call(sending(&[0; 5]));
    assert!(futures::poll!(&mut first).is_pending());
    let refused = service.call(sending(&[0; 5])).await.unwrap();
    assert_eq!(code(&refused), "8");
    assert!(refused.headers()["grpc-message"].to_str().unwrap().contains("limits.concurrent_requests"));
    drop(first);
    let freed = service.call(sending(&[0; 5]));
    assert!(futures::poll!(Box::pin(freed)).is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_sends_no_message_takes_no_place_and_ends() {
    let limits = Limits { concurrent_requests: 1, ..Limits::default() };
    let mut service = Wrap(Limit::new(&limits)).layer(service_fn(reads));
    let silent = || {
        let frames = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>();
        request(Shape::Unary).map(|_| Body::new(http_body_util::StreamBody::new(frames)))
    };
    let mut half_open: Vec<_> = (0..100).map(|_| service.call(silent())).collect();
    for call in &mut half_open {
        assert!(futures::poll!(call).is_pending());
    }
    let mut works = service.call(sending(&[0; 5]));
    assert!(futures::poll!(&mut works).is_pending());
    for call in half_open {
        assert_eq!(code(&call.await.unwrap()), "4");
    }
}

#[tokio::test]
async fn bytes_under_way_are_bounded_for_all_calls() {
    let limits = Limits { request_bytes: 1000, ..Limits::default() };
    let mut service = Wrap(Limit::new(&limits)).layer(service_fn(reads));
    let message = [&[0, 0, 0, 2, 88][..], &[1; 600]].concat();
    let mut first = service.call(sending(&message));
    assert!(futures::poll!(&mut first).is_pending());
    let refused = service.call(sending(&message)).await.unwrap();
    assert_eq!(code(&refused), "8");
    assert!(refused.headers()["grpc-message"].to_str().unwrap().contains("limits.request_bytes"));
    drop(first);
    assert!(futures::poll!(Box::pin(service.call(sending(&message)))).is_pending());
}

#[tokio::test]
async fn a_unary_call_ends_whole_though_its_client_went() {
    let (begun, mut began) = mpsc::channel(1);
    let go = Arc::new(Notify::new());
    let (ended, mut end) = mpsc::channel(1);
    let told = Arc::clone(&go);
    let inner = service_fn(move |_: Request| {
        let (begun, go, ended) = (begun.clone(), Arc::clone(&told), ended.clone());
        async move {
            begun.send(()).await.unwrap();
            go.notified().await;
            ended.send(()).await.unwrap();
            Ok::<_, Infallible>(http::Response::new(Body::empty()))
        }
    });
    let life = Life::default();
    let service = Wrap(Lifetime::new(Duration::from_secs(60), life.clone())).layer(inner);
    let mut asking = Box::pin(service.oneshot(request(Shape::Unary)));
    assert!(futures::poll!(&mut asking).is_pending());
    began.recv().await.unwrap();
    drop(asking);
    go.notify_one();
    end.recv().await.unwrap();
    life.tracker.close();
    life.tracker.wait().await;
}

#[tokio::test]
async fn deadlines_and_stops_end_calls_with_their_codes() {
    let life = Life::default();
    let service = Wrap(Lifetime::new(Duration::from_millis(1), life.clone())).layer(service_fn(never));
    assert_eq!(code(&service.clone().oneshot(request(Shape::Unary)).await.unwrap()), "4");
    let mut asked = request(Shape::Wait);
    asked.headers_mut().insert("grpc-timeout", "1m".parse().unwrap());
    assert_eq!(code(&service.clone().oneshot(asked).await.unwrap()), "4");
    let mut waiting = Box::pin(service.clone().oneshot(request(Shape::Wait)));
    assert!(futures::poll!(&mut waiting).is_pending());
    life.stop.cancel();
    assert_eq!(code(&waiting.await.unwrap()), "14");
}

#[tokio::test]
async fn an_endless_stream_ends_with_a_status_when_the_daemon_stops() {
    let life = Life::default();
    let inner = service_fn(|_: Request| async {
        let frames = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>();
        Ok::<_, Infallible>(http::Response::new(Body::new(http_body_util::StreamBody::new(frames))))
    });
    let service = Wrap(Lifetime::new(Duration::from_secs(60), life.clone())).layer(inner);
    let response = service.oneshot(request(Shape::Watch)).await.unwrap();
    life.stop.cancel();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "14");
}
