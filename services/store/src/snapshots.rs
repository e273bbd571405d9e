//! Named snapshots of one snapshotter, over any backend: names, parents, kinds and labels live in the metadata, the backend knows numbers.
//!
//! ```text
//! prepare ─▶ active ──commit──▶ committed ◀─ parent of ─ active, view
//! view    ─▶ view                             remove: record first, then the folder
//! ```
//! The folder of a new snapshot is made under a number that was never used before, then its record is committed: a crash in between
//! leaves a folder without a record, which the collector removes. Names are reserved by locks of this process meanwhile.
//! A child's commit expects its parent's record, and a removal looks for children and commits with no child's commit between.

mod check;
mod ids;
mod make;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use crated_api::containerd::events;
use crated_core::mask::update_labels;
use crated_core::record::{Event, Mark, SNAPSHOTS, Snapshot};
use crated_core::{
    Mask, MetadataStore, Op, Resource, ResourceKind, Revision, SnapshotKind, Snapshotter, Table, Usage, time,
};
use crated_snapshotters::{Access, Offload, SnapshotId};
use crated_types::filter::Filters;
use crated_types::{Error, Fault, Kind, Labels, Mount, Namespace, Result, Scope, SnapshotKey};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::change::{Frame, change};
use crate::fields::Fields;
use crate::gc::Requests;
use crate::keyed::Keyed;
use ids::Ids;

/// Children of snapshots: `<snapshotter> NUL <parent> NUL <child>`.
pub(crate) const CHILDREN: Table<Mark> = Table::new("snapshotchild");
/// Longest chain of parents; a longer one is a ring.
const DEPTH_MAX: usize = 4096;

/// The snapshots of one snapshotter.
#[derive(Clone, Debug)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    backend: Offload,
    metadata: Arc<dyn MetadataStore>,
    requests: Requests,
    ids: Arc<Ids>,
    keys: Arc<Keyed<(Namespace, SnapshotKey)>>,
    /// Shared while a child's record is committed, exclusive while a parent's is removed.
    family: tokio::sync::RwLock<()>,
    cleaning: Arc<AtomicBool>,
}

impl Snapshots {
    /// The snapshots called `name` over `backend`.
    ///
    /// # Errors
    /// The metadata store's.
    pub async fn open(
        name: &str,
        backend: Offload,
        metadata: Arc<dyn MetadataStore>,
        requests: Requests,
    ) -> Result<Arc<Self>> {
        let ids = Arc::new(Ids::open(&*metadata, name).await?);
        let inner = Inner {
            name: name.into(),
            backend,
            metadata,
            requests,
            ids,
            keys: Arc::default(),
            family: tokio::sync::RwLock::default(),
            cleaning: Arc::default(),
        };
        Ok(Arc::new(Self { inner: Arc::new(inner) }))
    }

    /// What clients may ask of the backend, e.g. `rebase`.
    #[must_use]
    pub fn capabilities(&self) -> Vec<&'static str> {
        self.inner.backend.backend().capabilities().to_vec()
    }

    /// Removes the folders of numbers that no record names; answers how many.
    pub(crate) async fn sweep(&self) -> Result<usize> {
        let inner = &self.inner;
        let orphans = self.orphans().await?;
        for id in &orphans {
            inner.backend.remove(*id).await?;
        }
        if !orphans.is_empty() {
            inner.clean_up();
        }
        Ok(orphans.len())
    }
}

impl Inner {
    fn key(&self, scope: &Scope, key: &SnapshotKey) -> Vec<u8> {
        self.key_of(scope, key.as_str())
    }

    fn key_of(&self, scope: &Scope, key: &str) -> Vec<u8> {
        SNAPSHOTS.key2(scope.namespace.as_str(), &self.name, key)
    }

    fn child(&self, scope: &Scope, parent: &str, child: &str) -> Vec<u8> {
        child_key(scope.namespace.as_str(), &self.name, parent, child)
    }

    fn resource(&self, key: &SnapshotKey) -> Resource {
        Resource { kind: ResourceKind::Snapshot(self.name.clone()), id: key.to_string() }
    }

    async fn find(&self, scope: &Scope, key: &str) -> Result<Option<(Revision, Snapshot)>> {
        SNAPSHOTS.get(&*self.metadata, &self.key_of(scope, key)).await
    }

    async fn get(&self, scope: &Scope, key: &SnapshotKey) -> Result<(Revision, Snapshot)> {
        self.find(scope, key.as_str()).await?.ok_or_else(|| missing(scope, key))
    }

    /// Numbers of a snapshot's ancestors, nearest first.
    async fn parents(&self, scope: &Scope, parent: &str) -> Result<Vec<SnapshotId>> {
        let mut chain = Vec::new();
        let mut name = parent.to_owned();
        while !name.is_empty() {
            let found = self.find(scope, &name).await?;
            let (_, snapshot) =
                found.ok_or_else(|| Error::not_found(Kind::Snapshot, &name).in_namespace(&scope.namespace))?;
            chain.push(SnapshotId(snapshot.id));
            if chain.len() > DEPTH_MAX {
                return Err(Error::new(Fault::Corrupt, "its parents form a ring").on(Kind::Snapshot, parent));
            }
            name = snapshot.parent;
        }
        Ok(chain)
    }

    /// The committed snapshot that is to be a parent.
    async fn parent(&self, scope: &Scope, parent: &SnapshotKey) -> Result<(Revision, Snapshot)> {
        let found = self.find(scope, parent.as_str()).await?;
        let found = found.ok_or_else(|| missing(scope, parent).at("find the parent"))?;
        if SnapshotKind::from_i32(found.1.kind) != Some(SnapshotKind::Committed) {
            return Err(Error::invalid("parent", format_args!("{:?} is not a committed snapshot", parent.as_str())));
        }
        Ok(found)
    }

    /// Frees what removals put aside, in the background.
    fn clean_up(&self) {
        if self.cleaning.swap(true, Ordering::SeqCst) {
            return; // one is about to start
        }
        // it may outlive the store: it holds the backend alone, and what it does not reach the next start does
        let (cleaning, backend, name) = (Arc::clone(&self.cleaning), self.backend.clone(), self.name.clone());
        tokio::spawn(async move {
            cleaning.store(false, Ordering::SeqCst);
            if let Err(error) = backend.cleanup().await {
                tracing::warn!(snapshotter = name, %error, "removed snapshots are not freed yet");
            }
        });
    }

    async fn remove(&self, scope: &Scope, key: &SnapshotKey) -> Result<()> {
        crated_core::fail::point("snapshot.remove.record")?;
        let _key = self.keys.lock((scope.namespace.clone(), key.clone())).await;
        let id = {
            let _family = self.family.write().await;
            let (_, snapshot) = self.get(scope, key).await?;
            let children = self.child(scope, key.as_str(), "");
            if !self.metadata.scan(&children, b"", 1).await?.is_empty() {
                let why = "cannot remove snapshot with child";
                return Err(Error::new(Fault::InUse, why).on(Kind::Snapshot, key).in_namespace(&scope.namespace));
            }
            let frame = Frame::leaving(self.resource(key));
            let target = (SNAPSHOTS, self.key(scope, key));
            change(&*self.metadata, scope, &frame, target, |found| {
                let found = found.ok_or_else(|| missing(scope, key))?;
                Ok((removal(scope, &self.name, &found), ()))
            })
            .await?;
            SnapshotId(snapshot.id)
        };
        crated_core::fail::moment("snapshot.remove.backend");
        // left over it is found by the collector
        if let Err(error) = self.backend.remove(id).await {
            tracing::warn!(snapshotter = self.name, %id, %error, "the folder of a removed snapshot stays for now");
        }
        self.clean_up();
        self.requests.request();
        Ok(())
    }
}

/// The error where a backend misses a folder that records name.
fn lost(scope: &Scope, key: &SnapshotKey, error: Error) -> Error {
    if !error.is_not_found() {
        return error;
    }
    Error::new(Fault::Corrupt, "its folder, or that of one below it, is gone")
        .on(Kind::Snapshot, key)
        .in_namespace(&scope.namespace)
        .caused_by(error)
        .remedy_is("run `cratectl system check --repair`: layers are unpacked again")
}

/// The key of a parent's mark on its child.
pub(crate) fn child_key(namespace: &str, snapshotter: &str, parent: &str, child: &str) -> Vec<u8> {
    CHILDREN.key2(namespace, snapshotter, &format!("{parent}\0{child}"))
}

/// The operations that take a snapshot's record away.
pub(crate) fn removal(scope: &Scope, snapshotter: &str, snapshot: &Snapshot) -> Vec<Op> {
    let event = events::SnapshotRemove { key: snapshot.name.clone(), snapshotter: snapshotter.into() };
    let event = Event::new(scope, "/snapshot/remove", "containerd.events.SnapshotRemove", &event);
    let namespace = scope.namespace.as_str();
    let mut ops = vec![Op::Delete(SNAPSHOTS.key2(namespace, snapshotter, &snapshot.name)), Op::event(&event)];
    if !snapshot.parent.is_empty() {
        ops.push(Op::Delete(child_key(namespace, snapshotter, &snapshot.parent, &snapshot.name)));
    }
    ops
}

fn missing(scope: &Scope, key: &SnapshotKey) -> Error {
    Error::not_found(Kind::Snapshot, key).in_namespace(&scope.namespace)
}

/// Runs a change to its end, whether or not the caller stays.
async fn whole<T: Send + 'static>(change: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(change).await {
        Ok(answer) => answer,
        Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
        Err(_) => Err(Error::new(Fault::NotReady, "the daemon is stopping")),
    }
}

#[async_trait]
impl Snapshotter for Snapshots {
    fn name(&self) -> &str {
        &self.inner.name
    }

    async fn stat(&self, scope: &Scope, key: &SnapshotKey) -> Result<Snapshot> {
        self.inner.get(scope, key).await.map(|(_, snapshot)| snapshot)
    }

    async fn update(&self, scope: &Scope, key: &SnapshotKey, labels: &Labels, mask: &Mask) -> Result<Snapshot> {
        let target = self.inner.key(scope, key);
        let answer = change(&*self.inner.metadata, scope, &Frame::default(), (SNAPSHOTS, target.clone()), |found| {
            let mut snapshot = found.ok_or_else(|| missing(scope, key))?;
            update_labels("snapshot", key.as_str(), &mut snapshot.labels, labels, mask)?;
            snapshot.updated_at = Some(time::now());
            Ok((vec![SNAPSHOTS.put(target.clone(), &snapshot)], snapshot))
        })
        .await?;
        self.inner.requests.mutated();
        Ok(answer)
    }

    async fn usage(&self, scope: &Scope, key: &SnapshotKey) -> Result<Usage> {
        let (_, snapshot) = self.inner.get(scope, key).await?;
        match SnapshotKind::from_i32(snapshot.kind) {
            Some(SnapshotKind::Active) => {
                let usage = self.inner.backend.usage(SnapshotId(snapshot.id)).await?;
                Ok(Usage { bytes: usage.bytes, inodes: usage.inodes })
            }
            Some(SnapshotKind::View) => Ok(Usage::default()),
            Some(SnapshotKind::Committed) | None => {
                let number = |value| u64::try_from(value).unwrap_or(0);
                Ok(Usage { bytes: number(snapshot.size), inodes: number(snapshot.inodes) })
            }
        }
    }

    async fn mounts(&self, scope: &Scope, key: &SnapshotKey) -> Result<Vec<Mount>> {
        let (_, snapshot) = self.inner.get(scope, key).await?;
        let access = match SnapshotKind::from_i32(snapshot.kind) {
            Some(SnapshotKind::Active) => Access::ReadWrite,
            Some(SnapshotKind::View) => Access::ReadOnly,
            Some(SnapshotKind::Committed) | None => {
                let why = "a committed snapshot has no mounts";
                return Err(Error::precondition(Kind::Snapshot, key, why).in_namespace(&scope.namespace));
            }
        };
        let parents = self.inner.parents(scope, &snapshot.parent).await?;
        let mounts = self.inner.backend.mounts(SnapshotId(snapshot.id), parents, access).await;
        mounts.map_err(|error| lost(scope, key, error))
    }

    async fn prepare(
        &self,
        scope: &Scope,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let new = make::Wanted::new(scope, key, parent, labels, SnapshotKind::Active)?;
        whole(make::make(Arc::clone(&self.inner), new)).await
    }

    async fn view(
        &self,
        scope: &Scope,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let new = make::Wanted::new(scope, key, parent, labels, SnapshotKind::View)?;
        whole(make::make(Arc::clone(&self.inner), new)).await
    }

    async fn commit(
        &self,
        scope: &Scope,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<()> {
        let freeze = make::Freeze::new(scope, name, key, parent, labels)?;
        whole(make::commit(Arc::clone(&self.inner), freeze)).await
    }

    async fn remove(&self, scope: &Scope, key: &SnapshotKey) -> Result<()> {
        let (inner, scope, key) = (Arc::clone(&self.inner), scope.clone(), key.clone());
        whole(async move { inner.remove(&scope, &key).await }).await
    }

    async fn renew(&self, scope: &Scope, name: &SnapshotKey, key: &SnapshotKey) -> Result<()> {
        whole(check::renew(Arc::clone(&self.inner), scope.clone(), name.clone(), key.clone())).await
    }

    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Snapshot>> {
        let prefix = self.inner.key_of(scope, "");
        let all = SNAPSHOTS.list(&*self.inner.metadata, &prefix).await?;
        Ok(all.into_iter().map(|(_, _, one)| one).filter(|one| filters.matches(&Fields(one))).collect())
    }

    async fn cleanup(&self) -> Result<()> {
        self.inner.backend.cleanup().await
    }
}
