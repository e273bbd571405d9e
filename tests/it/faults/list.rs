//! The list of failpoints is complete: what the code has, docs/failpoints.md lists, and what it lists is armed.

use super::points;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Points of docs/failpoints.md: rows `| prefix | points |`, a moment ends in `!`. Answers whether something can fail there.
fn documented() -> BTreeMap<String, bool> {
    let text = std::fs::read_to_string(root().join("docs/failpoints.md")).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [prefix, points] = cells.as_slice() else { continue };
        let Some(prefix) = prefix.strip_prefix('`').and_then(|prefix| prefix.strip_suffix('`')) else { continue };
        for word in points.split_whitespace().map(|word| word.trim_matches('`')) {
            let (word, moment) = word.strip_suffix('!').map_or((word, false), |word| (word, true));
            found.insert(format!("{prefix}.{word}"), !moment);
        }
    }
    assert!(found.len() > 100, "the table of docs/failpoints.md is not understood: {found:?}");
    found
}

/// The text of every source file below these folders that is compiled into a program of ours.
fn sources(below: &[&str]) -> String {
    let mut text = String::new();
    let mut open: Vec<PathBuf> = below.iter().map(|name| root().join(name)).collect();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            // The network's points are no operation's yet: its own tests pass them.
            if path.is_dir() && !path.ends_with("tests") && !path.ends_with("services/net") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("core/src/fail.rs")
            {
                let whole = std::fs::read_to_string(path).unwrap();
                text.push_str(whole.split("#[cfg(test)]\nmod tests {").next().unwrap());
            }
        }
    }
    text
}

/// What stands in quotes right behind each `before`.
fn quoted<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.strip_prefix('"')?.split('"').next()).collect()
}

/// Whether the journal makes the point of an operation's step.
fn of_a_step(name: &str, steps: &BTreeSet<&str>) -> bool {
    let Some((_, step)) = name.strip_prefix("engine.").and_then(|rest| rest.split_once('.')) else { return false };
    ["intent", "intent.done", "back", "back.done", "close", "forget"].contains(&step)
        || steps.contains(step.strip_suffix(".done").unwrap_or(step))
}

#[test]
fn every_point_is_listed_and_armed() {
    let (documented, text) = (documented(), sources(&["services", "shim", "snapshotters", "runtime"]));
    let engine = sources(&["services/engine/src"]);
    let steps: BTreeSet<&str> = quoted(&engine, ".step(").into_iter().chain(quoted(&engine, "steps.run(")).collect();
    let points: BTreeSet<&str> =
        quoted(&text, "fail::point(").into_iter().chain(quoted(&text, "fail::moment(")).collect();
    let mut wrong = Vec::new();
    for point in &points {
        if !documented.contains_key(*point) {
            wrong.push(format!("{point} is in the code, and not in docs/failpoints.md"));
        }
    }
    for step in &steps {
        let listed = documented.keys().any(|name| name.starts_with("engine.") && name.ends_with(&format!(".{step}")));
        if !listed {
            wrong.push(format!("the step {step:?} is in the code, and no engine.KIND.{step} in docs/failpoints.md"));
        }
    }
    let (mut killed, mut failed) = (BTreeSet::new(), BTreeSet::new());
    for (name, fails) in points::armed() {
        killed.insert(name);
        if fails {
            failed.insert(name);
        }
        if !documented.contains_key(name) {
            wrong.push(format!("{name} is armed, and not in docs/failpoints.md"));
        }
    }
    for (name, fails) in &documented {
        let known = points.contains(name.as_str()) || of_a_step(name, &steps) || name.starts_with("task.event.tasks.");
        if !known {
            wrong.push(format!("{name} is in docs/failpoints.md, and not in the code"));
        }
        if !killed.contains(name.as_str()) || *fails && !failed.contains(name.as_str()) {
            let how = if *fails { "a kill and an error" } else { "a kill" };
            wrong.push(format!("{name} is not armed with {how}: tests/it/faults/points.rs lacks it"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
