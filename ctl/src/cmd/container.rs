//! Verbs on existing containers: stop, restart, kill, pause, rm, rename, update, wait.

use crate::cmd::for_each;
use crate::cmd::options::Limits;
use crate::cmd::prelude::*;
use clap::Args;

/// Names of containers.
#[derive(Debug, Args)]
pub(crate) struct Names {
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Names {
    pub(crate) async fn pause(self, client: &Client) -> Result<u8> {
        for_each(&self.containers, |container| async move {
            client.engine().pause(api::ContainerRequest { container: container.clone() }).await?;
            Ok(container)
        })
        .await
    }

    pub(crate) async fn unpause(self, client: &Client) -> Result<u8> {
        for_each(&self.containers, |container| async move {
            client.engine().unpause(api::ContainerRequest { container: container.clone() }).await?;
            Ok(container)
        })
        .await
    }
}

/// Stop containers.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Seconds to wait before SIGKILL (-1: for ever)
    #[arg(short, long, visible_alias = "timeout", allow_negative_numbers = true)]
    time: Option<i64>,
    /// Signal to send
    #[arg(short, long, default_value = "")]
    signal: String,
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Stop {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let (timeout, signal) = (self.time, &self.signal);
        for_each(&self.containers, |container| async move {
            client
                .engine()
                .stop(api::StopRequest { container: container.clone(), timeout, signal: signal.clone() })
                .await?;
            Ok(container)
        })
        .await
    }
}

/// Restart containers.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// Seconds to wait before SIGKILL (-1: for ever)
    #[arg(short, long, visible_alias = "timeout", allow_negative_numbers = true)]
    time: Option<i64>,
    /// Signal to send
    #[arg(short, long, default_value = "")]
    signal: String,
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Restart {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let (timeout, signal) = (self.time, &self.signal);
        for_each(&self.containers, |container| async move {
            let request = api::StopRequest { container: container.clone(), timeout, signal: signal.clone() };
            client.engine().restart(request).await?;
            Ok(container)
        })
        .await
    }
}

/// Send a signal.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Kill {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let signal = &self.signal;
        for_each(&self.containers, |container| async move {
            client.engine().kill(api::KillRequest { container: container.clone(), signal: signal.clone() }).await?;
            Ok(container)
        })
        .await
    }
}

/// Remove containers.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Remove {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let force = self.force;
        for_each(&self.containers, |container| async move {
            match client.engine().remove(api::RemoveRequest { container: container.clone(), force }).await {
                Err(status) if force && status.code() == tonic::Code::NotFound => {
                    eprintln!("cratectl: {}", status.message()); // as docker: said, and no failure
                    Ok(String::new())
                }
                answer => answer.map(|_| container).map_err(Into::into),
            }
        })
        .await
    }
}

/// Rename a container.
#[derive(Debug, Args)]
pub(crate) struct Rename {
    container: String,
    name: String,
}

impl Rename {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        client.engine().rename(api::RenameRequest { container: self.container, name: self.name }).await?;
        Ok(0)
    }
}

/// Change limits and restart policy.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    limits: Limits,
    /// no, always, unless-stopped, on-failure[:max]
    #[arg(long)]
    restart: Option<String>,
    /// Publish a port of a running container, too: as -p of run
    #[arg(long)]
    publish_add: Vec<String>,
    /// Take back a published port
    #[arg(long)]
    publish_rm: Vec<String>,
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Update {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let resources = self.limits.resources()?;
        let restart = self.restart.as_deref().map(crate::cmd::options::restart_policy).transpose()?;
        let add = crate::cmd::networking::ports(&self.publish_add)?;
        let remove = crate::cmd::networking::ports(&self.publish_rm)?;
        let (resources, restart, add, remove) = (&resources, &restart, &add, &remove);
        for_each(&self.containers, |container| async move {
            let request = api::UpdateRequest {
                container: container.clone(),
                resources: Some(resources.clone()),
                restart: restart.clone(),
                publish_add: add.clone(),
                publish_remove: remove.clone(),
            };
            client.engine().update(request).await?;
            Ok(container)
        })
        .await
    }
}

/// Wait for containers.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Wait {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        for_each(&self.containers, |container| async move {
            let request = api::WaitRequest { container, removed: false };
            Ok(client.engine().wait(request).await?.into_inner().status.to_string())
        })
        .await
    }
}
