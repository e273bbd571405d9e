//! Ports without a kernel, a disk or a registry, which can fail at any call as a crash of the daemon does.

use async_trait::async_trait;
use bytes::Bytes;
use crated_api::containerd::events::{TaskDelete, TaskExit};
use crated_core::content::IngestStatus;
use crated_core::fake::MemoryMetadata;
use crated_core::record::{Blob, CONTAINERS, Container, Event, ExitRecord, Image, Lease, Snapshot, Target, TaskRecord};
use crated_core::task::Restored;
use crated_core::*;
use crated_types::filter::{Filter, Filters};
use crated_types::{
    ContainerId, Descriptor, Digest, Error, ExecId, Fault, IngestRef, Kind, Labels, LeaseId, Mount, Namespace,
    Platform, Result, Scope, SnapshotKey,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use prost_types::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the calls that change something; from the chosen one on every call fails, as after a crash.
#[derive(Debug, Default)]
pub(crate) struct Crash {
    calls: AtomicUsize,
    /// The call that fails, counted from 1; 0 for none.
    at: AtomicUsize,
    /// Whether that call still has its effect.
    after_effect: AtomicBool,
    down: AtomicBool,
    /// Commits that a full disk still refuses.
    pub(crate) refused: AtomicUsize,
}

impl Crash {
    pub(crate) fn at(call: usize, after_effect: bool) -> Arc<Self> {
        let crash = Self::default();
        crash.at.store(call, Ordering::SeqCst);
        crash.after_effect.store(after_effect, Ordering::SeqCst);
        Arc::new(crash)
    }

    pub(crate) fn happened(&self) -> bool {
        self.down.load(Ordering::SeqCst)
    }

    fn error() -> Error {
        Error::new(Fault::Unreachable, "crashed")
    }

    fn check(&self) -> Result<()> {
        if self.happened() { Err(Self::error()) } else { Ok(()) }
    }

    /// Around a change: before it or behind it the crash may come.
    async fn around<T>(&self, change: impl Future<Output = Result<T>>) -> Result<T> {
        self.check()?;
        let hit = self.calls.fetch_add(1, Ordering::SeqCst) + 1 == self.at.load(Ordering::SeqCst);
        if !hit {
            return change.await;
        }
        if self.after_effect.load(Ordering::SeqCst) {
            let _ = change.await;
        }
        self.down.store(true, Ordering::SeqCst);
        Err(Self::error())
    }
}

/// Metadata that crashes.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) inner: Arc<MemoryMetadata>,
    pub(crate) crash: Arc<Crash>,
}

#[async_trait]
impl MetadataStore for Metadata {
    async fn get(&self, key: &[u8]) -> Result<Option<Stored>> {
        self.crash.check()?;
        self.inner.get(key).await
    }
    async fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Stored)>> {
        self.crash.check()?;
        self.inner.scan(prefix, after, limit).await
    }
    async fn commit(&self, batch: Vec<Op>) -> Result<Revision> {
        let less = |left: usize| left.checked_sub(1);
        if self.crash.refused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return Err(Error::new(Fault::DiskFull, "no space left"));
        }
        self.crash.around(self.inner.commit(batch)).await
    }
    fn revision(&self) -> Revision {
        self.inner.revision()
    }
    async fn events(&self, after: Cursor, max: usize) -> Result<Vec<LoggedEvent>> {
        self.inner.events(after, max).await
    }
    fn watch(&self) -> BoxStream<'static, Revision> {
        self.inner.watch()
    }
}

#[derive(Debug)]
pub(crate) struct Containers(pub(crate) Arc<Metadata>);

#[async_trait]
impl ContainerStore for Containers {
    async fn get(&self, scope: &Scope, id: &ContainerId) -> Result<Container> {
        let key = CONTAINERS.key(scope.namespace.as_str(), id.as_str());
        let found = CONTAINERS.get(&*self.0, &key).await?;
        found.map(|(_, record)| record).ok_or_else(|| Error::not_found(Kind::Container, id))
    }
    async fn list(&self, scope: &Scope, _filters: &Filters) -> Result<Vec<Container>> {
        let all = CONTAINERS.list(&*self.0, &CONTAINERS.prefix(scope.namespace.as_str())).await?;
        Ok(all.into_iter().map(|(_, _, record)| record).collect())
    }
    async fn create(&self, scope: &Scope, mut container: Container, with: Vec<Op>) -> Result<Container> {
        let key = CONTAINERS.key(scope.namespace.as_str(), &container.id);
        container.created_at = Some(time::now());
        let mut batch = vec![Op::Expect(key.clone(), Revision::ABSENT), CONTAINERS.put(key, &container)];
        batch.extend(with);
        self.0.commit(batch).await?;
        Ok(container)
    }
    async fn update(&self, scope: &Scope, container: Container, _mask: &Mask) -> Result<Container> {
        let key = CONTAINERS.key(scope.namespace.as_str(), &container.id);
        self.0.commit(vec![CONTAINERS.put(key, &container)]).await?;
        Ok(container)
    }
    async fn delete(&self, scope: &Scope, id: &ContainerId, with: Vec<Op>) -> Result<()> {
        self.get(scope, id).await?;
        let mut batch = vec![Op::Delete(CONTAINERS.key(scope.namespace.as_str(), id.as_str()))];
        batch.extend(with);
        self.0.commit(batch).await.map(drop)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Images(pub(crate) Mutex<BTreeMap<String, Image>>);

#[async_trait]
impl ImageStore for Images {
    async fn get(&self, _scope: &Scope, name: &str) -> Result<Image> {
        lock(&self.0).get(name).cloned().ok_or_else(|| Error::not_found(Kind::Image, name))
    }
    async fn list(&self, _scope: &Scope, _filters: &Filters) -> Result<Vec<Image>> {
        Ok(lock(&self.0).values().cloned().collect())
    }
    async fn create(&self, _scope: &Scope, image: Image) -> Result<Image> {
        if lock(&self.0).contains_key(&image.name) {
            return Err(Error::already_exists(Kind::Image, &image.name));
        }
        lock(&self.0).insert(image.name.clone(), image.clone());
        Ok(image)
    }
    async fn update(&self, _scope: &Scope, image: Image, _mask: &Mask) -> Result<Image> {
        lock(&self.0).insert(image.name.clone(), image.clone());
        Ok(image)
    }
    async fn delete(&self, _scope: &Scope, name: &str, _target: Option<&Digest>, _sync: bool) -> Result<()> {
        lock(&self.0).remove(name).map(drop).ok_or_else(|| Error::not_found(Kind::Image, name))
    }
}

/// Ports that the engine's operations do not touch.
#[derive(Debug)]
pub(crate) struct Unused;

fn unused<T>() -> Result<T> {
    Err(Error::new(Fault::Unsupported, "not of these tests"))
}

#[async_trait]
impl ContentStore for Unused {
    async fn info(&self, _: &Scope, _: &Digest) -> Result<Blob> {
        unused()
    }
    async fn open(&self, _: &Scope, _: &Digest) -> Result<Arc<dyn BlobReader>> {
        unused()
    }
    async fn list(&self, _: &Scope, _: &Filters) -> Result<Vec<Blob>> {
        unused()
    }
    async fn update(&self, _: &Scope, _: &Digest, _: &Labels, _: &Mask) -> Result<Blob> {
        unused()
    }
    async fn delete(&self, _: &Scope, _: &Digest) -> Result<()> {
        unused()
    }
    async fn ingest(&self, _: &Scope, _: &IngestRef, _: Expected) -> Result<Box<dyn Ingest>> {
        unused()
    }
    async fn status(&self, _: &Scope, _: &IngestRef) -> Result<IngestStatus> {
        unused()
    }
    async fn statuses(&self, _: &Scope, _: &Filters) -> Result<Vec<IngestStatus>> {
        unused()
    }
    async fn abort(&self, _: &Scope, _: &IngestRef) -> Result<()> {
        unused()
    }
}

#[async_trait]
impl LeaseStore for Unused {
    async fn create(&self, _: &Scope, _: Option<LeaseId>, _: Labels) -> Result<Lease> {
        unused()
    }
    async fn list(&self, _: &Scope, _: &Filters) -> Result<Vec<Lease>> {
        unused()
    }
    async fn delete(&self, _: &Scope, _: &LeaseId, _: bool) -> Result<()> {
        unused()
    }
    async fn add(&self, _: &Scope, _: &LeaseId, _: Resource) -> Result<()> {
        unused()
    }
    async fn remove(&self, _: &Scope, _: &LeaseId, _: &Resource) -> Result<()> {
        unused()
    }
    async fn resources(&self, _: &Scope, _: &LeaseId) -> Result<Vec<Resource>> {
        unused()
    }
}

/// Snapshots are names; all of them show one folder.
#[derive(Debug)]
pub(crate) struct Snapshots {
    pub(crate) crash: Arc<Crash>,
    pub(crate) folder: PathBuf,
    pub(crate) keys: Arc<Mutex<BTreeSet<String>>>,
}

#[async_trait]
impl Snapshotter for Snapshots {
    fn name(&self) -> &str {
        "fake"
    }
    async fn stat(&self, _: &Scope, key: &SnapshotKey) -> Result<Snapshot> {
        if key.as_str() == "sha256:chain" || lock(&self.keys).contains(key.as_str()) {
            return Ok(Snapshot { name: key.to_string(), ..Snapshot::default() });
        }
        Err(Error::not_found(Kind::Snapshot, key))
    }
    async fn update(&self, _: &Scope, _: &SnapshotKey, _: &Labels, _: &Mask) -> Result<Snapshot> {
        unused()
    }
    async fn usage(&self, _: &Scope, _: &SnapshotKey) -> Result<Usage> {
        Ok(Usage::default())
    }
    async fn mounts(&self, _: &Scope, key: &SnapshotKey) -> Result<Vec<Mount>> {
        if !lock(&self.keys).contains(key.as_str()) {
            return Err(Error::not_found(Kind::Snapshot, key));
        }
        Ok(vec![Mount { fstype: "bind".into(), source: self.folder.display().to_string(), ..Mount::default() }])
    }
    async fn prepare(
        &self,
        scope: &Scope,
        key: &SnapshotKey,
        _: Option<&SnapshotKey>,
        _: Labels,
    ) -> Result<Vec<Mount>> {
        self.crash
            .around(async {
                if !lock(&self.keys).insert(key.to_string()) {
                    return Err(Error::already_exists(Kind::Snapshot, key));
                }
                Ok(())
            })
            .await?;
        self.mounts(scope, key).await
    }
    async fn view(&self, _: &Scope, _: &SnapshotKey, _: Option<&SnapshotKey>, _: Labels) -> Result<Vec<Mount>> {
        unused()
    }
    async fn commit(
        &self,
        _: &Scope,
        _: &SnapshotKey,
        _: &SnapshotKey,
        _: Option<&SnapshotKey>,
        _: Labels,
    ) -> Result<()> {
        unused()
    }
    async fn remove(&self, _: &Scope, key: &SnapshotKey) -> Result<()> {
        self.crash
            .around(async {
                if lock(&self.keys).remove(key.as_str()) { Ok(()) } else { Err(Error::not_found(Kind::Snapshot, key)) }
            })
            .await
    }
    async fn list(&self, _: &Scope, _: &Filters) -> Result<Vec<Snapshot>> {
        unused()
    }
    async fn cleanup(&self) -> Result<()> {
        Ok(())
    }
}

/// The event log over the store's.
#[derive(Debug)]
pub(crate) struct Events(pub(crate) Arc<MemoryMetadata>);

#[async_trait]
impl EventLog for Events {
    async fn publish(&self, _: &Scope, _: &str, _: Any) -> Result<()> {
        unused()
    }
    async fn forward(&self, event: Event) -> Result<()> {
        self.0.commit(vec![Op::event(&event)]).await.map(drop)
    }
    fn subscribe(&self, after: Option<Cursor>) -> BoxStream<'static, Result<LoggedEvent>> {
        let store = Arc::clone(&self.0);
        let after = after.unwrap_or(Cursor { revision: store.revision(), index: u32::MAX });
        let pages = futures::stream::unfold((store, after), |(store, after)| async move {
            let mut watch = store.watch();
            loop {
                let page = store.events(after, 100).await.unwrap();
                if let Some(last) = page.last() {
                    let next = last.cursor;
                    return Some((futures::stream::iter(page.into_iter().map(Ok)), (store, next)));
                }
                watch.next().await?;
            }
        });
        pages.flatten().boxed()
    }
}

/// One image, always there.
#[derive(Debug, Default)]
pub(crate) struct Puller;

pub(crate) const CONFIG: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
pub(crate) const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

pub(crate) fn image(name: &str) -> Image {
    let target = Target {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: DIGEST.into(),
        size: 2,
        ..Target::default()
    };
    Image { name: name.into(), target: Some(target), ..Image::default() }
}

#[async_trait]
impl ImagePuller for Puller {
    async fn pull(&self, _: &Scope, request: Pull, _: ProgressSink) -> Result<Image> {
        Err(Error::not_found(Kind::Image, request.reference.to_string()))
    }
    async fn unpack(
        &self,
        _: &Scope,
        _: &Image,
        _: &Platform,
        _: &str,
        _: ProgressSink,
    ) -> Result<Option<SnapshotKey>> {
        unused()
    }
    async fn import(
        &self,
        _: &Scope,
        _: BoxStream<'static, Result<Bytes>>,
        _: Import,
        _: ProgressSink,
    ) -> Result<Vec<Image>> {
        unused()
    }
    async fn export(&self, _: &Scope, _: Export) -> Result<BoxStream<'static, Result<Bytes>>> {
        unused()
    }
    async fn view(&self, _: &Scope, _: &Image, platform: &Platform) -> Result<ImageView> {
        let descriptor = |digest: &str| Descriptor {
            media_type: String::new(),
            digest: digest.parse().unwrap(),
            size: 2,
            annotations: BTreeMap::new(),
        };
        let config = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/true"],"Volumes":{"/data":{}},"StopSignal":"SIGQUIT",
            "Labels":{"from":"image","containerd.io/gc.root":"x"}}}"#;
        Ok(ImageView {
            manifest: descriptor(DIGEST),
            config: descriptor(CONFIG),
            config_bytes: Bytes::from_static(config.as_bytes()),
            platform: platform.clone(),
            diff_ids: Vec::new(),
            chain_id: Some(SnapshotKey::new("sha256:chain").unwrap()),
            layers: Vec::new(),
            size: 10,
        })
    }
}

/// What a shim knows: it outlives the engine.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) namespace: String,
    pub(crate) status: ProcessStatus,
    pub(crate) pid: u32,
    pub(crate) exit: Option<(u32, SystemTime)>,
    pub(crate) ignores_term: bool,
    pub(crate) execs: BTreeMap<String, ProcessStatus>,
    pub(crate) stdio: Stdio,
}

/// Shims of a host.
#[derive(Debug, Default)]
pub(crate) struct Shims {
    pub(crate) map: Mutex<BTreeMap<String, Process>>,
    pub(crate) deleted: AtomicUsize,
    pub(crate) next: AtomicUsize,
    /// What the next start answers instead of running.
    pub(crate) refuse: Mutex<Option<Fault>>,
    /// Whether processes take no notice of the stop signal.
    pub(crate) stubborn: AtomicBool,
    changed: Mutex<Option<Arc<tokio::sync::watch::Sender<u64>>>>,
}

impl Shims {
    fn bell(&self) -> Arc<tokio::sync::watch::Sender<u64>> {
        Arc::clone(lock(&self.changed).get_or_insert_with(|| Arc::new(tokio::sync::watch::channel(0).0)))
    }
}

#[derive(Debug)]
pub(crate) struct Tasks {
    pub(crate) crash: Arc<Crash>,
    pub(crate) shims: Arc<Shims>,
    pub(crate) store: Arc<MemoryMetadata>,
}

impl Tasks {
    /// Ends a process and tells of it, `times` times.
    pub(crate) async fn end(&self, id: &str, status: u32, times: usize) {
        end(&self.shims, &self.store, id, status, times).await;
    }

    fn handle(&self, scope: &Scope, id: &ContainerId) -> Arc<dyn Task> {
        Arc::new(FakeTask {
            namespace: scope.namespace.clone(),
            id: id.clone(),
            crash: Arc::clone(&self.crash),
            shims: Arc::clone(&self.shims),
            store: Arc::clone(&self.store),
        })
    }
}

pub(crate) async fn end(shims: &Shims, store: &MemoryMetadata, id: &str, status: u32, times: usize) {
    let at = SystemTime::now();
    let (namespace, pid) = {
        let mut map = lock(&shims.map);
        let Some(process) = map.get_mut(id) else { return };
        if process.status == ProcessStatus::Stopped {
            return;
        }
        process.status = ProcessStatus::Stopped;
        process.exit = Some((status, at));
        (process.namespace.clone(), process.pid)
    };
    let exit =
        TaskExit { container_id: id.into(), id: id.into(), pid, exit_status: status, exited_at: Some(at.into()) };
    let scope = Scope::new(Namespace::new(&namespace).unwrap(), crated_types::Actor::daemon("shim"));
    for _ in 0..times {
        let event = Event::new(&scope, "/tasks/exit", "containerd.events.TaskExit", &exit);
        store.commit(vec![Op::event(&event)]).await.unwrap();
    }
    shims.bell().send_modify(|count| *count += 1);
}

#[async_trait]
impl TaskManager for Tasks {
    async fn create(&self, scope: &Scope, request: CreateTask) -> Result<Arc<dyn Task>> {
        self.crash
            .around(async {
                let pid = u32::try_from(self.shims.next.fetch_add(1, Ordering::SeqCst)).unwrap() + 1000;
                let process = Process {
                    namespace: scope.namespace.to_string(),
                    status: ProcessStatus::Created,
                    pid,
                    exit: None,
                    ignores_term: self.shims.stubborn.load(Ordering::SeqCst),
                    execs: BTreeMap::new(),
                    stdio: request.stdio,
                };
                match lock(&self.shims.map).insert(request.id.to_string(), process) {
                    None => Ok(()),
                    Some(_) => Err(Error::already_exists(Kind::Task, &request.id)),
                }
            })
            .await?;
        Ok(self.handle(scope, &request.id))
    }
    async fn get(&self, scope: &Scope, id: &ContainerId) -> Result<Arc<dyn Task>> {
        self.crash.check()?;
        if lock(&self.shims.map).contains_key(id.as_str()) {
            Ok(self.handle(scope, id))
        } else {
            Err(Error::not_found(Kind::Task, id))
        }
    }
    async fn list(&self, _: &Scope) -> Result<Vec<Arc<dyn Task>>> {
        unused()
    }
    async fn all(&self) -> Result<Vec<Arc<dyn Task>>> {
        unused()
    }
    async fn forward(&self, _: Event) -> Result<()> {
        unused()
    }
    async fn restore(&self) -> Result<Restored> {
        Ok(Restored::default())
    }
    async fn runtime_info(&self, _: &str, _: Option<Any>) -> Result<Any> {
        unused()
    }
}

#[derive(Debug)]
struct FakeTask {
    namespace: Namespace,
    id: ContainerId,
    crash: Arc<Crash>,
    shims: Arc<Shims>,
    store: Arc<MemoryMetadata>,
}

impl FakeTask {
    fn with<T>(&self, read: impl FnOnce(&mut Process) -> T) -> Result<T> {
        self.crash.check()?;
        lock(&self.shims.map).get_mut(self.id.as_str()).map(read).ok_or_else(|| Error::not_found(Kind::Task, &self.id))
    }
}

#[async_trait]
impl Task for FakeTask {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }
    fn id(&self) -> &ContainerId {
        &self.id
    }
    fn record(&self) -> TaskRecord {
        let map = lock(&self.shims.map);
        let process = map.get(self.id.as_str());
        TaskRecord {
            id: self.id.to_string(),
            pid: process.map_or(0, |process| process.pid),
            exit: process.and_then(|process| process.exit).map(|(status, at)| ExitRecord {
                status,
                at: Some(at.into()),
                ..ExitRecord::default()
            }),
            ..TaskRecord::default()
        }
    }
    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/run/fake/{}", self.id))
    }
    async fn state(&self, _: Option<&ExecId>) -> Result<ProcessState> {
        self.with(|process| ProcessState {
            container: self.id.clone(),
            exec: None,
            pid: process.pid,
            status: process.status,
            stdio: process.stdio.clone(),
            exit: None,
        })
    }
    async fn start(&self, exec: Option<&ExecId>) -> Result<u32> {
        self.crash
            .around(async {
                if let Some(fault) = lock(&self.shims.refuse).take() {
                    return Err(Error::new(fault, "refused"));
                }
                self.with(|process| {
                    match exec {
                        Some(exec) => {
                            process.execs.insert(exec.to_string(), ProcessStatus::Running);
                        }
                        None => process.status = ProcessStatus::Running,
                    }
                    process.pid
                })
            })
            .await
    }
    async fn exec(&self, exec: Exec) -> Result<()> {
        self.crash
            .around(async {
                self.with(|process| {
                    process.execs.insert(exec.id.to_string(), ProcessStatus::Created);
                })
            })
            .await
    }
    async fn kill(&self, _: Option<&ExecId>, signal: u32, _: bool) -> Result<()> {
        let ends = self
            .crash
            .around(async { self.with(|process| signal == 9 || (signal != 10 && !process.ignores_term)) })
            .await?;
        if ends {
            end(&self.shims, &self.store, self.id.as_str(), 128 + signal, 1).await;
        }
        Ok(())
    }
    async fn wait(&self, _: Option<&ExecId>) -> Result<Exit> {
        let mut bell = self.shims.bell().subscribe();
        loop {
            if let Some((status, at)) = self.with(|process| process.exit)? {
                return Ok(Exit { pid: self.record().pid, status, at });
            }
            bell.changed().await.map_err(|_| Error::internal("bell"))?;
        }
    }
    async fn delete(&self, exec: Option<&ExecId>) -> Result<Exit> {
        self.crash
            .around(async {
                if let Some(exec) = exec {
                    let gone = self.with(|process| match process.execs.get(exec.as_str()) {
                        Some(ProcessStatus::Running) => {
                            Err(Error::new(Fault::Precondition, "cannot delete a running process"))
                        }
                        Some(_) => {
                            process.execs.remove(exec.as_str());
                            Ok(())
                        }
                        None => Err(Error::not_found(Kind::Exec, exec)),
                    })?;
                    return gone.map(|()| Exit { pid: 0, status: 0, at: SystemTime::now() });
                }
                let status = self.with(|process| process.status)?;
                if status == ProcessStatus::Running {
                    return Err(Error::new(Fault::Precondition, "cannot delete a running process"));
                }
                let Some(process) = lock(&self.shims.map).remove(self.id.as_str()) else {
                    return Err(Error::not_found(Kind::Task, &self.id));
                };
                self.shims.deleted.fetch_add(1, Ordering::SeqCst);
                let scope = Scope::new(self.namespace.clone(), crated_types::Actor::daemon("shim"));
                let deleted = TaskDelete { container_id: self.id.to_string(), ..TaskDelete::default() };
                let event = Event::new(&scope, "/tasks/delete", "containerd.events.TaskDelete", &deleted);
                self.store.commit(vec![Op::event(&event)]).await?;
                let (status, at) = process.exit.unwrap_or((0, SystemTime::now()));
                Ok(Exit { pid: process.pid, status, at })
            })
            .await
    }
    async fn pause(&self) -> Result<()> {
        self.with(|process| {
            process.status = ProcessStatus::Paused;
        })
    }
    async fn resume(&self) -> Result<()> {
        self.with(|process| {
            if process.status == ProcessStatus::Paused {
                process.status = ProcessStatus::Running;
            }
        })
    }
    async fn resize(&self, _: Option<&ExecId>, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
    async fn close_io(&self, _: Option<&ExecId>) -> Result<()> {
        unused()
    }
    async fn update(&self, _: Any, _: BTreeMap<String, String>) -> Result<()> {
        Ok(())
    }
    async fn pids(&self) -> Result<Vec<(u32, Option<String>)>> {
        unused()
    }
    async fn stats(&self) -> Result<Any> {
        unused()
    }
    async fn checkpoint(&self, _: &str, _: Option<Any>) -> Result<()> {
        unused()
    }
}

/// Filters that pass everything, for lists.
pub(crate) fn all() -> Filters {
    Filter::parse_all(&[]).unwrap()
}
