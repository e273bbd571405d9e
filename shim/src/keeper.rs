//! The owner of all containers of a shim: every call, exit and signal comes through its mailbox, one after the other.
//!
//! What it does itself does not wait, but for the runtime, which is blocking: creating and starting take milliseconds. What
//! waits (an exit, output that is not taken yet) is answered by a task of its own.

mod exits;

use crate::args::Args;
use crate::container::Container;
use crate::events::Events;
use crate::exit::Exit;
use crate::io::attach::Switchboard;
use crate::io::{Addresses, Io, Subject};
use crate::process::{Action, State};
use crate::runtime::{Create, Runtime};
use crate::serve::Owner;
use crate::time::timestamp;
use crate::{log, spec, stats};
use bytes::Bytes;
use crated_api::containerd::events as event;
use crated_api::containerd::runc::v1::{Options, ProcessDetails};
use crated_api::containerd::task::v3 as api;
use crated_api::containerd::v1::types::{ProcessInfo, Status};
use crated_oci::RuntimeOptions;
use crated_ttrpc::server::{decode, encode, unknown_method};
use crated_types::{Code, Error, Fault, Kind, Mount, Result};
use prost::Message;
use prost_types::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

/// How long `Delete` waits for output to be taken.
const DRAIN: Duration = Duration::from_secs(10);
/// How long init's exit is held back for the exits of execs.
const OVERDUE: Duration = Duration::from_secs(10);

/// Where an answer goes.
type Reply = oneshot::Sender<Result<Bytes>>;

/// What the keeper is told.
#[derive(Debug)]
pub(crate) enum Op {
    /// A call of the task service.
    Call { method: String, payload: Bytes, reply: Reply },
    /// A container's memory was short.
    Oom { id: String },
    /// Execs of a container that has ended were not seen to end.
    Overdue { id: String },
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    End,
}

/// All containers, and what they share.
#[derive(Debug)]
pub(crate) struct Keeper {
    namespace: String,
    owner: Owner,
    runtime: Runtime,
    containers: BTreeMap<String, Container>,
    events: Events,
    switchboard: Rc<Switchboard>,
    mailbox: mpsc::Sender<Op>,
}

impl Keeper {
    /// A keeper of nothing yet.
    pub(crate) fn new(
        args: &Args,
        owner: Owner,
        events: Events,
        switchboard: Rc<Switchboard>,
        mailbox: mpsc::Sender<Op>,
    ) -> Result<Self> {
        let (namespace, runtime) = (args.namespace.clone(), Runtime::new(owner)?);
        Ok(Self { namespace, owner, runtime, containers: BTreeMap::new(), events, switchboard, mailbox })
    }

    /// Whether containers are left.
    pub(crate) fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }

    /// Acts on one message.
    pub(crate) fn handle(&mut self, op: Op) -> Next {
        match op {
            Op::Call { method, payload, reply } => return self.call(&method, payload, reply),
            Op::Oom { id } => self.oom(&id),
            Op::Overdue { id } => {
                if self.containers.get(&id).is_some_and(|container| container.pending.is_some()) {
                    log::warn(format_args!("{id}: execs were not seen to end"));
                    self.finish_init(&id);
                }
            }
        }
        Next::GoOn
    }

    fn call(&mut self, method: &str, payload: Bytes, reply: Reply) -> Next {
        log::debug(format_args!("call {method}"));
        let answer = match method {
            "Wait" => return self.wait(payload, reply),
            "Delete" => return self.delete(payload, reply),
            "Shutdown" => {
                let _ = reply.send(Ok(Bytes::new()));
                return if self.is_empty() { Next::End } else { Next::GoOn };
            }
            "State" => decode(payload).and_then(|request| self.state(&request)).map(|message| encode(&message)),
            "Create" => decode(payload).and_then(|request| self.create(request)).map(|message| encode(&message)),
            "Start" => decode(payload).and_then(|request| self.start(&request)).map(|message| encode(&message)),
            "Pids" => decode(payload).and_then(|request| self.pids(&request)).map(|message| encode(&message)),
            "Stats" => decode(payload).and_then(|request| self.stats(&request)).map(|message| encode(&message)),
            "Connect" => decode(payload).map(|request| encode(&self.connect(&request))),
            "Exec" => decode(payload).and_then(|request| self.exec(request)).map(|()| Bytes::new()),
            "Kill" => decode(payload).and_then(|request| self.kill(&request)).map(|()| Bytes::new()),
            "Pause" => decode(payload).and_then(|request| self.pause(&request)).map(|()| Bytes::new()),
            "Resume" => decode(payload).and_then(|request| self.resume(&request)).map(|()| Bytes::new()),
            "Update" => decode(payload).and_then(|request| self.update(&request)).map(|()| Bytes::new()),
            "Checkpoint" => decode(payload).and_then(|request| self.checkpoint(&request)).map(|()| Bytes::new()),
            "ResizePty" => decode(payload).and_then(|request| self.resize(&request)).map(|()| Bytes::new()),
            "CloseIO" => decode(payload).and_then(|request| self.close_io(&request)).map(|()| Bytes::new()),
            _ => Err(unknown_method(method)),
        };
        if let Err(error) = &answer {
            log::debug(format_args!("call {method}: {error:?}"));
        }
        // A caller may have gone.
        let _ = reply.send(answer);
        Next::GoOn
    }

    fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| Error::new(Fault::NotFound, "container not created"))
    }

    fn create(&mut self, request: api::CreateTaskRequest) -> Result<api::CreateTaskResponse> {
        let id = request.id.clone();
        if !crated_types::name::is_identifier(&id) {
            return Err(Error::invalid("id", format_args!("{id:?} is no identifier")));
        }
        if self.containers.contains_key(&id) {
            return Err(Error::already_exists(Kind::Task, &id));
        }
        if !request.checkpoint.is_empty() {
            return Err(Error::new(Fault::Unsupported, "restoring from a checkpoint is not offered"));
        }
        let bundle = PathBuf::from(&request.bundle);
        let spec = spec::load(&bundle)?;
        Exit::forget(&bundle);
        let options = options(request.options.as_ref())?;
        let addresses = Addresses {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let subject = Subject { namespace: &self.namespace, container: &id, exec: "" };
        let (io, stdio) = Io::prepare(&addresses, subject, &self.switchboard)?;
        let rootfs: Vec<Mount> = request.rootfs.iter().map(mount).collect();
        crate::fail::point("shim.create.runtime")?;
        let handle = self.runtime.create(Create { id: &id, bundle: &bundle, spec: &spec, rootfs, stdio, options })?;
        let own_pids = spec::has_own_pids(&spec);
        let container = Container::new(&id, bundle, handle, (addresses.clone(), io), own_pids)?;
        let pid = container.init.pid;
        crate::fail::moment("shim.create.pid");
        save_pid(&container.bundle, "init", pid);
        self.watch_memory(&container);
        self.containers.insert(id.clone(), container);
        let created = event::TaskCreate {
            container_id: id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(event::TaskIo {
                stdin: addresses.stdin,
                stdout: addresses.stdout,
                stderr: addresses.stderr,
                terminal: addresses.terminal,
            }),
            checkpoint: String::new(),
            pid,
        };
        crate::fail::moment("shim.create.publish");
        self.events.publish("/tasks/create", "containerd.events.TaskCreate", &created);
        Ok(api::CreateTaskResponse { pid })
    }

    fn start(&mut self, request: &api::StartRequest) -> Result<api::StartResponse> {
        let Some(container) = self.containers.get_mut(&request.id) else {
            return self.container(&request.id).map(|_| api::StartResponse::default());
        };
        let container_id = request.id.clone();
        if request.exec_id.is_empty() {
            crate::fail::point("shim.start.gate")?;
            let pid = container.start(&self.runtime)?;
            crate::fail::moment("shim.start.publish");
            let started = event::TaskStart { container_id, pid };
            self.events.publish("/tasks/start", "containerd.events.TaskStart", &started);
            return Ok(api::StartResponse { pid });
        }
        crate::fail::point("shim.exec.start")?;
        let pid = container.start_exec(&request.exec_id, &self.runtime)?;
        crate::fail::moment("shim.exec.publish");
        save_pid(&container.bundle, &request.exec_id, pid);
        let started = event::TaskExecStarted { container_id, exec_id: request.exec_id.clone(), pid };
        self.events.publish("/tasks/exec-started", "containerd.events.TaskExecStarted", &started);
        Ok(api::StartResponse { pid })
    }

    fn exec(&mut self, request: api::ExecProcessRequest) -> Result<()> {
        if !crated_types::name::is_identifier(&request.exec_id) {
            return Err(Error::invalid("exec_id", format_args!("{:?} is no identifier", request.exec_id)));
        }
        let switchboard = Rc::clone(&self.switchboard);
        let namespace = self.namespace.clone();
        let container = self.container(&request.id)?;
        container.check_exec(&request.exec_id)?;
        crate::fail::point("shim.exec.add")?;
        let text = request.spec.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let spec = serde_json::from_slice(text).map_err(|error| Error::invalid("spec", error))?;
        let addresses = Addresses {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let subject = Subject { namespace: &namespace, container: &request.id, exec: &request.exec_id };
        let streams = Io::prepare(&addresses, subject, &switchboard)?;
        container.add_exec(&request.exec_id, spec, addresses, streams);
        let added = event::TaskExecAdded { container_id: request.id, exec_id: request.exec_id };
        self.events.publish("/tasks/exec-added", "containerd.events.TaskExecAdded", &added);
        Ok(())
    }

    fn state(&mut self, request: &api::StateRequest) -> Result<api::StateResponse> {
        let container = self.container(&request.id)?;
        let bundle = container.bundle.to_string_lossy().into_owned();
        let process = container.process(&request.exec_id)?;
        let status = match process.state {
            State::Created => Status::Created,
            State::Running => Status::Running,
            State::Paused => Status::Paused,
            State::Stopped => Status::Stopped,
        };
        let addresses = process.addresses.clone();
        Ok(api::StateResponse {
            id: request.id.clone(),
            bundle,
            pid: process.pid,
            status: status.into(),
            stdin: addresses.stdin,
            stdout: addresses.stdout,
            stderr: addresses.stderr,
            terminal: addresses.terminal,
            exit_status: process.exit.map_or(0, |exit| exit.status),
            exited_at: process.exit.map(|exit| timestamp(exit.at)),
            exec_id: request.exec_id.clone(),
        })
    }

    fn wait(&mut self, payload: Bytes, reply: Reply) -> Next {
        let found = decode::<api::WaitRequest>(payload).and_then(|request| {
            let (waiter, exit) = oneshot::channel();
            self.container(&request.id)?.process(&request.exec_id)?.wait(waiter);
            Ok(exit)
        });
        match found {
            Err(error) => drop(reply.send(Err(error))),
            Ok(exit) => drop(spawn_local(async move {
                let mut reply = reply;
                let answer = tokio::select! {
                    exit = exit => exit,
                    () = reply.closed() => return,
                };
                let deleted = || Error::new(Fault::NotFound, "process was deleted before it ended");
                let answer = answer.map_err(|_| deleted()).map(|exit| {
                    encode(&api::WaitResponse { exit_status: exit.status, exited_at: Some(timestamp(exit.at)) })
                });
                let _ = reply.send(answer);
            })),
        }
        Next::GoOn
    }

    fn delete(&mut self, payload: Bytes, reply: Reply) -> Next {
        let removed = decode::<api::DeleteRequest>(payload).and_then(|request| {
            if request.exec_id.is_empty() { self.remove(&request.id) } else { self.remove_exec(&request) }
        });
        match removed {
            Err(error) => drop(reply.send(Err(error))),
            Ok((response, io, event)) => {
                let events = self.events.clone();
                spawn_local(async move {
                    if let Some(io) = &io
                        && tokio::time::timeout(DRAIN, io.drained()).await.is_err()
                    {
                        log::warn(format_args!("output of pid {} was not taken within {DRAIN:?}", response.pid));
                    }
                    drop(io);
                    if let Some(event) = event {
                        events.publish("/tasks/delete", "containerd.events.TaskDelete", &event);
                    }
                    let _ = reply.send(Ok(encode(&response)));
                });
            }
        }
        Next::GoOn
    }

    fn remove(&mut self, id: &str) -> Result<(api::DeleteResponse, Option<Io>, Option<event::TaskDelete>)> {
        let container = self.container(id)?;
        if container.pending.is_some() {
            return State::Running.allows(Action::Delete).map(|()| Default::default());
        }
        container.init.state.allows(Action::Delete)?;
        crate::fail::point("shim.delete.destroy")?;
        container.destroy()?;
        crate::fail::moment("shim.delete.answer");
        if container.init.exit.is_none() {
            // Never started: it was killed just now.
            container.pending = Some(Exit { status: 137, at: SystemTime::now(), oom_killed: false });
            self.finish_init(id);
        }
        let Some(mut container) = self.containers.remove(id) else { return Ok(Default::default()) };
        let (pid, exit) = (container.init.pid, container.init.exit);
        let response = api::DeleteResponse {
            pid,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| timestamp(exit.at)),
        };
        let event = event::TaskDelete {
            container_id: id.into(),
            pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at,
            id: String::new(),
        };
        Ok((response, container.init.io.take(), Some(event)))
    }

    fn remove_exec(
        &mut self,
        request: &api::DeleteRequest,
    ) -> Result<(api::DeleteResponse, Option<Io>, Option<event::TaskDelete>)> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        process.state.allows(Action::Delete)?;
        let response = api::DeleteResponse {
            pid: process.pid,
            exit_status: process.exit.map_or(0, |exit| exit.status),
            exited_at: process.exit.map(|exit| timestamp(exit.at)),
        };
        let io = process.io.take();
        container.execs.remove(&request.exec_id);
        let _ = std::fs::remove_file(container.bundle.join(format!("{}.pid", request.exec_id)));
        Ok((response, io, None))
    }

    fn kill(&mut self, request: &api::KillRequest) -> Result<()> {
        let signal = i32::try_from(request.signal).map_err(|_| Error::invalid("signal", request.signal))?;
        self.container(&request.id)?.kill(&request.exec_id, signal, request.all)
    }

    fn pause(&mut self, request: &api::PauseRequest) -> Result<()> {
        self.container(&request.id)?.pause()?;
        let paused = event::TaskPaused { container_id: request.id.clone() };
        self.events.publish("/tasks/paused", "containerd.events.TaskPaused", &paused);
        Ok(())
    }

    fn resume(&mut self, request: &api::ResumeRequest) -> Result<()> {
        self.container(&request.id)?.resume()?;
        let resumed = event::TaskResumed { container_id: request.id.clone() };
        self.events.publish("/tasks/resumed", "containerd.events.TaskResumed", &resumed);
        Ok(())
    }

    fn update(&mut self, request: &api::UpdateTaskRequest) -> Result<()> {
        let text = request.resources.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let resources = serde_json::from_slice(text).map_err(|error| Error::invalid("resources", error))?;
        self.container(&request.id)?.update(&resources)
    }

    fn checkpoint(&mut self, request: &api::CheckpointTaskRequest) -> Result<()> {
        self.container(&request.id)?.init.state.allows(Action::Checkpoint)?;
        Err(Error::peer(Code::Unimplemented, "checkpoints are not offered by this runtime"))
    }

    fn resize(&mut self, request: &api::ResizePtyRequest) -> Result<()> {
        let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        match &process.io {
            Some(io) => io.resize(size(request.width), size(request.height)),
            None => Ok(()),
        }
    }

    fn close_io(&mut self, request: &api::CloseIoRequest) -> Result<()> {
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        if let Some(io) = process.io.as_mut().filter(|_| request.stdin) {
            io.close_stdin();
        }
        Ok(())
    }

    fn pids(&mut self, request: &api::PidsRequest) -> Result<api::PidsResponse> {
        let info = |exec: Option<&str>| {
            let details = ProcessDetails { exec_id: exec?.to_owned() };
            Some(Any { type_url: "containerd.runc.v1.ProcessDetails".into(), value: details.encode_to_vec() })
        };
        let processes = self.container(&request.id)?.pids()?;
        let processes = processes.into_iter().map(|(pid, exec)| ProcessInfo { pid, info: info(exec) }).collect();
        Ok(api::PidsResponse { processes })
    }

    fn stats(&mut self, request: &api::StatsRequest) -> Result<api::StatsResponse> {
        let metrics = self.container(&request.id)?.stats()?;
        Ok(api::StatsResponse { stats: Some(stats::pack(&metrics)) })
    }

    fn connect(&self, request: &api::ConnectRequest) -> api::ConnectResponse {
        let task_pid = self.containers.get(&request.id).map_or(0, |container| container.init.pid);
        api::ConnectResponse { shim_pid: std::process::id(), task_pid, version: String::new() }
    }
}

fn options(any: Option<&Any>) -> Result<RuntimeOptions> {
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(RuntimeOptions::default()) };
    match any.type_url.rsplit('/').next() {
        Some("containerd.runc.v1.Options") => {
            let options = Options::decode(any.value.as_slice()).map_err(|error| Error::invalid("options", error))?;
            Ok(RuntimeOptions {
                no_pivot_root: options.no_pivot_root,
                no_new_keyring: options.no_new_keyring,
                systemd_cgroup: options.systemd_cgroup,
                ..RuntimeOptions::default()
            })
        }
        // What the CRI hands to any runtime; nothing in it is for us.
        Some("runtimeoptions.v1.Options") => Ok(RuntimeOptions::default()),
        _ => Err(Error::invalid("options", format_args!("type {:?} is not understood", any.type_url))),
    }
}

fn mount(mount: &crated_api::containerd::types::Mount) -> Mount {
    Mount {
        fstype: mount.r#type.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

/// `init.pid` and `<exec>.pid` in the bundle, for people and for `delete`.
fn save_pid(bundle: &Path, name: &str, pid: u32) {
    let path = bundle.join(format!("{name}.pid"));
    if let Err(error) = std::fs::write(&path, pid.to_string()) {
        log::warn(format_args!("{} is not written: {error}", path.display()));
    }
}
