//! `containerd.services.diff.v1.Diff`.

use super::{Answer, missing, scope};
use crated_api::containerd::services::diff::v1 as wire;
use crated_api::containerd::services::diff::v1::diff_server::Diff;
use crated_api::convert::system;
use crated_api::status::from_error;
use crated_core::Differ;
use crated_core::diff::{Apply, Compare};
use std::sync::Arc;
use tonic::{Request, Response, async_trait};

/// Over the port of layers.
#[derive(Clone, Debug)]
pub struct DiffAdapter(pub Arc<dyn Differ>);

#[async_trait]
impl Diff for DiffAdapter {
    async fn apply(&self, request: Request<wire::ApplyRequest>) -> Answer<wire::ApplyResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let layer = request.diff.ok_or_else(|| missing("diff"))?.try_into().map_err(from_error)?;
        let mounts = request.mounts.into_iter().map(Into::into).collect();
        let applied = self.0.apply(&scope, Apply { layer, mounts, sync: request.sync_fs }).await.map_err(from_error)?;
        Ok(Response::new(wire::ApplyResponse { applied: Some(applied.into()) }))
    }

    async fn diff(&self, request: Request<wire::DiffRequest>) -> Answer<wire::DiffResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let compare = Compare {
            lower: request.left.into_iter().map(Into::into).collect(),
            upper: request.right.into_iter().map(Into::into).collect(),
            media_type: request.media_type,
            reference: request.r#ref,
            labels: request.labels,
            source_date_epoch: request.source_date_epoch.as_ref().map(system),
        };
        let made = self.0.compare(&scope, compare).await.map_err(from_error)?;
        Ok(Response::new(wire::DiffResponse { diff: Some(made.into()) }))
    }
}
