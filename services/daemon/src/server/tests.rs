//! The layers over services that never answer, or answer when told.

use super::lifetime::LifetimeLayer;
use super::limit::LimitLayer;
use super::method::{Method, Shape};
use super::{Life, Request, Response};
use crate::config::Limits;
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

#[tokio::test]
async fn one_call_too_many_is_refused_with_words() {
    let limits = Limits { concurrent_requests: 1, ..Limits::default() };
    let mut service = LimitLayer::new(&limits).layer(service_fn(never));
    let first = service.call(request(Shape::Unary));
    let refused = service.call(request(Shape::Unary)).await.unwrap();
    assert_eq!(code(&refused), "8");
    assert!(refused.headers()["grpc-message"].to_str().unwrap().contains("limits.concurrent_requests"));
    drop(first);
    let freed = service.call(request(Shape::Unary));
    assert!(futures::poll!(Box::pin(freed)).is_pending());
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
    let service = LifetimeLayer::new(Duration::from_secs(60), life.clone()).layer(inner);
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
    let service = LifetimeLayer::new(Duration::from_millis(1), life.clone()).layer(service_fn(never));
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
    use http_body_util::BodyExt;
    let life = Life::default();
    let inner = service_fn(|_: Request| async {
        let frames = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>();
        Ok::<_, Infallible>(http::Response::new(Body::new(http_body_util::StreamBody::new(frames))))
    });
    let service = LifetimeLayer::new(Duration::from_secs(60), life.clone()).layer(inner);
    let response = service.oneshot(request(Shape::Watch)).await.unwrap();
    life.stop.cancel();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "14");
}
