//! After a start of the daemon: every recorded task is found again or put to rest, in parallel, each with a deadline.

use crate::bundle;
use crate::exits;
use crate::manager::{Inner, exit_event};
use crate::shim::Shim;
use crate::task::Running;
use crated_api::containerd::task::v2 as api;
use crated_core::metadata::Op;
use crated_core::record::{ExitRecord, TASKS, TaskRecord};
use crated_core::task::{ProcessStatus, Restored};
use crated_types::{ContainerId, Fault, Namespace, Result};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Shims asked at once.
const PARALLEL: usize = 64;

enum Outcome {
    Back,
    Exited,
    Undone,
}

impl Inner {
    pub(crate) async fn restore(self: &Arc<Self>) -> Result<Restored> {
        let records = TASKS.list(&*self.store, &TASKS.prefix("")).await?;
        let slots = Arc::new(Semaphore::new(PARALLEL));
        let mut asked = JoinSet::new();
        let mut known = BTreeSet::new();
        for (key, _, record) in records {
            let Some((namespace, id)) = TASKS.parts(&key) else { continue };
            let (Ok(namespace), Ok(id)) = (namespace.parse::<Namespace>(), id.parse::<ContainerId>()) else { continue };
            known.insert(PathBuf::from(&record.bundle));
            let (inner, slots) = (self.clone(), slots.clone());
            asked.spawn(async move {
                let _slot = slots.acquire().await;
                let outcome = inner.restore_one(&namespace, &id, record).await;
                (namespace, id, outcome)
            });
        }
        let mut restored = Restored::default();
        while let Some(answer) = asked.join_next().await {
            let Ok((namespace, id, outcome)) = answer else { continue };
            match outcome {
                Ok(Outcome::Back) => restored.running.push((namespace, id)),
                Ok(Outcome::Exited) => restored.exited.push((namespace, id)),
                Ok(Outcome::Undone) => restored.undone.push((namespace, id)),
                Err(error) => tracing::error!(%namespace, container = %id, %error, "restoring a task"),
            }
        }
        self.remove_orphans(&known).await;
        Ok(restored)
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
        match shim.call::<_, api::StateResponse>("State", &request).await {
            Ok(state) => self.found(namespace, id, record, shim, state).await,
            Err(error) if error.is_not_found() || error.fault() == Fault::Unreachable => {
                self.kill_shim(namespace, id, &record).await;
                self.rest(namespace, id, record, lived).await
            }
            Err(error) => {
                tracing::warn!(%namespace, container = %id, %error, "a shim answers, but not with a state: keeping the task");
                self.keep(Running::new(namespace.clone(), id.clone(), shim, record, self));
                Ok(Outcome::Back)
            }
        }
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
        if ProcessStatus::from_i32(state.status) == ProcessStatus::Stopped && record.exit.is_none() {
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

    /// Bundles and sockets without a record are what a crash left.
    async fn remove_orphans(&self, known: &BTreeSet<PathBuf>) {
        let folders = |path: PathBuf| {
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
        };
        for namespace in folders(bundle::all(&self.config.state)) {
            for path in folders(namespace.clone()) {
                if known.contains(&path) {
                    continue;
                }
                let name = |path: &PathBuf| {
                    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
                };
                let (namespace, id) = (name(&namespace).parse::<Namespace>(), name(&path).parse::<ContainerId>());
                let removed = match (namespace, id) {
                    (Ok(namespace), Ok(id)) => {
                        let program = std::fs::read_to_string(path.join("shim-binary-path")).unwrap_or_default();
                        let record = TaskRecord {
                            id: id.to_string(),
                            bundle: path.display().to_string(),
                            runtime: program,
                            ..TaskRecord::default()
                        };
                        self.undo(&namespace, &id, &record).await
                    }
                    _ => bundle::Bundle::at(&self.config.root, &path).remove(),
                };
                match removed {
                    Ok(()) => tracing::info!(bundle = %path.display(), "removed a bundle without a record"),
                    Err(error) => {
                        tracing::warn!(bundle = %path.display(), %error, "removing a bundle without a record")
                    }
                }
            }
        }
        let live: BTreeSet<PathBuf> = {
            let tasks = self.tasks.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            tasks.values().map(|task| task.shim.socket.clone()).collect()
        };
        for socket in folders(bundle::sockets(&self.config.state)) {
            let text = socket.display().to_string();
            let own = PathBuf::from(text.strip_suffix(crated_types::attach::SOCKET_SUFFIX).unwrap_or(&text));
            if !live.contains(&own) {
                let _ = std::fs::remove_file(&socket);
            }
        }
    }
}
