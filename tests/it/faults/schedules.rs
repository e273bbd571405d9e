//! Random schedules: operations, faults and deaths by a number that replays them, against a model of what may be.

use super::rig::Rig;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Schedules where nobody names a number.
const USUAL: u64 = 20;
/// Operations of one schedule.
const LENGTH: u32 = 6;
/// Points that every operation may pass; those that one does not pass change nothing.
const POINTS: &[&str] = &[
    "engine.create.intent.done",
    "engine.create.snapshot.done",
    "engine.create.files",
    "engine.create.back.done",
    "engine.start.intent.done",
    "engine.start.task.done",
    "engine.start.start.done",
    "engine.start.close",
    "engine.start.back.done",
    "engine.stop.intent.done",
    "engine.stop.kill.done",
    "engine.stop.close",
    "engine.remove.intent.done",
    "engine.remove.task",
    "engine.remove.snapshot",
    "engine.remove.files.done",
    "engine.remove.record",
    "engine.answer",
    "task.create.shim",
    "task.create.call",
    "task.create.done",
    "task.delete.shutdown",
    "task.delete.bundle",
    "task.delete.record",
    "task.bury.record",
    "task.event.tasks.exit",
    "snapshot.prepare.done",
    "snapshot.remove.backend",
    "store.commit",
    "store.committed",
    "shim.create.runtime",
    "shim.create.pid",
    "shim.start.gate",
    "shim.start.publish",
    "shim.exit.save",
    "shim.exit.publish",
    "shim.delete.destroy",
    "shim.delete.answer",
];
/// ENOSPC, EIO, ENOMEM, EMFILE.
const ERRORS: [u32; 4] = [28, 5, 12, 24];

/// xorshift64*: one number tells all.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.throw(of.len() as u64)).unwrap()]
    }
}

/// What is done to a container, and where that leads.
#[derive(Clone, Copy, Debug)]
enum Act {
    Create,
    Start,
    Stop,
    Restart,
    Remove,
    Exec,
}

impl Act {
    const ALL: [Self; 7] =
        [Self::Create, Self::Start, Self::Start, Self::Stop, Self::Restart, Self::Remove, Self::Exec];

    fn words(self, name: &str) -> Vec<&str> {
        match self {
            Self::Create => vec!["create", "--name", name, "bb:1", "sleep", "100"],
            Self::Start => vec!["start", name],
            Self::Stop => vec!["stop", "-t", "0", name],
            Self::Restart => vec!["restart", "-t", "0", name],
            Self::Remove => vec!["rm", "-f", name],
            Self::Exec => vec!["exec", name, "true"],
        }
    }

    /// The state after a success.
    fn after(self, before: &str) -> &str {
        match self {
            Self::Create => "created",
            Self::Start | Self::Restart => "running",
            Self::Stop if before == "created" => "created",
            Self::Stop => "exited",
            Self::Remove => "-",
            Self::Exec => before,
        }
    }

    /// States that it may pass through and be left in where it did not succeed.
    fn between(self, before: &str) -> BTreeSet<String> {
        let mut states = BTreeSet::from([before.to_owned(), self.after(before).to_owned()]);
        match self {
            Self::Start if before != "-" => states.extend(["exited".into()]),
            Self::Restart if before != "-" => states.extend(["exited".into(), "created".into()]),
            Self::Remove if before != "-" => states.extend(["removing".into(), "exited".into()]),
            _ => {}
        }
        if before == "-" && !matches!(self, Self::Create) {
            states = BTreeSet::from(["-".into()]);
        }
        states
    }
}

/// How an operation is disturbed.
#[derive(Clone, Debug)]
enum Fault {
    None,
    Rule(String),
    /// The daemon is killed after so many milliseconds.
    Daemon(u64),
    /// The client is.
    Client(u64),
    /// The daemon is told to stop, and started again.
    Stop(u64),
}

fn fault(dice: &mut Dice) -> Fault {
    match dice.throw(10) {
        0 | 1 => Fault::None,
        2 => Fault::Daemon(dice.throw(60)),
        3 => Fault::Client(dice.throw(60)),
        4 => Fault::Stop(dice.throw(60)),
        5 | 6 => Fault::Rule(format!("{}=error({})@{}", dice.one(POINTS), dice.one(&ERRORS), 1 + dice.throw(3))),
        7 => Fault::Rule(format!("store.commit=kill@{}", 1 + dice.throw(6))),
        _ => Fault::Rule(format!("{}=kill@1", dice.one(POINTS))),
    }
}

pub(super) fn run() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = match number("CRATED_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("CRATED_SCHEDULES").unwrap_or(USUAL)),
    };
    let mut rig = Rig::new();
    for seed in first..first + count {
        let mut said = Vec::new();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| schedule(&mut rig, seed, &mut said)));
        assert!(ran.is_ok(), "schedule {seed} (CRATED_SEED={seed} replays it):\n{}", said.join("\n"));
    }
    rig.finish();
}

fn schedule(rig: &mut Rig, seed: u64, said: &mut Vec<String>) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..8 {
        dice.throw(2);
    }
    let names = [rig.name(), rig.name()];
    let mut states = ["-".to_owned(), "-".to_owned()];
    for step in 0..LENGTH {
        let which = usize::from(dice.throw(3) == 0);
        let (name, before) = (&names[which], states[which].clone());
        let act = if before == "-" { Act::Create } else { dice.one(&Act::ALL) };
        let fault = fault(&mut dice);
        said.push(format!("{step}: {act:?} {name} ({before}) with {fault:?}"));
        let done = disturbed(rig, &act.words(name), &fault);
        let mut allowed = act.between(&before);
        let shim = matches!(&fault, Fault::Rule(rule) if rule.starts_with("shim.") && rule.contains("kill"));
        if shim && before != "-" {
            allowed.insert("exited".into()); // its container has died with it
        } else if done {
            allowed = BTreeSet::from([act.after(&before).to_owned()]);
        }
        let list: Vec<&str> = allowed.iter().map(String::as_str).collect();
        let seen = rig.settles(&format!("{act:?} with {fault:?} (done: {done})"), name, &list);
        said.push(format!("   done: {done}, seen: {seen}"));
        states[which] = seen;
        if states[which] == "removing" {
            crated_tests::eventually("it goes", || {
                let _ = rig.daemon.ctl(&["rm", "-f", name]);
                rig.state(name).is_none().then_some(())
            });
            states[which] = "-".into();
        }
        // The other one was not touched.
        let other = 1 - which;
        rig.settles("the other container", &names[other], &[&states[other]]);
    }
    for name in &names {
        crated_tests::eventually("it goes", || {
            let _ = rig.daemon.ctl(&["rm", "-f", name]);
            rig.state(name).is_none().then_some(())
        });
        rig.is_free("at the end", name);
    }
}

/// Runs cratectl under a fault; whether it was told of success. A daemon runs afterwards and nothing is armed.
fn disturbed(rig: &mut Rig, words: &[&str], fault: &Fault) -> bool {
    match fault {
        Fault::None => rig.daemon.ctl(words).status == 0,
        Fault::Rule(rule) => {
            rig.arm(rule);
            let done = rig.daemon.ctl(words).status == 0;
            let fired = rig.fired() > 0;
            rig.disarm();
            // What is armed may fire between our look and the disarming: the daemon is asked itself.
            if rig.daemon.ctl(&["version"]).status != 0 || fired && rule.contains("kill") && !rule.starts_with("shim.")
            {
                rig.again();
            }
            done
        }
        Fault::Daemon(delay) | Fault::Client(delay) | Fault::Stop(delay) => {
            let mut client = Command::new(crated_tests::programs().join("cratectl"))
                .args(words)
                .env("CRATED_ADDRESS", rig.daemon.socket())
                .env("CRATED_NAMESPACE", "default")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // The moment is what is random: it is not a wait for something.
            std::thread::sleep(Duration::from_millis(*delay));
            match fault {
                Fault::Client(_) => client.kill().unwrap(),
                Fault::Stop(_) => rig.daemon.stop(),
                _ => rig.daemon.kill(),
            }
            let done = client.wait().unwrap().success();
            // What a client leaves goes on; a drained daemon has ended it (restart stops one that runs).
            rig.daemon.restart();
            done
        }
    }
}
