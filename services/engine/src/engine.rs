//! The engine: what it stands on, and the small helpers that every operation uses.

use crated_core::{
    Cni, ContainerStore, ContentStore, EventLog, ImagePuller, ImageStore, LeaseStore, MetadataStore, Names, Networks,
    Snapshotter, TaskManager,
};
use crated_types::{ContainerId, Error, ExecId, Fault, Kind, Namespace, Platform, Result, Scope};
use futures::stream::BoxStream;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::{Journal, Trace};
use crate::slots::Slots;

/// Answers that come one after another; dropped, their source ends.
pub type Stream<T> = BoxStream<'static, Result<T>>;

/// What can be set.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Snapshotter where a request names none.
    pub default_snapshotter: String,
    /// Runtime where a request names none.
    pub default_runtime: String,
    /// The static program that `--init` binds into a container; none: `--init` is refused.
    pub init_path: Option<PathBuf>,
    /// Version of the daemon, for `info`.
    pub version: String,
    /// Identifier of the daemon, for `info`.
    pub id: String,
    /// Network where a request names none: a name, `bridge`, `none`, `host`.
    pub default_network: String,
    /// What `host-gateway` stands for in `--add-host`; none: the gateway of the container's network.
    pub host_gateway: Option<IpAddr>,
    /// The file with the host's resolvers.
    pub resolv_conf: PathBuf,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            default_snapshotter: "overlayfs".into(),
            default_runtime: "io.containerd.crated.v2".into(),
            init_path: None,
            version: env!("CARGO_PKG_VERSION").into(),
            id: String::new(),
            default_network: "none".into(),
            host_gateway: None,
            resolv_conf: crated_core::resolv::HOST.into(),
        }
    }
}

/// What the engine stands on.
#[derive(Debug)]
pub struct Deps {
    /// Records.
    pub metadata: Arc<dyn MetadataStore>,
    /// Containers.
    pub containers: Arc<dyn ContainerStore>,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// Blobs.
    pub content: Arc<dyn ContentStore>,
    /// Leases.
    pub leases: Arc<dyn LeaseStore>,
    /// Snapshotters by name.
    pub snapshotters: BTreeMap<String, Arc<dyn Snapshotter>>,
    /// Tasks.
    pub tasks: Arc<dyn TaskManager>,
    /// Events.
    pub events: Arc<dyn EventLog>,
    /// Images in and out.
    pub puller: Arc<dyn ImagePuller>,
    /// Networks; none: containers have none of their own but the loopback.
    pub networks: Option<Arc<dyn Networks>>,
    /// Networks of plugins.
    pub cni: Option<Arc<dyn Cni>>,
    /// Who tells names; none: nobody does.
    pub names: Option<Arc<dyn Names>>,
    /// Where the engine keeps folders of containers and volumes.
    pub root: PathBuf,
    /// Where what does not outlive a boot may be.
    pub state: PathBuf,
    /// Settings.
    pub config: EngineConfig,
    /// Owner of every operation; the daemon's end waits for it.
    pub tracker: TaskTracker,
}

/// Whole operations on containers, one method for each call of `crated.engine.v1`.
#[derive(Debug)]
pub struct Engine {
    pub(crate) deps: Deps,
    pub(crate) journal: Journal,
    pub(crate) slots: Slots,
    /// Steps so far of execs that wait for their start, by container and exec.
    pub(crate) prepared: Mutex<HashMap<(String, String), Trace>>,
    /// Who users of images are.
    pub(crate) users: crate::user::Known,
    /// How the last execs ended.
    pub(crate) exec_ends: Mutex<VecDeque<((ContainerId, ExecId), crated_core::Exit)>>,
    pub(crate) closing: CancellationToken,
    pub(crate) started_at: SystemTime,
    pub(crate) platform: Platform,
}

impl Engine {
    /// An engine over its ports. Call [`Engine::reconcile`] once tasks are restored, before the first request.
    #[must_use]
    pub fn new(deps: Deps) -> Arc<Self> {
        let journal = Journal::new(Arc::clone(&deps.metadata));
        Arc::new(Self {
            journal,
            slots: Slots::default(),
            prepared: Mutex::default(),
            users: crate::user::Known::default(),
            exec_ends: Mutex::default(),
            closing: CancellationToken::new(),
            started_at: SystemTime::now(),
            platform: Platform::host(),
            deps,
        })
    }

    /// Ends the watcher, timers and streams that would go on for ever; operations under way go to their end on the tracker.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// The steps of execs that wait for their start.
    pub(crate) fn prepared(&self) -> MutexGuard<'_, HashMap<(String, String), Trace>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change to its end whether or not the caller keeps waiting.
    ///
    /// # Cancel safety
    /// Dropped, the change goes on.
    pub(crate) async fn detached<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let ended = self.deps.tracker.spawn(change).await;
        crated_core::fail::moment("engine.answer");
        match ended {
            Ok(answer) => answer,
            Err(gone) => Err(Error::internal("an operation of the engine did not end by itself").caused_by(gone)),
        }
    }

    pub(crate) fn snapshotter(&self, name: &str) -> Result<&Arc<dyn Snapshotter>> {
        let name = if name.is_empty() { self.deps.config.default_snapshotter.as_str() } else { name };
        self.deps.snapshotters.get(name).ok_or_else(|| {
            let known = self.deps.snapshotters.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Error::invalid("snapshotter", format_args!("{name:?} is not loaded"))
                .remedy_is(format!("choose one of: {known}"))
        })
    }

    /// The folder of the engine's own files of a container: hostname, hosts, resolv.conf, log.
    pub(crate) fn folder(&self, namespace: &Namespace, id: &str) -> PathBuf {
        self.deps.root.join("containers").join(namespace.as_str()).join(id)
    }

    /// The folder of the volumes of a namespace.
    pub(crate) fn volumes(&self, namespace: &Namespace) -> PathBuf {
        self.deps.root.join("volumes").join(namespace.as_str())
    }

    /// The platform that a request names, or the host's.
    pub(crate) fn platform_of(&self, text: &str) -> Result<Platform> {
        if text.is_empty() { Ok(self.platform.clone()) } else { Platform::parse(text) }
    }
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(gone) => Err(Error::internal("blocking work of the engine did not end by itself").caused_by(gone)),
    }
}

/// `container "x": not found`, with what to do.
pub(crate) fn no_container(scope: &Scope, name: &str) -> Error {
    Error::not_found(Kind::Container, name)
        .in_namespace(&scope.namespace)
        .remedy_is("list the containers of the namespace with `cratectl ps -a`")
}

/// The error for a container that would have to run.
pub(crate) fn not_running(id: &str) -> Error {
    Error::new(Fault::Precondition, "is not running")
        .on(Kind::Container, id)
        .remedy_is(format!("start it first: `cratectl start {}`", crate::names::short(id)))
}
