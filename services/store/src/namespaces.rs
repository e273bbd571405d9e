//! Namespaces: tenants of the daemon. The first write of an object makes one; only an empty one can be removed.

use async_trait::async_trait;
use crated_api::containerd::events;
use crated_core::mask::update_labels;
use crated_core::record::{
    BLOBS, CONTAINERS, Event, IMAGES, INGESTS, LEASED, LEASES, NAMESPACES, Namespace as Record, SNAPSHOTS,
};
use crated_core::{Mask, MetadataStore, NamespaceStore, Op};
use crated_types::{Actor, Error, Kind, Labels, Namespace, Result, Scope, label};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::change::{Frame, change};

/// The namespaces of the daemon.
#[derive(Debug)]
pub struct Namespaces {
    metadata: Arc<dyn MetadataStore>,
}

impl Namespaces {
    /// Namespaces in `metadata`.
    #[must_use]
    pub fn new(metadata: Arc<dyn MetadataStore>) -> Arc<Self> {
        Arc::new(Self { metadata })
    }

    /// What keeps a namespace from being removed.
    async fn contents(&self, name: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let tables =
            [("images", IMAGES.prefix(name)), ("blobs", BLOBS.prefix(name)), ("containers", CONTAINERS.prefix(name))];
        for (what, prefix) in tables {
            if !self.metadata.scan(&prefix, b"", 1).await?.is_empty() {
                found.push(what.to_owned());
            }
        }
        let snapshots = self.metadata.scan_all(&SNAPSHOTS.prefix(name)).await?;
        let snapshotters: BTreeSet<_> =
            snapshots.iter().filter_map(|(key, _)| crate::gc::graph::snapshotter(key)).collect();
        found.extend(snapshotters.into_iter().map(|snapshotter| format!("snapshots on {snapshotter:?} snapshotter")));
        Ok(found)
    }
}

fn scope(actor: &Actor, name: &Namespace) -> Scope {
    Scope::new(name.clone(), actor.clone())
}

fn key(name: &Namespace) -> Vec<u8> {
    NAMESPACES.key("", name.as_str())
}

/// Namespaces that have a key below `table/`, found by leaping from one to the next.
pub(crate) async fn with_keys(store: &dyn MetadataStore, prefix: &[u8]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut after = Vec::new();
    while let Some((key, _)) = store.scan(prefix, &after, 1).await?.pop() {
        let rest = &key[prefix.len()..];
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        found.insert(String::from_utf8_lossy(&rest[..end]).into_owned());
        after = key[..prefix.len() + end].to_vec();
        after.extend(b"/\xff"); // behind every key of this namespace: keys are UTF-8
    }
    Ok(found)
}

#[async_trait]
impl NamespaceStore for Namespaces {
    async fn get(&self, name: &Namespace) -> Result<Labels> {
        let found = NAMESPACES.get(&*self.metadata, &key(name)).await?;
        Ok(found.map(|(_, record)| record.labels).unwrap_or_default())
    }

    async fn list(&self) -> Result<Vec<(Namespace, Labels)>> {
        let mut all = BTreeMap::new();
        let prefixes = [
            CONTAINERS.prefix(""),
            IMAGES.prefix(""),
            BLOBS.prefix(""),
            INGESTS.prefix(""),
            SNAPSHOTS.prefix(""),
            LEASES.prefix(""),
        ];
        for prefix in prefixes {
            let names = with_keys(&*self.metadata, &prefix).await?;
            all.extend(names.into_iter().map(|name| (name, Labels::new())));
        }
        for (key, _, record) in NAMESPACES.list(&*self.metadata, &NAMESPACES.prefix("")).await? {
            if let Some((_, name)) = NAMESPACES.parts(&key) {
                all.insert(name.to_owned(), record.labels);
            }
        }
        all.into_iter().map(|(name, labels)| Ok((Namespace::new(&name)?, labels))).collect()
    }

    async fn create(&self, actor: &Actor, name: &Namespace, labels: Labels) -> Result<()> {
        let labels = label::stored(labels);
        label::check(&labels)?;
        let scope = scope(actor, name);
        let event = events::NamespaceCreate { name: name.to_string(), labels: labels.clone() };
        let event = Op::event(&Event::new(&scope, "/namespaces/create", "containerd.events.NamespaceCreate", &event));
        let record = Record { labels };
        change(&*self.metadata, &scope, &Frame::default(), (NAMESPACES, key(name)), |found| {
            if found.is_some() {
                return Err(Error::already_exists(Kind::Namespace, name));
            }
            Ok((vec![NAMESPACES.put(key(name), &record), event.clone()], ()))
        })
        .await
    }

    async fn update(&self, actor: &Actor, name: &Namespace, labels: Labels, mask: &Mask) -> Result<Labels> {
        let scope = scope(actor, name);
        change(&*self.metadata, &scope, &Frame::default(), (NAMESPACES, key(name)), |found| {
            let mut record = found.unwrap_or_default();
            update_labels("namespace", name.as_str(), &mut record.labels, &labels, mask)?;
            let event = events::NamespaceUpdate { name: name.to_string(), labels: record.labels.clone() };
            let event = Event::new(&scope, "/namespaces/update", "containerd.events.NamespaceUpdate", &event);
            Ok((vec![NAMESPACES.put(key(name), &record), Op::event(&event)], record.labels))
        })
        .await
    }

    async fn delete(&self, actor: &Actor, name: &Namespace) -> Result<()> {
        let left = self.contents(name.as_str()).await?;
        if !left.is_empty() {
            let why = format!("must be empty, but it still has {}", left.join(", "));
            return Err(Error::new(crated_types::Fault::InUse, format!("namespace {:?} {why}", name.as_str())));
        }
        let mut rest = Vec::new();
        for prefix in [LEASES.prefix(name.as_str()), LEASED.prefix(name.as_str()), INGESTS.prefix(name.as_str())] {
            rest.extend(self.metadata.scan_all(&prefix).await?.into_iter().map(|(key, _)| Op::Delete(key)));
        }
        let scope = scope(actor, name);
        let event = events::NamespaceDelete { name: name.to_string() };
        let event = Op::event(&Event::new(&scope, "/namespaces/delete", "containerd.events.NamespaceDelete", &event));
        change(&*self.metadata, &scope, &Frame::default(), (NAMESPACES, key(name)), |found| {
            if found.is_none() && rest.is_empty() {
                return Err(Error::not_found(Kind::Namespace, name));
            }
            let mut ops = vec![Op::Delete(key(name)), event.clone()];
            ops.extend(rest.iter().cloned());
            Ok((ops, ()))
        })
        .await
    }
}
