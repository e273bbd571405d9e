//! The collector against a model, and beside writers.

mod model;
mod scale;
mod workers;

use super::*;
use crate::testing::{Bench, container, image, key, labels, lease, reference, sha256};
use crated_core::record::{BLOBS, Blob, Container};
use crated_core::{
    ContainerStore, ContentStore, ImageStore, LeaseStore, MetadataStore, Resource, ResourceKind, Snapshotter,
};
use crated_types::filter::Filters;
use crated_types::{Digest, Labels};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

async fn write(bench: &Bench, text: &str, labels: Labels) -> Digest {
    let digest = sha256(text.as_bytes());
    let bytes = bytes::Bytes::copy_from_slice(text.as_bytes());
    bench.content.write_all(&bench.scope, &reference(text), bytes, &digest, labels).await.unwrap();
    digest
}

async fn blobs(bench: &Bench) -> BTreeSet<String> {
    let all = bench.content.list(&bench.scope, &Filters::default()).await.unwrap();
    all.into_iter().map(|blob| blob.digest).collect()
}

async fn snapshots(bench: &Bench) -> Vec<String> {
    let all = bench.snapshots.list(&bench.scope, &Filters::default()).await.unwrap();
    all.into_iter().map(|one| one.name).collect()
}

fn files(bench: &Bench) -> usize {
    std::fs::read_dir(bench.folder.path().join("content/blobs/sha256")).unwrap().count()
}

#[tokio::test]
async fn an_image_keeps_what_it_is_made_of_and_nothing_else_stays() {
    let bench = Bench::new().await;
    let snapshots_ = &bench.snapshots;
    for (active, name, parent) in [("e1", "l1", None), ("e2", "l2", Some("l1")), ("e3", "lost", Some("l1"))] {
        snapshots_.prepare(&bench.scope, &key(active), parent.map(key).as_ref(), Labels::new()).await.unwrap();
        snapshots_.commit(&bench.scope, &key(name), &key(active), None, Labels::new()).await.unwrap();
    }
    snapshots_.prepare(&bench.scope, &key("rw"), Some(&key("l2")), Labels::new()).await.unwrap();
    snapshots_
        .view(&bench.scope, &key("kept"), None, labels(&[("containerd.io/gc.bref.container", "c")]))
        .await
        .unwrap();
    let layer = write(&bench, "layer", Labels::new()).await;
    let config = write(&bench, "config", labels(&[("containerd.io/gc.ref.snapshot.native", "l2")])).await;
    let refs = labels(&[
        ("containerd.io/gc.ref.content.config", config.as_str()),
        ("containerd.io/gc.ref.content.l.0", layer.as_str()),
    ]);
    let manifest = write(&bench, "manifest", refs).await;
    let junk = write(&bench, "junk", Labels::new()).await;
    bench.images.create(&bench.scope, image("i", &manifest)).await.unwrap();
    let user = Container { snapshotter: "native".into(), snapshot_key: "rw".into(), ..container("c") };
    bench.containers.create(&bench.scope, user, Vec::new()).await.unwrap();

    let collected = bench.collector.collect().await.unwrap();
    assert_eq!((collected.blobs, collected.snapshots), (1, 1), "{collected:?}");
    assert!(!blobs(&bench).await.contains(junk.as_str()));
    assert_eq!(snapshots(&bench).await, ["kept", "l1", "l2", "rw"]);
    assert_eq!(files(&bench), 3);
    assert_eq!(bench.newest_event().await.0, "/snapshot/remove");
    assert_eq!(bench.collector.collect().await.unwrap(), Collected::default());

    bench.images.delete(&bench.scope, "i", None, false).await.unwrap();
    bench.collector.collect().await.unwrap();
    assert!(blobs(&bench).await.is_empty());
    assert_eq!(snapshots(&bench).await, ["kept", "l1", "l2", "rw"], "the container keeps its chain");
    bench.containers.delete(&bench.scope, &crate::testing::id("c"), Vec::new()).await.unwrap();
    bench.collector.collect().await.unwrap();
    assert!(snapshots(&bench).await.is_empty());
    assert!(bench.metadata.scan_all(b"snapshotchild/").await.unwrap().is_empty());
    assert_eq!(bench.snapshots.sweep().await.unwrap(), 0);
}

#[tokio::test]
async fn leases_hold_flat_or_deep_until_they_expire() {
    let bench = Bench::new().await;
    let leaf = write(&bench, "leaf", Labels::new()).await;
    let top = write(&bench, "top", labels(&[("containerd.io/gc.ref.content.0", leaf.as_str())])).await;
    let held = Resource { kind: ResourceKind::Content, id: top.to_string() };
    bench
        .leases
        .create(&bench.scope, Some(lease("deep")), labels(&[("containerd.io/gc.expire", "nonsense")]))
        .await
        .unwrap();
    bench.leases.create(&bench.scope, Some(lease("flat")), labels(&[("containerd.io/gc.flat", "1")])).await.unwrap();
    let past = labels(&[("containerd.io/gc.expire", "2001-01-01T00:00:00+01:00")]);
    bench.leases.create(&bench.scope, Some(lease("old")), past.clone()).await.unwrap();
    for name in ["deep", "flat", "old"] {
        bench.leases.add(&bench.scope, &lease(name), held.clone()).await.unwrap();
    }
    let mut expired = image("expired", &top);
    expired.labels = past;
    bench.images.create(&bench.scope, expired).await.unwrap();
    let collected = bench.collector.collect().await.unwrap();
    assert_eq!((collected.leases, collected.images, collected.blobs), (1, 1, 0), "{collected:?}");
    assert_eq!(bench.newest_event().await.0, "/images/delete");
    bench.leases.delete(&bench.scope, &lease("deep"), false).await.unwrap();
    bench.collector.collect().await.unwrap();
    assert_eq!(blobs(&bench).await, [top.to_string()].into());
    bench.leases.delete(&bench.scope, &lease("flat"), false).await.unwrap();
    bench.collector.collect().await.unwrap();
    assert!(blobs(&bench).await.is_empty());
    assert!(bench.metadata.scan_all(b"leased/").await.unwrap().is_empty());
}

#[tokio::test]
async fn ingests_expire_without_a_lease_and_die_with_one() {
    let bench = Bench::new().await;
    let begin = async |scope, name: &str| {
        let mut ingest = bench.content.ingest(scope, &reference(name), Default::default()).await.unwrap();
        ingest.write("abc".into()).await.unwrap();
        ingest
    };
    bench.leases.create(&bench.scope, Some(lease("l")), Labels::new()).await.unwrap();
    let held = bench.scope.with_lease(lease("l"));
    drop(begin(&bench.scope, "day").await);
    drop(begin(&held, "leased").await);
    let written = begin(&held, "written").await;
    bench.collector.collect().await.unwrap();
    assert_eq!(bench.content.statuses(&bench.scope, &Filters::default()).await.unwrap().len(), 3);
    bench.leases.delete(&bench.scope, &lease("l"), false).await.unwrap();
    let collected = bench.collector.collect().await.unwrap();
    assert_eq!((collected.ingests, collected.files), (1, 1), "{collected:?}");
    let error = written.commit(Default::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "lease does not exist: not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_referred_to_meanwhile_stays() {
    let bench = Bench::new().await;
    let collector = Arc::clone(&bench.collector);
    let token = CancellationToken::new();
    let stop = token.clone();
    let collecting = tokio::spawn(async move {
        let mut rounds = 0;
        while !stop.is_cancelled() {
            collector.collect().await.unwrap();
            rounds += 1;
        }
        rounds
    });
    // a client's way: bytes under a lease, then an image, then the lease goes; each step leaves its work referred to
    let workers = (0..4).map(|worker| {
        let (content, images, leases, scope) =
            (bench.content.clone(), bench.images.clone(), bench.leases.clone(), bench.scope.clone());
        tokio::spawn(async move {
            for number in 0..15 {
                let name = lease(&format!("l{worker}.{number}"));
                leases.create(&scope, Some(name.clone()), Labels::new()).await.unwrap();
                let held = scope.with_lease(name.clone());
                let shared = format!("layer{}", number % 3);
                let layer = sha256(shared.as_bytes());
                content
                    .write_all(&held, &reference(&format!("{worker}.{number}.l")), shared.into(), &layer, Labels::new())
                    .await
                    .unwrap();
                let text = format!("manifest{worker}.{number}");
                let manifest = sha256(text.as_bytes());
                let refs = labels(&[("containerd.io/gc.ref.content.l.0", layer.as_str())]);
                content.write_all(&held, &reference(&text), text.clone().into(), &manifest, refs).await.unwrap();
                images.create(&held, image(&text, &manifest)).await.unwrap();
                leases.delete(&scope, &name, false).await.unwrap();
                for digest in [&manifest, &layer] {
                    content.read_all(&scope, digest, 100).await.expect("referred to, so it is there");
                }
                images.delete(&scope, &text, None, false).await.unwrap();
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    token.cancel();
    println!("{} collections", collecting.await.unwrap());
    bench.collector.collect().await.unwrap();
    assert!(blobs(&bench).await.is_empty());
    assert_eq!(files(&bench), 0);
}

#[tokio::test]
async fn a_touched_record_saves_what_it_keeps() {
    let bench = Bench::new().await;
    let leaf = write(&bench, "leaf", Labels::new()).await;
    let top = write(&bench, "top", labels(&[("containerd.io/gc.ref.content.0", leaf.as_str())])).await;
    let _noting = bench.metadata.touched().start();
    let marked = mark::mark(&*bench.metadata, &bench.content).await.unwrap();
    assert_eq!(marked.candidates().len(), 2);
    bench.images.create(&bench.scope, image("i", &top)).await.unwrap();
    let mut collected = Collected::default();
    sweep::sweep(&bench.metadata, marked, &mut collected).await.unwrap();
    assert_eq!(collected, Collected::default());
    assert_eq!(blobs(&bench).await.len(), 2);
}

#[tokio::test]
async fn a_sync_request_waits_for_a_collection() {
    let bench = Bench::new().await;
    let error = bench.collector.requests.run_now();
    assert!(futures::poll!(Box::pin(error)).is_pending(), "a collector exists: it will serve");
    assert!(Requests::new().run_now().await.is_err());
    let token = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&bench.collector).run(token.clone()));
    let manifest = write(&bench, "m", Labels::new()).await;
    bench.images.create(&bench.scope, image("i", &manifest)).await.unwrap();
    bench.images.delete(&bench.scope, "i", None, true).await.unwrap();
    assert!(blobs(&bench).await.is_empty());
    token.cancel();
    running.await.unwrap();
}

/// Blobs 0..n with edges by label, roots by image: the model is plain reachability.
#[derive(Clone, Debug)]
struct World {
    edges: BTreeMap<usize, BTreeSet<usize>>,
    back: BTreeMap<usize, usize>,
    roots: BTreeSet<usize>,
    leased: BTreeSet<usize>,
}

const BLOBS_MAX: usize = 12;

fn world() -> impl Strategy<Value = World> {
    let one = || 0..BLOBS_MAX;
    (
        proptest::collection::btree_map(one(), proptest::collection::btree_set(one(), 0..4), 0..BLOBS_MAX),
        proptest::collection::btree_map(one(), one(), 0..3),
        proptest::collection::btree_set(one(), 0..3),
        proptest::collection::btree_set(one(), 0..2),
    )
        .prop_map(|(edges, back, roots, leased)| World { edges, back, roots, leased })
}

fn digest(number: usize) -> Digest {
    sha256(&number.to_le_bytes())
}

fn reachable(world: &World) -> BTreeSet<String> {
    let mut seen: BTreeSet<usize> = world.roots.union(&world.leased).copied().collect();
    let mut todo: Vec<usize> = seen.iter().copied().collect();
    while let Some(number) = todo.pop() {
        let forward = world.edges.get(&number).into_iter().flatten().copied();
        let back = world.back.iter().filter(|(_, parent)| **parent == number).map(|(child, _)| *child);
        todo.extend(forward.chain(back).filter(|next| seen.insert(*next)));
    }
    seen.into_iter().map(|number| digest(number).to_string()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn exactly_the_reachable_stays(world in world()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new().await;
            let mut ops = Vec::new();
            for number in 0..BLOBS_MAX {
                let mut labels = Labels::new();
                for (at, other) in world.edges.get(&number).into_iter().flatten().enumerate() {
                    labels.insert(format!("containerd.io/gc.ref.content.{at}"), digest(*other).to_string());
                }
                if let Some(parent) = world.back.get(&number) {
                    labels.insert("containerd.io/gc.bref.content".into(), digest(*parent).to_string());
                }
                let blob = Blob { digest: digest(number).to_string(), size: 1, labels, ..Blob::default() };
                ops.push(BLOBS.put(BLOBS.key("default", &blob.digest), &blob));
            }
            bench.metadata.commit(ops).await.unwrap();
            for root in &world.roots {
                bench.images.create(&bench.scope, image(&format!("i{root}"), &digest(*root))).await.unwrap();
            }
            bench.leases.create(&bench.scope, Some(lease("l")), Labels::new()).await.unwrap();
            for held in &world.leased {
                let held = Resource { kind: ResourceKind::Content, id: digest(*held).to_string() };
                bench.leases.add(&bench.scope, &lease("l"), held).await.unwrap();
            }
            bench.collector.collect().await.unwrap();
            assert_eq!(blobs(&bench).await, reachable(&world));
        });
    }
}
