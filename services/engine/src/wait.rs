//! Wait: until a container has ended, or is removed, too.

use crated_api::crated::engine::v1::{WaitRequest, WaitResponse};
use crated_core::ProcessStatus;
use crated_types::{ContainerId, Error, Fault, Result, Scope};
use std::sync::Arc;

use crate::engine::{Engine, no_container};
use crate::record::Life;
use crate::slots::LastExit;

impl Engine {
    /// Waits until the container does not run (nor is about to be restarted); answers at once where it does not.
    /// A task that waits for its start counts as running.
    ///
    /// # Cancel safety
    /// Nothing is lost: asked again, it answers the same.
    pub async fn wait(self: &Arc<Self>, scope: &Scope, request: WaitRequest) -> Result<WaitResponse> {
        let found = self.find(scope, &request.container).await?;
        if found.life.is_none() {
            return self.wait_foreign(scope, &found.id).await;
        }
        let slot = self.slots.get(scope.namespace.as_str(), found.id.as_str());
        let mut bell = slot.listen();
        let mut last = found.life;
        loop {
            match self.life(&scope.namespace, found.id.as_str()).await? {
                None => {
                    let told = slot.last_exit().map(from_exit);
                    return told
                        .or_else(|| last.as_ref().map(from_life))
                        .ok_or_else(|| no_container(scope, &request.container));
                }
                Some(life) if !request.removed && !life.has_task() && !life.restarting => return Ok(from_life(&life)),
                Some(life) => last = Some(life),
            }
            tokio::select! {
                () = self.closing.cancelled() => return Err(Error::new(Fault::NotReady, "the daemon is stopping")),
                _ = bell.changed() => {}
            }
        }
    }

    async fn wait_foreign(&self, scope: &Scope, id: &ContainerId) -> Result<WaitResponse> {
        let Some(task) = self.task(scope, id).await? else { return Ok(WaitResponse::default()) };
        if task.state(None).await?.status == ProcessStatus::Created {
            return Ok(WaitResponse::default());
        }
        let exit = task.wait(None).await?;
        Ok(WaitResponse { status: exit.status, exited_at: Some(exit.at.into()), ..WaitResponse::default() })
    }
}

fn from_life(life: &Life) -> WaitResponse {
    WaitResponse {
        status: life.exit,
        exited_at: life.finished_at,
        error: life.error.clone(),
        oom_killed: life.oom_killed,
    }
}

fn from_exit(exit: LastExit) -> WaitResponse {
    WaitResponse { status: exit.status, exited_at: Some(exit.at), error: exit.error, oom_killed: exit.oom_killed }
}
