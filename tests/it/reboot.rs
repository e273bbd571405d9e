//! The host restarts, or the daemon is told to stop: what was is told, what was acknowledged is kept.

use crate::api::Api;
use crated_api::crated::engine::v1;
use crated_tests::{Daemon, eventually};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const SLEEP: &[&str] = &["bb:1", "sleep", "1000"];

fn state(daemon: &Daemon, name: &str) -> String {
    daemon.ctl(&["inspect", "--format", "{{.State.Status}}", name]).word()
}

/// Containers of every kind, a reboot, and what is there afterwards.
fn a_reboot(tmpfs: bool) {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let run = |name: &str, policy: &str| {
        daemon.ctl(&[&["run", "-d", "--name", name, "--restart", policy], SLEEP].concat()).ok();
    };
    for (name, policy) in
        [("plain", "no"), ("always", "always"), ("unless", "unless-stopped"), ("failed", "on-failure")]
    {
        run(name, policy);
    }
    for (name, policy) in [("always-stopped", "always"), ("unless-was-stopped", "unless-stopped")] {
        run(name, policy);
        daemon.ctl(&["stop", "-t", "0", name]).ok();
    }
    daemon.ctl(&[&["create", "--name", "new"], SLEEP].concat()).ok();
    daemon.ctl(&["exec", "plain", "sh", "-c", "echo kept >/file"]).ok();
    let (old, id) = (daemon.container_pid("always"), daemon.id("plain"));
    daemon.reboot("another-boot", tmpfs);
    daemon.restart();

    // What the policies want runs again, as another process; the rest says how it ended.
    for name in ["always", "unless", "failed", "always-stopped"] {
        eventually(name, || (state(&daemon, name) == "running").then_some(()));
    }
    assert_ne!(daemon.container_pid("always"), old);
    for name in ["plain", "unless-was-stopped"] {
        assert_eq!(state(&daemon, name), "exited", "{name}");
    }
    assert_eq!(state(&daemon, "new"), "created");
    let said = daemon.ctl(&["inspect", "--format", "{{.State.ExitCode}} {{.State.Error}}", "plain"]).word();
    assert_eq!(said, "255 its process was lost with the shim or the host");
    let listed = daemon.ctl(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).ok();
    assert!(listed.lines().any(|line| line.starts_with("plain Exited (255)")), "{listed}");
    let exits =
        daemon.events().into_iter().filter(|event| event["topic"] == "/tasks/exit" && event["event"]["id"] == id);
    assert_eq!(exits.count(), 1, "the end is told once");
    // Nothing of the old boot is taken for something of this one.
    let tasks = daemon.ctr(&["-n", "default", "tasks", "ls", "-q"]).ok();
    assert_eq!(tasks.lines().count(), 4, "tasks of the old boot are forgotten:\n{tasks}");
    daemon.ctl(&["start", "plain"]).ok();
    assert_eq!(daemon.ctl(&["exec", "plain", "cat", "/file"]).ok(), "kept\n", "its files outlive the boot");

    // A restart of the daemon alone is no reboot: what a person stopped stays so, whatever its policy.
    daemon.ctl(&["stop", "-t", "0", "always"]).ok();
    daemon.kill();
    daemon.restart();
    assert_eq!(state(&daemon, "always"), "exited");
    assert_eq!(state(&daemon, "unless"), "running");
    daemon.finish();
}

#[test]
fn after_a_reboot_everybody_knows_what_happened_and_policies_act() {
    a_reboot(true);
}

#[test]
fn a_reboot_with_a_state_folder_that_stays_is_one_all_the_same() {
    a_reboot(false);
}

#[test]
fn a_daemon_that_is_told_to_stop_under_load_does_nothing_by_halves() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    for round in 0..3 {
        // Names that were acknowledged as made, and as removed.
        let (made, gone) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));
        let (over, socket) = (AtomicBool::new(false), daemon.socket());
        std::thread::scope(|scope| {
            for client in 0..6 {
                let (over, socket, made, gone) = (&over, socket.clone(), &made, &gone);
                scope.spawn(move || {
                    let api = Api::new(socket);
                    for number in 0.. {
                        if over.load(Ordering::SeqCst) {
                            break;
                        }
                        let name = format!("c{round}-{client}-{number}");
                        if run(&api, &name).is_ok() {
                            made.lock().unwrap().insert(name.clone());
                        }
                        if number % 2 == 0 && remove(&api, &name).is_ok() {
                            gone.lock().unwrap().insert(name);
                        }
                    }
                });
            }
            eventually("the load is there", || (made.lock().unwrap().len() > 10).then_some(()));
            daemon.stop(); // asserts that it ends, and with success
            over.store(true, Ordering::SeqCst);
        });
        daemon.restart();
        let api = Api::new(daemon.socket());
        let listed = api.list().unwrap();
        let (made, gone) = (made.lock().unwrap(), gone.lock().unwrap());
        for name in made.difference(&gone) {
            let found = listed.iter().find(|container| container.name == *name);
            let state = found.map(|container| container.state.as_str());
            // A removal may have been under way when the daemon went.
            let removing = number(name).is_multiple_of(2);
            assert!(state == Some("running") || removing, "{name} was acknowledged, and is {state:?}");
        }
        for name in gone.iter() {
            assert!(listed.iter().all(|container| container.name != *name), "{name} was removed, and is there");
        }
        for container in &listed {
            assert!(["created", "running"].contains(&container.state.as_str()), "half: {container:?}");
            remove(&api, &container.id).unwrap();
        }
    }
    daemon.finish();
}

/// The last number of `cROUND-CLIENT-NUMBER`.
fn number(name: &str) -> u32 {
    name.rsplit('-').next().and_then(|text| text.parse().ok()).unwrap()
}

fn run(api: &Api, name: &str) -> Result<(), String> {
    crate::scale::run(api, name)
}

fn remove(api: &Api, name: &str) -> Result<(), String> {
    let request = v1::RemoveRequest { container: name.into(), force: true };
    api.call(async |mut engine| engine.remove(request).await.map(drop))
}

#[test]
fn a_client_that_sleeps_does_not_hold_up_the_stop() {
    let mut daemon = Daemon::start();
    let mut sleeper = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    // HTTP/2's preface and empty settings, and then not a word: neither to a ping nor to a farewell.
    sleeper.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut said = [0; 9];
    sleeper.read_exact(&mut said).unwrap(); // the daemon's own settings: it serves us
    daemon.stop();
    assert!(!daemon.log().contains("not everything ended in time"), "{}", daemon.log());
    daemon.restart();
    daemon.finish();
}
