//! The task service, version 2 and 3 (the same messages under two names): each call is handed to the keeper.
//!
//! A caller that goes away loses its answer, not its change: the keeper ends what it began.

use crate::keeper::Op;
use bytes::Bytes;
use crated_ttrpc::{Context, Service, async_trait};
use crated_types::{Error, Fault, Result};
use tokio::sync::{mpsc, oneshot};

/// Names under which it is served.
pub(crate) const NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The way to the keeper.
#[derive(Clone, Debug)]
pub(crate) struct TaskService {
    keeper: mpsc::Sender<Op>,
}

impl TaskService {
    /// A service before a keeper.
    pub(crate) fn new(keeper: mpsc::Sender<Op>) -> Self {
        Self { keeper }
    }
}

#[async_trait]
impl Service for TaskService {
    async fn call(&self, _: Context, method: &str, payload: Bytes) -> Result<Bytes> {
        let ending = || Error::new(Fault::Unreachable, "the shim is ending");
        let (reply, answer) = oneshot::channel();
        let op = Op::Call { method: method.to_owned(), payload, reply };
        self.keeper.send(op).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}
