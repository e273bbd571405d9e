//! The engine's own records and folders: names, lives and timelines of containers that are gone, folders that no container has.

use async_trait::async_trait;
use crated_core::check::{BadRecord, Stray, Strays};
use crated_core::record::CONTAINERS;
use crated_core::{MetadataStore, Op, Revision};
use crated_types::{Error, Namespace, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::CheckDeps;
use crate::engine::blocking;
use crate::journal::is_busy;
use crate::record::{LIVES, NAMES, TIMELINES};
use crate::remove::remove_folder;

/// Whether a container is known, or an operation on it is open. The operation is looked for between two looks at the records: one
/// that ends meanwhile leaves them.
async fn is_known(metadata: &dyn MetadataStore, namespace: &str, id: &str) -> Result<bool> {
    let exists = async || -> Result<bool> {
        let life = metadata.get(&LIVES.key(namespace, id)).await?.is_some();
        Ok(life || metadata.get(&CONTAINERS.key(namespace, id)).await?.is_some())
    };
    Ok(exists().await? || is_busy(metadata, namespace, id).await? || exists().await?)
}

/// Records of the engine that speak of containers which do not exist.
pub(super) async fn bad(metadata: &dyn MetadataStore) -> Result<Vec<BadRecord>> {
    let mut bad = Vec::new();
    for (key, revision, named) in NAMES.list(metadata, &NAMES.prefix("")).await? {
        let Some((namespace, name)) = NAMES.parts(&key) else { continue };
        let life = LIVES.key(namespace, &named.id);
        let held = metadata.get(&life).await?.is_some() || is_busy(metadata, namespace, &named.id).await?;
        if held || metadata.get(&life).await?.is_some() || metadata.get(&key).await?.is_none() {
            continue;
        }
        bad.push(BadRecord {
            namespace: namespace.into(),
            object: format!("name {name}"),
            problem: format!("it is kept for container {}, which does not exist", named.id),
            remedy: String::new(),
            repair: vec![
                Op::Expect(key.clone(), revision),
                Op::Expect(life, Revision::ABSENT),
                Op::Delete(key.clone()),
            ],
        });
    }
    for (key, revision, life) in LIVES.list(metadata, &LIVES.prefix("")).await? {
        let Some((namespace, id)) = LIVES.parts(&key) else { continue };
        let container = CONTAINERS.key(namespace, id);
        if metadata.get(&container).await?.is_some()
            || is_busy(metadata, namespace, id).await?
            || metadata.get(&key).await?.is_none()
        {
            continue;
        }
        let name = NAMES.key(namespace, &life.name);
        let mut repair = vec![
            Op::Expect(key.clone(), revision),
            Op::Expect(container, Revision::ABSENT),
            Op::Delete(key.clone()),
            Op::Delete(TIMELINES.key(namespace, id)),
        ];
        if NAMES.get(metadata, &name).await?.is_some_and(|(_, named)| named.id == id) {
            repair.push(Op::Delete(name));
        }
        bad.push(BadRecord {
            namespace: namespace.into(),
            object: format!("container {id}"),
            problem: format!("it is named {:?} and has no record; its client removed that alone", life.name),
            remedy: String::new(),
            repair,
        });
    }
    for (key, stored) in metadata.scan_all(&TIMELINES.prefix("")).await? {
        let Some((namespace, id)) = TIMELINES.parts(&key) else { continue };
        if is_known(metadata, namespace, id).await? || metadata.get(&key).await?.is_none() {
            continue;
        }
        bad.push(BadRecord {
            namespace: namespace.into(),
            object: format!("timeline of container {id}"),
            problem: "the container does not exist".into(),
            remedy: String::new(),
            repair: vec![Op::Expect(key.clone(), stored.revision), Op::Delete(key.clone())],
        });
    }
    Ok(bad)
}

/// `<root>/containers/<namespace>/<id>`.
#[derive(Debug)]
pub(super) struct Folders {
    metadata: Arc<dyn MetadataStore>,
    root: PathBuf,
}

impl Folders {
    pub(super) fn new(deps: &CheckDeps) -> Self {
        Self { metadata: Arc::clone(&deps.metadata), root: deps.root.join("containers") }
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::os(format!("list {}", folder.display()), error)),
    }
}

#[async_trait]
impl Strays for Folders {
    async fn strays(&self) -> Result<Vec<Stray>> {
        let root = self.root.clone();
        // in this order: an operation's record is there before its folder, and goes with the container's
        let found = blocking(move || {
            let mut found = Vec::new();
            for namespace in entries(&root)? {
                found.extend(entries(&namespace)?);
            }
            Ok(found)
        })
        .await?;
        let mut strays = Vec::new();
        for path in found {
            let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
            let (Some(namespace), Some(id)) = (path.parent().and_then(name), name(&path)) else { continue };
            if namespace.parse::<Namespace>().is_ok() && is_known(&*self.metadata, &namespace, &id).await? {
                continue;
            }
            let why = format!("no container of namespace {namespace} has it");
            strays.push(Stray { kind: "folder", path, why });
        }
        Ok(strays)
    }

    async fn clear(&self, stray: &Stray) -> Result<String> {
        if !self.strays().await?.contains(stray) {
            return Ok("gone or in use meanwhile".into());
        }
        remove_folder(&stray.path).await.map(|()| "removed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Journal, Kinds};
    use crate::record::{CreateArguments, Life, Named, TimelineRecord};
    use crated_core::fake::MemoryMetadata;
    use crated_core::record::Container;
    use crated_types::{Actor, Scope};

    #[tokio::test]
    async fn what_speaks_of_no_container_is_told_and_forgotten() {
        let store = Arc::new(MemoryMetadata::default());
        let named = |id: &str| Named { id: id.into() };
        let life = |name: &str| Life { name: name.into(), ..Life::default() };
        let timeline = TimelineRecord::default();
        let mut batch = vec![
            NAMES.put(NAMES.key("n", "whole"), &named("c1")),
            LIVES.put(LIVES.key("n", "c1"), &life("whole")),
            CONTAINERS.put(CONTAINERS.key("n", "c1"), &Container::default()),
            TIMELINES.put(TIMELINES.key("n", "c1"), &timeline),
            CONTAINERS.put(CONTAINERS.key("n", "ctrs"), &Container::default()),
            TIMELINES.put(TIMELINES.key("n", "ctrs"), &timeline),
        ];
        store.commit(batch.clone()).await.unwrap();
        let scope = Scope::new(Namespace::new("n").unwrap(), Actor::daemon("test"));
        let making = vec![NAMES.put(NAMES.key("n", "making"), &named("c2"))];
        let journal = Journal::new(store.clone());
        journal.begin(&scope, Kinds::Create, "c2", &CreateArguments::default(), making).await.unwrap();
        assert_eq!(bad(&*store).await.unwrap(), []);
        batch = vec![
            NAMES.put(NAMES.key("n", "ghost"), &named("c3")),
            NAMES.put(NAMES.key("n", "alone"), &named("c4")),
            LIVES.put(LIVES.key("n", "c4"), &life("alone")),
            TIMELINES.put(TIMELINES.key("n", "c5"), &timeline),
        ];
        store.commit(batch).await.unwrap();
        let found = bad(&*store).await.unwrap();
        let objects: Vec<_> = found.iter().map(|bad| bad.object.as_str()).collect();
        assert_eq!(objects, ["name ghost", "container c4", "timeline of container c5"]);
        for bad in found {
            store.commit(bad.repair).await.unwrap();
        }
        assert_eq!(bad(&*store).await.unwrap(), []);
        assert!(store.get(&NAMES.key("n", "alone")).await.unwrap().is_none(), "the name is free");
        assert!(store.get(&NAMES.key("n", "making")).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn folders_of_no_container_are_strays() {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryMetadata::default());
        store.commit(vec![LIVES.put(LIVES.key("n", "c1"), &Life::default())]).await.unwrap();
        for path in ["n/c1", "n/c2/inside", "Not A Namespace/x"] {
            std::fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let folders = Folders { metadata: store, root: root.path().into() };
        let strays = folders.strays().await.unwrap();
        assert_eq!(strays.len(), 2, "{strays:?}");
        for stray in &strays {
            folders.clear(stray).await.unwrap();
        }
        assert!(root.path().join("n/c1").exists() && folders.strays().await.unwrap().is_empty());
        let none = Folders { metadata: Arc::clone(&folders.metadata), root: root.path().join("absent") };
        assert!(none.strays().await.unwrap().is_empty());
    }
}
