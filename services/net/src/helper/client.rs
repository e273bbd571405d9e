//! The daemon's side: one owner of the connection, which starts the helper at need, tells a new one everything, and keeps in
//! mind what it was told.

use super::protocol::{Answer, Change, Hold, LINE_MAX, Port, Refused, Report, Request, State, VERSION};
use crate::names::{Endpoint, Network};
use crated_types::{Error, Fault, Result};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// File name of the helper's program.
const PROGRAM: &str = "crated-netd";
/// How long the helper may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a helper with nothing to serve is kept for the next container.
const KEPT: Duration = Duration::from_secs(10);
/// Between two attempts to bring a helper back that died.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Requests that wait.
const QUEUE: usize = 1024;
/// Its log begins anew beyond this size, in bytes.
const LOG_MAX: u64 = 1 << 20;

/// Where the helper and its things are.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its program; none: beside the daemon's own, then in PATH.
    pub program: Option<PathBuf>,
    /// The daemon's root.
    pub root: PathBuf,
    /// Folder for its socket and log.
    pub state: PathBuf,
    /// File with the host's resolvers.
    pub resolv_conf: PathBuf,
}

impl Config {
    fn socket(&self) -> PathBuf {
        self.state.join("netd.sock")
    }
}

type Reply<T> = oneshot::Sender<Result<T>>;

#[derive(Debug)]
enum Command {
    Change(Change, Reply<()>),
    Adopt(State, Reply<Vec<String>>),
    Show(Reply<Option<Report>>),
}

/// The helper, as the daemon sees it.
#[derive(Clone, Debug)]
pub struct Helper {
    commands: mpsc::Sender<Command>,
}

impl Helper {
    /// Nothing is started yet. The answer ends when the last handle is dropped; the process outlives it where it has to.
    pub fn new(config: Config) -> (Self, impl Future<Output = ()> + Send) {
        let (commands, queue) = mpsc::channel(QUEUE);
        let owner = Owner { config, mirror: Mirror::default(), known: false, link: None, idle: None, pause: PAUSE };
        (Self { commands }, owner.run(queue))
    }

    /// Changes what it serves; answers once it does.
    ///
    /// # Errors
    /// [`Fault::InUse`] for a port that is taken: nothing has changed then.
    pub async fn change(&self, change: Change) -> Result<()> {
        if change.is_empty() {
            return Ok(());
        }
        self.ask(|reply| Command::Change(change, reply)).await
    }

    /// Once, at the daemon's start: what is to be served by the records. A helper that is there is brought up to date. Answers
    /// what it could not do.
    ///
    /// # Errors
    /// Where it cannot be started although it is needed.
    pub async fn adopt(&self, state: State) -> Result<Vec<String>> {
        self.ask(|reply| Command::Adopt(state, reply)).await
    }

    /// What it does; none where it does not run.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn show(&self) -> Result<Option<Report>> {
        self.ask(Command::Show).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let gone = || Error::new(Fault::NotReady, "the network helper's owner has ended");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// What the helper was told.
#[derive(Debug, Default)]
struct Mirror {
    networks: BTreeMap<String, Network>,
    endpoints: BTreeMap<String, Endpoint>,
    holds: BTreeMap<Port, Hold>,
}

impl Mirror {
    fn of(state: State) -> Self {
        Self {
            networks: state.networks.into_iter().map(|network| (network.id.clone(), network)).collect(),
            endpoints: state.endpoints.into_iter().map(|endpoint| (endpoint.id.clone(), endpoint)).collect(),
            holds: state.holds.into_iter().map(|hold| (hold.port, hold)).collect(),
        }
    }

    fn state(&self) -> State {
        State {
            networks: self.networks.values().cloned().collect(),
            endpoints: self.endpoints.values().cloned().collect(),
            holds: self.holds.values().cloned().collect(),
        }
    }

    fn apply(&mut self, change: Change) {
        for id in change.forget_networks {
            self.networks.remove(&id);
        }
        for id in change.forget_endpoints {
            self.endpoints.remove(&id);
        }
        for port in change.release {
            self.holds.remove(&port);
        }
        let new = Self::of(State { networks: change.networks, endpoints: change.endpoints, holds: change.holds });
        self.networks.extend(new.networks);
        self.endpoints.extend(new.endpoints);
        for (port, hold) in new.holds {
            let splice = hold.splice.or(self.holds.get(&port).and_then(|known| known.splice));
            self.holds.insert(port, Hold { splice, ..hold });
        }
    }

    /// Nothing that a container needs.
    fn is_idle(&self) -> bool {
        self.endpoints.is_empty() && self.holds.is_empty()
    }
}

#[derive(Debug)]
struct Link {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Link {
    async fn call(&mut self, request: &Request) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let answer = timeout(DEADLINE, async {
            self.writer.write_all(&line).await?;
            let mut answer = Vec::new();
            (&mut self.reader).take(LINE_MAX).read_until(b'\n', &mut answer).await?;
            if answer.is_empty() { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) } else { Ok(answer) }
        });
        Ok(serde_json::from_slice(&answer.await??)?)
    }
}

#[derive(Debug)]
struct Owner {
    config: Config,
    mirror: Mirror,
    /// The mirror says what the helper serves; at the daemon's start a helper that is there may serve more.
    known: bool,
    link: Option<Link>,
    /// Since when there is nothing to serve.
    idle: Option<Instant>,
    pause: Duration,
}

impl Owner {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        loop {
            let let_go = self.idle.map(|since| since + KEPT);
            tokio::select! {
                command = queue.recv() => match command {
                    Some(command) => self.act(command).await,
                    None => return,
                },
                () = lost(&mut self.link) => self.bring_back().await,
                () = at(let_go) => {
                    self.idle = None;
                    self.link = None; // it ends by itself
                }
            }
            if self.link.is_some() && self.mirror.is_idle() {
                self.idle.get_or_insert_with(Instant::now);
            } else {
                self.idle = None;
            }
        }
    }

    async fn act(&mut self, command: Command) {
        match command {
            Command::Change(change, reply) => drop(reply.send(self.change(change).await)),
            Command::Adopt(state, reply) => drop(reply.send(self.adopt(state).await)),
            Command::Show(reply) => drop(reply.send(self.show().await)),
        }
    }

    async fn change(&mut self, change: Change) -> Result<()> {
        let only_less = change.networks.is_empty() && change.endpoints.is_empty() && change.holds.is_empty();
        if self.link.is_none() && only_less && self.mirror.is_idle() && self.known {
            self.mirror.apply(change);
            return Ok(());
        }
        match self.call(&Request::Change(change.clone())).await? {
            Answer::Done { .. } => {
                self.mirror.apply(change);
                Ok(())
            }
            Answer::Taken { port, why, fault } => {
                let what = format!("port {port} of the host cannot be taken: {why}");
                let look = format!("choose another port, or look who has it: `ss -lntup | grep :{}`", port.port);
                Err(match fault {
                    Refused::InUse => Error::new(Fault::InUse, what).remedy_is(look),
                    Refused::Unsupported => Error::new(Fault::Unsupported, what)
                        .remedy_is("publish it over tcp or udp, or load what the kernel lacks: `modprobe sctp`"),
                    Refused::Other => Error::new(Fault::Os, what).remedy_is(look),
                })
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn adopt(&mut self, state: State) -> Result<Vec<String>> {
        (self.mirror, self.known) = (Mirror::of(state), true);
        if self.link.is_none() {
            self.link = connect(&self.config.socket()).await;
        }
        if self.link.is_none() && self.mirror.is_idle() {
            return Ok(Vec::new());
        }
        match self.call(&Request::Replace(self.mirror.state())).await? {
            Answer::Done { troubles } => Ok(troubles),
            other => Err(unexpected(&other)),
        }
    }

    async fn show(&mut self) -> Result<Option<Report>> {
        if self.link.is_none() {
            return Ok(None);
        }
        match self.call(&Request::Show).await? {
            Answer::Report(report) => Ok(Some(*report)),
            other => Err(unexpected(&other)),
        }
    }

    /// Calls the helper; one that died is started again, once.
    async fn call(&mut self, request: &Request) -> Result<Answer> {
        for again in [true, false] {
            let link = self.linked().await?;
            match link.call(request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    self.link = None;
                    tracing::warn!(%error, "the network helper did not answer");
                    if !again {
                        return Err(Error::new(Fault::Unreachable, "the network helper").caused_by(error));
                    }
                }
            }
        }
        Err(Error::internal("a call of the network helper ended without an answer"))
    }

    async fn linked(&mut self) -> Result<&mut Link> {
        if self.link.is_none() {
            let (mut link, found) = self.start().await?;
            // What a helper of an earlier daemon serves goes on until `adopt` says what is wanted of it.
            let request = if found && !self.known { Request::Show } else { Request::Replace(self.mirror.state()) };
            match link.call(&request).await {
                Ok(Answer::Report(report)) => self.mirror = Mirror::of(report.state),
                Ok(Answer::Done { troubles }) => {
                    for trouble in troubles {
                        tracing::warn!(trouble, "the network helper");
                    }
                }
                Ok(other) => return Err(unexpected(&other)),
                Err(error) => return Err(Error::new(Fault::Unreachable, "the network helper").caused_by(error)),
            }
            (self.pause, self.known) = (PAUSE, true);
            self.link = Some(link);
        }
        self.link.as_mut().ok_or_else(|| Error::internal("a link that was made is gone"))
    }

    /// A helper that died while it is needed comes back.
    async fn bring_back(&mut self) {
        self.link = None;
        if self.mirror.is_idle() {
            return;
        }
        tracing::warn!("the network helper has died: it is started again");
        while let Err(error) = self.linked().await {
            tracing::error!(%error, "the network helper does not come back");
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    /// The helper that is there (true), else a new one.
    async fn start(&self) -> Result<(Link, bool)> {
        let socket = self.config.socket();
        if let Some(link) = connect(&socket).await {
            return Ok((link, true));
        }
        let failed = |what: String| move |error: io::Error| Error::os(what, error);
        let program = program(self.config.program.as_deref())?;
        let _ = std::fs::remove_file(&socket); // nobody listens there
        let listener = UnixListener::bind(&socket).map_err(failed(format!("bind {}", socket.display())))?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))
            .map_err(failed(format!("chmod {}", socket.display())))?;
        let log = self.config.state.join("netd.log");
        let long = std::fs::metadata(&log).is_ok_and(|meta| meta.len() > LOG_MAX);
        let log = OpenOptions::new()
            .create(true)
            .append(!long)
            .write(true)
            .truncate(long)
            .mode(0o600)
            .open(&log)
            .map_err(failed(format!("open {}", log.display())))?;
        let mut child = tokio::process::Command::new(&program)
            .arg("--socket")
            .arg(&socket)
            .arg("--root")
            .arg(&self.config.root)
            .arg("--resolv-conf")
            .arg(&self.config.resolv_conf)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(failed(format!("start {}", program.display())))?;
        tracing::info!(pid = child.id(), program = %program.display(), "network helper started");
        tokio::spawn(async move { drop(child.wait().await) });
        connect(&socket).await.map(|link| (link, false)).ok_or_else(|| {
            Error::new(Fault::Unreachable, format!("the network helper {} does not answer", program.display()))
                .remedy_is(format!("look into {}", self.config.state.join("netd.log").display()))
        })
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::internal(format!("the network helper answered {answer:?}"))
}

/// A helper of our version that listens at `socket`; one of another version is told to end.
async fn connect(socket: &Path) -> Option<Link> {
    let stream = timeout(DEADLINE, UnixStream::connect(socket)).await.ok()?.ok()?;
    let (reader, writer) = stream.into_split();
    let mut link = Link { reader: BufReader::new(reader), writer };
    match link.call(&Request::Hello).await {
        Ok(Answer::Hello { version: VERSION }) => Some(link),
        Ok(_) => {
            let _ = link.call(&Request::Stop).await; // whatever it answers, its successor takes the path
            None
        }
        Err(error) => {
            tracing::warn!(%error, "a network helper that does not answer");
            None
        }
    }
}

/// Ends when the helper hangs up, or says something that nobody asked for.
async fn lost(link: &mut Option<Link>) {
    match link {
        Some(link) => drop(link.reader.fill_buf().await),
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn program(given: Option<&Path>) -> Result<PathBuf> {
    let executable =
        |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join(PROGRAM));
    let in_path =
        || std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(PROGRAM)).find(executable);
    let found = match given {
        Some(given) => Some(given.to_owned()).filter(executable),
        None => beside().filter(executable).or_else(in_path),
    };
    found.ok_or_else(|| {
        let place =
            given.map_or_else(|| "beside the daemon's program or in PATH".into(), |given| given.display().to_string());
        Error::new(Fault::Unsupported, format!("the network helper {PROGRAM} is not {place}"))
            .remedy_is("install it beside crated")
    })
}
