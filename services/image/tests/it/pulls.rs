//! Whole pulls: what they leave in the stores, and what they leave when they fail.

use super::client::config;
use super::fakes::{Content, Images, Leases};
use super::images::{self, Built, Layer};
use super::registry_fixture::Registry;
use super::snapshots::Folders;
use crated_core::pull::{ImagePuller, Pull};
use crated_core::record::Image;
use crated_core::{ContentStore, LeaseStore, Resource, ResourceKind, SnapshotKind, Snapshotter};
use crated_image::manifest::sha256;
use crated_image::{ImageService, Options, Ports, RegistryConfig};
use crated_types::descriptor::media;
use crated_types::filter::Filter;
use crated_types::{Actor, Error, Fault, Labels, LeaseId, Namespace, Platform, Reference, Result, Scope, SnapshotKey};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::sync::mpsc;

/// The stores and a service over them.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) content: Arc<Content>,
    pub(crate) images: Arc<Images>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) folders: Arc<Folders>,
    pub(crate) service: ImageService,
    pub(crate) scope: Scope,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let leases = Arc::new(Leases::default());
        let content = Content::new(&dir.path().join("content"), leases.clone());
        let folders = Folders::new(&dir.path().join("snapshots"));
        let images = Arc::new(Images::default());
        let service = service(&content, &images, &leases, &folders);
        let scope = Scope::new(Namespace::new("default").unwrap(), Actor::daemon("test"));
        Self { dir, content, images, leases, folders, service, scope }
    }

    /// The daemon is started again: the stores stay.
    pub(crate) fn restart(&mut self) {
        self.service = service(&self.content, &self.images, &self.leases, &self.folders);
    }

    pub(crate) async fn pull(&self, request: Pull) -> Result<Image> {
        let (sink, _progress) = mpsc::channel(1024);
        self.service.pull(&self.scope, request, sink).await
    }

    pub(crate) async fn fails(&self, request: Pull, fault: Fault) -> Error {
        let error = self.pull(request).await.unwrap_err();
        assert_eq!(error.fault(), fault, "{error:?}");
        error
    }

    /// Nothing of an unfinished pull is left: without a lease the collector takes blobs and ingests.
    pub(crate) fn is_clean(&self) {
        assert!(self.leases.0.lock().unwrap().is_empty(), "{:?}", self.leases);
        let active: Vec<_> =
            self.folders.names().into_iter().filter(|(_, kind)| *kind != SnapshotKind::Committed).collect();
        assert!(active.is_empty(), "{active:?}");
    }

    pub(crate) fn text(&self, image: &Built, path: &str) -> Option<String> {
        let folder = self.folders.folder(image.chain().last().unwrap().as_str()).unwrap();
        std::fs::read_to_string(folder.join(path)).ok()
    }

    pub(crate) async fn labels(&self, bytes: &[u8]) -> Labels {
        self.content.info(&self.scope, &sha256(bytes)).await.unwrap().labels
    }
}

fn service(content: &Arc<Content>, images: &Arc<Images>, leases: &Arc<Leases>, folders: &Arc<Folders>) -> ImageService {
    let snapshotter: Arc<dyn Snapshotter> = folders.clone();
    ImageService::new(
        Ports {
            content: content.clone(),
            images: images.clone(),
            leases: leases.clone(),
            snapshotters: [("folders".to_owned(), snapshotter)].into(),
        },
        Options { registry: RegistryConfig { retries: 2, ..config() }, sync: false, ..Options::default() },
    )
}

pub(crate) fn request(name: &str) -> Pull {
    Pull {
        reference: Reference::parse(name).unwrap(),
        platform: Platform::host(),
        credentials: None,
        plain_http: false,
        snapshotter: Some("folders".into()),
    }
}

fn other_platform() -> Platform {
    Platform::parse("linux/s390x").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_leaves_content_labels_snapshots_and_a_record() {
    let registry = Registry::start().await;
    let image = images::three();
    let other = Built::of(vec![Layer::plain(&[("x", b"s390")])], other_platform());
    registry.put_image(&image, None);
    registry.put_image(&other, None);
    let index = images::index(&[&other, &image]);
    registry.put_document(media::OCI_INDEX, &index, Some("1"));
    let rig = Rig::new();
    let name = registry.name("team/x:1");
    let pulled = rig.pull(request(&name)).await.unwrap();

    assert_eq!(pulled.name, name);
    assert_eq!(pulled.target.as_ref().unwrap().digest, sha256(&index).as_str());
    assert_eq!(rig.text(&image, "a").as_deref(), Some("third"));
    assert_eq!(rig.text(&image, "b/c").as_deref(), Some("second"));
    assert_eq!(rig.text(&image, "gone"), None);
    let committed: Vec<String> = rig.folders.names().into_iter().map(|(name, _)| name).collect();
    let mut chain: Vec<String> = image.chain().iter().map(ToString::to_string).collect();
    chain.sort();
    assert_eq!(committed, chain);

    let gc = "containerd.io/gc.ref.content";
    assert_eq!(rig.labels(&index).await[&format!("{gc}.m.1")], image.digest().as_str());
    let labels = rig.labels(&image.manifest).await;
    assert_eq!(labels[&format!("{gc}.config")], sha256(&image.config).as_str());
    assert_eq!(labels[&format!("{gc}.l.2")], image.layers[2].digest().as_str());
    let labels = rig.labels(&image.config).await;
    assert_eq!(labels["containerd.io/gc.ref.snapshot.folders"], image.chain()[2].as_str());
    let labels = rig.labels(&image.layers[0].bytes).await;
    assert_eq!(labels["containerd.io/uncompressed"], image.layers[0].diff_id.as_str());
    assert_eq!(labels[&format!("containerd.io/distribution.source.{}", registry.address)], "team/x");
    assert_eq!(rig.content.digests().len(), 6); // nothing of the other platform
    rig.is_clean();

    // Again: nothing but the tag is asked for, nothing is unpacked.
    registry.with(|state| state.seen.clear());
    rig.pull(request(&name)).await.unwrap();
    assert_eq!(registry.with(|state| state.seen.len()), 1);
    // Under another tag of the same content; by digest not even the tag.
    registry.with(|state| state.seen.clear());
    rig.pull(request(&registry.name(&format!("other/y@{}", image.digest())))).await.unwrap();
    assert_eq!(registry.with(|state| state.seen.len()), 0);
    let source = format!("containerd.io/distribution.source.{}", registry.address);
    assert_eq!(rig.labels(&image.layers[0].bytes).await[&source], "other/y,team/x");

    let view = rig.service.view(&rig.scope, &pulled, &Platform::host()).await.unwrap();
    assert_eq!(view.manifest.digest, image.digest());
    assert_eq!(view.chain_id.unwrap().as_str(), image.chain()[2].as_str());
    assert_eq!(view.layers.len(), 3);
    let error = rig.service.view(&rig.scope, &pulled, &Platform::parse("linux/riscv64").unwrap()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::NoPlatform);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_pull_twice_at_once_is_one_pull() {
    let registry = Registry::start().await;
    let image = images::three();
    registry.put_image(&image, Some("1"));
    let rig = Rig::new();
    let name = registry.name("x:1");
    let (one, two, three) = tokio::join!(rig.pull(request(&name)), rig.pull(request(&name)), rig.pull(request(&name)));
    assert_eq!(one.unwrap(), two.unwrap());
    three.unwrap();
    assert_eq!(registry.count("GET", "/blobs/"), 4);
    assert_eq!(registry.count("HEAD", "/manifests/"), 1);
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_images_that_share_a_layer_fetch_and_unpack_it_once() {
    let registry = Registry::start().await;
    let base = images::three().layers[0].clone();
    let one = Built::new(vec![base.clone(), Layer::gzip(&[("one", b"1")])]);
    let two = Built::new(vec![base.clone(), Layer::gzip(&[("two", b"2")])]);
    registry.put_image(&one, Some("1"));
    registry.put_image(&two, Some("2"));
    let rig = Rig::new();
    let (first, second) =
        tokio::join!(rig.pull(request(&registry.name("x:1"))), rig.pull(request(&registry.name("x:2"))));
    first.unwrap();
    second.unwrap();
    assert_eq!(registry.count("GET", base.digest().hex()), 1);
    assert_eq!(rig.folders.names().len(), 3);
    assert_eq!(rig.text(&two, "two").as_deref(), Some("2"));
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_is_kept_for_the_next_attempt() {
    let registry = Registry::start().await;
    let filler = vec![b'x'; 8 << 20];
    let image = Built::new(vec![Layer::plain(&[("filler", &filler), ("a", b"third")])]);
    registry.put_image(&image, Some("1"));
    let mut rig = Rig::new();
    let name = registry.name("x:1");
    registry.with(|state| {
        // The configuration comes whole, then every connection is cut.
        state.cuts = std::iter::once(usize::MAX >> 1).chain([4 << 20]).chain(std::iter::repeat_n(0, 50)).collect();
    });
    let error = rig.fails(request(&name), Fault::Unreachable).await;
    assert!(error.to_string().contains(&name), "{error}");
    assert!(!rig.content.open_ingests().is_empty());
    assert_eq!(rig.leases.0.lock().unwrap().len(), 1);

    rig.restart();
    registry.with(|state| {
        state.cuts = VecDeque::new();
        state.seen.clear();
    });
    rig.pull(request(&name)).await.unwrap();
    let ranges: Vec<String> = registry.with(|state| state.seen.iter().filter_map(|seen| seen.range.clone()).collect());
    assert!(!ranges.is_empty());
    assert_eq!(rig.text(&image, "a").as_deref(), Some("third"));
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_applied_while_it_arrives() {
    let registry = Registry::start().await;
    let filler = vec![b'x'; 8 << 20];
    let image = Built::new(vec![Layer::plain(&[("early", b"here"), ("filler", &filler), ("late", b"there")])]);
    registry.put_image(&image, Some("1"));
    let gate = Arc::new(Notify::new());
    registry.with(|state| state.gate = Some((6 << 20, gate.clone())));
    let rig = Rig::new();
    let look = async {
        loop {
            if let Some(folder) = rig.folders.folder(image.chain()[0].as_str())
                && folder.join("early").exists()
            {
                assert!(!folder.join("late").exists());
                gate.notify_one();
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await; // a folder has nothing to await
        }
    };
    let name = registry.name("x:1");
    let (pulled, ()) = tokio::join!(rig.pull(request(&name)), look);
    pulled.unwrap();
    assert_eq!(rig.text(&image, "late").as_deref(), Some("there"));
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_nothing_runs_on() {
    let registry = Registry::start().await;
    let image = images::three();
    registry.put_image(&image, Some("1"));
    let gate = Arc::new(Notify::new());
    registry.with(|state| state.gate = Some((1 << 20, gate.clone())));
    let rig = Rig::new();
    let name = registry.name("x:1");
    let (sink, mut progress) = mpsc::channel(4096);
    let mut pull = Box::pin(rig.service.pull(&rig.scope, request(&name), sink));
    loop {
        tokio::select! {
            answer = &mut pull => panic!("{answer:?}"),
            message = progress.recv() => {
                message.expect("the pull runs");
                if registry.count("GET", "/blobs/") >= 4 {
                    break;
                }
            }
        }
    }
    drop(pull);
    while progress.recv().await.is_some() {} // the job has ended: nobody holds the sink
    let active: Vec<_> = rig.folders.names().into_iter().filter(|(_, kind)| *kind != SnapshotKind::Committed).collect();
    assert!(active.is_empty(), "{active:?}");
    registry.with(|state| state.gate = None);
    rig.pull(request(&name)).await.unwrap();
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extract_snapshot_that_a_crash_left_is_removed() {
    let registry = Registry::start().await;
    let image = images::three();
    registry.put_image(&image, Some("1"));
    let rig = Rig::new();
    let chain = image.chain();
    let left = SnapshotKey::new(&format!("extract-123-crated00ff {}", chain[0])).unwrap();
    let foreign = SnapshotKey::new(&format!("extract-123-AbCd {}", chain[0])).unwrap();
    for key in [&left, &foreign] {
        rig.folders.prepare(&rig.scope, key, None, Labels::new()).await.unwrap();
    }
    rig.pull(request(&registry.name("x:1"))).await.unwrap();
    assert!(rig.folders.stat(&rig.scope, &left).await.is_err());
    rig.folders.stat(&rig.scope, &foreign).await.unwrap(); // a client's own

    let other = SnapshotKey::new("extract-9-crated0001 sha256:ff").unwrap();
    rig.folders.prepare(&rig.scope, &other, None, Labels::new()).await.unwrap();
    assert_eq!(rig.service.recover(&rig.scope).await.unwrap(), 1);
    assert!(rig.folders.stat(&rig.scope, &other).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_leased_is_let_go_unless_a_pull_can_go_on_with_it() {
    let registry = Registry::start().await;
    let image = images::three();
    registry.put_image(&image, Some("1"));
    let rig = Rig::new();
    let named = rig.pull(request(&registry.name("x:1"))).await.unwrap().target.unwrap().digest;
    let lease = async |id: &str, holds: &[(ResourceKind, &str)]| {
        let id = LeaseId::new(id).unwrap();
        rig.leases.create(&rig.scope, Some(id.clone()), Labels::new()).await.unwrap();
        for (kind, of) in holds {
            let resource = Resource { kind: kind.clone(), id: (*of).to_owned() };
            rig.leases.add(&rig.scope, &id, resource).await.unwrap();
        }
    };
    let half = (ResourceKind::Ingest, "layer-sha256:ff");
    lease("crated-import-00ff", std::slice::from_ref(&half)).await;
    lease("crated-unpack-00ff", &[]).await;
    lease("crated-pull-01", &[]).await;
    lease("crated-pull-02", &[half.clone(), (ResourceKind::Content, &named)]).await;
    lease("crated-pull-03-00ff", std::slice::from_ref(&half)).await;
    lease("crated-pull-04", std::slice::from_ref(&half)).await;
    lease("of-a-client", std::slice::from_ref(&half)).await;
    assert_eq!(rig.service.recover(&rig.scope).await.unwrap(), 5);
    let left = rig.leases.list(&rig.scope, &Filter::parse_all(&[]).unwrap()).await.unwrap();
    assert_eq!(left.iter().map(|lease| lease.id.as_str()).collect::<Vec<_>>(), ["crated-pull-04", "of-a-client"]);
}

async fn broken(image: &Built, spoil: impl FnOnce(&Registry), fault: Fault, part: &str) {
    let registry = Registry::start().await;
    registry.put_image(image, Some("1"));
    spoil(&registry);
    let rig = Rig::new();
    let error = rig.fails(request(&registry.name("x:1")), fault).await;
    assert!(error.to_string().contains(part), "{error:?} lacks {part:?}");
    assert!(rig.images.0.lock().unwrap().is_empty());
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_or_hostile_image_leaves_nothing() {
    let image = images::three();
    let digest = image.layers[0].digest();
    let mut other = image.layers[0].bytes.clone();
    other[1000] ^= 1;
    let spoil = |registry: &Registry| drop(registry.with(|state| state.blobs.insert(digest.clone(), other.into())));
    broken(&image, spoil, Fault::DigestMismatch, digest.as_str()).await;
    let gone = |registry: &Registry| drop(registry.with(|state| state.blobs.remove(&image.layers[1].digest())));
    broken(&image, gone, Fault::NotFound, "no such image or blob").await;

    let mut config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    config["rootfs"]["diff_ids"][1] = serde_json::json!(image.layers[0].diff_id.as_str());
    let liar = Built::with_config(image.layers.clone(), Platform::host(), config.clone());
    broken(&liar, |_| (), Fault::DigestMismatch, image.layers[1].digest().as_str()).await;
    config["rootfs"]["diff_ids"] = serde_json::json!([]);
    let short = Built::with_config(image.layers.clone(), Platform::host(), config);
    broken(&short, |_| (), Fault::Malformed, "3 layers").await;

    let mut cut = image.layers[0].clone();
    cut.bytes.truncate(cut.bytes.len() / 2);
    let cut_image = Built::new(vec![cut.clone()]);
    broken(&cut_image, |_| (), Fault::Malformed, cut.digest().as_str()).await;

    let escape = Built::new(vec![Layer::gzip(&[("../escape", b"x")])]);
    let registry = Registry::start().await;
    registry.put_image(&escape, Some("1"));
    let rig = Rig::new();
    let _ = rig.pull(request(&registry.name("x:1"))).await; // refused or kept inside, as the layer code decides
    assert!(!Path::new(rig.dir.path()).join("snapshots/escape").exists());
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_others_says_for_whom() {
    let registry = Registry::start().await;
    let other = Built::of(vec![Layer::plain(&[("x", b"s390")])], other_platform());
    registry.put_image(&other, None);
    registry.put_document(media::OCI_INDEX, &images::index(&[&other]), Some("1"));
    let rig = Rig::new();
    let error = rig.fails(request(&registry.name("x:1")), Fault::NoPlatform).await;
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    rig.is_clean();
    let unknown = Pull { snapshotter: Some("zfs".into()), ..request(&registry.name("x:1")) };
    let error = rig.fails(unknown, Fault::Invalid).await;
    assert!(error.to_string().contains("folders"), "{error}");
    let wanted = Pull { platform: other_platform(), ..request(&registry.name("x:1")) };
    rig.pull(wanted).await.unwrap();
    assert_eq!(rig.text(&other, "x").as_deref(), Some("s390"));
    let missing = rig.fails(request(&registry.name("x:2")), Fault::NotFound).await;
    assert_eq!(missing.step(), Some("resolve"));
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_a_client_fetched_is_unpacked() {
    let registry = Registry::start().await;
    let image = images::three();
    registry.put_image(&image, Some("1"));
    let rig = Rig::new();
    let only = Pull { snapshotter: None, ..request(&registry.name("x:1")) };
    let record = rig.pull(only).await.unwrap();
    assert!(rig.folders.names().is_empty());
    let (sink, _progress) = mpsc::channel(16);
    let chain = rig.service.unpack(&rig.scope, &record, &Platform::host(), "folders", sink).await.unwrap();
    assert_eq!(chain.unwrap().as_str(), image.chain()[2].as_str());
    assert_eq!(rig.text(&image, "a").as_deref(), Some("third"));
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_bytes_of_an_ingest_are_thrown_away_and_fetched_anew() {
    use crated_core::{Expected, Ingest};
    let registry = Registry::start().await;
    let image = images::three();
    registry.put_image(&image, Some("1"));
    let rig = Rig::new();
    let layer = image.layers[0].digest();
    let reference = crated_types::IngestRef::new(&format!("layer-{layer}")).unwrap();
    let mut ingest: Box<dyn Ingest> = rig.content.ingest(&rig.scope, &reference, Expected::default()).await.unwrap();
    ingest.write(bytes::Bytes::from_static(b"not these")).await.unwrap();
    drop(ingest);
    rig.pull(request(&registry.name("x:1"))).await.unwrap();
    assert_eq!(rig.text(&image, "a").as_deref(), Some("third"));
    rig.is_clean();
}
