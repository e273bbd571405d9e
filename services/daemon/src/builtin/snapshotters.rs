//! Snapshots: one plugin a backend; one that the host cannot carry is skipped.

use super::{METADATA, SNAPSHOTTER, Shared};
use crate::registry::{Context, InitError, Registry};
use crated_snapshotters::{Backend, Btrfs, Native, Offload, Overlay};
use crated_store::Snapshots;
use crated_types::{Fault, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Blocking calls of one backend at a time.
const AT_A_TIME: usize = 16;

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    root: Option<PathBuf>,
}

pub(super) fn register(registry: &mut Registry, shared: &Shared) {
    backend(registry, shared, "overlayfs", |root| Ok(Arc::new(Overlay::open(root)?)));
    backend(registry, shared, "native", |root| Ok(Arc::new(Native::open(root)?)));
    backend(registry, shared, "btrfs", |root| Ok(Arc::new(Btrfs::open(root)?)));
}

fn backend(registry: &mut Registry, shared: &Shared, id: &'static str, open: fn(&Path) -> Result<Arc<dyn Backend>>) {
    let shared = shared.clone();
    registry.add(SNAPSHOTTER, id, &[METADATA.name()], move |cx| Box::pin(start(cx, shared, id, open)));
}

async fn start(
    cx: &Context<'_>,
    shared: Shared,
    id: &'static str,
    open: fn(&Path) -> Result<Arc<dyn Backend>>,
) -> std::result::Result<Arc<Snapshots>, InitError> {
    let settings: Settings = cx.config()?;
    let root = settings.root.unwrap_or_else(|| cx.root_dir());
    cx.export("root", root.display());
    cx.host_platform();
    let opened = super::blocking(move || open(&root)).await;
    let backend = match opened {
        Err(InitError::Failed(error)) if error.fault() == Fault::Unsupported => {
            return Err(InitError::Skip(error.to_string()));
        }
        opened => opened?,
    };
    for capability in backend.capabilities() {
        cx.capability(capability);
    }
    Ok(Snapshots::open(id, Offload::new(backend, AT_A_TIME), cx.one(METADATA)?, shared.requests).await?)
}
