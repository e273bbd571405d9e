//! A person at a container: attach, and `start --attach`.

use crate::cmd::prelude::*;
use crate::terminal::{self, DetachKeys, Raw};
use clap::Args;
use crated_ctl::attach::{self, Output, Reader, Writer};
use crated_types::attach::Hello;
use std::io::Write;
use std::path::Path;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The sequence that detaches unless told otherwise.
pub(crate) const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// What a session is about.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) client: &'a Client,
    pub(crate) container: String,
    pub(crate) exec: String,
    pub(crate) stdin: bool,
    pub(crate) detach_keys: &'a str,
    /// Signals that we get go to the process.
    pub(crate) proxy: bool,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process ended.
    Exit(u32),
    /// The person left.
    Detached,
    /// The shim hung up.
    Closed,
}

/// An attached session that has not begun to copy.
#[derive(Debug)]
pub(crate) struct Attached {
    reader: Reader,
    writer: Writer,
}

impl Session<'_> {
    /// Attaches at the shim's socket.
    pub(crate) async fn attach(&self, socket: &str, scrollback: bool) -> Result<Attached> {
        let hello = Hello {
            exec: self.exec.clone(),
            container: self.container.clone(),
            stdin: self.stdin,
            stdout: true,
            stderr: true,
            scrollback,
        };
        let (reader, writer) = attach::attach(Path::new(socket), &hello).await?;
        Ok(Attached { reader, writer })
    }

    /// Copies until the process ends or the person leaves.
    pub(crate) async fn copy(&self, attached: Attached) -> Result<End> {
        let Attached { mut reader, mut writer } = attached;
        let _raw = if reader.terminal && self.stdin { Some(Raw::new()?) } else { None };
        if reader.terminal
            && let Some((columns, rows)) = terminal::size()
        {
            writer.resize(columns, rows).await?;
        }
        let mut typed = if self.stdin { Some(tokio::io::stdin()) } else { None };
        let mut keys = DetachKeys::parse(if reader.terminal { self.detach_keys } else { "" })?;
        let mut resized = signal(SignalKind::window_change())?;
        let mut signals = Signals::new(self.proxy && !(reader.terminal && self.stdin))?;
        let mut buffer = vec![0; 32 << 10];
        let (outputs, mut received) = tokio::sync::mpsc::channel(16);
        let reading = tokio::spawn(async move {
            loop {
                let output = reader.next().await;
                let last = !matches!(output, Ok(Output::Stdout(_) | Output::Stderr(_)));
                if outputs.send(output).await.is_err() || last {
                    return;
                }
            }
        });
        let end = loop {
            tokio::select! {
                output = received.recv() => match output.unwrap_or(Ok(Output::Closed))? {
                    Output::Stdout(bytes) => write_all(std::io::stdout(), &bytes)?,
                    Output::Stderr(bytes) => write_all(std::io::stderr(), &bytes)?,
                    Output::Exit(status) => break End::Exit(status),
                    Output::Closed => break End::Closed,
                },
                read = read(&mut typed, &mut buffer) => {
                    let count = read?;
                    let (passed, detach) = keys.filter(&buffer[..count]);
                    if detach {
                        let _ = writer.detach().await;
                        break End::Detached;
                    }
                    // The process may be ending: its exit is on the way, a failed write is no news.
                    if count == 0 {
                        typed = None;
                        let _ = writer.close_stdin().await;
                    } else if writer.stdin(&passed).await.is_err() {
                        typed = None;
                    }
                },
                _ = resized.recv() => if let Some((columns, rows)) = terminal::size() {
                    let _ = writer.resize(columns, rows).await;
                },
                number = signals.next() => self.forward(number).await,
            }
        };
        reading.abort();
        Ok(end)
    }

    async fn forward(&self, number: i32) {
        let request = api::KillRequest { container: self.container.clone(), signal: number.to_string() };
        if self.exec.is_empty() {
            let _ = self.client.engine().kill(request).await; // it may have ended meanwhile
        }
    }
}

async fn read(typed: &mut Option<tokio::io::Stdin>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match typed {
        Some(typed) => typed.read(buffer).await,
        None => std::future::pending().await,
    }
}

fn write_all(mut to: impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes)?;
    Ok(to.flush()?)
}

/// Signals that are passed on to the container.
struct Signals {
    watched: Vec<(i32, Signal)>,
}

impl Signals {
    fn new(proxy: bool) -> Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let watched = if proxy {
            kinds.iter().map(|kind| Ok((kind.as_raw_value(), signal(*kind)?))).collect::<Result<Vec<_>>>()?
        } else {
            Vec::new()
        };
        Ok(Self { watched })
    }

    async fn next(&mut self) -> i32 {
        if self.watched.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.watched.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        futures::future::select_all(waits).await.0
    }
}

/// Attach to a running container.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Do not forward standard input
    #[arg(long)]
    no_stdin: bool,
    /// Keys that detach
    #[arg(long, default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Forward signals to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    sig_proxy: bool,
    container: String,
}

impl Attach {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let request = api::ContainerRequest { container: self.container.clone() };
        let found = client.engine().attach(request).await?.into_inner();
        if !found.running {
            bail!("container {} is not running: start it with cratectl start --attach", found.name);
        }
        let session = Session {
            client,
            container: found.id,
            exec: String::new(),
            stdin: !self.no_stdin && found.open_stdin,
            detach_keys: &self.detach_keys,
            proxy: self.sig_proxy,
        };
        let attached = session.attach(&found.socket, true).await?;
        finish(session.copy(attached).await?)
    }
}

/// The exit status of a session.
pub(crate) fn finish(end: End) -> Result<u8> {
    match end {
        End::Exit(status) => Ok(u8::try_from(status).unwrap_or(u8::MAX)),
        End::Detached => Ok(0),
        End::Closed => bail!("the connection to the container was lost: its shim has ended"),
    }
}

/// Start containers.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Attach standard output and error, and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach standard input
    #[arg(short, long)]
    interactive: bool,
    /// Keys that detach
    #[arg(long, default_value = DETACH_KEYS)]
    detach_keys: String,
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Start {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        if !(self.attach || self.interactive) {
            return crate::cmd::for_each(&self.containers, |container| async move {
                let request = api::StartRequest { container: container.clone(), ..api::StartRequest::default() };
                client.engine().start(request).await?;
                Ok(container)
            })
            .await;
        }
        let [container] = self.containers.as_slice() else { bail!("only one container can be attached to at a time") };
        let shown = client.engine().inspect(api::InspectRequest { name: container.clone() }).await?.into_inner();
        let shown: serde_json::Value = serde_json::from_str(&shown.json)?;
        let (columns, rows) = terminal::size().unwrap_or_default();
        let prepare = api::StartRequest {
            container: container.clone(),
            prepare: true,
            console_columns: columns.into(),
            console_rows: rows.into(),
        };
        let prepared = client.engine().start(prepare).await?.into_inner();
        let session = Session {
            client,
            container: prepared.id.clone(),
            exec: String::new(),
            stdin: self.interactive && shown["Config"]["OpenStdin"] == true,
            detach_keys: &self.detach_keys,
            proxy: true,
        };
        let attached = session.attach(&prepared.attach_socket, false).await?;
        client.engine().start(api::StartRequest { container: prepared.id, ..api::StartRequest::default() }).await?;
        finish(session.copy(attached).await?)
    }
}
