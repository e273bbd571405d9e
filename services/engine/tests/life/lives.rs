//! Lives as people lead them.

use crate::fakes::{all, lock};
use crate::host::{Host, container, scope, wish};
use crated_api::crated::engine::v1::*;
use crated_core::ProcessStatus;
use crated_types::Fault;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn remove(name: &str, force: bool) -> RemoveRequest {
    RemoveRequest { container: name.into(), force }
}

fn stop(name: &str, timeout: i64) -> StopRequest {
    StopRequest { container: name.into(), timeout: Some(timeout), signal: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_and_leaves_nothing() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let created = daemon.create(wish("web")).await.unwrap();
    assert_eq!(daemon.state("web").await, "created");
    let pid = daemon.start("web").await.unwrap();
    assert_eq!(daemon.inspect("web").await["State"]["Pid"], json!(pid));
    assert_eq!(daemon.start("web").await.unwrap(), pid, "starting what runs changes nothing");
    let stdio = lock(&host.shims.map)[&created.id].stdio.clone();
    assert!(stdio.stdout.starts_with("crated:///") && stdio.stdout.contains("-json.log?stdin=none"), "{stdio:?}");
    assert_eq!(daemon.engine.remove(&scope(), remove("web", false)).await.unwrap_err().fault(), Fault::Precondition);
    daemon.tasks.end(&created.id, 3, 1).await;
    assert_eq!(daemon.wait("web").await.unwrap().status, 3);
    daemon.until(async || daemon.status(&created.id).is_none()).await;
    assert_eq!(daemon.state("web").await, "exited");
    let timeline = daemon.engine.timeline(&scope(), TimelineRequest { container: "web".into() }).await.unwrap();
    assert_eq!(timeline.operations.iter().map(|past| past.kind.as_str()).collect::<Vec<_>>(), ["create", "start"]);
    assert!(timeline.operations[1].steps.iter().any(|step| step.name == "task"));
    daemon.start(&created.id[..10]).await.unwrap();
    daemon.engine.remove(&scope(), remove("web", true)).await.unwrap();
    assert_eq!(host.traces(), Vec::<String>::new());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_that_a_full_disk_refuses_is_written_down_once_there_is_room() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let created = daemon.create(wish("web")).await.unwrap();
    daemon.start("web").await.unwrap();
    let disk = Arc::clone(&daemon.tasks.crash);
    disk.refused.store(3, Ordering::SeqCst);
    daemon.tasks.end(&created.id, 4, 1).await;
    assert_eq!(daemon.wait("web").await.unwrap().status, 4);
    assert_eq!(disk.refused.load(Ordering::SeqCst), 0, "it was refused before");
    assert_eq!(daemon.state("web").await, "exited");
    daemon.until(async || daemon.status(&created.id).is_none()).await;
    daemon.engine.remove(&scope(), remove("web", false)).await.unwrap();
    assert_eq!(host.traces(), Vec::<String>::new());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_says_what_containerds_clients_look_for() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let mut config = wish("web");
    config.labels.insert("mine".into(), "1".into());
    config.credentials = Some(Credentials { secret: "hidden".into(), ..Credentials::default() });
    let created = daemon.create(config).await.unwrap();
    let inspected = daemon.inspect("web").await;
    assert_eq!(
        inspected["Config"]["Labels"],
        json!({"from": "image", "io.containerd.image.config.stop-signal": "SIGQUIT", "mine": "1"})
    );
    assert_eq!(inspected["Name"], "/web");
    assert_eq!(inspected["Mounts"][0]["Destination"], "/data");
    assert_eq!(inspected["Path"], "/bin/true");
    let secret = host.store.keys().into_iter().collect::<Vec<_>>();
    assert!(secret.iter().any(|key| key == &format!("life/test/{}", created.id)));
    for key in secret {
        let stored = crated_core::MetadataStore::get(&*host.store, key.as_bytes()).await.unwrap().unwrap();
        assert!(!stored.value.windows(6).any(|bytes| bytes == b"hidden"), "{key} holds a secret");
    }
    assert!(all().is_all());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_has_one_holder_and_failures_free_it() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let first = daemon.create(wish("web")).await.unwrap();
    let taken = daemon.create(wish("web")).await.unwrap_err();
    assert_eq!(taken.fault(), Fault::NameInUse);
    assert!(taken.to_string().contains(&first.id[..12]), "{taken}");
    let before = host.traces();
    let mut unreachable = wish("other");
    unreachable.image = "none:1".into();
    assert_eq!(daemon.create(unreachable).await.unwrap_err().fault(), Fault::NotFound);
    let mut bad = wish("other");
    bad.mounts.push(Mount {
        r#type: "bind".into(),
        source: "/does/not/exist".into(),
        target: "/x".into(),
        options: vec!["must-exist".into()],
        ..Mount::default()
    });
    assert_eq!(daemon.create(bad).await.unwrap_err().fault(), Fault::Invalid);
    let mut unknown = wish("other");
    unknown.user = "nobody-here".into();
    daemon.create(unknown).await.unwrap_err();
    assert_eq!(host.traces(), before);
    let rename = |from: &str, to: &str| RenameRequest { container: from.into(), name: to.into() };
    let second = daemon.create(wish("other")).await.unwrap();
    assert_eq!(daemon.engine.rename(&scope(), rename("other", "web")).await.unwrap_err().fault(), Fault::NameInUse);
    daemon.engine.rename(&scope(), rename("other", "db")).await.unwrap();
    assert_eq!(daemon.inspect("db").await["Id"], json!(second.id));
    daemon.create(wish("other")).await.unwrap();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_gets_a_name() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let attempts = futures::future::join_all((0..8).map(|_| daemon.create(wish("web")))).await;
    let won = attempts.iter().filter(|attempt| attempt.is_ok()).count();
    assert_eq!(won, 1);
    assert!(attempts.iter().flat_map(|attempt| attempt.as_ref().err()).all(|error| error.fault() == Fault::NameInUse));
    assert_eq!(lock(&host.snapshots).len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_are_found_by_their_beginning() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let mut ids = Vec::new();
    for _ in 0..17 {
        ids.push(daemon.create(wish("")).await.unwrap().id);
    }
    assert_eq!(daemon.inspect(&ids[0][..12]).await["Id"], json!(ids[0]));
    let shared =
        "0123456789abcdef".chars().find(|digit| ids.iter().filter(|id| id.starts_with(*digit)).count() > 1).unwrap();
    let request = InspectRequest { name: shared.to_string() };
    assert_eq!(daemon.engine.inspect(&scope(), request).await.unwrap_err().fault(), Fault::Invalid);
    let request = InspectRequest { name: "nothing".into() };
    assert_eq!(daemon.engine.inspect(&scope(), request).await.unwrap_err().fault(), Fault::NotFound);
    assert_eq!(daemon.names().await.len(), 17);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_says_why_and_leaves_no_task() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let created = daemon.create(wish("web")).await.unwrap();
    for (fault, status) in [(Fault::CommandNotFound, 127), (Fault::CommandNotExecutable, 126), (Fault::Os, 128)] {
        *lock(&host.shims.refuse) = Some(fault);
        assert_eq!(daemon.start("web").await.unwrap_err().fault(), fault);
        assert!(daemon.status(&created.id).is_none());
        let state = daemon.inspect("web").await["State"].clone();
        assert_eq!((&state["ExitCode"], &state["Status"]), (&json!(status), &json!("created")));
        assert!(!state["Error"].as_str().unwrap().is_empty());
    }
    daemon.start("web").await.unwrap();
    assert_eq!(daemon.inspect("web").await["State"]["Error"], "");
    *lock(&host.shims.refuse) = Some(Fault::CommandNotFound);
    let mut config = wish("gone");
    config.auto_remove = true;
    let run = RunRequest { config: Some(config), attach: false };
    let failed = container(daemon.engine.run(&scope(), run).await.unwrap()).await;
    assert_eq!(failed.unwrap_err().fault(), Fault::CommandNotFound);
    assert_eq!(daemon.names().await, ["web"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_run_holds_its_output_for_the_client_and_goes_when_it_ends() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let mut config = wish("web");
    config.auto_remove = true;
    let run = RunRequest { config: Some(config), attach: true };
    let created = container(daemon.engine.run(&scope(), run).await.unwrap()).await.unwrap();
    assert_eq!(created.attach_socket, format!("/run/fake/{}.attach", created.id));
    assert_eq!(daemon.status(&created.id), Some(ProcessStatus::Running));
    let attach = daemon.engine.attach(&scope(), ContainerRequest { container: "web".into() }).await.unwrap();
    assert!(attach.running && attach.socket == created.attach_socket);
    let waiting = {
        let engine = daemon.engine.clone();
        tokio::spawn(async move { engine.wait(&scope(), WaitRequest { container: "web".into(), removed: true }).await })
    };
    daemon.tasks.end(&created.id, 42, 1).await;
    assert_eq!(waiting.await.unwrap().unwrap().status, 42);
    assert_eq!(host.traces(), Vec::<String>::new());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_that_is_told_again_counts_once() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let mut config = wish("web");
    config.restart = Some(RestartPolicy { name: "on-failure".into(), maximum_retries: 2 });
    let created = daemon.create(config).await.unwrap();
    daemon.start("web").await.unwrap();
    for round in 1..=2_u32 {
        daemon.tasks.end(&created.id, 1, 5).await;
        daemon
            .until(async || {
                let inspected = daemon.inspect("web").await;
                inspected["RestartCount"] == json!(round) && inspected["State"]["Running"] == json!(true)
            })
            .await;
    }
    daemon.tasks.end(&created.id, 1, 5).await;
    daemon.until(async || daemon.state("web").await == "exited").await;
    assert_eq!(daemon.inspect("web").await["RestartCount"], json!(2));
    daemon.until(async || daemon.status(&created.id).is_none()).await;
    assert_eq!(host.shims.deleted.load(Ordering::SeqCst), 3);
    daemon.stop().await;

    // All of it is told once more: a new daemon, from a cursor that was never kept.
    let daemon = host.daemon().await;
    assert_eq!(daemon.inspect("web").await["RestartCount"], json!(2));
    assert_eq!(daemon.state("web").await, "exited");
    assert_eq!(host.shims.deleted.load(Ordering::SeqCst), 3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_a_persons_word_against_the_policy() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let mut config = wish("web");
    config.restart = Some(RestartPolicy { name: "always".into(), maximum_retries: 0 });
    let created = daemon.create(config).await.unwrap();
    daemon.start("web").await.unwrap();
    daemon.engine.stop(&scope(), stop("web", 10)).await.unwrap();
    assert_eq!(daemon.state("web").await, "exited");
    assert_eq!(daemon.inspect("web").await["State"]["ExitCode"], json!(128 + 3), "the image's stop signal");
    daemon.engine.stop(&scope(), stop("web", 10)).await.unwrap();
    host.shims.stubborn.store(true, Ordering::SeqCst);
    daemon.start("web").await.unwrap();
    let restarted = daemon.engine.restart(&scope(), stop("web", 0)).await.unwrap();
    assert_eq!(daemon.inspect("web").await["State"]["Pid"], json!(restarted.pid));
    daemon.engine.stop(&scope(), stop("web", 0)).await.unwrap();
    assert_eq!(daemon.inspect("web").await["State"]["ExitCode"], json!(137));
    assert!(daemon.status(&created.id).is_none());
    daemon.start("web").await.unwrap();
    let kill = |signal: &str| KillRequest { container: "web".into(), signal: signal.into() };
    daemon.engine.kill(&scope(), kill("USR1")).await.unwrap();
    assert_eq!(daemon.state("web").await, "running");
    daemon.engine.kill(&scope(), kill("")).await.unwrap();
    daemon.until(async || daemon.state("web").await == "exited").await;
    assert_eq!(daemon.engine.kill(&scope(), kill("")).await.unwrap_err().fault(), Fault::Precondition);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_container_can_be_stopped_and_thawed() {
    let host = Host::new();
    let daemon = host.daemon().await;
    daemon.create(wish("web")).await.unwrap();
    daemon.start("web").await.unwrap();
    let one = || ContainerRequest { container: "web".into() };
    daemon.engine.pause(&scope(), one()).await.unwrap();
    assert_eq!(daemon.state("web").await, "paused");
    assert_eq!(daemon.engine.pause(&scope(), one()).await.unwrap_err().fault(), Fault::Precondition);
    daemon.engine.unpause(&scope(), one()).await.unwrap();
    assert_eq!(daemon.state("web").await, "running");
    daemon.engine.pause(&scope(), one()).await.unwrap();
    daemon.engine.stop(&scope(), stop("web", 5)).await.unwrap();
    assert_eq!(daemon.state("web").await, "exited");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_containerds_clients_are_seen_and_can_go() {
    let host = Host::new();
    let daemon = host.daemon().await;
    daemon.foreign(&host.store, "redis-1").await;
    assert_eq!(daemon.names().await, ["redis-1"]);
    assert_eq!(daemon.state("redis-1").await, "created");
    let taken = daemon.create(wish("redis-1")).await.unwrap_err();
    assert_eq!(taken.fault(), Fault::NameInUse);
    daemon.start("redis-1").await.unwrap();
    assert_eq!(daemon.state("redis-1").await, "running");
    let logs = LogsRequest { container: "redis-1".into(), ..LogsRequest::default() };
    assert_eq!(daemon.engine.logs(&scope(), logs).await.err().unwrap().fault(), Fault::Precondition);
    daemon.engine.stop(&scope(), stop("redis", 5)).await.unwrap();
    daemon.engine.remove(&scope(), remove("redis-1", true)).await.unwrap();
    assert_eq!(host.traces(), Vec::<String>::new());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_are_prepared_started_and_forgotten() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let created = daemon.create(wish("web")).await.unwrap();
    let request = || ExecRequest { container: "web".into(), command: vec!["ls".into()], ..ExecRequest::default() };
    assert_eq!(daemon.engine.exec(&scope(), request()).await.unwrap_err().fault(), Fault::Precondition);
    daemon.start("web").await.unwrap();
    let prepared = daemon.engine.exec(&scope(), request()).await.unwrap();
    assert_eq!(
        (prepared.pid, prepared.attach_socket.as_str()),
        (0, format!("/run/fake/{}.attach", created.id).as_str())
    );
    let start = || ExecRequest { container: "web".into(), start: prepared.id.clone(), ..ExecRequest::default() };
    assert!(daemon.engine.exec(&scope(), start()).await.unwrap().pid > 0);
    assert_eq!(daemon.engine.exec(&scope(), start()).await.unwrap_err().fault(), Fault::NotFound);
    *lock(&host.shims.refuse) = Some(Fault::CommandNotFound);
    let detached = ExecRequest { detach: true, ..request() };
    assert_eq!(daemon.engine.exec(&scope(), detached.clone()).await.unwrap_err().fault(), Fault::CommandNotFound);
    assert!(daemon.engine.exec(&scope(), detached).await.unwrap().id.starts_with("x-"));
    assert_eq!(lock(&host.shims.map)[&created.id].execs.len(), 2, "the refused one is gone");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_another_client_removes_leaves_no_life() {
    use crated_core::{ContainerStore, Op};
    let host = Host::new();
    let daemon = host.daemon().await;
    let created = daemon.create(wish("web")).await.unwrap();
    let containers = crate::fakes::Containers(Arc::new(crate::fakes::Metadata {
        inner: host.store.clone(),
        crash: Default::default(),
    }));
    let deleted = crated_api::containerd::events::ContainerDelete { id: created.id.clone() };
    let event =
        crated_core::record::Event::new(&scope(), "/containers/delete", "containerd.events.ContainerDelete", &deleted);
    containers.delete(&scope(), &created.id.parse().unwrap(), vec![Op::event(&event)]).await.unwrap();
    daemon.until(async || host.traces().is_empty()).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exits_that_nobody_told_of_are_found_at_the_next_start() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let lost = daemon.create(wish("lost")).await.unwrap();
    let ended = daemon.create(wish("ended")).await.unwrap();
    let kept = daemon.create(wish("kept")).await.unwrap();
    for name in ["lost", "ended", "kept"] {
        daemon.start(name).await.unwrap();
    }
    daemon.stop().await;
    lock(&host.shims.map).remove(&lost.id);
    crate::fakes::end(&host.shims, &host.store, &ended.id, 5, 0).await;
    let daemon = host.daemon().await;
    assert_eq!(daemon.inspect("lost").await["State"]["ExitCode"], json!(255));
    assert_eq!(daemon.inspect("ended").await["State"]["ExitCode"], json!(5));
    assert_eq!(daemon.state("kept").await, "running");
    assert_eq!(daemon.status(&kept.id), Some(ProcessStatus::Running));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_have_names_and_users() {
    let host = Host::new();
    let daemon = host.daemon().await;
    let tag = TagImageRequest { source: "bb:1".into(), target: "mine:2".into() };
    daemon.engine.tag_image(&scope(), tag).await.unwrap();
    daemon.create(wish("web")).await.unwrap();
    let listed = daemon.engine.list_images(&scope(), ListImagesRequest::default()).await.unwrap().images;
    assert_eq!((listed.len(), listed[0].names.len(), listed[0].containers), (1, 2, 1));
    let request = |reference: &str, force| RemoveImageRequest { reference: reference.into(), force, no_prune: false };
    let id = "bbbbbbbbbbbb";
    assert_eq!(daemon.engine.remove_image(&scope(), request(id, false)).await.unwrap_err().fault(), Fault::InUse);
    let untagged = daemon.engine.remove_image(&scope(), request("mine:2", false)).await.unwrap();
    assert_eq!((untagged.untagged.len(), untagged.deleted.len()), (1, 0));
    assert_eq!(daemon.engine.remove_image(&scope(), request("bb:1", false)).await.unwrap_err().fault(), Fault::InUse);
    daemon.start("web").await.unwrap();
    assert_eq!(daemon.engine.remove_image(&scope(), request("bb:1", true)).await.unwrap_err().fault(), Fault::InUse);
    daemon.engine.remove(&scope(), remove("web", true)).await.unwrap();
    let deleted = daemon.engine.remove_image(&scope(), request(id, false)).await.unwrap();
    assert_eq!((deleted.untagged.len(), deleted.deleted.len()), (1, 1));
    assert_eq!(
        daemon.engine.remove_image(&scope(), request("bb:1", false)).await.unwrap_err().fault(),
        Fault::NotFound
    );
    daemon.stop().await;
}
