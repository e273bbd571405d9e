//! Exec: a further process in a running container. It is started at once, its output held for a client that attaches then; or
//! prepared, and started by a second call.

use crated_api::crated::engine::v1::{ExecRequest, ExecResponse, ExecWaitRequest, ResizeRequest, WaitResponse};
use crated_core::{Exec, Op, Stdio, Task};
use crated_spec::{ExecOptions, exec_process};
use crated_types::{ContainerId, Error, ExecId, Fault, Kind, Result, Scope};
use oci_spec::runtime::Spec;
use prost_types::Any;
use std::sync::{Arc, PoisonError};

use crate::engine::Engine;
use crate::journal::{Kinds, Open};
use crate::lookup::Found;
use crate::names::random_id;
use crate::record::ExecArguments;
use crate::start::{HOLD, attach_socket};

/// What identifiers of execs begin with that are started at once: the watcher forgets them at their end.
pub(crate) const AT_ONCE: &str = "x-";
/// Ends of execs that are remembered for those who ask late.
const ENDS: usize = 1024;
/// Type of an OCI process in an `Any`, as containerd registers it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

impl Engine {
    /// Prepares a process in a running container (and starts it with `detach`), or starts a prepared one.
    ///
    /// # Errors
    /// [`Fault::CommandNotFound`] and [`Fault::CommandNotExecutable`] where `execve` refused; nothing is left of the exec then.
    ///
    /// # Cancel safety
    /// Dropped, the exec goes on.
    pub async fn exec(self: &Arc<Self>, scope: &Scope, request: ExecRequest) -> Result<ExecResponse> {
        let found = self.find(scope, &request.container).await?;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move {
            if request.start.is_empty() {
                engine.exec_new(&scope, &found, request).await
            } else {
                engine.exec_prepared(&scope, &found, &request.start).await
            }
        })
        .await
    }

    async fn exec_new(self: &Arc<Self>, scope: &Scope, found: &Found, request: ExecRequest) -> Result<ExecResponse> {
        let (task, pid) = match &found.life {
            // Where it has ended meanwhile the shim says so.
            Some(life) if life.running && life.pid != 0 => {
                let task = self.task(scope, &found.id).await?;
                (task.ok_or_else(|| crate::engine::not_running(found.id.as_str()))?, life.pid)
            }
            _ => self.running(scope, found).await?,
        };
        if found.life.as_ref().is_some_and(|life| life.paused) {
            return Err(Error::precondition(Kind::Container, found.name(), "is paused")
                .remedy_is("let it go on: `cratectl unpause`"));
        }
        let at_once = request.detach || request.attach;
        let prefix = if at_once { AT_ONCE } else { "" };
        let id = ExecId::new(&format!("{prefix}{}", random_id()?))?;
        let stdio = exec_stdio(&request);
        let arguments = ExecArguments { exec: id.to_string() };
        // What is to run is worked out while the intent is written.
        let subject = (found.id.as_str(), id.as_str());
        let (open, process) = tokio::join!(
            self.journal.begin_part(scope, Kinds::Exec, subject, &arguments, vec![]),
            self.exec_process(found, pid, &request)
        );
        let mut open = open?;
        let answer = async {
            let process = open.step("process", async { process }).await?;
            open.step("exec", task.exec(Exec { id: id.clone(), process, stdio })).await?;
            let pid = if at_once {
                let (pid, closing) = self.exec_run(&mut open, &*task, &id).await?;
                self.note_exec(found.id.clone(), closing).await;
                pid
            } else {
                0
            };
            Ok(pid)
        }
        .await;
        match answer {
            Ok(pid) => {
                if !at_once {
                    self.prepared().insert((found.id.to_string(), id.to_string()), open.trace);
                }
                Ok(exec_answer(found, &*task, &id, pid))
            }
            Err(error) => {
                self.exec_failed(&mut open, &error).await;
                Err(error)
            }
        }
    }

    async fn exec_prepared(self: &Arc<Self>, scope: &Scope, found: &Found, exec: &str) -> Result<ExecResponse> {
        let id = ExecId::new(exec)?;
        let (task, _) = self.running(scope, found).await?;
        let Some(mut open) = self.journal.resume_exec(scope, found.id.as_str(), exec).await? else {
            return Err(Error::not_found(Kind::Exec, exec).remedy_is("an exec is started once; prepare another one"));
        };
        if let Some(trace) = self.prepared().remove(&(found.id.to_string(), exec.to_owned())) {
            open.trace = trace;
        }
        let ran = match self.exec_run(&mut open, &*task, &id).await {
            Ok((pid, closing)) => self.commit_soon(closing).await.map(|_| pid),
            Err(error) => Err(error),
        };
        match ran {
            Ok(pid) => Ok(exec_answer(found, &*task, &id, pid)),
            Err(error) => {
                self.exec_failed(&mut open, &error).await;
                Err(error)
            }
        }
    }

    /// Starts it; answers what the note of it is to be.
    async fn exec_run(&self, open: &mut Open, task: &dyn Task, id: &ExecId) -> Result<(u32, Vec<Op>)> {
        let pid = open.step("start", task.start(Some(id))).await?;
        Ok((pid, self.journal.closing(open, "done").await?))
    }

    /// It runs: nobody waits for the note. It is in the queue when this answers, so that what is asked for next (a removal, which
    /// forgets the timeline) comes behind it.
    async fn note_exec(self: &Arc<Self>, container: ContainerId, closing: Vec<Op>) {
        let engine = Arc::clone(self);
        let mut noting = Box::pin(async move {
            if let Err(error) = engine.commit_soon(closing).await {
                tracing::error!(%container, %error, "an exec's intent stays open; the reconciler will close it");
            }
        });
        if futures::poll!(&mut noting).is_pending() {
            self.deps.tracker.spawn(noting);
        }
    }

    async fn exec_failed(&self, open: &mut Open, error: &Error) {
        if let Err(second) = self.undo_exec(open, error).await {
            tracing::error!(container = open.subject(), error = %second, "an exec could not be taken back; the reconciler will");
        }
    }

    /// Takes an exec back that was not started.
    pub(crate) async fn undo_exec(&self, open: &mut Open, reason: &Error) -> Result<()> {
        let arguments: ExecArguments = open.arguments()?;
        let (scope, container) = (open.scope.clone(), ContainerId::new(open.subject())?);
        self.journal.turn_back(open, reason).await?;
        let Some(task) = self.task(&scope, &container).await? else {
            return self.commit_soon(vec![self.journal.forgotten(open)]).await.map(drop);
        };
        let exec = ExecId::new(&arguments.exec)?;
        if let Err(error) = task.delete(Some(&exec)).await
            && !error.is_not_found()
        {
            // It ran after all: the crash came between its start and our note of it.
            tracing::warn!(container = %container, %exec, %error, "an exec that was left open runs on");
        }
        let closing = self.journal.closing(open, &format!("undone: {reason}")).await?;
        self.commit_soon(closing).await.map(drop)
    }

    async fn exec_process(&self, found: &Found, pid: u32, request: &ExecRequest) -> Result<Any> {
        let bytes = found.record.spec.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let spec: Spec = serde_json::from_slice(bytes).map_err(|error| {
            Error::new(Fault::Corrupt, "the stored spec").on(Kind::Container, &found.id).caused_by(error)
        })?;
        let user = if request.user.is_empty() {
            None
        } else {
            Some(crate::user::resolve_running(pid, &request.user, &[]).await?)
        };
        let options = ExecOptions {
            args: request.command.clone(),
            env: request.env.clone(),
            user,
            cwd: (!request.working_dir.is_empty()).then(|| request.working_dir.clone()),
            terminal: request.terminal,
            console_size: crate::create::console(request.console_columns, request.console_rows),
            privileged: request.privileged,
        };
        let process = exec_process(&spec, &options)?;
        let failed = |error| Error::internal("process as JSON").caused_by(error);
        let mut process = serde_json::to_value(&process).map_err(failed)?;
        crate::create::keep_own_capabilities(&mut process);
        let value = serde_json::to_vec(&process).map_err(failed)?;
        Ok(Any { type_url: PROCESS_TYPE.into(), value })
    }

    /// Waits for the end of an exec and forgets it.
    ///
    /// # Cancel safety
    /// Asked again, it waits again.
    pub async fn exec_wait(self: &Arc<Self>, scope: &Scope, request: ExecWaitRequest) -> Result<WaitResponse> {
        let found = self.find(scope, &request.container).await?;
        let exec = ExecId::new(&request.exec)?;
        let unknown = || Error::not_found(Kind::Exec, &request.exec);
        let ended = |end: crated_core::Exit| WaitResponse {
            status: end.status,
            exited_at: Some(end.at.into()),
            ..WaitResponse::default()
        };
        let task = self.task(scope, &found.id).await?.ok_or_else(unknown)?;
        let exit = match task.wait(Some(&exec)).await {
            Ok(exit) => exit,
            Err(error) => return self.exec_end(&found.id, &exec).map(ended).ok_or(error),
        };
        if exec.as_str().starts_with(AT_ONCE) {
            return Ok(ended(exit)); // the watcher forgets it
        }
        match task.delete(Some(&exec)).await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(container = %found.id, %exec, %error, "an ended exec was not forgotten");
            }
            _ => {}
        }
        Ok(ended(exit))
    }

    /// Remembers how an exec ended that is being forgotten.
    pub(crate) fn note_exec_end(&self, id: &ContainerId, exec: &ExecId, end: crated_core::Exit) {
        let mut ends = self.exec_ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() >= ENDS {
            ends.pop_front();
        }
        ends.push_back(((id.clone(), exec.clone()), end));
    }

    fn exec_end(&self, id: &ContainerId, exec: &ExecId) -> Option<crated_core::Exit> {
        let ends = self.exec_ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter().rev().find(|((container, known), _)| container == id && known == exec).map(|(_, end)| end.clone())
    }

    /// Sets the size of the terminal of a container or of an exec.
    pub async fn resize(self: &Arc<Self>, scope: &Scope, request: ResizeRequest) -> Result<()> {
        let found = self.find(scope, &request.container).await?;
        let task = self.task(scope, &found.id).await?.ok_or_else(|| crate::engine::not_running(found.id.as_str()))?;
        let exec = if request.exec.is_empty() { None } else { Some(ExecId::new(&request.exec)?) };
        task.resize(exec.as_ref(), request.columns, request.rows).await
    }
}

fn exec_stdio(request: &ExecRequest) -> Stdio {
    if request.detach {
        return Stdio { terminal: request.terminal, ..Stdio::default() };
    }
    let mut address = format!("crated://?stdin={}", if request.stdin { "once" } else { "none" });
    if request.attach {
        address.push_str(HOLD);
    }
    Stdio {
        stdin: if request.stdin { address.clone() } else { String::new() },
        stderr: if request.terminal { String::new() } else { address.clone() },
        stdout: address,
        terminal: request.terminal,
    }
}

fn exec_answer(found: &Found, task: &dyn Task, id: &ExecId, pid: u32) -> ExecResponse {
    ExecResponse { id: id.to_string(), container_id: found.id.to_string(), attach_socket: attach_socket(task), pid }
}
