//! Images in and out, and layers.

use super::{CONTENT, DIFFER, IMAGES, LEASES, PULLER, SERVICE, SNAPSHOTTER, Shared, as_ports};
use crate::registry::Registry;
use crated_core::{Differ, ImagePuller};
use crated_image::{ImageService, LayerDiffer, Options, Ports};
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
            Ok(Arc::new(ImageService::new(ports, options)) as Arc<dyn ImagePuller>)
        })
    });
}
