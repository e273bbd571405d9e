//! A snapshotter for tests: each snapshot is a folder, a child starts as a copy of its parent.

use async_trait::async_trait;
use crated_core::record::Snapshot;
use crated_core::{Mask, SnapshotKind, Snapshotter, Usage};
use crated_types::filter::Filters;
use crated_types::{Error, Kind, Labels, Mount, Result, Scope, SnapshotKey};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    all: Mutex<(u64, BTreeMap<String, Snapshot>)>,
}

impl Folders {
    pub(crate) fn new(root: &Path) -> Arc<Self> {
        std::fs::create_dir_all(root).unwrap();
        Arc::new(Self { root: root.into(), all: Mutex::default() })
    }

    /// Names with their kinds.
    pub(crate) fn names(&self) -> Vec<(String, SnapshotKind)> {
        let all = self.all.lock().unwrap();
        all.1.values().map(|s| (s.name.clone(), SnapshotKind::from_i32(s.kind).unwrap())).collect()
    }

    /// The folder of a snapshot whose name contains `part`.
    pub(crate) fn folder(&self, part: &str) -> Option<PathBuf> {
        let all = self.all.lock().unwrap();
        all.1.values().find(|s| s.name.contains(part)).map(|s| self.root.join(s.id.to_string()))
    }
}

#[async_trait]
impl Snapshotter for Folders {
    fn name(&self) -> &str {
        "folders"
    }

    async fn stat(&self, _: &Scope, key: &SnapshotKey) -> Result<Snapshot> {
        let all = self.all.lock().unwrap();
        all.1.get(key.as_str()).cloned().ok_or_else(|| Error::not_found(Kind::Snapshot, key))
    }

    async fn update(&self, _: &Scope, _: &SnapshotKey, _: &Labels, _: &Mask) -> Result<Snapshot> {
        unreachable!("the image service does not ask for it")
    }

    async fn usage(&self, _: &Scope, _: &SnapshotKey) -> Result<Usage> {
        unreachable!("the image service does not ask for it")
    }

    async fn mounts(&self, _: &Scope, key: &SnapshotKey) -> Result<Vec<Mount>> {
        let all = self.all.lock().unwrap();
        let id = all.1.get(key.as_str()).ok_or_else(|| Error::not_found(Kind::Snapshot, key))?.id;
        Ok(vec![Mount {
            fstype: "bind".into(),
            source: self.root.join(id.to_string()).to_str().unwrap().into(),
            target: String::new(),
            options: vec!["rw".into(), "rbind".into()],
        }])
    }

    async fn prepare(
        &self,
        scope: &Scope,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        {
            let mut all = self.all.lock().unwrap();
            if all.1.contains_key(key.as_str()) {
                return Err(Error::already_exists(Kind::Snapshot, key));
            }
            all.0 += 1;
            let id = all.0;
            let folder = self.root.join(id.to_string());
            match parent {
                None => std::fs::create_dir(&folder).unwrap(),
                Some(parent) => {
                    let parent = all.1.get(parent.as_str()).ok_or_else(|| Error::not_found(Kind::Snapshot, parent))?;
                    let from = self.root.join(parent.id.to_string());
                    assert!(
                        std::process::Command::new("cp").arg("-a").arg(from).arg(&folder).status().unwrap().success()
                    );
                }
            }
            let snapshot = Snapshot {
                name: key.to_string(),
                parent: parent.map(ToString::to_string).unwrap_or_default(),
                kind: SnapshotKind::Active as i32,
                labels,
                id,
                ..Snapshot::default()
            };
            all.1.insert(key.to_string(), snapshot);
        }
        self.mounts(scope, key).await
    }

    async fn view(&self, _: &Scope, _: &SnapshotKey, _: Option<&SnapshotKey>, _: Labels) -> Result<Vec<Mount>> {
        unreachable!("the image service does not ask for it")
    }

    async fn commit(
        &self,
        _: &Scope,
        name: &SnapshotKey,
        key: &SnapshotKey,
        _: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<()> {
        let mut all = self.all.lock().unwrap();
        if all.1.contains_key(name.as_str()) {
            return Err(Error::already_exists(Kind::Snapshot, name));
        }
        let mut snapshot = all.1.remove(key.as_str()).ok_or_else(|| Error::not_found(Kind::Snapshot, key))?;
        snapshot.name = name.to_string();
        snapshot.kind = SnapshotKind::Committed as i32;
        snapshot.labels = labels;
        all.1.insert(name.to_string(), snapshot);
        Ok(())
    }

    async fn remove(&self, _: &Scope, key: &SnapshotKey) -> Result<()> {
        let mut all = self.all.lock().unwrap();
        let snapshot = all.1.remove(key.as_str()).ok_or_else(|| Error::not_found(Kind::Snapshot, key))?;
        std::fs::remove_dir_all(self.root.join(snapshot.id.to_string())).unwrap();
        Ok(())
    }

    async fn list(&self, _: &Scope, _: &Filters) -> Result<Vec<Snapshot>> {
        let all = self.all.lock().unwrap();
        Ok(all.1.values().filter(|s| s.kind == SnapshotKind::Active as i32).cloned().collect())
    }

    async fn cleanup(&self) -> Result<()> {
        Ok(())
    }
}
