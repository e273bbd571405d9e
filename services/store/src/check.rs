//! Records against each other: those that cannot be read, those that refer to nothing, and who needs a thing.

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use crated_core::check::{BadRecord, RecordCheck, Referrer};
use crated_core::record::{BLOBS, CONTAINERS, IMAGES, INGESTS, LEASED, LEASES, Mark, NAMESPACES, SNAPSHOTS, TASKS};
use crated_core::{MetadataStore, Op, Resource, ResourceKind, Revision, Table};
use crated_types::{Namespace, Result};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::gc::graph::{self, Node};
use crate::snapshots::CHILDREN;

/// Records that are read at once.
const PAGE: usize = 1000;

/// Compares the records of the store.
#[derive(Debug)]
pub struct Records(Arc<dyn MetadataStore>);

impl Records {
    /// Over the metadata.
    #[must_use]
    pub fn new(metadata: Arc<dyn MetadataStore>) -> Arc<Self> {
        Arc::new(Self(metadata))
    }

    async fn exists(&self, key: &[u8]) -> Result<bool> {
        Ok(self.0.get(key).await?.is_some())
    }

    /// Records of a table that cannot be decoded.
    async fn unreadable<R: prost::Message + Default>(&self, table: Table<R>, bad: &mut Vec<BadRecord>) -> Result<()> {
        let mut after = Vec::new();
        loop {
            let page = self.0.scan(&table.prefix(""), &after, PAGE).await?;
            for (key, stored) in &page {
                let Err(error) = table.decode(key, &stored.value) else { continue };
                let namespace = table.parts(key).map(|(namespace, _)| namespace.to_owned()).unwrap_or_default();
                bad.push(BadRecord {
                    namespace,
                    object: format!("record {}", shown(key)),
                    problem: format!("it cannot be read: {error}"),
                    remedy: "stop the daemon and run `crated metadata check`, then `crated metadata repair`".into(),
                    repair: Vec::new(),
                });
            }
            let Some((last, _)) = page.last().filter(|_| page.len() == PAGE) else { return Ok(()) };
            after.clone_from(last);
        }
    }

    async fn images(&self, bad: &mut Vec<BadRecord>) -> Result<()> {
        for (key, stored) in self.0.scan_all(&IMAGES.prefix("")).await? {
            let Some((namespace, name)) = IMAGES.parts(&key) else { continue };
            let Ok(image) = IMAGES.decode(&key, &stored.value) else { continue };
            let digest = image.target.map(|target| target.digest).unwrap_or_default();
            if self.exists(&BLOBS.key(namespace, &digest)).await? || !self.exists(&key).await? {
                continue;
            }
            bad.push(BadRecord {
                namespace: namespace.into(),
                object: format!("image {name}"),
                problem: format!("its content {digest} is not here"),
                remedy: format!("pull it again, or remove it: `cratectl -n {namespace} rmi {name}`"),
                repair: Vec::new(),
            });
        }
        Ok(())
    }

    async fn containers(&self, bad: &mut Vec<BadRecord>) -> Result<()> {
        for (key, stored) in self.0.scan_all(&CONTAINERS.prefix("")).await? {
            let Some((namespace, id)) = CONTAINERS.parts(&key) else { continue };
            let Ok(container) = CONTAINERS.decode(&key, &stored.value) else { continue };
            let snapshot = SNAPSHOTS.key2(namespace, &container.snapshotter, &container.snapshot_key);
            if container.snapshot_key.is_empty() || self.exists(&snapshot).await? || !self.exists(&key).await? {
                continue;
            }
            bad.push(BadRecord {
                namespace: namespace.into(),
                object: format!("container {id}"),
                problem: format!("its root file system, snapshot {}, is gone", container.snapshot_key),
                remedy: format!("remove it: `cratectl -n {namespace} rm -f {id}`"),
                repair: Vec::new(),
            });
        }
        Ok(())
    }

    /// Parents that are gone, and the marks by which a parent knows its children.
    async fn families(&self, bad: &mut Vec<BadRecord>) -> Result<()> {
        for (key, stored) in self.0.scan_all(&SNAPSHOTS.prefix("")).await? {
            let Some((namespace, _)) = SNAPSHOTS.parts(&key) else { continue };
            let (Some(snapshotter), Ok(snapshot)) = (graph::snapshotter(&key), SNAPSHOTS.decode(&key, &stored.value))
            else {
                continue;
            };
            if snapshot.parent.is_empty() {
                continue;
            }
            let object = format!("snapshot {snapshotter} {}", snapshot.name);
            let parent = SNAPSHOTS.key2(namespace, snapshotter, &snapshot.parent);
            let known = self.0.get(&parent).await?.map(|stored| stored.revision);
            let mark = crate::snapshots::child_key(namespace, snapshotter, &snapshot.parent, &snapshot.name);
            let marked = self.exists(&mark).await?;
            if !self.exists(&key).await? {
                continue;
            }
            match known {
                None => bad.push(BadRecord {
                    namespace: namespace.into(),
                    object,
                    problem: format!("its parent {} is gone", snapshot.parent),
                    remedy: "remove what uses it; its files are incomplete".into(),
                    repair: Vec::new(),
                }),
                Some(revision) if !marked => bad.push(BadRecord {
                    namespace: namespace.into(),
                    object,
                    problem: format!("its parent {} does not know it", snapshot.parent),
                    remedy: String::new(),
                    repair: vec![
                        Op::Expect(key.clone(), stored.revision),
                        Op::Expect(parent, revision),
                        CHILDREN.put(mark, &Mark {}),
                    ],
                }),
                Some(_) => {}
            }
        }
        for (key, _) in self.0.scan_all(&CHILDREN.prefix("")).await? {
            let Some((namespace, id)) = CHILDREN.parts(&key) else { continue };
            let parts: Vec<&str> = id.split('\0').collect();
            let &[snapshotter, parent, child] = parts.as_slice() else { continue };
            let record = SNAPSHOTS.key2(namespace, snapshotter, child);
            if self.exists(&record).await? || !self.exists(&key).await? {
                continue;
            }
            bad.push(BadRecord {
                namespace: namespace.into(),
                object: format!("snapshot {snapshotter} {parent}"),
                problem: format!("it is kept by a child {child} that does not exist"),
                remedy: String::new(),
                repair: vec![Op::Expect(record, Revision::ABSENT), Op::Delete(key.clone())],
            });
        }
        Ok(())
    }

    /// What each record of a namespace that is needed by another is needed by.
    async fn needed_by(&self, namespace: &str) -> Result<HashMap<Node, Vec<Node>>> {
        let mut map: HashMap<Node, Vec<Node>> = HashMap::new();
        let prefixes = [
            BLOBS.prefix(namespace),
            SNAPSHOTS.prefix(namespace),
            IMAGES.prefix(namespace),
            CONTAINERS.prefix(namespace),
            LEASED.prefix(namespace),
        ];
        for prefix in prefixes {
            let mut after = Vec::new();
            loop {
                let page = self.0.scan(&prefix, &after, PAGE).await?;
                for (key, stored) in &page {
                    for node in graph::references(key, &stored.value) {
                        map.entry(node).or_default().push(key.clone());
                    }
                }
                let Some((last, _)) = page.last().filter(|_| page.len() == PAGE) else { break };
                after.clone_from(last);
            }
        }
        Ok(map)
    }
}

/// A key as people can read it.
fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).replace('\0', " ")
}

fn node(namespace: &str, thing: &Resource) -> Node {
    match &thing.kind {
        ResourceKind::Content => BLOBS.key(namespace, &thing.id),
        ResourceKind::Ingest => INGESTS.key(namespace, &thing.id),
        ResourceKind::Image => IMAGES.key(namespace, &thing.id),
        ResourceKind::Snapshot(snapshotter) => SNAPSHOTS.key2(namespace, snapshotter, &thing.id),
    }
}

fn referrer(key: &[u8]) -> Option<Referrer> {
    if let Some((_, name)) = IMAGES.parts(key) {
        return Some(Referrer::Image(name.into()));
    }
    if let Some((_, id)) = CONTAINERS.parts(key) {
        return Some(Referrer::Container(id.into()));
    }
    let (_, id) = LEASED.parts(key)?;
    Some(Referrer::Lease(id.split('\0').next()?.into()))
}

#[async_trait]
impl RecordCheck for Records {
    async fn bad(&self) -> Result<Vec<BadRecord>> {
        let mut bad = Vec::new();
        self.unreadable(NAMESPACES, &mut bad).await?;
        self.unreadable(CONTAINERS, &mut bad).await?;
        self.unreadable(IMAGES, &mut bad).await?;
        self.unreadable(BLOBS, &mut bad).await?;
        self.unreadable(INGESTS, &mut bad).await?;
        self.unreadable(SNAPSHOTS, &mut bad).await?;
        self.unreadable(LEASES, &mut bad).await?;
        self.unreadable(TASKS, &mut bad).await?;
        self.images(&mut bad).await?;
        self.containers(&mut bad).await?;
        self.families(&mut bad).await?;
        Ok(bad)
    }

    async fn referrers(&self, namespace: &Namespace, things: &[Resource]) -> Result<Vec<Vec<Referrer>>> {
        let map = self.needed_by(namespace.as_str()).await?;
        let of = |thing: &Resource| {
            let mut open = vec![node(namespace.as_str(), thing)];
            let (mut seen, mut found) = (HashSet::new(), BTreeSet::new());
            while let Some(at) = open.pop() {
                if !seen.insert(at.clone()) {
                    continue;
                }
                found.extend(referrer(&at));
                open.extend(map.get(&at).into_iter().flatten().cloned());
            }
            found.into_iter().collect()
        };
        Ok(things.iter().map(of).collect())
    }
}
