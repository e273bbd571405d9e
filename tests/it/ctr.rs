//! Debian's ctr, unchanged, against our daemon; and Debian's containerd with our shim.

use crated_tests::{Containerd, Daemon, Registry, busybox_archive, eventually};

const IMAGE: &str = "docker.io/library/bb:1";
const RUNTIME: &str = "io.containerd.crated.v2";

fn with_image() -> Daemon {
    let daemon = Daemon::start();
    let archive = daemon.folder().join("bb.tar");
    std::fs::write(&archive, busybox_archive()).unwrap();
    daemon.ctr(&["images", "import", &archive.display().to_string()]).ok();
    daemon
}

#[test]
fn ctr_imports_lists_and_runs() {
    let daemon = with_image();
    assert_eq!(daemon.ctr(&["images", "ls", "-q"]).word(), IMAGE);
    let said = daemon.ctr(&["run", "--rm", "--runtime", RUNTIME, IMAGE, "one", "echo", "hello"]).ok();
    assert_eq!(said, "hello\n");
    let said = daemon.ctr(&["run", "--rm", IMAGE, "two", "echo", "default runtime"]).ok();
    assert_eq!(said, "default runtime\n");
    daemon.ctr(&["run", "--rm", IMAGE, "three", "sh", "-c", "exit 5"]).fails(5, "");
    assert_eq!(daemon.ctr(&["containers", "ls", "-q"]).ok(), "");
    assert_eq!(daemon.ctr(&["tasks", "ls", "-q"]).ok(), "");
    daemon.finish();
}

#[test]
fn a_container_of_ctr_is_one_of_cratectl_and_back() {
    let daemon = with_image();
    daemon.ctr(&["run", "-d", IMAGE, "byctr", "sleep", "100"]).ok();
    let listed = daemon.ctl(&["ps", "--format", "{{.Names}} {{.State}}"]).word();
    assert_eq!(listed, "byctr running");
    daemon.ctl(&["run", "-d", "--name", "byctl", "bb:1", "sleep", "100"]).ok();
    let tasks = daemon.ctr(&["tasks", "ls"]).ok();
    assert!(tasks.contains("byctr") && tasks.contains(&daemon.id("byctl")), "{tasks}");
    daemon.ctl(&["rm", "-f", "byctr"]).ok();
    daemon.finish();
}

#[test]
fn tasks_are_executed_in_paused_measured_killed() {
    let daemon = with_image();
    daemon.ctr(&["run", "-d", "--memory-limit", "33554432", IMAGE, "c1", "sleep", "100"]).ok();
    assert_eq!(daemon.ctr(&["tasks", "exec", "--exec-id", "e", "c1", "echo", "inside"]).ok(), "inside\n");
    daemon.ctr(&["tasks", "exec", "--exec-id", "e", "c1", "sh", "-c", "exit 6"]).fails(6, "");
    daemon.ctr(&["tasks", "pause", "c1"]).ok();
    assert!(daemon.ctr(&["tasks", "ls"]).ok().contains("PAUSED"));
    daemon.ctr(&["tasks", "resume", "c1"]).ok();
    assert!(daemon.ctr(&["tasks", "metrics", "c1"]).ok().contains("c1"));
    let pids = daemon.ctr(&["tasks", "ps", "c1"]).ok();
    assert!(pids.lines().count() >= 2, "{pids}");
    daemon.ctr(&["tasks", "kill", "-s", "SIGKILL", "c1"]).ok();
    eventually("it has stopped", || daemon.ctr(&["tasks", "ls"]).ok().contains("STOPPED").then_some(()));
    assert!(daemon.ctr(&["tasks", "rm", "c1"]).stderr.contains("137"));
    daemon.ctr(&["containers", "rm", "c1"]).ok();
    daemon.finish();
}

#[test]
fn labels_leases_namespaces_snapshots_and_content_are_kept() {
    let daemon = with_image();
    daemon.ctr(&["images", "label", IMAGE, "a=b"]).ok();
    assert!(daemon.ctr(&["images", "ls"]).ok().contains("a=b"));
    daemon.ctr(&["leases", "create", "--id", "l", "x=y"]).ok();
    assert!(daemon.ctr(&["leases", "ls"]).ok().contains("x=y"));
    daemon.ctr(&["leases", "rm", "l"]).ok();
    daemon.ctr(&["namespaces", "create", "other", "k=v"]).ok();
    assert!(daemon.ctr(&["namespaces", "ls"]).ok().contains("k=v"));
    daemon.ctr(&["namespaces", "rm", "other"]).ok();
    assert!(daemon.ctr(&["snapshots", "ls"]).ok().contains("Committed"));
    assert!(daemon.ctr(&["content", "ls", "-q"]).ok().lines().count() >= 3);
    let archive = daemon.folder().join("out.tar").display().to_string();
    daemon.ctr(&["images", "export", &archive, IMAGE]).ok();
    assert!(std::fs::metadata(&archive).unwrap().len() > 100_000);
    daemon.ctr(&["images", "tag", IMAGE, "docker.io/library/bb:2"]).ok();
    daemon.ctr(&["images", "rm", "--sync", IMAGE, "docker.io/library/bb:2"]).ok();
    assert_eq!(daemon.ctr(&["content", "ls", "-q"]).ok(), "");
    assert_eq!(daemon.ctr(&["plugins", "ls", "-q"]).status, 0);
    daemon.finish();
}

#[test]
fn ctr_pulls_over_plain_http() {
    let registry = Registry::start();
    let reference = registry.push(&busybox_archive(), "test/bb:1");
    let daemon = Daemon::start();
    daemon.ctr(&["images", "pull", "--plain-http", &reference]).ok();
    assert_eq!(daemon.ctr(&["run", "--rm", &reference, "c1", "echo", "pulled"]).ok(), "pulled\n");
    daemon.finish();
}

#[test]
fn real_containerd_drives_our_shim() {
    let sockets = || {
        let entries = std::fs::read_dir("/run/containerd/s").into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = sockets();
    let containerd = Containerd::start();
    let archive = containerd.folder().join("bb.tar");
    std::fs::write(&archive, busybox_archive()).unwrap();
    containerd.ctr(&["images", "import", &archive.display().to_string()]).ok();
    let said = containerd.ctr(&["run", "--rm", "--runtime", RUNTIME, IMAGE, "one", "echo", "hello"]);
    assert_eq!(said.stdout, "hello\n", "{said:?}\n{}", containerd.log());
    containerd.ctr(&["run", "-d", "--runtime", RUNTIME, IMAGE, "c1", "sleep", "100"]).ok();
    assert_eq!(containerd.ctr(&["tasks", "exec", "--exec-id", "e", "c1", "echo", "inside"]).ok(), "inside\n");
    containerd.ctr(&["tasks", "pause", "c1"]).ok();
    assert!(containerd.ctr(&["tasks", "ls"]).ok().contains("PAUSED"));
    containerd.ctr(&["tasks", "resume", "c1"]).ok();
    containerd.ctr(&["tasks", "kill", "-s", "SIGKILL", "c1"]).ok();
    eventually("it has stopped", || containerd.ctr(&["tasks", "ls"]).ok().contains("STOPPED").then_some(()));
    assert!(containerd.ctr(&["tasks", "rm", "c1"]).stderr.contains("137"));
    containerd.ctr(&["containers", "rm", "c1"]).ok();
    let left: Vec<_> = sockets().difference(&before).cloned().collect();
    assert!(left.is_empty(), "our shims remove their sockets: {left:?}");
}
