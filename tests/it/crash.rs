//! Kill anything: nothing acknowledged is lost, nothing leaks, containers outlive the daemon.

use crated_tests::{Daemon, Options, eventually};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

fn kill9(pid: u32) {
    let pidfd = crated_sys::pidfd::open(pid.cast_signed()).unwrap();
    crated_sys::pidfd::send_signal(pidfd.as_fd(), 9).unwrap();
}

#[test]
fn a_container_outlives_its_daemon() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; sleep 0.05; done; exit 5";
    daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sh", "-c", script]).ok();
    let pid = daemon.container_pid("c1");
    eventually("it writes", || daemon.ctl(&["logs", "c1"]).ok().contains("line 2\n").then_some(()));
    daemon.kill();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "the process goes on");
    daemon.restart();
    assert_eq!(daemon.container_pid("c1"), pid);
    assert_eq!(daemon.ctl(&["wait", "c1"]).word(), "5");
    let lines: Vec<String> = (1..=60).map(|n| format!("line {n}\n")).collect();
    assert_eq!(daemon.ctl(&["logs", "c1"]).ok(), lines.concat(), "no line is lost or doubled");
    let id = daemon.id("c1");
    let exits = daemon
        .events()
        .into_iter()
        .filter(|event| event["topic"] == "/tasks/exit" && event["event"].to_string().contains(&id));
    assert_eq!(exits.count(), 1, "the exit is told once");
    daemon.finish();
}

#[test]
fn an_exit_while_the_daemon_is_away_is_told_once() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sh", "-c", "sleep 0.3; exit 9"]).ok();
    let (pid, id) = (daemon.container_pid("c1"), daemon.id("c1"));
    daemon.kill();
    eventually("it ends", || (!std::path::Path::new(&format!("/proc/{pid}/exe")).exists()).then_some(()));
    daemon.restart();
    assert_eq!(daemon.ctl(&["wait", "c1"]).word(), "9");
    daemon.kill();
    daemon.restart();
    let exits = daemon
        .events()
        .into_iter()
        .filter(|event| event["topic"] == "/tasks/exit" && event["event"].to_string().contains(&id));
    assert_eq!(exits.count(), 1);
    daemon.finish();
}

#[test]
fn a_session_outlives_the_daemon() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let mut child = Command::new(crated_tests::programs().join("cratectl"))
        .args(["run", "-i", "--name", "c1", "bb:1", "cat"])
        .env("CRATED_ADDRESS", daemon.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::{BufRead, BufReader, Write};
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdin.write_all(b"before\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    daemon.kill();
    stdin.write_all(b"between\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    daemon.restart();
    stdin.write_all(b"after\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "before\nbetween\nafter\n");
    drop(stdin);
    assert!(child.wait().unwrap().success());
    daemon.finish();
}

/// Kills the daemon at several moments of an operation; afterwards it is done or undone, and nothing leaks.
fn killed_in_the_middle(prepare: impl Fn(&Daemon), operation: &[&str], check: impl Fn(&Daemon)) {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    for delay in [0u64, 1, 2, 4, 8, 15, 30] {
        prepare(&daemon);
        let mut child = Command::new(crated_tests::programs().join("cratectl"))
            .args(operation)
            .env("CRATED_ADDRESS", daemon.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moment is the point of the test: it is not a wait for something.
        std::thread::sleep(std::time::Duration::from_millis(delay));
        daemon.kill();
        child.wait().unwrap();
        daemon.restart();
        check(&daemon);
    }
    daemon.finish();
}

#[test]
fn create_is_done_or_undone() {
    killed_in_the_middle(
        |_| {},
        &["create", "--name", "c1", "bb:1", "sleep", "100"],
        |daemon| {
            let listed = daemon.ctl(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]).word();
            assert!(listed.is_empty() || listed == "c1 created", "{listed}");
            daemon.ctl(&["rm", "-f", "c1"]).ok();
            daemon.ctl(&["create", "--name", "c1", "bb:1", "true"]).ok();
            daemon.ctl(&["rm", "c1"]).ok();
        },
    );
}

#[test]
fn start_is_done_or_undone() {
    killed_in_the_middle(
        |daemon| {
            daemon.ctl(&["create", "--name", "c1", "bb:1", "sleep", "100"]).ok();
        },
        &["start", "c1"],
        |daemon| {
            let state = daemon.ctl(&["inspect", "--format", "{{.State.Status}}", "c1"]).word();
            assert!(["created", "running", "exited"].contains(&state.as_str()), "{state}");
            if state != "running" {
                daemon.ctl(&["start", "c1"]).ok();
            }
            assert_eq!(daemon.ctl(&["exec", "c1", "echo", "ok"]).ok(), "ok\n");
            daemon.ctl(&["rm", "-f", "c1"]).ok();
        },
    );
}

#[test]
fn remove_goes_forward() {
    killed_in_the_middle(
        |daemon| {
            daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sleep", "100"]).ok();
        },
        &["rm", "-f", "c1"],
        |daemon| {
            // Either the daemon never heard of it, or it goes.
            eventually("it runs or is gone", || {
                let listed = daemon.ctl(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]).word();
                (listed.is_empty() || listed == "c1 running").then_some(())
            });
            daemon.ctl(&["rm", "-f", "c1"]).ok();
        },
    );
}

#[test]
fn a_killed_shim_is_noticed_and_leaves_nothing() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sh", "-c", "sleep 100 & sleep 100"]).ok();
    let pid = daemon.container_pid("c1");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    kill9(parent);
    let said = eventually("the exit is noticed", || {
        let said = daemon.ctl(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "c1"]).word();
        said.starts_with("exited").then_some(said)
    });
    assert_eq!(said, "exited 137");
    assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists(), "its processes are ended");
    daemon.finish();
}

#[test]
fn two_daemons_on_one_root_are_refused() {
    let daemon = Daemon::start();
    let output = Command::new(crated_tests::programs().join("crated"))
        .arg("--root")
        .arg(daemon.root())
        .arg("--state")
        .arg(daemon.folder().join("state2"))
        .arg("--address")
        .arg(daemon.folder().join("second.sock"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&daemon.pid().to_string()), "{said}");
    daemon.finish();
}

#[test]
fn many_daemons_run_side_by_side() {
    let (one, two) = (Daemon::start(), Daemon::with(Options::default()));
    for daemon in [&one, &two] {
        daemon.load_busybox();
        daemon.ctl(&["run", "-d", "--name", "same", "bb:1", "sleep", "100"]).ok();
    }
    one.ctl(&["rm", "-f", "same"]).ok();
    assert_eq!(two.ctl(&["ps", "--format", "{{.Names}}"]).word(), "same");
    one.finish();
    two.finish();
}

#[test]
fn a_pull_is_resumed_or_done_again() {
    let registry = crated_tests::Registry::start();
    let mut daemon = Daemon::start();
    let program = daemon.folder().join("program");
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    })
    .take(24 << 20)
    .collect();
    std::fs::write(&program, noise).unwrap();
    let reference = registry.push(&crated_tests::true_archive(&program, "big:1"), "test/big:1");
    for delay in [5u64, 30, 80, 150] {
        let mut child = Command::new(crated_tests::programs().join("cratectl"))
            .args(["pull", &reference])
            .env("CRATED_ADDRESS", daemon.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        daemon.kill();
        child.wait().unwrap();
        daemon.restart();
    }
    assert_eq!(daemon.ctl(&["pull", &reference]).word(), reference);
    let ingests = daemon.ctr(&["content", "active"]).ok();
    assert!(!ingests.contains("layer-"), "no ingest is left:\n{ingests}");
    assert_eq!(daemon.ctr(&["leases", "ls", "-q"]).ok(), "", "no lease is left");
    let snapshots = daemon.ctr(&["snapshots", "ls"]).ok();
    assert_eq!(snapshots.lines().count(), 2, "one committed layer and a title:\n{snapshots}");
    daemon.finish();
}

#[test]
fn a_shim_that_is_given_no_container_ends_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut shim = Command::new(crated_tests::programs().join("containerd-shim-crated-v2"))
        .args(["-namespace", "default", "-id", "c1", "-address", "/nowhere", "-bundle"])
        .arg(folder.path())
        .arg("serve")
        .env("CRATED_SOCKET", &socket)
        .env("CRATED_SHIM_LONELY_MS", "300")
        .env("TTRPC_ADDRESS", folder.path().join("nobody"))
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it ends", || shim.try_wait().unwrap());
    assert!(!socket.exists(), "and takes its socket along");
}
