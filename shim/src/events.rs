//! Events to the daemon: one queue, in order, each kept until the daemon has acknowledged it.
//!
//! A daemon that is away or restarts is tried again with growing waits for as long as the shim lives, so that no exit is
//! lost. Where the queue is full, the oldest event that is no exit gives way.

use crate::args::Args;
use crate::log;
use crated_api::containerd::services::events::ttrpc::v1::ForwardRequest;
use crated_api::containerd::types::Envelope;
use crated_ttrpc::{CallOptions, Client, NAMESPACE_KEY};
use crated_types::{Code, Error, Fault, Result};
use prost::Message;
use prost_types::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// Events that wait at most.
const QUEUE: usize = 4096;
/// How long the daemon may take for one.
const PATIENCE: Duration = Duration::from_secs(5);
/// First and longest wait between two tries.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(2);
const EXIT: &str = "/tasks/exit";

/// Where events go.
#[derive(Debug)]
enum Target {
    Ttrpc(PathBuf),
    /// The way of old: a program that takes one event on its standard input.
    Program {
        path: String,
        address: String,
    },
    Nowhere,
}

/// The queue; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    namespace: String,
    target: Target,
    queue: RefCell<Queue>,
    changed: Notify,
    /// Somebody called: a daemon is there again.
    called: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Envelope>,
    last: Option<SystemTime>,
}

impl Events {
    /// A queue for the daemon that the command line and the environment name.
    pub(crate) fn new(args: &Args) -> Self {
        let ttrpc = std::env::var("TTRPC_ADDRESS").ok().filter(|address| !address.is_empty());
        let target = match ttrpc {
            Some(address) => Target::Ttrpc(address.strip_prefix("unix://").unwrap_or(&address).into()),
            None if !args.publish_binary.is_empty() => {
                Target::Program { path: args.publish_binary.clone(), address: args.address.clone() }
            }
            None if !args.address.is_empty() => Target::Ttrpc(format!("{}.ttrpc", args.address).into()),
            None => Target::Nowhere,
        };
        let namespace = args.namespace.clone();
        Self {
            inner: Rc::new(Inner {
                namespace,
                target,
                queue: RefCell::default(),
                changed: Notify::new(),
                called: Notify::new(),
            }),
        }
    }

    /// Queues an event; times of one shim's events grow strictly, so that a daemon can tell repetitions.
    pub(crate) fn publish(&self, topic: &str, name: &str, message: &impl Message) {
        if matches!(self.inner.target, Target::Nowhere) {
            return;
        }
        let mut queue = self.inner.queue.borrow_mut();
        let now = SystemTime::now();
        let time = match queue.last {
            Some(last) if last >= now => last + Duration::from_nanos(1),
            _ => now,
        };
        queue.last = Some(time);
        if queue.waiting.len() >= QUEUE {
            let victim = queue.waiting.iter().position(|event| event.topic != EXIT).unwrap_or(0);
            if let Some(event) = queue.waiting.remove(victim) {
                log::error(format_args!("event {} is dropped: {QUEUE} wait for the daemon", event.topic));
            }
        }
        queue.waiting.push_back(Envelope {
            timestamp: Some(crate::time::timestamp(time)),
            namespace: self.inner.namespace.clone(),
            topic: topic.into(),
            event: Some(Any { type_url: name.into(), value: message.encode_to_vec() }),
        });
        drop(queue);
        self.inner.changed.notify_waiters();
    }

    /// A daemon called: what waits for one is sent now.
    pub(crate) fn called(&self) {
        self.inner.called.notify_one();
    }

    /// Ends when every event is acknowledged.
    pub(crate) async fn flushed(&self) {
        loop {
            let changed = self.inner.changed.notified();
            if self.inner.queue.borrow().waiting.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Sends for ever.
    pub(crate) async fn run(self) {
        let mut client = None;
        let mut wait = WAITS.0;
        loop {
            let changed = self.inner.changed.notified();
            let next = self.inner.queue.borrow().waiting.front().cloned();
            let Some(event) = next else {
                if client.is_none() {
                    changed.await;
                } else if tokio::time::timeout(IDLE, changed).await.is_err() {
                    client = None;
                }
                continue;
            };
            match self.send(&mut client, &event).await {
                Err(error) if may_pass(&error) => {
                    log::debug(format_args!("event {} waits: {error}", event.topic));
                    client = None;
                    tokio::select! {
                        () = tokio::time::sleep(wait) => wait = (wait * 2).min(WAITS.1),
                        () = self.inner.called.notified() => wait = WAITS.0,
                    }
                    continue;
                }
                Err(error) => log::error(format_args!("event {} is refused: {error}", event.topic)),
                Ok(()) => {}
            }
            wait = WAITS.0;
            self.acknowledged(&event);
        }
    }

    /// Takes an event off; a full queue may have dropped it meanwhile.
    fn acknowledged(&self, event: &Envelope) {
        let mut queue = self.inner.queue.borrow_mut();
        if queue.waiting.front().is_some_and(|front| front.timestamp == event.timestamp) {
            queue.waiting.pop_front();
        }
        if queue.waiting.is_empty() {
            queue.waiting.shrink_to(8);
        }
        drop(queue);
        self.inner.changed.notify_waiters();
    }

    async fn send(&self, client: &mut Option<Client>, event: &Envelope) -> Result<()> {
        let path = match &self.inner.target {
            Target::Ttrpc(path) => path,
            Target::Program { path, address } => return publish_by(path, address, event),
            Target::Nowhere => return Ok(()),
        };
        let connected = match client {
            Some(connected) if !connected.is_closed() => connected,
            slot => {
                // Whatever the reason (no socket yet, no descriptor left): a daemon may come back.
                let away = |error: Error| Error::new(Fault::Unreachable, error.to_string());
                slot.insert(Client::connect(path).await.map_err(away)?)
            }
        };
        let request = ForwardRequest { envelope: Some(event.clone()) };
        let options = CallOptions::within(PATIENCE).with(NAMESPACE_KEY, &self.inner.namespace);
        connected.call("containerd.services.events.ttrpc.v1.Events", "Forward", &request, options).await
    }
}

/// Whether a later try may succeed.
fn may_pass(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::Internal
    )
}

/// `PROGRAM --address A publish --topic T --namespace NS`, the event on standard input. The end is not waited for: orphans
/// are reaped with all others.
fn publish_by(path: &str, address: &str, event: &Envelope) -> Result<()> {
    let failed = |error| Error::os(format!("run {path} publish"), error);
    let mut child = Command::new(path)
        .args(["--address", address, "publish", "--topic", &event.topic, "--namespace", &event.namespace])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let bytes = event.event.as_ref().map(Message::encode_to_vec).unwrap_or_default();
    let Some(mut stdin) = child.stdin.take() else { return Ok(()) };
    stdin.write_all(&bytes).map_err(failed)
}
