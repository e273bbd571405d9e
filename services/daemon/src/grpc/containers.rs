//! `containerd.services.containers.v1.Containers`.

use super::{Answer, answer, convert, filters, mask, scope};
use crated_api::containerd::services::containers::v1 as wire;
use crated_api::containerd::services::containers::v1::containers_server::Containers;
use crated_api::status::from_error;
use crated_core::ContainerStore;
use crated_core::record::Container;
use crated_types::ContainerId;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};

/// Over the port of containers.
#[derive(Clone, Debug)]
pub struct ContainersAdapter(pub Arc<dyn ContainerStore>);

impl ContainersAdapter {
    async fn all(&self, request: &Request<wire::ListContainersRequest>) -> Result<Vec<Container>, Status> {
        let (scope, filters) = (scope(request)?, filters(&request.get_ref().filters)?);
        self.0.list(&scope, &filters).await.map_err(from_error)
    }
}

#[async_trait]
impl Containers for ContainersAdapter {
    async fn get(&self, request: Request<wire::GetContainerRequest>) -> Answer<wire::GetContainerResponse> {
        let scope = scope(&request)?;
        let id = ContainerId::new(&request.get_ref().id).map_err(from_error)?;
        let found = self.0.get(&scope, &id).await.map_err(from_error)?;
        Ok(Response::new(wire::GetContainerResponse { container: Some(convert::container(found)) }))
    }

    async fn list(&self, request: Request<wire::ListContainersRequest>) -> Answer<wire::ListContainersResponse> {
        let containers = self.all(&request).await?.into_iter().map(convert::container).collect();
        Ok(Response::new(wire::ListContainersResponse { containers }))
    }

    type ListStreamStream = BoxStream<'static, Result<wire::ListContainerMessage, Status>>;

    async fn list_stream(&self, request: Request<wire::ListContainersRequest>) -> Answer<Self::ListStreamStream> {
        let all = self.all(&request).await?;
        let messages = all
            .into_iter()
            .map(|record| Ok(wire::ListContainerMessage { container: Some(convert::container(record)) }));
        Ok(Response::new(futures::stream::iter(messages).boxed()))
    }

    async fn create(&self, request: Request<wire::CreateContainerRequest>) -> Answer<wire::CreateContainerResponse> {
        let scope = scope(&request)?;
        let asked = convert::container_record(request.into_inner().container.unwrap_or_default());
        let made = self.0.create(&scope, asked, Vec::new()).await.map_err(from_error)?;
        Ok(Response::new(wire::CreateContainerResponse { container: Some(convert::container(made)) }))
    }

    async fn update(&self, request: Request<wire::UpdateContainerRequest>) -> Answer<wire::UpdateContainerResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let asked = convert::container_record(request.container.unwrap_or_default());
        let made = self.0.update(&scope, asked, &mask(request.update_mask)).await.map_err(from_error)?;
        Ok(Response::new(wire::UpdateContainerResponse { container: Some(convert::container(made)) }))
    }

    async fn delete(&self, request: Request<wire::DeleteContainerRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let id = ContainerId::new(&request.get_ref().id).map_err(from_error)?;
        answer(self.0.delete(&scope, &id, Vec::new()).await)
    }
}
