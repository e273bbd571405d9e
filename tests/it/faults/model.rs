//! What must hold of the events of a daemon's whole life.

use serde_json::Value;
use std::collections::BTreeMap;

fn text(event: &Value, names: [&str; 2]) -> String {
    names.iter().find_map(|name| event["event"][*name].as_str()).unwrap_or_default().to_owned()
}

/// Each process that was told to start has one exit, after its start; none has two; nothing follows a delete but a new create.
pub(super) fn events_are_right(events: &[Value]) {
    let mut lives: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for event in events {
        let topic = event["topic"].as_str().unwrap_or_default();
        let id = text(event, ["container_id", "containerId"]);
        let own = text(event, ["id", "id"]);
        let of_init = topic != "/tasks/exit" && topic != "/tasks/delete" || own.is_empty() || own == id;
        if topic.starts_with("/tasks/") && !topic.contains("exec") && of_init {
            lives.entry(id).or_default().push((topic.to_owned(), event["event"]["pid"].as_u64().unwrap_or(0)));
        }
    }
    for (id, told) in &lives {
        let mut started: BTreeMap<u64, u32> = BTreeMap::new();
        let mut exited: BTreeMap<u64, u32> = BTreeMap::new();
        for (topic, pid) in told {
            match topic.as_str() {
                "/tasks/start" => {
                    assert!(!exited.contains_key(pid), "{id}: a start after the exit of {pid}: {told:?}");
                    *started.entry(*pid).or_default() += 1;
                }
                "/tasks/exit" => *exited.entry(*pid).or_default() += 1,
                _ => {}
            }
        }
        for (pid, count) in &exited {
            assert_eq!(*count, 1, "{id}: exits of {pid}: {told:?}");
        }
        for (pid, count) in &started {
            assert_eq!(*count, 1, "{id}: starts of {pid}: {told:?}");
            assert!(exited.contains_key(pid), "{id}: {pid} has no exit: {told:?}");
        }
    }
}

#[test]
#[should_panic(expected = "exits of 7")]
fn the_model_notices_an_exit_that_is_told_twice() {
    let exit = serde_json::json!({"topic": "/tasks/exit", "event": {"container_id": "c", "id": "c", "pid": 7}});
    events_are_right(&[exit.clone(), exit]);
}

#[test]
#[should_panic(expected = "7 has no exit")]
fn the_model_notices_an_exit_that_is_lost() {
    events_are_right(&[serde_json::json!({"topic": "/tasks/start", "event": {"container_id": "c", "pid": 7}})]);
}
