//! Remove: everything that a container has goes, forward always; what is gone already is a success.

use crated_api::crated::engine::v1::{RemoveRequest, RemoveResponse};
use crated_core::Op;
use crated_core::network::Change;
use crated_types::{ContainerId, Error, Kind, Result, Scope, SnapshotKey};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::engine::{Engine, blocking};
use crate::journal::{Kinds, Open};
use crate::life::State;
use crate::network::plug::kept;
use crate::record::{LIVES, Life, NAMES, RemoveArguments};
use crate::start::end_task;

impl Engine {
    /// Removes a container with its snapshot, log and volumes without a name; with `force` a running one is killed.
    ///
    /// # Errors
    /// [`crated_types::Fault::Precondition`] where it runs and `force` is not given.
    ///
    /// # Cancel safety
    /// Dropped, the removal goes on.
    pub async fn remove(self: &Arc<Self>, scope: &Scope, request: RemoveRequest) -> Result<RemoveResponse> {
        let found = self.find(scope, &request.container).await?;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move {
            let slot = engine.slots.get(scope.namespace.as_str(), found.id.as_str());
            let _turn = slot.lock().await;
            if !request.force {
                engine.check_idle(&scope, &found.id, &found.name()).await?;
            }
            engine.remove_locked(&scope, &found.id).await?;
            Ok(RemoveResponse { id: found.id.to_string(), name: found.name() })
        })
        .await
    }

    async fn check_idle(&self, scope: &Scope, id: &ContainerId, name: &str) -> Result<()> {
        let state = match self.life(&scope.namespace, id.as_str()).await? {
            Some(life) => life.state(),
            None => self.foreign_state(scope, id).await?.0,
        };
        if matches!(state, State::Running | State::Paused | State::Restarting) {
            return Err(Error::precondition(Kind::Container, name, format!("is {}", state.name()))
                .remedy_is("stop it before, or remove it by force: `cratectl rm -f`"));
        }
        Ok(())
    }

    /// The removal, under the container's lock; one that failed half-way goes on where it was.
    pub(crate) async fn remove_locked(self: &Arc<Self>, scope: &Scope, id: &ContainerId) -> Result<()> {
        let mut open = match self.journal.resume(scope, Kinds::Remove, id.as_str()).await? {
            Some(open) => open,
            None => {
                let arguments = self.removal_of(scope, id).await?;
                let (change, _) = self
                    .life_ops(&scope.namespace, id.as_str(), |life| {
                        (life.removing, life.restarting) = (true, false);
                    })
                    .await?;
                self.journal.begin(scope, Kinds::Remove, id.as_str(), &arguments, change).await?
            }
        };
        self.drive_remove(&mut open).await
    }

    async fn removal_of(&self, scope: &Scope, id: &ContainerId) -> Result<RemoveArguments> {
        let record = match self.deps.containers.get(scope, id).await {
            Ok(record) => Some(record),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let life = self.life(&scope.namespace, id.as_str()).await?;
        let (snapshotter, snapshot_key) = match (record, &life) {
            (Some(record), _) => (record.snapshotter, record.snapshot_key),
            (None, Some(life)) => (life.wanted(id.as_str())?.snapshotter, id.to_string()),
            (None, None) => Default::default(),
        };
        let name = life.as_ref().map(|life| life.name.clone()).unwrap_or_default();
        Ok(RemoveArguments { name, snapshotter, snapshot_key, volumes: anonymous(life.as_ref()) })
    }

    /// The steps; each may have been done already.
    pub(crate) async fn drive_remove(&self, open: &mut Open) -> Result<()> {
        let arguments: RemoveArguments = open.arguments()?;
        let scope = open.scope.clone();
        let id = ContainerId::new(open.subject())?;
        if let Some(task) = self.task(&scope, &id).await? {
            open.step("task", end_task(&*task)).await?;
        }
        if !arguments.snapshot_key.is_empty() {
            open.step("snapshot", self.drop_snapshot(&scope, &arguments.snapshotter, &arguments.snapshot_key)).await?;
        }
        open.step("files", remove_folder(&self.folder(&scope.namespace, id.as_str()))).await?;
        for volume in &arguments.volumes {
            open.step("volume", remove_folder(&self.volumes(&scope.namespace).join(volume))).await?;
        }
        let namespace = scope.namespace.as_str();
        let mut last = self.journal.forgetting(open);
        last.extend(self.journal.forget_others(&scope.namespace, id.as_str()).await?);
        last.push(Op::Delete(LIVES.key(namespace, id.as_str())));
        last.extend(self.freed_name(&scope, &id, &arguments.name).await?);
        let mut network = match self.life(&scope.namespace, id.as_str()).await? {
            Some(life) => {
                let config = life.wanted(id.as_str())?;
                open.step("network", Box::pin(self.forget_network(&scope, &id, &config))).await?
            }
            None => None,
        };
        last.extend(network.iter_mut().flat_map(Change::take));
        crated_core::fail::point("engine.remove.record")?;
        match self.deps.containers.delete(&scope, &id, last.clone()).await {
            Err(error) if error.is_not_found() => drop(self.commit(last).await?),
            answer => answer?,
        }
        kept(network);
        crated_core::fail::moment("engine.remove.done");
        self.slots.get(namespace, id.as_str()).ring();
        tracing::info!(container = %id, name = arguments.name, "removed");
        Ok(())
    }

    /// What frees a container's name: the one that it has now, which was `noted` if nobody knows, and only if it is its own.
    pub(crate) async fn freed_name(&self, scope: &Scope, id: &ContainerId, noted: &str) -> Result<Option<Op>> {
        let life = self.life(&scope.namespace, id.as_str()).await?;
        let name = life.map_or_else(|| noted.to_owned(), |life| life.name);
        if name.is_empty() {
            return Ok(None);
        }
        let key = NAMES.key(scope.namespace.as_str(), &name);
        let own = NAMES.get(&*self.deps.metadata, &key).await?.is_some_and(|(_, named)| named.id == id.as_str());
        Ok(own.then_some(Op::Delete(key)))
    }

    /// Removes an active snapshot; one that is gone, or whose snapshotter is not loaded any more, is no hindrance.
    pub(crate) async fn drop_snapshot(&self, scope: &Scope, snapshotter: &str, key: &str) -> Result<()> {
        let Ok(snapshotter) = self.snapshotter(snapshotter) else {
            tracing::warn!(snapshotter, key, "a snapshot stays: its snapshotter is not loaded");
            return Ok(());
        };
        match snapshotter.remove(scope, &SnapshotKey::new(key)?).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Folders of the volumes that go with a container.
pub(crate) fn anonymous(life: Option<&Life>) -> Vec<String> {
    let mounts = life.map(|life| life.mounts.as_slice()).unwrap_or_default();
    mounts.iter().filter(|mount| mount.anonymous).map(|mount| mount.name.clone()).collect()
}

/// Removes one of our folders with all that is in it.
pub(crate) async fn remove_folder(path: &Path) -> Result<()> {
    let path = path.to_owned();
    blocking(move || {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::internal(format!("{} is no folder of the engine", path.display())));
        };
        let removed = std::fs::File::open(parent).and_then(|parent| crated_sys::tree::remove(&parent, name));
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::os(format!("remove {}", path.display()), error))
            }
            _ => Ok(()),
        }
    })
    .await
}
