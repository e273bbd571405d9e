//! `containerd.services.namespaces.v1.Namespaces`.

use super::{Answer, actor, answer, mask};
use crated_api::containerd::services::namespaces::v1 as wire;
use crated_api::containerd::services::namespaces::v1::namespaces_server::Namespaces;
use crated_api::status::from_error;
use crated_core::NamespaceStore;
use crated_types::Namespace;
use std::sync::Arc;
use tonic::{Request, Response, async_trait};

/// Over the port of namespaces.
#[derive(Clone, Debug)]
pub struct NamespacesAdapter(pub Arc<dyn NamespaceStore>);

fn message(name: &Namespace, labels: crated_types::Labels) -> Option<wire::Namespace> {
    Some(wire::Namespace { name: name.to_string(), labels })
}

#[async_trait]
impl Namespaces for NamespacesAdapter {
    async fn get(&self, request: Request<wire::GetNamespaceRequest>) -> Answer<wire::GetNamespaceResponse> {
        let name = Namespace::new(&request.get_ref().name).map_err(from_error)?;
        let labels = self.0.get(&name).await.map_err(from_error)?;
        Ok(Response::new(wire::GetNamespaceResponse { namespace: message(&name, labels) }))
    }

    async fn list(&self, _: Request<wire::ListNamespacesRequest>) -> Answer<wire::ListNamespacesResponse> {
        let all = self.0.list().await.map_err(from_error)?;
        let namespaces = all.into_iter().filter_map(|(name, labels)| message(&name, labels)).collect();
        Ok(Response::new(wire::ListNamespacesResponse { namespaces }))
    }

    async fn create(&self, request: Request<wire::CreateNamespaceRequest>) -> Answer<wire::CreateNamespaceResponse> {
        let actor = actor(&request);
        let asked = request.into_inner().namespace.unwrap_or_default();
        let name = Namespace::new(&asked.name).map_err(from_error)?;
        self.0.create(&actor, &name, asked.labels.clone()).await.map_err(from_error)?;
        let labels = crated_types::label::stored(asked.labels);
        Ok(Response::new(wire::CreateNamespaceResponse { namespace: message(&name, labels) }))
    }

    async fn update(&self, request: Request<wire::UpdateNamespaceRequest>) -> Answer<wire::UpdateNamespaceResponse> {
        let actor = actor(&request);
        let request = request.into_inner();
        let asked = request.namespace.unwrap_or_default();
        let name = Namespace::new(&asked.name).map_err(from_error)?;
        let mask = mask(request.update_mask);
        let labels = self.0.update(&actor, &name, asked.labels, &mask).await.map_err(from_error)?;
        Ok(Response::new(wire::UpdateNamespaceResponse { namespace: message(&name, labels) }))
    }

    async fn delete(&self, request: Request<wire::DeleteNamespaceRequest>) -> Answer<()> {
        let actor = actor(&request);
        let name = Namespace::new(&request.get_ref().name).map_err(from_error)?;
        answer(self.0.delete(&actor, &name).await)
    }
}
