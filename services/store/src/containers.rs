//! Container records: what a container is made from. They keep their snapshot from the collector.

use async_trait::async_trait;
use crated_api::containerd::events;
use crated_core::mask::set_label;
use crated_core::record::{CONTAINERS, Container, Event};
use crated_core::{ContainerStore, Mask, MetadataStore, Op, time};
use crated_types::filter::Filters;
use crated_types::{ContainerId, Error, Kind, Labels, Result, Scope, label};
use std::sync::Arc;

use crate::change::{Frame, change};
use crate::fields::Fields;
use crate::gc::Requests;

/// Every field that an update may replace.
const MUTABLE: [&str; 5] = ["labels", "spec", "extensions", "image", "snapshotkey"];

/// The container records of the daemon.
#[derive(Debug)]
pub struct Containers {
    metadata: Arc<dyn MetadataStore>,
    requests: Requests,
}

impl Containers {
    /// Containers in `metadata`; deletions ask `requests` for a collection.
    #[must_use]
    pub fn new(metadata: Arc<dyn MetadataStore>, requests: Requests) -> Arc<Self> {
        Arc::new(Self { metadata, requests })
    }
}

fn missing(scope: &Scope, id: &ContainerId) -> Error {
    Error::not_found(Kind::Container, id).in_namespace(&scope.namespace)
}

#[async_trait]
impl ContainerStore for Containers {
    async fn get(&self, scope: &Scope, id: &ContainerId) -> Result<Container> {
        let key = CONTAINERS.key(scope.namespace.as_str(), id.as_str());
        let found = CONTAINERS.get(&*self.metadata, &key).await?;
        found.map(|(_, container)| container).ok_or_else(|| missing(scope, id))
    }

    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Container>> {
        let all = CONTAINERS.list(&*self.metadata, &CONTAINERS.prefix(scope.namespace.as_str())).await?;
        Ok(all.into_iter().map(|(_, _, container)| container).filter(|one| filters.matches(&Fields(one))).collect())
    }

    async fn create(&self, scope: &Scope, mut container: Container, with: Vec<Op>) -> Result<Container> {
        container.labels = label::stored(std::mem::take(&mut container.labels));
        let id = check(&container)?;
        let now = time::now();
        container.created_at = Some(now);
        container.updated_at = Some(now);
        let event = events::ContainerCreate {
            id: container.id.clone(),
            image: container.image.clone(),
            runtime: Some(events::container_create::Runtime {
                name: container.runtime_name.clone(),
                options: container.runtime_options.clone(),
            }),
        };
        let event = Op::event(&Event::new(scope, "/containers/create", "containerd.events.ContainerCreate", &event));
        let key = CONTAINERS.key(scope.namespace.as_str(), id.as_str());
        change(&*self.metadata, scope, &Frame::writing(), (CONTAINERS, key.clone()), |found| {
            if found.is_some() {
                return Err(Error::already_exists(Kind::Container, &id).in_namespace(&scope.namespace));
            }
            let mut ops = vec![CONTAINERS.put(key.clone(), &container), event.clone()];
            ops.extend(with.iter().cloned());
            Ok((ops, container.clone()))
        })
        .await
    }

    async fn update(&self, scope: &Scope, container: Container, mask: &Mask) -> Result<Container> {
        let id = ContainerId::new(&container.id)?;
        let key = CONTAINERS.key(scope.namespace.as_str(), id.as_str());
        let answer = change(&*self.metadata, scope, &Frame::default(), (CONTAINERS, key.clone()), |found| {
            let mut stored = found.ok_or_else(|| missing(scope, &id))?;
            apply(&mut stored, &container, mask)?;
            check(&stored)?;
            stored.updated_at = Some(time::now());
            let event = events::ContainerUpdate {
                id: stored.id.clone(),
                image: stored.image.clone(),
                labels: stored.labels.clone(),
                snapshot_key: stored.snapshot_key.clone(),
            };
            let event = Event::new(scope, "/containers/update", "containerd.events.ContainerUpdate", &event);
            Ok((vec![CONTAINERS.put(key.clone(), &stored), Op::event(&event)], stored))
        })
        .await?;
        self.requests.mutated();
        Ok(answer)
    }

    async fn delete(&self, scope: &Scope, id: &ContainerId, with: Vec<Op>) -> Result<()> {
        let key = CONTAINERS.key(scope.namespace.as_str(), id.as_str());
        let event = events::ContainerDelete { id: id.to_string() };
        let event = Op::event(&Event::new(scope, "/containers/delete", "containerd.events.ContainerDelete", &event));
        change(&*self.metadata, scope, &Frame::default(), (CONTAINERS, key.clone()), |found| {
            found.ok_or_else(|| missing(scope, id))?;
            let mut ops = vec![Op::Delete(key.clone()), event.clone()];
            ops.extend(with.iter().cloned());
            Ok((ops, ()))
        })
        .await?;
        self.requests.request();
        Ok(())
    }
}

/// Checks a record as it is about to be stored.
fn check(container: &Container) -> Result<ContainerId> {
    let id = ContainerId::new(&container.id)?;
    if container.extensions.keys().any(String::is_empty) {
        return Err(Error::invalid("container.extensions", "a key must not be empty"));
    }
    label::check(&container.labels)?;
    if container.runtime_name.is_empty() {
        return Err(Error::invalid("container.runtime.name", "must be set"));
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return Err(Error::invalid("container.snapshotter", "must not be empty where a snapshot key is set"));
    }
    Ok(id)
}

fn apply(stored: &mut Container, request: &Container, mask: &Mask) -> Result<()> {
    let paths = match mask {
        Mask::Paths(paths) => paths.clone(),
        Mask::All => {
            let fixed = |field: &str| Err(Error::invalid(field, "field is immutable"));
            if stored.snapshotter != request.snapshotter {
                return fixed("container.snapshotter");
            }
            if stored.runtime_name != request.runtime_name {
                return fixed("container.runtime.name");
            }
            MUTABLE.map(String::from).to_vec()
        }
    };
    for path in &paths {
        match path.as_str() {
            "labels" => stored.labels = label::stored(request.labels.clone()),
            "spec" => stored.spec = request.spec.clone(),
            "extensions" => stored.extensions = request.extensions.clone(),
            "image" => stored.image = request.image.clone(),
            "snapshotkey" => stored.snapshot_key = request.snapshot_key.clone(),
            _ => apply_entry(stored, request, path)?,
        }
    }
    Ok(())
}

/// A path into one of the two maps.
fn apply_entry(stored: &mut Container, request: &Container, path: &str) -> Result<()> {
    if let Some(key) = path.strip_prefix("labels.") {
        set_label(&mut stored.labels, &request.labels as &Labels, key);
        return Ok(());
    }
    let Some(key) = path.strip_prefix("extensions.") else {
        return Err(Mask::immutable("container", &stored.id, path));
    };
    match request.extensions.get(key) {
        Some(value) => stored.extensions.insert(key.into(), value.clone()),
        None => stored.extensions.remove(key),
    };
    Ok(())
}
