//! Torture: power cuts replayed from a recording of real writes, and damage to every kind of file of a store.
//!
//! ```text
//! child process ── writes, acknowledges into a file ──▶ recording (recorder.c)
//! recording ── cut at a moment, what was not synced is dropped, kept or torn ──▶ a folder ──▶ child: open, compare with the acks
//! a good store ── a bit, a sector, a page, the end of a file ──▶ a folder ──▶ child: open; wrong data is the only failure
//! ```
//! Short by default. `TORTURE_CUTS=1000 TORTURE_FLIPS=300 cargo test -p crated-store --test torture` is the long form; `TORTURE_SEED`
//! chooses other dice, `TORTURE_KEEP=DIR` keeps what failed.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod child;
mod content;
mod damage;
mod dice;
mod disk;
mod image;
mod metadata;
mod replay;
mod unpack;

use damage::{Aim, Place};
use disk::Names;
use std::collections::BTreeMap;

/// A number from the environment.
fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn judge(what: &str, tally: &BTreeMap<String, usize>, faults: &[String]) {
    println!("{what}: {tally:?}");
    assert!(faults.is_empty(), "{what}: {tally:?}\n{}", faults.join("\n"));
}

#[test]
fn a_power_cut_loses_no_acknowledged_commit() {
    let Some(recording) = replay::Recording::make("write-metadata") else { return };
    for names in [Names::Ext4, Names::Strict] {
        let (tally, faults) = recording.cut("check-metadata", names, number("TORTURE_CUTS", 100) / 2);
        judge(&format!("metadata, {names:?}"), &tally, &faults);
    }
}

#[test]
fn a_power_cut_leaves_no_short_blob() {
    let Some(recording) = replay::Recording::make("write-content") else { return };
    for names in [Names::Ext4, Names::Strict] {
        let (tally, faults) = recording.cut("check-content", names, number("TORTURE_CUTS", 100) / 2);
        judge(&format!("content, {names:?}"), &tally, &faults);
    }
}

#[test]
fn a_power_cut_leaves_no_short_snapshot() {
    let Some(recording) = replay::Recording::make("write-images") else { return };
    for names in [Names::Ext4, Names::Strict] {
        let (tally, faults) = recording.cut("check-images", names, number("TORTURE_CUTS", 16) / 2);
        judge(&format!("snapshots, {names:?}"), &tally, &faults);
    }
}

#[test]
fn damage_is_healed_or_named() {
    let good = damage::Good::make(false);
    let aims = [
        Aim { part: "index", lost: &[], place: Place::Anywhere },
        Aim { part: "log", lost: &[], place: Place::Anywhere },
        Aim { part: "snap", lost: &[], place: Place::Anywhere },
        Aim { part: "log", lost: &["index"], place: Place::Anywhere },
        Aim { part: "log", lost: &["index", "tail"], place: Place::Anywhere },
        Aim { part: "snap", lost: &["index"], place: Place::Anywhere },
        // taken for a torn tail this would be an older store
        Aim { part: "log", lost: &["index", "tail"], place: Place::Inside },
        Aim { part: "log", lost: &["index", "tail", "snap"], place: Place::Inside },
        Aim { part: "log", lost: &["index", "snap"], place: Place::End },
    ];
    for aim in aims {
        let few = if aim.place == Place::Anywhere { 12 } else { 6 };
        let (tally, faults) = good.damage(aim, number("TORTURE_FLIPS", few));
        judge(&aim.to_string(), &tally, &faults);
    }
}

/// A hole among commits that did not wait for the disk may be a torn tail: the note of the log's end tells that it is none.
#[test]
fn damage_among_commits_that_did_not_wait_is_healed_or_named() {
    let good = damage::Good::make(true);
    for aim in [
        Aim { part: "log", lost: &[], place: Place::Anywhere },
        Aim { part: "log", lost: &["index"], place: Place::Inside },
    ] {
        let (tally, faults) = good.damage(aim, number("TORTURE_FLIPS", 6));
        judge(&format!("{aim}, commits that did not wait"), &tally, &faults);
    }
}

#[test]
fn damage_that_sled_does_not_notice_is_no_data() {
    let good = damage::Good::make(false);
    for how in damage::TAMPERINGS {
        let (tally, faults) = good.tamper(how, number("TORTURE_FLIPS", 8) / 2);
        judge(&format!("index, {how}"), &tally, &faults);
        assert!(tally.keys().all(|key| key == "good"), "the index is built anew: {tally:?}");
    }
}

/// Not a test: what the children do.
#[test]
#[ignore = "child process"]
fn child() {
    child::run();
}
