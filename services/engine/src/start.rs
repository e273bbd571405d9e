//! Start: make the task, run it, write down that it runs. A start that fails leaves no task and says why in the life.

use crated_api::crated::engine::v1::{ContainerConfig, StartRequest, StartResponse};
use crated_core::network::Change;
use crated_core::{CreateTask, ProcessStatus, Stdio, Task};
use crated_types::attach::SOCKET_SUFFIX;
use crated_types::{ContainerId, Error, Fault, Kind, Result, Scope, SnapshotKey};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::journal::{Kinds, Open};
use crate::lookup::Found;
use crate::network::plug::kept;
use crate::record::{Desired, Life, StartArguments};

/// How long a killed process may take to be gone.
pub(crate) const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// Who wants a start, and how far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// Only make the task.
    pub(crate) prepare: bool,
    /// By the restart policy.
    pub(crate) policy: bool,
    /// Output waits for a client that is going to attach.
    pub(crate) hold: bool,
    /// Columns and rows of the terminal; 0: the container's own.
    pub(crate) console: (u32, u32),
}

/// The path of a shim's attach socket.
pub(crate) fn attach_socket(task: &dyn Task) -> String {
    format!("{}{SOCKET_SUFFIX}", task.socket().display())
}

/// What makes the shim hold output back until the client has attached that was just told where: it has so many milliseconds.
pub(crate) const HOLD: &str = "&hold=10000";

/// The address that makes the shim keep the log and serve the attach socket.
pub(crate) fn stdio(life: Option<&Life>, config: &ContainerConfig, hold: bool) -> Stdio {
    let Some(life) = life else { return Stdio::default() };
    let stdin = match (config.open_stdin, config.stdin_once) {
        (false, _) => "none",
        (true, true) => "once",
        (true, false) => "open",
    };
    let mut address = format!("crated://{}?stdin={stdin}", escaped(&life.log_path));
    for key in ["max-size", "max-file"] {
        if let Some(value) = config.log_options.get(key) {
            address.push_str(&format!("&{key}={value}"));
        }
    }
    if hold {
        address.push_str(HOLD);
    }
    Stdio {
        stdin: if config.open_stdin { address.clone() } else { String::new() },
        stderr: if config.terminal { String::new() } else { address.clone() },
        stdout: address,
        terminal: config.terminal,
    }
}

/// A path in an address: what would end it there is written as `%xx`.
fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

impl Engine {
    /// Starts a container, or only makes its task; one that runs already is answered as it is.
    ///
    /// # Errors
    /// [`Fault::CommandNotFound`] and [`Fault::CommandNotExecutable`] where `execve` refused; the container is then as before.
    ///
    /// # Cancel safety
    /// Dropped, the start goes on.
    pub async fn start(self: &Arc<Self>, scope: &Scope, request: StartRequest) -> Result<StartResponse> {
        let id = self.find(scope, &request.container).await?.id;
        let how = How {
            prepare: request.prepare,
            console: (request.console_columns, request.console_rows),
            ..How::default()
        };
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move {
            let slot = engine.slots.get(scope.namespace.as_str(), id.as_str());
            let _turn = slot.lock().await;
            engine.start_locked(&scope, &id, how).await
        })
        .await
    }

    /// The start, under the container's lock.
    pub(crate) async fn start_locked(
        self: &Arc<Self>,
        scope: &Scope,
        id: &ContainerId,
        how: How,
    ) -> Result<StartResponse> {
        let mut found = self.found(scope, id).await?;
        if found.life.as_ref().is_some_and(|life| life.removing) {
            return Err(Error::precondition(Kind::Container, found.name(), "is being removed"));
        }
        let task = match self.task(scope, id).await? {
            None => None,
            Some(task) => match task.state(None).await?.status {
                ProcessStatus::Created if how.prepare => return Ok(answer(&found, &*task)),
                ProcessStatus::Created => Some(task),
                ProcessStatus::Running => return Ok(answer(&found, &*task)),
                ProcessStatus::Paused | ProcessStatus::Pausing => {
                    return Err(Error::precondition(Kind::Container, found.name(), "is paused")
                        .remedy_is("let it go on: `cratectl unpause`"));
                }
                ProcessStatus::Stopped | ProcessStatus::Unknown => {
                    self.bury_locked(scope, id, &*task).await?;
                    found = self.found(scope, id).await?;
                    None
                }
            },
        };
        let mut open = Box::pin(self.begin_start(scope, &found, how, task.is_some())).await?;
        match Box::pin(self.drive_start(&mut open, &found, how, task)).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if let Err(second) = self.undo_start(&mut open, id, &error).await {
                    tracing::error!(container = %id, error = %second, "a start could not be taken back; the reconciler will");
                }
                Err(error)
            }
        }
    }

    async fn begin_start(&self, scope: &Scope, found: &Found, how: How, prepared: bool) -> Result<Open> {
        let id = found.id.as_str();
        if let Some(mut left) = self.journal.resume(scope, Kinds::Start, id).await? {
            // An undo that failed in this daemon's life: nobody else works on it, we have the lock.
            self.undo_start(&mut left, &found.id, &Error::internal("left by an earlier start")).await?;
        }
        let arguments = StartArguments { prepare: how.prepare, policy: how.policy, prepared };
        let mut network = match &found.life {
            Some(life) if !prepared => Box::pin(self.reserve(scope, &found.id, &life.wanted(id)?)).await?,
            _ => None,
        };
        let (mut change, _) = self
            .life_ops(&scope.namespace, id, |life| {
                if !how.prepare || prepared {
                    life.desired = Desired::Running as i32;
                }
                life.restarting = false;
                life.error.clear();
                if how.policy {
                    life.restart_count += 1;
                } else {
                    life.restart_count = 0;
                    life.waited_ms = 0;
                }
            })
            .await?;
        change.extend(network.iter_mut().flat_map(Change::take));
        let open = self.journal.begin(scope, Kinds::Start, id, &arguments, change).await?;
        kept(network);
        Ok(open)
    }

    async fn drive_start(
        &self,
        open: &mut Open,
        found: &Found,
        how: How,
        task: Option<Arc<dyn Task>>,
    ) -> Result<StartResponse> {
        let scope = open.scope.clone();
        let task = match task {
            Some(task) => task,
            None => {
                let request = open.step("spec", self.task_request(&scope, found, how)).await?;
                let task = open.step("task", self.deps.tasks.create(&scope, request)).await?;
                if let Some(life) = &found.life {
                    let config = life.wanted(found.id.as_str())?;
                    open.step("network", Box::pin(self.plug(&scope, &found.id, &config, task.record().pid))).await?;
                }
                task
            }
        };
        if how.prepare {
            let pid = task.record().pid;
            let closing = self.journal.closing(open, "done").await?;
            self.note_life(&scope.namespace, found.id.as_str(), closing, |life| {
                (life.prepared, life.pid) = (true, pid);
            })
            .await?;
            return Ok(StartResponse { pid, ..answer(found, &*task) });
        }
        if how.console.0 > 0 && how.console.1 > 0 {
            let _ = task.resize(None, how.console.0, how.console.1).await; // no terminal: nothing to size
        }
        let pid = open.step("start", task.start(None)).await?;
        self.started(open, &found.id, pid).await?;
        Ok(StartResponse { pid, ..answer(found, &*task) })
    }

    /// The last commit of a start: it runs.
    pub(crate) async fn started(&self, open: &Open, id: &ContainerId, pid: u32) -> Result<()> {
        let closing = self.journal.closing(open, "done").await?;
        let changed = self
            .change_life(&open.scope.namespace, id.as_str(), closing, |life| {
                (life.running, life.prepared, life.paused, life.pid) = (true, false, false, pid);
                (life.exit, life.oom_killed) = (0, false);
                life.desired = Desired::Running as i32;
                life.started_at = Some(crated_core::time::now());
                life.error.clear();
            })
            .await;
        tracing::info!(container = %id, pid, "started");
        changed.map(drop)
    }

    /// Takes a start back: no task, and the reason in the life.
    pub(crate) async fn undo_start(&self, open: &mut Open, id: &ContainerId, reason: &Error) -> Result<()> {
        self.journal.turn_back(open, reason).await?;
        let scope = open.scope.clone();
        if let Some(task) = self.task(&scope, id).await? {
            open.step("undo", end_task(&*task)).await?;
        }
        let status = match reason.fault() {
            Fault::CommandNotFound => 127,
            Fault::CommandNotExecutable => 126,
            _ => 128,
        };
        let text = reason.to_string();
        let mut closing = self.journal.closing(open, &format!("undone: {text}")).await?;
        let mut network = match self.life(&scope.namespace, id.as_str()).await? {
            Some(life) => Box::pin(self.unplug(&scope, id, &life.wanted(id.as_str())?)).await,
            None => None,
        };
        closing.extend(network.iter_mut().flat_map(Change::take));
        self.change_life(&scope.namespace, id.as_str(), closing, |life| {
            (life.running, life.prepared, life.paused, life.pid) = (false, false, false, 0);
            life.exit = status;
            life.error = text;
        })
        .await?;
        kept(network);
        Ok(())
    }

    async fn task_request(&self, scope: &Scope, found: &Found, how: How) -> Result<CreateTask> {
        let config = match &found.life {
            Some(life) => life.wanted(found.id.as_str())?,
            None => ContainerConfig::default(),
        };
        let record = &found.record;
        let rootfs = if record.snapshot_key.is_empty() {
            Vec::new()
        } else {
            let key = SnapshotKey::new(&record.snapshot_key)?;
            self.snapshotter(&record.snapshotter)?.mounts(scope, &key).await?
        };
        let spec = record.spec.as_ref().map(|any| any.value.clone()).unwrap_or_default();
        Ok(CreateTask {
            id: found.id.clone(),
            spec: self.resolved_spec(scope, &found.id, spec, &config, how).await?,
            rootfs,
            stdio: stdio(found.life.as_ref(), &config, how.hold),
            runtime: record.runtime_name.clone(),
            options: record.runtime_options.clone(),
            sandbox: record.sandbox.clone(),
        })
    }

    /// Puts into the spec what is only known at the start: namespaces of other containers and the terminal's size.
    async fn resolved_spec(
        &self,
        scope: &Scope,
        id: &ContainerId,
        spec: Vec<u8>,
        config: &ContainerConfig,
        how: How,
    ) -> Result<Vec<u8>> {
        let joins =
            [("network", "net", &config.network), ("pid", "pid", &config.pid_mode), ("ipc", "ipc", &config.ipc_mode)];
        let sized = config.terminal && how.console.0 > 0 && how.console.1 > 0;
        if !sized && !joins.iter().any(|(_, _, mode)| mode.starts_with("container:")) {
            return Ok(spec);
        }
        let damaged = |error| Error::new(Fault::Corrupt, "the stored spec").caused_by(error);
        let mut value: Value = serde_json::from_slice(&spec).map_err(damaged)?;
        for (kind, file, mode) in joins {
            if let Some(other) = mode.strip_prefix("container:") {
                let path = self.namespace_of(scope, other, file).await?;
                join(&mut value, kind, path);
                if kind == "network" {
                    self.share_files(scope, id, &mut value, other).await?;
                }
            }
        }
        if sized && let Some(process) = value.get_mut("process") {
            process["consoleSize"] = serde_json::json!({"width": how.console.0, "height": how.console.1});
        }
        serde_json::to_vec(&value).map_err(damaged)
    }

    /// A shared network has one set of files: those of the container that it belongs to.
    async fn share_files(&self, scope: &Scope, id: &ContainerId, spec: &mut Value, other: &str) -> Result<()> {
        let other = self.find(scope, other).await?;
        if other.life.is_none() {
            return Ok(()); // a client of containerd made it, with files of its own
        }
        let bytes = other.record.spec.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let hostname = serde_json::from_slice::<Value>(bytes).ok().and_then(|spec| spec.get("hostname").cloned());
        let folder = |id: &ContainerId| self.folder(&scope.namespace, id.as_str());
        share(spec, &folder(id), &folder(&other.id), hostname);
        Ok(())
    }
}

/// Mounts another container's files where its own are, with that container's host name; a person's own mounts stay.
fn share(spec: &mut Value, own: &Path, other: &Path, hostname: Option<Value>) {
    for mount in spec.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        let source = mount["source"].as_str().map(Path::new);
        let name = source.filter(|source| source.parent() == Some(own)).and_then(Path::file_name);
        if let Some(name) = name.map(|name| other.join(name)) {
            mount["source"] = name.display().to_string().into();
        }
    }
    if let (Some(own), Some(hostname)) = (spec.get_mut("hostname"), hostname) {
        *own = hostname;
    }
}

fn join(spec: &mut Value, kind: &str, path: String) {
    let namespaces = spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    for namespace in namespaces.into_iter().flatten() {
        if namespace["type"] == kind {
            namespace["path"] = Value::String(path.clone());
        }
    }
}

fn answer(found: &Found, task: &dyn Task) -> StartResponse {
    let attach_socket = if found.life.is_some() { attach_socket(task) } else { String::new() };
    StartResponse { id: found.id.to_string(), name: found.name(), pid: task.record().pid, attach_socket }
}

/// Ends a task whatever its state, and deletes it; one that is gone is a success.
pub(crate) async fn end_task(task: &dyn Task) -> Result<()> {
    let state = match task.state(None).await {
        Ok(state) => state.status,
        Err(error) if error.is_not_found() => return Ok(()),
        // Its shim hangs: deleting the task ends both.
        Err(error) if error.fault() == Fault::TimedOut => ProcessStatus::Stopped,
        Err(error) => {
            tracing::warn!(container = %task.id(), %error, "state of a task that is to end");
            ProcessStatus::Unknown
        }
    };
    if matches!(state, ProcessStatus::Running | ProcessStatus::Paused | ProcessStatus::Pausing | ProcessStatus::Unknown)
    {
        match kill_hard(task, state).await {
            // The shim has died: deleting the task ends whatever is left of it.
            Err(error) if error.fault() == Fault::Unreachable => {}
            killed => killed?,
        }
    }
    match task.delete(None).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Kills a task's processes and waits for the end of its init; a frozen one is thawed to die.
pub(crate) async fn kill_hard(task: &dyn Task, state: ProcessStatus) -> Result<()> {
    match task.kill(None, 9, true).await {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    if matches!(state, ProcessStatus::Paused | ProcessStatus::Pausing) {
        let _ = task.resume().await; // under cgroup v1 a frozen process does not die; where it is gone there is nothing to thaw
    }
    match tokio::time::timeout(KILL_DEADLINE, task.wait(None)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.is_not_found() => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(Fault::TimedOut, format!("process {} does not die", task.record().pid))
            .on(Kind::Task, task.id())
            .remedy_is("look what it waits for: `cat /proc/PID/stack`; a hung disk or network file system holds it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stdio_address_says_what_the_shim_needs() {
        let life = Life { log_path: "/var/log/x-json.log".into(), ..Life::default() };
        let mut config = ContainerConfig::default();
        let plain = stdio(Some(&life), &config, false);
        assert_eq!(plain.stdout, "crated:///var/log/x-json.log?stdin=none");
        assert_eq!((plain.stderr.as_str(), plain.stdin.as_str()), (plain.stdout.as_str(), ""));
        (config.terminal, config.open_stdin, config.stdin_once) = (true, true, true);
        config.log_options.insert("max-size".into(), "10m".into());
        let terminal = stdio(Some(&life), &config, true);
        assert_eq!(terminal.stdin, "crated:///var/log/x-json.log?stdin=once&max-size=10m&hold=10000");
        assert!(terminal.terminal && terminal.stderr.is_empty());
        assert_eq!(stdio(None, &config, true), Stdio::default());
    }

    #[test]
    fn a_shared_network_has_one_set_of_files() {
        let mut spec = serde_json::json!({"hostname": "own", "mounts": [
            {"destination": "/etc/hosts", "source": "/c/1/hosts"},
            {"destination": "/etc/hostname", "source": "/home/mine"},
            {"destination": "/proc"},
        ]});
        share(&mut spec, Path::new("/c/1"), Path::new("/c/2"), Some("other".into()));
        assert_eq!(spec["mounts"][0]["source"], "/c/2/hosts");
        assert_eq!(spec["mounts"][1]["source"], "/home/mine");
        assert_eq!(spec["hostname"], "other");
    }

    #[test]
    fn joining_touches_only_the_namespace_that_is_meant() {
        let mut spec = serde_json::json!({"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/proc/0/ns/net"}]}});
        join(&mut spec, "network", "/proc/7/ns/net".into());
        assert_eq!(
            spec["linux"]["namespaces"],
            serde_json::json!([{"type": "pid"}, {"type": "network", "path": "/proc/7/ns/net"}])
        );
    }
}
