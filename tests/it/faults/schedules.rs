//! Random schedules: operations, faults and deaths by a number that replays them, against a model of what may be.
//!
//! Several daemons take the schedules in turn, each over one root: a schedule ends with nothing left, so the next one can
//! begin there.

mod act;
mod dice;
mod fault;
mod place;

use super::model;
use super::rig::Rig;
use crate::api::Api;
use act::{Act, CHANGE, MAKE};
use dice::Dice;
use fault::Fault;
use place::Place;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Schedules where nobody names a number.
const USUAL: u64 = 300;
/// Daemons side by side where nobody names a number.
const WORKERS: u64 = 4;
/// Operations of one schedule.
const LENGTH: u32 = 6;
/// Containers of one.
const PLACES: usize = 3;
/// A call that is not cut.
const NEVER: Duration = Duration::from_secs(60);
/// Lines of the daemon's log that a failure shows.
const TAIL: usize = 120;

/// What was done in all.
#[derive(Default)]
struct Counts {
    operations: AtomicU64,
    acknowledged: AtomicU64,
    fired: AtomicU64,
    deaths: AtomicU64,
}

pub(super) fn run() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = match number("CRATED_SEED") {
        Some(seed) => (seed, number("CRATED_SCHEDULES").unwrap_or(1)),
        None => (1, number("CRATED_SCHEDULES").unwrap_or(USUAL)),
    };
    let workers = number("CRATED_WORKERS").unwrap_or(WORKERS).clamp(1, count);
    let (begun, counts, failed) = (Instant::now(), Counts::default(), AtomicBool::new(false));
    let failures: Vec<String> = std::thread::scope(|scope| {
        let (counts, failed) = (&counts, &failed);
        let running: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || work((first + worker..first + count).step_by(workers as usize), counts, failed))
            })
            .collect();
        running.into_iter().filter_map(|worker| worker.join().unwrap().err()).collect()
    });
    println!(
        "{count} schedules from {first}, {workers} daemons: {} operations, {} acknowledged, {} faults, {} deaths of a daemon, {:.0?}",
        counts.operations.load(Ordering::Relaxed),
        counts.acknowledged.load(Ordering::Relaxed),
        counts.fired.load(Ordering::Relaxed),
        counts.deaths.load(Ordering::Relaxed),
        begun.elapsed(),
    );
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Runs schedules over one daemon until one of anybody's fails.
fn work(seeds: impl Iterator<Item = u64>, counts: &Counts, failed: &AtomicBool) -> Result<(), String> {
    let rig = Rig::new();
    let mut bench = Bench { api: Api::new(rig.daemon.socket()), rig, cursor: "0.0".into(), counts };
    for seed in seeds {
        if failed.load(Ordering::SeqCst) {
            break;
        }
        let mut said = Vec::new();
        if let Err(why) = catch_unwind(AssertUnwindSafe(|| bench.schedule(seed, &mut said))) {
            failed.store(true, Ordering::SeqCst);
            let log = bench.rig.daemon.log();
            let lines: Vec<&str> = log.lines().collect();
            return Err(format!(
                "schedule {seed}: {}\n{}\n--- the end of the daemon's log:\n{}\n--- again: CRATED_SEED={seed} cargo test -p \
                 crated-tests --test it random_schedules -- --nocapture",
                text(&*why),
                said.join("\n"),
                lines[lines.len().saturating_sub(TAIL)..].join("\n"),
            ));
        }
    }
    catch_unwind(AssertUnwindSafe(|| bench.rig.leave())).map_err(|why| format!("at the end: {}", text(&*why)))
}

/// What a panic said.
fn text(why: &(dyn std::any::Any + Send)) -> String {
    let text = why.downcast_ref::<String>().cloned();
    text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// A daemon, and how it is called.
struct Bench<'a> {
    api: Api,
    rig: Rig,
    /// Of the newest event that was judged.
    cursor: String,
    counts: &'a Counts,
}

impl Bench<'_> {
    fn schedule(&mut self, seed: u64, said: &mut Vec<String>) {
        let mut dice = Dice::of(seed);
        let mut places: Vec<Place> = (0..PLACES).map(|_| Place::new(self.rig.name())).collect();
        for step in 0..LENGTH {
            let which = usize::try_from(dice.throw(PLACES as u64)).unwrap();
            let place = &mut places[which];
            let mut act = if place.is_free() { dice.one(&MAKE) } else { dice.one(&CHANGE) };
            if place.is_free() {
                place.short = dice.throw(4) == 0;
            }
            if act == Act::Rename && place.new.is_some() {
                act = Act::Exec; // an earlier name may still come
            }
            if act == Act::Rename {
                place.new = Some(self.rig.name());
            }
            let fault = Fault::thrown(&mut dice);
            said.push(format!("{step}: {act:?} {place} with {fault:?}"));
            let done = self.disturbed(&mut dice, act, place, &fault, said);
            self.counts.operations.fetch_add(1, Ordering::Relaxed);
            self.counts.acknowledged.fetch_add(done.into(), Ordering::Relaxed);
            place.expect(act, done, &fault);
            self.compare(&mut dice, &mut places, said);
        }
        self.clear(&places);
        let (events, newest) = self.api.events(&self.cursor).unwrap();
        model::events_are_right(&events);
        self.cursor = newest;
    }

    /// Does it under a fault; whether it was acknowledged. Nothing is armed afterwards, and a daemon runs.
    fn disturbed(&mut self, dice: &mut Dice, act: Act, place: &Place, fault: &Fault, said: &mut Vec<String>) -> bool {
        let new = place.new.clone().unwrap_or_default();
        let run = |api: &Api, cut| act.run(api, &place.name, &new, place.short, cut);
        let answer = match fault {
            Fault::None => run(&self.api, NEVER),
            Fault::Rule(rule) | Fault::Held(rule, _) => {
                self.rig.arm(rule);
                let cut = if let Fault::Held(_, cut) = fault { Duration::from_millis(*cut) } else { NEVER };
                let answer = run(&self.api, cut);
                self.counts.fired.fetch_add(u64::from(self.rig.fired() > 0), Ordering::Relaxed);
                self.rig.disarm();
                answer
            }
            Fault::Client(cut) => run(&self.api, Duration::from_millis(*cut)),
            Fault::Daemon(delay) | Fault::Stop(delay) => std::thread::scope(|scope| {
                let api = &self.api;
                let calling = scope.spawn(move || run(api, NEVER));
                // The moment is what is random: it is not a wait for something.
                std::thread::sleep(Duration::from_millis(*delay));
                if matches!(fault, Fault::Stop(_)) {
                    self.rig.daemon.stop()
                } else {
                    self.rig.daemon.kill()
                }
                calling.join().unwrap()
            }),
            Fault::Shim | Fault::Process => {
                self.strike(place, *fault == Fault::Shim);
                run(&self.api, NEVER)
            }
        };
        let done = matches!(answer, Some(Ok(())));
        said.push(format!(
            "   {}",
            answer.map_or("cut".into(), |answer| answer.map_or_else(|error| error, |()| "done".into()))
        ));
        self.revive(dice, said);
        done
    }

    /// Kills the process of a container, or its shim.
    fn strike(&self, place: &Place, shim: bool) {
        let found = self.api.list().unwrap().into_iter().find(|container| place.is_named(&container.name));
        let Some(pid) = found.map(|container| container.pid.cast_signed()).filter(|pid| *pid > 0) else { return };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return };
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        // The parent of one whose shim has died is the reaper of orphans: that is ourselves.
        let own = std::process::id().cast_signed();
        if let Some(pid) = if shim { parent.filter(|pid| *pid > 1 && *pid != own) } else { Some(pid) } {
            let _ = crated_sys::process::kill(pid, 9); // it may have ended just now
        }
    }

    /// Starts a daemon that is dead, perhaps to die once more in its start.
    fn revive(&mut self, dice: &mut Dice, said: &mut Vec<String>) {
        while !self.rig.daemon.lives() {
            self.counts.deaths.fetch_add(1, Ordering::Relaxed);
            let rule = Fault::at_start(dice);
            self.rig.arm(rule.as_deref().unwrap_or_default());
            if let Some(status) = self.rig.daemon.try_start() {
                let rule = rule.unwrap_or_else(|| panic!("without a rule it ended in its start: {status}"));
                said.push(format!("   and the start with {rule}"));
            }
            self.rig.disarm();
        }
    }

    /// Waits until every container is as it may be.
    fn compare(&mut self, dice: &mut Dice, places: &mut [Place], said: &mut Vec<String>) {
        let end = Instant::now() + crated_tests::PATIENCE * 2;
        loop {
            let listed = self.api.list();
            self.revive(dice, said); // what was armed may have fired after the answer
            if let Ok(listed) = &listed
                && places.iter().all(|place| place.allows(listed))
            {
                for place in places.iter_mut() {
                    place.see(listed);
                }
                said.push(format!("   {}", places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
                return;
            }
            assert!(
                Instant::now() < end,
                "want {}; there is {:?}",
                places.iter().map(Place::wish).collect::<Vec<_>>().join(", "),
                listed.map(|all| all.into_iter().map(|one| (one.name, one.state, one.exit_status)).collect::<Vec<_>>())
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes everything: names are free, and nothing is left on the host.
    fn clear(&mut self, places: &[Place]) {
        crated_tests::eventually("every container goes", || {
            let listed = self.api.list().unwrap();
            for container in &listed {
                let _ = Act::Remove.run(&self.api, &container.id, "", false, NEVER);
            }
            listed.is_empty().then_some(())
        });
        for place in places {
            crated_tests::eventually("its name is free", || {
                // What a client left behind may still come: then it goes now.
                let made = Act::Create.run(&self.api, &place.name, "", false, NEVER);
                let gone = Act::Remove.run(&self.api, &place.name, "", false, NEVER);
                (matches!(made, Some(Ok(()))) && matches!(gone, Some(Ok(())))).then_some(())
            });
        }
        let mut left = Vec::new();
        let clean = catch_unwind(AssertUnwindSafe(|| {
            crated_tests::eventually("nothing is left", || {
                left = self.rig.daemon.traces();
                for container in self.api.list().unwrap() {
                    let _ = Act::Remove.run(&self.api, &container.id, "", false, NEVER);
                }
                left.is_empty().then_some(())
            });
        }));
        assert!(clean.is_ok(), "left behind:\n{}", left.join("\n"));
    }
}
