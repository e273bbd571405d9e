//! Ports and records of the daemon, almost without I/O: the traits in which the services of floor 2 meet.
//!
//! `services/store` implements metadata, content, snapshots, leases, images, containers, namespaces and events;
//! `services/image` the differ; `services/task` the tasks; `services/engine` and the gRPC adapters use them.
//! Every namespaced call takes a [`crated_types::Scope`].

pub mod boot;
pub mod check;
pub mod cni;
pub mod container;
pub mod content;
pub mod diff;
pub mod event;
pub mod fail;
pub mod fake;
pub mod image;
pub mod lease;
pub mod mask;
pub mod metadata;
pub mod names;
pub mod namespace;
pub mod network;
pub mod operation;
pub mod pull;
pub mod record;
pub mod resolv;
pub mod snapshot;
pub mod task;
pub mod time;
pub mod undo;

pub use check::{ContentCheck, Mender, RecordCheck, SnapshotCheck, Strays};
pub use cni::{
    Bandwidth, Capabilities, Cni, CniAddress, CniAttachment, CniDns, CniInterface, CniNetwork, CniResult, PortMapping,
};
pub use container::ContainerStore;
pub use content::{BlobReader, Commit, ContentStore, Expected, Ingest};
pub use diff::{Apply, Compare, Differ};
pub use event::EventLog;
pub use image::ImageStore;
pub use lease::{LeaseStore, Resource, ResourceKind};
pub use mask::Mask;
pub use metadata::{Cursor, LoggedEvent, MetadataStore, Op, Revision, Stored, Table};
pub use names::{Named, Names};
pub use namespace::NamespaceStore;
pub use network::Networks;
pub use operation::{Direction, Operation};
pub use pull::{Export, ImagePuller, ImageView, Import, ProgressSink, Pull};
pub use snapshot::{SnapshotKind, Snapshotter, Usage};
pub use task::{CreateTask, Exec, Exit, ProcessState, ProcessStatus, Stdio, Task, TaskManager};
pub use undo::Undo;
