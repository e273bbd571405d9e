//! Port: layer tar in, layer tar out.

use async_trait::async_trait;
use crated_types::{Descriptor, Labels, Mount, Result, Scope};
use std::fmt::Debug;
use std::time::SystemTime;

/// Unpack a layer onto mounts.
#[derive(Clone, Debug)]
pub struct Apply {
    /// The layer in the content store.
    pub layer: Descriptor,
    /// Where to.
    pub mounts: Vec<Mount>,
    /// Sync the file system before the answer.
    pub sync: bool,
}

/// Make a layer of what `upper` has over `lower`.
#[derive(Clone, Debug)]
pub struct Compare {
    /// Below.
    pub lower: Vec<Mount>,
    /// Above.
    pub upper: Vec<Mount>,
    /// Media type of the layer; empty: OCI gzip.
    pub media_type: String,
    /// Reference of the ingest; empty: one is chosen.
    pub reference: String,
    /// Labels of the blob.
    pub labels: Labels,
    /// Upper bound of all times in the layer.
    pub source_date_epoch: Option<SystemTime>,
}

/// Applies and compares.
#[async_trait]
pub trait Differ: Send + Sync + Debug {
    /// Applies a layer; answers the descriptor of the uncompressed tar (its digest is the diff ID).
    async fn apply(&self, scope: &Scope, request: Apply) -> Result<Descriptor>;
    /// Writes the difference as a layer into the content store.
    async fn compare(&self, scope: &Scope, request: Compare) -> Result<Descriptor>;
}
