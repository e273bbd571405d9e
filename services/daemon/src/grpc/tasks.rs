//! `containerd.services.tasks.v1.Tasks`: the shim is asked each time, the daemon keeps no state of processes.

use super::{Answer, answer, filters, missing, scope};
use crated_api::any;
use crated_api::containerd::runc::v1::ProcessDetails;
use crated_api::containerd::services::tasks::v1 as wire;
use crated_api::containerd::services::tasks::v1::tasks_server::Tasks;
use crated_api::containerd::types::Metric;
use crated_api::containerd::v1::types::{Process, ProcessInfo};
use crated_api::convert::timestamp;
use crated_api::status::from_error;
use crated_core::task::{CreateTask, Exec, Exit, ProcessState, Stdio};
use crated_core::{ContainerStore, Task, TaskManager};
use crated_types::filter::Adaptor;
use crated_types::{ContainerId, Error, ExecId, Fault, Kind, Scope};
use futures::StreamExt;
use prost_types::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, async_trait};

/// Time that a shim gets for its answer in a list.
const STATE: Duration = Duration::from_secs(2);
/// Shims asked at a time.
const AT_A_TIME: usize = 16;
/// Types of runtime options that are passed on.
const OPTIONS: [&str; 2] = ["containerd.runc.v1.Options", "runtimeoptions.v1.Options"];

/// Over the ports of containers and tasks.
#[derive(Clone, Debug)]
pub struct TasksAdapter {
    /// Records that tasks are made from.
    pub containers: Arc<dyn ContainerStore>,
    /// Tasks.
    pub tasks: Arc<dyn TaskManager>,
    /// Runtime of a record that names none.
    pub runtime: String,
}

/// The fields of a task that filters of metrics see.
struct Filtered<'a>(&'a dyn Task);

impl Adaptor for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id"] => Some(self.0.id().as_str().into()),
            ["namespace"] => Some(self.0.namespace().as_str().into()),
            _ => None,
        }
    }
}

fn exec_id(text: &str) -> Result<Option<ExecId>, Status> {
    if text.is_empty() { Ok(None) } else { ExecId::new(text).map(Some).map_err(from_error) }
}

fn process(state: ProcessState) -> Process {
    let id = state.exec.as_ref().map_or_else(|| state.container.to_string(), ToString::to_string);
    Process {
        container_id: state.container.to_string(),
        id,
        pid: state.pid,
        status: state.status as i32,
        stdin: state.stdio.stdin,
        stdout: state.stdio.stdout,
        stderr: state.stdio.stderr,
        terminal: state.stdio.terminal,
        exit_status: state.exit.as_ref().map_or(0, |exit| exit.status),
        exited_at: state.exit.map(|exit| timestamp(exit.at)),
    }
}

fn deleted(id: String, exit: &Exit) -> wire::DeleteResponse {
    wire::DeleteResponse { id, pid: exit.pid, exit_status: exit.status, exited_at: Some(timestamp(exit.at)) }
}

/// A task of a list; one that went meanwhile or does not answer in time is left out.
async fn listed(task: Arc<dyn Task>) -> Option<Process> {
    match tokio::time::timeout(STATE, task.state(None)).await {
        Ok(Ok(state)) => Some(process(state)),
        Ok(Err(error)) if error.is_not_found() => None,
        Ok(Err(error)) => {
            tracing::warn!(%error, container = %task.id(), "task left out of a list");
            None
        }
        Err(_) => {
            tracing::warn!(container = %task.id(), "task left out of a list: its shim is silent");
            None
        }
    }
}

/// The figures of a task; one that gives none is left out.
async fn measured(task: Arc<dyn Task>) -> Option<Metric> {
    match tokio::time::timeout(STATE, task.stats()).await {
        Ok(Ok(data)) => {
            Some(Metric { timestamp: Some(crated_core::time::now()), id: task.id().to_string(), data: Some(data) })
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, container = %task.id(), "task gives no figures");
            None
        }
        Err(_) => {
            tracing::warn!(container = %task.id(), "task gives no figures: its shim is silent");
            None
        }
    }
}

/// An option value that says something.
fn given(options: Option<Any>) -> Option<Any> {
    options.filter(|options| !options.type_url.is_empty())
}

impl TasksAdapter {
    async fn task(&self, scope: &Scope, id: &str) -> Result<Arc<dyn Task>, Status> {
        let id = ContainerId::new(id).map_err(from_error)?;
        self.tasks.get(scope, &id).await.map_err(from_error)
    }

    /// What a create request and the container's record make together.
    async fn creation(&self, scope: &Scope, request: wire::CreateTaskRequest) -> crated_types::Result<CreateTask> {
        let id = ContainerId::new(&request.container_id)?;
        let container = self.containers.get(scope, &id).await?;
        if request.checkpoint.is_some() {
            return Err(
                Error::new(Fault::Unsupported, "tasks cannot be restored from a checkpoint").on(Kind::Task, &id)
            );
        }
        let options = given(request.options).or_else(|| given(container.runtime_options));
        if let Some(options) = &options
            && !OPTIONS.contains(&any::name(options))
        {
            return Err(Error::invalid(
                "options",
                format_args!("{:?} are no options of this runtime", options.type_url),
            )
            .remedy_is(format!("send one of: {}", OPTIONS.join(", "))));
        }
        let spec = container.spec.ok_or_else(|| Error::precondition(Kind::Container, &id, "has no spec"))?;
        let runtime = [request.runtime_path, container.runtime_name, self.runtime.clone()]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        Ok(CreateTask {
            spec: spec.value,
            rootfs: request.rootfs.into_iter().map(Into::into).collect(),
            stdio: Stdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            runtime,
            options,
            sandbox: container.sandbox,
            id,
        })
    }
}

#[async_trait]
impl Tasks for TasksAdapter {
    async fn create(&self, request: Request<wire::CreateTaskRequest>) -> Answer<wire::CreateTaskResponse> {
        let scope = scope(&request)?;
        let creation = self.creation(&scope, request.into_inner()).await.map_err(from_error)?;
        let task = self.tasks.create(&scope, creation).await.map_err(from_error)?;
        let (container_id, pid) = (task.id().to_string(), task.record().pid);
        Ok(Response::new(wire::CreateTaskResponse { container_id, pid }))
    }

    async fn start(&self, request: Request<wire::StartRequest>) -> Answer<wire::StartResponse> {
        let scope = scope(&request)?;
        let task = self.task(&scope, &request.get_ref().container_id).await?;
        let exec = exec_id(&request.get_ref().exec_id)?;
        let pid = task.start(exec.as_ref()).await.map_err(from_error)?;
        Ok(Response::new(wire::StartResponse { pid }))
    }

    async fn delete(&self, request: Request<wire::DeleteTaskRequest>) -> Answer<wire::DeleteResponse> {
        let scope = scope(&request)?;
        let task = self.task(&scope, &request.get_ref().container_id).await?;
        let exit = task.delete(None).await.map_err(from_error)?;
        Ok(Response::new(deleted(String::new(), &exit)))
    }

    async fn delete_process(&self, request: Request<wire::DeleteProcessRequest>) -> Answer<wire::DeleteResponse> {
        let scope = scope(&request)?;
        let task = self.task(&scope, &request.get_ref().container_id).await?;
        let exec = exec_id(&request.get_ref().exec_id)?;
        let exit = task.delete(exec.as_ref()).await.map_err(from_error)?;
        Ok(Response::new(deleted(request.into_inner().exec_id, &exit)))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Answer<wire::GetResponse> {
        let scope = scope(&request)?;
        let task = self.task(&scope, &request.get_ref().container_id).await?;
        let exec = exec_id(&request.get_ref().exec_id)?;
        let state = task.state(exec.as_ref()).await.map_err(from_error)?;
        Ok(Response::new(wire::GetResponse { process: Some(process(state)) }))
    }

    async fn list(&self, request: Request<wire::ListTasksRequest>) -> Answer<wire::ListTasksResponse> {
        let scope = scope(&request)?;
        let tasks = self.tasks.list(&scope).await.map_err(from_error)?;
        let asked: Vec<_> = tasks.into_iter().map(listed).collect();
        let states: Vec<_> = futures::stream::iter(asked).buffered(AT_A_TIME).collect().await;
        let tasks = states.into_iter().flatten().collect();
        Ok(Response::new(wire::ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<wire::KillRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let task = self.task(&scope, &request.container_id).await?;
        answer(task.kill(exec_id(&request.exec_id)?.as_ref(), request.signal, request.all).await)
    }

    async fn exec(&self, request: Request<wire::ExecProcessRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let id = exec_id(&request.exec_id)?.ok_or_else(|| missing("exec_id"))?;
        let task = self.task(&scope, &request.container_id).await?;
        let exec = Exec {
            id,
            process: request.spec.ok_or_else(|| missing("spec"))?,
            stdio: Stdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
        };
        answer(task.exec(exec).await)
    }

    async fn resize_pty(&self, request: Request<wire::ResizePtyRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let task = self.task(&scope, &request.container_id).await?;
        answer(task.resize(exec_id(&request.exec_id)?.as_ref(), request.width, request.height).await)
    }

    async fn close_io(&self, request: Request<wire::CloseIoRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let task = self.task(&scope, &request.container_id).await?;
        let exec = exec_id(&request.exec_id)?;
        if !request.stdin {
            return Ok(Response::new(()));
        }
        answer(task.close_io(exec.as_ref()).await)
    }

    async fn pause(&self, request: Request<wire::PauseTaskRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.task(&scope, &request.get_ref().container_id).await?.pause().await)
    }

    async fn resume(&self, request: Request<wire::ResumeTaskRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.task(&scope, &request.get_ref().container_id).await?.resume().await)
    }

    async fn list_pids(&self, request: Request<wire::ListPidsRequest>) -> Answer<wire::ListPidsResponse> {
        let scope = scope(&request)?;
        let task = self.task(&scope, &request.get_ref().container_id).await?;
        let details = |exec_id| any::pack("containerd.runc.v1.ProcessDetails", &ProcessDetails { exec_id });
        let pids = task.pids().await.map_err(from_error)?;
        let processes = pids.into_iter().map(|(pid, exec)| ProcessInfo { pid, info: exec.map(details) }).collect();
        Ok(Response::new(wire::ListPidsResponse { processes }))
    }

    async fn checkpoint(&self, request: Request<wire::CheckpointTaskRequest>) -> Answer<wire::CheckpointTaskResponse> {
        let scope = scope(&request)?;
        let task = self.task(&scope, &request.get_ref().container_id).await?;
        Err(from_error(Error::new(Fault::Unsupported, "checkpoints are not offered").on(Kind::Task, task.id())))
    }

    async fn update(&self, request: Request<wire::UpdateTaskRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let task = self.task(&scope, &request.container_id).await?;
        let resources = request.resources.ok_or_else(|| missing("resources"))?;
        answer(task.update(resources, request.annotations).await)
    }

    async fn metrics(&self, request: Request<wire::MetricsRequest>) -> Answer<wire::MetricsResponse> {
        let (scope, filters) = (scope(&request)?, filters(&request.get_ref().filters)?);
        let tasks = self.tasks.list(&scope).await.map_err(from_error)?;
        let wanted = tasks.into_iter().filter(|task| filters.matches(&Filtered(&**task)));
        let asked: Vec<_> = wanted.map(measured).collect();
        let figures: Vec<_> = futures::stream::iter(asked).buffered(AT_A_TIME).collect().await;
        let metrics = figures.into_iter().flatten().collect();
        Ok(Response::new(wire::MetricsResponse { metrics }))
    }

    async fn wait(&self, request: Request<wire::WaitRequest>) -> Answer<wire::WaitResponse> {
        let scope = scope(&request)?;
        let task = self.task(&scope, &request.get_ref().container_id).await?;
        let exec = exec_id(&request.get_ref().exec_id)?;
        let exit = task.wait(exec.as_ref()).await.map_err(from_error)?;
        let (exit_status, exited_at) = (exit.status, Some(timestamp(exit.at)));
        Ok(Response::new(wire::WaitResponse { exit_status, exited_at }))
    }
}
