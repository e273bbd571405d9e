//! What the tests of the stores share: all of them over one real metadata store in a folder of its own.

use crated_core::record::{Container, Image, Target};
use crated_core::{Cursor, EventLog, MetadataStore, SnapshotKind};
use crated_snapshotters::{Native, Offload};
use crated_types::{Actor, ContainerId, Digest, IngestRef, Labels, LeaseId, Namespace, Scope, SnapshotKey};
use sha2::Digest as _;
use std::sync::Arc;
use tempfile::TempDir;

use crate::{
    Collector, Containers, Content, Events, Images, Leases, Metadata, Namespaces, Options, Requests, Snapshots,
};

/// Every store, over one folder.
pub(crate) struct Bench {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) content: Arc<Content>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) containers: Arc<Containers>,
    pub(crate) images: Arc<Images>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) events: Arc<Events>,
    pub(crate) collector: Arc<Collector>,
    pub(crate) scope: Scope,
    pub(crate) folder: TempDir,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::over(crate::metadata::tests::folder()).await
    }

    pub(crate) async fn over(folder: TempDir) -> Self {
        let options = Options { segment: 64 << 10, ..Options::default() };
        let (metadata, _) = Metadata::open(&folder.path().join("metadata"), options).unwrap();
        let requests = Requests::new();
        let content = Content::open(&folder.path().join("content"), metadata.clone(), requests.clone()).unwrap();
        let backend = Offload::new(Arc::new(Native::open(&folder.path().join("native")).unwrap()), 4);
        let snapshots = Snapshots::open("native", backend, metadata.clone(), requests.clone()).await.unwrap();
        Self {
            containers: Containers::new(metadata.clone(), requests.clone()),
            images: Images::new(metadata.clone(), requests.clone()),
            namespaces: Namespaces::new(metadata.clone()),
            leases: Leases::new(metadata.clone(), requests.clone()),
            events: Events::new(metadata.clone()),
            collector: Collector::new(metadata.clone(), content.clone(), vec![snapshots.clone()], requests),
            scope: scope("default"),
            metadata,
            content,
            snapshots,
            folder,
        }
    }

    /// Closes everything and opens it again.
    pub(crate) async fn restart(self) -> Self {
        let folder = self.close();
        Self::over(folder).await
    }

    /// Closes everything; what is left is the folder.
    fn close(self) -> TempDir {
        self.folder
    }

    /// Topics of all events so far.
    pub(crate) async fn topics(&self) -> Vec<String> {
        let events = self.metadata.events(Cursor::default(), 10_000).await.unwrap();
        events.into_iter().map(|logged| logged.event.topic).collect()
    }

    /// The newest event's topic, type and bytes.
    pub(crate) async fn newest_event(&self) -> (String, String, Vec<u8>) {
        let events = self.metadata.events(Cursor::default(), 10_000).await.unwrap();
        let event = events.into_iter().next_back().unwrap().event;
        let any = event.event.unwrap();
        (event.topic, any.type_url, any.value)
    }

    /// Events are followed through the port, too.
    pub(crate) fn log(&self) -> &dyn EventLog {
        &*self.events
    }
}

pub(crate) fn scope(namespace: &str) -> Scope {
    Scope::new(Namespace::new(namespace).unwrap(), Actor::daemon("test"))
}

pub(crate) fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

pub(crate) fn reference(text: &str) -> IngestRef {
    IngestRef::new(text).unwrap()
}

pub(crate) fn lease(text: &str) -> LeaseId {
    LeaseId::new(text).unwrap()
}

pub(crate) fn id(text: &str) -> ContainerId {
    ContainerId::new(text).unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::sha256(sha2::Sha256::digest(bytes).into())
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

pub(crate) fn image(name: &str, target: &Digest) -> Image {
    let target = Target {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: target.to_string(),
        size: 3,
        ..Target::default()
    };
    Image { name: name.into(), target: Some(target), ..Image::default() }
}

pub(crate) fn container(id: &str) -> Container {
    Container { id: id.into(), runtime_name: "io.containerd.crated.v2".into(), ..Container::default() }
}

pub(crate) fn kind(number: i32) -> SnapshotKind {
    SnapshotKind::from_i32(number).unwrap()
}
