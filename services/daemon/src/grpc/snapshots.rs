//! `containerd.services.snapshots.v1.Snapshots`: the snapshotter is named in every request.

use super::{Answer, answer, convert, filters, mask, scope};
use crated_api::containerd::services::snapshots::v1 as wire;
use crated_api::containerd::services::snapshots::v1::snapshots_server::Snapshots;
use crated_api::containerd::types::Mount as WireMount;
use crated_api::status::from_error;
use crated_core::Snapshotter;
use crated_types::{Error, Mount, SnapshotKey};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};

/// Snapshots in one message of a list.
const PAGE: usize = 100;

/// Over the port of every snapshotter.
#[derive(Clone, Debug)]
pub struct SnapshotsAdapter(pub BTreeMap<String, Arc<dyn Snapshotter>>);

impl SnapshotsAdapter {
    fn of(&self, name: &str) -> Result<&Arc<dyn Snapshotter>, Status> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<_> = self.0.keys().map(String::as_str).collect();
            from_error(
                Error::invalid("snapshotter", format_args!("snapshotter not loaded: {name}"))
                    .remedy_is(format!("use one of: {}", known.join(", "))),
            )
        })
    }
}

fn key(text: &str) -> Result<SnapshotKey, Status> {
    SnapshotKey::new(text).map_err(from_error)
}

fn parent(text: &str) -> Result<Option<SnapshotKey>, Status> {
    if text.is_empty() { Ok(None) } else { key(text).map(Some) }
}

fn mounts(mounts: Vec<Mount>) -> Vec<WireMount> {
    mounts.into_iter().map(Into::into).collect()
}

#[async_trait]
impl Snapshots for SnapshotsAdapter {
    async fn prepare(&self, request: Request<wire::PrepareSnapshotRequest>) -> Answer<wire::PrepareSnapshotResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let (key, parent) = (key(&request.key)?, parent(&request.parent)?);
        let snapshotter = self.of(&request.snapshotter)?;
        let made = snapshotter.prepare(&scope, &key, parent.as_ref(), request.labels).await.map_err(from_error)?;
        Ok(Response::new(wire::PrepareSnapshotResponse { mounts: mounts(made) }))
    }

    async fn view(&self, request: Request<wire::ViewSnapshotRequest>) -> Answer<wire::ViewSnapshotResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let (key, parent) = (key(&request.key)?, parent(&request.parent)?);
        let snapshotter = self.of(&request.snapshotter)?;
        let made = snapshotter.view(&scope, &key, parent.as_ref(), request.labels).await.map_err(from_error)?;
        Ok(Response::new(wire::ViewSnapshotResponse { mounts: mounts(made) }))
    }

    async fn mounts(&self, request: Request<wire::MountsRequest>) -> Answer<wire::MountsResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let found = self.of(&request.snapshotter)?.mounts(&scope, &key(&request.key)?).await.map_err(from_error)?;
        Ok(Response::new(wire::MountsResponse { mounts: mounts(found) }))
    }

    async fn commit(&self, request: Request<wire::CommitSnapshotRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let (name, key, parent) = (key(&request.name)?, key(&request.key)?, parent(&request.parent)?);
        let snapshotter = self.of(&request.snapshotter)?;
        answer(snapshotter.commit(&scope, &name, &key, parent.as_ref(), request.labels).await)
    }

    async fn remove(&self, request: Request<wire::RemoveSnapshotRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        answer(self.of(&request.snapshotter)?.remove(&scope, &key(&request.key)?).await)
    }

    async fn stat(&self, request: Request<wire::StatSnapshotRequest>) -> Answer<wire::StatSnapshotResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let found = self.of(&request.snapshotter)?.stat(&scope, &key(&request.key)?).await.map_err(from_error)?;
        Ok(Response::new(wire::StatSnapshotResponse { info: Some(convert::snapshot(found)) }))
    }

    async fn update(&self, request: Request<wire::UpdateSnapshotRequest>) -> Answer<wire::UpdateSnapshotResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let asked = request.info.unwrap_or_default();
        let (snapshotter, key, mask) = (self.of(&request.snapshotter)?, key(&asked.name)?, mask(request.update_mask));
        let found = snapshotter.update(&scope, &key, &asked.labels, &mask).await.map_err(from_error)?;
        Ok(Response::new(wire::UpdateSnapshotResponse { info: Some(convert::snapshot(found)) }))
    }

    type ListStream = BoxStream<'static, Result<wire::ListSnapshotsResponse, Status>>;

    async fn list(&self, request: Request<wire::ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let (scope, filters) = (scope(&request)?, filters(&request.get_ref().filters)?);
        let all = self.of(&request.get_ref().snapshotter)?.list(&scope, &filters).await.map_err(from_error)?;
        let infos: Vec<_> = all.into_iter().map(convert::snapshot).collect();
        let pages: Vec<_> =
            infos.chunks(PAGE).map(|page| Ok(wire::ListSnapshotsResponse { info: page.to_vec() })).collect();
        Ok(Response::new(futures::stream::iter(pages).boxed()))
    }

    async fn usage(&self, request: Request<wire::UsageRequest>) -> Answer<wire::UsageResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let used = self.of(&request.snapshotter)?.usage(&scope, &key(&request.key)?).await.map_err(from_error)?;
        let (size, inodes) = (convert::signed(used.bytes), convert::signed(used.inodes));
        Ok(Response::new(wire::UsageResponse { size, inodes }))
    }

    async fn cleanup(&self, request: Request<wire::CleanupRequest>) -> Answer<()> {
        let _ = scope(&request)?;
        answer(self.of(&request.get_ref().snapshotter)?.cleanup().await)
    }
}
