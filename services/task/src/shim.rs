//! A shim that serves: its socket, its ttrpc connection, and the task calls of version 2 and 3 (the same messages).

use crate::config::Config;
use crated_api::containerd::task::v2 as api;
use crated_ttrpc::{CallOptions, Client};
use crated_types::{ContainerId, Error, Fault, Kind, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A connected shim.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    client: Client,
    service: &'static str,
    timeout: Duration,
    pub(crate) socket: PathBuf,
}

impl Shim {
    /// Connects to `address` (`unix:///path`, or a path).
    pub(crate) async fn connect(config: &Config, address: &str, version: u32) -> Result<Self> {
        let socket = socket_path(address)?;
        let client = tokio::time::timeout(config.shim_timeout, Client::connect(&socket))
            .await
            .map_err(|_| Error::new(Fault::TimedOut, format!("connect to shim at {}", socket.display())))??;
        let service = if version >= 3 { "containerd.task.v3.Task" } else { "containerd.task.v2.Task" };
        Ok(Self { client, service, timeout: config.shim_timeout, socket })
    }

    /// A call that the shim answers without waiting for anything.
    pub(crate) async fn call<Q: prost::Message, A: prost::Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A> {
        self.client.call(self.service, method, request, CallOptions::within(self.timeout)).await
    }

    /// A call that makes or runs something and may take long on a busy machine.
    pub(crate) async fn act<Q: prost::Message, A: prost::Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A> {
        self.client
            .call(self.service, method, request, CallOptions::within(self.timeout.max(Duration::from_secs(60))))
            .await
    }

    /// Waits for a process as long as it lives.
    pub(crate) async fn wait(&self, request: &api::WaitRequest) -> Result<api::WaitResponse> {
        self.client.call(self.service, "Wait", request, CallOptions::default()).await
    }

    /// Whether the connection is lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Resolves once the connection is lost: the shim is gone.
    pub(crate) async fn closed(&self) {
        self.client.closed().await;
    }

    /// Asks the shim to end. A shim with further containers stays.
    pub(crate) async fn shutdown(&self, id: &ContainerId) -> Result<()> {
        let request = api::ShutdownRequest { id: id.to_string(), now: false };
        match self.call::<_, ()>("Shutdown", &request).await {
            Err(error) if error.fault() != Fault::Unreachable => Err(error),
            _ => Ok(()), // it may hang up before it answers
        }
    }
}

/// The path of `unix:///path`.
pub(crate) fn socket_path(address: &str) -> Result<PathBuf> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    if path.starts_with('/') {
        return Ok(Path::new(path).into());
    }
    Err(Error::new(Fault::Unsupported, format!("shim address {address:?} is not a unix socket"))
        .on(Kind::Task, address))
}
