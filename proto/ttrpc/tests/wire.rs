//! Client and server over a socket pair, and each against raw bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use crated_api::containerd::task::v3::{ConnectRequest, ConnectResponse};
use crated_api::ttrpc::{Request, Response};
use crated_ttrpc::frame::{self, HEAD, Head, Kind, MESSAGE_MAX};
use crated_ttrpc::server::{decode, encode, unknown_method};
use crated_ttrpc::{CallOptions, Client, Context, Server, ServerStream, Service, async_trait};
use crated_types::{Code, Error, Fault, Result};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};

const NAME: &str = "test.Echo";

struct Echo {
    gate: Semaphore,
    dropped: mpsc::UnboundedSender<()>,
}

struct TellDrop(mpsc::UnboundedSender<()>);

impl Drop for TellDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[async_trait]
impl Service for Echo {
    async fn call(&self, context: Context, method: &str, payload: Bytes) -> Result<Bytes> {
        match method {
            "Echo" => Ok(payload),
            "Id" => {
                let request: ConnectRequest = decode(payload)?;
                let version = context.value("k").unwrap_or_default().to_owned();
                Ok(encode(&ConnectResponse { shim_pid: request.id.len() as u32, task_pid: 0, version }))
            }
            "Hold" => {
                let _tell = TellDrop(self.dropped.clone());
                self.gate.acquire().await.expect("the gate is never closed").forget();
                Ok(payload)
            }
            "Open" => {
                self.gate.add_permits(1);
                Ok(Bytes::new())
            }
            "Fail" => Err(Error::peer(Code::Unknown, "cannot pause task in created state")),
            "Big" => Ok(vec![0; MESSAGE_MAX].into()),
            other => Err(unknown_method(other)),
        }
    }

    async fn stream(&self, _: Context, method: &str, first: Bytes, mut stream: ServerStream) -> Result<Option<Bytes>> {
        match method {
            "Count" => {
                let mut ids = vec![decode::<ConnectRequest>(first)?.id];
                while let Some(message) = stream.recv().await {
                    ids.push(decode::<ConnectRequest>(message)?.id);
                }
                for id in ids {
                    stream.send(&ConnectRequest { id }).await?;
                }
                Ok(None)
            }
            "Sum" => {
                let mut sum = 0;
                while let Some(message) = stream.recv().await {
                    sum += decode::<ConnectRequest>(message)?.id.len() as u32;
                }
                Ok(Some(encode(&ConnectResponse { shim_pid: sum, ..Default::default() })))
            }
            other => Err(unknown_method(other)),
        }
    }
}

fn serve(concurrency: usize) -> (UnixStream, mpsc::UnboundedReceiver<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (dropped, told) = mpsc::unbounded_channel();
    let echo = Arc::new(Echo { gate: Semaphore::new(0), dropped });
    let server = Server::new().service(NAME, echo).concurrency(concurrency);
    tokio::spawn(async move { server.serve_connection(theirs).await });
    (ours, told)
}

fn bytes_of(stream: u32, method: &str, payload: &[u8]) -> Bytes {
    let request =
        Request { service: NAME.into(), method: method.into(), payload: payload.to_vec(), ..Default::default() };
    frame::encode(stream, Kind::Request, 0, &request.encode_to_vec())
}

async fn answer(socket: &mut UnixStream) -> (u32, Response) {
    let frame = frame::read(socket).await.unwrap().expect("an answer");
    assert_eq!((frame.head.kind, frame.head.flags), (Kind::Response, 0));
    (frame.head.stream, Response::decode(frame.message.unwrap()).unwrap())
}

#[tokio::test]
async fn a_call_is_these_bytes() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let client = Client::from_stream(ours);
    let call = tokio::spawn(async move {
        let options = CallOptions::within(Duration::from_nanos(60_000_000_001)).with("a", "b");
        client.call::<_, ConnectResponse>("S", "M", &ConnectRequest { id: "x".into() }, options).await
    });
    let expected = b"\x00\x00\x00\x1a\x00\x00\x00\x01\x01\x00\
        \x0a\x01S\x12\x01M\x1a\x03\x0a\x01x\x20\x81\xb0\x9d\xc2\xdf\x01\x2a\x06\x0a\x01a\x12\x01b";
    let mut got = vec![0; expected.len()];
    theirs.read_exact(&mut got).await.unwrap();
    assert_eq!(got, expected);
    theirs.write_all(b"\x00\x00\x00\x04\x00\x00\x00\x01\x02\x00\x12\x02\x08\x07").await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().shim_pid, 7);
}

#[tokio::test]
async fn an_answer_is_these_bytes() {
    let (mut socket, _told) = serve(8);
    socket.write_all(&bytes_of(1, "Echo", b"hi")).await.unwrap();
    let mut got = [0; 14];
    socket.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"\x00\x00\x00\x04\x00\x00\x00\x01\x02\x00\x12\x02hi");
}

#[tokio::test]
async fn calls_overtake_one_another() {
    let (socket, _told) = serve(8);
    let client = Client::from_stream(socket);
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.call_bytes(NAME, "Hold", b"late".to_vec(), CallOptions::default()).await }
    });
    for _ in 0..20 {
        let request = ConnectRequest { id: "four".into() };
        let reply: ConnectResponse =
            client.call(NAME, "Id", &request, CallOptions::default().with("k", "v")).await.unwrap();
        assert_eq!((reply.shim_pid, reply.version.as_str()), (4, "v"));
    }
    assert!(!held.is_finished());
    client.call::<_, ()>(NAME, "Open", &(), CallOptions::default()).await.unwrap();
    assert_eq!(held.await.unwrap().unwrap().as_ref(), b"late");
}

#[tokio::test]
async fn many_calls_at_once_get_their_own_answers() {
    let (socket, _told) = serve(1024);
    let client = Client::from_stream(socket);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..500_u32 {
        let client = client.clone();
        calls.spawn(async move {
            let payload = number.to_be_bytes().repeat(1 + number as usize % 50);
            let reply = client.call_bytes(NAME, "Echo", payload.clone(), CallOptions::default()).await.unwrap();
            assert_eq!(reply.as_ref(), payload);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented() {
    let (socket, _told) = serve(8);
    let client = Client::from_stream(socket);
    let error = client.call::<_, ()>("no.Such", "M", &(), CallOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(error.to_string().starts_with("service no.Such"), "{error}");
    let error = client.call::<_, ()>(NAME, "Nope", &(), CallOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(error.to_string().starts_with("method Nope"), "{error}");
    let error = client.call::<_, ()>(NAME, "Fail", &(), CallOptions::default()).await.unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), (Code::Unknown, "cannot pause task in created state"));
    let error = client.call_bytes(NAME, "Id", b"\xff\xff".to_vec(), CallOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_overlong_request_is_answered_on_its_stream_and_skipped() {
    let (mut socket, _told) = serve(8);
    let head = Head { length: MESSAGE_MAX as u32 + 10, stream: 1, kind: Kind::Request, flags: 0 };
    socket.write_all(&head.encode()).await.unwrap();
    socket.write_all(&vec![0; MESSAGE_MAX + 10]).await.unwrap();
    socket.write_all(&bytes_of(3, "Echo", b"next")).await.unwrap();
    let (stream, response) = answer(&mut socket).await;
    let status = response.status.unwrap();
    assert_eq!((stream, status.code), (1, Code::ResourceExhausted as i32));
    assert!(status.message.contains("exceed maximum message size"), "{}", status.message);
    let (stream, response) = answer(&mut socket).await;
    assert_eq!((stream, response.payload.as_slice(), response.status), (3, b"next".as_slice(), None));
}

#[tokio::test]
async fn an_overlong_answer_and_an_overlong_call_are_errors() {
    let (socket, _told) = serve(8);
    let client = Client::from_stream(socket);
    let error = client.call_bytes(NAME, "Big", Vec::new(), CallOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    let error = client.call_bytes(NAME, "Echo", vec![0; MESSAGE_MAX], CallOptions::default()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Exhausted);
    client.call_bytes(NAME, "Echo", Vec::new(), CallOptions::default()).await.unwrap();
}

#[tokio::test]
async fn too_many_calls_are_refused_not_stalled() {
    let (mut socket, _told) = serve(1);
    socket.write_all(&bytes_of(1, "Hold", b"")).await.unwrap();
    socket.write_all(&bytes_of(3, "Echo", b"")).await.unwrap();
    let (stream, response) = answer(&mut socket).await;
    assert_eq!((stream, response.status.unwrap().code), (3, Code::ResourceExhausted as i32));
}

#[tokio::test]
async fn stream_numbers_must_be_odd_and_grow() {
    let (mut socket, _told) = serve(8);
    for (number, ok) in [(2, false), (5, true), (5, false), (3, false), (7, true)] {
        socket.write_all(&bytes_of(number, "Echo", b"")).await.unwrap();
        let (stream, response) = answer(&mut socket).await;
        assert_eq!((stream, response.status.is_none()), (number, ok));
    }
}

#[tokio::test]
async fn unknown_frames_are_skipped() {
    let (mut socket, _told) = serve(8);
    socket.write_all(&frame::encode(1, Kind::Other(9), 0xff, b"??")).await.unwrap();
    socket.write_all(&frame::encode(1, Kind::Data, 0, b"late")).await.unwrap();
    socket.write_all(&frame::encode(1, Kind::Response, 0, b"")).await.unwrap();
    socket.write_all(&frame::encode(1, Kind::Request, 0, b"\xff\xff\xff")).await.unwrap();
    assert_eq!(answer(&mut socket).await.1.status.unwrap().code, Code::InvalidArgument as i32);
    socket.write_all(&bytes_of(3, "Echo", b"ok")).await.unwrap();
    assert_eq!(answer(&mut socket).await.1.payload, b"ok");
}

#[tokio::test]
async fn a_half_closed_peer_gets_its_answer() {
    let (mut socket, _told) = serve(8);
    socket.write_all(&bytes_of(1, "Hold", b"due")).await.unwrap();
    socket.write_all(&bytes_of(3, "Open", b"")).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut payloads = vec![answer(&mut socket).await.1.payload, answer(&mut socket).await.1.payload];
    payloads.sort();
    assert_eq!(payloads, [b"".to_vec(), b"due".to_vec()]);
    assert_eq!(frame::read(&mut socket).await.unwrap(), None, "then the server closes");
}

#[tokio::test]
async fn the_calls_of_a_peer_that_is_gone_are_dropped() {
    let (mut socket, mut told) = serve(8);
    socket.write_all(&bytes_of(1, "Hold", b"")).await.unwrap();
    socket.write_all(&bytes_of(3, "Echo", b"")).await.unwrap();
    answer(&mut socket).await;
    drop(socket);
    told.recv().await.expect("the handler was dropped");
}

#[tokio::test]
async fn a_lost_connection_fails_every_call_and_is_told() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = Client::from_stream(ours);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call::<_, ()>("S", "M", &(), CallOptions::default()).await }
    });
    let (mut theirs, mut head) = (theirs, [0; HEAD]);
    theirs.read_exact(&mut head).await.unwrap();
    assert!(!client.is_closed());
    drop(theirs);
    assert_eq!(call.await.unwrap().unwrap_err().fault(), Fault::Unreachable);
    client.closed().await;
    assert!(client.is_closed());
    let error = client.call::<_, ()>("S", "M", &(), CallOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test]
async fn the_last_client_closes_the_connection() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    drop(Client::from_stream(ours));
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_call_on_both_sides() {
    let (socket, mut told) = serve(8);
    let client = Client::from_stream(socket);
    let error = client.call::<_, ()>(NAME, "Hold", &(), CallOptions::within(Duration::from_secs(5))).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    told.recv().await.expect("the handler was dropped");
    client.call::<_, ()>(NAME, "Open", &(), CallOptions::default()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_is_forgotten() {
    let (socket, _told) = serve(8);
    let client = Client::from_stream(socket);
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.call_bytes(NAME, "Hold", Vec::new(), CallOptions::default()).await }
    });
    client.call_bytes(NAME, "Echo", Vec::new(), CallOptions::default()).await.unwrap();
    held.abort();
    assert!(held.await.unwrap_err().is_cancelled());
    client.call::<_, ()>(NAME, "Open", &(), CallOptions::default()).await.unwrap();
    client.call_bytes(NAME, "Echo", Vec::new(), CallOptions::default()).await.unwrap();
}

#[tokio::test]
async fn streams_carry_messages_both_ways() {
    let (socket, _told) = serve(8);
    let client = Client::from_stream(socket);
    let id = |id: &str| ConnectRequest { id: id.into() };
    let mut stream = client.stream(NAME, "Count", &id("a"), true, CallOptions::default()).await.unwrap();
    for name in ["b", "c"] {
        stream.send(&id(name)).await.unwrap();
    }
    stream.close_send().await.unwrap();
    let mut got = Vec::new();
    while let Some(message) = stream.recv::<ConnectRequest>().await.unwrap() {
        got.push(message.id);
    }
    assert_eq!(got, ["a", "b", "c"]);

    let mut stream = client.stream(NAME, "Sum", &id(""), true, CallOptions::default()).await.unwrap();
    stream.send(&id("four")).await.unwrap();
    stream.send(&id("by")).await.unwrap();
    stream.close_send().await.unwrap();
    assert_eq!(stream.recv::<ConnectResponse>().await.unwrap().unwrap().shim_pid, 6);
    assert!(stream.recv::<ConnectResponse>().await.unwrap().is_none());

    let mut stream = client.stream(NAME, "Nope", &id(""), false, CallOptions::default()).await.unwrap();
    assert_eq!(stream.recv::<ConnectResponse>().await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_server_listens_and_checks_the_peer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (dropped, _told) = mpsc::unbounded_channel();
    let echo = Arc::new(Echo { gate: Semaphore::new(0), dropped });
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = Server::new().service(NAME, echo.clone());
    let serving = tokio::spawn(async move { server.serve(listener).await });
    let client = Client::connect(&path).await.unwrap();
    client.call_bytes(NAME, "Echo", Vec::new(), CallOptions::default()).await.unwrap();
    serving.abort();
    client.closed().await;
    assert_eq!(Client::connect(dir.path().join("none")).await.unwrap_err().code(), Code::NotFound);

    let (ours, theirs) = UnixStream::pair().unwrap();
    let picky = Server::new().service(NAME, echo).only_user(u32::MAX - 7);
    tokio::spawn(async move { picky.serve_connection(theirs).await });
    Client::from_stream(ours).closed().await;
}
