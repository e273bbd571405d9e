//! The helper's life: requests of daemons, one after another; names and ports beside them.

use super::ports::Ports;
use super::protocol::{Answer, Change, LINE_MAX, Refused, Report, Request, State, VERSION};
use crate::names::{Listening, Network, Server};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Notify};

/// How often it looks whether there is still something to do.
const LOOK: Duration = Duration::from_secs(2);
/// Daemons that are heard at a time: the one, and its successor.
const DAEMONS: usize = 4;

/// What it is started with.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Path of the socket that it was given.
    pub socket: PathBuf,
    /// The daemon's root: where it is gone, the helper is no more needed.
    pub root: PathBuf,
    /// File with the host's resolvers.
    pub resolv_conf: PathBuf,
}

#[derive(Debug)]
struct Helper {
    server: Arc<Server>,
    inner: Mutex<Inner>,
    daemons: AtomicUsize,
    changed: Notify,
    stop: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    ports: Ports,
    listening: BTreeMap<(String, IpAddr), Listening>,
    troubles: BTreeMap<(String, IpAddr), String>,
}

/// Serves until there is nothing left to serve.
///
/// # Errors
/// Where the socket is none, or its path is another's already.
pub async fn run(listener: StdListener, arguments: Arguments) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let own = inode(&arguments.socket).ok_or(io::ErrorKind::NotFound)?;
    let helper = Arc::new(Helper {
        server: Server::new(arguments.resolv_conf.clone()),
        inner: Mutex::default(),
        daemons: AtomicUsize::new(0),
        changed: Notify::new(),
        stop: Notify::new(),
    });
    let mut look = tokio::time::interval(LOOK);
    // The first look is due at once: whoever started us has not connected by then.
    look.reset();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if helper.daemons.load(Ordering::Relaxed) < DAEMONS => {
                    helper.daemons.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(Arc::clone(&helper).hear(stream));
                }
                Ok(_) => tracing::warn!("too many daemons at a time: one was turned away"),
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            () = helper.changed.notified() => {
                if helper.is_idle().await {
                    break;
                }
            }
            () = helper.stop.notified() => break,
            _ = look.tick() => {
                let replaced = inode(&arguments.socket) != Some(own);
                if replaced || !arguments.root.is_dir() || helper.is_idle().await {
                    break;
                }
                helper.listen_again().await;
            }
        }
    }
    if inode(&arguments.socket) == Some(own) {
        let _ = std::fs::remove_file(&arguments.socket); // nobody is there to answer
    }
    tracing::info!("ends: nothing is left to serve");
    Ok(())
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

impl Helper {
    /// No daemon, no container.
    async fn is_idle(&self) -> bool {
        self.daemons.load(Ordering::Relaxed) == 0
            && self.inner.lock().await.ports.is_empty()
            && self.server.zone().endpoints().next().is_none()
    }

    async fn hear(self: Arc<Self>, stream: UnixStream) {
        if let Err(error) = self.serve(stream).await {
            tracing::warn!(%error, "a daemon's connection");
        }
        self.daemons.fetch_sub(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            if (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line).await? == 0 {
                return Ok(());
            }
            let (answer, last) = match serde_json::from_slice(&line) {
                Ok(Request::Stop) => (Answer::Done { troubles: Vec::new() }, true),
                Ok(request) => (self.act(request).await, false),
                Err(error) => (Answer::Bad { why: error.to_string() }, false),
            };
            let mut line = serde_json::to_vec(&answer)?;
            line.push(b'\n');
            writer.write_all(&line).await?;
            if last {
                self.stop.notify_one();
                return Ok(());
            }
        }
    }

    async fn act(&self, request: Request) -> Answer {
        let mut inner = self.inner.lock().await;
        match request {
            Request::Hello => Answer::Hello { version: VERSION },
            Request::Replace(state) => self.replace(&mut inner, state),
            Request::Change(change) => self.change(&mut inner, change),
            Request::Show => {
                let zone = self.server.zone();
                let state = State {
                    networks: zone.networks().cloned().collect(),
                    endpoints: zone.endpoints().cloned().collect(),
                    holds: inner.ports.holds().cloned().collect(),
                };
                let troubles = inner.troubles.values().cloned().collect();
                let (counters, datagrams) = (self.server.counters(), inner.ports.flows());
                let report = Report { pid: std::process::id(), state, counters, datagrams, troubles };
                Answer::Report(Box::new(report))
            }
            Request::Stop => Answer::Done { troubles: Vec::new() },
        }
    }

    fn replace(&self, inner: &mut Inner, state: State) -> Answer {
        let failed = inner.ports.replace(&state.holds);
        {
            let mut zone = self.server.zone();
            let gone = |have: Vec<String>, want: &dyn Fn(&str) -> bool| {
                have.into_iter().filter(|id| !want(id)).collect::<Vec<_>>()
            };
            let networks = zone.networks().map(|network| network.id.clone()).collect();
            for id in gone(networks, &|id| state.networks.iter().any(|network| network.id == id)) {
                zone.forget_network(&id);
            }
            let endpoints = zone.endpoints().map(|endpoint| endpoint.id.clone()).collect();
            let wanted: std::collections::HashSet<&str> = state.endpoints.iter().map(|e| e.id.as_str()).collect();
            for id in gone(endpoints, &|id| wanted.contains(id)) {
                zone.forget_endpoint(&id);
            }
            for network in state.networks {
                zone.put_network(network);
            }
            for endpoint in state.endpoints {
                zone.put_endpoint(endpoint);
            }
        }
        self.listen(inner);
        let mut troubles: Vec<String> = inner.troubles.values().cloned().collect();
        troubles.extend(failed.into_iter().map(|(port, error)| format!("port {port} is not held: {error}")));
        Answer::Done { troubles }
    }

    fn change(&self, inner: &mut Inner, change: Change) -> Answer {
        if let Err((port, error)) = inner.ports.hold(&change.holds) {
            let fault = match error.kind() {
                io::ErrorKind::AddrInUse => Refused::InUse,
                io::ErrorKind::Unsupported => Refused::Unsupported,
                _ => Refused::Other,
            };
            return Answer::Taken { port, why: error.to_string(), fault };
        }
        inner.ports.release(&change.release);
        let networks = !change.networks.is_empty() || !change.forget_networks.is_empty();
        {
            let mut zone = self.server.zone();
            for id in &change.forget_endpoints {
                zone.forget_endpoint(id);
            }
            for id in &change.forget_networks {
                zone.forget_network(id);
            }
            for network in change.networks {
                zone.put_network(network);
            }
            for endpoint in change.endpoints {
                zone.put_endpoint(endpoint);
            }
        }
        if networks {
            self.listen(inner);
        }
        Answer::Done { troubles: inner.troubles.values().cloned().collect() }
    }

    /// Opens and closes the resolver's sockets as the networks say.
    fn listen(&self, inner: &mut Inner) {
        let wanted: Vec<(String, IpAddr)> = {
            let zone = self.server.zone();
            let all = |network: &Network| {
                network.listen.iter().map(|address| (network.id.clone(), *address)).collect::<Vec<_>>()
            };
            zone.networks().flat_map(all).collect()
        };
        inner.listening.retain(|key, _| wanted.contains(key));
        inner.troubles.retain(|key, _| wanted.contains(key));
        for key in wanted {
            if inner.listening.contains_key(&key) {
                continue;
            }
            match self.server.listen(&key.0, key.1) {
                Ok(listening) => {
                    inner.troubles.remove(&key);
                    inner.listening.insert(key, listening);
                }
                Err(error) => {
                    let what = format!("the resolver does not listen on {} port 53: {error}", key.1);
                    if inner.troubles.insert(key, what.clone()).is_none() {
                        tracing::warn!("{what}");
                    }
                }
            }
        }
    }

    /// What could not be listened on may be free by now.
    async fn listen_again(&self) {
        let mut inner = self.inner.lock().await;
        if !inner.troubles.is_empty() {
            self.listen(&mut inner);
        }
    }
}
