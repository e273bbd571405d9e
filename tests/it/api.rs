//! The engine's calls without a program in between: many a second, each with an end, and one that can be cut short.

use crated_api::crated::engine::v1::engine_client::EngineClient;
use crated_api::crated::engine::v1::{ContainerSummary, EventsRequest, ListRequest};
use crated_ctl::client::{Client, Scoped};
use futures::StreamExt;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;

/// Longest call.
const LONGEST: Duration = Duration::from_secs(60);

/// How a call ended that was not cut.
pub(crate) type Answer<T> = Result<T, String>;

/// Calls one daemon, whichever process that is at the time.
pub(crate) struct Api {
    runtime: tokio::runtime::Runtime,
    socket: PathBuf,
}

impl Api {
    pub(crate) fn new(socket: PathBuf) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, socket }
    }

    /// A call over a connection of its own, which is dropped after `cut`: none where that was before the answer.
    pub(crate) fn cut<T>(
        &self,
        cut: Duration,
        call: impl AsyncFnOnce(EngineClient<Scoped>) -> Result<T, Status>,
    ) -> Option<Answer<T>> {
        let address = self.socket.display().to_string();
        let work = async {
            let client = Client::connect(&address, "default").await.map_err(|failure| failure.to_string())?;
            call(client.engine()).await.map_err(|status| format!("{:?}: {}", status.code(), status.message()))
        };
        self.runtime.block_on(async { tokio::time::timeout(cut, work).await.ok() })
    }

    /// A call that is waited for.
    pub(crate) fn call<T>(&self, call: impl AsyncFnOnce(EngineClient<Scoped>) -> Result<T, Status>) -> Answer<T> {
        self.cut(LONGEST, call).unwrap_or_else(|| Err(format!("no answer within {LONGEST:?}")))
    }

    /// Every container.
    pub(crate) fn list(&self) -> Answer<Vec<ContainerSummary>> {
        let request = ListRequest { all: true, ..ListRequest::default() };
        self.call(async |mut engine| Ok(engine.list(request).await?.into_inner().containers))
    }

    /// Events behind a cursor, as JSON lines of `cratectl events --json` have them; and the newest cursor.
    pub(crate) fn events(&self, since: &str) -> Answer<(Vec<serde_json::Value>, String)> {
        let request =
            EventsRequest { since: since.into(), all_namespaces: true, no_follow: true, ..EventsRequest::default() };
        self.call(async |mut engine| {
            let mut told = engine.events(request).await?.into_inner();
            let (mut events, mut newest) = (Vec::new(), since.to_owned());
            while let Some(event) = told.next().await {
                let event = event?;
                let data: serde_json::Value = serde_json::from_str(&event.json).unwrap_or_default();
                newest.clone_from(&event.cursor);
                events.push(serde_json::json!({"cursor": event.cursor, "topic": event.topic, "event": data}));
            }
            Ok((events, newest))
        })
    }
}
