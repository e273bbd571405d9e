//! Images in and out, and layers.

use super::{CONTENT, DIFFER, IMAGES, LEASES, NAMESPACES, PULLER, SERVICE, SNAPSHOTTER, Shared, as_ports};
use crate::registry::Registry;
use crated_core::{Differ, NamespaceStore};
use crated_image::{ImageService, LayerDiffer, Options, Ports};
use crated_types::{Actor, Scope};
use std::sync::Arc;

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    sync: Option<bool>,
}

pub(super) fn register(registry: &mut Registry, shared: &Shared) {
    registry.add(DIFFER, "walking", &[CONTENT.name()], |cx| {
        Box::pin(async move {
            cx.host_platform();
            Ok(Arc::new(LayerDiffer::new(cx.one(CONTENT)?)) as Arc<dyn Differ>)
        })
    });
    let life = shared.life.clone();
    let needs = &[CONTENT.name(), SERVICE, LEASES.name(), SNAPSHOTTER.name()];
    registry.add(PULLER, "images", needs, |cx| {
        Box::pin(async move {
            let settings: Settings = cx.config()?;
            let ports = Ports {
                content: cx.one(CONTENT)?,
                images: cx.one(IMAGES)?,
                leases: cx.one(LEASES)?,
                snapshotters: as_ports(cx.all(SNAPSHOTTER)?),
            };
            let options = Options {
                registry: cx.settings().registry.clone(),
                sync: settings.sync.unwrap_or(true),
                tracker: life.tracker,
                shutdown: life.stop,
            };
            let tracker = options.tracker.clone();
            let service = ImageService::new(ports, options);
            tracker.spawn(recover(service.clone(), cx.one(NAMESPACES)?));
            Ok(Arc::new(service))
        })
    });
}

/// Removes, beside the start, what unpacks that a crash cut short have left.
async fn recover(service: ImageService, namespaces: Arc<dyn NamespaceStore>) {
    let removed = async {
        let mut removed = 0;
        for (namespace, _) in namespaces.list().await? {
            let scope = Scope::new(namespace, Actor::daemon("recovery"));
            removed += service.recover(&scope).await?;
        }
        Ok::<_, crated_types::Error>(removed)
    };
    match removed.await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "half unpacked layers and leases of what was cut short removed"),
        Err(error) => tracing::warn!(%error, "half unpacked layers and leases of what was cut short stay for a day"),
    }
}
