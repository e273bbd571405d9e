//! Runs a blocking [`Backend`] away from the reactor, so many operations at a time.

use crate::{Access, Backend, SnapshotId, Usage};
use crated_types::{Error, Mount, Result};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// A backend behind a bounded blocking pool; clones share the bound.
///
/// Every method is the backend's of the same name. A started operation runs to its end even where its future is dropped.
#[derive(Clone, Debug)]
pub struct Offload {
    backend: Arc<dyn Backend>,
    slots: Arc<Semaphore>,
    sweeper: Arc<Semaphore>,
}

impl Offload {
    /// At most `limit` (at least 1) operations touch the disk at once; one cleanup runs beside them.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, limit: usize) -> Self {
        Self { backend, slots: Arc::new(Semaphore::new(limit.max(1))), sweeper: Arc::new(Semaphore::new(1)) }
    }

    /// The backend itself, for what does not block.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    async fn run<T: Send + 'static>(
        &self,
        slots: &Arc<Semaphore>,
        op: impl FnOnce(&dyn Backend) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let backend = Arc::clone(&self.backend);
        let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
        let work = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            op(&*backend)
        });
        match work.await {
            Ok(answer) => answer,
            Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
            Err(_) => Err(Error::new(crated_types::Fault::NotReady, "the daemon is stopping")),
        }
    }

    /// See [`Backend::create`].
    ///
    /// # Errors
    /// The backend's.
    pub async fn create(&self, id: SnapshotId, parents: Vec<SnapshotId>) -> Result<()> {
        self.run(&self.slots, move |backend| backend.create(id, &parents)).await
    }

    /// See [`Backend::view`].
    ///
    /// # Errors
    /// The backend's.
    pub async fn view(&self, id: SnapshotId, parents: Vec<SnapshotId>) -> Result<()> {
        self.run(&self.slots, move |backend| backend.view(id, &parents)).await
    }

    /// See [`Backend::mounts`].
    ///
    /// # Errors
    /// The backend's.
    pub async fn mounts(&self, id: SnapshotId, parents: Vec<SnapshotId>, access: Access) -> Result<Vec<Mount>> {
        self.run(&self.slots, move |backend| backend.mounts(id, &parents, access)).await
    }

    /// See [`Backend::commit`].
    ///
    /// # Errors
    /// The backend's.
    pub async fn commit(&self, id: SnapshotId) -> Result<Usage> {
        self.run(&self.slots, move |backend| backend.commit(id)).await
    }

    /// See [`Backend::remove`].
    ///
    /// # Errors
    /// The backend's.
    pub async fn remove(&self, id: SnapshotId) -> Result<()> {
        self.run(&self.slots, move |backend| backend.remove(id)).await
    }

    /// See [`Backend::usage`].
    ///
    /// # Errors
    /// The backend's.
    pub async fn usage(&self, id: SnapshotId) -> Result<Usage> {
        self.run(&self.slots, move |backend| backend.usage(id)).await
    }

    /// See [`Backend::ids`].
    ///
    /// # Errors
    /// The backend's.
    pub async fn ids(&self) -> Result<Vec<SnapshotId>> {
        self.run(&self.slots, |backend| backend.ids()).await
    }

    /// See [`Backend::cleanup`]; takes no slot of the others, a second one waits for the first.
    ///
    /// # Errors
    /// The backend's.
    pub async fn cleanup(&self) -> Result<()> {
        self.run(&self.sweeper, |backend| backend.cleanup()).await
    }
}
