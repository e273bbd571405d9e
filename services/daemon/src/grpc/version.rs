//! `containerd.services.version.v1.Version`.

use super::Answer;
use crated_api::containerd::services::version::v1::VersionResponse;
use crated_api::containerd::services::version::v1::version_server::Version;
use tonic::{Request, Response, async_trait};

/// Tells the version.
#[derive(Clone, Copy, Debug)]
pub struct VersionAdapter;

#[async_trait]
impl Version for VersionAdapter {
    async fn version(&self, _: Request<()>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse { version: crate::VERSION.into(), revision: crate::REVISION.into() }))
    }
}
