//! Snapshots against their folders, folders that no record names, and new files for a snapshot that lost its own.

use async_trait::async_trait;
use crated_core::check::{DamagedSnapshot, SnapshotCheck, Stray, Strays};
use crated_core::record::{Mark, SNAPSHOTS, Snapshot};
use crated_core::{Op, SnapshotKind, time};
use crated_snapshotters::SnapshotId;
use crated_types::{Error, Fault, Kind, Namespace, Result, Scope, SnapshotKey};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::{CHILDREN, DEPTH_MAX, Inner, Snapshots};
use crate::blocking;

/// Attempts to renew while others change labels.
const TRIES: usize = 64;

impl Inner {
    /// Its records with their namespaces.
    async fn records(&self) -> Result<Vec<(Namespace, Snapshot)>> {
        let mut found = Vec::new();
        for (key, stored) in self.metadata.scan_all(&SNAPSHOTS.prefix("")).await? {
            if crate::gc::graph::snapshotter(&key) != Some(&self.name) {
                continue;
            }
            let namespace = SNAPSHOTS.parts(&key).and_then(|(namespace, _)| namespace.parse().ok());
            // `RecordCheck` tells of those that cannot be read
            if let (Some(namespace), Ok(snapshot)) = (namespace, SNAPSHOTS.decode(&key, &stored.value)) {
                found.push((namespace, snapshot));
            }
        }
        Ok(found)
    }

    /// What is wrong with a snapshot's folder.
    async fn problem(&self, snapshot: &Snapshot, deep: bool) -> Option<String> {
        let usage = match self.backend.usage(SnapshotId(snapshot.id)).await {
            Ok(usage) => usage,
            Err(error) => return Some(format!("its folder cannot be read: {error}")),
        };
        let committed = SnapshotKind::from_i32(snapshot.kind) == Some(SnapshotKind::Committed);
        let known = u64::try_from(snapshot.inodes).unwrap_or(0);
        let wrong = deep && committed && usage.inodes != known;
        wrong.then(|| format!("its folder has {} files and folders, {known} were committed", usage.inodes))
    }

    /// Whether a snapshot is still recorded with this number.
    async fn is_current(&self, namespace: &Namespace, snapshot: &Snapshot) -> Result<bool> {
        let key = SNAPSHOTS.key2(namespace.as_str(), &self.name, &snapshot.name);
        Ok(SNAPSHOTS.get(&*self.metadata, &key).await?.is_some_and(|(_, now)| now.id == snapshot.id))
    }
}

/// How many ancestors each snapshot has, so that parents are mended before their children.
fn depths(records: &[(Namespace, Snapshot)]) -> Vec<usize> {
    let parents: HashMap<(&str, &str), &str> = records
        .iter()
        .map(|(namespace, snapshot)| ((namespace.as_str(), snapshot.name.as_str()), snapshot.parent.as_str()))
        .collect();
    let depth = |(namespace, snapshot): &(Namespace, Snapshot)| {
        let mut at = snapshot.parent.as_str();
        for depth in 0..DEPTH_MAX {
            if at.is_empty() {
                return depth;
            }
            at = parents.get(&(namespace.as_str(), at)).copied().unwrap_or_default();
        }
        DEPTH_MAX
    };
    records.iter().map(depth).collect()
}

#[async_trait]
impl SnapshotCheck for Snapshots {
    async fn damaged(&self, deep: bool) -> Result<Vec<DamagedSnapshot>> {
        let inner = &self.inner;
        let records = inner.records().await?;
        let mut found = Vec::new();
        for (depth, (namespace, snapshot)) in depths(&records).into_iter().zip(&records) {
            let Some(problem) = inner.problem(snapshot, deep).await else { continue };
            if !inner.is_current(namespace, snapshot).await? {
                continue; // removed or committed meanwhile
            }
            let damaged = DamagedSnapshot {
                namespace: namespace.clone(),
                snapshotter: inner.name.clone(),
                name: SnapshotKey::new(&snapshot.name)?,
                kind: SnapshotKind::from_i32(snapshot.kind),
                problem,
            };
            found.push((depth, damaged));
        }
        found.sort_by_key(|(depth, _)| *depth);
        Ok(found.into_iter().map(|(_, damaged)| damaged).collect())
    }
}

#[async_trait]
impl Strays for Snapshots {
    async fn strays(&self) -> Result<Vec<Stray>> {
        let inner = &self.inner;
        let folder = inner.backend.backend().root().join("snapshots");
        let mut strays: Vec<Stray> = self
            .orphans()
            .await?
            .into_iter()
            .map(|id| Stray {
                kind: "folder",
                path: folder.join(id.to_string()),
                why: format!("no snapshot of {} has it", inner.name),
            })
            .collect();
        let foreign = blocking::run(move || foreign(&folder)).await?;
        strays.extend(foreign.into_iter().map(|path| Stray {
            kind: "file",
            path,
            why: format!("its name is no number of a snapshot of {}", inner.name),
        }));
        Ok(strays)
    }

    async fn clear(&self, stray: &Stray) -> Result<String> {
        let name = stray.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match name.parse() {
            Ok(id) if self.orphans().await?.contains(&SnapshotId(id)) => {
                self.inner.backend.remove(SnapshotId(id)).await?;
                self.inner.clean_up();
                Ok("removed".into())
            }
            Ok(_) => Ok("in use meanwhile".into()),
            Err(_) => {
                let target = self.inner.backend.backend().root().join("quarantine");
                let path = stray.path.clone();
                let aside = blocking::run(move || {
                    let aside = target.join(name);
                    std::fs::create_dir_all(&target)
                        .and_then(|()| std::fs::rename(&path, &aside))
                        .map(|()| aside)
                        .map_err(|error| Error::os(format!("move {} aside", path.display()), error))
                })
                .await??;
                Ok(format!("moved to {}", aside.display()))
            }
        }
    }
}

/// What is in a folder of snapshots and no snapshot. Blocking.
fn foreign(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| number(path).is_none()).collect()
}

fn number(path: &std::path::Path) -> Option<u64> {
    path.file_name()?.to_str()?.parse().ok()
}

impl Snapshots {
    /// Numbers on disk that no record names and nobody is making.
    pub(crate) async fn orphans(&self) -> Result<Vec<SnapshotId>> {
        let inner = &self.inner;
        let on_disk = inner.backend.ids().await?;
        // in this order: what was being made when the folders were listed is either still made or has its record by now
        let making = inner.ids.in_the_making();
        let records = SNAPSHOTS.list(&*inner.metadata, &SNAPSHOTS.prefix("")).await?;
        let named: HashSet<u64> = records
            .iter()
            .filter(|(key, ..)| crate::gc::graph::snapshotter(key) == Some(&inner.name))
            .map(|(_, _, snapshot)| snapshot.id)
            .collect();
        Ok(on_disk.into_iter().filter(|id| !named.contains(&id.0) && !making.contains(&id.0)).collect())
    }
}

/// See [`crated_core::Snapshotter::renew`].
pub(super) async fn renew(inner: Arc<Inner>, scope: Scope, name: SnapshotKey, key: SnapshotKey) -> Result<()> {
    let mut guards = Vec::new();
    for one in if key < name { [&key, &name] } else { [&name, &key] } {
        guards.push(inner.keys.lock((scope.namespace.clone(), one.clone())).await);
    }
    let (_, active) = inner.get(&scope, &key).await?;
    let usage = inner.backend.commit(SnapshotId(active.id)).await?;
    let number = |value| i64::try_from(value).unwrap_or(i64::MAX);
    for _ in 0..TRIES {
        let _family = inner.family.read().await;
        let (new_revision, active) = inner.get(&scope, &key).await?;
        let (old_revision, mut lost) = inner.get(&scope, &name).await?;
        let fits = SnapshotKind::from_i32(active.kind) == Some(SnapshotKind::Active)
            && SnapshotKind::from_i32(lost.kind) == Some(SnapshotKind::Committed)
            && active.parent == lost.parent;
        if !fits {
            let why = "its files can only come from an active snapshot with the same parent";
            return Err(Error::precondition(Kind::Snapshot, &name, why).in_namespace(&scope.namespace));
        }
        (lost.id, lost.size, lost.inodes) = (active.id, number(usage.bytes), number(usage.inodes));
        lost.updated_at = Some(time::now());
        let (from, to) = (inner.key(&scope, &key), inner.key(&scope, &name));
        let mut ops = vec![
            Op::Expect(from.clone(), new_revision),
            Op::Expect(to.clone(), old_revision),
            Op::Delete(from),
            SNAPSHOTS.put(to, &lost),
        ];
        if !lost.parent.is_empty() {
            ops.push(Op::Delete(inner.child(&scope, &lost.parent, key.as_str())));
            ops.push(CHILDREN.put(inner.child(&scope, &lost.parent, name.as_str()), &Mark {}));
        }
        match inner.metadata.commit(ops).await {
            Ok(_) => {
                inner.requests.request(); // the old folder, if there is one, is an orphan now
                return Ok(());
            }
            Err(error) if error.fault() == Fault::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(Fault::Conflict, "the snapshot changes faster than it can be renewed").on(Kind::Snapshot, name))
}
