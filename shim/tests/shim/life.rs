//! States, exits, signals, execs and what outlives whom.

use crate::harness::{Events, PROGRAM, Shim, soon};
use crated_api::containerd::events::TaskExit;
use crated_api::containerd::task::v3 as api;
use crated_api::containerd::v1::types::Status;
use crated_types::{Code, Fault};
use prost::Message;
use prost_types::Any;
use serde_json::json;
use std::os::fd::AsFd;
use std::path::Path;

#[tokio::test]
async fn a_container_lives_and_leaves_nothing() {
    let (shim, mut events) = Shim::start("life", |_| {}, &["sh", "-c", "echo out; echo err >&2; exit 3"]).await;
    let error = shim.state("").await.unwrap_err();
    assert_eq!((error.code(), error.to_string()), (Code::NotFound, "container not created: not found".into()));
    let connect = api::ConnectRequest { id: shim.id.clone() };
    let answer: api::ConnectResponse = shim.call("Connect", &connect).await.unwrap();
    assert_eq!((answer.shim_pid, answer.task_pid), (shim.child.id(), 0));

    let pid = shim.create("stdin=none").await;
    let state = shim.state("").await.unwrap();
    assert_eq!((state.pid, state.status(), state.exited_at), (pid, Status::Created, None));
    assert_eq!(std::fs::read_to_string(shim.bundle().join("init.pid")).unwrap(), pid.to_string());
    let again = shim.call::<api::CreateTaskResponse>("Create", &shim.request("")).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert_eq!(shim.run().await, pid);
    assert_eq!(shim.wait("").await, 3);
    assert_eq!(shim.wait("").await, 3, "also when it is over");

    let state = shim.state("").await.unwrap();
    assert_eq!((state.status(), state.exit_status), (Status::Stopped, 3));
    let exited_at = state.exited_at.unwrap();
    let error = shim.kill("", 9).await.unwrap_err();
    assert_eq!((error.code(), error.to_string()), (Code::NotFound, "process already finished: not found".into()));
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(shim.bundle().join("exit.json")).unwrap()).unwrap();
    assert_eq!(
        (&record["pid"], &record["exit_status"], &record["oom_killed"]),
        (&json!(pid), &json!(3), &json!(false))
    );

    shim.call::<()>("Shutdown", &api::ShutdownRequest { id: shim.id.clone(), now: false }).await.unwrap();
    assert!(!shim.client.is_closed(), "a shim with a container stays");
    let deleted = shim.delete("").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status, deleted.exited_at), (pid, 3, Some(exited_at)));
    assert_eq!(events.topics(4).await, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    let mut entries = shim.entries();
    entries.sort();
    assert_eq!(entries, [("stderr".into(), "err\n".into()), ("stdout".into(), "out\n".into())]);
    shim.shutdown().await;
}

#[tokio::test]
async fn refusals_have_the_texts_that_clients_know() {
    let (shim, mut events) = Shim::start("states", |_| {}, &["sleep", "1000"]).await;
    let id = shim.id.clone();
    shim.create("stdin=none").await;
    let pause = api::PauseRequest { id: id.clone() };
    let resume = api::ResumeRequest { id: id.clone() };
    let error = shim.call::<()>("Pause", &pause).await.unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), (Code::Unknown, "cannot pause task in created state"));
    shim.run().await;
    assert_eq!(shim.try_start("").await.unwrap_err().to_string(), "cannot start a running process");
    assert_eq!(shim.delete("").await.unwrap_err().to_string(), "cannot delete a running process");
    let unknown = shim.kill("nope", 9).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let checkpoint = api::CheckpointTaskRequest { id: id.clone(), ..Default::default() };
    assert_eq!(shim.call::<()>("Checkpoint", &checkpoint).await.unwrap_err().code(), Code::Unimplemented);
    let resize = api::ResizePtyRequest { id: id.clone(), width: 1, height: 1, ..Default::default() };
    shim.call::<()>("ResizePty", &resize).await.expect("no terminal is no error");

    shim.call::<()>("Pause", &pause).await.unwrap();
    assert_eq!(shim.state("").await.unwrap().status(), Status::Paused);
    let error = shim.exec("e", &["true"], false, "").await.unwrap_err();
    assert_eq!(error.to_string(), "cannot exec in a paused state");
    shim.call::<()>("Resume", &resume).await.unwrap();
    assert_eq!(shim.state("").await.unwrap().status(), Status::Running);

    let stats: api::StatsResponse = shim.call("Stats", &api::StatsRequest { id: id.clone() }).await.unwrap();
    assert!(stats.stats.unwrap().type_url.starts_with("io.containerd.cgroups.v"));
    let resources = Any { type_url: String::new(), value: br#"{"pids":{"limit":77}}"#.to_vec() };
    let update = api::UpdateTaskRequest { id: id.clone(), resources: Some(resources), ..Default::default() };
    shim.call::<()>("Update", &update).await.unwrap();

    // A paused container can be killed.
    shim.call::<()>("Pause", &pause).await.unwrap();
    shim.kill("", 9).await.unwrap();
    assert_eq!(shim.wait("").await, 137);
    shim.delete("").await.unwrap();
    let topics = events.topics(7).await;
    assert_eq!(topics[2..], ["/tasks/paused", "/tasks/resumed", "/tasks/paused", "/tasks/exit", "/tasks/delete"]);
    shim.shutdown().await;
}

#[tokio::test]
async fn a_created_container_can_be_deleted() {
    let (shim, mut events) = Shim::start("created", |_| {}, &["true"]).await;
    shim.create("stdin=none").await;
    assert_eq!(shim.delete("").await.unwrap().exit_status, 137);
    assert_eq!(events.topics(3).await, ["/tasks/create", "/tasks/exit", "/tasks/delete"]);
    shim.shutdown().await;
}

#[tokio::test]
async fn who_waits_at_a_gate_is_closed_to_all_but_its_start() {
    use crated_sys::OFlag;
    // A copy of the shim where that is sealed, a fresh program else.
    for sealed in [true, false] {
        let (shim, _events) = match sealed {
            true => Shim::start("gate", |_| {}, &["sleep", "1000"]).await,
            false => Shim::start_program(PROGRAM, "gate", |_| {}, &["sleep", "1000"]).await,
        };
        let pid = shim.create("stdin=none").await;
        let proc = Path::new("/proc").join(pid.to_string());
        let comm = std::fs::read_to_string(proc.join("comm")).unwrap();
        assert_eq!(comm == "crated-init\n", sealed, "{comm}");
        let exe = crated_sys::fs::open(&proc.join("exe"), OFlag::O_RDONLY, 0).unwrap();
        assert!(crated_sys::memfd::is_sealed(exe.as_fd()), "nobody inside can write to what it runs");
        let open: Vec<String> = std::fs::read_dir(proc.join("fd"))
            .unwrap()
            .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
            .collect();
        let count = |what: &str| open.iter().filter(|link| link.starts_with(what)).count();
        assert_eq!((count("socket:"), count("anon_inode:[event")), (1, 0), "{open:?}");
        assert!(!open.iter().any(|link| link.contains("out.json")), "{open:?}");
        shim.run().await;
        shim.kill("", 9).await.unwrap();
        assert_eq!(shim.wait("").await, 137);
        shim.delete("").await.unwrap();
        shim.shutdown().await;
    }
}

#[tokio::test]
async fn execs_have_their_own_lives() {
    let (shim, mut events) = Shim::start("exec", |_| {}, &["sleep", "1000"]).await;
    shim.create("stdin=none").await;
    shim.run().await;
    let own = "crated://?stdin=none";
    shim.exec("one", &["sh", "-c", "echo hello; exit 5"], false, own).await.unwrap();
    assert_eq!(shim.exec("one", &["true"], false, "").await.unwrap_err().code(), Code::AlreadyExists);
    let mut attached = shim.attach("one", false).await;
    assert_eq!(attached.frame().await.unwrap().0, crated_types::attach::FrameType::Attached);
    shim.try_start("one").await.unwrap();
    assert_eq!(attached.exit().await, 5);
    assert_eq!(attached.text(), "hello\n");
    assert_eq!(shim.wait("one").await, 5);
    let deleted = shim.delete("one").await.unwrap();
    assert_eq!(deleted.exit_status, 5);
    assert_eq!(shim.state("one").await.unwrap_err().code(), Code::NotFound);

    shim.exec("two", &["sleep", "1000"], false, "").await.unwrap();
    let pid = shim.try_start("two").await.unwrap();
    let pids: api::PidsResponse = shim.call("Pids", &api::PidsRequest { id: shim.id.clone() }).await.unwrap();
    let details = pids.processes.iter().find(|process| process.pid == pid).unwrap().info.clone().unwrap();
    assert_eq!((pids.processes.len(), details.type_url.as_str()), (2, "containerd.runc.v1.ProcessDetails"));

    shim.exec("bad", &["/no/such"], false, "").await.unwrap();
    let error = shim.try_start("bad").await.unwrap_err();
    assert_eq!(error.fault(), Fault::CommandNotFound, "{error:?}");
    shim.delete("bad").await.unwrap();

    // Init takes the others with it; their exits come first.
    shim.kill("", 15).await.unwrap();
    shim.kill("", 9).await.unwrap();
    assert_eq!((shim.wait("").await, shim.wait("two").await), (137, 137));
    shim.exec("three", &["true"], false, "").await.unwrap_err();
    let mut exits = Vec::new();
    while exits.last() != Some(&shim.id) {
        let (topic, event) = events.next().await;
        if topic == "/tasks/exit" {
            exits.push(TaskExit::decode(event.value.as_slice()).unwrap().id);
        }
    }
    assert_eq!(exits, ["one", "two", &shim.id]);
    shim.delete("two").await.unwrap();
    shim.delete("").await.unwrap();
    shim.shutdown().await;
}

#[tokio::test]
async fn a_missing_command_is_named() {
    let (shim, _events) = Shim::start("missing", |_| {}, &["/no/such/program"]).await;
    let created = shim.call::<api::CreateTaskResponse>("Create", &shim.request("crated://?stdin=none")).await;
    let error = match created {
        Err(error) => error,
        Ok(_) => {
            let error = shim.try_start("").await.unwrap_err();
            assert_eq!(shim.wait("").await, 127);
            shim.delete("").await.unwrap();
            error
        }
    };
    assert_eq!(error.fault(), Fault::CommandNotFound, "{error:?}");
    assert!(error.remedy().is_some());
    shim.shutdown().await;
}

#[tokio::test]
async fn without_a_pid_namespace_nothing_outlives_init() {
    let change = |spec: &mut serde_json::Value| {
        spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]);
    };
    let script = "(sleep 1000 & sleep 0.01 & ) ; sleep 1000 & echo ready; read line; exit 0";
    let (shim, _events) = Shim::start("hostpid", change, &["sh", "-c", script]).await;
    shim.create("stdin=open").await;
    let mut attached = shim.attach("", true).await;
    shim.run().await;
    attached.until("ready").await;
    attached.send(crated_types::attach::FrameType::Stdin, b"\n").await;
    assert_eq!(attached.exit().await, 0);
    assert_eq!(shim.wait("").await, 0);
    let pids: api::PidsResponse = shim.call("Pids", &api::PidsRequest { id: shim.id.clone() }).await.unwrap();
    shim.delete("").await.unwrap();
    // Orphans became the shim's children; all are reaped.
    let children = format!("/proc/{0}/task/{0}/children", shim.child.id());
    soon(async {
        while std::fs::read_to_string(&children).is_ok_and(|text| !text.trim().is_empty()) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(pids.processes.len() <= 3, "two that sleep long, and one that may still sleep its 10 ms");
    shim.shutdown().await;
}

#[tokio::test]
async fn events_wait_for_a_daemon_that_is_away() {
    let (shim, events) = Shim::start("away", |_| {}, &["sh", "-c", "exit 4"]).await;
    drop(events);
    let socket = shim.dir.path().join("events");
    std::fs::remove_file(&socket).unwrap();
    shim.create("stdin=none").await;
    shim.run().await;
    assert_eq!(shim.wait("").await, 4);
    let mut events = Events::listen(&socket);
    assert_eq!(events.topics(3).await, ["/tasks/create", "/tasks/start", "/tasks/exit"]);
    shim.delete("").await.unwrap();
    assert_eq!(events.topics(1).await, ["/tasks/delete"]);
    assert!(events.seen.try_recv().is_err(), "each comes once");
    shim.shutdown().await;
}

#[tokio::test]
async fn a_container_without_memory_is_told() {
    let change = |spec: &mut serde_json::Value| {
        spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    };
    let eat = "x=$(yes | head -c 1000000000 | tail -c 900000000)";
    let (shim, mut events) = Shim::start("oom", change, &["sh", "-c", eat]).await;
    let request = shim.request(&format!("crated://{}?stdin=none", shim.log().display()));
    if let Err(error) = shim.call::<api::CreateTaskResponse>("Create", &request).await {
        println!("skip: memory limits: {error}");
        return;
    }
    shim.run().await;
    shim.wait("").await;
    let mut topics = Vec::new();
    while topics.last().is_none_or(|topic| topic != "/tasks/exit") {
        topics.extend(events.topics(1).await);
    }
    assert!(topics.contains(&"/tasks/oom".to_owned()), "{topics:?}\n{}", shim.said());
    shim.delete("").await.unwrap();
    shim.shutdown().await;
}

#[tokio::test]
async fn signals_to_the_shim_spare_the_container() {
    let (shim, _events) = Shim::start("signals", |_| {}, &["sleep", "1000"]).await;
    shim.create("stdin=none").await;
    shim.run().await;
    for signal in [15, 2, 13] {
        crated_sys::process::kill(shim.child.id() as i32, signal).unwrap();
    }
    assert_eq!(shim.state("").await.unwrap().status(), Status::Running);
    shim.kill("", 9).await.unwrap();
    shim.wait("").await;
    shim.delete("").await.unwrap();
    shim.shutdown().await;
}

#[tokio::test]
async fn what_a_killed_shim_leaves_is_removed() {
    let (mut shim, _events) = Shim::start("killed", |_| {}, &["sh", "-c", "sleep 1000 & sleep 1000"]).await;
    let pid = shim.create("stdin=none").await;
    shim.run().await;
    let init = crated_sys::pidfd::open(pid as i32).unwrap();
    shim.child.kill().unwrap();
    shim.child.wait().unwrap();
    let output = std::process::Command::new(PROGRAM)
        .args(["-namespace", "test", "-address", "/none", "-id", &shim.id, "-bundle"])
        .arg(shim.bundle())
        .arg("delete")
        .current_dir(shim.bundle())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let response = api::DeleteResponse::decode(output.stdout.as_slice()).unwrap();
    assert_eq!((response.pid, response.exit_status), (pid, 137));
    assert!(response.exited_at.is_some());
    assert!(crated_sys::poll::readable(init.as_fd(), Some(crate::harness::LONG)).unwrap());
    shim.no_cgroups();
}

#[tokio::test]
async fn a_shim_keeps_several_containers() {
    let (shim, mut events) = Shim::start("pod", |_| {}, &["sleep", "1000"]).await;
    shim.create("stdin=none").await;
    shim.run().await;
    let id = crate::harness::unique("second");
    let bundle = shim.dir.path().join("second");
    std::fs::create_dir(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), crate::harness::spec(&id, &["sh", "-c", "exit 8"]).to_string()).unwrap();
    let mut request = shim.request("");
    (request.id, request.bundle) = (id.clone(), bundle.display().to_string());
    shim.create_with(request).await;
    let start = api::StartRequest { id: id.clone(), exec_id: String::new() };
    shim.call::<api::StartResponse>("Start", &start).await.unwrap();
    let wait = api::WaitRequest { id: id.clone(), exec_id: String::new() };
    assert_eq!(shim.call::<api::WaitResponse>("Wait", &wait).await.unwrap().exit_status, 8);
    let delete = api::DeleteRequest { id: id.clone(), exec_id: String::new() };
    assert_eq!(shim.call::<api::DeleteResponse>("Delete", &delete).await.unwrap().exit_status, 8);
    assert_eq!(shim.state("").await.unwrap().status(), Status::Running);
    shim.kill("", 9).await.unwrap();
    assert_eq!(shim.wait("").await, 137);
    shim.delete("").await.unwrap();
    assert_eq!(events.topics(8).await.iter().filter(|topic| *topic == "/tasks/exit").count(), 2);
    shim.shutdown().await;
}
