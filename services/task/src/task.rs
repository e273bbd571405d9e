//! A task behind its shim: each call is one of the shim's.

use crate::exits;
use crate::manager::Inner;
use crate::shim::Shim;
use async_trait::async_trait;
use crated_api::containerd::runc::v1::ProcessDetails;
use crated_api::containerd::task::v2 as api;
use crated_core::record::TaskRecord;
use crated_core::task::{Exec, Exit, ProcessState, ProcessStatus, Stdio, Task};
use crated_types::{Code, ContainerId, Error, ExecId, Fault, Kind, Namespace, Result};
use prost::Message;
use prost_types::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use tokio::sync::watch;

/// A task of this daemon.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) namespace: Namespace,
    pub(crate) id: ContainerId,
    pub(crate) shim: Shim,
    pub(crate) record: RwLock<TaskRecord>,
    /// The exit of init once it is durable.
    pub(crate) ended: watch::Sender<Option<Exit>>,
    /// Set while we end the shim ourselves: its hanging up is no accident.
    pub(crate) deleting: AtomicBool,
    /// Set while the shim does not answer what it answers at once otherwise.
    pub(crate) silent: AtomicBool,
    pub(crate) manager: Weak<Inner>,
}

impl Running {
    pub(crate) fn new(
        namespace: Namespace,
        id: ContainerId,
        shim: Shim,
        record: TaskRecord,
        manager: &Arc<Inner>,
    ) -> Self {
        let ended = watch::Sender::new(exits::of(&record));
        Self {
            namespace,
            id,
            shim,
            record: RwLock::new(record),
            ended,
            deleting: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            manager: Arc::downgrade(manager),
        }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut TaskRecord)) {
        change(&mut self.record.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn exec_name(exec: Option<&ExecId>) -> String {
        exec.map(ToString::to_string).unwrap_or_default()
    }

    fn manager(&self) -> Result<Arc<Inner>> {
        self.manager.upgrade().ok_or_else(|| Error::new(Fault::NotReady, "the daemon is stopping"))
    }

    /// The state of a task whose end is known without its shim.
    fn stopped(&self) -> Option<ProcessState> {
        let exit = exits::of(&self.record())?;
        Some(ProcessState {
            container: self.id.clone(),
            exec: None,
            pid: exit.pid,
            status: ProcessStatus::Stopped,
            stdio: Stdio::default(),
            exit: Some(exit),
        })
    }

    async fn delete_exec(&self, exec: &ExecId) -> Result<Exit> {
        let request = api::DeleteRequest { id: self.id.to_string(), exec_id: exec.to_string() };
        self.shim.act("Delete", &request).await.map(exit)
    }
}

/// What a shim says of an exit.
pub(crate) fn exit(answer: api::DeleteResponse) -> Exit {
    Exit {
        pid: answer.pid,
        status: answer.exit_status,
        at: answer.exited_at.as_ref().map_or(std::time::SystemTime::UNIX_EPOCH, crated_core::time::system),
    }
}

#[async_trait]
impl Task for Running {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn record(&self) -> TaskRecord {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn socket(&self) -> PathBuf {
        self.shim.socket.clone()
    }

    async fn state(&self, exec: Option<&ExecId>) -> Result<ProcessState> {
        let request = api::StateRequest { id: self.id.to_string(), exec_id: Self::exec_name(exec) };
        let asked = self.shim.call::<_, api::StateResponse>("State", &request).await;
        self.silent.store(asked.as_ref().is_err_and(|error| error.fault() == Fault::TimedOut), Ordering::SeqCst);
        let state = match asked {
            // Its shim has gone because it has ended, and is being put away.
            Err(error) if exec.is_none() && self.shim.is_closed() => {
                return self.stopped().ok_or(error);
            }
            asked => asked?,
        };
        let status = ProcessStatus::from_i32(state.status);
        let stopped = status == ProcessStatus::Stopped;
        let at = state.exited_at.as_ref().map_or(std::time::SystemTime::UNIX_EPOCH, crated_core::time::system);
        Ok(ProcessState {
            container: self.id.clone(),
            exec: exec.cloned(),
            pid: state.pid,
            status,
            stdio: Stdio { stdin: state.stdin, stdout: state.stdout, stderr: state.stderr, terminal: state.terminal },
            exit: stopped.then_some(Exit { pid: state.pid, status: state.exit_status, at }),
        })
    }

    async fn start(&self, exec: Option<&ExecId>) -> Result<u32> {
        let request = api::StartRequest { id: self.id.to_string(), exec_id: Self::exec_name(exec) };
        let answer: api::StartResponse = self.shim.act("Start", &request).await?;
        if exec.is_none() {
            self.change(|record| {
                record.pid = answer.pid;
                record.started_at = Some(crated_core::time::now());
            });
        }
        Ok(answer.pid)
    }

    async fn exec(&self, exec: Exec) -> Result<()> {
        let request = api::ExecProcessRequest {
            id: self.id.to_string(),
            exec_id: exec.id.to_string(),
            terminal: exec.stdio.terminal,
            stdin: exec.stdio.stdin,
            stdout: exec.stdio.stdout,
            stderr: exec.stdio.stderr,
            spec: Some(exec.process),
        };
        self.shim.act::<_, ()>("Exec", &request).await
    }

    async fn kill(&self, exec: Option<&ExecId>, signal: u32, all: bool) -> Result<()> {
        let request = api::KillRequest { id: self.id.to_string(), exec_id: Self::exec_name(exec), signal, all };
        self.shim.call::<_, ()>("Kill", &request).await
    }

    async fn wait(&self, exec: Option<&ExecId>) -> Result<Exit> {
        let request = api::WaitRequest { id: self.id.to_string(), exec_id: Self::exec_name(exec) };
        let answer = match self.shim.wait(&request).await {
            Ok(answer) => answer,
            // The shim is gone: the manager finds out how init ended, and says so.
            Err(error) if exec.is_none() && error.fault() == Fault::Unreachable => {
                let mut ended = self.ended.subscribe();
                let exit =
                    tokio::time::timeout(std::time::Duration::from_secs(30), ended.wait_for(Option::is_some)).await;
                return match exit {
                    Ok(Ok(exit)) => exit.clone().ok_or_else(|| Error::internal("an exit that is none")),
                    _ => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        Ok(Exit {
            pid: if exec.is_none() { self.record().pid } else { 0 },
            status: answer.exit_status,
            at: answer.exited_at.as_ref().map_or(std::time::SystemTime::UNIX_EPOCH, crated_core::time::system),
        })
    }

    async fn delete(&self, exec: Option<&ExecId>) -> Result<Exit> {
        if let Some(exec) = exec {
            return self.delete_exec(exec).await;
        }
        let manager = self.manager()?;
        if self.deleting.swap(true, Ordering::SeqCst) {
            return Err(Error::precondition(Kind::Task, &self.id, "is being deleted"));
        }
        let (namespace, id) = (self.namespace.clone(), self.id.clone());
        let tracker = manager.tracker.clone();
        // The change goes on when the caller is gone.
        tracker
            .spawn(async move { manager.delete(&namespace, &id).await })
            .await
            .map_err(|error| Error::internal(format!("delete task: {error}")))?
    }

    async fn pause(&self) -> Result<()> {
        self.shim.act::<_, ()>("Pause", &api::PauseRequest { id: self.id.to_string() }).await
    }

    async fn resume(&self) -> Result<()> {
        self.shim.act::<_, ()>("Resume", &api::ResumeRequest { id: self.id.to_string() }).await
    }

    async fn resize(&self, exec: Option<&ExecId>, columns: u32, rows: u32) -> Result<()> {
        let exec_id = Self::exec_name(exec);
        let request = api::ResizePtyRequest { id: self.id.to_string(), exec_id, width: columns, height: rows };
        self.shim.call::<_, ()>("ResizePty", &request).await
    }

    async fn close_io(&self, exec: Option<&ExecId>) -> Result<()> {
        let request = api::CloseIoRequest { id: self.id.to_string(), exec_id: Self::exec_name(exec), stdin: true };
        self.shim.call::<_, ()>("CloseIO", &request).await
    }

    async fn update(&self, resources: Any, annotations: BTreeMap<String, String>) -> Result<()> {
        let request = api::UpdateTaskRequest { id: self.id.to_string(), resources: Some(resources), annotations };
        self.shim.act::<_, ()>("Update", &request).await
    }

    async fn pids(&self) -> Result<Vec<(u32, Option<String>)>> {
        let answer: api::PidsResponse = self.shim.call("Pids", &api::PidsRequest { id: self.id.to_string() }).await?;
        Ok(answer
            .processes
            .into_iter()
            .map(|process| {
                let details = process.info.and_then(|info| ProcessDetails::decode(info.value.as_slice()).ok());
                (process.pid, details.map(|details| details.exec_id))
            })
            .collect())
    }

    async fn stats(&self) -> Result<Any> {
        let answer: api::StatsResponse =
            self.shim.call("Stats", &api::StatsRequest { id: self.id.to_string() }).await?;
        answer.stats.ok_or_else(|| {
            Error::peer(Code::NotFound, format!("no metrics of task {}", self.id)).on(Kind::Task, &self.id)
        })
    }

    async fn checkpoint(&self, path: &str, options: Option<Any>) -> Result<()> {
        let request = api::CheckpointTaskRequest { id: self.id.to_string(), path: path.into(), options };
        self.shim.act::<_, ()>("Checkpoint", &request).await
    }
}
