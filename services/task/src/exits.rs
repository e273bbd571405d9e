//! Events of shims become durable once, with the exit of init in the task's record in the same commit.

use crated_api::containerd::events::{TaskExit, TaskStart};
use crated_core::metadata::{MetadataStore, Op};
use crated_core::record::{Event, ExitRecord, TASKS, TaskRecord};
use crated_core::task::Exit;
use crated_types::{Fault, Result};
use prost::Message;
use prost_types::Any;

/// Topic of exits.
pub(crate) const EXIT: &str = "/tasks/exit";
/// Topic of starts.
const START: &str = "/tasks/start";
/// Topic of deletions.
pub(crate) const DELETE: &str = "/tasks/delete";

/// What every task event starts with.
#[derive(Clone, PartialEq, prost::Message)]
struct Subject {
    #[prost(string, tag = "1")]
    container_id: String,
}

/// Logs what a shim sent, unless it was logged before. Answers the task's record where this was the exit of init.
pub(crate) async fn log(store: &dyn MetadataStore, event: Event) -> Result<Option<TaskRecord>> {
    let value = event.event.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    let Ok(Subject { container_id }) = Subject::decode(value) else {
        return Err(crated_types::Error::invalid(
            "envelope.event",
            format_args!("{} is not a task event", event.topic),
        ));
    };
    let exit = if event.topic == EXIT { TaskExit::decode(value).ok() } else { None };
    let init_exit = exit.filter(|exit| exit.id == exit.container_id);
    let key = TASKS.key(&event.namespace, &container_id);
    loop {
        let Some((revision, mut record)) = TASKS.get(store, &key).await? else {
            tracing::debug!(topic = %event.topic, container = %container_id, "event of a task that is gone");
            return Ok(None);
        };
        if record.own && !is_newer(&event, &record) || init_exit.is_some() && record.exit.is_some() {
            return Ok(None);
        }
        record.last_event = event.timestamp;
        if let Some(exit) = &init_exit {
            record.exit = Some(ExitRecord {
                status: exit.exit_status,
                at: exit.exited_at,
                oom_killed: false,
                reason: String::new(),
            });
        }
        if event.topic == START {
            record.started_at = event.timestamp;
            // Where the shim dies while no daemon is there, its exit is told with this number.
            record.pid = TaskStart::decode(value).map_or(record.pid, |start| start.pid);
        }
        record.deleted |= event.topic == DELETE;
        let batch = vec![Op::Expect(key.clone(), revision), TASKS.put(key.clone(), &record), Op::event(&event)];
        // Of all that a shim tells only how its container ended outlives the boot.
        let logged = if init_exit.is_some() { store.commit(batch).await } else { store.commit_soon(batch).await };
        match logged {
            Ok(_) => return Ok(init_exit.map(|_| record)),
            Err(error) if error.fault() == Fault::Conflict => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_newer(event: &Event, record: &TaskRecord) -> bool {
    let number = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
    match (&event.timestamp, &record.last_event) {
        (Some(now), Some(before)) => number(now) > number(before),
        _ => true,
    }
}

/// An event that the daemon makes in a shim's stead.
pub(crate) fn instead(namespace: &str, topic: &str, name: &str, message: &impl Message, cause: &str) -> Op {
    Op::event(&Event {
        namespace: namespace.into(),
        topic: topic.into(),
        timestamp: Some(crated_core::time::now()),
        event: Some(Any { type_url: name.into(), value: message.encode_to_vec() }),
        actor: "crated".into(),
        cause: cause.into(),
    })
}

/// The exit of a record.
pub(crate) fn of(record: &TaskRecord) -> Option<Exit> {
    let exit = record.exit.as_ref()?;
    let at = exit.at.as_ref().map_or_else(std::time::SystemTime::now, crated_core::time::system);
    Some(Exit { pid: record.pid, status: exit.status, at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_core::fake::MemoryMetadata;
    use crated_core::metadata::Cursor;
    use prost_types::Timestamp;

    fn exit(second: i64) -> Event {
        let message = TaskExit { container_id: "c".into(), id: "c".into(), pid: 7, exit_status: 3, exited_at: None };
        Event {
            namespace: "ns".into(),
            topic: EXIT.into(),
            timestamp: Some(Timestamp { seconds: second, nanos: 0 }),
            event: Some(Any { type_url: "containerd.events.TaskExit".into(), value: message.encode_to_vec() }),
            ..Event::default()
        }
    }

    #[tokio::test]
    async fn a_repeated_exit_is_logged_once() {
        let store = MemoryMetadata::default();
        let record = TaskRecord { id: "c".into(), own: true, ..TaskRecord::default() };
        store.commit(vec![TASKS.put(TASKS.key("ns", "c"), &record)]).await.unwrap();
        assert!(log(&store, exit(1)).await.unwrap().is_some());
        assert!(log(&store, exit(1)).await.unwrap().is_none());
        assert!(log(&store, exit(2)).await.unwrap().is_none());
        assert_eq!(store.events(Cursor::default(), 9).await.unwrap().len(), 1);
        let (_, record) = TASKS.get(&store, &TASKS.key("ns", "c")).await.unwrap().unwrap();
        assert_eq!(record.exit.unwrap().status, 3);
    }

    #[tokio::test]
    async fn a_start_leaves_the_pid_for_an_exit_that_nobody_sees() {
        let store = MemoryMetadata::default();
        let record = TaskRecord { id: "c".into(), own: true, ..TaskRecord::default() };
        store.commit(vec![TASKS.put(TASKS.key("ns", "c"), &record)]).await.unwrap();
        let message = TaskStart { container_id: "c".into(), pid: 7 };
        let any = Any { type_url: "containerd.events.TaskStart".into(), value: message.encode_to_vec() };
        log(&store, Event { topic: START.into(), event: Some(any), ..exit(1) }).await.unwrap();
        let (_, record) = TASKS.get(&store, &TASKS.key("ns", "c")).await.unwrap().unwrap();
        assert_eq!(record.pid, 7);
    }

    #[tokio::test]
    async fn an_event_of_an_unknown_task_is_dropped() {
        let store = MemoryMetadata::default();
        assert!(log(&store, exit(1)).await.unwrap().is_none());
        assert!(store.events(Cursor::default(), 9).await.unwrap().is_empty());
    }
}
