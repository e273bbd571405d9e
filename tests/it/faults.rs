//! Faults at every step: the daemon or a shim dies there, or the step fails; then what was acknowledged is there and whole,
//! the rest is whole or gone, names are free, exits are told once and in order, and nothing is left.
//!
//! `CRATED_SCHEDULES=N` runs N random schedules, `CRATED_SEED=S` the one of that number; docs/failpoints.md lists the points.

mod model;
mod points;
mod rig;
mod schedules;

use points::{Case, EXEC_AND_CHANGE, IMAGES, LIVES, REMOVAL, SHIM};
use rig::Rig;

/// Every point of a list, one after the other, over one root.
fn all(cases: &[Case]) {
    let mut rig = Rig::new();
    for case in cases {
        for name in case.points.split_whitespace() {
            let (name, only_kill) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
            for action in ["kill", "error(28)"] {
                if action != "kill" && only_kill {
                    continue;
                }
                let (point, at) = name.split_once('@').unwrap_or((name, "1"));
                (case.run)(&mut rig, &format!("{point}={action}@{at}"));
            }
        }
    }
    rig.finish();
}

#[test]
fn a_create_or_start_that_ends_anywhere_is_whole_or_gone() {
    all(LIVES);
}

#[test]
fn a_stop_or_removal_that_ends_anywhere_goes_on_or_can_be_repeated() {
    all(REMOVAL);
}

#[test]
fn an_exec_or_change_that_ends_anywhere_harms_nobody() {
    all(EXEC_AND_CHANGE);
}

#[test]
fn an_image_that_is_half_there_comes_whole_at_the_next_attempt() {
    all(IMAGES);
}

#[test]
fn a_shim_that_dies_anywhere_leaves_nothing() {
    all(SHIM);
}

#[test]
fn random_schedules_of_operations_and_faults_lose_and_leak_nothing() {
    schedules::run();
}
