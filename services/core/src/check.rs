//! Ports of `system check`: whoever keeps something compares its records with what is there, names the damage, and mends it or
//! moves it aside. `services/engine` walks them; `services/store`, `services/image` and `services/task` implement them.

use async_trait::async_trait;
use crated_types::{Digest, Labels, Namespace, Result, Scope, SnapshotKey};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use crate::lease::Resource;
use crate::record::Image;
use crate::snapshot::SnapshotKind;

/// A blob as one namespace keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Tenant.
    pub namespace: Namespace,
    /// Digest.
    pub digest: Digest,
    /// Bytes, as recorded.
    pub size: u64,
    /// Labels; `containerd.io/distribution.source.<host>` says where it can be had again.
    pub labels: Labels,
}

/// What became of a blob's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are there and hash to the digest.
    Whole,
    /// There is no file.
    Missing,
    /// The file has another size, in bytes.
    Size(u64),
    /// They hash to something else.
    Digest(Digest),
    /// They cannot be read.
    Unreadable(String),
    /// The caller did not want to go on.
    Stopped,
}

/// Is told of bytes that were read, first of none; answers whether to go on.
pub type Reading = Arc<dyn Fn(u64) -> bool + Send + Sync>;

/// Blobs, re-hashed.
#[async_trait]
pub trait ContentCheck: Send + Sync + Debug {
    /// At most `limit` blobs of all namespaces whose place is behind `after` (empty: from the first), and the place of the last.
    async fn kept(&self, after: &[u8], limit: usize) -> Result<(Vec<Kept>, Option<Vec<u8>>)>;
    /// Reads a blob from the disk, not from the page cache, and hashes it; one block of it is in memory at a time.
    async fn verify(&self, blob: &Kept, reading: Reading) -> Result<Verdict>;
    /// Moves a blob's file where it is never served from; records stay, so that the same bytes can be written again. Answers
    /// where it is now; `None` where there was no file.
    async fn quarantine(&self, digest: &Digest) -> Result<Option<PathBuf>>;
    /// Frees the quarantined bytes of a blob that is whole again.
    async fn release(&self, digest: &Digest) -> Result<()>;
}

/// A snapshot whose folder is not what its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// Tenant.
    pub namespace: Namespace,
    /// Snapshotter.
    pub snapshotter: String,
    /// Its name.
    pub name: SnapshotKey,
    /// What it is; `None` where the record's number means nothing.
    pub kind: Option<SnapshotKind>,
    /// What is wrong.
    pub problem: String,
}

/// Snapshots of one snapshotter, compared with their folders.
#[async_trait]
pub trait SnapshotCheck: Send + Sync + Debug {
    /// Those that are damaged, parents before children. Committed ones are counted through where `deep`.
    async fn damaged(&self, deep: bool) -> Result<Vec<DamagedSnapshot>>;
}

/// A record that contradicts another, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Tenant; empty for none.
    pub namespace: String,
    /// What it is about, e.g. `image docker.io/library/bb:1`.
    pub object: String,
    /// What is wrong.
    pub problem: String,
    /// What to do, where it cannot be mended.
    pub remedy: String,
    /// What mends it, as one commit; empty: nothing does.
    pub repair: Vec<crate::metadata::Op>,
}

/// Who needs a blob or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Referrer {
    /// An image, by its name.
    Image(String),
    /// A container, by its id.
    Container(String),
    /// A lease, by its id.
    Lease(String),
}

/// The records of the store, compared with each other.
#[async_trait]
pub trait RecordCheck: Send + Sync + Debug {
    /// Records that cannot be read or that refer to nothing.
    async fn bad(&self) -> Result<Vec<BadRecord>>;
    /// For each of `things`, who needs it.
    async fn referrers(&self, namespace: &Namespace, things: &[Resource]) -> Result<Vec<Vec<Referrer>>>;
}

/// Something on the host that no record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// `folder`, `file`, `bundle`, `socket`, `cgroup`, `mount`.
    pub kind: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// Why it is one.
    pub why: String,
}

/// Who makes files, folders, mounts or cgroups, and knows which of them it still needs.
#[async_trait]
pub trait Strays: Send + Sync + Debug {
    /// What is there and needed by nobody. What is being made is none.
    async fn strays(&self) -> Result<Vec<Stray>>;
    /// Removes one, or moves it aside where it is not certain that it was ours; answers what was done, e.g. `removed`.
    async fn clear(&self, stray: &Stray) -> Result<String>;
}

/// Makes again what was lost, from registries and from content.
#[async_trait]
pub trait Mender: Send + Sync + Debug {
    /// Fetches a blob from where its labels say that it came from; answers which repository had it.
    ///
    /// # Errors
    /// [`crated_types::Fault::NotFound`] where no label names a source; the registry's.
    async fn refetch(&self, scope: &Scope, blob: &Kept) -> Result<String>;
    /// Makes the folder of a committed snapshot again from the layers of `image`; answers whether the image has such a layer.
    async fn unpack_again(&self, scope: &Scope, image: &Image, snapshotter: &str, name: &SnapshotKey) -> Result<bool>;
}
