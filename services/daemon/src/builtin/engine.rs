//! The engine, over every port.

use super::{
    CNI, CONTAINERS, CONTENT, ENGINE, EVENTS, IMAGES, LEASES, METADATA, NAMES, NETWORKS, PULLER, SERVICE, SNAPSHOTTER,
    Shared, TASKS, as_ports,
};
use crate::grpc::introspection::uuid;
use crate::registry::{InitError, Registry};
use crated_engine::{Deps, Engine, EngineConfig};
use crated_types::Error;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) fn register(registry: &mut Registry, shared: &Shared) {
    let shared = shared.clone();
    let needs = &[
        METADATA.name(),
        SERVICE,
        CONTENT.name(),
        LEASES.name(),
        SNAPSHOTTER.name(),
        TASKS.name(),
        EVENTS.name(),
        PULLER.name(),
        NETWORKS.name(),
        NAMES.name(),
        CNI.name(),
    ];
    registry.add(ENGINE, "engine", needs, |cx| {
        Box::pin(async move {
            let settings = cx.settings();
            let folder = super::installation(settings);
            let id = super::blocking(move || uuid(&folder)).await?;
            let snapshotters = as_ports(cx.all(SNAPSHOTTER)?);
            known(&settings.engine.snapshotter, &snapshotters)?;
            Ok(Engine::new(Deps {
                metadata: cx.one(METADATA)?,
                containers: cx.one(CONTAINERS)?,
                images: cx.one(IMAGES)?,
                content: cx.one(CONTENT)?,
                leases: cx.one(LEASES)?,
                snapshotters,
                tasks: cx.one(TASKS)?,
                events: cx.one(EVENTS)?,
                puller: cx.one(PULLER)?,
                networks: cx.all(NETWORKS)?.into_values().next(),
                cni: cx.all(CNI)?.into_values().next(),
                names: cx.all(NAMES)?.into_values().next(),
                root: settings.root.clone(),
                state: settings.state.clone(),
                config: EngineConfig {
                    default_snapshotter: settings.engine.snapshotter.clone(),
                    default_runtime: settings.engine.runtime.clone(),
                    init_path: init(&settings.engine.init),
                    version: crate::VERSION.into(),
                    id,
                    default_network: settings.network.default.clone(),
                    host_gateway: settings.network.host_gateway,
                    resolv_conf: settings.network.resolv_conf.clone(),
                },
                tracker: shared.life.tracker,
            }))
        })
    });
}

/// The default snapshotter must be there.
fn known<T>(default: &str, snapshotters: &BTreeMap<String, T>) -> Result<(), InitError> {
    if snapshotters.contains_key(default) {
        return Ok(());
    }
    let known: Vec<_> = snapshotters.keys().map(String::as_str).collect();
    Err(Error::invalid("engine.snapshotter", format_args!("{default:?} is not there on this host"))
        .remedy_is(format!("set engine.snapshotter to one of: {}", known.join(", ")))
        .into())
}

/// The program that `--init` puts into containers.
fn init(configured: &Path) -> Option<PathBuf> {
    if !configured.as_os_str().is_empty() {
        return Some(configured.into());
    }
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("crated-init")));
    let usual = ["/usr/bin/docker-init", "/usr/libexec/docker/docker-init", "/usr/bin/tini-static"].map(PathBuf::from);
    beside.into_iter().chain(usual).find(|program| program.is_file())
}
