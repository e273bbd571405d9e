//! What is remembered: metadata, events, content, leases, records; and the collector over it.

use super::{CONTAINERS, CONTENT, EVENTS, GC, IMAGES, LEASES, METADATA, NAMESPACES, SNAPSHOTTER, Shared, blocking};
use crate::registry::Registry;
use crated_core::{ContainerStore, EventLog, ImageStore, LeaseStore, NamespaceStore};
use crated_store::{Collector, Containers, Content, Events, Images, Leases, Metadata, Namespaces, Options};
use std::sync::Arc;

/// Cache of the index: metadata is small, and an idle daemon shall be.
const CACHE: u64 = 4 << 20;

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    cache_bytes: Option<u64>,
    keep_events_bytes: Option<u64>,
}

pub(super) fn register(registry: &mut Registry, shared: &Shared) {
    metadata(registry);
    blobs(registry, shared);
    let needs = &[METADATA.name()];
    registry.add(EVENTS, "exchange", needs, |cx| {
        Box::pin(async move { Ok(Events::new(cx.one(METADATA)?) as Arc<dyn EventLog>) })
    });
    let requests = shared.requests.clone();
    registry.add(LEASES, "manager", needs, |cx| {
        Box::pin(async move { Ok(Leases::new(cx.one(METADATA)?, requests) as Arc<dyn LeaseStore>) })
    });
    let requests = shared.requests.clone();
    registry.add(CONTAINERS, "containers-service", needs, |cx| {
        Box::pin(async move { Ok(Containers::new(cx.one(METADATA)?, requests) as Arc<dyn ContainerStore>) })
    });
    let requests = shared.requests.clone();
    registry.add(IMAGES, "images-service", needs, |cx| {
        Box::pin(async move { Ok(Images::new(cx.one(METADATA)?, requests) as Arc<dyn ImageStore>) })
    });
    registry.add(NAMESPACES, "namespaces-service", needs, |cx| {
        Box::pin(async move { Ok(Namespaces::new(cx.one(METADATA)?) as Arc<dyn NamespaceStore>) })
    });
}

fn metadata(registry: &mut Registry) {
    registry.add(METADATA, "log", &[], |cx| {
        Box::pin(async move {
            let settings: Settings = cx.config()?;
            let folder = cx.root_dir();
            cx.export("root", folder.display());
            cx.export("policy", "shared");
            let mut options = Options { cache: settings.cache_bytes.unwrap_or(CACHE), ..Options::default() };
            options.keep_events = settings.keep_events_bytes.unwrap_or(options.keep_events);
            let (metadata, report) = blocking(move || Metadata::open(&folder, options)).await?;
            match (&report.healed, &report.rebuilt) {
                (None, None) if report.migrated.is_some() => tracing::info!(?report, "metadata was migrated"),
                (None, None) => tracing::debug!(?report, "metadata opened"),
                _ => tracing::warn!(?report, "metadata was mended"),
            }
            Ok(metadata)
        })
    });
}

fn blobs(registry: &mut Registry, shared: &Shared) {
    let requests = shared.requests.clone();
    registry.add(CONTENT, "content", &[METADATA.name()], |cx| {
        Box::pin(async move {
            let (folder, metadata) = (cx.root_dir(), cx.one(METADATA)?);
            cx.export("root", folder.display());
            blocking(move || Content::open(&folder, metadata, requests)).await
        })
    });
    let requests = shared.requests.clone();
    registry.add(GC, "scheduler", &[METADATA.name(), CONTENT.name(), SNAPSHOTTER.name()], |cx| {
        Box::pin(async move {
            let snapshots = cx.all(SNAPSHOTTER)?.into_values().collect();
            Ok(Collector::new(cx.one(METADATA)?, cx.one(CONTENT)?, snapshots, requests))
        })
    });
}
