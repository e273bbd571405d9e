//! Faults at every step: the daemon or a shim dies there, or the step fails, or its client vanishes; then what was
//! acknowledged is there and whole, the rest is whole or gone, names are free, exits are told once and in order, and nothing
//! is left.
//!
//! `CRATED_SCHEDULES=N` runs N random schedules, `CRATED_SEED=S` the one of that number; docs/failpoints.md lists the points.

mod cases;
mod list;
mod model;
mod points;
mod rig;
mod schedules;

use points::Case;
use rig::Rig;

/// Every point of a list, one after the other, over one root.
fn all(cases: &'static [Case]) {
    let mut rig = Rig::new();
    for case in cases {
        for rule in points::rules(case.points) {
            (case.run)(&mut rig, &rule);
        }
    }
    rig.finish();
}

#[test]
fn a_create_or_change_that_ends_anywhere_is_whole_or_gone() {
    all(points::CREATION);
}

#[test]
fn a_start_that_ends_anywhere_runs_or_leaves_no_task() {
    all(points::START);
}

#[test]
fn a_stop_or_an_end_that_is_cut_short_anywhere_goes_on_or_can_be_repeated() {
    all(points::END);
}

#[test]
fn a_removal_that_is_cut_short_anywhere_goes_on() {
    all(points::REMOVAL);
}

#[test]
fn an_exec_that_ends_anywhere_harms_nobody() {
    all(points::EXEC);
}

#[test]
fn an_image_that_is_half_there_comes_whole_at_the_next_attempt() {
    all(points::IMAGES);
}

#[test]
fn a_shim_that_dies_anywhere_leaves_nothing() {
    all(points::SHIM);
}

#[test]
fn a_client_that_vanishes_at_any_step_harms_nobody() {
    let mut rig = Rig::new();
    let lists = [points::CREATION, points::START, points::END, points::REMOVAL, points::EXEC, points::IMAGES];
    for case in lists.into_iter().flatten().filter(|case| case.client) {
        for rule in points::delays(case.points) {
            (case.run)(&mut rig, &rule);
        }
    }
    rig.finish();
}

#[test]
fn a_recovery_that_is_cut_short_anywhere_is_done_by_the_next() {
    let mut rig = Rig::new();
    for twice in points::TWICE {
        for rule in points::pairs(twice) {
            (twice.run)(&mut rig, &rule);
        }
    }
    for rule in points::rules(points::BURIED_AT_START) {
        cases::buried_at_start(&mut rig, &rule);
    }
    rig.finish();
}

#[test]
fn random_schedules_of_operations_and_faults_lose_and_leak_nothing() {
    schedules::run();
}
