//! Clients that vanish: each method of each service, at several points of the call. Nothing stays of them, and nobody waits.

use super::wire::{DATA, END_STREAM, Wire, message};
use super::{Watch, client, descriptors, runtime};
use crated_api::grpc::reflection::v1 as reflection;
use crated_tests::{Daemon, eventually};
use futures::StreamExt;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::io::Read;
use std::time::Duration;

/// The methods of every service that reflection lists, as paths.
fn methods(daemon: &Daemon) -> Vec<String> {
    let names: Vec<String> = runtime().block_on(async {
        let address = daemon.socket();
        let channel = tonic::transport::Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let path = address.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
            }))
            .await
            .unwrap();
        let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
        let question = reflection::ServerReflectionRequest {
            message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(String::new())),
            ..Default::default()
        };
        let mut answers = client.server_reflection_info(futures::stream::iter([question])).await.unwrap().into_inner();
        match answers.next().await.unwrap().unwrap().message_response.unwrap() {
            reflection::server_reflection_response::MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect()
            }
            other => panic!("{other:?}"),
        }
    });
    let set = FileDescriptorSet::decode(crated_api::DESCRIPTORS).unwrap();
    let mut found = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let full = format!("{}.{}", file.package(), service.name());
            if names.contains(&full) {
                found.extend(service.method.iter().map(|method| format!("/{full}/{}", method.name())));
            }
        }
    }
    assert!(found.len() > 80, "{} methods of {} services", found.len(), names.len());
    found
}

/// A request that many methods make something of: field 1 is the text `talks`.
const NAMED: &[u8] = b"\x0a\x05talks";

/// A number of a sequence that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

#[test]
fn clients_that_vanish_in_each_call_leave_nothing() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    // What is asked of the one may happen to it; nobody asks anything of the other.
    for name in ["talks", "bystander"] {
        daemon.ctl(&["run", "-d", "--name", name, "bb:1", "sleep", "1000"]).ok();
    }
    let methods = methods(&daemon);
    let before = descriptors(daemon.pid());
    let mut watch = Watch::new(&daemon);
    let mut dice = Dice(0x5eed);
    let mut calls = 0;
    for path in &methods {
        let mut garbage = vec![0_u8; 64];
        garbage.fill_with(|| u8::try_from(dice.roll(256)).unwrap());
        for body in [&b""[..], NAMED, &garbage] {
            // behind the head; within the message; behind it; once an answer has begun
            for point in 0..4 {
                let mut wire = Wire::open(&daemon.socket());
                wire.ask(1, path);
                let whole = message(body);
                let part = if point == 1 { dice.roll(whole.len()) } else { whole.len() };
                if point > 0 {
                    wire.frame(DATA, if point == 1 { 0 } else { END_STREAM }, 1, &whole[..part]);
                }
                if point == 3 {
                    wire.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                    let _ = wire.0.read(&mut [0; 256]);
                }
                calls += 1;
            }
        }
        watch.look();
    }
    println!("{} methods, {calls} clients that vanished", methods.len());
    eventually("their connections are gone", || (descriptors(daemon.pid()) <= before + 4).then_some(()));
    assert_eq!(daemon.ctl(&["exec", "bystander", "echo", "unharmed"]).ok(), "unharmed\n");
    // What such a client had pulled goes on for a moment.
    eventually("no lease of a pull is left", || {
        let leases = runtime().block_on(async {
            let client = client(&daemon).await;
            let all = crated_api::containerd::services::leases::v1::ListRequest::default();
            client.leases().list(all).await.unwrap().into_inner().leases
        });
        leases.iter().all(|lease| !lease.id.starts_with("crated-")).then_some(())
    });
    watch.end("vanished clients", 64);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.finish();
}
