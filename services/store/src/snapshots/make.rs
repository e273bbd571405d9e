//! How snapshots come to be: prepare, view, commit. Each runs whole in a task of its own.

use crated_api::containerd::events;
use crated_core::record::{Event, Mark, SNAPSHOTS, Snapshot};
use crated_core::{Op, Revision, SnapshotKind, time};
use crated_snapshotters::{Access, SnapshotId};
use crated_types::{Error, Fault, Kind, Labels, Mount, Result, Scope, SnapshotKey, label};
use std::sync::Arc;

use super::ids::Making;
use super::{CHILDREN, Inner, lost, missing};
use crate::change::{Frame, check_lease};

/// Attempts to commit while others change the parent's labels.
const TRIES: usize = 64;

/// A snapshot that is wanted.
pub(super) struct Wanted {
    scope: Scope,
    key: SnapshotKey,
    parent: Option<SnapshotKey>,
    labels: Labels,
    kind: SnapshotKind,
}

impl Wanted {
    pub(super) fn new(
        scope: &Scope,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
        kind: SnapshotKind,
    ) -> Result<Self> {
        let labels = label::stored(labels);
        label::check(&labels)?;
        Ok(Self { scope: scope.clone(), key: key.clone(), parent: parent.cloned(), labels, kind })
    }

    fn taken(&self) -> Error {
        Error::already_exists(Kind::Snapshot, &self.key).in_namespace(&self.scope.namespace)
    }
}

/// Makes an active snapshot or a view and answers its mounts.
pub(super) async fn make(inner: Arc<Inner>, new: Wanted) -> Result<Vec<Mount>> {
    let _key = inner.keys.lock((new.scope.namespace.clone(), new.key.clone())).await;
    check_lease(&*inner.metadata, &new.scope).await?;
    target_is_missing(&inner, &new).await?;
    if inner.find(&new.scope, new.key.as_str()).await?.is_some() {
        return Err(new.taken());
    }
    let mut parents = Vec::new();
    if let Some(parent) = &new.parent {
        inner.parent(&new.scope, parent).await?;
        parents = inner.parents(&new.scope, parent.as_str()).await?;
    }
    let making = inner.ids.next(&*inner.metadata).await?;
    let id = making.id();
    let access = match new.kind {
        SnapshotKind::View => Access::ReadOnly,
        SnapshotKind::Active | SnapshotKind::Committed => Access::ReadWrite,
    };
    crated_core::fail::point("snapshot.prepare.backend")?;
    let of_parent = |error| lost(&new.scope, new.parent.as_ref().unwrap_or(&new.key), error);
    match access {
        Access::ReadOnly => inner.backend.view(id, parents.clone()).await.map_err(of_parent)?,
        Access::ReadWrite => inner.backend.create(id, parents.clone()).await.map_err(of_parent)?,
    }
    let made = async {
        let mounts = inner.backend.mounts(id, parents, access).await.map_err(of_parent)?;
        crated_core::fail::point("snapshot.prepare.record")?;
        record(&inner, &new, &making).await?;
        crated_core::fail::moment("snapshot.prepare.done");
        Ok(mounts)
    };
    let made = made.await;
    if made.is_err() {
        if let Err(error) = inner.backend.remove(id).await {
            tracing::warn!(snapshotter = inner.name, %id, %error, "the folder of a failed snapshot stays for now");
        }
        inner.clean_up();
    }
    made
}

/// A client that names the snapshot which it is going to commit is told where that exists already; it joins the lease then.
async fn target_is_missing(inner: &Inner, new: &Wanted) -> Result<()> {
    let Some(target) = new.labels.get(label::SNAPSHOT_REF) else { return Ok(()) };
    let target = SnapshotKey::new(target)?;
    for _ in 0..TRIES {
        let Some((revision, _)) = inner.find(&new.scope, target.as_str()).await? else { return Ok(()) };
        let exists = Err(Error::already_exists(Kind::Snapshot, &target).in_namespace(&new.scope.namespace));
        if new.scope.lease.is_none() {
            return exists;
        }
        let frame = Frame { joins: vec![inner.resource(&target)], ..Frame::default() };
        let mut ops = vec![Op::Expect(inner.key(&new.scope, &target), revision)];
        ops.extend(frame.ops(&*inner.metadata, &new.scope).await?);
        match inner.metadata.commit(ops).await {
            Ok(_) => return exists,
            Err(error) if error.fault() == Fault::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(Fault::Conflict, "the snapshot changes faster than it can be leased").on(Kind::Snapshot, target))
}

/// Commits the record of a snapshot whose folder is made.
async fn record(inner: &Inner, new: &Wanted, making: &Making) -> Result<()> {
    let now = time::now();
    let snapshot = Snapshot {
        name: new.key.to_string(),
        parent: new.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        kind: new.kind as i32,
        labels: new.labels.clone(),
        id: making.id().0,
        created_at: Some(now),
        updated_at: Some(now),
        ..Snapshot::default()
    };
    let key = inner.key(&new.scope, &new.key);
    let frame = Frame::joining(inner.resource(&new.key));
    for _ in 0..TRIES {
        let _family = inner.family.read().await;
        let mut ops = vec![Op::Expect(key.clone(), Revision::ABSENT), SNAPSHOTS.put(key.clone(), &snapshot)];
        if let Some(parent) = &new.parent {
            let (revision, _) = inner.parent(&new.scope, parent).await?;
            ops.push(Op::Expect(inner.key(&new.scope, parent), revision));
            ops.push(CHILDREN.put(inner.child(&new.scope, parent.as_str(), new.key.as_str()), &Mark {}));
        }
        if new.kind == SnapshotKind::Active {
            let event = events::SnapshotPrepare {
                key: snapshot.name.clone(),
                parent: snapshot.parent.clone(),
                snapshotter: inner.name.clone(),
            };
            let event = Event::new(&new.scope, "/snapshot/prepare", "containerd.events.SnapshotPrepare", &event);
            ops.push(Op::event(&event));
        }
        ops.extend(frame.ops(&*inner.metadata, &new.scope).await?);
        match inner.metadata.commit(ops).await {
            Ok(_) => return Ok(()),
            Err(error) if error.fault() == Fault::Conflict => {}
            Err(error) => return Err(error),
        }
        if inner.find(&new.scope, new.key.as_str()).await?.is_some() {
            return Err(new.taken());
        }
    }
    Err(Error::new(Fault::Conflict, "the parent changes faster than a child can be made").on(Kind::Snapshot, &new.key))
}

/// A commit that is wanted.
pub(super) struct Freeze {
    scope: Scope,
    name: SnapshotKey,
    key: SnapshotKey,
    parent: Option<SnapshotKey>,
    labels: Labels,
}

impl Freeze {
    pub(super) fn new(
        scope: &Scope,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Self> {
        let labels = label::stored(labels);
        label::check(&labels)?;
        Ok(Self { scope: scope.clone(), name: name.clone(), key: key.clone(), parent: parent.cloned(), labels })
    }

    fn taken(&self) -> Error {
        Error::already_exists(Kind::Snapshot, &self.name).in_namespace(&self.scope.namespace)
    }
}

/// Turns an active snapshot into a committed one.
pub(super) async fn commit(inner: Arc<Inner>, freeze: Freeze) -> Result<()> {
    let mut keys = vec![freeze.key.clone(), freeze.name.clone()];
    keys.sort();
    keys.dedup();
    let mut guards = Vec::new();
    for key in keys {
        guards.push(inner.keys.lock((freeze.scope.namespace.clone(), key)).await);
    }
    check_lease(&*inner.metadata, &freeze.scope).await?;
    let active = check(&inner, &freeze).await?;
    crated_core::fail::point("snapshot.commit.backend")?;
    let usage = inner.backend.commit(SnapshotId(active.id)).await?;
    let number = |value| i64::try_from(value).unwrap_or(i64::MAX);
    let now = time::now();
    let committed = Snapshot {
        name: freeze.name.to_string(),
        parent: freeze.parent.as_ref().map_or(active.parent.clone(), ToString::to_string),
        kind: SnapshotKind::Committed as i32,
        labels: freeze.labels.clone(),
        id: active.id,
        created_at: Some(now),
        updated_at: Some(now),
        size: number(usage.bytes),
        inodes: number(usage.inodes),
        pending: false,
    };
    crated_core::fail::point("snapshot.commit.record")?;
    record_commit(&inner, &freeze, &committed).await
}

/// The active snapshot, where it can be committed.
async fn check(inner: &Inner, freeze: &Freeze) -> Result<Snapshot> {
    let (_, active) = inner.get(&freeze.scope, &freeze.key).await?;
    if SnapshotKind::from_i32(active.kind) != Some(SnapshotKind::Active) {
        let why = "it is not active";
        return Err(Error::precondition(Kind::Snapshot, &freeze.key, why).in_namespace(&freeze.scope.namespace));
    }
    if inner.find(&freeze.scope, freeze.name.as_str()).await?.is_some() {
        return Err(freeze.taken());
    }
    if let Some(parent) = freeze.parent.as_ref().filter(|parent| parent.as_str() != active.parent) {
        if !active.parent.is_empty() {
            let why = format!("the snapshot has the parent {:?} already", active.parent);
            return Err(Error::invalid("parent", why));
        }
        if !inner.backend.backend().capabilities().contains(&"rebase") {
            return Err(Error::new(Fault::Unsupported, "this snapshotter cannot set a parent at commit")
                .on(Kind::Snapshotter, &inner.name));
        }
        inner.parent(&freeze.scope, parent).await?;
    }
    Ok(active)
}

async fn record_commit(inner: &Inner, freeze: &Freeze, committed: &Snapshot) -> Result<()> {
    let scope = &freeze.scope;
    let (old, new) = (inner.key(scope, &freeze.key), inner.key(scope, &freeze.name));
    let frame = Frame {
        joins: vec![inner.resource(&freeze.name)],
        leaves: vec![inner.resource(&freeze.key)],
        makes_namespace: true,
    };
    let event = events::SnapshotCommit {
        key: freeze.key.to_string(),
        name: freeze.name.to_string(),
        snapshotter: inner.name.clone(),
    };
    let event = Op::event(&Event::new(scope, "/snapshot/commit", "containerd.events.SnapshotCommit", &event));
    for _ in 0..TRIES {
        let _family = inner.family.read().await;
        let (revision, active) =
            inner.find(scope, freeze.key.as_str()).await?.ok_or_else(|| missing(scope, &freeze.key))?;
        let mut ops = vec![
            Op::Expect(old.clone(), revision),
            Op::Expect(new.clone(), Revision::ABSENT),
            Op::Delete(old.clone()),
            SNAPSHOTS.put(new.clone(), committed),
            event.clone(),
        ];
        if !active.parent.is_empty() {
            ops.push(Op::Delete(inner.child(scope, &active.parent, &active.name)));
        }
        if !committed.parent.is_empty() {
            let parent = SnapshotKey::new(&committed.parent)?;
            let (revision, _) = inner.parent(scope, &parent).await?;
            ops.push(Op::Expect(inner.key(scope, &parent), revision));
            ops.push(CHILDREN.put(inner.child(scope, &committed.parent, &committed.name), &Mark {}));
        }
        ops.extend(frame.ops(&*inner.metadata, scope).await?);
        match inner.metadata.commit(ops).await {
            Ok(_) => return Ok(()),
            Err(error) if error.fault() == Fault::Conflict => {}
            Err(error) => return Err(error),
        }
        if inner.find(scope, freeze.name.as_str()).await?.is_some() {
            return Err(freeze.taken());
        }
    }
    Err(Error::new(Fault::Conflict, "the snapshot changes faster than it can be committed")
        .on(Kind::Snapshot, &freeze.key))
}
