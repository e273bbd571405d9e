//! The reconciler: at the daemon's start every open operation goes to its end or back (DESIGN.md part 6), every life is
//! compared with its task, and restart policies act.

use crated_core::ProcessStatus;
use crated_types::{Actor, ContainerId, Error, Namespace, Result, Scope};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::journal::{Kinds, Open};
use crate::life::State;
use crate::record::{Desired, LIVES, Life, StartArguments};
use crate::restart::Policy;
use crate::watch::{Seen, exit_of};

/// How long the daemon's start waits for what the reconciler does …
const PATIENCE: Duration = Duration::from_secs(1);
/// … and how long after the last that came to its end: one that hangs delays nobody else.
const LULL: Duration = Duration::from_millis(200);
/// Tasks that are asked at once.
const AT_ONCE: usize = 16;
/// Status of a process whose end nobody saw.
const LOST: u32 = 255;

/// What a reconciliation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Operations that were brought to their end: `kind container`.
    pub done: Vec<String>,
    /// Operations that were taken back.
    pub undone: Vec<String>,
    /// Containers whose exit was found now.
    pub exited: Vec<String>,
    /// Operations that could be neither; they are tried again at the next start.
    pub failed: Vec<String>,
}

/// Which way an operation went.
enum Went {
    Forward,
    Back,
}

impl Engine {
    /// Ends what a crash left open, compares every life with its task, lets restart policies act, and begins to follow the
    /// event log. Call it once, after the tasks were restored and before the first request. What takes long (a shim that ends
    /// slowly) goes on beside the daemon's start under its container's lock, and is missing in the answer.
    ///
    /// # Errors
    /// Where the records cannot be read; a single operation that fails is in the answer instead.
    pub async fn reconcile(self: &Arc<Self>) -> Result<Reconciled> {
        let mut report = Reconciled::default();
        let (from, kept) = self.watch_from().await?;
        let rebooted = kept.is_some_and(|record| record.boot_id != self.journal.boot_id());
        let until = Instant::now() + PATIENCE;
        let mut jobs = Vec::new();
        for open in self.journal.open(&Actor::daemon("reconciler")).await? {
            let what = format!("{} {}", open.kind.name(), open.subject());
            let engine = Arc::clone(self);
            let job: BoxFuture<'static, Result<Went>> = Box::pin(async move { engine.settle(open).await });
            jobs.push((what, self.deps.tracker.spawn(job)));
        }
        for (what, went) in in_time(jobs, until).await {
            match went {
                Ok(Went::Forward) => {
                    tracing::info!(operation = %what, "an operation that was left open went on to its end");
                    report.done.push(what);
                }
                Ok(Went::Back) => {
                    tracing::info!(operation = %what, "an operation that was left open was taken back");
                    report.undone.push(what);
                }
                Err(error) => {
                    tracing::error!(operation = %what, %error, "an operation stays open");
                    report.failed.push(format!("{what}: {error}"));
                }
            }
        }
        self.sweep(&mut report).await;
        if let Err(error) = self.reconcile_networks().await {
            // Containers go on without; what is missing is told by `doctor network` and tried again at the next start.
            tracing::error!(%error, "networks could not be reconciled");
            report.failed.push(format!("networks: {error}"));
        }
        self.keep_place(from).await;
        self.watch(from);
        self.restart_all(rebooted).await?;
        tracing::info!(
            done = report.done.len(),
            undone = report.undone.len(),
            exited = report.exited.len(),
            failed = report.failed.len(),
            "operations reconciled"
        );
        Ok(report)
    }

    async fn settle(self: &Arc<Self>, mut open: Open) -> Result<Went> {
        let id = ContainerId::new(open.subject())?;
        let scope = open.scope.clone();
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        match open.kind {
            Kinds::Create => {
                let _turn = slot.lock().await;
                self.undo_create(&mut open, &Error::internal("the daemon ended before the container was made")).await?;
                Ok(Went::Back)
            }
            Kinds::Start => {
                let _turn = slot.lock().await;
                let went = self.settle_start(&mut open, &scope, &id).await?;
                self.compare_locked(&scope, &id).await?;
                Ok(went)
            }
            Kinds::Stop | Kinds::Restart => {
                self.go_on(open);
                Ok(Went::Forward)
            }
            Kinds::Remove => {
                let _turn = slot.lock().await;
                self.drive_remove(&mut open).await?;
                Ok(Went::Forward)
            }
            Kinds::Exec => {
                self.undo_exec(&mut open, &Error::internal("the daemon ended before the exec was started")).await?;
                Ok(Went::Back)
            }
        }
    }

    /// A stop or restart goes on beside the daemon's start: its wait may be long.
    fn go_on(self: &Arc<Self>, mut open: Open) {
        let engine = Arc::clone(self);
        let rest: BoxFuture<'static, ()> = Box::pin(async move {
            let kind = open.kind.name();
            let container = open.subject().to_owned();
            let ended = match open.kind {
                Kinds::Restart => engine.drive_restart(&mut open).await.map(drop),
                _ => engine.drive_stop(&mut open).await,
            };
            let closed = engine.close_stop(open, ended.as_ref().err()).await;
            if let Err(error) = ended.and(closed) {
                tracing::error!(kind, container, %error, "an operation that was left open failed");
            }
        });
        self.deps.tracker.spawn(rest);
    }

    /// A start: running or ended is forward; made but waiting, or not there at all, is back.
    async fn settle_start(self: &Arc<Self>, open: &mut Open, scope: &Scope, id: &ContainerId) -> Result<Went> {
        if self.deps.containers.get(scope, id).await.is_err_and(|error| error.is_not_found()) {
            self.commit(self.journal.forgetting(open)).await?;
            return Ok(Went::Back);
        }
        let arguments: StartArguments = open.arguments()?;
        let task = if open.is_back() { None } else { self.task(scope, id).await? };
        if let Some(task) = task {
            let state = task.state(None).await?;
            match state.status {
                ProcessStatus::Running | ProcessStatus::Paused | ProcessStatus::Pausing if !arguments.prepare => {
                    self.started(open, id, state.pid).await?;
                    return Ok(Went::Forward);
                }
                ProcessStatus::Stopped if !arguments.prepare => {
                    let seen = exit_of(&*task).await?;
                    self.started(open, id, seen.pid).await?;
                    return Ok(Went::Forward); // the sweep writes its exit down
                }
                _ => {}
            }
        }
        let error = Error::internal("the daemon ended before the container ran");
        self.undo_start(open, id, &error).await?;
        if arguments.policy {
            self.change_life(&scope.namespace, id.as_str(), vec![], |life| life.restarting = true).await?;
        }
        Ok(Went::Back)
    }

    /// Compares lives with tasks, for exits that no event tells of any more.
    pub(crate) async fn sweep(self: &Arc<Self>, report: &mut Reconciled) {
        let lives = match LIVES.list(&*self.deps.metadata, &LIVES.prefix("")).await {
            Ok(lives) => lives,
            Err(error) => {
                tracing::error!(%error, "lives could not be read");
                return;
            }
        };
        let until = Instant::now() + PATIENCE;
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut jobs = Vec::new();
        for (key, _, _) in lives {
            let Some((namespace, id)) = LIVES.parts(&key) else { continue };
            let (engine, turns) = (Arc::clone(self), Arc::clone(&turns));
            let (namespace, what) = (namespace.to_owned(), id.to_owned());
            let id = what.clone();
            let job: BoxFuture<'static, Result<bool>> = Box::pin(async move {
                let _turn = turns.acquire().await;
                engine.compare(&namespace, &id).await
            });
            jobs.push((what, self.deps.tracker.spawn(job)));
        }
        for (id, compared) in in_time(jobs, until).await {
            match compared {
                Ok(true) => report.exited.push(id),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(container = id, %error, "a life could not be compared with its task");
                    report.failed.push(format!("exit {id}: {error}"));
                }
            }
        }
    }

    async fn compare(self: &Arc<Self>, namespace: &str, id: &str) -> Result<bool> {
        let scope = Scope::new(Namespace::new(namespace)?, Actor::daemon("reconciler"));
        let id = ContainerId::new(id)?;
        let slot = self.slots.get(namespace, id.as_str());
        let _turn = slot.lock().await;
        if self.journal.is_open(&scope.namespace, Kinds::Start, id.as_str()).await? {
            return Ok(false); // whoever ends that operation compares
        }
        self.compare_locked(&scope, &id).await
    }

    /// Answers whether an exit was found.
    async fn compare_locked(self: &Arc<Self>, scope: &Scope, id: &ContainerId) -> Result<bool> {
        let Some(life) = self.life(&scope.namespace, id.as_str()).await? else { return Ok(false) };
        let Some(task) = self.task(scope, id).await? else {
            if !life.has_task() {
                return Ok(false);
            }
            let seen = Seen {
                pid: life.pid,
                status: LOST,
                at: crated_core::time::now(),
                oom_killed: false,
                reason: "its process was lost with the shim or the host".into(),
            };
            return self.ended_locked(scope, id, seen).await;
        };
        let state = task.state(None).await?;
        match state.status {
            ProcessStatus::Stopped => {
                self.bury_locked(scope, id, &*task).await?;
                Ok(true)
            }
            ProcessStatus::Running | ProcessStatus::Paused | ProcessStatus::Pausing => {
                let paused = state.status != ProcessStatus::Running;
                if life.running && life.paused != paused {
                    self.change_life(&scope.namespace, id.as_str(), vec![], |life| life.paused = paused).await?;
                }
                Ok(false)
            }
            ProcessStatus::Created | ProcessStatus::Unknown => Ok(false),
        }
    }

    /// Starts what its policy wants running: at once after a crash, and after a reboot also what a person stopped under `always`.
    async fn restart_all(self: &Arc<Self>, rebooted: bool) -> Result<()> {
        for (key, _, life) in LIVES.list(&*self.deps.metadata, &LIVES.prefix("")).await? {
            let Some((namespace, id)) = LIVES.parts(&key) else { continue };
            if !wants_start(&life, id, rebooted) {
                continue;
            }
            let scope = Scope::new(Namespace::new(namespace)?, Actor::daemon("restart policy"));
            let id = ContainerId::new(id)?;
            let engine = Arc::clone(self);
            let start: BoxFuture<'static, ()> = Box::pin(async move {
                if let Err(error) = engine.start_again(&scope, &id, rebooted).await {
                    tracing::warn!(container = %id, %error, "a restart by the policy failed");
                }
            });
            self.deps.tracker.spawn(start);
        }
        Ok(())
    }

    async fn start_again(self: &Arc<Self>, scope: &Scope, id: &ContainerId, rebooted: bool) -> Result<()> {
        {
            let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
            let _turn = slot.lock().await;
            let Some(life) = self.life(&scope.namespace, id.as_str()).await? else { return Ok(()) };
            if !wants_start(&life, id.as_str(), rebooted) {
                return Ok(());
            }
            if !life.restarting {
                self.change_life(&scope.namespace, id.as_str(), vec![], |life| life.restarting = true).await?;
            }
        }
        self.start_for_policy(scope, id).await
    }
}

fn wants_start(life: &Life, id: &str, rebooted: bool) -> bool {
    if !matches!(life.state(), State::Exited | State::Restarting) {
        return false;
    }
    let policy =
        life.wanted(id).ok().and_then(|config| Policy::parse(config.restart.as_ref()).ok()).unwrap_or_default();
    let stopped = life.desired != Desired::Running as i32;
    life.restarting || (rebooted && (policy == Policy::Always || (policy == Policy::UnlessStopped && !stopped)))
}

/// What ends before `until` and without a lull; the rest goes on, and tells of its failures itself.
async fn in_time<T: Send + 'static>(
    jobs: Vec<(String, JoinHandle<Result<T>>)>,
    until: Instant,
) -> Vec<(String, Result<T>)> {
    let mut ended = Vec::new();
    let mut open: FuturesUnordered<_> = jobs
        .into_iter()
        .map(|(what, job)| async move {
            let answer = job
                .await
                .unwrap_or_else(|gone| Err(Error::internal("the reconciler did not end by itself").caused_by(gone)));
            (what, answer)
        })
        .collect();
    let mut quiet = until;
    while !open.is_empty() {
        match tokio::time::timeout_at(quiet, open.next()).await {
            Ok(Some(answer)) => {
                ended.push(answer);
                quiet = until.min(Instant::now() + LULL);
            }
            Ok(None) => break,
            Err(_) => {
                tracing::warn!(jobs = open.len(), "these go on beside the start of the daemon");
                tokio::spawn(async move {
                    while let Some((what, answer)) = open.next().await {
                        match answer {
                            Ok(_) => tracing::info!(job = what, "ended beside the start of the daemon"),
                            Err(error) => tracing::error!(job = what, %error, "stays open"),
                        }
                    }
                });
                break;
            }
        }
    }
    ended
}
