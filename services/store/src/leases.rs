//! Leases: they keep what nothing refers to yet from the collector. A resource is a mark of its own, so a lease can hold many.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crated_core::record::{LEASED, LEASES, Lease, Mark};
use crated_core::{LeaseStore, MetadataStore, Op, Resource, ResourceKind, time};
use crated_types::filter::Filters;
use crated_types::{Digest, Error, Kind, Labels, LeaseId, Result, Scope, label};
use std::io::Read;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::change::{Frame, change, mark};
use crate::fields::Fields;
use crate::gc::Requests;

/// Marks that are deleted in one commit.
const BATCH: usize = 4096;

/// The leases of the daemon.
#[derive(Debug)]
pub struct Leases {
    metadata: Arc<dyn MetadataStore>,
    requests: Requests,
}

impl Leases {
    /// Leases in `metadata`; deletions ask `requests` for a collection.
    #[must_use]
    pub fn new(metadata: Arc<dyn MetadataStore>, requests: Requests) -> Arc<Self> {
        Arc::new(Self { metadata, requests })
    }

    /// The lease that must exist, and its key.
    async fn known(&self, scope: &Scope, id: &LeaseId) -> Result<Vec<u8>> {
        let key = LEASES.key(scope.namespace.as_str(), id.as_str());
        match self.metadata.get(&key).await? {
            Some(_) => Ok(key),
            None => Err(missing(scope, id)),
        }
    }

    async fn marks(&self, scope: &Scope, id: &LeaseId) -> Result<Vec<Vec<u8>>> {
        let prefix = LEASED.key2(scope.namespace.as_str(), id.as_str(), "");
        Ok(self.metadata.scan_all(&prefix).await?.into_iter().map(|(key, _)| key).collect())
    }
}

fn missing(scope: &Scope, id: &LeaseId) -> Error {
    Error::not_found(Kind::Lease, id).in_namespace(&scope.namespace)
}

/// `<nanoseconds>-<four letters>`, as containerd's clients see them.
fn random_id() -> Result<LeaseId> {
    let mut bytes = [0; 3];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| Error::os("read /dev/urandom", source))?;
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    LeaseId::new(&format!("{nanos}-{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn check(resource: &Resource) -> Result<()> {
    if resource.kind == ResourceKind::Content {
        resource.id.parse::<Digest>()?;
    }
    if resource.id.is_empty() || resource.id.contains('\0') || resource.id.len() > crated_types::name::KEY_MAX {
        return Err(Error::invalid("resource.id", "must not be empty, hold NUL or be longer than a key"));
    }
    Ok(())
}

#[async_trait]
impl LeaseStore for Leases {
    async fn create(&self, scope: &Scope, id: Option<LeaseId>, labels: Labels) -> Result<Lease> {
        let labels = label::stored(labels);
        label::check(&labels)?;
        let id = id.map_or_else(random_id, Ok)?;
        let lease = Lease { id: id.to_string(), created_at: Some(time::now()), labels };
        let key = LEASES.key(scope.namespace.as_str(), id.as_str());
        let unleased = Scope { lease: None, ..scope.clone() };
        change(&*self.metadata, &unleased, &Frame::writing(), (LEASES, key.clone()), |found| {
            if found.is_some() {
                return Err(Error::already_exists(Kind::Lease, &id).in_namespace(&scope.namespace));
            }
            Ok((vec![LEASES.put(key.clone(), &lease)], lease.clone()))
        })
        .await
    }

    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Lease>> {
        let all = LEASES.list(&*self.metadata, &LEASES.prefix(scope.namespace.as_str())).await?;
        Ok(all.into_iter().map(|(_, _, lease)| lease).filter(|lease| filters.matches(&Fields(lease))).collect())
    }

    async fn delete(&self, scope: &Scope, id: &LeaseId, sync: bool) -> Result<()> {
        let key = self.known(scope, id).await?;
        let mut marks = self.marks(scope, id).await?;
        let last = marks.split_off(marks.len().saturating_sub(BATCH));
        for chunk in marks.chunks(BATCH) {
            self.metadata.commit(chunk.iter().cloned().map(Op::Delete).collect()).await?;
        }
        let unleased = Scope { lease: None, ..scope.clone() };
        change(&*self.metadata, &unleased, &Frame::default(), (LEASES, key.clone()), |found| {
            found.ok_or_else(|| missing(scope, id))?;
            let mut ops = vec![Op::Delete(key.clone())];
            ops.extend(last.iter().cloned().map(Op::Delete));
            Ok((ops, ()))
        })
        .await?;
        if sync {
            return self.requests.run_now().await;
        }
        self.requests.request();
        Ok(())
    }

    async fn add(&self, scope: &Scope, id: &LeaseId, resource: Resource) -> Result<()> {
        check(&resource)?;
        let key = LEASES.key(scope.namespace.as_str(), id.as_str());
        let unleased = Scope { lease: None, ..scope.clone() };
        change(&*self.metadata, &unleased, &Frame::default(), (LEASES, key), |found| {
            found.ok_or_else(|| missing(scope, id))?;
            Ok((vec![LEASED.put(mark(scope, id.as_str(), &resource), &Mark {})], ()))
        })
        .await
    }

    async fn remove(&self, scope: &Scope, id: &LeaseId, resource: &Resource) -> Result<()> {
        check(resource)?;
        self.known(scope, id).await?;
        self.metadata.commit(vec![Op::Delete(mark(scope, id.as_str(), resource))]).await?;
        self.requests.request();
        Ok(())
    }

    async fn resources(&self, scope: &Scope, id: &LeaseId) -> Result<Vec<Resource>> {
        self.known(scope, id).await?;
        let prefix = LEASED.key2(scope.namespace.as_str(), id.as_str(), "");
        let marks = self.marks(scope, id).await?;
        marks
            .iter()
            .map(|key| {
                let text = String::from_utf8_lossy(&key[prefix.len()..]);
                let (kind, id) = text.split_once('\0').unwrap_or((&text, ""));
                Ok(Resource { kind: kind.parse()?, id: id.to_owned() })
            })
            .collect()
    }
}
