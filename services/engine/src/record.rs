//! Records of the engine: what it knows of a container beside containerd's record, and the arguments of its operations.

use crated_core::Table;
use prost_types::Timestamp;

/// What a person wants of a container; the restart policy reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Desired {
    /// Never started.
    Created = 0,
    /// Started, not stopped by a person since.
    Running = 1,
    /// Stopped by a person.
    Stopped = 2,
}

/// The life of a container that the engine made. Key: its id.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Life {
    /// Its name.
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// `crated.engine.v1.ContainerConfig` as it was asked for, without credentials.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
    /// Digest of the image's configuration.
    #[prost(string, tag = "3")]
    pub(crate) image: String,
    /// Creation.
    #[prost(message, optional, tag = "4")]
    pub(crate) created_at: Option<Timestamp>,
    /// Last start.
    #[prost(message, optional, tag = "5")]
    pub(crate) started_at: Option<Timestamp>,
    /// Last end.
    #[prost(message, optional, tag = "6")]
    pub(crate) finished_at: Option<Timestamp>,
    /// Exit status of the last end.
    #[prost(uint32, tag = "7")]
    pub(crate) exit: u32,
    /// The kernel killed it for memory in its last life.
    #[prost(bool, tag = "8")]
    pub(crate) oom_killed: bool,
    /// Why the last start failed or the last life ended from outside.
    #[prost(string, tag = "9")]
    pub(crate) error: String,
    /// Restarts by the policy since the last start by a person.
    #[prost(uint32, tag = "10")]
    pub(crate) restart_count: u32,
    /// What a person wants.
    #[prost(enumeration = "Desired", tag = "11")]
    pub(crate) desired: i32,
    /// File with the log; empty for none.
    #[prost(string, tag = "12")]
    pub(crate) log_path: String,
    /// Its process runs (or is paused).
    #[prost(bool, tag = "13")]
    pub(crate) running: bool,
    /// Its process.
    #[prost(uint32, tag = "14")]
    pub(crate) pid: u32,
    /// Its task exists and waits for a start.
    #[prost(bool, tag = "15")]
    pub(crate) prepared: bool,
    /// The policy is going to start it again.
    #[prost(bool, tag = "16")]
    pub(crate) restarting: bool,
    /// A removal has begun.
    #[prost(bool, tag = "17")]
    pub(crate) removing: bool,
    /// It is frozen.
    #[prost(bool, tag = "18")]
    pub(crate) paused: bool,
    /// What is mounted into it by a person's wish.
    #[prost(message, repeated, tag = "19")]
    pub(crate) mounts: Vec<MountRecord>,
    /// Signal that stops it, by name; empty for `SIGTERM`.
    #[prost(string, tag = "20")]
    pub(crate) stop_signal: String,
    /// Milliseconds that the policy waited before the last restart.
    #[prost(uint32, tag = "21")]
    pub(crate) waited_ms: u32,
}

/// A mount of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MountRecord {
    /// `bind`, `volume` or `tmpfs`.
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    /// Name of a volume.
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// Path on the host.
    #[prost(string, tag = "3")]
    pub(crate) source: String,
    /// Path in the container.
    #[prost(string, tag = "4")]
    pub(crate) target: String,
    /// Not writable.
    #[prost(bool, tag = "5")]
    pub(crate) read_only: bool,
    /// Propagation.
    #[prost(string, tag = "6")]
    pub(crate) propagation: String,
    /// A volume without a name of its own: it goes with its container.
    #[prost(bool, tag = "7")]
    pub(crate) anonymous: bool,
}

/// Who has a name. Key: the name.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Named {
    /// The container.
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

/// Arguments of `create`: everything that its steps make has its name here.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CreateArguments {
    /// Container.
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// Snapshotter of its root file system.
    #[prost(string, tag = "3")]
    pub(crate) snapshotter: String,
    /// Volumes without a name that are made for it.
    #[prost(string, repeated, tag = "4")]
    pub(crate) volumes: Vec<String>,
}

/// Arguments of `start`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StartArguments {
    /// Only the task is made.
    #[prost(bool, tag = "1")]
    pub(crate) prepare: bool,
    /// By the restart policy.
    #[prost(bool, tag = "2")]
    pub(crate) policy: bool,
    /// The task was there.
    #[prost(bool, tag = "3")]
    pub(crate) prepared: bool,
}

/// Arguments of `stop` and `restart`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StopArguments {
    /// First signal, by number.
    #[prost(uint32, tag = "1")]
    pub(crate) signal: u32,
    /// Seconds until the kill; negative: never.
    #[prost(int64, tag = "2")]
    pub(crate) timeout: i64,
}

/// Arguments of `exec`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ExecArguments {
    /// The exec.
    #[prost(string, tag = "1")]
    pub(crate) exec: String,
}

/// Arguments of `remove`: what is to go, also where the records are gone.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RemoveArguments {
    /// Its name.
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// Snapshotter of its root file system.
    #[prost(string, tag = "2")]
    pub(crate) snapshotter: String,
    /// Key of its snapshot.
    #[prost(string, tag = "3")]
    pub(crate) snapshot_key: String,
    /// Volumes without a name.
    #[prost(string, repeated, tag = "4")]
    pub(crate) volumes: Vec<String>,
}

/// The last operations of a container, oldest first. Key: its id.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TimelineRecord {
    /// Operations.
    #[prost(message, repeated, tag = "1")]
    pub(crate) operations: Vec<crated_api::crated::engine::v1::timeline_response::Operation>,
}

/// How far the watcher has come in the event log. Key: `cursor` of no namespace.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WatchRecord {
    /// Commit.
    #[prost(uint64, tag = "1")]
    pub(crate) revision: u64,
    /// Event in it.
    #[prost(uint32, tag = "2")]
    pub(crate) index: u32,
    /// Boot id when it was written.
    #[prost(string, tag = "3")]
    pub(crate) boot_id: String,
}

pub(crate) const LIVES: Table<Life> = Table::new("life");
pub(crate) const NAMES: Table<Named> = Table::new("name");
pub(crate) const TIMELINES: Table<TimelineRecord> = Table::new("timeline");
pub(crate) const WATCH: Table<WatchRecord> = Table::new("engine");
