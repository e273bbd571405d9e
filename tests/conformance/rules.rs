//! Rules of CONTRIBUTING.md that can be read off the files.

use std::path::{Path, PathBuf};
use std::process::Command;

fn files(ending: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let found: Vec<_> = names
        .split('\0')
        .filter(|name| name.ends_with(ending))
        .filter_map(|name| Some((PathBuf::from(name), std::fs::read_to_string(root.join(name)).ok()?)))
        .collect();
    assert!(!found.is_empty(), "git lists no {ending}");
    found
}

#[test]
fn every_source_begins_with_what_it_is() {
    for (path, text) in files(".rs") {
        assert!(text.starts_with("//! "), "{} does not begin with a //! line", path.display());
    }
}

#[test]
fn nothing_unfinished_is_committed() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME")];
    for (path, text) in files(".rs") {
        for mark in marks {
            assert!(!text.contains(mark), "{} contains {mark}", path.display());
        }
    }
}

#[test]
fn unsafe_code_stands_in_one_crate() {
    for (path, text) in files(".rs") {
        if path.starts_with("runtime/sys") {
            continue;
        }
        let found = text.lines().any(|line| {
            let line = line.trim_start();
            !line.starts_with("//")
                && (line.contains(concat!("unsafe", " {")) || line.contains(concat!("unsafe", " fn")))
        });
        assert!(!found, "{} has unsafe code", path.display());
    }
}
