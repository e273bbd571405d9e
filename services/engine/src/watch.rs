//! The watcher: follows the event log and draws the conclusions of exits, each once: the life's end, the shim's, a restart, a removal.
//!
//! An exit counts where the life says that this process runs; once written down, a second telling of it finds nothing to do.
//! So the cursor that is kept may lag behind.

use crated_api::containerd::events::{ContainerDelete, TaskExit, TaskOom, TaskPaused, TaskResumed};
use crated_core::network::Change;
use crated_core::{Cursor, LoggedEvent, ProcessStatus, Revision, Task};
use crated_types::{Actor, ContainerId, Error, ExecId, Fault, Namespace, Result, Scope};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use prost::Message;
use prost_types::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::Engine;
use crate::exec::AT_ONCE;
use crate::journal::{Kinds, Trace};
use crate::network::plug::kept;
use crate::record::{Desired, Life, WATCH, WatchRecord};
use crate::restart::{Ended, Policy};
use crate::slots::LastExit;
use crate::start::How;

/// Events after which the watcher's place is written down.
const KEEP_EVERY: u32 = 64;

/// An exit of a container's init, from wherever it became known.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) pid: u32,
    pub(crate) status: u32,
    pub(crate) at: Timestamp,
    pub(crate) oom_killed: bool,
    /// Why, where it did not end by itself.
    pub(crate) reason: String,
}

/// Events that are being handled, each with the place before it.
#[derive(Debug, Default)]
struct Places {
    open: BTreeMap<Cursor, Cursor>,
    newest: Cursor,
}

impl Places {
    fn begin(&mut self, cursor: Cursor) {
        self.open.insert(cursor, self.newest);
        self.newest = cursor;
    }

    /// The place up to which everything is done.
    fn done(&self) -> Cursor {
        self.open.first_key_value().map_or(self.newest, |(_, before)| *before)
    }
}

impl Engine {
    /// Where the watcher begins: what was kept, else now. Read before the first sweep, so that nothing falls between.
    pub(crate) async fn watch_from(&self) -> Result<(Cursor, Option<WatchRecord>)> {
        let now = Cursor { revision: self.deps.metadata.revision(), index: u32::MAX };
        let kept = WATCH.get(&*self.deps.metadata, &WATCH.key("", "cursor")).await?.map(|(_, record)| record);
        let from =
            kept.as_ref().map_or(now, |record| Cursor { revision: Revision(record.revision), index: record.index });
        Ok((from.min(now), kept))
    }

    /// Follows the log behind `after` until the engine is closed.
    pub(crate) fn watch(self: &Arc<Self>, after: Cursor) {
        let engine = Arc::clone(self);
        self.deps.tracker.spawn(async move {
            let places = Arc::new(Mutex::new(Places { newest: after, ..Places::default() }));
            let mut after = after;
            loop {
                let ended = engine.follow(after, &places).await;
                let place = lock(&places).done();
                engine.keep_place(place).await;
                let Err(error) = ended else { return };
                tracing::warn!(%error, "the event log could not be followed; states are compared instead");
                after = Cursor { revision: engine.deps.metadata.revision(), index: u32::MAX };
                lock(&places).newest = after;
                engine.sweep(&mut crate::reconcile::Reconciled::default()).await;
                tokio::select! {
                    () = engine.closing.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        });
    }

    async fn follow(self: &Arc<Self>, after: Cursor, places: &Arc<Mutex<Places>>) -> Result<()> {
        let mut events = self.deps.events.subscribe(Some(after));
        let mut since_kept = 0;
        loop {
            let logged = tokio::select! {
                () = self.closing.cancelled() => return Ok(()),
                next = events.next() => match next {
                    Some(logged) => logged?,
                    None => return Err(Error::new(Fault::Unreachable, "the event log ended")),
                },
            };
            let cursor = logged.cursor;
            lock(places).begin(cursor);
            match self.conclusion(logged.clone()) {
                Ok(Some(work)) => {
                    let (engine, places) = (Arc::clone(self), Arc::clone(places));
                    self.deps.tracker.spawn(async move {
                        if engine.act(work, logged).await {
                            lock(&places).open.remove(&cursor);
                        }
                    });
                }
                Ok(None) => drop(lock(places).open.remove(&cursor)),
                Err(error) => {
                    tracing::warn!(%error, %cursor, "an event could not be read");
                    lock(places).open.remove(&cursor);
                }
            }
            since_kept += 1;
            if since_kept >= KEEP_EVERY {
                since_kept = 0;
                let place = lock(places).done();
                self.keep_place(place).await;
            }
        }
    }

    /// Acts upon an event, and again after a while where that failed for now (a full disk, a peer that is away): nobody else
    /// would. Answers whether it is done with; a closing engine leaves the event to the next.
    async fn act(self: Arc<Self>, mut work: BoxFuture<'static, Result<()>>, logged: LoggedEvent) -> bool {
        let mut pause = Duration::from_millis(100);
        loop {
            let Err(error) = work.await else { return true };
            tracing::error!(%error, cursor = %logged.cursor, "an event could not be acted upon");
            let passing = [Fault::DiskFull, Fault::Exhausted, Fault::Os, Fault::TimedOut, Fault::Unreachable];
            if !passing.contains(&error.fault()) {
                return true;
            }
            tokio::select! {
                () = self.closing.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(10));
            match self.conclusion(logged.clone()) {
                Ok(Some(again)) => work = again,
                _ => return true,
            }
        }
    }

    pub(crate) async fn keep_place(&self, place: Cursor) {
        let record =
            WatchRecord { revision: place.revision.0, index: place.index, boot_id: self.journal.boot_id().to_owned() };
        if let Err(error) = self.deps.metadata.commit_soon(vec![WATCH.put(WATCH.key("", "cursor"), &record)]).await {
            tracing::warn!(%error, "the watcher's place was not kept");
        }
    }

    /// What is to be done about an event; nothing for most.
    fn conclusion(self: &Arc<Self>, logged: LoggedEvent) -> Result<Option<BoxFuture<'static, Result<()>>>> {
        let event = logged.event;
        let Some(any) = event.event else { return Ok(None) };
        let bytes = any.value.as_slice();
        let engine = Arc::clone(self);
        let scope =
            |namespace: &str| -> Result<Scope> { Ok(Scope::new(Namespace::new(namespace)?, Actor::daemon("watcher"))) };
        let damaged = |error| Error::new(Fault::Malformed, "event").caused_by(error);
        Ok(Some(match event.topic.as_str() {
            "/tasks/exit" => {
                let exit = TaskExit::decode(bytes).map_err(damaged)?;
                let (scope, id) = (scope(&event.namespace)?, ContainerId::new(&exit.container_id)?);
                if exit.id == exit.container_id || exit.id.is_empty() {
                    async move { engine.exited(&scope, &id, exit).await }.boxed()
                } else if exit.id.starts_with(AT_ONCE) {
                    async move { engine.forget_exec(&scope, &id, &ExecId::new(&exit.id)?).await }.boxed()
                } else {
                    return Ok(None);
                }
            }
            "/tasks/oom" => {
                let oom = TaskOom::decode(bytes).map_err(damaged)?;
                let (scope, id) = (scope(&event.namespace)?, ContainerId::new(&oom.container_id)?);
                let at = event.timestamp.map(|time| crated_core::time::system(&time));
                async move {
                    engine
                        .noted(&scope, &id, |life| {
                            let started = life.started_at.as_ref().map(crated_core::time::system);
                            // Told of an earlier life: not of this one.
                            life.oom_killed |= started.is_some() && at.is_none_or(|at| Some(at) >= started);
                        })
                        .await
                }
                .boxed()
            }
            "/tasks/paused" => {
                let paused = TaskPaused::decode(bytes).map_err(damaged)?;
                let (scope, id) = (scope(&event.namespace)?, ContainerId::new(&paused.container_id)?);
                async move { engine.paused_by_event(&scope, &id).await }.boxed()
            }
            "/tasks/resumed" => {
                let resumed = TaskResumed::decode(bytes).map_err(damaged)?;
                let (scope, id) = (scope(&event.namespace)?, ContainerId::new(&resumed.container_id)?);
                async move { engine.paused_by_event(&scope, &id).await }.boxed()
            }
            "/containers/delete" => {
                let deleted = ContainerDelete::decode(bytes).map_err(damaged)?;
                let (scope, id) = (scope(&event.namespace)?, ContainerId::new(&deleted.id)?);
                async move { engine.removed_elsewhere(&scope, &id).await }.boxed()
            }
            _ => return Ok(None),
        }))
    }

    async fn exited(self: &Arc<Self>, scope: &Scope, id: &ContainerId, exit: TaskExit) -> Result<()> {
        crated_core::fail::point("engine.watch.exit")?;
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        let _turn = slot.lock().await;
        let record = self.task(scope, id).await?.and_then(|task| task.record().exit);
        let seen = Seen {
            pid: exit.pid,
            status: exit.exit_status,
            at: exit.exited_at.unwrap_or_else(crated_core::time::now),
            oom_killed: record.as_ref().is_some_and(|record| record.oom_killed),
            reason: record.map(|record| record.reason).unwrap_or_default(),
        };
        self.ended_locked(scope, id, seen).await.map(drop)
    }

    /// A paused or resumed event: what the shim says now counts, since events may come late.
    async fn paused_by_event(&self, scope: &Scope, id: &ContainerId) -> Result<()> {
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        let _turn = slot.lock().await;
        let Some(task) = self.task(scope, id).await? else { return Ok(()) };
        let paused = match task.state(None).await {
            Ok(state) => matches!(state.status, ProcessStatus::Paused | ProcessStatus::Pausing),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        self.noted_locked(scope, id, |life| life.paused = life.running && paused).await
    }

    /// Changes a life for an event, where that changes anything.
    async fn noted(&self, scope: &Scope, id: &ContainerId, change: impl FnOnce(&mut Life) + Send) -> Result<()> {
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        let _turn = slot.lock().await;
        self.noted_locked(scope, id, change).await
    }

    async fn noted_locked(&self, scope: &Scope, id: &ContainerId, change: impl FnOnce(&mut Life) + Send) -> Result<()> {
        let Some(mut life) = self.life(&scope.namespace, id.as_str()).await? else { return Ok(()) };
        let before = life.clone();
        change(&mut life);
        if life == before {
            return Ok(());
        }
        self.change_life(&scope.namespace, id.as_str(), vec![], |stored| *stored = life).await.map(drop)
    }

    async fn removed_elsewhere(self: &Arc<Self>, scope: &Scope, id: &ContainerId) -> Result<()> {
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        let _turn = slot.lock().await;
        if self.life(&scope.namespace, id.as_str()).await?.is_none() {
            return Ok(());
        }
        match self.deps.containers.get(scope, id).await {
            Err(error) if error.is_not_found() => self.remove_locked(scope, id).await,
            answer => answer.map(drop),
        }
    }

    async fn forget_exec(&self, scope: &Scope, id: &ContainerId, exec: &ExecId) -> Result<()> {
        let Some(task) = self.task(scope, id).await? else { return Ok(()) };
        match task.delete(Some(exec)).await {
            Ok(end) => {
                self.note_exec_end(id, exec, end);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The end of a container's init, once: the life, the shim, then a restart or a removal. Answers whether it was news.
    pub(crate) async fn ended_locked(self: &Arc<Self>, scope: &Scope, id: &ContainerId, seen: Seen) -> Result<bool> {
        let namespace = &scope.namespace;
        let Some(life) = self.life(namespace, id.as_str()).await? else { return Ok(false) };
        let other = life.pid != 0 && seen.pid != 0 && life.pid != seen.pid;
        if !life.has_task() || other {
            return Ok(false);
        }
        let config = life.wanted(id.as_str())?;
        let by_person = life.desired == Desired::Stopped as i32 || life.removing || !life.running;
        let restarting = self.journal.is_open(namespace, Kinds::Restart, id.as_str()).await?;
        let policy = if by_person || restarting { Policy::No } else { Policy::parse(config.restart.as_ref())? };
        let next = policy.after(Ended {
            status: seen.status,
            up: up_time(&life, &seen.at),
            restarts: life.restart_count,
            waited: Duration::from_millis(life.waited_ms.into()),
        });
        let mut with = self.journal.forget_execs(namespace, id.as_str()).await?;
        if !seen.reason.is_empty() {
            // nobody asked for this end: the timeline tells of it
            let trace = Trace::new("exit", scope);
            let past = trace.past(format!("status {}: {}", seen.status, seen.reason));
            with.extend(self.journal.kept(scope, id.as_str(), past).await?);
        }
        self.prepared().retain(|(container, _), _| container != id.as_str());
        let mut network = Box::pin(self.unplug(scope, id, &config)).await;
        with.extend(network.iter_mut().flat_map(Change::take));
        let after = self
            .note_life(namespace, id.as_str(), with, |life| {
                (life.running, life.prepared, life.paused, life.pid) = (false, false, false, 0);
                life.exit = seen.status;
                life.finished_at = Some(seen.at);
                life.oom_killed |= seen.oom_killed;
                life.error.clone_from(&seen.reason);
                life.restarting = next.is_some();
                if let Some(wait) = next {
                    life.waited_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
                }
            })
            .await?;
        kept(network);
        let slot = self.slots.get(namespace.as_str(), id.as_str());
        let oom_killed = after.is_some_and(|life| life.oom_killed);
        let reason = seen.reason.clone();
        slot.keep_exit(LastExit { status: seen.status, at: seen.at, oom_killed, error: seen.reason });
        slot.ring();
        tracing::info!(container = %id, status = seen.status, oom_killed, reason, "exited");
        self.forget_task(scope, id).await;
        match next {
            Some(wait) => self.start_later(scope, id, wait),
            None if config.auto_remove && !restarting && !life.removing => {
                Box::pin(self.remove_locked(scope, id)).await?
            }
            None => {}
        }
        Ok(true)
    }

    /// Lets go of an ended task and its shim; a failure is told and left to the reconciler.
    async fn forget_task(&self, scope: &Scope, id: &ContainerId) {
        let deleted = match self.task(scope, id).await {
            Ok(Some(task)) => task.delete(None).await.map(drop),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = deleted
            && !error.is_not_found()
        {
            tracing::warn!(container = %id, %error, "an ended task was not deleted");
        }
    }

    /// Takes a stopped task away, with its exit written down where that is news.
    pub(crate) async fn bury_locked(self: &Arc<Self>, scope: &Scope, id: &ContainerId, task: &dyn Task) -> Result<()> {
        let seen = exit_of(task).await?;
        if !self.ended_locked(scope, id, seen).await? {
            match task.delete(None).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts a container for its policy after `wait`, unless a person has decided otherwise by then.
    pub(crate) fn start_later(self: &Arc<Self>, scope: &Scope, id: &ContainerId, wait: Duration) {
        let (engine, scope, id) = (Arc::clone(self), scope.clone(), id.clone());
        let later: BoxFuture<'static, ()> = Box::pin(async move {
            tokio::select! {
                () = engine.closing.cancelled() => return, // the life says "restarting": the next start of the daemon does it
                () = tokio::time::sleep(wait) => {}
            }
            if let Err(error) = engine.start_for_policy(&scope, &id).await {
                tracing::warn!(container = %id, %error, "a restart by the policy failed");
            }
        });
        self.deps.tracker.spawn(later);
    }

    pub(crate) async fn start_for_policy(self: &Arc<Self>, scope: &Scope, id: &ContainerId) -> Result<()> {
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        let _turn = slot.lock().await;
        let Some(life) = self.life(&scope.namespace, id.as_str()).await? else { return Ok(()) };
        if !life.restarting || life.has_task() || life.removing {
            return Ok(());
        }
        let failed = match self.start_locked(scope, id, How { policy: true, ..How::default() }).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        // A start that fails counts as a short life, so that a device or a network that comes late is waited for.
        let Some(life) = self.life(&scope.namespace, id.as_str()).await? else { return Err(failed) };
        let next = Policy::parse(life.wanted(id.as_str())?.restart.as_ref())?.after(Ended {
            status: life.exit.max(1),
            up: Duration::ZERO,
            restarts: life.restart_count,
            waited: Duration::from_millis(life.waited_ms.into()),
        });
        if let Some(wait) = next {
            self.change_life(&scope.namespace, id.as_str(), vec![], |life| {
                life.restarting = true;
                life.waited_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
            })
            .await?;
            self.start_later(scope, id, wait);
        }
        Err(failed)
    }
}

/// The exit of a stopped task.
pub(crate) async fn exit_of(task: &dyn Task) -> Result<Seen> {
    let record = task.record();
    if let Some(exit) = record.exit {
        let at = exit.at.unwrap_or_else(crated_core::time::now);
        return Ok(Seen { pid: record.pid, status: exit.status, at, oom_killed: exit.oom_killed, reason: exit.reason });
    }
    let exit = task.wait(None).await?;
    Ok(Seen { pid: exit.pid, status: exit.status, at: exit.at.into(), oom_killed: false, reason: String::new() })
}

fn up_time(life: &Life, end: &Timestamp) -> Duration {
    let end = crated_core::time::system(end);
    let start = life.started_at.as_ref().map_or(end, crated_core::time::system);
    end.duration_since(start).unwrap_or_default()
}

fn lock(places: &Mutex<Places>) -> std::sync::MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Cursor {
        Cursor { revision: Revision(revision), index: 0 }
    }

    #[test]
    fn the_kept_place_never_passes_an_event_under_way() {
        let mut places = Places { newest: at(1), ..Places::default() };
        places.begin(at(2));
        places.begin(at(3));
        assert_eq!(places.done(), at(1));
        places.open.remove(&at(3));
        places.begin(at(4));
        assert_eq!(places.done(), at(1));
        places.open.remove(&at(2));
        assert_eq!(places.done(), at(3));
        places.open.remove(&at(4));
        assert_eq!(places.done(), at(4));
    }
}
