//! The check of the store, over everything that keeps something.

use super::{CHECKER, CONTENT, IMAGES, METADATA, PULLER, SERVICE, SNAPSHOTTER, Shared, TASKS};
use crate::registry::Registry;
use crated_core::check::{SnapshotCheck, Strays};
use crated_engine::{CheckDeps, Checker};
use crated_store::Records;
use std::sync::Arc;

pub(super) fn register(registry: &mut Registry, shared: &Shared) {
    let tracker = shared.life.tracker.clone();
    let needs = &[METADATA.name(), SERVICE, CONTENT.name(), SNAPSHOTTER.name(), TASKS.name(), PULLER.name()];
    registry.add(CHECKER, "check", needs, |cx| {
        Box::pin(async move {
            let content = cx.one(CONTENT)?;
            let snapshots = cx.all(SNAPSHOTTER)?;
            let mut strays: Vec<Arc<dyn Strays>> = vec![Arc::clone(&content) as Arc<dyn Strays>];
            strays.extend(snapshots.values().map(|one| Arc::clone(one) as Arc<dyn Strays>));
            strays.push(cx.one(TASKS)?);
            Ok(Checker::new(CheckDeps {
                metadata: cx.one(METADATA)?,
                images: cx.one(IMAGES)?,
                content,
                snapshots: snapshots.into_values().map(|one| one as Arc<dyn SnapshotCheck>).collect(),
                records: Records::new(cx.one(METADATA)?),
                strays,
                mender: cx.one(PULLER)?,
                root: cx.settings().root.clone(),
                tracker,
            }))
        })
    });
}
