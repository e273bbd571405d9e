//! The manager: makes tasks, finds them, ends them, and notices when a shim dies.

use crate::bundle::{self, Bundle};
use crate::burial::bury_on;
use crate::config::Config;
use crate::exits;
use crate::foreign;
use crate::own::{self, Images};
use crate::runtime;
use crate::settle::{Making, Settling};
use crate::shim::Shim;
use crate::task::{self, Running};
use async_trait::async_trait;
use crated_api::containerd::task::v2 as api;
use crated_core::metadata::{MetadataStore, Op, Revision};
use crated_core::record::{Event, ExitRecord, TASKS, TaskRecord};
use crated_core::task::{CreateTask, Exit, Restored, Task, TaskManager};
use crated_types::{ContainerId, Error, Fault, Kind, Namespace, Result, Scope};
use prost::Message;
use prost_types::Any;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio_util::task::TaskTracker;

/// Starts shims and finds them again.
#[derive(Debug)]
pub struct Manager {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) type Key = (Namespace, ContainerId);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn MetadataStore>,
    pub(crate) tracker: TaskTracker,
    pub(crate) boot_id: String,
    pub(crate) tasks: RwLock<BTreeMap<Key, Arc<Running>>>,
    pub(crate) settling: Settling,
    pub(crate) making: Making,
    images: Images,
}

impl Manager {
    /// Makes the folders. `tracker` owns the changes that go on when a caller leaves.
    ///
    /// # Errors
    /// [`Fault::Os`] and its kin where a folder cannot be made.
    pub fn open(config: Config, store: Arc<dyn MetadataStore>, tracker: TaskTracker) -> Result<Arc<Self>> {
        bundle::prepare(&config.root, &config.state)?;
        let boot_id = match &config.boot_id {
            Some(boot_id) => boot_id.clone(),
            None => crated_core::boot::id()?,
        };
        let inner = Inner {
            config,
            store,
            tracker,
            boot_id,
            tasks: RwLock::default(),
            settling: Settling::default(),
            making: Making::default(),
            images: Images::default(),
        };
        Ok(Arc::new(Self { inner: Arc::new(inner) }))
    }
}

#[async_trait]
impl TaskManager for Manager {
    async fn create(&self, scope: &Scope, request: CreateTask) -> Result<Arc<dyn Task>> {
        let (inner, scope) = (self.inner.clone(), scope.clone());
        let change = async move { inner.create(&scope, request).await };
        self.inner
            .tracker
            .spawn(change)
            .await
            .map_err(|error| Error::internal(format!("create task: {error}")))?
            .map(|task| task as Arc<dyn Task>)
    }

    async fn get(&self, scope: &Scope, id: &ContainerId) -> Result<Arc<dyn Task>> {
        self.inner.settled(&scope.namespace, id).await;
        if let Ok(task) = self.inner.find(&scope.namespace, id) {
            return Ok(task);
        }
        if let Some(_making) = self.inner.making.begin((scope.namespace.clone(), id.clone())) {
            self.inner.clear(&scope.namespace, id).await?;
        }
        self.inner.find(&scope.namespace, id).map(|task| task as Arc<dyn Task>)
    }

    async fn list(&self, scope: &Scope) -> Result<Vec<Arc<dyn Task>>> {
        Ok(self.inner.all(|namespace| *namespace == scope.namespace))
    }

    async fn all(&self) -> Result<Vec<Arc<dyn Task>>> {
        Ok(self.inner.all(|_| true))
    }

    async fn forward(&self, event: Event) -> Result<()> {
        crated_core::fail::point(format_args!("task.event{}", event.topic.replace('/', ".")))?;
        let Some(record) = exits::log(&*self.inner.store, event.clone()).await? else { return Ok(()) };
        if let (Ok(namespace), Ok(id)) = (event.namespace.parse(), record.id.parse())
            && let Ok(task) = self.inner.find(&namespace, &id)
        {
            task.change(|known| known.exit.clone_from(&record.exit));
            task.ended.send_replace(exits::of(&record));
        }
        Ok(())
    }

    async fn restore(&self) -> Result<Restored> {
        self.inner.restore().await
    }

    async fn runtime_info(&self, name: &str, options: Option<Any>) -> Result<Any> {
        let config = &self.inner.config;
        let shim = runtime::resolve(config, name, options.as_ref())?;
        let mut child = tokio::process::Command::new(&shim.program)
            .arg("-info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::os(format!("start {}", shim.program.display()), error))?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(&options.map(|any| any.encode_to_vec()).unwrap_or_default()).await;
        }
        let output = tokio::time::timeout(config.shim_timeout, child.wait_with_output())
            .await
            .map_err(|_| Error::new(Fault::TimedOut, format!("{} -info", shim.program.display())))?
            .map_err(|error| Error::os(format!("wait for {}", shim.program.display()), error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::new(
                Fault::Runtime,
                format!("{} -info: {}: {said}", shim.program.display(), output.status),
            ));
        }
        Ok(Any { type_url: "containerd.types.RuntimeInfo".into(), value: output.stdout })
    }
}

/// What the manager reads of a spec; the rest is the shim's.
#[derive(serde::Deserialize)]
struct SpecParts {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    linux: LinuxParts,
}

#[derive(Default, serde::Deserialize)]
struct LinuxParts {
    #[serde(default, rename = "cgroupsPath")]
    cgroups_path: String,
}

impl SpecParts {
    /// The container whose shim this one shares, as runc's shim groups pods.
    fn group(&self) -> Option<&str> {
        ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"]
            .iter()
            .find_map(|key| self.annotations.get(*key))
            .map(String::as_str)
    }
}

impl Inner {
    pub(crate) fn find(&self, namespace: &Namespace, id: &ContainerId) -> Result<Arc<Running>> {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        tasks.get(&(namespace.clone(), id.clone())).cloned().ok_or_else(|| {
            Error::new(Fault::NotFound, format!("task {id} not found")).on(Kind::Task, id).in_namespace(namespace)
        })
    }

    fn all(&self, wanted: impl Fn(&Namespace) -> bool) -> Vec<Arc<dyn Task>> {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        tasks
            .iter()
            .filter(|((namespace, _), _)| wanted(namespace))
            .map(|(_, task)| task.clone() as Arc<dyn Task>)
            .collect()
    }

    pub(crate) fn bundle(&self, namespace: &Namespace, id: &ContainerId) -> Bundle {
        Bundle::new(&self.config.root, &self.config.state, namespace, id)
    }

    /// Keeps a task and watches its shim.
    pub(crate) fn keep(self: &Arc<Self>, task: Running) -> Arc<Running> {
        let task = Arc::new(task);
        let key = (task.namespace.clone(), task.id.clone());
        self.tasks.write().unwrap_or_else(PoisonError::into_inner).insert(key, task.clone());
        let (watched, weak) = (task.clone(), Arc::downgrade(self));
        tokio::spawn(async move {
            watched.shim.closed().await;
            if watched.deleting.swap(true, Ordering::SeqCst) {
                return;
            }
            tracing::warn!(namespace = %watched.namespace, container = %watched.id, "shim died");
            bury_on(watched, weak).await;
        });
        task
    }

    pub(crate) fn forget(&self, namespace: &Namespace, id: &ContainerId) -> Option<Arc<Running>> {
        self.tasks.write().unwrap_or_else(PoisonError::into_inner).remove(&(namespace.clone(), id.clone()))
    }

    async fn create(self: Arc<Self>, scope: &Scope, request: CreateTask) -> Result<Arc<Running>> {
        let program = runtime::resolve(&self.config, &request.runtime, request.options.as_ref())?;
        let parts: SpecParts = serde_json::from_slice(&request.spec)
            .map_err(|error| Error::invalid("spec", format_args!("is not a runtime spec: {error}")))?;
        let bundle = self.bundle(&scope.namespace, &request.id);
        let group = parts.group().or(Some(request.sandbox.as_str()).filter(|sandbox| !sandbox.is_empty()));
        let shared = group.and_then(|group| self.find(&scope.namespace, &group.parse().ok()?).ok());
        let socket = match &shared {
            Some(task) => task.shim.socket.clone(),
            None => own::socket(&self.config, &scope.namespace, &request.id),
        };
        let record = TaskRecord {
            id: request.id.to_string(),
            bundle: bundle.path.display().to_string(),
            address: format!("unix://{}", socket.display()),
            runtime: program.program.display().to_string(),
            boot_id: self.boot_id.clone(),
            api_version: 3,
            group: group.unwrap_or_default().into(),
            cgroup: parts.linux.cgroups_path.clone(),
            created_at: Some(crated_core::time::now()),
            own: program.own,
            ..TaskRecord::default()
        };
        self.settled(&scope.namespace, &request.id).await;
        let Some(_making) = self.making.begin_soon((scope.namespace.clone(), request.id.clone())).await else {
            return Err(Error::already_exists(Kind::Task, &request.id).in_namespace(&scope.namespace));
        };
        self.clear(&scope.namespace, &request.id).await?;
        crated_core::fail::point("task.create.intent")?;
        let key = TASKS.key(scope.namespace.as_str(), request.id.as_str());
        let intent = vec![Op::Expect(key.clone(), Revision::ABSENT), TASKS.put(key, &record)];
        self.store.commit_soon(intent).await.map_err(|error| match error.fault() {
            Fault::Conflict => Error::already_exists(Kind::Task, &request.id).in_namespace(&scope.namespace),
            _ => error.at("record task"),
        })?;
        match self.make(scope, &request, &bundle, &program, record.clone(), shared).await {
            Ok(task) => Ok(task),
            Err(error) => {
                if let Err(left) = self.undo(&scope.namespace, &request.id, &record).await {
                    tracing::warn!(container = %request.id, error = %left, "undoing a failed create");
                }
                Err(error)
            }
        }
    }

    async fn make(
        self: &Arc<Self>,
        scope: &Scope,
        request: &CreateTask,
        bundle: &Bundle,
        program: &runtime::Shim,
        mut record: TaskRecord,
        shared: Option<Arc<Running>>,
    ) -> Result<Arc<Running>> {
        crated_core::fail::point("task.create.bundle")?;
        bundle.create(&request.spec, &program.program).map_err(|error| error.at("bundle"))?;
        crated_core::fail::point("task.create.shim")?;
        let shim = match shared {
            Some(task) => task.shim.clone(),
            None => self
                .start_shim(scope, request, bundle, program, &mut record)
                .await
                .map_err(|error| error.at("start shim"))?,
        };
        let create = api::CreateTaskRequest {
            id: request.id.to_string(),
            bundle: bundle.path.display().to_string(),
            rootfs: request.rootfs.iter().cloned().map(Into::into).collect(),
            terminal: request.stdio.terminal,
            stdin: request.stdio.stdin.clone(),
            stdout: request.stdio.stdout.clone(),
            stderr: request.stdio.stderr.clone(),
            options: request.options.clone(),
            ..api::CreateTaskRequest::default()
        };
        crated_core::fail::point("task.create.call")?;
        let answer: api::CreateTaskResponse =
            shim.act("Create", &create).await.map_err(|error| error.at("create task"))?;
        record.pid = answer.pid;
        crated_core::fail::point("task.create.done")?;
        Ok(self.keep(Running::new(scope.namespace.clone(), request.id.clone(), shim, record, self)))
    }

    async fn start_shim(
        &self,
        scope: &Scope,
        request: &CreateTask,
        bundle: &Bundle,
        program: &runtime::Shim,
        record: &mut TaskRecord,
    ) -> Result<Shim> {
        let names = (&scope.namespace, &request.id);
        if program.own {
            let socket = crate::shim::socket_path(&record.address)?;
            crated_core::fail::moment("task.create.bind");
            let started = own::start(&self.config, &self.images, &program.program, bundle, names, &socket)?;
            record.shim_pid = started.pid;
            reap(started);
        } else {
            let started =
                foreign::start(&self.config, &program.program, bundle, names, request.options.as_ref()).await?;
            record.address = started.address;
            record.api_version = started.version;
            // The shim chose its address: a restarted daemon must know it.
            let key = TASKS.key(scope.namespace.as_str(), request.id.as_str());
            self.store.commit_soon(vec![TASKS.put(key, record)]).await?;
            let bootstrap =
                serde_json::json!({"version": record.api_version, "address": record.address, "protocol": "ttrpc"});
            bundle.write("bootstrap.json", bootstrap.to_string().as_bytes())?;
        }
        Shim::connect(&self.config, &record.address, record.api_version).await
    }

    /// Deletes a stopped task, its shim, bundle and record; one that failed half-way can be asked for again.
    pub(crate) async fn delete(self: &Arc<Self>, namespace: &Namespace, id: &ContainerId) -> Result<Exit> {
        let task = self.find(namespace, id)?;
        let exit = self.delete_steps(namespace, id, &task).await;
        if exit.is_err() {
            task.deleting.store(false, Ordering::SeqCst);
        }
        exit
    }

    async fn delete_steps(
        self: &Arc<Self>,
        namespace: &Namespace,
        id: &ContainerId,
        task: &Arc<Running>,
    ) -> Result<Exit> {
        if task.silent.load(Ordering::SeqCst) {
            self.kill_shim(namespace, id, &task.record()).await;
            return self.bury(namespace, id, task.record(), "the shim did not answer").await;
        }
        let request = api::DeleteRequest { id: id.to_string(), exec_id: String::new() };
        let exit = match task.shim.act("Delete", &request).await {
            Ok(answer) => task::exit(answer),
            Err(error) if error.fault() == Fault::TimedOut => {
                self.kill_shim(namespace, id, &task.record()).await;
                return self.bury(namespace, id, task.record(), "the shim did not answer").await;
            }
            Err(error) if error.fault() == Fault::Unreachable => {
                return self.bury(namespace, id, task.record(), "the shim died").await;
            }
            Err(error) => return Err(error),
        };
        crated_core::fail::moment("task.delete.shutdown");
        if let Err(error) = task.shim.shutdown(id).await {
            tracing::warn!(container = %id, %error, "shim shutdown");
        }
        let alone = self.all(|_| true).iter().filter(|other| other.socket() == task.shim.socket).count() < 2;
        if alone && tokio::time::timeout(Duration::from_secs(5), task.shim.closed()).await.is_err() {
            tracing::warn!(container = %id, "the shim does not end: killing it");
            self.kill_shim(namespace, id, &task.record()).await;
        }
        if self.put_away(namespace, id, task, &exit, alone).await.is_ok() {
            return Ok(exit);
        }
        // What failed once may work at once.
        if let Err(error) = self.put_away(namespace, id, task, &exit, alone).await {
            self.put_away_later(task, &exit, alone);
            return Err(error);
        }
        Ok(exit)
    }

    /// Removes what is left of a task whose shim has told how it ended, and has ended itself. Each step can be repeated.
    async fn put_away(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        task: &Arc<Running>,
        exit: &Exit,
        alone: bool,
    ) -> Result<()> {
        crated_core::fail::point("task.delete.bundle")?;
        self.bundle(namespace, id).remove()?;
        if alone {
            self.remove_sockets(&task.record());
        }
        crated_core::fail::point("task.delete.record")?;
        let known = task.record();
        // A shim that was cut short may not have told everything: what it owes is told in its stead.
        let ended = ExitRecord { status: exit.status, at: Some(exit.at.into()), ..ExitRecord::default() };
        self.close(namespace, id, &known, ended, |record| record.started_at.is_some()).await?;
        self.forget(namespace, id);
        Ok(())
    }

    /// The same as often as it takes: nobody else would, and the task would seem to have a shim that does not answer.
    fn put_away_later(self: &Arc<Self>, task: &Arc<Running>, exit: &Exit, alone: bool) {
        let (weak, task, exit) = (Arc::downgrade(self), task.clone(), exit.clone());
        tokio::spawn(async move {
            let mut wait = Duration::from_millis(100);
            loop {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(10));
                let Some(manager) = weak.upgrade() else { return };
                let Some(_making) = manager.making.begin((task.namespace.clone(), task.id.clone())) else { continue };
                let ours = manager.find(&task.namespace, &task.id).is_ok_and(|known| Arc::ptr_eq(&known, &task));
                if !ours {
                    return;
                }
                match manager.put_away(&task.namespace, &task.id, &task, &exit, alone).await {
                    Ok(()) => return,
                    Err(error) => tracing::error!(container = %task.id, %error, "putting an ended task away"),
                }
            }
        });
    }
}

/// A pidfd that the runtime watches: it is readable once the process has ended (pidfd_open(2)).
#[expect(deprecated, reason = "deprecated for types whose descriptor may change; an OwnedFd keeps its own")]
pub(crate) fn readiness(pidfd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

/// Waits for a shim that is our child, so that it leaves no zombie.
fn reap(started: own::Started) {
    let pid = started.pid;
    tokio::spawn(async move {
        match readiness(started.pidfd) {
            Ok(pidfd) => {
                let _ = pidfd.readable().await;
                match crated_sys::pidfd::try_wait(pidfd.get_ref().as_fd()) {
                    Ok(status) => tracing::debug!(pid, ?status, "shim ended"),
                    Err(error) => tracing::warn!(pid, %error, "waiting for a shim"),
                }
            }
            Err(error) => tracing::warn!(pid, %error, "watching a shim"),
        }
    });
}
