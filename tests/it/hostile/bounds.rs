//! Names, keys and labels at their bounds and one over: the former work, the latter are told which rule they broke.

use super::{Watch, client, runtime};
use crated_api::containerd::services as containerd;
use crated_api::crated::engine::v1 as api;
use crated_tests::Daemon;
use tonic::{Code, Status};

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, words: &str) {
    let status = answer.expect_err(words);
    assert_eq!(status.code(), Code::InvalidArgument, "{words}: {status:?}");
    assert!(status.message().contains(words) && status.message().len() < 2000, "want {words:?} in {status:?}");
}

#[test]
fn names_keys_and_labels_at_and_over_their_bounds() {
    let daemon = Daemon::start();
    let mut watch = Watch::new(&daemon);
    runtime().block_on(async {
        let client = client(&daemon).await;
        let container = |id: &str, labels: &[(String, String)]| {
            let runtime = containerd::containers::v1::container::Runtime { name: "r".into(), options: None };
            let container = containerd::containers::v1::Container {
                id: id.into(),
                labels: labels.iter().cloned().collect(),
                runtime: Some(runtime),
                spec: Some(prost_types::Any::default()),
                ..Default::default()
            };
            let client = client.clone();
            async move {
                let request = containerd::containers::v1::CreateContainerRequest { container: Some(container) };
                client.containers().create(request).await.map(drop)
            }
        };
        container(&"x".repeat(76), &[]).await.unwrap();
        refused(container(&"x".repeat(77), &[]).await, "76");
        refused(container(&"x".repeat(4 << 20), &[]).await, "76");
        for bad in ["", "../x", "a/b", "a\0b", "é"] {
            refused(container(bad, &[]).await, "");
        }
        let label = |bytes: usize| vec![("k".to_owned(), "v".repeat(bytes - 1))];
        container("labelled", &label(4096)).await.unwrap();
        refused(container("over", &label(4097)).await, "4096");
        // many, each within its bound, are one message within its bound
        let many: Vec<_> = (0..2000).map(|n| (format!("key-{n}"), "v".repeat(2000))).collect();
        container("many", &many).await.unwrap();
        watch.look();

        let key = |key: String| {
            let client = client.clone();
            async move {
                let request = containerd::snapshots::v1::PrepareSnapshotRequest {
                    snapshotter: "overlayfs".into(),
                    key,
                    ..Default::default()
                };
                client.snapshots().prepare(request).await.map(drop)
            }
        };
        key("k".repeat(4096)).await.unwrap();
        refused(key("k".repeat(4097)).await, "4096");
        refused(key("nul\0".into()).await, "NUL");
        refused(key(String::new()).await, "");

        let image = |name: String| {
            let client = client.clone();
            async move {
                let target = crated_api::containerd::types::Descriptor {
                    media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                    digest: format!("sha256:{}", "a".repeat(64)),
                    size: 1,
                    ..Default::default()
                };
                let image = containerd::images::v1::Image { name, target: Some(target), ..Default::default() };
                let request = containerd::images::v1::CreateImageRequest { image: Some(image), ..Default::default() };
                client.images().create(request).await.map(drop)
            }
        };
        image("n".repeat(255)).await.unwrap();
        refused(image("n".repeat(1 << 20)).await, "");
        refused(image(String::new()).await, "");

        let namespace = |name: String| {
            let client = client.clone();
            async move {
                let namespace = containerd::namespaces::v1::Namespace { name, ..Default::default() };
                let request = containerd::namespaces::v1::CreateNamespaceRequest { namespace: Some(namespace) };
                client.namespaces().create(request).await.map(drop)
            }
        };
        namespace("n".repeat(76)).await.unwrap();
        refused(namespace("n".repeat(77)).await, "76");

        let filter = |filters: Vec<String>| {
            let client = client.clone();
            async move { client.engine().list(api::ListRequest { all: true, filters, last: 0 }).await.map(drop) }
        };
        refused(filter(vec!["id==".to_owned() + &"x".repeat(17 << 10)]).await, "filter");
        refused(filter(vec!["id==x".into(); 300]).await, "256");
        // A pattern that other engines need years for.
        filter(vec!["id~=^(a+)+$".into()]).await.unwrap();

        let topic = |topic: String| {
            let client = client.clone();
            async move {
                let event = Some(prost_types::Any { type_url: "t".into(), value: vec![] });
                client.events().publish(containerd::events::v1::PublishRequest { topic, event }).await.map(drop)
            }
        };
        topic("/a/b".into()).await.unwrap();
        refused(topic("no-slash".into()).await, "topic");
        refused(topic("/".to_owned() + &"x".repeat(1 << 20)).await, "topic");
    });
    let id = "x".repeat(76);
    daemon.ctr(&["c", "rm", &id, "labelled", "many"]).ok();
    watch.end("names and labels at and over their bounds", 64);
    daemon.finish();
}
