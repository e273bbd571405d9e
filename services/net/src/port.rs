//! The port's methods, each one call of the service's.

use async_trait::async_trait;
use crated_core::Networks;
use crated_core::network::record::ATTACHMENTS;
use crated_core::network::{
    Attachment, Change, Endpoint, Finding, Mended, Netns, Network, NetworkSpec, Phase, Publish, Published, Running,
    Wanted, Wish,
};
use crated_types::{ContainerId, Result, Scope};

use crate::service::{Service, holder_of};

#[async_trait]
impl Networks for Service {
    async fn create(&self, scope: &Scope, spec: NetworkSpec) -> Result<Network> {
        self.make(scope, spec).await
    }

    async fn get(&self, scope: &Scope, name: &str) -> Result<Network> {
        self.find(scope.namespace.as_str(), name).await.map(|(_, network)| network)
    }

    async fn list(&self, scope: &Scope) -> Result<Vec<Network>> {
        self.listed(scope).await
    }

    async fn remove(&self, scope: &Scope, name: &str) -> Result<Network> {
        self.unmake(scope, name).await
    }

    async fn prune(&self, scope: &Scope) -> Result<Vec<Network>> {
        self.unmake_unused(scope).await
    }

    async fn attachment(&self, scope: &Scope, container: &ContainerId) -> Result<Option<Attachment>> {
        let found = self.record(scope.namespace.as_str(), container.as_str()).await?;
        Ok(found.map(|(_, attachment)| self.shown(attachment)))
    }

    async fn attachments(&self) -> Result<Vec<Attachment>> {
        let all = ATTACHMENTS.list(&*self.metadata, &ATTACHMENTS.prefix("")).await?;
        Ok(all.into_iter().map(|(_, _, attachment)| self.shown(attachment)).collect())
    }

    async fn configure(&self, scope: &Scope, wish: Wish) -> Result<Change> {
        self.begin(scope, wish).await
    }

    async fn reserve(&self, scope: &Scope, container: &ContainerId) -> Result<Change> {
        self.give(scope, container).await
    }

    async fn attach(&self, scope: &Scope, container: &ContainerId, netns: Netns) -> Result<Attachment> {
        self.plug_in(scope, container, netns).await
    }

    async fn detach(&self, scope: &Scope, container: &ContainerId) -> Result<Change> {
        self.unplug(scope, container, false).await
    }

    async fn forget(&self, scope: &Scope, container: &ContainerId) -> Result<Change> {
        self.unplug(scope, container, true).await
    }

    async fn rename(&self, scope: &Scope, container: &ContainerId, name: &str) -> Result<Change> {
        self.call_it(scope, container, name).await
    }

    async fn connect(
        &self,
        scope: &Scope,
        container: &ContainerId,
        wanted: Wanted,
        netns: Option<Netns>,
    ) -> Result<Endpoint> {
        self.add_endpoint(scope, container, wanted, netns).await
    }

    async fn disconnect(
        &self,
        scope: &Scope,
        container: &ContainerId,
        network: &str,
        netns: Option<Netns>,
    ) -> Result<()> {
        self.remove_endpoint(scope, container, network, netns).await
    }

    async fn publish(
        &self,
        scope: &Scope,
        container: &ContainerId,
        add: Vec<Publish>,
        remove: Vec<Publish>,
    ) -> Result<Vec<Published>> {
        self.change_ports(scope, container, add, remove).await
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        self.findings().await
    }

    async fn reconcile(&self, running: Vec<Running>) -> Result<Mended> {
        self.mend(running).await
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.memory.changes.subscribe()
    }

    fn close(&self) {
        self.stop.cancel();
    }
}

impl Service {
    /// The record with what only memory knows.
    fn shown(&self, mut attachment: Attachment) -> Attachment {
        if let Some(attached) = self.memory.lock().attached.get(&holder_of(&attachment)) {
            attachment.phase = Phase::Attached as i32;
            (attachment.netns, attachment.netns_inode) = (attached.path.clone(), attached.inode);
        }
        attachment
    }
}
