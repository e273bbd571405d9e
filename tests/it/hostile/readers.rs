//! Clients that ask and do not read: the daemon waits with what it has on disk, containers and others go on.

use super::wire::{DATA, RST_STREAM, Wire, message};
use super::{Watch, client, runtime, soon};
use crated_api::containerd::services as containerd;
use crated_api::crated::engine::v1 as api;
use crated_tests::Daemon;
use crated_types::attach::{self, FrameType, Hello};
use futures::StreamExt;
use prost::Message as _;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

fn ready() -> Daemon {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon
}

/// Writes so many MiB to standard output.
fn output(mib: u32) -> Vec<String> {
    let script = format!("dd if=/dev/zero bs=64k count={} 2>/dev/null | tr '\\0' 'x' | fold -w 99", mib * 16);
    vec!["sh".into(), "-c".into(), script]
}

#[test]
fn subscribers_that_do_not_read_cost_nothing_and_miss_nothing() {
    let daemon = ready();
    let mut watch = Watch::new(&daemon);
    runtime().block_on(async {
        let mut silent = Vec::new();
        for number in 0..50 {
            let client = client(&daemon).await;
            if number % 2 == 0 {
                let request = containerd::events::v1::SubscribeRequest::default();
                let stream = client.events().subscribe(request).await.unwrap().into_inner();
                silent.push(stream.map(|event| event.map(|event| event.topic)).boxed());
            } else {
                let stream = client.engine().events(api::EventsRequest::default()).await.unwrap().into_inner();
                silent.push(stream.map(|event| event.map(|event| event.topic)).boxed());
            }
        }
        let publisher = client(&daemon).await;
        let floods = 1000;
        let calls = (0..floods).map(|number| {
            let publisher = publisher.clone();
            async move {
                let event = prost_types::Any { type_url: "test.Flood".into(), value: vec![7; 1000] };
                let request =
                    containerd::events::v1::PublishRequest { topic: format!("/flood/{number}"), event: Some(event) };
                publisher.events().publish(request).await
            }
        });
        let begun = Instant::now();
        let mut answers = futures::stream::iter(calls).buffer_unordered(256);
        while let Some(answer) = answers.next().await {
            answer.unwrap();
        }
        println!("{floods} events published in {:.1} s beside 50 silent subscribers", begun.elapsed().as_secs_f64());
        watch.look();
        // Whoever begins to read gets all of them, in order.
        for mut stream in silent.into_iter().take(4) {
            let mut seen = 0;
            while seen < floods {
                let topic = stream.next().await.unwrap().unwrap();
                if let Some(number) = topic.strip_prefix("/flood/") {
                    // the order of commits is not that of the calls, but nothing comes twice
                    assert!(number.parse::<u32>().unwrap() < floods);
                    seen += 1;
                }
            }
        }
    });
    watch.end("50 silent subscribers, 1,000 events", 48);
    daemon.finish();
}

#[test]
fn log_followers_and_content_readers_that_do_not_read() {
    let daemon = ready();
    let mut watch = Watch::new(&daemon);
    let command = output(6);
    let arguments: Vec<&str> =
        ["run", "--name", "talks", "-d", "bb:1"].into_iter().chain(command.iter().map(String::as_str)).collect();
    daemon.ctl(&arguments).ok();
    runtime().block_on(async {
        let mut silent = Vec::new();
        for _ in 0..10 {
            let client = client(&daemon).await;
            let request = api::LogsRequest {
                container: "talks".into(),
                follow: true,
                stdout: true,
                stderr: true,
                ..api::LogsRequest::default()
            };
            silent.push(client.engine().logs(request).await.unwrap().into_inner());
        }
        // blobs of the image, by 20 readers
        let first = client(&daemon).await;
        let mut lists =
            first.content().list(containerd::content::v1::ListContentRequest::default()).await.unwrap().into_inner();
        let mut infos = Vec::new();
        while let Some(page) = lists.next().await {
            infos.extend(page.unwrap().info);
        }
        let biggest = infos.into_iter().max_by_key(|info| info.size).unwrap();
        let mut readers = Vec::new();
        for _ in 0..20 {
            let client = client(&daemon).await;
            let request =
                containerd::content::v1::ReadContentRequest { digest: biggest.digest.clone(), ..Default::default() };
            readers.push(client.content().read(request).await.unwrap().into_inner());
        }
        let wait = api::WaitRequest { container: "talks".into(), removed: false };
        let begun = Instant::now();
        let exit = tokio::time::timeout(Duration::from_secs(60), first.engine().wait(wait)).await;
        assert_eq!(exit.expect("it is not held up").unwrap().into_inner().status, 0);
        println!(
            "a container that talks ended after {:.1} s beside 10 silent followers",
            begun.elapsed().as_secs_f64()
        );
        watch.look();
        // One of each reads on, and gets all.
        let mut bytes = 0;
        let mut follower = silent.pop().unwrap();
        while let Some(entry) = follower.next().await {
            bytes += entry.unwrap().line.iter().filter(|byte| **byte == b'x').count();
        }
        assert_eq!(bytes, 6 << 20);
        let mut read = 0;
        let mut reader = readers.pop().unwrap();
        while let Some(part) = reader.next().await {
            read += part.unwrap().data.len() as i64;
        }
        assert_eq!(read, biggest.size);
    });
    watch.end("silent log followers and content readers", 64);
    daemon.finish();
}

#[test]
fn attached_clients_that_do_not_read_do_not_stall_the_container() {
    let daemon = ready();
    let mut watch = Watch::new(&daemon);
    runtime().block_on(async {
        let client = client(&daemon).await;
        let config = api::ContainerConfig {
            name: "talks".into(),
            image: "bb:1".into(),
            command: output(4),
            ..api::ContainerConfig::default()
        };
        client
            .engine()
            .create(api::CreateRequest { config: Some(config) })
            .await
            .unwrap()
            .into_inner()
            .for_each(|_| async {})
            .await;
        let prepare = api::StartRequest { container: "talks".into(), prepare: true, ..api::StartRequest::default() };
        let prepared = client.engine().start(prepare).await.unwrap().into_inner();
        let socket = Path::new(&prepared.attach_socket);
        let hello = Hello { container: prepared.id.clone(), stdout: true, stderr: true, ..Hello::default() };
        let mut silent = Vec::new();
        for _ in 0..3 {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.write_all(&attach::frame(FrameType::Hello, &hello.encode())).unwrap();
            silent.push(stream);
        }
        // one through the daemon, who does not read either
        let input =
            futures::stream::iter([api::AttachInput { container: "talks".into(), ..api::AttachInput::default() }])
                .chain(futures::stream::pending());
        let through = client.engine().attach_stream(input).await.unwrap().into_inner();
        // what is no hello, and half of one
        for garbage in [&[0xff; 4096][..], &[0, 0, 0], &[0, 0xff, 0xff, 0xff, 0xff], &[16, 0, 0, 0, 0]] {
            let mut stream = UnixStream::connect(socket).unwrap();
            let _ = stream.write_all(garbage);
            silent.push(stream);
        }
        let begun = Instant::now();
        client
            .engine()
            .start(api::StartRequest { container: "talks".into(), ..api::StartRequest::default() })
            .await
            .unwrap();
        let wait = api::WaitRequest { container: "talks".into(), removed: false };
        let exit = tokio::time::timeout(Duration::from_secs(60), client.engine().wait(wait)).await;
        assert_eq!(exit.expect("it is not held up").unwrap().into_inner().status, 0);
        println!("4 MiB past 4 attached clients that do not read: {:.1} s", begun.elapsed().as_secs_f64());
        watch.look();
        drop((silent, through));
    });
    let said = daemon.ctl(&["logs", "talks"]).ok();
    assert_eq!(said.bytes().filter(|byte| *byte == b'x').count(), 4 << 20, "the log has all");
    watch.end("silent attached clients", 32);
    daemon.finish();
}

#[test]
fn a_write_stream_that_dies_frees_its_reference_at_once() {
    use containerd::content::v1::{WriteAction, WriteContentRequest};
    let daemon = Daemon::start();
    let watch = Watch::new(&daemon);
    let request = |data: &'static [u8]| WriteContentRequest {
        action: WriteAction::Write.into(),
        r#ref: "held".into(),
        data: bytes::Bytes::from_static(data),
        ..WriteContentRequest::default()
    };
    let runtime = runtime();
    let other = runtime.block_on(client(&daemon));
    let second = || async {
        let requests = futures::stream::iter([request(b"next")]);
        other.content().write(requests).await?.into_inner().next().await.expect("an answer")
    };
    for round in 0..10 {
        let mut writer = Wire::open(&daemon.socket());
        writer.ask(1, "/containerd.services.content.v1.Content/Write");
        writer.frame(DATA, 0, 1, &message(&request(b"half").encode_to_vec()));
        assert!(writer.until(DATA).is_some(), "the first message is answered");
        let locked = runtime.block_on(second()).unwrap_err();
        assert_eq!(locked.code(), tonic::Code::Unavailable, "{locked:?}");
        // by the stream's end, or by the connection's
        if round % 2 == 0 {
            writer.frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
        } else {
            writer.0.shutdown(std::net::Shutdown::Both).unwrap();
        }
        let begun = Instant::now();
        runtime.block_on(soon("the reference is free", || async { second().await.is_ok() }));
        println!("a reference was free {} ms after its writer went", begun.elapsed().as_millis());
    }
    watch.end("10 dead writers", 16);
    daemon.finish();
}
