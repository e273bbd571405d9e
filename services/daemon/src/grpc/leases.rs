//! `containerd.services.leases.v1.Leases`.

use super::{Answer, answer, convert, filters, scope};
use crated_api::containerd::services::leases::v1 as wire;
use crated_api::containerd::services::leases::v1::leases_server::Leases;
use crated_api::status::from_error;
use crated_core::LeaseStore;
use crated_types::LeaseId;
use std::sync::Arc;
use tonic::{Request, Response, async_trait};

/// Over the port of leases.
#[derive(Clone, Debug)]
pub struct LeasesAdapter(pub Arc<dyn LeaseStore>);

#[async_trait]
impl Leases for LeasesAdapter {
    async fn create(&self, request: Request<wire::CreateRequest>) -> Answer<wire::CreateResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let id = match request.id.as_str() {
            "" => None,
            id => Some(LeaseId::new(id).map_err(from_error)?),
        };
        let made = self.0.create(&scope, id, request.labels).await.map_err(from_error)?;
        Ok(Response::new(wire::CreateResponse { lease: Some(convert::lease(made)) }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let id = LeaseId::new(&request.get_ref().id).map_err(from_error)?;
        answer(self.0.delete(&scope, &id, request.get_ref().sync).await)
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListResponse> {
        let (scope, filters) = (scope(&request)?, filters(&request.get_ref().filters)?);
        let all = self.0.list(&scope, &filters).await.map_err(from_error)?;
        Ok(Response::new(wire::ListResponse { leases: all.into_iter().map(convert::lease).collect() }))
    }

    async fn add_resource(&self, request: Request<wire::AddResourceRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let id = LeaseId::new(&request.id).map_err(from_error)?;
        let resource = convert::resource_of(request.resource).map_err(from_error)?;
        answer(self.0.add(&scope, &id, resource).await)
    }

    async fn delete_resource(&self, request: Request<wire::DeleteResourceRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let id = LeaseId::new(&request.id).map_err(from_error)?;
        let resource = convert::resource_of(request.resource).map_err(from_error)?;
        answer(self.0.remove(&scope, &id, &resource).await)
    }

    async fn list_resources(
        &self,
        request: Request<wire::ListResourcesRequest>,
    ) -> Answer<wire::ListResourcesResponse> {
        let scope = scope(&request)?;
        let id = LeaseId::new(&request.get_ref().id).map_err(from_error)?;
        let all = self.0.resources(&scope, &id).await.map_err(from_error)?;
        Ok(Response::new(wire::ListResourcesResponse { resources: all.iter().map(convert::resource).collect() }))
    }
}
