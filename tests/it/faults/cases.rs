//! What must hold after an operation that was disturbed at a point, whatever the point was.

use super::rig::{Rig, THEN};
use crated_tests::Registry;

const SLEEP: &[&str] = &["bb:1", "sleep", "100"];

fn running(rig: &mut Rig) -> String {
    let name = rig.name();
    rig.prepare(&[&["run", "-d", "--name", &name], SLEEP].concat());
    name
}

fn created(rig: &mut Rig) -> String {
    let name = rig.name();
    rig.prepare(&[&["create", "--name", &name], SLEEP].concat());
    name
}

pub(super) fn create(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    let said = rig.ctl(rule, &[&["create", "--name", &name, "-v", "/volume"], SLEEP].concat());
    // What a client leaves goes on to its end.
    let whole = said.status == 0 || rule.contains("=delay");
    match rig.settles(rule, &name, if whole { &["created"] } else { &["created", "-"] }).as_str() {
        "-" => rig.is_free(rule, &name),
        _ => rig.works_and_goes(rule, &name),
    }
}

pub(super) fn start(rig: &mut Rig, rule: &str) {
    let name = created(rig);
    let said = rig.ctl(rule, &["start", &name]);
    // A shim may die after its container was told to run.
    let ended = rule.contains("shim.");
    let allowed: &[&str] = match said.status {
        0 if ended => &["running", "exited"],
        0 => &["running"],
        _ => &["created", "running", "exited"],
    };
    rig.settles(rule, &name, allowed);
    // While a dead shim is buried a start may come too early: it says so, and comes again.
    rig.until_ok(rule, &["start", &name]);
    rig.works_and_goes(rule, &name);
}

pub(super) fn stop(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    let said = rig.ctl(rule, &["stop", "-t", "0", &name]);
    rig.settles(rule, &name, if said.status == 0 { &["exited"] } else { &["exited", "running"] });
    rig.daemon.ctl(&["stop", "-t", "0", &name]).ok();
    rig.settles(rule, &name, &["exited"]);
    rig.works_and_goes(rule, &name);
}

pub(super) fn restart(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    let said = rig.ctl(rule, &["restart", "-t", "0", &name]);
    rig.settles(rule, &name, if said.status == 0 { &["running"] } else { &["running", "exited"] });
    rig.until_ok(rule, &["start", &name]);
    rig.goes_in_the_end(rule, &name);
}

pub(super) fn remove(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["run", "-d", "--name", &name, "-v", "/volume"], SLEEP].concat());
    let said = rig.ctl(rule, &["rm", "-f", &name]);
    rig.settles(rule, &name, if said.status == 0 { &["-"] } else { &["-", "running", "removing", "exited"] });
    // Going on is the reconciler's work, or the next request's: both end with nothing.
    rig.goes_in_the_end(rule, &name);
}

pub(super) fn short_life(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    let said = rig.ctl(rule, &["run", "-d", "--name", &name, "bb:1", "sh", "-c", "exit 3"]);
    let whole = said.status == 0 || rule.contains("=delay");
    let seen = rig.settles(rule, &name, if whole { &["exited"] } else { &["exited", "created", "-"] });
    if seen == "exited" && said.status == 0 {
        let status = rig.prepare(&["inspect", "--format", "{{.State.ExitCode}}", &name]);
        // A shim that died before it wrote the exit down has taken it along.
        assert!(status == "3" || rule.starts_with("shim.exit.save") && status == "137", "{rule}: {status}");
    }
    rig.goes_in_the_end(rule, &name);
}

pub(super) fn exec(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    let said = rig.ctl(rule, &["exec", &name, "echo", "ok"]);
    if said.status == 0 && !rule.contains("=delay") {
        assert_eq!(said.stdout, "ok\n", "{rule}");
    }
    if rule.starts_with("shim.") && rule.contains("kill") {
        rig.settles(rule, &name, &["exited"]);
    } else {
        rig.settles(rule, &name, &["running"]);
    }
    rig.works_and_goes(rule, &name);
}

/// An exec that fails, and whose undoing is hit, too.
pub(super) fn exec_undone(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    let both = format!("{rule};engine.exec.exec=error(5)");
    let said = rig.under(&both, 2, |rig| rig.daemon.ctl(&["exec", &name, "echo", "ok"]));
    assert_ne!(said.status, 0, "{rule}");
    rig.works_and_goes(rule, &name);
}

pub(super) fn pause(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    rig.ctl(rule, &["pause", &name]);
    rig.settles(rule, &name, &["paused", "running"]);
    let _ = rig.daemon.ctl(&["unpause", &name]);
    rig.settles(rule, &name, &["running"]);
    rig.works_and_goes(rule, &name);
}

pub(super) fn unpause(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    rig.prepare(&["pause", &name]);
    rig.ctl(rule, &["unpause", &name]);
    rig.settles(rule, &name, &["paused", "running"]);
    let _ = rig.daemon.ctl(&["unpause", &name]);
    rig.settles(rule, &name, &["running"]);
    rig.works_and_goes(rule, &name);
}

/// A container that takes more memory than it may.
pub(super) fn hog(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    let limits = ["--memory", "16m", "--memory-swap", "16m"];
    let program = ["bb:1", "sh", "-c", "x=a; while :; do x=$x$x; done"];
    rig.ctl(rule, &[&["run", "-d", "--name", &name], &limits[..], &program].concat());
    rig.settles(rule, &name, &["exited"]);
    let said = "{{.State.ExitCode}} {{.State.OOMKilled}}";
    let words = ["inspect", "--format", said, &name];
    crated_tests::eventually("the kill for memory is known", || (rig.prepare(&words) == "137 true").then_some(()));
    rig.goes(rule, &name);
}

pub(super) fn rename(rig: &mut Rig, rule: &str) {
    let (old, new) = (rig.name(), rig.name());
    rig.prepare(&["create", "--name", &old, "bb:1", "true"]);
    let said = rig.ctl(rule, &["rename", &old, &new]);
    let vanished = rule.contains("=delay");
    let there = crated_tests::eventually("the rename has ended", || {
        let there = (rig.state(&old).is_some(), rig.state(&new).is_some());
        (!vanished || there == (false, true)).then_some(there)
    });
    assert!(there == (false, true) || said.status != 0 && there == (true, false), "{rule}: {there:?} {said:?}");
    let (its, free) = if there.0 { (&old, &new) } else { (&new, &old) };
    rig.is_free(rule, free);
    rig.goes(rule, its);
}

pub(super) fn update(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    rig.ctl(rule, &["update", "--memory", "64m", &name]);
    rig.daemon.ctl(&["update", "--memory", "64m", &name]).ok();
    assert_eq!(rig.prepare(&["inspect", "--format", "{{.HostConfig.Memory}}", &name]), "67108864", "{rule}");
    rig.works_and_goes(rule, &name);
}

/// A create that fails, and whose undoing is hit, too.
pub(super) fn create_undone(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    let both = format!("{rule};engine.create.spec=error(5)");
    let words = [&["create", "--name", &name, "-v", "/volume"], SLEEP].concat();
    let said = rig.under(&both, 2, |rig| rig.daemon.ctl(&words));
    assert_ne!(said.status, 0, "{rule}");
    if !rule.contains("kill") {
        rig.again(); // what could not be undone is the reconciler's
    }
    rig.settles(rule, &name, &["-"]);
    rig.until_ok(rule, &["create", "--name", &name, "bb:1", "true"]);
    rig.goes(rule, &name);
}

pub(super) fn start_undone(rig: &mut Rig, rule: &str) {
    let name = created(rig);
    let both = format!("{rule};shim.create.runtime=error(12)");
    let said = rig.under(&both, 2, |rig| rig.daemon.ctl(&["start", &name]));
    assert_ne!(said.status, 0, "{rule}");
    rig.settles(rule, &name, &["created", "exited"]);
    rig.works_and_goes(rule, &name);
}

/// A start that fails when its task is there already.
pub(super) fn start_undone_late(rig: &mut Rig, rule: &str) {
    let name = created(rig);
    let both = format!("{rule};shim.start.gate=error(12)");
    let said = rig.under(&both, 2, |rig| rig.daemon.ctl(&["start", &name]));
    assert_ne!(said.status, 0, "{rule}");
    rig.settles(rule, &name, &["created", "exited"]);
    rig.works_and_goes(rule, &name);
}

/// The shim is killed, and the burial is hit.
pub(super) fn buried(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    let shim = parent(rig.daemon.container_pid(&name));
    rig.under(rule, 1, |_| crated_sys::process::kill(shim, 9).unwrap());
    rig.settles(rule, &name, &["exited"]);
    rig.works_and_goes(rule, &name);
}

/// The shim and the daemon are killed, and the next start is hit.
pub(super) fn buried_at_start(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    let shim = parent(rig.daemon.container_pid(&name));
    rig.daemon.kill();
    crated_sys::process::kill(shim, 9).unwrap();
    rig.daemon.restart();
    let second = running(rig);
    let shim = parent(rig.daemon.container_pid(&second));
    rig.daemon.kill();
    crated_sys::process::kill(shim, 9).unwrap();
    rig.arm(rule);
    let _ = rig.daemon.try_start();
    rig.await_fired(rule, 1);
    rig.disarm();
    rig.again();
    for name in [name, second] {
        rig.settles(rule, &name, &["exited"]);
        rig.works_and_goes(rule, &name);
    }
}

/// The parent of a process: of a container's init, its shim.
pub(super) fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

/// A daemon that starts with a container that runs.
pub(super) fn found_again(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    let pid = rig.daemon.container_pid(&name);
    rig.at_start(rule);
    assert_eq!(rig.daemon.container_pid(&name), pid, "{rule}");
    rig.works_and_goes(rule, &name);
}

/// A container that is removed at its end is gone when its stop ends.
pub(super) fn stop_of_one_that_goes(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["run", "-d", "--rm", "--name", &name], SLEEP].concat());
    rig.ctl(rule, &["stop", "-t", "0", &name]);
    rig.settles(rule, &name, &["-"]);
    rig.is_free(rule, &name);
}

/// Somebody removes what another one restarts.
pub(super) fn restart_of_one_that_goes(rig: &mut Rig, rule: &str) {
    let name = running(rig);
    let both = format!("{rule};engine.restart.signal.done=delay(1)");
    rig.under(&both, 2, |rig| {
        let restart = ["restart", "-t", "30", &name];
        std::thread::scope(|scope| {
            let restarting = scope.spawn(|| rig.daemon.ctl(&restart));
            rig.await_fired("the signal of the restart", 1);
            let _ = rig.daemon.ctl(&["rm", "-f", &name]);
            let _ = restarting.join().unwrap();
        });
    });
    rig.settles(rule, &name, &["-"]);
    rig.is_free(rule, &name);
}

/// A client of containerd deletes the record of a container that is being started, and the daemon dies.
pub(super) fn start_of_one_that_goes(rig: &mut Rig, rule: &str) {
    let name = created(rig);
    let id = rig.daemon.id(&name);
    rig.arm("engine.start.intent.done=delay(20000)");
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| rig.daemon.ctl(&["start", &name]));
        rig.await_fired("the start", 1);
        rig.daemon.ctr(&["-n", "default", "containers", "rm", "--keep-snapshot", &id]).ok();
        let pid = rig.daemon.pid();
        crated_sys::process::kill(pid.cast_signed(), 9).unwrap();
        let _ = starting.join().unwrap();
    });
    rig.disarm();
    rig.at_start(rule);
    rig.settles(rule, &name, &["-"]);
    crated_tests::eventually("its name is free", || {
        (rig.daemon.ctl(&["create", "--name", &name, "bb:1", "true"]).status == 0).then_some(())
    });
    rig.goes(rule, &name);
}

pub(super) fn load(rig: &mut Rig, rule: &str) {
    let (name, archive) = rig.image();
    let said = rig.under(rule, 1, |rig| rig.load(&archive).run());
    if said.status != 0 {
        rig.load(&archive).run().ok();
    }
    runs(rig, rule, &name);
}

/// A load whose unpacking fails, and the undoing of that is hit, too.
pub(super) fn load_undone(rig: &mut Rig, rule: &str) {
    let (name, archive) = rig.image();
    let both = format!("{rule};image.unpack.commit=error(28)");
    let said = rig.under(&both, 2, |rig| rig.load(&archive).run());
    assert_ne!(said.status, 0, "{rule}");
    rig.load(&archive).run().ok();
    runs(rig, rule, &name);
}

/// A load that dies and is not repeated: nothing of it stays.
pub(super) fn load_given_up(rig: &mut Rig, rule: &str) {
    let (name, archive) = rig.image();
    let said = rig.under(rule, 1, |rig| rig.load(&archive).run());
    if said.status == 0 || rig.daemon.ctl(&["inspect", &name]).status == 0 {
        rig.daemon.ctl(&["rmi", &name]).ok();
    }
}

pub(super) fn pull(rig: &mut Rig, rule: &str) {
    let registry = Registry::start();
    let (name, archive) = rig.image();
    let reference = registry.push(&archive, &name);
    let said = rig.ctl(rule, &["pull", &reference]);
    if said.status != 0 {
        rig.until_ok(rule, &["pull", &reference]);
    }
    runs(rig, rule, &reference);
}

fn runs(rig: &mut Rig, rule: &str, image: &str) {
    assert!(!rule.contains(THEN) || rig.daemon.lives());
    let name = rig.name();
    rig.daemon.ctl(&["create", "--name", &name, image]).ok();
    let copy = rig.daemon.folder().join("copy");
    rig.daemon.ctl(&["cp", &format!("{name}:/bin/payload"), &copy.display().to_string()]).ok();
    let same = std::fs::read(copy).unwrap() == std::fs::read(rig.daemon.folder().join("payload")).unwrap();
    assert!(same, "{rule}: the layer is not whole");
    rig.daemon.ctl(&["rm", &name]).ok();
    rig.daemon.ctl(&["rmi", image]).ok();
}
