//! Damage that is planted is found, told with who needs it, and mended; what is in the making is left alone.

use super::*;
use crate::testing::{Bench, container, id, image, key, labels, reference, scope, sha256};
use crated_core::check::{ContentCheck, Kept, Reading, SnapshotCheck, Strays, Verdict};
use crated_core::record::Snapshot;
use crated_core::{ContainerStore, ContentStore, Expected, ImageStore, SnapshotKind, Snapshotter};
use crated_types::{Digest, Fault, Labels};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

fn reading() -> Reading {
    Arc::new(|_| true)
}

fn file(bench: &Bench, digest: &Digest) -> PathBuf {
    bench.folder.path().join("content/blobs/sha256").join(digest.hex())
}

async fn write(bench: &Bench, text: &str, labels: Labels) -> Digest {
    let digest = sha256(text.as_bytes());
    let bytes = bytes::Bytes::copy_from_slice(text.as_bytes());
    bench.content.write_all(&bench.scope, &reference(text), bytes, &digest, labels).await.unwrap();
    digest
}

fn kept(digest: &Digest, size: usize) -> Kept {
    let namespace = scope("default").namespace;
    Kept { namespace, digest: digest.clone(), size: size as u64, labels: Labels::new() }
}

async fn verdict(bench: &Bench, digest: &Digest, size: usize) -> Verdict {
    bench.content.verify(&kept(digest, size), reading()).await.unwrap()
}

/// Replaces a blob's read-only file.
fn put(bench: &Bench, digest: &Digest, text: &str) {
    std::fs::remove_file(file(bench, digest)).unwrap();
    std::fs::write(file(bench, digest), text).unwrap();
}

#[tokio::test]
async fn blobs_are_judged_by_their_bytes() {
    let bench = Bench::new().await;
    let digest = write(&bench, "hello", Labels::new()).await;
    let (page, last) = bench.content.kept(b"", 10).await.unwrap();
    assert_eq!(page, [kept(&digest, 5)]);
    assert_eq!(bench.content.kept(&last.unwrap(), 10).await.unwrap(), (vec![], None));
    assert_eq!(verdict(&bench, &digest, 5).await, Verdict::Whole);
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let stop: Reading = Arc::new(move |bytes| {
        counted.fetch_add(bytes, Ordering::Relaxed);
        false
    });
    assert_eq!(bench.content.verify(&kept(&digest, 5), stop).await.unwrap(), Verdict::Stopped);
    assert_eq!(count.load(Ordering::Relaxed), 0, "whoever stops at once has nothing read");
    put(&bench, &digest, "hellO");
    assert_eq!(verdict(&bench, &digest, 5).await, Verdict::Digest(sha256(b"hellO")));
    put(&bench, &digest, "hell");
    assert_eq!(verdict(&bench, &digest, 5).await, Verdict::Size(4));
    std::fs::remove_file(file(&bench, &digest)).unwrap();
    assert_eq!(verdict(&bench, &digest, 5).await, Verdict::Missing);
    bench.content.delete(&bench.scope, &digest).await.unwrap();
    assert_eq!(verdict(&bench, &digest, 5).await, Verdict::Whole, "nobody misses what no record names");
}

#[tokio::test]
async fn quarantined_bytes_are_never_served_and_can_be_written_again() {
    let bench = Bench::new().await;
    let digest = write(&bench, "hello", labels(&[("a", "1")])).await;
    let before = bench.content.info(&bench.scope, &digest).await.unwrap();
    put(&bench, &digest, "hellO");
    let aside = bench.content.quarantine(&digest).await.unwrap().unwrap();
    assert_eq!(std::fs::read(&aside).unwrap(), b"hellO");
    assert_eq!(bench.content.quarantine(&digest).await.unwrap(), None);
    let error = bench.content.open(&bench.scope, &digest).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt);
    assert!(error.to_string().contains("quarantine") && error.remedy().unwrap().contains("--repair"), "{error}");
    assert!(bench.content.strays().await.unwrap().is_empty(), "what is missed is no stray");
    // another namespace cannot borrow them either
    let other = scope("other");
    let expected = Expected { digest: Some(digest.clone()), size: Some(5) };
    let ingest = bench.content.ingest(&other, &reference("x"), expected).await.unwrap();
    assert_eq!(ingest.status().offset, 0);
    drop(ingest);
    bench.content.abort(&other, &reference("x")).await.unwrap();
    write(&bench, "hello", Labels::new()).await;
    assert_eq!(bench.content.read_all(&bench.scope, &digest, 10).await.unwrap(), "hello");
    assert_eq!(bench.content.info(&bench.scope, &digest).await.unwrap(), before, "the record is the old one");
    let strays = bench.content.strays().await.unwrap();
    assert_eq!(strays.iter().map(|stray| &stray.path).collect::<Vec<_>>(), [&aside]);
    bench.content.clear(&strays[0]).await.unwrap();
    assert!(!aside.exists());
}

#[tokio::test]
async fn files_without_a_record_are_strays_unless_they_are_being_written() {
    let bench = Bench::new().await;
    write(&bench, "hello", Labels::new()).await;
    let mut ingest = bench.content.ingest(&bench.scope, &reference("x"), Expected::default()).await.unwrap();
    ingest.write("half".into()).await.unwrap();
    assert!(bench.content.strays().await.unwrap().is_empty());
    let root = bench.folder.path().join("content");
    let nobody = sha256(b"nobody");
    std::fs::write(file(&bench, &nobody), "nobody").unwrap();
    std::fs::write(root.join("blobs/sha256/notes"), "mine").unwrap();
    std::fs::create_dir(root.join("ingest/left")).unwrap();
    let strays = bench.content.strays().await.unwrap();
    assert_eq!(strays.len(), 3, "{strays:?}");
    for stray in &strays {
        bench.content.clear(stray).await.unwrap();
        assert!(!stray.path.exists());
    }
    assert_eq!(std::fs::read(root.join("quarantine/notes")).unwrap(), b"mine", "what is not ours is kept");
    assert!(bench.content.strays().await.unwrap().is_empty());
    assert_eq!(ingest.status().offset, 4);
}

/// A base with one file, and a child of it.
async fn family(bench: &Bench) {
    for (name, parent) in [("base", None), ("top", Some("base"))] {
        layer(bench, "a", name, parent).await;
    }
}

async fn layer(bench: &Bench, active: &str, name: &str, parent: Option<&str>) {
    let parent = parent.map(key);
    let mounts = bench.snapshots.prepare(&bench.scope, &key(active), parent.as_ref(), Labels::new()).await.unwrap();
    std::fs::write(std::path::Path::new(&mounts[0].source).join(name), name).unwrap();
    bench.snapshots.commit(&bench.scope, &key(name), &key(active), None, Labels::new()).await.unwrap();
}

fn folder(bench: &Bench, snapshot: &Snapshot) -> PathBuf {
    bench.folder.path().join("native/snapshots").join(snapshot.id.to_string())
}

#[tokio::test]
async fn snapshots_are_compared_with_their_folders_and_renewed() {
    let bench = Bench::new().await;
    family(&bench).await;
    assert!(bench.snapshots.damaged(true).await.unwrap().is_empty());
    let base = bench.snapshots.stat(&bench.scope, &key("base")).await.unwrap();
    std::fs::remove_file(folder(&bench, &base).join("base")).unwrap();
    assert!(bench.snapshots.damaged(false).await.unwrap().is_empty(), "the quick look does not count");
    let found = bench.snapshots.damaged(true).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name.as_str(), found[0].kind), ("base", Some(SnapshotKind::Committed)));
    for name in ["top", "base"] {
        let snapshot = bench.snapshots.stat(&bench.scope, &key(name)).await.unwrap();
        std::fs::remove_dir_all(folder(&bench, &snapshot)).unwrap();
    }
    let found = bench.snapshots.damaged(false).await.unwrap();
    assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["base", "top"], "parents first");
    let error = bench.snapshots.prepare(&bench.scope, &key("c"), Some(&key("top")), Labels::new()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt);
    assert!(error.remedy().unwrap().contains("--repair"), "{error}");

    // the wrong kind and the wrong parent are refused
    let made = bench.snapshots.prepare(&bench.scope, &key("new"), None, Labels::new()).await.unwrap();
    let refused = bench.snapshots.renew(&bench.scope, &key("top"), &key("new")).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Precondition);
    std::fs::write(std::path::Path::new(&made[0].source).join("base"), "again").unwrap();
    bench.snapshots.renew(&bench.scope, &key("base"), &key("new")).await.unwrap();
    let found = bench.snapshots.damaged(true).await.unwrap();
    assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["top"]);
    bench.snapshots.prepare(&bench.scope, &key("new"), Some(&key("base")), Labels::new()).await.unwrap();
    bench.snapshots.renew(&bench.scope, &key("top"), &key("new")).await.unwrap();
    assert!(bench.snapshots.damaged(true).await.unwrap().is_empty());
    assert!(bench.records().bad().await.unwrap().is_empty(), "marks of children fit");
    let child = bench.snapshots.prepare(&bench.scope, &key("c"), Some(&key("top")), Labels::new()).await.unwrap();
    assert_eq!(std::fs::read(std::path::Path::new(&child[0].source).join("base")).unwrap(), b"again");
    assert!(bench.snapshots.remove(&bench.scope, &key("base")).await.is_err(), "it has a child");
    let renewed = bench.snapshots.stat(&bench.scope, &key("base")).await.unwrap();
    assert_eq!((renewed.created_at, &renewed.labels), (base.created_at, &base.labels));
}

#[tokio::test]
async fn folders_without_a_snapshot_are_strays() {
    let bench = Bench::new().await;
    family(&bench).await;
    let root = bench.folder.path().join("native/snapshots");
    for name in ["777", "notes"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    let strays = bench.snapshots.strays().await.unwrap();
    assert_eq!(strays.len(), 2, "{strays:?}");
    for stray in &strays {
        bench.snapshots.clear(stray).await.unwrap();
        assert!(!stray.path.exists());
    }
    assert!(bench.folder.path().join("native/quarantine/notes").exists());
    assert!(bench.snapshots.strays().await.unwrap().is_empty());
}

impl Bench {
    fn records(&self) -> Arc<Records> {
        Records::new(self.metadata.clone())
    }
}

async fn objects(bench: &Bench) -> Vec<String> {
    bench.records().bad().await.unwrap().into_iter().map(|bad| bad.object).collect()
}

#[tokio::test]
async fn records_that_refer_to_nothing_are_told_and_put_right() {
    let bench = Bench::new().await;
    family(&bench).await;
    let target = write(&bench, "manifest", Labels::new()).await;
    bench.images.create(&bench.scope, image("whole", &target)).await.unwrap();
    let mut box_ = container("c1");
    (box_.snapshotter, box_.snapshot_key) = ("native".into(), "top".into());
    bench.containers.create(&bench.scope, box_, vec![]).await.unwrap();
    assert_eq!(objects(&bench).await, Vec::<String>::new());

    bench.images.create(&bench.scope, image("empty", &sha256(b"nowhere"))).await.unwrap();
    let mut lost = container("c2");
    (lost.snapshotter, lost.snapshot_key) = ("native".into(), "nothing".into());
    bench.containers.create(&bench.scope, lost, vec![]).await.unwrap();
    let bytes = bytes::Bytes::from_static(b"\xff\xff");
    bench.metadata.commit(vec![Op::Put(BLOBS.key("default", "sha256:bad"), bytes)]).await.unwrap();
    let mark = crate::snapshots::child_key("default", "native", "base", "top");
    let ghost = crate::snapshots::child_key("default", "native", "top", "ghost");
    bench.metadata.commit(vec![Op::Delete(mark.clone()), CHILDREN.put(ghost.clone(), &Mark {})]).await.unwrap();
    let bad = bench.records().bad().await.unwrap();
    let told: Vec<_> = bad.iter().map(|bad| (bad.object.as_str(), bad.repair.is_empty())).collect();
    assert_eq!(
        told,
        [
            ("record blob/default/sha256:bad", true),
            ("image empty", true),
            ("container c2", true),
            ("snapshot native top", false),
            ("snapshot native top", false),
        ]
    );
    for bad in bad {
        bench.metadata.commit(bad.repair).await.unwrap();
    }
    assert!(bench.metadata.get(&mark).await.unwrap().is_some());
    assert!(bench.metadata.get(&ghost).await.unwrap().is_none());
    assert_eq!(objects(&bench).await.len(), 3);
}

#[tokio::test]
async fn who_needs_a_thing_is_found_through_everything_between() {
    let bench = Bench::new().await;
    family(&bench).await;
    let layer = write(&bench, "layer", Labels::new()).await;
    let config = write(&bench, "config", labels(&[("containerd.io/gc.ref.snapshot.native", "top")])).await;
    let refs = [
        ("containerd.io/gc.ref.content.config", config.as_str()),
        ("containerd.io/gc.ref.content.l.0", layer.as_str()),
    ];
    let manifest = write(&bench, "manifest", labels(&refs)).await;
    for name in ["b", "a"] {
        bench.images.create(&bench.scope, image(name, &manifest)).await.unwrap();
    }
    let mut box_ = container("c1");
    (box_.snapshotter, box_.snapshot_key) = ("native".into(), "top".into());
    bench.containers.create(&bench.scope, box_, vec![]).await.unwrap();
    let things = [
        Resource { kind: ResourceKind::Content, id: layer.to_string() },
        Resource { kind: ResourceKind::Snapshot("native".into()), id: "base".into() },
        Resource { kind: ResourceKind::Content, id: sha256(b"else").to_string() },
    ];
    let images = [Referrer::Image("a".into()), Referrer::Image("b".into())];
    let found = bench.records().referrers(&bench.scope.namespace, &things).await.unwrap();
    assert_eq!(found[0], images);
    assert_eq!(found[1], [&images[..], &[Referrer::Container("c1".into())]].concat());
    assert!(found[2].is_empty());
    bench.containers.delete(&bench.scope, &id("c1"), vec![]).await.unwrap();
    let found = bench.records().referrers(&bench.scope.namespace, &things[1..2]).await.unwrap();
    assert_eq!(found[0], images);
}
