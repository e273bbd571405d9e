//! Port: tasks, the running side of containers, each behind a shim.

use async_trait::async_trait;
use crated_types::{ContainerId, ExecId, Mount, Namespace, Result, Scope};
use prost_types::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::record::{Event, TaskRecord};

/// Standard streams: FIFO paths or URIs (`file://`, `binary://`, `crated://`); empty is `/dev/null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error; empty with a terminal.
    pub stderr: String,
    /// A pseudo-terminal.
    pub terminal: bool,
}

/// What a task is made from.
#[derive(Clone, Debug)]
pub struct CreateTask {
    /// Container.
    pub id: ContainerId,
    /// The OCI spec, byte for byte what becomes `config.json`.
    pub spec: Vec<u8>,
    /// Mounts of the root file system.
    pub rootfs: Vec<Mount>,
    /// Standard streams.
    pub stdio: Stdio,
    /// Runtime name or absolute path of a shim.
    pub runtime: String,
    /// Runtime options.
    pub options: Option<Any>,
    /// Sandbox whose shim takes the task; empty for none.
    pub sandbox: String,
}

/// A further process in a task.
#[derive(Clone, Debug)]
pub struct Exec {
    /// Its identifier.
    pub id: ExecId,
    /// OCI `Process` as JSON in an `Any`.
    pub process: Any,
    /// Standard streams.
    pub stdio: Stdio,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its pid.
    pub pid: u32,
    /// `WEXITSTATUS`, or 128 + signal.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

/// Status of a process; numbers as on the wire (`containerd.v1.types.Status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ProcessStatus {
    /// Not known.
    Unknown = 0,
    /// Before `start`.
    Created = 1,
    /// Running.
    Running = 2,
    /// Ended.
    Stopped = 3,
    /// Frozen.
    Paused = 4,
    /// On its way to frozen.
    Pausing = 5,
}

impl ProcessStatus {
    /// The status of a number of the wire.
    #[must_use]
    pub const fn from_i32(number: i32) -> Self {
        match number {
            1 => Self::Created,
            2 => Self::Running,
            3 => Self::Stopped,
            4 => Self::Paused,
            5 => Self::Pausing,
            _ => Self::Unknown,
        }
    }
}

/// State of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessState {
    /// Container.
    pub container: ContainerId,
    /// Exec; none for init.
    pub exec: Option<ExecId>,
    /// Process id in the host's namespace.
    pub pid: u32,
    /// Status.
    pub status: ProcessStatus,
    /// Standard streams as they were given.
    pub stdio: Stdio,
    /// Exit, once stopped.
    pub exit: Option<Exit>,
}

/// Starts shims and finds them again.
#[async_trait]
pub trait TaskManager: Send + Sync + Debug {
    /// Makes the bundle, starts the shim (or uses the sandbox's) and creates the task: init waits before its `execve`.
    ///
    /// The intent is recorded before anything is made; a crash or a failure leaves nothing behind.
    async fn create(&self, scope: &Scope, request: CreateTask) -> Result<Arc<dyn Task>>;
    /// Finds a task.
    ///
    /// # Errors
    /// [`crated_types::Fault::NotFound`]: `task x not found`.
    async fn get(&self, scope: &Scope, id: &ContainerId) -> Result<Arc<dyn Task>>;
    /// Tasks of a namespace, in order of their ids.
    async fn list(&self, scope: &Scope) -> Result<Vec<Arc<dyn Task>>>;
    /// Tasks of every namespace.
    async fn all(&self) -> Result<Vec<Arc<dyn Task>>>;
    /// Takes an event from a shim: logs it once, with the exit of init in the task's record in the same commit.
    async fn forward(&self, event: Event) -> Result<()>;
    /// Reconnects after a start of the daemon: shims in parallel with deadlines; exits that were missed are logged, dead
    /// shims are cleaned up, unfinished creates are undone.
    async fn restore(&self) -> Result<Restored>;
    /// Answers `containerd.types.RuntimeInfo` of a runtime, encoded.
    async fn runtime_info(&self, runtime: &str, options: Option<Any>) -> Result<Any>;
}

/// What a restore found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Shims that are back.
    pub running: Vec<(Namespace, ContainerId)>,
    /// Tasks whose exit was published now.
    pub exited: Vec<(Namespace, ContainerId)>,
    /// Creates that were undone.
    pub undone: Vec<(Namespace, ContainerId)>,
}

/// A created or running container behind its shim.
#[async_trait]
pub trait Task: Send + Sync + Debug {
    /// Tenant.
    fn namespace(&self) -> &Namespace;
    /// Container.
    fn id(&self) -> &ContainerId;
    /// The record as it stands now.
    fn record(&self) -> TaskRecord;
    /// Path of the shim's ttrpc socket.
    fn socket(&self) -> PathBuf;
    /// State of init or an exec, asked from the shim.
    async fn state(&self, exec: Option<&ExecId>) -> Result<ProcessState>;
    /// Runs init or a prepared exec; answers its pid.
    async fn start(&self, exec: Option<&ExecId>) -> Result<u32>;
    /// Prepares a further process.
    async fn exec(&self, exec: Exec) -> Result<()>;
    /// Signals init, an exec, or with `all` every process.
    async fn kill(&self, exec: Option<&ExecId>, signal: u32, all: bool) -> Result<()>;
    /// Waits for the exit of init or an exec. Cancel-safe.
    async fn wait(&self, exec: Option<&ExecId>) -> Result<Exit>;
    /// Deletes a stopped (or never started) init, then shuts the shim down and removes bundle and record; or a stopped exec.
    async fn delete(&self, exec: Option<&ExecId>) -> Result<Exit>;
    /// Freezes.
    async fn pause(&self) -> Result<()>;
    /// Thaws.
    async fn resume(&self) -> Result<()>;
    /// Sets the terminal's size.
    async fn resize(&self, exec: Option<&ExecId>, columns: u32, rows: u32) -> Result<()>;
    /// Closes the shim's own end of standard input.
    async fn close_io(&self, exec: Option<&ExecId>) -> Result<()>;
    /// Changes limits: OCI `LinuxResources` as JSON in an `Any`.
    async fn update(&self, resources: Any, annotations: BTreeMap<String, String>) -> Result<()>;
    /// Processes, with the exec id of those that are execs.
    async fn pids(&self) -> Result<Vec<(u32, Option<String>)>>;
    /// Cgroup metrics as the shim gives them.
    async fn stats(&self) -> Result<Any>;
    /// Checkpoints into `path`.
    async fn checkpoint(&self, path: &str, options: Option<Any>) -> Result<()>;
}
