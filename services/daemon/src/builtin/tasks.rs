//! Tasks: shims, started and found again.

use super::{METADATA, Shared, TASKS};
use crate::registry::Registry;
use crated_task::{Config, Manager};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What stdio addresses may be.
const LOG_URIS: &str = "fifo,file,binary,crated";

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    runtimes: BTreeMap<String, PathBuf>,
    shim_timeout_seconds: Option<u64>,
}

pub(super) fn register(registry: &mut Registry, shared: &Shared) {
    let tracker = shared.life.tracker.clone();
    registry.add(TASKS, "task", &[METADATA.name()], |cx| {
        Box::pin(async move {
            let settings: Settings = cx.config()?;
            cx.export("log-uri-schemes", LOG_URIS);
            cx.export("root", cx.root_dir().display());
            cx.export("state", cx.state_dir().display());
            cx.host_platform();
            let daemon = cx.settings();
            let shim = &daemon.engine.shim;
            let config = Config {
                root: daemon.root.clone(),
                state: daemon.state.clone(),
                grpc_address: daemon.address(),
                ttrpc_address: daemon.ttrpc_address(),
                shim: (!shim.as_os_str().is_empty()).then(|| shim.clone()),
                runtimes: settings.runtimes,
                debug: tracing::enabled!(tracing::Level::DEBUG),
                shim_timeout: Duration::from_secs(settings.shim_timeout_seconds.unwrap_or(10).max(1)),
                boot_id: None,
            };
            let metadata = cx.one(METADATA)?;
            super::blocking(move || Manager::open(config, metadata, tracker)).await
        })
    });
}
