//! After a start of the daemon: every recorded task is found again or put to rest, in parallel, each with a deadline.
//!
//! The daemon's start waits for what ends soon. The rest goes on beside it: a task whose shim is slow to answer is kept, and
//! asked until it does; of one that is being buried or undone nobody hears before that is over ([`crate::settle`]).

use crate::bundle::{self, Bundle};
use crate::burial::exit_event;
use crate::exits;
use crate::manager::{Inner, Key};
use crate::settle::Unsettled;
use crate::shim::Shim;
use crate::task::Running;
use crated_api::containerd::task::v2 as api;
use crated_core::metadata::Op;
use crated_core::record::{ExitRecord, TASKS, TaskRecord};
use crated_core::task::{ProcessStatus, Restored, Task};
use crated_types::{ContainerId, Fault, Namespace, Result};
use futures::StreamExt;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// Shims asked at once.
const PARALLEL: usize = 64;
/// How long a shim may take to answer before its task is kept without.
const QUICK: Duration = Duration::from_millis(300);
/// How long the daemon's start waits in all …
const PATIENCE: Duration = Duration::from_secs(1);
/// … and how long after the last that came to its end: one that hangs delays nobody else.
const LULL: Duration = Duration::from_millis(200);
/// How long a shim may take to tell an exit that it knows of.
const TELLING: Duration = Duration::from_secs(3);
/// Pause between questions to a shim that does not answer.
const AGAIN: Duration = Duration::from_secs(5);

enum Outcome {
    Back,
    Exited,
    Undone,
}

/// Jobs of a restore, and what comes of them.
struct Jobs {
    turns: Arc<Semaphore>,
    told: mpsc::UnboundedSender<(Key, Result<Outcome>)>,
}

impl Inner {
    pub(crate) async fn restore(self: &Arc<Self>) -> Result<Restored> {
        let records = TASKS.list(&*self.store, &TASKS.prefix("")).await?;
        let (told, mut heard) = mpsc::unbounded_channel();
        let jobs = Jobs { turns: Arc::new(Semaphore::new(PARALLEL)), told };
        let bundles: BTreeSet<PathBuf> = records.iter().map(|(_, _, record)| record.bundle.clone().into()).collect();
        let sockets: BTreeSet<PathBuf> =
            records.iter().filter_map(|(_, _, record)| crate::shim::socket_path(&record.address).ok()).collect();
        // Looked for before anything else makes or removes some.
        let orphans = self.orphans(&bundles);
        self.remove_orphan_sockets(&sockets);
        for (key, _, record) in records {
            let Some((namespace, id)) = TASKS.parts(&key) else { continue };
            let (Ok(namespace), Ok(id)) = (namespace.parse::<Namespace>(), id.parse::<ContainerId>()) else { continue };
            let (inner, key) = (self.clone(), (namespace, id));
            let (namespace, id) = key.clone();
            self.beside(key, &jobs, async move { inner.restore_one(&namespace, &id, record).await });
        }
        for (key, record) in orphans {
            let (inner, (namespace, id)) = (self.clone(), key.clone());
            self.beside(key, &jobs, async move {
                inner.undo(&namespace, &id, &record).await?;
                tracing::info!(bundle = record.bundle, "removed a bundle without a record");
                Ok(Outcome::Undone)
            });
        }
        drop(jobs);
        let mut restored = Restored::default();
        let until = Instant::now() + PATIENCE;
        let mut quiet = until;
        loop {
            match tokio::time::timeout_at(quiet, heard.recv()).await {
                Ok(Some((key, Ok(Outcome::Back)))) => restored.running.push(key),
                Ok(Some((key, Ok(Outcome::Exited)))) => restored.exited.push(key),
                Ok(Some((key, Ok(Outcome::Undone)))) => restored.undone.push(key),
                Ok(Some((_, Err(_)))) => {} // told where it happened
                Ok(None) => break,
                Err(_) => {
                    tracing::warn!("what crashes left of some tasks is cleared away beside the start of the daemon");
                    break;
                }
            }
            quiet = until.min(Instant::now() + LULL);
        }
        Ok(restored)
    }

    /// Runs a job of the restore; until it ends, whoever asks for its task waits.
    fn beside(self: &Arc<Self>, key: Key, jobs: &Jobs, job: impl Future<Output = Result<Outcome>> + Send + 'static) {
        let unsettled = Unsettled::begin(self, key.clone());
        let (turns, told) = (jobs.turns.clone(), jobs.told.clone());
        self.tracker.spawn(async move {
            let _turn = turns.acquire().await;
            let outcome = job.await;
            drop(unsettled);
            if let Err(error) = &outcome {
                tracing::error!(namespace = %key.0, container = %key.1, %error, "restoring a task");
            }
            let _ = told.send((key, outcome)); // nobody listens any more: it took long
        });
    }

    async fn restore_one(
        self: &Arc<Self>,
        namespace: &Namespace,
        id: &ContainerId,
        record: TaskRecord,
    ) -> Result<Outcome> {
        crated_core::fail::moment("task.restore");
        if record.boot_id != self.boot_id {
            self.bury(namespace, id, record, "the host was restarted").await?;
            return Ok(Outcome::Exited);
        }
        let lived = record.last_event.is_some();
        let Ok(shim) = Shim::connect(&self.config, &record.address, record.api_version).await else {
            self.kill_shim(namespace, id, &record).await;
            return self.rest(namespace, id, record, lived).await;
        };
        let request = api::StateRequest { id: id.to_string(), exec_id: String::new() };
        let asked = tokio::time::timeout(QUICK, shim.call::<_, api::StateResponse>("State", &request)).await;
        match asked {
            Ok(Ok(state)) => self.found(namespace, id, record, shim, state).await,
            Ok(Err(error)) if error.is_not_found() || error.fault() == Fault::Unreachable => {
                self.kill_shim(namespace, id, &record).await;
                self.rest(namespace, id, record, lived).await
            }
            Ok(Err(error)) => {
                tracing::warn!(%namespace, container = %id, %error, "a shim answers, but not with a state: keeping the task");
                self.keep(Running::new(namespace.clone(), id.clone(), shim, record, self));
                Ok(Outcome::Back)
            }
            Err(_) => {
                tracing::warn!(%namespace, container = %id, "a shim does not answer at once: keeping the task, asking on");
                let task = self.keep(Running::new(namespace.clone(), id.clone(), shim, record, self));
                tokio::spawn(ask_on(Arc::downgrade(self), task));
                Ok(Outcome::Back)
            }
        }
    }

    /// What a shim said that was slow to answer.
    async fn found_late(&self, task: &Running, state: api::StateResponse) -> Result<()> {
        task.change(|record| record.pid = state.pid);
        if ProcessStatus::from_i32(state.status) != ProcessStatus::Stopped || task.record().exit.is_some() {
            return Ok(());
        }
        let mut record = task.record();
        let exit =
            ExitRecord { status: state.exit_status, at: state.exited_at, oom_killed: false, reason: String::new() };
        self.log_exit(&task.namespace, &mut record, exit).await?;
        task.ended.send_replace(exits::of(&record));
        task.change(|known| known.exit = record.exit);
        Ok(())
    }

    /// No shim: a task that lived has ended, one that did not was never made.
    async fn rest(&self, namespace: &Namespace, id: &ContainerId, record: TaskRecord, lived: bool) -> Result<Outcome> {
        if lived {
            self.bury(namespace, id, record, "the shim died while the daemon was away").await?;
            return Ok(Outcome::Exited);
        }
        self.undo(namespace, id, &record).await?;
        Ok(Outcome::Undone)
    }

    async fn found(
        self: &Arc<Self>,
        namespace: &Namespace,
        id: &ContainerId,
        mut record: TaskRecord,
        shim: Shim,
        state: api::StateResponse,
    ) -> Result<Outcome> {
        record.pid = state.pid;
        let mut outcome = Outcome::Back;
        let ended = ProcessStatus::from_i32(state.status) == ProcessStatus::Stopped;
        if ended && record.exit.is_none() && record.own && self.told_by_shim(namespace, id).await? {
            outcome = Outcome::Exited;
        } else if ended && record.exit.is_none() {
            let exit =
                ExitRecord { status: state.exit_status, at: state.exited_at, oom_killed: false, reason: String::new() };
            if self.log_exit(namespace, &mut record, exit).await? {
                outcome = Outcome::Exited;
            }
        }
        let task = self.keep(Running::new(namespace.clone(), id.clone(), shim, record, self));
        // Its exit may have been told between our question and now, when nobody knew the task.
        let key = TASKS.key(namespace.as_str(), id.as_str());
        if let Some((_, stored)) = TASKS.get(&*self.store, &key).await?
            && stored.exit.is_some()
        {
            task.ended.send_replace(exits::of(&stored));
            task.change(|known| known.exit = stored.exit);
        }
        Ok(outcome)
    }

    /// Waits for a shim of ours to tell the exit itself, behind what else it has to tell: then all comes in order.
    async fn told_by_shim(&self, namespace: &Namespace, id: &ContainerId) -> Result<bool> {
        let key = TASKS.key(namespace.as_str(), id.as_str());
        let mut commits = self.store.watch();
        let until = Instant::now() + TELLING;
        loop {
            match TASKS.get(&*self.store, &key).await? {
                Some((_, record)) if record.exit.is_none() => {}
                stored => return Ok(stored.is_some()),
            }
            match tokio::time::timeout_at(until, commits.next()).await {
                Ok(Some(_)) => {}
                _ => return Ok(false),
            }
        }
    }

    /// Logs an exit that happened while the daemon was away, unless the shim was quicker.
    async fn log_exit(&self, namespace: &Namespace, record: &mut TaskRecord, exit: ExitRecord) -> Result<bool> {
        let key = TASKS.key(namespace.as_str(), &record.id);
        loop {
            let Some((revision, mut stored)) = TASKS.get(&*self.store, &key).await? else { return Ok(false) };
            if stored.exit.is_some() {
                record.exit = stored.exit;
                return Ok(false);
            }
            stored.exit = Some(exit.clone());
            stored.pid = record.pid;
            record.exit.clone_from(&stored.exit);
            let event = exit_event(namespace, &stored, "the daemon was away");
            match self
                .store
                .commit(vec![Op::Expect(key.clone(), revision), TASKS.put(key.clone(), &stored), event])
                .await
            {
                Ok(_) => return Ok(true),
                Err(error) if error.fault() == Fault::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bundles without a record are what a crash left: as records of tasks that are to be undone. Those that were on their
    /// way out go at once.
    fn orphans(&self, known: &BTreeSet<PathBuf>) -> Vec<(Key, TaskRecord)> {
        let mut orphans = Vec::new();
        for folder in entries(&bundle::all(&self.config.state)) {
            for path in entries(&folder) {
                if known.contains(&path) {
                    continue;
                }
                let (Ok(namespace), Ok(id)) = (name(&folder).parse::<Namespace>(), name(&path).parse::<ContainerId>())
                else {
                    if let Err(error) = Bundle::at(&self.config.root, &path).remove() {
                        tracing::warn!(bundle = %path.display(), %error, "removing what is left of a bundle");
                    }
                    continue;
                };
                let record = TaskRecord {
                    id: id.to_string(),
                    bundle: path.display().to_string(),
                    runtime: std::fs::read_to_string(path.join("shim-binary-path")).unwrap_or_default(),
                    ..TaskRecord::default()
                };
                orphans.push(((namespace, id), record));
            }
        }
        orphans
    }

    fn remove_orphan_sockets(&self, known: &BTreeSet<PathBuf>) {
        for socket in entries(&bundle::sockets(&self.config.state)) {
            let text = socket.display().to_string();
            let own = PathBuf::from(text.strip_suffix(crated_types::attach::SOCKET_SUFFIX).unwrap_or(&text));
            if !known.contains(&own) {
                let _ = std::fs::remove_file(&socket);
            }
        }
    }
}

/// Asks a shim for its task's state until it answers, or is gone.
async fn ask_on(manager: Weak<Inner>, task: Arc<Running>) {
    let request = api::StateRequest { id: task.id.to_string(), exec_id: String::new() };
    while !task.deleting.load(Ordering::SeqCst) {
        let asked = tokio::select! {
            () = task.shim.closed() => return, // who watches the shim buries the task
            asked = task.shim.call::<_, api::StateResponse>("State", &request) => asked,
        };
        let Some(manager) = manager.upgrade() else { return };
        match asked {
            Ok(state) => {
                tracing::info!(namespace = %task.namespace, container = %task.id, "a shim that did not answer does again");
                if let Err(error) = manager.found_late(&task, state).await {
                    tracing::error!(container = %task.id, %error, "the state of a task that was slow to tell it");
                }
                return;
            }
            Err(error) if error.fault() == Fault::TimedOut => {}
            Err(error) => {
                tracing::warn!(container = %task.id, %error, "a shim that does not know its task is ended");
                return manager.kill_shim(&task.namespace, &task.id, &task.record()).await;
            }
        }
        drop(manager);
        tokio::time::sleep(AGAIN).await;
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
