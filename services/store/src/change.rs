//! Read, decide, commit; again where another writer was first. And what stands in every commit of a namespaced call.

use crated_core::record::{LEASED, LEASES, Mark, NAMESPACES, Namespace};
use crated_core::{MetadataStore, Op, Resource, Revision, Table};
use crated_types::{Error, Fault, Result, Scope};

/// Attempts before a conflict is the caller's.
const TRIES: usize = 64;

/// What a call under a lease, in a namespace that may be new, adds to its commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Resources that join the caller's lease.
    pub joins: Vec<Resource>,
    /// Resources that leave it.
    pub leaves: Vec<Resource>,
    /// Make the namespace where it does not exist.
    pub makes_namespace: bool,
}

impl Frame {
    /// A frame for a write of `resource`.
    pub(crate) fn joining(resource: Resource) -> Self {
        Self { joins: vec![resource], makes_namespace: true, ..Self::default() }
    }

    /// A frame for a write that no lease holds.
    pub(crate) fn writing() -> Self {
        Self { makes_namespace: true, ..Self::default() }
    }

    /// A frame for the removal of `resource`.
    pub(crate) fn leaving(resource: Resource) -> Self {
        Self { leaves: vec![resource], ..Self::default() }
    }

    /// The operations, as things stand now.
    pub(crate) async fn ops(&self, store: &dyn MetadataStore, scope: &Scope) -> Result<Vec<Op>> {
        let mut ops = Vec::new();
        let namespace = scope.namespace.as_str();
        if self.makes_namespace {
            let key = NAMESPACES.key("", namespace);
            if store.get(&key).await?.is_none() {
                ops.push(Op::Expect(key.clone(), Revision::ABSENT));
                ops.push(NAMESPACES.put(key, &Namespace::default()));
            }
        }
        let Some(lease) = &scope.lease else { return Ok(ops) };
        if !self.joins.is_empty() {
            let key = LEASES.key(namespace, lease.as_str());
            let found = store.get(&key).await?.ok_or_else(lease_missing)?;
            ops.push(Op::Expect(key, found.revision));
            ops.extend(self.joins.iter().map(|held| LEASED.put(mark(scope, lease.as_str(), held), &Mark {})));
        }
        ops.extend(self.leaves.iter().map(|held| Op::Delete(mark(scope, lease.as_str(), held))));
        Ok(ops)
    }
}

/// The error of a call under a lease that is not there.
fn lease_missing() -> Error {
    Error::new(Fault::NotFound, "lease does not exist")
}

/// The key of a lease's mark on a resource.
pub(crate) fn mark(scope: &Scope, lease: &str, held: &Resource) -> Vec<u8> {
    LEASED.key2(scope.namespace.as_str(), lease, &format!("{}\0{}", held.kind, held.id))
}

/// Fails where the call's lease is not there.
pub(crate) async fn check_lease(store: &dyn MetadataStore, scope: &Scope) -> Result<()> {
    let Some(lease) = &scope.lease else { return Ok(()) };
    let found = store.get(&LEASES.key(scope.namespace.as_str(), lease.as_str())).await?;
    found.map(|_| ()).ok_or_else(lease_missing)
}

/// Changes one record: `decide` gets it as it stands and answers the operations of the commit, to which the record's own `Expect` and
/// the frame are added. It runs again where another writer came between.
pub(crate) async fn change<R, T, F>(
    store: &dyn MetadataStore,
    scope: &Scope,
    frame: &Frame,
    (table, key): (Table<R>, Vec<u8>),
    mut decide: F,
) -> Result<T>
where
    R: prost::Message + Default,
    F: FnMut(Option<R>) -> Result<(Vec<Op>, T)> + Send,
{
    let mut before = None;
    for _ in 0..TRIES {
        let stored = store.get(&key).await?;
        let revision = stored.as_ref().map_or(Revision::ABSENT, |stored| stored.revision);
        let record = stored.map(|stored| table.decode(&key, &stored.value)).transpose()?;
        let (ops, answer) = decide(record)?;
        let around = frame.ops(store, scope).await?;
        let mut batch = vec![Op::Expect(key.clone(), revision)];
        batch.extend(around.iter().cloned());
        batch.extend(ops);
        match store.commit(batch).await {
            Ok(_) => return Ok(answer),
            Err(error) if error.fault() == Fault::Conflict => {
                // what is ours did not move: it is an `Expect` of the caller that does not hold
                let now = Some((revision, around));
                if before == now {
                    return Err(error);
                }
                before = now;
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(Fault::Conflict, "the record changes faster than it can be written"))
}
