//! The life of the daemon: start in order, serve, stop in order.

use crate::builtin::{self, Shared};
use crate::config::Config;
use crate::grpc::reflection;
use crate::lock::RootLock;
use crate::notify::notify;
use crate::registry::{PluginId, PluginReport, StartError, Started};
use crate::server::connection::Acceptor;
use crate::server::method::Methods;
use crate::server::tcp::TlsSocket;
use crate::server::unix::{self, Socket};
use crate::server::{self, Life, Stack};
use crated_types::{Error, Result};
use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::RoutesBuilder;

/// Why the daemon does not run.
#[derive(Debug)]
pub enum Failure {
    /// A plugin, or the list of them.
    Plugins(StartError),
    /// Anything else, by its step.
    Step(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, error) = match self {
            Self::Plugins(error) => {
                (error.to_string(), if let StartError::Init { source, .. } = error { Some(source) } else { None })
            }
            Self::Step(error) => (error.to_string(), Some(error)),
        };
        if let Some(step) = error.and_then(Error::step) {
            write!(f, "{step}: ")?;
        }
        f.write_str(&text)?;
        match error.and_then(Error::remedy) {
            Some(remedy) => write!(f, "\n  what to do: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::Plugins(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Step(error)
    }
}

/// A daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    life: Life,
    started: Started,
    /// Hears shims.
    shims: AbortOnDropHandle<()>,
    _lock: RootLock,
}

/// Serves until SIGTERM or SIGINT; a second one ends the drain.
///
/// # Errors
/// Why it could not start.
pub async fn run(config: Config) -> std::result::Result<(), Failure> {
    let os = |error| Error::os("listen for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(os)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(os)?;
    let starting = Daemon::start(config);
    let daemon = tokio::select! {
        daemon = starting => daemon?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    notify(&format!("READY=1\nMAINPID={}\nSTATUS=serving", std::process::id()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::select! {
        () = daemon.stop() => {}
        _ = terminate.recv() => tracing::warn!("told to stop twice: calls in flight are cut"),
        _ = interrupt.recv() => tracing::warn!("told to stop twice: calls in flight are cut"),
    }
    Ok(())
}

impl Daemon {
    /// Starts everything, listeners last.
    ///
    /// # Errors
    /// What failed; nothing of it runs on.
    pub async fn start(config: Config) -> std::result::Result<Self, Failure> {
        folder(&config.root, 0o711)?;
        folder(&config.state, 0o711)?;
        let lock = RootLock::take(&config.root)?;
        unix::check_free(&config.address())?;
        unix::check_free(&config.ttrpc_address())?;
        let shared = Shared::default();
        match Self::start_locked(&config, &shared).await {
            Ok((started, shims)) => {
                tell(&config, &started);
                Ok(Self { config, life: shared.life, started, shims, _lock: lock })
            }
            Err(failure) => {
                shared.life.stop.cancel();
                Err(failure)
            }
        }
    }

    async fn start_locked(
        config: &Config,
        shared: &Shared,
    ) -> std::result::Result<(Started, AbortOnDropHandle<()>), Failure> {
        let started = builtin::registry(shared).start(config).await?;
        // Shims keep what happened while no daemon was there, and do not end before it is taken.
        let shims = hear_shims(config, &started)?;
        builtin::recover(&started, shared).await?;
        let stack = Self::stack(config, shared, &started)?;
        listen(config, &shared.life, stack).await?;
        // Recovery and descriptors left much free memory behind.
        crated_sys::malloc::trim();
        Ok((started, shims))
    }

    /// The server's layers over all adapters; tells introspection what there is.
    fn stack(config: &Config, shared: &Shared, started: &Started) -> Result<Stack> {
        let adapters = started.all(builtin::GRPC);
        let mut routes = RoutesBuilder::default();
        let mut services: Vec<&str> = adapters.values().map(|adapter| adapter.service).collect();
        for adapter in adapters.values() {
            adapter.mount(&mut routes);
        }
        for adapter in reflection::adapters(&services)? {
            adapter.mount(&mut routes);
        }
        services.extend(reflection::SERVICES);
        let mut reports = started.reports().clone();
        let report = |slot, id| PluginReport::new(PluginId { slot, id }, &[]);
        reports.push(report(builtin::GRPC.name(), "reflection"));
        let mut servers = vec!["grpc", "ttrpc"];
        servers.extend((!config.listeners.tcp.is_empty()).then_some("grpc-tcp"));
        servers.extend((!config.metrics.address.is_empty()).then_some("metrics"));
        reports.extend(servers.into_iter().map(|id| report("io.containerd.server.v1", id)));
        if shared.reports.set(reports).is_err() {
            return Err(Error::internal("the server was made twice"));
        }
        Ok(server::stack(routes.routes(), Methods::of(&services), &config.limits, &shared.life))
    }

    /// The configuration it runs with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Accepts no more, lets calls in flight end, then owner tasks; bounded by the configured time.
    pub async fn stop(self) {
        notify("STOPPING=1");
        tracing::info!("crated is stopping");
        builtin::close(&self.started);
        self.life.stop.cancel();
        self.life.tracker.close();
        let drained = tokio::time::timeout(self.config.limits.drain(), self.life.tracker.wait()).await;
        if drained.is_err() {
            tracing::warn!(tasks = self.life.tracker.len(), "not everything ended in time");
        }
        // Dropped with its socket, before another daemon may take the place.
        self.shims.abort();
        let _ = self.shims.await; // "cancelled" is what it says
        tracing::info!("crated has stopped");
    }
}

/// Makes a folder with its parents.
fn folder(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| {
        Error::os(format!("make {}", path.display()), error)
            .remedy_is("run as root, or choose another --root and --state")
    })
}

/// The socket for the events of shims. It is there until the drain is over: what ends meanwhile is told by its shim, which does
/// not end before it was heard.
fn hear_shims(config: &Config, started: &Started) -> Result<AbortOnDropHandle<()>> {
    let main = &config.listeners;
    let ttrpc = Socket::bind(&config.ttrpc_address(), main.mode, main.uid, main.gid)?;
    let server = builtin::ttrpc(started);
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        if let Some(server) = server {
            ttrpc.serve_ttrpc(server).await;
        }
    })))
}

async fn listen(config: &Config, life: &Life, stack: Stack) -> Result<()> {
    let connections = usize::try_from(config.limits.connections).unwrap_or(Semaphore::MAX_PERMITS);
    let acceptor = Acceptor { stack, life: life.clone(), connections: Arc::new(Semaphore::new(connections)) };
    let main = &config.listeners;
    let mut sockets = vec![Socket::bind(&config.address(), main.mode, main.uid, main.gid)?];
    for listener in &main.unix {
        sockets.push(Socket::bind(&listener.path, listener.mode, listener.uid, listener.gid)?);
    }
    let mut tls = Vec::new();
    for listener in &main.tcp {
        tls.push(TlsSocket::bind(listener).await?);
    }
    if !config.metrics.address.is_empty() {
        crate::metrics::serve(&config.metrics.address, life).await?;
    }
    for socket in sockets {
        life.tracker.spawn(socket.serve(acceptor.clone()));
    }
    for socket in tls {
        life.tracker.spawn(socket.serve(acceptor.clone()));
    }
    Ok(())
}

/// One line with what is where.
fn tell(config: &Config, started: &Started) {
    let snapshotters: Vec<_> = started.all(builtin::SNAPSHOTTER).into_keys().collect();
    tracing::info!(
        version = crate::VERSION,
        pid = std::process::id(),
        root = %config.root.display(),
        state = %config.state.display(),
        address = %config.address().display(),
        tcp = config.listeners.tcp.len(),
        metrics = config.metrics.address,
        snapshotters = snapshotters.join(","),
        "crated is ready"
    );
}

#[cfg(test)]
mod tests;
