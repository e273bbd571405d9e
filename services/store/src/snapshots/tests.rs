//! Snapshots by name against what containerd's clients rely on, over the copying backend.

use super::*;
use crate::testing::{Bench, key, kind, labels, lease, scope};
use crated_core::LeaseStore;
use crated_types::filter::Filter;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn none() -> Labels {
    Labels::new()
}

fn folders(bench: &Bench) -> usize {
    std::fs::read_dir(bench.folder.path().join("native/snapshots")).unwrap().count()
}

#[tokio::test]
async fn a_life_from_prepare_to_removal() {
    let bench = Bench::new().await;
    let (snapshots, scope_) = (&bench.snapshots, &bench.scope);
    let mounts = snapshots.prepare(scope_, &key("a/1"), None, labels(&[("x", "1")])).await.unwrap();
    assert_eq!(mounts, snapshots.mounts(scope_, &key("a/1")).await.unwrap());
    std::fs::write(std::path::Path::new(&mounts[0].source).join("file"), vec![7; 5000]).unwrap();
    assert!(snapshots.usage(scope_, &key("a/1")).await.unwrap().bytes > 0);
    snapshots.commit(scope_, &key("base"), &key("a/1"), None, labels(&[("y", "2")])).await.unwrap();
    let base = snapshots.stat(scope_, &key("base")).await.unwrap();
    assert_eq!((kind(base.kind), &base.labels), (SnapshotKind::Committed, &labels(&[("y", "2")])));
    assert!(snapshots.usage(scope_, &key("base")).await.unwrap().bytes > 0);
    assert_eq!(snapshots.stat(scope_, &key("a/1")).await.unwrap_err().fault(), Fault::NotFound);
    assert_eq!(snapshots.mounts(scope_, &key("base")).await.unwrap_err().fault(), Fault::Precondition);

    let child = snapshots.prepare(scope_, &key("child"), Some(&key("base")), none()).await.unwrap();
    assert!(std::path::Path::new(&child[0].source).join("file").exists());
    snapshots.view(scope_, &key("view"), Some(&key("base")), none()).await.unwrap();
    let error = snapshots.remove(scope_, &key("base")).await.unwrap_err();
    assert_eq!(error.code(), crated_types::Code::FailedPrecondition);
    assert!(error.to_string().contains("remove"), "{error}");
    assert_eq!(
        snapshots.commit(scope_, &key("n"), &key("view"), None, none()).await.unwrap_err().fault(),
        Fault::Precondition
    );
    let filters = Filter::parse_all(&["parent==base,kind==active".into()]).unwrap();
    let listed = snapshots.list(scope_, &filters).await.unwrap();
    assert_eq!(listed.iter().map(|one| &one.name[..]).collect::<Vec<_>>(), ["child"]);
    for name in ["view", "child", "base"] {
        snapshots.remove(scope_, &key(name)).await.unwrap();
    }
    assert_eq!(snapshots.remove(scope_, &key("base")).await.unwrap_err().fault(), Fault::NotFound);
    assert_eq!(folders(&bench), 0);
    let topics = bench.topics().await;
    let wanted = ["prepare", "commit", "prepare", "remove", "remove", "remove"].map(|what| format!("/snapshot/{what}"));
    assert_eq!(topics, wanted, "views have no prepare event");
    assert!(bench.metadata.scan_all(b"snapshotchild/").await.unwrap().is_empty());
}

#[tokio::test]
async fn errors_are_those_that_clients_know() {
    let bench = Bench::new().await;
    let (snapshots, scope_) = (&bench.snapshots, &bench.scope);
    snapshots.prepare(scope_, &key("a"), None, none()).await.unwrap();
    assert_eq!(snapshots.prepare(scope_, &key("a"), None, none()).await.unwrap_err().fault(), Fault::AlreadyExists);
    assert_eq!(
        snapshots.prepare(scope_, &key("b"), Some(&key("no")), none()).await.unwrap_err().fault(),
        Fault::NotFound
    );
    assert_eq!(
        snapshots.prepare(scope_, &key("b"), Some(&key("a")), none()).await.unwrap_err().fault(),
        Fault::Invalid
    );
    assert_eq!(
        snapshots.commit(scope_, &key("n"), &key("no"), None, none()).await.unwrap_err().fault(),
        Fault::NotFound
    );
    snapshots.prepare(&scope("other"), &key("a"), None, none()).await.unwrap();
    assert_eq!(folders(&bench), 2);
    snapshots.commit(scope_, &key("base"), &key("a"), None, none()).await.unwrap();
    snapshots.prepare(scope_, &key("a"), None, none()).await.unwrap();
    assert_eq!(
        snapshots.commit(scope_, &key("base"), &key("a"), None, none()).await.unwrap_err().fault(),
        Fault::AlreadyExists
    );
    assert_eq!(
        snapshots.commit(scope_, &key("a"), &key("a"), None, none()).await.unwrap_err().fault(),
        Fault::AlreadyExists
    );
    let error = snapshots.prepare(&scope_.with_lease(lease("no")), &key("c"), None, none()).await.unwrap_err();
    assert_eq!(error.to_string(), "lease does not exist: not found");
    assert_eq!(folders(&bench), 3);
}

#[tokio::test]
async fn a_known_target_is_told_and_joins_the_lease() {
    let bench = Bench::new().await;
    let (snapshots, held) = (&bench.snapshots, bench.scope.with_lease(lease("l")));
    bench.leases.create(&bench.scope, Some(lease("l")), none()).await.unwrap();
    snapshots.prepare(&bench.scope, &key("e"), None, none()).await.unwrap();
    snapshots.commit(&bench.scope, &key("chain"), &key("e"), None, none()).await.unwrap();
    let wants = labels(&[("containerd.io/snapshot.ref", "chain")]);
    let error = snapshots.prepare(&held, &key("f"), None, wants).await.unwrap_err();
    assert_eq!(error.fault(), Fault::AlreadyExists);
    let resources = bench.leases.resources(&bench.scope, &lease("l")).await.unwrap();
    assert_eq!(resources, [Resource { kind: ResourceKind::Snapshot("native".into()), id: "chain".into() }]);
    snapshots.prepare(&held, &key("g"), Some(&key("chain")), none()).await.unwrap();
    assert_eq!(bench.leases.resources(&bench.scope, &lease("l")).await.unwrap().len(), 2);
    snapshots.remove(&held, &key("g")).await.unwrap();
    assert_eq!(bench.leases.resources(&bench.scope, &lease("l")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_folder_without_a_record_goes_and_numbers_are_not_used_twice() {
    let bench = Bench::new().await;
    let backend = bench.snapshots.inner.backend.clone();
    bench.snapshots.prepare(&bench.scope, &key("a"), None, labels(&[("containerd.io/gc.root", "x")])).await.unwrap();
    let first = bench.snapshots.stat(&bench.scope, &key("a")).await.unwrap().id;
    backend.create(SnapshotId(9999), vec![]).await.unwrap();
    assert_eq!(bench.collector.collect().await.unwrap().files, 1);
    assert_eq!(backend.ids().await.unwrap(), [SnapshotId(first)]);
    drop(backend);
    let bench = bench.restart().await;
    bench.snapshots.prepare(&bench.scope, &key("b"), None, none()).await.unwrap();
    assert!(bench.snapshots.stat(&bench.scope, &key("b")).await.unwrap().id > first);
}

#[derive(Clone, Debug)]
enum Step {
    Prepare(u8, Option<u8>),
    View(u8, Option<u8>),
    Commit(u8, u8),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..5_u8;
    prop_oneof![
        (name(), proptest::option::of(name())).prop_map(|(key, parent)| Step::Prepare(key, parent)),
        (name(), proptest::option::of(name())).prop_map(|(key, parent)| Step::View(key, parent)),
        (name(), name()).prop_map(|(name, key)| Step::Commit(name, key)),
        name().prop_map(Step::Remove),
    ]
}

/// What a step does to a model of kinds and parents; `None` where it must fail.
fn model(known: &mut BTreeMap<String, (SnapshotKind, Option<String>)>, step: &Step) -> Option<()> {
    let name = |number: &u8| format!("s{number}");
    match step {
        Step::Prepare(key, parent) | Step::View(key, parent) => {
            let parent = parent.as_ref().map(name);
            if let Some(parent) = &parent {
                known.get(parent).filter(|found| found.0 == SnapshotKind::Committed)?;
            }
            let kind = if matches!(step, Step::View(..)) { SnapshotKind::View } else { SnapshotKind::Active };
            (!known.contains_key(&name(key))).then(|| known.insert(name(key), (kind, parent)))?;
        }
        Step::Commit(new, key) => {
            known.get(&name(key)).filter(|found| found.0 == SnapshotKind::Active)?;
            if known.contains_key(&name(new)) {
                return None;
            }
            let (_, parent) = known.remove(&name(key))?;
            known.insert(name(new), (SnapshotKind::Committed, parent));
        }
        Step::Remove(key) => {
            if known.values().any(|(_, parent)| parent.as_ref() == Some(&name(key))) {
                return None;
            }
            known.remove(&name(key))?;
        }
    }
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn names_follow_the_model(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new().await;
            let (snapshots, scope) = (&bench.snapshots, &bench.scope);
            let name = |number: &u8| key(&format!("s{number}"));
            let mut known = BTreeMap::new();
            for step in &steps {
                let done = match step {
                    Step::Prepare(one, parent) => {
                        snapshots.prepare(scope, &name(one), parent.as_ref().map(name).as_ref(), none()).await.map(|_| ())
                    }
                    Step::View(one, parent) => {
                        snapshots.view(scope, &name(one), parent.as_ref().map(name).as_ref(), none()).await.map(|_| ())
                    }
                    Step::Commit(new, one) => snapshots.commit(scope, &name(new), &name(one), None, none()).await,
                    Step::Remove(one) => snapshots.remove(scope, &name(one)).await,
                };
                assert_eq!(done.is_ok(), model(&mut known, step).is_some(), "{step:?}: {done:?}");
                let found: BTreeMap<_, _> = snapshots.list(scope, &Filters::default()).await.unwrap().into_iter()
                    .map(|one| (one.name, (kind(one.kind), Some(one.parent).filter(|parent| !parent.is_empty())))).collect();
                assert_eq!(found, known);
                assert_eq!(folders(&bench), known.len());
            }
        });
    }
}
