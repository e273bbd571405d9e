//! From what a person types to a container: an identifier, a name, or the beginning of an identifier.

use crated_core::metadata::Table;
use crated_core::record::Container;
use crated_core::{ProcessStatus, Task};
use crated_types::filter::Filters;
use crated_types::{ContainerId, Error, Fault, Kind, Result, Scope};
use std::sync::Arc;

use crate::engine::{Engine, no_container, not_running};
use crate::record::{LIVES, Life, NAMES};

/// A container with what the engine knows of it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) id: ContainerId,
    pub(crate) record: Container,
    /// None for one that a client of containerd made.
    pub(crate) life: Option<Life>,
}

impl Found {
    /// Its name; containers of containerd's clients are called by their identifier.
    pub(crate) fn name(&self) -> String {
        self.life.as_ref().map_or_else(|| self.id.to_string(), |life| life.name.clone())
    }
}

impl Engine {
    /// The container that `text` means.
    ///
    /// # Errors
    /// [`Fault::NotFound`]; [`Fault::Invalid`] for a beginning that several identifiers share.
    pub(crate) async fn find(&self, scope: &Scope, text: &str) -> Result<Found> {
        let text = text.strip_prefix('/').unwrap_or(text);
        if text.is_empty() {
            return Err(Error::invalid("container", "is empty: give a name or an identifier"));
        }
        let id = self.find_id(scope, text).await?;
        self.found(scope, &id)
            .await
            .map_err(|error| if error.is_not_found() { no_container(scope, text) } else { error })
    }

    /// The container of an identifier.
    pub(crate) async fn found(&self, scope: &Scope, id: &ContainerId) -> Result<Found> {
        let record = self.deps.containers.get(scope, id).await?;
        let life = self.life(&scope.namespace, id.as_str()).await?;
        Ok(Found { id: id.clone(), record, life })
    }

    async fn find_id(&self, scope: &Scope, text: &str) -> Result<ContainerId> {
        let namespace = scope.namespace.as_str();
        let metadata = &*self.deps.metadata;
        if let Ok(id) = ContainerId::new(text) {
            if metadata.get(&LIVES.key(namespace, text)).await?.is_some() {
                return Ok(id);
            }
            match self.deps.containers.get(scope, &id).await {
                Ok(_) => return Ok(id),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        if let Some((_, named)) = NAMES.get(metadata, &NAMES.key(namespace, text)).await? {
            return ContainerId::new(&named.id);
        }
        let mut matching = self.beginning(&LIVES, namespace, text).await?;
        if matching.is_empty() {
            let all = self.deps.containers.list(scope, &Filters::default()).await?;
            matching =
                all.into_iter().map(|container| container.id).filter(|id| id.starts_with(text)).take(2).collect();
        }
        match matching.as_slice() {
            [] => Err(no_container(scope, text)),
            [id] => ContainerId::new(id),
            _ => Err(Error::invalid("container", format_args!("{text:?} begins several identifiers"))
                .remedy_is("give more digits, or the name")),
        }
    }

    async fn beginning<R>(&self, table: &Table<R>, namespace: &str, text: &str) -> Result<Vec<String>>
    where
        R: prost::Message + Default,
    {
        let page = self.deps.metadata.scan(&table.key(namespace, text), &[], 2).await?;
        Ok(page.iter().filter_map(|(key, _)| table.parts(key)).map(|(_, id)| id.to_owned()).collect())
    }

    /// The task of a container; none where there is none.
    pub(crate) async fn task(&self, scope: &Scope, id: &ContainerId) -> Result<Option<Arc<dyn Task>>> {
        match self.deps.tasks.get(scope, id).await {
            Ok(task) => Ok(Some(task)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The running (or paused) task of a container and its process.
    ///
    /// # Errors
    /// [`Fault::Precondition`] where it does not run.
    pub(crate) async fn running(&self, scope: &Scope, found: &Found) -> Result<(Arc<dyn Task>, u32)> {
        let refused = || not_running(found.id.as_str());
        if found.life.as_ref().is_some_and(|life| !life.has_task()) {
            return Err(refused());
        }
        let Some(task) = self.task(scope, &found.id).await? else { return Err(refused()) };
        let state = task.state(None).await?;
        match state.status {
            ProcessStatus::Running | ProcessStatus::Paused | ProcessStatus::Pausing => Ok((task, state.pid)),
            ProcessStatus::Created | ProcessStatus::Stopped | ProcessStatus::Unknown => Err(refused()),
        }
    }

    /// The path of a namespace of another container's process, e.g. for `net` of `container:web`.
    pub(crate) async fn namespace_of(&self, scope: &Scope, other: &str, kind: &str) -> Result<String> {
        let found = self.find(scope, other).await?;
        let (_, pid) = self.running(scope, &found).await.map_err(|error| {
            Error::new(Fault::Precondition, format!("its {kind} namespace cannot be joined"))
                .on(Kind::Container, other)
                .caused_by(error)
        })?;
        Ok(format!("/proc/{pid}/ns/{kind}"))
    }
}
