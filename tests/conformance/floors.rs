//! The floors of ARCHITECTURE.md: a crate uses only what stands below it, and what few may use, only those use.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Direct dependencies of each crate of ours (development ones left out), by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let uses = package["dependencies"].as_array().unwrap().iter().filter(|dependency| dependency["kind"].is_null());
        let uses = uses.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect();
        found.insert(package["name"].as_str().unwrap().to_owned(), uses);
    }
    found
}

/// The table between the markers of ARCHITECTURE.md: `| crate | floor | may use (of ours) |`.
fn table() -> BTreeMap<String, (u32, BTreeSet<String>)> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let inside =
        text.split("<!-- floors -->").nth(1).expect("ARCHITECTURE.md has a table between <!-- floors --> markers");
    let mut table = BTreeMap::new();
    for line in inside.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let name = names(cells[0]).remove(0);
        table.insert(name, (cells[1].parse().unwrap(), names(cells[2]).into_iter().collect()));
    }
    table
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let (have, table) = (dependencies(), table());
    assert_eq!(have.keys().collect::<Vec<_>>(), table.keys().collect::<Vec<_>>(), "crates and table differ");
    let mut wrong = Vec::new();
    for (name, uses) in &have {
        let (floor, allowed) = &table[name];
        for used in uses.iter().filter(|used| table.contains_key(*used)) {
            let below = table[used].0;
            if !allowed.contains(used) {
                wrong.push(format!("{name} uses {used}, which the table does not allow"));
            }
            if below >= *floor {
                wrong.push(format!("{name} (floor {floor}) uses {used} (floor {below})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_few_may_use_only_they_use() {
    let rules: &[(&str, &[&str])] = &[
        ("libc", &["crated-sys"]),
        ("sled", &["crated-store"]),
        ("tonic", &["crated-api", "crated-daemon", "crated-ctl", "crated-tests"]),
        ("hyper", &["crated-image", "crated-daemon", "crated-tests"]),
    ];
    let have = dependencies();
    for (used, allowed) in rules {
        for (name, uses) in &have {
            assert!(!uses.contains(*used) || allowed.contains(&name.as_str()), "{name} uses {used}");
        }
    }
    for name in ["crated-types", "crated-sys", "crated-oci", "crated-spec"] {
        assert!(!have[name].contains("tokio"), "{name} uses tokio");
    }
}
