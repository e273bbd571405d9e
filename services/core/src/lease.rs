//! Port: leases, which keep what is not referred to yet from the collector.

use async_trait::async_trait;
use crated_types::filter::Filters;
use crated_types::{Error, Fault, Labels, LeaseId, Result, Scope};
use std::fmt::Debug;

use crate::record::Lease;

/// What a lease holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// Kind of the object.
    pub kind: ResourceKind,
    /// Its digest, reference, name or key.
    pub id: String,
}

/// Kinds of what a lease may hold; on the wire `content`, `ingests`, `images`, `snapshots/<snapshotter>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// A blob.
    Content,
    /// An ingest.
    Ingest,
    /// An image.
    Image,
    /// A snapshot of a snapshotter.
    Snapshot(String),
}

impl std::fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Content => f.write_str("content"),
            Self::Ingest => f.write_str("ingests"),
            Self::Image => f.write_str("images"),
            Self::Snapshot(snapshotter) => write!(f, "snapshots/{snapshotter}"),
        }
    }
}

impl std::str::FromStr for ResourceKind {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "content" => Ok(Self::Content),
            "ingests" => Ok(Self::Ingest),
            "images" => Ok(Self::Image),
            "snapshots" | "snapshots/" => {
                Err(Error::invalid("resource.type", format_args!("{text:?} lacks the snapshotter: snapshots/<name>")))
            }
            _ => match text.strip_prefix("snapshots/") {
                Some(snapshotter) => Ok(Self::Snapshot(snapshotter.into())),
                None => Err(Error::new(Fault::Unsupported, format!("lease resource of type {text:?}"))),
            },
        }
    }
}

/// Leases of a namespace.
#[async_trait]
pub trait LeaseStore: Send + Sync + Debug {
    /// Makes one; without an id a random one is chosen.
    async fn create(&self, scope: &Scope, id: Option<LeaseId>, labels: Labels) -> Result<Lease>;
    /// Those that pass, in order of their ids.
    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Lease>>;
    /// Lets go of everything that it holds; with `sync` waits for a full collection.
    async fn delete(&self, scope: &Scope, id: &LeaseId, sync: bool) -> Result<()>;
    /// Adds a resource, which need not exist.
    async fn add(&self, scope: &Scope, id: &LeaseId, resource: Resource) -> Result<()>;
    /// Takes a resource off.
    async fn remove(&self, scope: &Scope, id: &LeaseId, resource: &Resource) -> Result<()>;
    /// What it holds.
    async fn resources(&self, scope: &Scope, id: &LeaseId) -> Result<Vec<Resource>>;
}
