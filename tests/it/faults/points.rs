//! Every failpoint by the operation that passes it. docs/failpoints.md lists them all; [`super::list`] compares.
//!
//! `name@N`: the N-th time it is passed; `name!`: a moment between steps, where nothing can fail but the process can die.

use super::cases::*;
use super::rig::{Rig, THEN};

/// Points of one operation.
pub(super) struct Case {
    pub(super) points: &'static str,
    pub(super) run: fn(&mut Rig, &str),
    /// A client of its own makes the operation, so that it can vanish.
    pub(super) client: bool,
}

const fn client(points: &'static str, run: fn(&mut Rig, &str)) -> Case {
    Case { points, run, client: true }
}

const fn other(points: &'static str, run: fn(&mut Rig, &str)) -> Case {
    Case { points, run, client: false }
}

pub(super) const CREATION: &[Case] = &[
    client(
        "engine.create.intent engine.create.intent.done! engine.create.snapshot engine.create.snapshot.done! \
         engine.create.user engine.create.user.done! engine.create.files engine.create.files.done! engine.create.volumes \
         engine.create.volumes.done! engine.create.spec engine.create.spec.done! engine.create.network engine.create.network.done! engine.create.close engine.create.done! \
         snapshot.prepare.backend snapshot.prepare.record snapshot.prepare.done! \
         store.commit@1 store.commit@2 store.commit@3 store.committed@1! store.committed@2! store.committed@3!",
        create,
    ),
    other(
        "engine.create.undo engine.create.undo.volumes! engine.create.back engine.create.back.done! engine.create.forget!",
        create_undone,
    ),
    client("engine.rename.record store.commit store.committed! engine.answer!", rename),
    client("engine.update.keep engine.update.record store.commit@1 store.commit@2", update),
];

pub(super) const START: &[Case] = &[
    client(
        "engine.start.intent engine.start.intent.done! engine.start.spec engine.start.spec.done! engine.start.task \
         engine.start.task.done! engine.start.network engine.start.network.done! engine.start.start engine.start.start.done! engine.start.close \
         task.create.intent task.create.bundle task.create.shim task.create.bind! task.create.call \
         task.create.done task.event.tasks.create task.event.tasks.start engine.answer! \
         store.commit@1 store.commit@2 store.commit@3 store.commit@4 store.committed@2! store.committed@3!",
        start,
    ),
    other(
        "engine.start.back engine.start.back.done! task.undo.kill! task.undo.sweep! task.undo.bundle task.undo.record",
        start_undone,
    ),
    other("engine.start.undo engine.start.undo.done! engine.start.back.done!", start_undone_late),
    other("engine.start.forget!", start_of_one_that_goes),
    other("task.restore!", found_again),
];

pub(super) const END: &[Case] = &[
    client(
        "engine.stop.intent engine.stop.intent.done! engine.stop.signal engine.stop.signal.done! engine.stop.wait \
         engine.stop.wait.done! engine.stop.kill engine.stop.kill.done! engine.stop.exit engine.stop.exit.done! \
         engine.stop.close task.event.tasks.exit task.event.tasks.delete engine.watch.exit \
         store.commit@1 store.commit@2 store.commit@3",
        stop,
    ),
    client("engine.stop.forget!", stop_of_one_that_goes),
    client(
        "engine.restart.intent engine.restart.intent.done! engine.restart.signal engine.restart.signal.done! \
         engine.restart.wait engine.restart.wait.done! engine.restart.kill engine.restart.kill.done! engine.restart.exit \
         engine.restart.exit.done! engine.restart.start engine.restart.start.done! engine.restart.close \
         engine.start.task.done! engine.start.start.done!",
        restart,
    ),
    other("engine.restart.forget!", restart_of_one_that_goes),
    client("task.event.tasks.exit engine.watch.exit", short_life),
    client("task.event.tasks.oom", hog),
    client("task.event.tasks.paused", pause),
    client("task.event.tasks.resumed", unpause),
];

pub(super) const REMOVAL: &[Case] = &[client(
    "engine.remove.intent engine.remove.intent.done! engine.remove.task engine.remove.task.done! \
     engine.remove.snapshot engine.remove.snapshot.done! engine.remove.files engine.remove.files.done! \
     engine.remove.volume engine.remove.volume.done! engine.remove.network engine.remove.network.done! engine.remove.forget! engine.remove.record engine.remove.done! \
     engine.answer! task.delete.shutdown! task.delete.bundle task.delete.record snapshot.remove.record \
     snapshot.remove.backend! store.commit@1 store.commit@2 store.commit@3 store.commit@4 store.committed@3!",
    remove,
)];

pub(super) const EXEC: &[Case] = &[
    client(
        "engine.exec.intent engine.exec.intent.done! engine.exec.process engine.exec.process.done! engine.exec.exec \
         engine.exec.exec.done! engine.exec.start engine.exec.start.done! engine.exec.close \
         task.event.tasks.exec-added task.event.tasks.exec-started store.commit@1 store.commit@2",
        exec,
    ),
    other("engine.exec.back engine.exec.back.done!", exec_undone),
];

pub(super) const IMAGES: &[Case] = &[
    other(
        "image.import.scan image.import.label image.import.name image.unpack.prepare image.unpack.apply \
         image.unpack.commit image.unpack.label image.lease.begun! image.lease.end! content.write content.write@2 \
         content.commit.publish content.commit.record content.commit.record@2 content.commit.clean! \
         snapshot.prepare.record snapshot.prepare.done! snapshot.commit.backend snapshot.commit.record store.commit@1 \
         store.commit@2 store.commit@5 store.commit@9 store.committed@3! store.committed@7!",
        load,
    ),
    other("image.unpack.undo!", load_undone),
    other(
        "image.lease.begun! image.import.label image.unpack.commit! content.write@2! store.committed@5!",
        load_given_up,
    ),
    client(
        "image.pull.resolve image.pull.choose image.pull.fetch image.pull.name image.unpack.apply \
         image.unpack.commit content.write content.commit.publish content.commit.record@2 store.commit@4 \
         store.committed@6!",
        pull,
    ),
];

pub(super) const SHIM: &[Case] = &[
    client("shim.create.runtime shim.create.pid! shim.create.publish! shim.start.gate shim.start.publish!", start),
    client("shim.exec.add shim.exec.start shim.exec.publish!", exec),
    client("shim.exit.save! shim.exit.publish!", short_life),
    client("shim.delete.destroy shim.delete.answer!", remove),
    other("task.bury.sweep! task.bury.record task.bury.bundle shim.sweep.cgroup shim.sweep.unmount", buried),
];

/// What was cut short by the first rule is ended by the next start, which is cut short, too.
pub(super) struct Twice {
    pub(super) first: &'static str,
    pub(super) seconds: &'static str,
    pub(super) run: fn(&mut Rig, &str),
}

pub(super) const TWICE: &[Twice] = &[
    Twice {
        first: "engine.create.files.done",
        seconds: "engine.create.back engine.create.back.done! engine.create.undo snapshot.remove.record \
                  snapshot.remove.backend! engine.create.undo.volumes! engine.create.forget! store.commit@1 store.commit@2 \
                  store.committed@2!",
        run: create,
    },
    Twice {
        first: "engine.start.task.done",
        seconds: "task.restore! engine.start.back engine.start.back.done! engine.start.undo task.delete.shutdown! \
                  task.delete.bundle task.delete.record engine.start.undo.done! engine.start.close store.commit@1 \
                  store.committed@1!",
        run: start,
    },
    Twice {
        first: "task.create.call",
        seconds: "task.restore! task.undo.kill! task.undo.sweep! task.undo.bundle task.undo.record engine.start.back.done!",
        run: start,
    },
    Twice { first: "engine.start.start.done", seconds: "engine.start.close task.restore! store.commit@1", run: start },
    Twice {
        first: "engine.stop.signal.done",
        seconds: "engine.stop.signal engine.stop.wait.done! engine.stop.kill engine.stop.kill.done! engine.stop.exit \
                  engine.stop.close engine.watch.exit",
        run: stop,
    },
    Twice {
        first: "engine.restart.kill",
        seconds: "engine.restart.exit engine.restart.start engine.start.task engine.start.task.done! \
                  engine.start.start.done! engine.restart.close",
        run: restart,
    },
    Twice {
        first: "engine.remove.intent.done",
        seconds: "engine.remove.task engine.remove.task.done! engine.remove.snapshot engine.remove.files.done! \
                  engine.remove.volume engine.remove.forget! engine.remove.record engine.remove.done! store.commit@1 \
                  store.committed@2!",
        run: remove,
    },
    Twice {
        first: "engine.exec.exec.done",
        seconds: "engine.exec.back engine.exec.back.done! engine.exec.close store.commit@1",
        run: exec,
    },
    Twice {
        first: "image.unpack.commit",
        seconds: "snapshot.remove.record snapshot.remove.backend! store.commit@1 store.committed@1! store.committed@2!",
        run: load,
    },
];

/// Points of the start that finds daemon and shim dead.
pub(super) const BURIED_AT_START: &str = "task.restore! task.bury.sweep! task.bury.record task.bury.bundle store.commit@1 \
                                          store.committed@1! shim.sweep.cgroup shim.sweep.unmount engine.watch.exit";

/// ENOSPC, EIO, ENOMEM, EMFILE.
pub(super) const ERRORS: [u32; 4] = [28, 5, 12, 24];

/// Every point that is armed singly: its name, and whether something can fail there.
pub(super) fn armed() -> impl Iterator<Item = (&'static str, bool)> {
    let lists = [CREATION, START, END, REMOVAL, EXEC, IMAGES, SHIM];
    lists.into_iter().flatten().flat_map(|case| case.points.split_whitespace()).map(|word| {
        let (word, moment) = word.strip_suffix('!').map_or((word, false), |word| (word, true));
        (word.split_once('@').map_or(word, |(name, _)| name), !moment)
    })
}

/// The rules of a list: a kill at each point, and an error where something can fail, of each kind in turn.
pub(super) fn rules(points: &'static str) -> impl Iterator<Item = String> {
    points.split_whitespace().enumerate().flat_map(|(index, word)| {
        let (word, moment) = word.strip_suffix('!').map_or((word, false), |word| (word, true));
        let (name, at) = word.split_once('@').unwrap_or((word, "1"));
        let error = ERRORS[index % ERRORS.len()];
        [Some(format!("{name}=kill@{at}")), (!moment).then(|| format!("{name}=error({error})@{at}"))]
            .into_iter()
            .flatten()
    })
}

/// Rules that hold the daemon or the shim up at each point where something can fail, so that the client vanishes meanwhile.
pub(super) fn delays(points: &'static str) -> impl Iterator<Item = String> {
    points.split_whitespace().filter(|word| !word.ends_with('!')).map(|word| {
        let (name, at) = word.split_once('@').unwrap_or((word, "1"));
        format!("{name}=delay(100)@{at}")
    })
}

/// The rules of a pair of deaths.
pub(super) fn pairs(twice: &'static Twice) -> impl Iterator<Item = String> {
    rules(twice.seconds).map(|second| format!("{}=kill{THEN}{second}", twice.first))
}
