//! Reading and changing the life record of a container.

use crated_api::crated::engine::v1::ContainerConfig;
use crated_core::{Op, Revision};
use crated_types::{Error, Fault, Kind, Namespace, Result};
use prost::Message;

use crate::engine::Engine;
use crate::record::{LIVES, Life};

/// What a container is doing, by docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
        }
    }
}

impl Life {
    /// What the container is doing.
    pub(crate) fn state(&self) -> State {
        if self.removing {
            State::Removing
        } else if self.running && self.paused {
            State::Paused
        } else if self.running {
            State::Running
        } else if self.restarting {
            State::Restarting
        } else if self.started_at.is_none() {
            State::Created
        } else {
            State::Exited
        }
    }

    /// Whether a task of it exists, or did when the record was written.
    pub(crate) fn has_task(&self) -> bool {
        self.running || self.prepared
    }

    /// What the container was asked to be.
    pub(crate) fn wanted(&self, id: &str) -> Result<ContainerConfig> {
        ContainerConfig::decode(self.config.as_slice()).map_err(|source| {
            Error::new(Fault::Corrupt, "the stored configuration").on(Kind::Container, id).caused_by(source)
        })
    }
}

impl Engine {
    /// The life of a container; none for one that a client of containerd made.
    pub(crate) async fn life(&self, namespace: &Namespace, id: &str) -> Result<Option<Life>> {
        let key = LIVES.key(namespace.as_str(), id);
        Ok(LIVES.get(&*self.deps.metadata, &key).await?.map(|(_, life)| life))
    }

    /// The change of a life as part of a commit, and the life as it will be; nothing where there is none.
    pub(crate) async fn life_ops(
        &self,
        namespace: &Namespace,
        id: &str,
        change: impl FnOnce(&mut Life) + Send,
    ) -> Result<(Vec<Op>, Option<Life>)> {
        let key = LIVES.key(namespace.as_str(), id);
        let Some((revision, mut life)) = LIVES.get(&*self.deps.metadata, &key).await? else {
            return Ok((Vec::new(), None));
        };
        change(&mut life);
        Ok((vec![Op::Expect(key.clone(), revision), LIVES.put(key, &life)], Some(life)))
    }

    /// Commits a change of a life together with `with`, and rings.
    pub(crate) async fn change_life(
        &self,
        namespace: &Namespace,
        id: &str,
        with: Vec<Op>,
        change: impl FnOnce(&mut Life) + Send,
    ) -> Result<Option<Life>> {
        let (batch, life) = self.life_batch(namespace, id, with, change).await?;
        self.commit(batch).await?;
        self.slots.get(namespace.as_str(), id).ring();
        Ok(life)
    }

    /// As [`Engine::change_life`], for what means nothing after another boot, or is found again in a durable event.
    pub(crate) async fn note_life(
        &self,
        namespace: &Namespace,
        id: &str,
        with: Vec<Op>,
        change: impl FnOnce(&mut Life) + Send,
    ) -> Result<Option<Life>> {
        let (batch, life) = self.life_batch(namespace, id, with, change).await?;
        self.commit_soon(batch).await?;
        self.slots.get(namespace.as_str(), id).ring();
        Ok(life)
    }

    async fn life_batch(
        &self,
        namespace: &Namespace,
        id: &str,
        with: Vec<Op>,
        change: impl FnOnce(&mut Life) + Send,
    ) -> Result<(Vec<Op>, Option<Life>)> {
        let (mut batch, life) = self.life_ops(namespace, id, change).await?;
        batch.extend(with);
        Ok((batch, life))
    }

    /// Commits, unless there is nothing to.
    pub(crate) async fn commit(&self, batch: Vec<Op>) -> Result<Revision> {
        if batch.is_empty() { Ok(self.deps.metadata.revision()) } else { self.deps.metadata.commit(batch).await }
    }

    /// As [`Engine::commit`], without waiting for the disk.
    pub(crate) async fn commit_soon(&self, batch: Vec<Op>) -> Result<Revision> {
        if batch.is_empty() { Ok(self.deps.metadata.revision()) } else { self.deps.metadata.commit_soon(batch).await }
    }
}
