//! List: containers with what they do, those of containerd's clients too.

use crated_api::crated::engine::v1::{ContainerSummary, ListRequest, ListResponse, TimelineRequest, TimelineResponse};
use crated_core::record::Container;
use crated_core::{ProcessStatus, Task};
use crated_types::filter::{Adaptor, Filter, Filters, map_field};
use crated_types::{ContainerId, Result, Scope};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::engine::Engine;
use crate::life::State;
use crate::network::verbs::ports_text;
use crate::record::{LIVES, Life};

/// How long a shim may take to say how its task is.
const ASK: Duration = Duration::from_secs(2);

/// What is known of a container that the engine did not make.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ForeignTask {
    pub(crate) pid: u32,
    pub(crate) exit: u32,
    pub(crate) started_at: Option<prost_types::Timestamp>,
    pub(crate) finished_at: Option<prost_types::Timestamp>,
}

impl Engine {
    /// Containers that pass, newest first; without `all` only those that run. The filters' fields are `id`, `name`, `image`,
    /// `status` and `labels.<key>`.
    pub async fn list(self: &Arc<Self>, scope: &Scope, request: ListRequest) -> Result<ListResponse> {
        let filters = Filter::parse_all(&request.filters)?;
        let all = request.all || request.last > 0;
        let records = self.deps.containers.list(scope, &Filters::default()).await?;
        let mut lives: BTreeMap<String, Life> = BTreeMap::new();
        for (key, _, life) in LIVES.list(&*self.deps.metadata, &LIVES.prefix(scope.namespace.as_str())).await? {
            if let Some((_, id)) = LIVES.parts(&key) {
                lives.insert(id.to_owned(), life);
            }
        }
        let attachments = match &self.deps.networks {
            Some(networks) => networks.attachments().await?,
            None => Vec::new(),
        };
        let ports: BTreeMap<&str, String> = attachments
            .iter()
            .filter(|attachment| attachment.namespace == scope.namespace.as_str() && !attachment.ports.is_empty())
            .map(|attachment| (attachment.container.as_str(), ports_text(attachment)))
            .collect();
        let now = SystemTime::now();
        let mut containers = Vec::new();
        for record in records {
            let summary = match lives.remove(&record.id) {
                Some(life) => {
                    let ports = ports.get(record.id.as_str()).cloned().unwrap_or_default();
                    ContainerSummary { ports, ..own_summary(&record, &life, now)? }
                }
                None => self.foreign_summary(scope, &record, now).await?,
            };
            let shown = all || matches!(summary.state.as_str(), "running" | "paused" | "restarting");
            if shown && filters.matches(&Fields(&summary)) {
                containers.push(summary);
            }
        }
        let nanos = |summary: &ContainerSummary| summary.created_at.map_or((0, 0), |time| (time.seconds, time.nanos));
        containers.sort_by(|one, two| nanos(two).cmp(&nanos(one)).then_with(|| one.id.cmp(&two.id)));
        if let Ok(last @ 1..) = usize::try_from(request.last) {
            containers.truncate(last);
        }
        Ok(ListResponse { containers })
    }

    /// The steps of the last operations on a container, oldest first.
    pub async fn timeline(self: &Arc<Self>, scope: &Scope, request: TimelineRequest) -> Result<TimelineResponse> {
        let found = self.find(scope, &request.container).await?;
        let record = self.journal.timeline(&scope.namespace, found.id.as_str()).await?;
        Ok(TimelineResponse { operations: record.operations })
    }

    /// What a container does that the engine did not make: its shim is asked.
    pub(crate) async fn foreign_state(&self, scope: &Scope, id: &ContainerId) -> Result<(State, ForeignTask)> {
        let Some(task) = self.task(scope, id).await? else { return Ok((State::Created, ForeignTask::default())) };
        let record = task.record();
        let mut known = ForeignTask {
            pid: record.pid,
            exit: record.exit.as_ref().map_or(0, |exit| exit.status),
            started_at: record.started_at.or(record.created_at),
            finished_at: record.exit.as_ref().and_then(|exit| exit.at),
        };
        if record.exit.is_some() {
            return Ok((State::Exited, known));
        }
        let state = match ask(&*task).await {
            Some(ProcessStatus::Created) => State::Created,
            Some(ProcessStatus::Paused | ProcessStatus::Pausing) => State::Paused,
            Some(ProcessStatus::Stopped) => State::Exited,
            Some(ProcessStatus::Running | ProcessStatus::Unknown) | None => State::Running,
        };
        if state == State::Created {
            known.started_at = None;
        }
        Ok((state, known))
    }

    async fn foreign_summary(&self, scope: &Scope, record: &Container, now: SystemTime) -> Result<ContainerSummary> {
        let id = ContainerId::new(&record.id)?;
        let (state, task) = self.foreign_state(scope, &id).await?;
        Ok(ContainerSummary {
            id: record.id.clone(),
            name: record.id.clone(),
            image: record.image.clone(),
            command: args_of(record).join(" "),
            created_at: record.created_at,
            state: state.name().into(),
            status: status_text(state, task.exit, task.started_at.as_ref(), task.finished_at.as_ref(), now),
            exit_status: task.exit,
            labels: record.labels.clone(),
            pid: if matches!(state, State::Running | State::Paused) { task.pid } else { 0 },
            started_at: task.started_at,
            finished_at: task.finished_at,
            runtime: record.runtime_name.clone(),
            ..ContainerSummary::default()
        })
    }
}

async fn ask(task: &dyn Task) -> Option<ProcessStatus> {
    match tokio::time::timeout(ASK, task.state(None)).await {
        Ok(Ok(state)) => Some(state.status),
        Ok(Err(_)) | Err(_) => None,
    }
}

fn own_summary(record: &Container, life: &Life, now: SystemTime) -> Result<ContainerSummary> {
    let config = life.wanted(&record.id)?;
    let state = life.state();
    Ok(ContainerSummary {
        id: record.id.clone(),
        name: life.name.clone(),
        image: config.image.clone(),
        command: args_of(record).join(" "),
        created_at: life.created_at,
        state: state.name().into(),
        status: status_text(state, life.exit, life.started_at.as_ref(), life.finished_at.as_ref(), now),
        exit_status: life.exit,
        labels: record.labels.clone(),
        pid: if life.running { life.pid } else { 0 },
        network: if config.network.is_empty() { "none".into() } else { config.network },
        started_at: life.started_at,
        finished_at: life.finished_at,
        ports: String::new(),
        runtime: record.runtime_name.clone(),
    })
}

/// The command of a container's spec; nothing else of the spec is kept.
pub(crate) fn args_of(record: &Container) -> Vec<String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Process {
        args: Vec<String>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Spec {
        process: Process,
    }
    let bytes = record.spec.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    serde_json::from_slice::<Spec>(bytes).unwrap_or_default().process.args
}

fn status_text(
    state: State,
    exit: u32,
    started: Option<&prost_types::Timestamp>,
    finished: Option<&prost_types::Timestamp>,
    now: SystemTime,
) -> String {
    let since = |time: Option<&prost_types::Timestamp>| {
        let then = time.map_or(now, crated_core::time::system);
        human(now.duration_since(then).unwrap_or_default())
    };
    match state {
        State::Created => "Created".into(),
        State::Running => format!("Up {}", since(started)),
        State::Paused => format!("Up {} (Paused)", since(started)),
        State::Restarting => format!("Restarting ({exit}) {} ago", since(finished)),
        State::Removing => "Removal In Progress".into(),
        State::Exited => format!("Exited ({exit}) {} ago", since(finished)),
    }
}

/// A length of time as docker says it.
pub(crate) fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, _, _) => "Less than a second".into(),
        (1, _, _) => "1 second".into(),
        (2..60, _, _) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".into(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

struct Fields<'a>(&'a ContainerSummary);

impl Adaptor for Fields<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let summary = self.0;
        Some(match path {
            ["id"] => summary.id.as_str().into(),
            ["name"] => summary.name.as_str().into(),
            ["image"] => summary.image.as_str().into(),
            ["status" | "state"] => summary.state.as_str().into(),
            ["exited"] => summary.exit_status.to_string().into(),
            ["runtime"] => summary.runtime.as_str().into(),
            ["labels", rest @ ..] => return map_field(&summary.labels, rest),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_docker_says_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (2 * 3600, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ] {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_command_is_read_from_any_spec() {
        let with = |text: &str| Container {
            spec: Some(prost_types::Any { type_url: String::new(), value: text.as_bytes().to_vec() }),
            ..Container::default()
        };
        assert_eq!(
            args_of(&with(r#"{"ociVersion":"1.2.0","process":{"args":["sh","-c","x"],"cwd":"/"}}"#)),
            ["sh", "-c", "x"]
        );
        assert!(args_of(&with("{}")).is_empty() && args_of(&with("rubbish")).is_empty());
        assert!(args_of(&Container::default()).is_empty());
    }

    #[test]
    fn states_have_dockers_texts() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        assert_eq!(status_text(State::Running, 0, at(990).as_ref(), None, now), "Up 10 seconds");
        assert_eq!(
            status_text(State::Exited, 3, at(1).as_ref(), at(940).as_ref(), now),
            "Exited (3) About a minute ago"
        );
        assert_eq!(status_text(State::Paused, 0, at(999).as_ref(), None, now), "Up 1 second (Paused)");
    }
}
