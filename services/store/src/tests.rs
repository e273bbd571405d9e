//! Containers, images, namespaces, leases and events against what containerd's clients rely on.

use crate::testing::{Bench, container, id, image, labels, lease, scope, sha256};
use bytes::Bytes;
use crated_core::record::{Container, Event, Target};
use crated_core::{
    ContainerStore, ContentStore, ImageStore, LeaseStore, Mask, MetadataStore, NamespaceStore, Op, Resource,
    ResourceKind, Revision, time,
};
use crated_types::filter::{Filter, Filters};
use crated_types::{Actor, Fault, Labels, Namespace};
use futures::StreamExt;
use prost::Message;
use prost_types::Any;

fn paths(paths: &[&str]) -> Mask {
    Mask::Paths(paths.iter().map(|path| (*path).into()).collect())
}

fn all() -> Filters {
    Filters::default()
}

#[tokio::test]
async fn containers() {
    let bench = Bench::new().await;
    let (store, scope_) = (&bench.containers, &bench.scope);
    let error = store.get(scope_, &id("x")).await.unwrap_err();
    assert_eq!(error.to_string(), "container \"x\" in namespace \"default\": not found");
    for (wrong, why) in [
        (Container { id: "a/b".into(), ..container("a") }, "identifier"),
        (Container { runtime_name: String::new(), ..container("a") }, "runtime"),
        (Container { snapshot_key: "k".into(), ..container("a") }, "snapshotter"),
        (Container { extensions: [(String::new(), Any::default())].into(), ..container("a") }, "extensions"),
        (Container { labels: labels(&[("k", &"x".repeat(4096))]), ..container("a") }, "4096"),
    ] {
        let error = store.create(scope_, wrong, Vec::new()).await.unwrap_err();
        assert!(error.fault() == Fault::Invalid && error.to_string().contains(why), "{error}");
    }
    let spec = Any { type_url: "types.containerd.io/x".into(), value: vec![1] };
    let made = Container {
        spec: Some(spec.clone()),
        labels: labels(&[("a", "1"), ("b", "")]),
        snapshotter: "native".into(),
        ..container("c")
    };
    let with = vec![Op::Put(b"t//mine".to_vec(), Bytes::from_static(b"1"))];
    let made = store.create(scope_, made, with).await.unwrap();
    assert_eq!((&made.labels, made.created_at), (&labels(&[("a", "1")]), made.updated_at));
    assert!(bench.metadata.get(b"t//mine").await.unwrap().is_some());
    assert_eq!(store.create(scope_, container("c"), Vec::new()).await.unwrap_err().fault(), Fault::AlreadyExists);
    let refused = vec![Op::Expect(b"t//mine".to_vec(), Revision::ABSENT)];
    assert_eq!(store.create(scope_, container("d"), refused.clone()).await.unwrap_err().fault(), Fault::Conflict);
    assert_eq!(store.delete(scope_, &id("c"), refused).await.unwrap_err().fault(), Fault::Conflict);
    let (topic, name, value) = bench.newest_event().await;
    assert_eq!((&topic[..], &name[..]), ("/containers/create", "containerd.events.ContainerCreate"));
    let event = crated_api::containerd::events::ContainerCreate::decode(&value[..]).unwrap();
    assert_eq!(event.runtime.unwrap().name, "io.containerd.crated.v2");

    let wanted = Container { labels: labels(&[("x.y", "2")]), image: "i".into(), ..container("c") };
    let got = store.update(scope_, wanted.clone(), &paths(&["labels.x.y", "labels.a"])).await.unwrap();
    assert_eq!((got.labels, got.image, got.spec), (labels(&[("x.y", "2")]), String::new(), Some(spec)));
    assert_eq!(store.update(scope_, wanted.clone(), &paths(&["id"])).await.unwrap_err().fault(), Fault::Invalid);
    assert_eq!(
        store.update(scope_, wanted.clone(), &Mask::All).await.unwrap_err().fault(),
        Fault::Invalid,
        "snapshotter changed"
    );
    let got = store.update(scope_, Container { snapshotter: "native".into(), ..wanted }, &Mask::All).await.unwrap();
    assert_eq!((got.spec, &got.image[..], got.created_at), (None, "i", made.created_at));
    store.create(&scope("other"), container("c"), Vec::new()).await.unwrap();
    store.create(scope_, container("b"), Vec::new()).await.unwrap();
    let ids = store.list(scope_, &all()).await.unwrap().into_iter().map(|one| one.id).collect::<Vec<_>>();
    assert_eq!(ids, ["b", "c"]);
    let filters = Filter::parse_all(&["labels.x.y==2".into()]).unwrap();
    assert_eq!(store.list(scope_, &filters).await.unwrap().len(), 1);
    store.delete(scope_, &id("c"), vec![Op::Delete(b"t//mine".to_vec())]).await.unwrap();
    assert!(bench.metadata.get(b"t//mine").await.unwrap().is_none());
    assert_eq!(store.delete(scope_, &id("c"), Vec::new()).await.unwrap_err().fault(), Fault::NotFound);
    assert_eq!(bench.topics().await.last().unwrap(), "/containers/delete");
}

#[tokio::test]
async fn images() {
    let bench = Bench::new().await;
    let (store, scope_) = (&bench.images, &bench.scope);
    let (one, two) = (sha256(b"1"), sha256(b"2"));
    let without = |change: fn(&mut Target)| {
        let mut image = image("i", &one);
        change(image.target.as_mut().unwrap());
        image
    };
    for wrong in [
        image("", &one),
        without(|target| target.size = 0),
        without(|target| target.media_type.clear()),
        without(|target| target.digest = "sha256:x".into()),
    ] {
        assert_eq!(store.create(scope_, wrong).await.unwrap_err().fault(), Fault::Invalid);
    }
    let made = store.create(scope_, image("docker.io/library/a:1", &one)).await.unwrap();
    assert_eq!(bench.newest_event().await.1, "containerd.services.images.v1.ImageCreate");
    let error = store.create(scope_, image("docker.io/library/a:1", &two)).await.unwrap_err();
    assert_eq!(error.to_string(), "image \"docker.io/library/a:1\" in namespace \"default\": already exists");
    let mut wanted = image("docker.io/library/a:1", &two);
    wanted.labels = labels(&[("k", "v")]);
    wanted.target.as_mut().unwrap().annotations = labels(&[("n", "1")]);
    let got = store.update(scope_, wanted.clone(), &paths(&["annotations.n", "labels"])).await.unwrap();
    let target = got.target.unwrap();
    assert_eq!(
        (&target.digest[..], target.annotations, &got.labels),
        (one.as_str(), labels(&[("n", "1")]), &labels(&[("k", "v")]))
    );
    let got = store.put(scope_, wanted.clone()).await.unwrap();
    assert_eq!((&got.target.unwrap().digest[..], got.created_at), (two.as_str(), made.created_at));
    assert_eq!(store.update(scope_, wanted.clone(), &paths(&["name"])).await.unwrap_err().fault(), Fault::Invalid);
    wanted.target = None;
    assert_eq!(store.update(scope_, wanted.clone(), &Mask::All).await.unwrap_err().fault(), Fault::Invalid);
    wanted.name = "no".into();
    assert_eq!(store.update(scope_, wanted, &Mask::All).await.unwrap_err().fault(), Fault::NotFound);
    let filters = Filter::parse_all(&["name==docker.io/library/a:1".into(), "labels.no".into()]).unwrap();
    assert_eq!(store.list(scope_, &filters).await.unwrap().len(), 1);
    let filters = Filter::parse_all(&["name==docker.io/library/a:1,labels.k==w".into()]).unwrap();
    assert_eq!(store.list(scope_, &filters).await.unwrap().len(), 0);
    assert_eq!(
        store.delete(scope_, "docker.io/library/a:1", Some(&one), false).await.unwrap_err().fault(),
        Fault::NotFound
    );
    store.delete(scope_, "docker.io/library/a:1", Some(&two), false).await.unwrap();
    assert_eq!(store.get(scope_, "docker.io/library/a:1").await.unwrap_err().fault(), Fault::NotFound);
    assert_eq!(bench.topics().await, ["create", "update", "update", "delete"].map(|what| format!("/images/{what}")));
}

#[tokio::test]
async fn namespaces() {
    let bench = Bench::new().await;
    let (store, actor) = (&bench.namespaces, Actor::daemon("test"));
    let name = |text: &str| Namespace::new(text).unwrap();
    assert_eq!(store.get(&name("no")).await.unwrap(), Labels::new());
    assert_eq!(store.delete(&actor, &name("no")).await.unwrap_err().to_string(), "namespace \"no\": not found");
    store.create(&actor, &name("a"), labels(&[("k", "v")])).await.unwrap();
    assert_eq!(store.create(&actor, &name("a"), Labels::new()).await.unwrap_err().fault(), Fault::AlreadyExists);
    store.update(&actor, &name("b"), labels(&[("l", "w")]), &paths(&["labels.l"])).await.unwrap();
    assert_eq!(
        store.update(&actor, &name("b"), Labels::new(), &paths(&["name"])).await.unwrap_err().fault(),
        Fault::Invalid
    );
    bench.images.create(&scope("a-z"), image("i", &sha256(b"1"))).await.unwrap();
    let content = sha256(b"c");
    bench
        .content
        .write_all(&scope("a0"), &crate::testing::reference("r"), "c".into(), &content, Labels::new())
        .await
        .unwrap();
    bench.containers.create(&scope("a0"), container("c"), Vec::new()).await.unwrap();
    let names = store.list().await.unwrap().into_iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(names, ["a", "a-z", "a0", "b"]);
    assert_eq!(store.get(&name("a")).await.unwrap(), labels(&[("k", "v")]));
    let error = store.delete(&actor, &name("a0")).await.unwrap_err();
    assert_eq!(error.code(), crated_types::Code::FailedPrecondition);
    assert!(
        error.to_string().starts_with("namespace \"a0\" must be empty, but it still has blobs, containers"),
        "{error}"
    );
    bench.images.delete(&scope("a-z"), "i", None, false).await.unwrap();
    bench.leases.create(&scope("a-z"), Some(lease("l")), Labels::new()).await.unwrap();
    store.delete(&actor, &name("a-z")).await.unwrap();
    assert_eq!(bench.newest_event().await.0, "/namespaces/delete");
    let names = store.list().await.unwrap().into_iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(names, ["a", "a0", "b"]);
}

#[tokio::test]
async fn leases() {
    let bench = Bench::new().await;
    let (store, scope_) = (&bench.leases, &bench.scope);
    let random = store.create(scope_, None, labels(&[("k", "v")])).await.unwrap();
    assert!(random.id.contains('-') && random.created_at.is_some());
    store.create(scope_, Some(lease("a b/c")), Labels::new()).await.unwrap();
    assert_eq!(
        store.create(scope_, Some(lease("a b/c")), Labels::new()).await.unwrap_err().fault(),
        Fault::AlreadyExists
    );
    let filters = Filter::parse_all(&["labels.k".into()]).unwrap();
    assert_eq!(store.list(scope_, &filters).await.unwrap(), [random]);
    let blob = Resource { kind: ResourceKind::Content, id: sha256(b"x").to_string() };
    let snapshot = Resource { kind: "snapshots/native".parse().unwrap(), id: "s/1".into() };
    store.add(scope_, &lease("a b/c"), blob.clone()).await.unwrap();
    store.add(scope_, &lease("a b/c"), snapshot.clone()).await.unwrap();
    assert_eq!(store.resources(scope_, &lease("a b/c")).await.unwrap(), [blob.clone(), snapshot.clone()]);
    let bad = Resource { id: "x".into(), ..blob.clone() };
    assert_eq!(store.add(scope_, &lease("a b/c"), bad).await.unwrap_err().fault(), Fault::Invalid);
    assert_eq!(store.add(scope_, &lease("no"), blob.clone()).await.unwrap_err().fault(), Fault::NotFound);
    assert_eq!(store.resources(scope_, &lease("no")).await.unwrap_err().fault(), Fault::NotFound);
    store.remove(scope_, &lease("a b/c"), &blob).await.unwrap();
    assert_eq!(store.resources(scope_, &lease("a b/c")).await.unwrap(), [snapshot]);
    store.delete(scope_, &lease("a b/c"), false).await.unwrap();
    assert_eq!(store.delete(scope_, &lease("a b/c"), false).await.unwrap_err().fault(), Fault::NotFound);
    assert!(bench.metadata.scan_all(b"leased/").await.unwrap().is_empty());
    let error = bench.images.create(&scope_.with_lease(lease("no")), image("plain", &sha256(b"1"))).await;
    error.expect("an image that cannot expire does not join the lease");
    let mut expiring = image("i", &sha256(b"1"));
    expiring.labels = labels(&[("containerd.io/gc.expire", "2000-01-01T00:00:00Z")]);
    let error = bench.images.create(&scope_.with_lease(lease("no")), expiring).await.unwrap_err();
    assert_eq!(error.to_string(), "lease does not exist: not found");
}

#[tokio::test]
async fn events() {
    let bench = Bench::new().await;
    let log = bench.log();
    for topic in ["", "x", "/", "/a/", "/a//b", "/a b", "/-a"] {
        assert_eq!(
            log.publish(&bench.scope, topic, Any::default()).await.unwrap_err().fault(),
            Fault::Invalid,
            "{topic}"
        );
    }
    log.publish(&bench.scope, "/before/1", Any::default()).await.unwrap();
    let mut live = log.subscribe(None);
    let mut early = log.subscribe(Some(Default::default()));
    log.publish(&bench.scope, "/mine/2", Any { type_url: "t".into(), value: vec![1] }).await.unwrap();
    let forwarded =
        Event { namespace: "ns".into(), topic: "/tasks/exit".into(), timestamp: Some(time::now()), ..Event::default() };
    for wrong in [
        Event { namespace: "a/b".into(), ..forwarded.clone() },
        Event { topic: "tasks".into(), ..forwarded.clone() },
        Event { timestamp: None, ..forwarded.clone() },
    ] {
        assert_eq!(log.forward(wrong).await.unwrap_err().fault(), Fault::Invalid);
    }
    log.forward(forwarded.clone()).await.unwrap();
    let first = live.next().await.unwrap().unwrap();
    assert_eq!(
        (&first.event.topic[..], &first.event.namespace[..], &first.event.actor[..]),
        ("/mine/2", "default", "crated")
    );
    assert_eq!(live.next().await.unwrap().unwrap().event, forwarded);
    assert_eq!(early.next().await.unwrap().unwrap().event.topic, "/before/1");
    assert_eq!(early.next().await.unwrap().unwrap().cursor, first.cursor);
    let later = tokio::spawn(async move { live.next().await.unwrap().unwrap().event.topic });
    log.publish(&bench.scope, "/later/3", Any::default()).await.unwrap();
    assert_eq!(later.await.unwrap(), "/later/3");
}
