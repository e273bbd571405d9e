//! What a schedule does to a container, and what may be afterwards.

use crate::api::{Answer, Api};
use crated_api::crated::engine::v1;
use futures::StreamExt;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::Status;

/// States by `ps`' words; `-`: not there.
pub(super) type States = BTreeSet<&'static str>;

/// Every state, by the text of a daemon.
pub(super) fn known(text: &str) -> &'static str {
    ["created", "running", "paused", "restarting", "removing", "exited"]
        .into_iter()
        .find(|state| *state == text)
        .unwrap_or("?")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Create,
    Run,
    Start,
    Stop,
    Restart,
    Kill,
    Pause,
    Unpause,
    Rename,
    Update,
    Exec,
    Remove,
}

/// What makes one that is not there, and what is done to one that is; the frequent ones stand twice.
pub(super) const MAKE: [Act; 3] = [Act::Create, Act::Run, Act::Run];
pub(super) const CHANGE: [Act; 13] = [
    Act::Start,
    Act::Start,
    Act::Stop,
    Act::Stop,
    Act::Restart,
    Act::Kill,
    Act::Pause,
    Act::Unpause,
    Act::Rename,
    Act::Update,
    Act::Exec,
    Act::Remove,
    Act::Remove,
];

/// What a container does: it sleeps, or ends at once with 7.
fn config(name: &str, short: bool) -> v1::ContainerConfig {
    let command: &[&str] = if short { &["sh", "-c", "exit 7"] } else { &["sleep", "1000"] };
    v1::ContainerConfig {
        name: name.into(),
        image: "bb:1".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..v1::ContainerConfig::default()
    }
}

async fn whole(mut answers: tonic::Streaming<v1::RunResponse>) -> Result<(), Status> {
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

impl Act {
    /// Does it. None: the client was gone before the answer.
    pub(super) fn run(self, api: &Api, name: &str, new: &str, short: bool, cut: Duration) -> Option<Answer<()>> {
        let container = name.to_owned();
        let stop = v1::StopRequest { container: name.into(), timeout: Some(0), signal: String::new() };
        api.cut(cut, async |mut engine| match self {
            Self::Create => {
                let request = v1::CreateRequest { config: Some(config(name, short)) };
                whole(engine.create(request).await?.into_inner()).await
            }
            Self::Run => {
                let request = v1::RunRequest { config: Some(config(name, short)), attach: false };
                whole(engine.run(request).await?.into_inner()).await
            }
            Self::Start => engine.start(v1::StartRequest { container, ..Default::default() }).await.map(drop),
            Self::Stop => engine.stop(stop).await.map(drop),
            Self::Restart => engine.restart(stop).await.map(drop),
            Self::Kill => engine.kill(v1::KillRequest { container, signal: String::new() }).await.map(drop),
            Self::Pause => engine.pause(v1::ContainerRequest { container }).await.map(drop),
            Self::Unpause => engine.unpause(v1::ContainerRequest { container }).await.map(drop),
            Self::Rename => engine.rename(v1::RenameRequest { container, name: new.into() }).await.map(drop),
            Self::Update => {
                let resources = Some(v1::Resources { memory: 64 << 20, ..Default::default() });
                engine
                    .update(v1::UpdateRequest { container, resources, ..v1::UpdateRequest::default() })
                    .await
                    .map(drop)
            }
            Self::Exec => {
                let command = vec!["true".into()];
                let exec = v1::ExecRequest { container, command, detach: true, ..Default::default() };
                engine.exec(exec).await.map(drop)
            }
            Self::Remove => engine.remove(v1::RemoveRequest { container, force: true }).await.map(drop),
        })
    }

    /// Whether it succeeds on a container in this state where nothing disturbs it.
    pub(super) fn is_fine(self, before: &str) -> bool {
        match self {
            Self::Create | Self::Run => before == "-",
            Self::Start => matches!(before, "created" | "running" | "exited"),
            Self::Stop | Self::Restart | Self::Rename | Self::Update | Self::Remove => before != "-",
            Self::Kill => matches!(before, "running" | "paused"),
            Self::Pause | Self::Exec => before == "running",
            Self::Unpause => before == "paused",
        }
    }

    /// The state after a success.
    pub(super) fn after(self, before: &'static str, short: bool) -> &'static str {
        let runs = if short { "exited" } else { "running" };
        match self {
            Self::Create => "created",
            Self::Run | Self::Start | Self::Restart | Self::Unpause => runs,
            Self::Stop if before == "created" => "created",
            Self::Stop | Self::Kill => "exited",
            Self::Pause => "paused",
            Self::Remove => "-",
            Self::Rename | Self::Update | Self::Exec => before,
        }
    }

    /// States that it may pass through, or lead to later, where nobody was told of its success.
    pub(super) fn between(self, before: &'static str, short: bool) -> States {
        let mut states = States::from([before, self.after(before, short)]);
        match self {
            Self::Create | Self::Pause | Self::Unpause | Self::Rename | Self::Update | Self::Exec => {}
            Self::Run => states.extend(["created", "running", "exited"]),
            Self::Start => states.extend(["running", "exited"]),
            Self::Stop | Self::Kill => states.extend(["running", "exited"]),
            Self::Restart => states.extend(["running", "exited", "created"]),
            Self::Remove => states.extend(["removing", "exited", "running"]),
        }
        states
    }
}
