//! A host for one test: stores and shims outlive the engine, which can be ended and made anew.

use crate::fakes::*;
use crated_api::crated::engine::v1::run_response::Step;
use crated_api::crated::engine::v1::{
    ContainerConfig, CreateRequest, Created, ListRequest, RunResponse, StartRequest, WaitRequest, WaitResponse,
};
use crated_core::fake::MemoryMetadata;
use crated_core::{ContainerStore, ProcessStatus};
use crated_engine::{Deps, Engine, EngineConfig, Stream};
use crated_types::{Actor, Error, Namespace, Result, Scope};
use futures::StreamExt;
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio_util::task::TaskTracker;

pub(crate) fn scope() -> Scope {
    Scope::new(Namespace::new("test").unwrap(), Actor::daemon("test"))
}

/// What is durable.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) store: Arc<MemoryMetadata>,
    pub(crate) shims: Arc<Shims>,
    pub(crate) snapshots: Arc<Mutex<BTreeSet<String>>>,
    pub(crate) folder: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("image/data")).unwrap();
        Self { store: Arc::default(), shims: Arc::default(), snapshots: Arc::default(), folder }
    }

    /// A daemon that reconciled and follows the log.
    pub(crate) async fn daemon(&self) -> Daemon {
        let daemon = self.daemon_with(Arc::default());
        let report = daemon.engine.reconcile().await.unwrap();
        assert!(report.failed.is_empty(), "{report:?}");
        daemon
    }

    /// A daemon that crashes, and does not reconcile before.
    pub(crate) fn daemon_with(&self, crash: Arc<Crash>) -> Daemon {
        let metadata = Arc::new(Metadata { inner: Arc::clone(&self.store), crash: Arc::clone(&crash) });
        let images = Images::default();
        lock(&images.0).insert("docker.io/library/bb:1".into(), image("docker.io/library/bb:1"));
        let snapshots = Snapshots {
            crash: Arc::clone(&crash),
            folder: self.folder.path().join("image"),
            keys: Arc::clone(&self.snapshots),
        };
        let tasks = Arc::new(Tasks { crash, shims: Arc::clone(&self.shims), store: Arc::clone(&self.store) });
        let tracker = TaskTracker::new();
        let engine = Engine::new(Deps {
            metadata: metadata.clone(),
            containers: Arc::new(Containers(metadata)),
            images: Arc::new(images),
            content: Arc::new(Unused),
            leases: Arc::new(Unused),
            snapshotters: BTreeMap::from([(
                "fake".to_owned(),
                Arc::new(snapshots) as Arc<dyn crated_core::Snapshotter>,
            )]),
            tasks: tasks.clone(),
            events: Arc::new(Events(Arc::clone(&self.store))),
            puller: Arc::new(Puller),
            networks: None,
            cni: None,
            names: None,
            root: self.folder.path().join("root"),
            state: self.folder.path().join("state"),
            config: EngineConfig { default_snapshotter: "fake".into(), ..EngineConfig::default() },
            tracker: tracker.clone(),
        });
        Daemon { engine, tasks, tracker }
    }

    /// Every trace of containers: records, snapshots, shims, folders, volumes.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut traces: Vec<String> = self.store.keys().into_iter().filter(|key| !key.starts_with("engine/")).collect();
        traces.extend(lock(&self.snapshots).iter().map(|key| format!("snapshot {key}")));
        traces.extend(lock(&self.shims.map).keys().map(|id| format!("shim {id}")));
        for kind in ["containers", "volumes"] {
            let folder = self.folder.path().join("root").join(kind).join("test");
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                traces.push(format!("{kind} {}", entry.unwrap().file_name().display()));
            }
        }
        traces
    }
}

/// One life of the daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) engine: Arc<Engine>,
    pub(crate) tasks: Arc<Tasks>,
    tracker: TaskTracker,
}

impl Daemon {
    pub(crate) async fn create(&self, config: ContainerConfig) -> Result<Created> {
        container(self.engine.create(&scope(), CreateRequest { config: Some(config) }).await?).await
    }

    pub(crate) async fn start(&self, name: &str) -> Result<u32> {
        Ok(self.engine.start(&scope(), StartRequest { container: name.into(), ..StartRequest::default() }).await?.pid)
    }

    pub(crate) async fn wait(&self, name: &str) -> Result<WaitResponse> {
        self.engine.wait(&scope(), WaitRequest { container: name.into(), removed: false }).await
    }

    pub(crate) async fn inspect(&self, name: &str) -> Value {
        let request = crated_api::crated::engine::v1::InspectRequest { name: name.into() };
        serde_json::from_str(&self.engine.inspect(&scope(), request).await.unwrap().json).unwrap()
    }

    pub(crate) async fn state(&self, name: &str) -> String {
        self.inspect(name).await["State"]["Status"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        let listed = self.engine.list(&scope(), ListRequest { all: true, ..ListRequest::default() }).await.unwrap();
        listed.containers.into_iter().map(|container| container.name).collect()
    }

    /// Until what `look` asks for holds. The engine acts on events by itself: there is nothing to await but its effect.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, mut look: impl FnMut() -> F) {
        for _ in 0..2000 {
            if look().await {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("it does not come about");
    }

    pub(crate) fn status(&self, id: &str) -> Option<ProcessStatus> {
        lock(&self.tasks.shims.map).get(id).map(|process| process.status)
    }

    /// Ends the daemon; what is durable stays.
    pub(crate) async fn stop(self) {
        self.engine.close();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Containers that a client of containerd makes.
    pub(crate) async fn foreign(&self, store: &Arc<MemoryMetadata>, id: &str) {
        let containers = Containers(Arc::new(Metadata { inner: Arc::clone(store), crash: Arc::default() }));
        let record = crated_core::record::Container { id: id.into(), image: "i".into(), ..Default::default() };
        containers.create(&scope(), record, vec![]).await.unwrap();
    }
}

/// The container at the end of a stream.
pub(crate) async fn container(mut stream: Stream<RunResponse>) -> Result<Created> {
    while let Some(answer) = stream.next().await {
        if let Some(Step::Container(created)) = answer?.step {
            return Ok(created);
        }
    }
    Err(Error::internal("the stream ended without a container"))
}

pub(crate) fn wish(name: &str) -> ContainerConfig {
    ContainerConfig { name: name.into(), image: "bb:1".into(), ..ContainerConfig::default() }
}
