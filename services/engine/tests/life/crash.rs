//! A crash at every call: before it and behind it. The next start of the daemon brings each operation to its end or back.

use crate::fakes::{Crash, lock};
use crate::host::{Host, scope, wish};
use crated_api::crated::engine::v1::{ExecRequest, RemoveRequest, RenameRequest, StopRequest};
use crated_core::ProcessStatus;
use crated_types::Fault;
use std::sync::Arc;

/// No scenario has as many calls; one that does would mean that the crash never comes.
const CALLS_MAX: usize = 60;

fn operations(host: &Host) -> Vec<String> {
    host.store.keys().into_iter().filter(|key| key.starts_with("op/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_is_whole_or_leaves_nothing() {
    let (mut whole, mut back) = (0, 0);
    for after_effect in [false, true] {
        for call in 1.. {
            assert!(call < CALLS_MAX);
            let host = Host::new();
            let crash = Crash::at(call, after_effect);
            let dying = host.daemon_with(crash.clone());
            let _ = dying.create(wish("web")).await;
            dying.stop().await;
            if !crash.happened() {
                break;
            }
            let daemon = host.daemon().await;
            assert!(operations(&host).is_empty(), "{:?}", operations(&host));
            if daemon.names().await == ["web"] {
                whole += 1;
                daemon.start("web").await.unwrap();
                daemon.engine.remove(&scope(), RemoveRequest { container: "web".into(), force: true }).await.unwrap();
            } else {
                back += 1;
            }
            assert_eq!(host.traces(), Vec::<String>::new(), "call {call}, after its effect: {after_effect}");
            daemon.create(wish("web")).await.unwrap();
            daemon.stop().await;
        }
    }
    assert!(whole > 0 && back > 2, "{whole} whole, {back} back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_runs_or_leaves_no_task() {
    let (mut runs, mut back) = (0, 0);
    for after_effect in [false, true] {
        for call in 1.. {
            assert!(call < CALLS_MAX);
            let host = Host::new();
            let first = host.daemon().await;
            let created = first.create(wish("web")).await.unwrap();
            first.stop().await;
            let crash = Crash::at(call, after_effect);
            let dying = host.daemon_with(crash.clone());
            let _ = dying.start("web").await;
            dying.stop().await;
            if !crash.happened() {
                break;
            }
            let daemon = host.daemon().await;
            assert!(operations(&host).is_empty(), "{:?}", operations(&host));
            match (daemon.state("web").await.as_str(), daemon.status(&created.id)) {
                ("running", Some(ProcessStatus::Running)) => runs += 1,
                ("created", None) => back += 1,
                other => panic!("call {call}, after its effect: {after_effect}: {other:?}"),
            }
            daemon.start("web").await.unwrap();
            daemon.stop().await;
        }
    }
    assert!(runs > 0 && back > 0, "{runs} run, {back} back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_began_is_finished() {
    for after_effect in [false, true] {
        for call in 1.. {
            assert!(call < CALLS_MAX);
            let host = Host::new();
            let first = host.daemon().await;
            first.create(wish("web")).await.unwrap();
            first.start("web").await.unwrap();
            first.stop().await;
            let crash = Crash::at(call, after_effect);
            let dying = host.daemon_with(crash.clone());
            let _ = dying.engine.remove(&scope(), RemoveRequest { container: "web".into(), force: true }).await;
            dying.stop().await;
            if !crash.happened() {
                break;
            }
            let began = call > 1 || after_effect;
            if began {
                // What is on its way out has no new name any more: the removal would leave it behind.
                let between = host.daemon_with(Arc::default());
                let rename = RenameRequest { container: "web".into(), name: "db".into() };
                let refused = between.engine.rename(&scope(), rename).await.unwrap_err().fault();
                assert!(matches!(refused, Fault::Precondition | Fault::NotFound), "{refused:?}");
                between.stop().await;
            }
            let daemon = host.daemon().await;
            assert!(operations(&host).is_empty(), "{:?}", operations(&host));
            if !began {
                assert_eq!(daemon.state("web").await, "running", "it had not begun");
            } else {
                assert_eq!(host.traces(), Vec::<String>::new(), "call {call}, after its effect: {after_effect}");
            }
            daemon.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_and_a_restart_go_on() {
    // Beside one another: a daemon that nobody tells of the exit waits for the news before it acts by itself.
    for (restart, after_effect) in [(false, false), (false, true), (true, false), (true, true)] {
        let crashed = futures::future::join_all((1..30).map(|call| ending(restart, call, after_effect))).await;
        assert!(crashed[0] && !crashed[28], "the crash must come early and late: {crashed:?}");
    }
}

/// Answers whether the crash came.
async fn ending(restart: bool, call: usize, after_effect: bool) -> bool {
    let host = Host::new();
    let first = host.daemon().await;
    let created = first.create(wish("web")).await.unwrap();
    let pid = first.start("web").await.unwrap();
    first.stop().await;
    let crash = Crash::at(call, after_effect);
    let dying = host.daemon_with(crash.clone());
    let request = StopRequest { container: "web".into(), timeout: Some(1), signal: String::new() };
    let _ = match restart {
        true => dying.engine.restart(&scope(), request).await.map(drop),
        false => dying.engine.stop(&scope(), request).await,
    };
    dying.stop().await;
    if !crash.happened() {
        return false;
    }
    let daemon = host.daemon().await;
    daemon.until(async || operations(&host).is_empty()).await;
    let begun = call > 1 || after_effect;
    match (daemon.state("web").await.as_str(), daemon.status(&created.id)) {
        ("exited", None) if begun && !restart => {}
        ("running", Some(ProcessStatus::Running)) => {
            let now = lock(&host.shims.map)[&created.id].pid;
            assert!(!begun || (restart && now != pid), "call {call}, after its effect: {after_effect}");
        }
        other => panic!("restart {restart}, call {call}, after its effect: {after_effect}: {other:?}"),
    }
    daemon.stop().await;
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_that_was_not_started_is_taken_back() {
    for after_effect in [false, true] {
        for call in 1.. {
            assert!(call < CALLS_MAX);
            let host = Host::new();
            let first = host.daemon().await;
            let created = first.create(wish("web")).await.unwrap();
            first.start("web").await.unwrap();
            first.stop().await;
            let crash = Crash::at(call, after_effect);
            let dying = host.daemon_with(crash.clone());
            let request = ExecRequest { container: "web".into(), command: vec!["ls".into()], ..ExecRequest::default() };
            let _ = dying.engine.exec(&scope(), request).await;
            dying.stop().await;
            if !crash.happened() {
                break;
            }
            let daemon = host.daemon().await;
            assert!(operations(&host).is_empty(), "{:?}", operations(&host));
            assert!(
                lock(&host.shims.map)[&created.id].execs.is_empty(),
                "call {call}, after its effect: {after_effect}"
            );
            assert_eq!(daemon.state("web").await, "running");
            daemon.stop().await;
        }
    }
}
