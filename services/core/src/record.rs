//! Records as they are stored. They are protobuf messages, so fields may be added and never change their number or meaning.

use prost_types::{Any, Timestamp};
use std::collections::BTreeMap;

use crate::metadata::Table;

/// Labels of a namespace.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Namespace {
    /// Labels.
    #[prost(btree_map = "string, string", tag = "1")]
    pub labels: BTreeMap<String, String>,
}

/// A container as containerd's clients know it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    /// Identifier.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
    /// Name of the image record that it was made from.
    #[prost(string, tag = "3")]
    pub image: String,
    /// Runtime name, e.g. `io.containerd.crated.v2`.
    #[prost(string, tag = "4")]
    pub runtime_name: String,
    /// Runtime options, byte for byte.
    #[prost(message, optional, tag = "5")]
    pub runtime_options: Option<Any>,
    /// OCI spec, byte for byte.
    #[prost(message, optional, tag = "6")]
    pub spec: Option<Any>,
    /// Snapshotter of the root file system.
    #[prost(string, tag = "7")]
    pub snapshotter: String,
    /// Key of the root file system's snapshot.
    #[prost(string, tag = "8")]
    pub snapshot_key: String,
    /// Creation.
    #[prost(message, optional, tag = "9")]
    pub created_at: Option<Timestamp>,
    /// Last change.
    #[prost(message, optional, tag = "10")]
    pub updated_at: Option<Timestamp>,
    /// Extensions of clients, byte for byte.
    #[prost(btree_map = "string, message", tag = "11")]
    pub extensions: BTreeMap<String, Any>,
    /// Sandbox that it belongs to; empty for none.
    #[prost(string, tag = "12")]
    pub sandbox: String,
}

/// A descriptor as stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Target {
    /// Media type.
    #[prost(string, tag = "1")]
    pub media_type: String,
    /// Digest.
    #[prost(string, tag = "2")]
    pub digest: String,
    /// Bytes.
    #[prost(int64, tag = "3")]
    pub size: i64,
    /// Annotations.
    #[prost(btree_map = "string, string", tag = "4")]
    pub annotations: BTreeMap<String, String>,
}

impl From<&crated_types::Descriptor> for Target {
    fn from(descriptor: &crated_types::Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.to_string(),
            size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
            annotations: descriptor.annotations.clone(),
        }
    }
}

impl TryFrom<&Target> for crated_types::Descriptor {
    type Error = crated_types::Error;
    fn try_from(target: &Target) -> Result<Self, Self::Error> {
        Ok(Self {
            media_type: target.media_type.clone(),
            digest: target.digest.parse()?,
            size: u64::try_from(target.size).map_err(|_| {
                crated_types::Error::invalid("target.size", format_args!("{} is negative", target.size))
            })?,
            annotations: target.annotations.clone(),
        })
    }
}

/// An image: a name for content.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Image {
    /// Name; free text, usually a normalised reference.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
    /// What it names.
    #[prost(message, optional, tag = "3")]
    pub target: Option<Target>,
    /// Creation.
    #[prost(message, optional, tag = "4")]
    pub created_at: Option<Timestamp>,
    /// Last change.
    #[prost(message, optional, tag = "5")]
    pub updated_at: Option<Timestamp>,
}

/// A committed blob, as one namespace sees it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    /// Digest.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Bytes.
    #[prost(int64, tag = "2")]
    pub size: i64,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "3")]
    pub labels: BTreeMap<String, String>,
    /// Creation.
    #[prost(message, optional, tag = "4")]
    pub created_at: Option<Timestamp>,
    /// Last change of the labels.
    #[prost(message, optional, tag = "5")]
    pub updated_at: Option<Timestamp>,
}

/// An ingest: bytes that are not a blob yet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IngestRecord {
    /// Reference, as the client gave it.
    #[prost(string, tag = "1")]
    pub reference: String,
    /// Expected digest; empty where unknown.
    #[prost(string, tag = "2")]
    pub expected: String,
    /// Expected bytes; 0 where unknown.
    #[prost(int64, tag = "3")]
    pub total: i64,
    /// Start.
    #[prost(message, optional, tag = "4")]
    pub started_at: Option<Timestamp>,
    /// When the collector may take it; none while a lease holds it.
    #[prost(message, optional, tag = "5")]
    pub expires_at: Option<Timestamp>,
    /// Folder below `ingest/`.
    #[prost(string, tag = "6")]
    pub folder: String,
}

/// A snapshot's name over the number that a backend knows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshot {
    /// Key (active, view) or name (committed).
    #[prost(string, tag = "1")]
    pub name: String,
    /// Name of the parent; empty for none.
    #[prost(string, tag = "2")]
    pub parent: String,
    /// 1 view, 2 active, 3 committed, as on the wire.
    #[prost(int32, tag = "3")]
    pub kind: i32,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: BTreeMap<String, String>,
    /// The backend's number.
    #[prost(uint64, tag = "5")]
    pub id: u64,
    /// Creation.
    #[prost(message, optional, tag = "6")]
    pub created_at: Option<Timestamp>,
    /// Last change.
    #[prost(message, optional, tag = "7")]
    pub updated_at: Option<Timestamp>,
    /// Bytes at commit.
    #[prost(int64, tag = "8")]
    pub size: i64,
    /// Inodes at commit.
    #[prost(int64, tag = "9")]
    pub inodes: i64,
    /// Set while the backend has not finished making it; a restart removes it.
    #[prost(bool, tag = "10")]
    pub pending: bool,
}

/// A lease.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Lease {
    /// Identifier.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Creation.
    #[prost(message, optional, tag = "2")]
    pub created_at: Option<Timestamp>,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "3")]
    pub labels: BTreeMap<String, String>,
}

/// A mark without content, where a key says everything.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Mark {}

/// An event as it is logged.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// Tenant.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// `/tasks/exit`
    #[prost(string, tag = "2")]
    pub topic: String,
    /// When.
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
    /// What, with the bare type name.
    #[prost(message, optional, tag = "4")]
    pub event: Option<Any>,
    /// Who asked for the change.
    #[prost(string, tag = "5")]
    pub actor: String,
    /// The method or part of the daemon that made it.
    #[prost(string, tag = "6")]
    pub cause: String,
}

impl Event {
    /// An event of now; `name` is the message's full name.
    #[must_use]
    pub fn new(scope: &crated_types::Scope, topic: &str, name: &str, message: &impl prost::Message) -> Self {
        Self {
            namespace: scope.namespace.to_string(),
            topic: topic.into(),
            timestamp: Some(crate::time::now()),
            event: Some(Any { type_url: name.into(), value: message.encode_to_vec() }),
            actor: scope.actor.who.to_string(),
            cause: scope.actor.cause.to_string(),
        }
    }
}

/// How a process ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExitRecord {
    /// `WEXITSTATUS`, or 128 + signal.
    #[prost(uint32, tag = "1")]
    pub status: u32,
    /// When.
    #[prost(message, optional, tag = "2")]
    pub at: Option<Timestamp>,
    /// The kernel killed it for memory.
    #[prost(bool, tag = "3")]
    pub oom_killed: bool,
    /// Why, where it did not end by itself (shim lost, reboot).
    #[prost(string, tag = "4")]
    pub reason: String,
}

/// A task: a shim that we started.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskRecord {
    /// Container.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Folder with `config.json`.
    #[prost(string, tag = "2")]
    pub bundle: String,
    /// ttrpc address of the shim, `unix:///…`.
    #[prost(string, tag = "3")]
    pub address: String,
    /// Runtime name or path.
    #[prost(string, tag = "4")]
    pub runtime: String,
    /// Process of the shim.
    #[prost(uint32, tag = "5")]
    pub shim_pid: u32,
    /// Process of the container's init; 0 before create.
    #[prost(uint32, tag = "6")]
    pub pid: u32,
    /// Boot id at the start of the shim.
    #[prost(string, tag = "7")]
    pub boot_id: String,
    /// Version of the shim's task API, 2 or 3.
    #[prost(uint32, tag = "8")]
    pub api_version: u32,
    /// Set once the exit of init is durable.
    #[prost(message, optional, tag = "9")]
    pub exit: Option<ExitRecord>,
    /// The shim belongs to another container or sandbox of this id.
    #[prost(string, tag = "10")]
    pub group: String,
    /// Cgroup path of the container, for cleaning up without the shim.
    #[prost(string, tag = "11")]
    pub cgroup: String,
    /// Creation.
    #[prost(message, optional, tag = "12")]
    pub created_at: Option<Timestamp>,
    /// Set once init runs.
    #[prost(message, optional, tag = "13")]
    pub started_at: Option<Timestamp>,
    /// Time of the newest event that the shim forwarded: ours send in order, so an older one is a repetition.
    #[prost(message, optional, tag = "14")]
    pub last_event: Option<Timestamp>,
    /// The shim is ours, not a foreign one.
    #[prost(bool, tag = "15")]
    pub own: bool,
    /// The shim has told that the task is deleted: it is not told again.
    #[prost(bool, tag = "16")]
    pub deleted: bool,
}

/// Namespaces: key `namespace//<name>` (the table is not namespaced itself).
pub const NAMESPACES: Table<Namespace> = Table::new("namespace");
/// Containers by id.
pub const CONTAINERS: Table<Container> = Table::new("container");
/// Images by name.
pub const IMAGES: Table<Image> = Table::new("image");
/// Blobs by digest.
pub const BLOBS: Table<Blob> = Table::new("blob");
/// Ingests by reference.
pub const INGESTS: Table<IngestRecord> = Table::new("ingest");
/// Snapshots by snapshotter NUL name.
pub const SNAPSHOTS: Table<Snapshot> = Table::new("snapshot");
/// Leases by id.
pub const LEASES: Table<Lease> = Table::new("lease");
/// Resources of leases: `<lease> NUL <type> NUL <id>`.
pub const LEASED: Table<Mark> = Table::new("leased");
/// Tasks by container id.
pub const TASKS: Table<TaskRecord> = Table::new("task");
