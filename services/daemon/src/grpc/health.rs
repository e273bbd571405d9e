//! `grpc.health.v1.Health`: the whole daemon under the empty name; services have no health of their own.

use super::Answer;
use crated_api::grpc::health::v1::health_check_response::ServingStatus;
use crated_api::grpc::health::v1::health_server::Health;
use crated_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

/// Tells whether the daemon serves: until it is to stop.
#[derive(Clone, Debug)]
pub struct HealthAdapter {
    stop: CancellationToken,
}

impl HealthAdapter {
    /// Serving until `stop`.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop }
    }

    fn now(&self) -> HealthCheckResponse {
        let status = if self.stop.is_cancelled() { ServingStatus::NotServing } else { ServingStatus::Serving };
        HealthCheckResponse { status: status.into() }
    }
}

#[async_trait]
impl Health for HealthAdapter {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        match request.get_ref().service.as_str() {
            "" => Ok(Response::new(self.now())),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Answer<HealthListResponse> {
        Ok(Response::new(HealthListResponse { statuses: [(String::new(), self.now())].into() }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Answer<Self::WatchStream> {
        let first = match request.get_ref().service.as_str() {
            "" => self.now(),
            _ => HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() },
        };
        // The server ends the stream when the daemon stops; until then nothing changes.
        Ok(Response::new(futures::stream::iter([Ok(first)]).chain(futures::stream::pending()).boxed()))
    }
}
