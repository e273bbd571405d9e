//! THE list of plugins: what exists, what each needs, in one place. Types and ids are containerd's where it has one.
//!
//! ```text
//! metadata ─┬─ event, lease, service (containers, images, namespaces)
//!           ├─ content ── differ
//!           ├─ snapshotter (overlayfs, native, btrfs)
//!           ├─ gc (over content and snapshotters)
//!           ├─ runtime (tasks, over metadata and event) ── engine, check (over all) ── grpc (over one port each)
//! ```

mod check;
mod engine;
mod images;
mod names;
mod services;
mod snapshotters;
mod store;
mod tasks;

use crate::config::{Config, ConfigError, load};
use crate::grpc::Adapter;
use crate::grpc::events::{ShimEvents, TTRPC_SERVICE};
use crate::registry::{InitError, Registry, Reports, Slot, StartError, Started};
use crate::server::Life;
use crated_core::{
    Cni, ContainerStore, Differ, EventLog, ImageStore, LeaseStore, Names, NamespaceStore, Networks, Snapshotter,
    TaskManager,
};
use crated_engine::{Checker, Engine};
use crated_image::ImageService;
use crated_net::helper::Helper;
use crated_store::{Collector, Content, Metadata, Requests, Snapshots};
use crated_task::Manager;
use crated_types::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Records.
pub const METADATA: Slot<Metadata> = Slot::new("io.containerd.metadata.v1");
/// The event log.
pub const EVENTS: Slot<dyn EventLog> = Slot::new("io.containerd.event.v1");
/// Blobs.
pub const CONTENT: Slot<Content> = Slot::new("io.containerd.content.v1");
/// Snapshots, one plugin a backend.
pub const SNAPSHOTTER: Slot<Snapshots> = Slot::new("io.containerd.snapshotter.v1");
/// Leases.
pub const LEASES: Slot<dyn LeaseStore> = Slot::new("io.containerd.lease.v1");
/// The collector.
pub const GC: Slot<Collector> = Slot::new("io.containerd.gc.v1");
/// Layers.
pub const DIFFER: Slot<dyn Differ> = Slot::new("io.containerd.differ.v1");
/// Tasks.
pub const TASKS: Slot<Manager> = Slot::new("io.containerd.runtime.v2");
/// Container records.
pub const CONTAINERS: Slot<dyn ContainerStore> = Slot::new(SERVICE);
/// Image records.
pub const IMAGES: Slot<dyn ImageStore> = Slot::new(SERVICE);
/// Namespaces.
pub const NAMESPACES: Slot<dyn NamespaceStore> = Slot::new(SERVICE);
/// Images in and out.
pub const PULLER: Slot<ImageService> = Slot::new("io.crated.image.v1");
/// The check of the store.
pub const CHECKER: Slot<Checker> = Slot::new("io.crated.check.v1");
/// Networks.
pub const NETWORKS: Slot<dyn Networks> = Slot::new("io.crated.network.v1");
/// The process that outlives the daemon.
pub const HELPER: Slot<Helper> = Slot::new("io.crated.netd.v1");
/// Names of containers.
pub const NAMES: Slot<dyn Names> = Slot::new("io.crated.names.v1");
/// Networks of plugins.
pub const CNI: Slot<dyn Cni> = Slot::new("io.crated.cni.v1");
/// Whole operations.
pub const ENGINE: Slot<Engine> = Slot::new("io.crated.engine.v1");
/// gRPC services.
pub const GRPC: Slot<Adapter> = Slot::new("io.containerd.grpc.v1");

const SERVICE: &str = "io.containerd.service.v1";

/// Keys of plugins' tables: plugin, key, meaning.
pub const PLUGIN_KEYS: &[(&str, &str, &str)] = &[
    ("io.containerd.metadata.v1.log", "cache_bytes", "Cache of the index, in bytes; none: 4 MiB."),
    (
        "io.containerd.metadata.v1.log",
        "keep_events_bytes",
        "Log that is kept for cursors of events, in bytes; none: 8 MiB.",
    ),
    ("io.containerd.snapshotter.v1.overlayfs", "root", "Folder of the snapshots; none: below the daemon's root."),
    ("io.containerd.snapshotter.v1.native", "root", "Folder of the snapshots; none: below the daemon's root."),
    ("io.containerd.snapshotter.v1.btrfs", "root", "Folder of the snapshots, on btrfs; none: below the daemon's root."),
    (
        "io.containerd.runtime.v2.task",
        "runtimes",
        "Runtime names and the shims (paths) that serve them, before the usual rules.",
    ),
    (
        "io.containerd.runtime.v2.task",
        "shim_timeout_seconds",
        "Time that a shim gets to start and to answer; none: 10.",
    ),
    ("io.crated.image.v1.images", "sync", "Sync a layer's file system before its snapshot is committed; none: true."),
];

/// What plugins and server share from the first moment.
#[derive(Clone, Debug)]
pub struct Shared {
    /// When to stop, and who waits.
    pub life: Life,
    /// Set once everything has started.
    pub reports: Arc<OnceLock<Reports>>,
    /// Wishes for a collection.
    pub requests: Requests,
}

impl Default for Shared {
    fn default() -> Self {
        Self { life: Life::default(), reports: Arc::default(), requests: Requests::new() }
    }
}

/// All plugins of this build.
#[must_use]
pub fn registry(shared: &Shared) -> Registry {
    let mut registry = Registry::default();
    store::register(&mut registry, shared);
    snapshotters::register(&mut registry, shared);
    images::register(&mut registry, shared);
    tasks::register(&mut registry, shared);
    names::register(&mut registry, shared);
    engine::register(&mut registry, shared);
    check::register(&mut registry, shared);
    services::register(&mut registry, shared);
    registry
}

/// Checks the configuration's tables of plugins: types, ids and keys.
///
/// # Errors
/// The first that does not exist, with what was meant.
pub fn check_config(config: &Config, file: &Path) -> std::result::Result<(), ConfigError> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    if let Err(StartError::Unknown { slot, id, hint }) = registry(&Shared::default()).check(config) {
        return Err(load::unknown_plugin(file, &text, &slot, &id, &hint));
    }
    for (slot, tables) in &config.plugins {
        for (id, table) in tables {
            let plugin = format!("{slot}.{id}");
            let known: Vec<_> = PLUGIN_KEYS.iter().filter(|(of, ..)| *of == plugin).map(|(_, key, _)| *key).collect();
            if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
                let expected: Vec<_> = known.iter().map(|key| format!("`{key}`")).collect();
                let message = format!("unknown field `{key}`, expected one of {}", expected.join(", "));
                return Err(load::of_plugin(file, &text, slot, id, &message));
            }
        }
    }
    Ok(())
}

/// After the start of the plugins and before the first client: shims are found again, and what a crash left open is ended.
///
/// # Errors
/// Where the records cannot be read.
pub async fn recover(started: &Started, shared: &Shared) -> Result<()> {
    for tasks in started.all(TASKS).into_values() {
        let found = tasks.restore().await.map_err(|error| error.at("restore tasks"))?;
        let (running, exited, undone) = (found.running.len(), found.exited.len(), found.undone.len());
        tracing::info!(running, exited, undone, "tasks restored");
    }
    for engine in started.all(ENGINE).into_values() {
        engine.reconcile().await.map_err(|error| error.at("reconcile"))?;
    }
    for collector in started.all(GC).into_values() {
        shared.life.tracker.spawn(collector.run(shared.life.stop.clone()));
    }
    Ok(())
}

/// Before the drain: endless work is told to end.
pub fn close(started: &Started) {
    for engine in started.all(ENGINE).into_values() {
        engine.close();
    }
    for networks in started.all(NETWORKS).into_values() {
        networks.close();
    }
}

/// The services that shims reach.
#[must_use]
pub fn ttrpc(started: &Started) -> Option<crated_ttrpc::Server> {
    let tasks = started.all(TASKS).into_values().next()?;
    Some(crated_ttrpc::Server::new().service(TTRPC_SERVICE, Arc::new(ShimEvents(tasks))))
}

/// The folder with the identifier of the installation, where containerd keeps it.
fn installation(config: &Config) -> PathBuf {
    config.root.join("io.containerd.grpc.v1.introspection")
}

/// Snapshotters as the services above see them.
fn as_ports(snapshotters: BTreeMap<&'static str, Arc<Snapshots>>) -> BTreeMap<String, Arc<dyn Snapshotter>> {
    snapshotters.into_iter().map(|(name, snapshots)| (name.to_owned(), snapshots as Arc<dyn Snapshotter>)).collect()
}

/// Runs what blocks on a thread for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> std::result::Result<T, InitError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(InitError::Failed),
        Err(gone) => Err(InitError::Failed(Error::internal("a plugin's start panicked").caused_by(gone))),
    }
}
