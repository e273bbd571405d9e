//! A whole daemon in this process, spoken to over its socket as clients do.

mod tls;

use super::*;
use crated_api::containerd::services::content::v1::content_client::ContentClient;
use crated_api::containerd::services::content::v1::{self as content, WriteAction, WriteContentRequest};
use crated_api::containerd::services::events::v1::events_client::EventsClient;
use crated_api::containerd::services::events::v1::{PublishRequest, SubscribeRequest};
use crated_api::containerd::services::introspection::v1::PluginsRequest;
use crated_api::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use crated_api::containerd::services::namespaces::v1 as namespaces;
use crated_api::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use crated_api::containerd::services::snapshots::v1::PrepareSnapshotRequest;
use crated_api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use crated_api::containerd::services::version::v1::version_client::VersionClient;
use crated_api::grpc::health::v1::health_check_response::ServingStatus;
use crated_api::grpc::health::v1::health_client::HealthClient;
use crated_api::grpc::health::v1::{HealthCheckRequest, HealthListRequest};
use crated_api::status::from_status;
use crated_types::Fault;
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

struct Running {
    daemon: Daemon,
    dir: tempfile::TempDir,
}

fn config(dir: &Path) -> Config {
    let mut config = Config { root: dir.join("root"), state: dir.join("state"), ..Config::default() };
    config.metrics.address = "127.0.0.1:0".into();
    config.engine.snapshotter = "native".into();
    config
}

impl Running {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(config(dir.path())).await.unwrap();
        Self { daemon, dir }
    }

    async fn channel(&self) -> Channel {
        connect(self.daemon.config().address()).await
    }
}

async fn connect(path: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

fn scoped<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn who_it_is_and_how_it_feels() {
    let running = Running::start().await;
    let channel = running.channel().await;
    let version = VersionClient::new(channel.clone()).version(()).await.unwrap().into_inner();
    assert_eq!(version.version, crate::VERSION);

    let mut health = HealthClient::new(channel.clone());
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    assert_eq!(health.check(check("")).await.unwrap().into_inner().status(), ServingStatus::Serving);
    assert_eq!(health.check(check("x")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(health.list(HealthListRequest {}).await.unwrap().into_inner().statuses.len(), 1);
    let mut watch = health.watch(check("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    let mut introspection = IntrospectionClient::new(channel.clone());
    let server = introspection.server(()).await.unwrap().into_inner();
    assert_eq!((server.uuid.len(), server.pid), (36, u64::from(std::process::id())));
    let filters = vec!["type==io.containerd.snapshotter.v1, id==native".into()];
    let plugins = introspection.plugins(PluginsRequest { filters }).await.unwrap().into_inner().plugins;
    assert_eq!(plugins.len(), 1);
    assert!(plugins[0].exports["root"].ends_with("snapshotter.v1.native") && plugins[0].init_err.is_none());

    // The watch is ended by the stop, and the stop does not wait for it.
    running.daemon.stop().await;
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
    assert!(!running.dir.path().join("state/crated.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_what_is_served_and_every_call_of_it_is_there() {
    use crated_api::grpc::reflection::{v1, v1alpha};
    let running = Running::start().await;
    let channel = running.channel().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let ask = |request| v1::ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    let list = futures::stream::iter([ask(MessageRequest::ListServices(String::new()))]);
    let mut answers = client.server_reflection_info(list).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(listed)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let mut services: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    services.sort();
    let of = |name: &str| format!("containerd.services.{name}");
    let mut wanted = vec![
        of("containers.v1.Containers"),
        of("content.v1.Content"),
        of("diff.v1.Diff"),
        of("events.v1.Events"),
        of("images.v1.Images"),
        of("introspection.v1.Introspection"),
        of("leases.v1.Leases"),
        of("namespaces.v1.Namespaces"),
        of("snapshots.v1.Snapshots"),
        of("tasks.v1.Tasks"),
        of("version.v1.Version"),
        "crated.engine.v1.Engine".into(),
        "grpc.health.v1.Health".into(),
    ];
    wanted.extend(reflection::SERVICES.map(str::to_owned));
    wanted.sort();
    assert_eq!(services, wanted);
    for service in &services {
        let symbol = futures::stream::iter([ask(MessageRequest::FileContainingSymbol(service.clone()))]);
        let mut answers = client.server_reflection_info(symbol).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response;
        assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{service}");
    }
    let mut old = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let request = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let list = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let mut answers = old.server_reflection_info(futures::stream::iter([list])).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    running.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_and_errors_are_containerds() {
    let running = Running::start().await;
    let channel = running.channel().await;
    let mut client = NamespacesClient::new(channel.clone());
    let labels = [("a".to_owned(), "b".to_owned())].into();
    let asked = namespaces::Namespace { name: "n".into(), labels };
    client.create(namespaces::CreateNamespaceRequest { namespace: Some(asked.clone()) }).await.unwrap();
    let again = client.create(namespaces::CreateNamespaceRequest { namespace: Some(asked) }).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert_eq!(from_status(&again).fault(), Fault::AlreadyExists, "details came along: {again:?}");
    let got = client.get(namespaces::GetNamespaceRequest { name: "other".into() }).await.unwrap().into_inner();
    assert!(got.namespace.unwrap().labels.is_empty());
    client.delete(namespaces::DeleteNamespaceRequest { name: "n".into() }).await.unwrap();
    assert!(
        client.list(namespaces::ListNamespacesRequest::default()).await.unwrap().into_inner().namespaces.is_empty()
    );

    let mut content = ContentClient::new(channel.clone());
    let none = content.info(content::InfoRequest::default()).await.unwrap_err();
    assert_eq!((none.code(), none.message()), (Code::FailedPrecondition, "namespace is required: failed precondition"));
    let malformed = content.info(scoped(content::InfoRequest { digest: "x".into() })).await.unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
    let mut snapshots = SnapshotsClient::new(channel.clone());
    let unknown = PrepareSnapshotRequest { snapshotter: "zfs".into(), key: "k".into(), ..Default::default() };
    assert_eq!(snapshots.prepare(scoped(unknown)).await.unwrap_err().code(), Code::InvalidArgument);
    let mut sandboxes = crated_api::containerd::services::sandbox::v1::store_client::StoreClient::new(channel);
    let request = crated_api::containerd::services::sandbox::v1::StoreGetRequest::default();
    assert_eq!(sandboxes.get(scoped(request)).await.unwrap_err().code(), Code::Unimplemented);
    running.daemon.stop().await;
}

/// Opens a write stream and answers what each message is answered with.
async fn write(
    client: &mut ContentClient<Channel>,
    messages: Vec<WriteContentRequest>,
) -> Result<Vec<content::WriteContentResponse>, Status> {
    let answers = client.write(scoped(futures::stream::iter(messages))).await?.into_inner();
    answers.collect::<Vec<_>>().await.into_iter().collect()
}

fn message(action: WriteAction, reference: &str, offset: i64, data: &'static [u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: reference.into(),
        offset,
        data: data.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_written_as_containerds_clients_write_it() {
    use WriteAction::{Commit, Stat, Write};
    const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let running = Running::start().await;
    let mut client = ContentClient::new(running.channel().await);

    let error = write(&mut client, vec![message(Stat, "", 0, b"")]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let answers = write(&mut client, vec![message(Stat, "r", 0, b""), message(Write, "", 0, b"hel")]).await.unwrap();
    assert_eq!((answers[0].offset, answers[1].offset), (0, 3));
    assert!(answers[0].digest.starts_with("sha256:e3b0c442"), "the digest of nothing");

    // Half-closed: the ingest stays, and a later stream goes on where it was.
    let error = write(&mut client, vec![message(Write, "r", 7, b"lo")]).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    let wrong = WriteContentRequest { expected: HELLO.replace("2cf", "3cf"), ..message(Commit, "r", 3, b"lo") };
    assert_eq!(write(&mut client, vec![wrong]).await.unwrap_err().code(), Code::FailedPrecondition);
    let right = WriteContentRequest { expected: HELLO.into(), total: 5, ..message(Commit, "r", 5, b"") };
    let answers = write(&mut client, vec![message(Stat, "r", 0, b""), right.clone()]).await.unwrap();
    assert_eq!((answers[0].offset, answers[1].offset, answers[1].digest.as_str()), (5, 5, HELLO));
    let known = write(&mut client, vec![right]).await.unwrap_err();
    assert_eq!(known.code(), Code::AlreadyExists);

    let read = |offset, size| scoped(content::ReadContentRequest { digest: HELLO.into(), offset, size });
    let mut answers = client.read(read(1, 3)).await.unwrap().into_inner();
    let chunk = answers.message().await.unwrap().unwrap();
    assert_eq!((chunk.offset, &chunk.data[..]), (0, &b"ell"[..]));
    assert!(answers.message().await.unwrap().is_none());
    assert_eq!(client.read(read(6, 0)).await.unwrap_err().code(), Code::OutOfRange);
    running.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_is_locked_as_long_as_its_stream_lives() {
    let running = Running::start().await;
    let mut client = ContentClient::new(running.channel().await);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(message(WriteAction::Stat, "r", 0, b"")).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut first = client.write(scoped(stream)).await.unwrap().into_inner();
    first.message().await.unwrap().unwrap();
    let stat = || vec![message(WriteAction::Stat, "r", 0, b"")];
    assert_eq!(write(&mut client, stat()).await.unwrap_err().code(), Code::Unavailable);
    // The client vanishes: its stream is reset, the lock goes.
    drop((first, sender));
    while let Err(error) = write(&mut client, stat()).await {
        assert_eq!(error.code(), Code::Unavailable);
        tokio::task::yield_now().await;
    }
    running.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_subscribers_by_filter() {
    let running = Running::start().await;
    let mut client = EventsClient::new(running.channel().await);
    let bad = client.subscribe(SubscribeRequest { filters: vec!["topic==/a".into()] }).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    let filters = vec!["topic==\"/wanted\"".into()];
    let mut events = client.subscribe(SubscribeRequest { filters }).await.unwrap().into_inner();
    let event = crated_api::any::pack("google.protobuf.Empty", &());
    for topic in ["/other", "/wanted"] {
        client.publish(scoped(PublishRequest { topic: topic.into(), event: Some(event.clone()) })).await.unwrap();
    }
    let got = events.message().await.unwrap().unwrap();
    assert_eq!((got.topic.as_str(), got.namespace.as_str(), got.event), ("/wanted", "default", Some(event)));
    running.daemon.stop().await;
    assert_eq!(events.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_told_who_is_there() {
    let running = Running::start().await;
    let same_root = Daemon::start(config(running.dir.path())).await.unwrap_err().to_string();
    assert!(same_root.contains(&format!("in use by crated pid {}", std::process::id())), "{same_root}");
    let other = tempfile::tempdir().unwrap();
    let mut config = config(other.path());
    config.listeners.address = running.daemon.config().address();
    let same_socket = Daemon::start(config).await.unwrap_err().to_string();
    assert!(same_socket.contains("another daemon answers") && same_socket.contains("what to do"), "{same_socket}");
    running.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_snapshotter_that_is_not_there_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.engine.snapshotter = "zfs".into();
    let error = Daemon::start(config).await.unwrap_err().to_string();
    assert!(error.starts_with("plugin io.crated.engine.v1/engine: ") && error.contains("what to do"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_is_there_after_a_restart() {
    let running = Running::start().await;
    let mut client = NamespacesClient::new(running.channel().await);
    let namespace = Some(namespaces::Namespace { name: "kept".into(), ..Default::default() });
    client.create(namespaces::CreateNamespaceRequest { namespace }).await.unwrap();
    drop(client);
    let Running { daemon, dir } = running;
    daemon.stop().await;
    let daemon = Daemon::start(config(dir.path())).await.unwrap();
    let mut client = NamespacesClient::new(connect(daemon.config().address()).await);
    let all = client.list(namespaces::ListNamespacesRequest::default()).await.unwrap().into_inner().namespaces;
    assert_eq!(all[0].name, "kept");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_for_prometheus() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let life = Life::default();
    let address = crate::metrics::serve("127.0.0.1:0", &life).await.unwrap();
    let running = Running::start().await;
    VersionClient::new(running.channel().await).version(()).await.unwrap();
    running.daemon.stop().await;
    let ask = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    assert!(ask("/").await.starts_with("HTTP/1.1 404"));
    // Whichever recorder of this process came first counts; the page itself is there in any case.
    assert!(ask("/metrics").await.starts_with("HTTP/1.1 200"));
    life.stop.cancel();
}
