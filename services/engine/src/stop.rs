//! Stop, restart, kill, pause: what a person does to a running container.

use crated_api::crated::engine::v1::{ContainerRequest, KillRequest, StartResponse, StopRequest};
use crated_core::{ProcessStatus, Task};
use crated_types::{ContainerId, Error, Fault, Kind, Result, Scope};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{Engine, not_running};
use crate::journal::{Kinds, Open};
use crate::lookup::Found;
use crate::record::{Desired, StopArguments};
use crate::start::{How, kill_hard};
use crate::watch::exit_of;

/// Seconds between the stop signal and the kill where nobody says otherwise.
const TIMEOUT: i64 = 10;
/// How long an exit may take from the shim through the event log to the watcher before we act by ourselves.
const TOLD: Duration = Duration::from_secs(2);
const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;

/// The number of a signal by name (with or without `SIG`) or number.
pub(crate) fn signal(text: &str) -> Result<u32> {
    crated_sys::signal::parse(text)
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| {
            Error::invalid("signal", format_args!("{text:?} is no signal"))
                .remedy_is("give a name like TERM or a number")
        })
}

impl Engine {
    /// Stops a container: its stop signal, and the kill where it does not end in time. One that does not run is a success;
    /// a restart that its policy plans is called off.
    ///
    /// # Cancel safety
    /// Dropped, the stop goes on.
    pub async fn stop(self: &Arc<Self>, scope: &Scope, request: StopRequest) -> Result<()> {
        let found = self.find(scope, &request.container).await?;
        let arguments = stop_arguments(&found, &request)?;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move { engine.stop_whole(&scope, &found.id, arguments).await }).await
    }

    async fn stop_whole(self: &Arc<Self>, scope: &Scope, id: &ContainerId, arguments: StopArguments) -> Result<()> {
        let open = {
            let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
            let _turn = slot.lock().await;
            let (change, _) = self
                .life_ops(&scope.namespace, id.as_str(), |life| {
                    life.restarting = false;
                    if life.desired == Desired::Running as i32 {
                        life.desired = Desired::Stopped as i32;
                    }
                })
                .await?;
            let Some(task) = self.task(scope, id).await? else {
                self.commit(change).await?;
                slot.ring();
                return Ok(());
            };
            if task.state(None).await?.status == ProcessStatus::Stopped {
                self.commit(change).await?;
                return self.bury_locked(scope, id, &*task).await;
            }
            match self.journal.begin(scope, Kinds::Stop, id.as_str(), &arguments, change.clone()).await {
                Ok(open) => Some(open),
                // Somebody stops it already: do the same beside it, so that our timeout and signal hold, too.
                Err(error) if error.fault() == Fault::Conflict => {
                    self.commit(change).await?;
                    None
                }
                Err(error) => return Err(error),
            }
        };
        match open {
            Some(mut open) => {
                // One that failed is over, too: the daemon's next start must not stop what was started since.
                let ended = self.drive_stop(&mut open).await;
                let closed = self.close_stop(open, ended.as_ref().err()).await;
                ended.and(closed)
            }
            None => {
                let mut steps = Steps(None);
                self.end_by_signal(scope, id, &arguments, &mut steps).await
            }
        }
    }

    /// The steps of a stop or of a restart's first half; each may have been done already.
    pub(crate) async fn drive_stop(self: &Arc<Self>, open: &mut Open) -> Result<()> {
        let arguments: StopArguments = open.arguments()?;
        let (scope, id) = (open.scope.clone(), ContainerId::new(open.subject())?);
        self.end_by_signal(&scope, &id, &arguments, &mut Steps(Some(open))).await
    }

    /// The last commit of a stop: the container may be gone by then.
    pub(crate) async fn close_stop(&self, open: Open, failed: Option<&Error>) -> Result<()> {
        let outcome = failed.map_or_else(|| "done".to_owned(), |error| format!("failed: {error}"));
        let scope = open.scope.clone();
        let slot = self.slots.get(scope.namespace.as_str(), open.subject());
        let _turn = slot.lock().await;
        let there = self.deps.containers.get(&scope, &ContainerId::new(open.subject())?).await.is_ok();
        let closing = if there { self.journal.closing(&open, &outcome).await? } else { self.journal.forgetting(&open) };
        self.commit(closing).await.map(drop)
    }

    async fn end_by_signal(
        self: &Arc<Self>,
        scope: &Scope,
        id: &ContainerId,
        arguments: &StopArguments,
        steps: &mut Steps<'_>,
    ) -> Result<()> {
        let Some(task) = self.task(scope, id).await? else { return Ok(()) };
        let state = task.state(None).await?.status;
        match state {
            ProcessStatus::Created => {
                steps.run("kill", kill_hard(&*task, ProcessStatus::Running)).await?;
            }
            ProcessStatus::Running | ProcessStatus::Paused | ProcessStatus::Pausing | ProcessStatus::Unknown => {
                steps.run("signal", send(&*task, arguments.signal)).await?;
                if matches!(state, ProcessStatus::Paused | ProcessStatus::Pausing) {
                    let _ = task.resume().await; // a frozen process hears nothing
                }
                let ended = steps.run("wait", ends_in(&*task, arguments.timeout)).await?;
                if !ended {
                    steps.run("kill", kill_hard(&*task, state)).await?;
                }
            }
            ProcessStatus::Stopped => {}
        }
        steps.run("exit", self.settled(scope, id, &*task)).await
    }

    /// Until the watcher has written the exit down; where its news are late we write it down ourselves.
    async fn settled(self: &Arc<Self>, scope: &Scope, id: &ContainerId, task: &dyn Task) -> Result<()> {
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        let mut bell = slot.listen();
        let told = tokio::time::timeout(TOLD, async {
            while self.life(&scope.namespace, id.as_str()).await?.is_some_and(|life| life.has_task()) {
                if bell.changed().await.is_err() {
                    break;
                }
            }
            Ok::<_, Error>(())
        });
        if let Ok(answer) = told.await {
            let _turn = slot.lock().await; // the watcher's own steps after the exit are done, too
            return answer;
        }
        let _turn = slot.lock().await;
        let seen = match exit_of(task).await {
            Ok(seen) => seen,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        self.ended_locked(scope, id, seen).await.map(drop)
    }

    /// Stops a container where it runs, and starts it.
    ///
    /// # Cancel safety
    /// Dropped, the restart goes on.
    pub async fn restart(self: &Arc<Self>, scope: &Scope, request: StopRequest) -> Result<StartResponse> {
        let found = self.find(scope, &request.container).await?;
        let arguments = stop_arguments(&found, &request)?;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move {
            let mut open = {
                let slot = engine.slots.get(scope.namespace.as_str(), found.id.as_str());
                let _turn = slot.lock().await;
                engine.journal.begin(&scope, Kinds::Restart, found.id.as_str(), &arguments, vec![]).await.map_err(
                    |error| {
                        if error.fault() == Fault::Conflict {
                            Error::precondition(Kind::Container, found.name(), "is being restarted")
                        } else {
                            error
                        }
                    },
                )?
            };
            let answer = engine.drive_restart(&mut open).await;
            engine.close_stop(open, answer.as_ref().err()).await?;
            answer
        })
        .await
    }

    pub(crate) async fn drive_restart(self: &Arc<Self>, open: &mut Open) -> Result<StartResponse> {
        self.drive_stop(open).await?;
        let (scope, id) = (open.scope.clone(), ContainerId::new(open.subject())?);
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        let _turn = slot.lock().await;
        open.step("start", self.start_locked(&scope, &id, How::default())).await
    }

    /// Sends a signal to a container's init; KILL where none is named. KILL and the stop signal tell the restart policy that a
    /// person wants the end.
    pub async fn kill(self: &Arc<Self>, scope: &Scope, request: KillRequest) -> Result<()> {
        let number = if request.signal.is_empty() { SIGKILL } else { signal(&request.signal)? };
        let found = self.find(scope, &request.container).await?;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move {
            let slot = engine.slots.get(scope.namespace.as_str(), found.id.as_str());
            let _turn = slot.lock().await;
            let (task, _) = engine.running(&scope, &found).await?;
            let ends =
                number == SIGKILL || Some(number) == found.life.as_ref().map(|life| stop_signal(&life.stop_signal));
            if ends {
                engine
                    .change_life(&scope.namespace, found.id.as_str(), vec![], |life| {
                        life.desired = Desired::Stopped as i32
                    })
                    .await?;
            }
            match task.kill(None, number, false).await {
                Err(error) if error.is_not_found() => return Err(not_running(found.id.as_str())),
                answer => answer?,
            }
            if number == SIGKILL && found.life.as_ref().is_some_and(|life| life.paused) {
                let _ = task.resume().await; // under cgroup v1 a frozen process does not die
            }
            Ok(())
        })
        .await
    }

    /// Freezes every process of a container.
    pub async fn pause(self: &Arc<Self>, scope: &Scope, request: ContainerRequest) -> Result<()> {
        self.freeze(scope, request, true).await
    }

    /// Lets a frozen container go on.
    pub async fn unpause(self: &Arc<Self>, scope: &Scope, request: ContainerRequest) -> Result<()> {
        self.freeze(scope, request, false).await
    }

    async fn freeze(self: &Arc<Self>, scope: &Scope, request: ContainerRequest, freeze: bool) -> Result<()> {
        let found = self.find(scope, &request.container).await?;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move {
            let slot = engine.slots.get(scope.namespace.as_str(), found.id.as_str());
            let _turn = slot.lock().await;
            let (task, _) = engine.running(&scope, &found).await?;
            let frozen = task.state(None).await?.status != ProcessStatus::Running;
            match (freeze, frozen) {
                (true, true) => return Err(Error::precondition(Kind::Container, found.name(), "is paused already")),
                (false, false) => return Err(Error::precondition(Kind::Container, found.name(), "is not paused")),
                (true, false) => task.pause().await?,
                (false, true) => task.resume().await?,
            }
            engine.note_life(&scope.namespace, found.id.as_str(), vec![], |life| life.paused = freeze).await.map(drop)
        })
        .await
    }
}

/// Steps that are kept in an operation's timeline, where there is one.
struct Steps<'a>(Option<&'a mut Open>);

impl Steps<'_> {
    async fn run<T>(&mut self, name: &'static str, act: impl Future<Output = Result<T>>) -> Result<T> {
        match &mut self.0 {
            Some(open) => open.step(name, act).await,
            None => act.await.map_err(|error| error.at(name)),
        }
    }
}

fn stop_signal(text: &str) -> u32 {
    if text.is_empty() { SIGTERM } else { signal(text).unwrap_or(SIGTERM) }
}

fn stop_arguments(found: &Found, request: &StopRequest) -> Result<StopArguments> {
    let own = match &found.life {
        Some(life) => life.wanted(found.id.as_str())?.stop_timeout,
        None => None,
    };
    let signal = if !request.signal.is_empty() {
        signal(&request.signal)?
    } else if let Some(life) = &found.life {
        stop_signal(&life.stop_signal)
    } else {
        stop_signal(found.record.labels.get(crated_types::label::STOP_SIGNAL).map_or("", String::as_str))
    };
    Ok(StopArguments { signal, timeout: request.timeout.or(own).unwrap_or(TIMEOUT) })
}

async fn send(task: &dyn Task, signal: u32) -> Result<()> {
    match task.kill(None, signal, false).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Whether init ends within `seconds`; negative waits for ever.
async fn ends_in(task: &dyn Task, seconds: i64) -> Result<bool> {
    let begun = Instant::now();
    let answer = match u64::try_from(seconds) {
        Err(_) => task.wait(None).await,
        Ok(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), task.wait(None)).await {
            Ok(answer) => answer,
            Err(_) => {
                tracing::debug!(container = %task.id(), waited = ?begun.elapsed(), "the stop signal was not enough");
                return Ok(false);
            }
        },
    };
    match answer {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!((signal("TERM").unwrap(), signal("SIGKILL").unwrap(), signal("2").unwrap()), (15, 9, 2));
        for bad in ["", "0", "NOPE", "-1", "999"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
        assert_eq!((stop_signal(""), stop_signal("QUIT"), stop_signal("rubbish")), (15, 3, 15));
    }
}
