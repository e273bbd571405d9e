//! Every failpoint by the operation that passes it, and what must hold after that operation.
//!
//! `name@N`: the N-th time it is passed; `name!`: a moment between steps, where nothing can fail but the process can die.

use super::rig::Rig;
use crated_tests::Registry;

/// Points of one operation.
pub(super) struct Case {
    pub(super) points: &'static str,
    pub(super) run: fn(&mut Rig, &str),
}

pub(super) const LIVES: &[Case] = &[
    Case {
        points: "engine.create.intent engine.create.intent.done! engine.create.snapshot engine.create.snapshot.done! \
                 engine.create.user engine.create.files engine.create.files.done! engine.create.volumes \
                 engine.create.volumes.done! engine.create.spec engine.create.close engine.create.done! \
                 snapshot.prepare.backend snapshot.prepare.record snapshot.prepare.done! \
                 store.commit@1 store.commit@2 store.commit@3 store.committed@1! store.committed@2! store.committed@3!",
        run: create,
    },
    Case {
        points: "engine.start.intent engine.start.intent.done! engine.start.spec engine.start.task \
                 engine.start.task.done! engine.start.start engine.start.start.done! engine.start.close \
                 task.create.intent task.create.bundle task.create.shim task.create.bind! task.create.call \
                 task.create.done task.event.tasks.create! task.event.tasks.start! engine.answer! \
                 store.commit@1 store.commit@2 store.commit@3 store.commit@4 store.committed@2! store.committed@3!",
        run: start,
    },
];

pub(super) const REMOVAL: &[Case] = &[
    Case {
        points: "engine.stop.intent engine.stop.intent.done! engine.stop.signal engine.stop.signal.done! engine.stop.wait \
                 engine.stop.kill engine.stop.kill.done! engine.stop.exit engine.stop.close task.event.tasks.exit! \
                 store.commit@1 store.commit@2 store.commit@3",
        run: stop,
    },
    Case {
        points: "engine.restart.intent engine.restart.signal engine.restart.kill.done! engine.restart.start \
                 engine.start.task.done! engine.start.start.done! engine.restart.start.done! engine.restart.close",
        run: restart,
    },
    Case {
        points: "engine.remove.intent engine.remove.intent.done! engine.remove.task engine.remove.task.done! \
                 engine.remove.snapshot engine.remove.snapshot.done! engine.remove.files engine.remove.files.done! \
                 engine.remove.record engine.remove.done! engine.answer! task.delete.shutdown! task.delete.bundle \
                 task.delete.record snapshot.remove.record snapshot.remove.backend! \
                 store.commit@1 store.commit@2 store.commit@3 store.commit@4 store.committed@3!",
        run: remove,
    },
    Case { points: "task.event.tasks.exit!", run: short_life },
];

pub(super) const EXEC_AND_CHANGE: &[Case] = &[
    Case {
        points: "engine.exec.intent engine.exec.intent.done! engine.exec.process engine.exec.exec engine.exec.exec.done! \
                 engine.exec.start engine.exec.start.done! engine.exec.close store.commit@1 store.commit@2",
        run: exec,
    },
    Case { points: "engine.rename.record store.commit store.committed! engine.answer!", run: rename },
    Case { points: "engine.update.keep engine.update.record store.commit@1 store.commit@2", run: update },
    Case { points: "engine.create.undo engine.create.undo.volumes! engine.create.back.done!", run: create_undone },
    Case {
        points: "engine.start.back.done! task.undo.kill! task.undo.sweep! task.undo.bundle task.undo.record",
        run: start_undone,
    },
];

pub(super) const IMAGES: &[Case] = &[
    Case {
        points: "image.import.scan image.import.label image.import.name image.unpack.prepare image.unpack.apply \
                 image.unpack.commit image.unpack.label content.write content.write@2 content.commit.publish \
                 content.commit.record content.commit.record@2 content.commit.clean! snapshot.prepare.record \
                 snapshot.prepare.done! snapshot.commit.backend snapshot.commit.record store.commit@1 store.commit@2 \
                 store.commit@5 store.commit@9 store.committed@3! store.committed@7!",
        run: load,
    },
    Case {
        points: "image.pull.resolve image.pull.choose image.pull.fetch image.pull.name image.unpack.apply \
                 image.unpack.commit content.write content.commit.publish content.commit.record@2 store.commit@4 \
                 store.committed@6!",
        run: pull,
    },
];

pub(super) const SHIM: &[Case] = &[
    Case {
        points: "shim.create.runtime shim.create.pid! shim.create.publish! shim.start.gate shim.start.publish!",
        run: start,
    },
    Case { points: "shim.exec.add shim.exec.start shim.exec.publish!", run: exec },
    Case { points: "shim.exit.save! shim.exit.publish!", run: short_life },
    Case { points: "shim.delete.destroy shim.delete.answer!", run: remove },
    Case { points: "task.bury.sweep! task.bury.record task.bury.bundle", run: buried },
];

const SLEEP: &[&str] = &["bb:1", "sleep", "100"];

fn create(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    let said = rig.under(rule, |daemon| daemon.ctl(&[&["create", "--name", &name], SLEEP].concat()));
    match rig.settles(rule, &name, if said.status == 0 { &["created"] } else { &["created", "-"] }).as_str() {
        "-" => rig.is_free(rule, &name),
        _ => rig.works_and_goes(rule, &name),
    }
}

fn start(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["create", "--name", &name], SLEEP].concat());
    let said = rig.under(rule, |daemon| daemon.ctl(&["start", &name]));
    // A shim may die after its container was told to run.
    let ended = rule.starts_with("shim.");
    let allowed: &[&str] = match said.status {
        0 if ended => &["running", "exited"],
        0 => &["running"],
        _ => &["created", "running", "exited"],
    };
    rig.settles(rule, &name, allowed);
    // While a dead shim is buried a start may come too early: it says so, and comes again.
    crated_tests::eventually("it starts", || (rig.daemon.ctl(&["start", &name]).status == 0).then_some(()));
    rig.works_and_goes(rule, &name);
}

fn stop(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["run", "-d", "--name", &name], SLEEP].concat());
    let said = rig.under(rule, |daemon| daemon.ctl(&["stop", "-t", "0", &name]));
    rig.settles(rule, &name, if said.status == 0 { &["exited"] } else { &["exited", "running"] });
    rig.daemon.ctl(&["stop", "-t", "0", &name]).ok();
    rig.settles(rule, &name, &["exited"]);
    rig.works_and_goes(rule, &name);
}

fn restart(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["run", "-d", "--name", &name], SLEEP].concat());
    let said = rig.under(rule, |daemon| daemon.ctl(&["restart", "-t", "0", &name]));
    rig.settles(rule, &name, if said.status == 0 { &["running"] } else { &["running", "exited"] });
    crated_tests::eventually("it starts", || (rig.daemon.ctl(&["start", &name]).status == 0).then_some(()));
    rig.goes(rule, &name);
}

fn remove(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["run", "-d", "--name", &name], SLEEP].concat());
    let said = rig.under(rule, |daemon| daemon.ctl(&["rm", "-f", &name]));
    let killed = rule.contains("kill");
    let allowed: &[&str] = match said.status {
        0 => &["-"],
        _ if killed => &["-", "running", "removing"],
        _ => &["-", "running", "removing", "exited"],
    };
    if rig.settles(rule, &name, allowed) == "-" {
        return rig.is_free(rule, &name);
    }
    // Going on is the reconciler's work, or the next request's: both end with nothing.
    crated_tests::eventually("it goes", || {
        let _ = rig.daemon.ctl(&["rm", "-f", &name]);
        rig.state(&name).is_none().then_some(())
    });
    rig.is_free(rule, &name);
}

fn short_life(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    let said = rig.under(rule, |daemon| daemon.ctl(&["run", "-d", "--name", &name, "bb:1", "sh", "-c", "exit 3"]));
    let seen = rig.settles(rule, &name, if said.status == 0 { &["exited"] } else { &["exited", "created", "-"] });
    if seen == "exited" && said.status == 0 {
        let status = rig.prepare(&["inspect", "--format", "{{.State.ExitCode}}", &name]);
        // A shim that died before it wrote the exit down has taken it along.
        assert!(status == "3" || rule.starts_with("shim.exit.save") && status == "137", "{rule}: {status}");
    }
    if seen != "-" {
        rig.goes(rule, &name);
    }
}

fn exec(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["run", "-d", "--name", &name], SLEEP].concat());
    let said = rig.under(rule, |daemon| daemon.ctl(&["exec", &name, "echo", "ok"]));
    if said.status == 0 {
        assert_eq!(said.stdout, "ok\n", "{rule}");
    }
    if rule.starts_with("shim.") && rule.contains("kill") {
        rig.settles(rule, &name, &["exited"]);
    } else {
        rig.settles(rule, &name, &["running"]);
    }
    rig.works_and_goes(rule, &name);
}

fn rename(rig: &mut Rig, rule: &str) {
    let (old, new) = (rig.name(), rig.name());
    rig.prepare(&["create", "--name", &old, "bb:1", "true"]);
    let said = rig.under(rule, |daemon| daemon.ctl(&["rename", &old, &new]));
    let there = (rig.state(&old).is_some(), rig.state(&new).is_some());
    assert!(there == (false, true) || said.status != 0 && there == (true, false), "{rule}: {there:?} {said:?}");
    let (its, free) = if there.0 { (&old, &new) } else { (&new, &old) };
    rig.is_free(rule, free);
    rig.goes(rule, its);
}

fn update(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["run", "-d", "--name", &name], SLEEP].concat());
    rig.under(rule, |daemon| daemon.ctl(&["update", "--memory", "64m", &name]));
    rig.daemon.ctl(&["update", "--memory", "64m", &name]).ok();
    assert_eq!(rig.prepare(&["inspect", "--format", "{{.HostConfig.Memory}}", &name]), "67108864", "{rule}");
    rig.works_and_goes(rule, &name);
}

/// A create that fails, and whose undoing is hit, too.
fn create_undone(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    let both = format!("{rule};engine.create.spec=error(5)");
    let said = rig.under_all(&both, 2, |daemon| daemon.ctl(&[&["create", "--name", &name], SLEEP].concat()));
    assert_ne!(said.status, 0, "{rule}");
    if !rule.contains("kill") {
        rig.again(); // what could not be undone is the reconciler's
    }
    rig.settles(rule, &name, &["-"]);
    crated_tests::eventually("the name is free", || {
        (rig.daemon.ctl(&["create", "--name", &name, "bb:1", "true"]).status == 0).then_some(())
    });
    rig.goes(rule, &name);
}

fn start_undone(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["create", "--name", &name], SLEEP].concat());
    let both = format!("{rule};shim.create.runtime=error(12)");
    let said = rig.under_all(&both, 2, |daemon| daemon.ctl(&["start", &name]));
    assert_ne!(said.status, 0, "{rule}");
    if !rule.contains("kill") {
        rig.again();
    }
    rig.settles(rule, &name, &["created", "exited"]);
    rig.works_and_goes(rule, &name);
}

/// The shim is killed, and the burial is hit.
fn buried(rig: &mut Rig, rule: &str) {
    let name = rig.name();
    rig.prepare(&[&["run", "-d", "--name", &name], SLEEP].concat());
    let pid = rig.daemon.container_pid(&name);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim: i32 = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    rig.under(rule, |_| crated_sys::process::kill(shim, 9).unwrap());
    if !rule.contains("kill") {
        rig.again();
    }
    rig.settles(rule, &name, &["exited"]);
    rig.works_and_goes(rule, &name);
}

fn load(rig: &mut Rig, rule: &str) {
    let (name, archive) = rig.image();
    let said = rig.under(rule, |daemon| Rig::load(daemon, &archive));
    if said.status != 0 {
        Rig::load(&rig.daemon, &archive).ok();
    }
    runs(rig, rule, &name);
}

fn pull(rig: &mut Rig, rule: &str) {
    let registry = Registry::start();
    let (name, archive) = rig.image();
    let reference = registry.push(&archive, &name);
    let said = rig.under(rule, |daemon| daemon.ctl(&["pull", &reference]));
    if said.status != 0 {
        rig.daemon.ctl(&["pull", &reference]).ok();
    }
    runs(rig, rule, &reference);
}

fn runs(rig: &mut Rig, rule: &str, image: &str) {
    let name = rig.name();
    rig.daemon.ctl(&["create", "--name", &name, image]).ok();
    let copy = rig.daemon.folder().join("copy");
    rig.daemon.ctl(&["cp", &format!("{name}:/bin/payload"), &copy.display().to_string()]).ok();
    let same = std::fs::read(copy).unwrap() == std::fs::read(rig.daemon.folder().join("payload")).unwrap();
    assert!(same, "{rule}: the layer is not whole");
    rig.daemon.ctl(&["rm", &name]).ok();
    rig.daemon.ctl(&["rmi", image]).ok();
}
