//! `cratectl system check`: damage is named with who needs it, mended from where it came, or moved aside; orphans go.

use crated_tests::{Daemon, Registry, busybox_archive, eventually};
use serde_json::Value;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

fn blobs(daemon: &Daemon) -> PathBuf {
    daemon.root().join("io.containerd.content.v1.content/blobs/sha256")
}

fn snapshots(daemon: &Daemon) -> PathBuf {
    daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The blob with the most bytes: the layer.
fn layer(daemon: &Daemon) -> PathBuf {
    entries(&blobs(daemon)).into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

fn flip(path: &Path, offset: u64) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.sync_all().unwrap();
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Runs the check with flags; answers exit status and findings.
fn check(daemon: &Daemon, flags: &[&str]) -> (i32, Vec<Value>) {
    let outcome = daemon.ctl(&[&["system", "check", "--format", "json"], flags].concat());
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome:?}"));
    (outcome.status, found["findings"].as_array().unwrap().clone())
}

fn clean(daemon: &Daemon) {
    assert_eq!(check(daemon, &[]), (0, vec![]));
}

fn of<'f>(findings: &'f [Value], object: &str) -> &'f Value {
    let found = findings.iter().find(|finding| finding["object"].as_str().unwrap().contains(object));
    found.unwrap_or_else(|| panic!("{object} is not in {findings:#?}"))
}

#[test]
fn a_whole_store_has_no_findings() {
    let daemon = Daemon::start();
    clean(&daemon);
    daemon.load_busybox();
    daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sleep", "100"]).ok();
    daemon.ctl(&["create", "--name", "c2", "bb:1", "true"]).ok();
    clean(&daemon);
    let said = daemon.ctl(&["system", "check", "--quick"]).ok();
    assert!(said.contains("blobs") && said.contains("0 found"), "{said}");
    daemon.finish();
}

#[test]
fn damaged_and_lost_blobs_are_named_and_fetched_again() {
    let registry = Registry::start();
    let reference = registry.push(&busybox_archive(), "bb:1");
    let daemon = Daemon::start();
    daemon.ctl(&["pull", &reference]).ok();
    let before: Vec<_> =
        entries(&blobs(&daemon)).into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    assert!(before.len() >= 3, "manifest, configuration, layer");
    for (bytes, path) in &before {
        flip(path, bytes.len() as u64 / 2);
        let (status, findings) = check(&daemon, &[]);
        assert_eq!((status, findings.len()), (1, 1), "{findings:#?}");
        let finding = of(&findings, &name(path));
        assert!(finding["problem"].as_str().unwrap().contains("hash to"), "{finding}");
        assert_eq!(finding["usedBy"][0], format!("image {reference}"), "{finding}");
        assert_eq!(check(&daemon, &["--quick"]).1.len(), 0, "the quick form reads no bytes");
        let (status, findings) = check(&daemon, &["--repair"]);
        assert_eq!(status, 0, "{findings:#?}");
        assert!(of(&findings, &name(path))["outcome"].as_str().unwrap().contains("fetched again"), "{findings:#?}");
        assert_eq!(&std::fs::read(path).unwrap(), bytes);
        clean(&daemon);
    }
    for (_, path) in &before {
        std::fs::remove_file(path).unwrap();
    }
    let (status, findings) = check(&daemon, &["--quick"]);
    assert_eq!((status, findings.len()), (1, before.len()));
    assert!(findings.iter().all(|finding| finding["problem"] == "its file is gone"), "{findings:#?}");
    assert_eq!(check(&daemon, &["--repair"]).0, 0);
    for (bytes, path) in &before {
        assert_eq!(&std::fs::read(path).unwrap(), bytes);
    }
    // A plain pull heals, too, what is missing.
    std::fs::remove_file(layer(&daemon)).unwrap();
    daemon.ctl(&["pull", &reference]).ok();
    clean(&daemon);
    assert_eq!(daemon.ctl(&["run", "--rm", &reference, "echo", "well"]).ok(), "well\n");
    daemon.finish();
}

#[test]
fn damage_without_a_source_is_quarantined_and_never_served() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let layer = layer(&daemon);
    let bytes = std::fs::read(&layer).unwrap();
    flip(&layer, 100);
    let said = daemon.ctl(&["system", "check", "--repair"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stdout.contains(&name(&layer)) && said.stdout.contains("moved to"), "{said:?}");
    assert!(said.stdout.contains("pull or load docker.io/library/bb:1 again"), "{said:?}");
    assert!(!layer.exists(), "damaged bytes are not where they are served from");
    let error = daemon.ctl(&["save", "-o", "/dev/null", "bb:1"]).fails(1, "quarantine");
    assert!(error.contains("system check --repair"), "{error}");
    // What was unpacked from it is whole.
    assert_eq!(daemon.ctl(&["run", "--rm", "bb:1", "echo", "well"]).ok(), "well\n");
    let (status, findings) = check(&daemon, &[]);
    assert_eq!((status, findings.len()), (1, 1), "it stays a finding: {findings:#?}");
    daemon.load_busybox();
    assert_eq!(std::fs::read(&layer).unwrap(), bytes);
    let (_, findings) = check(&daemon, &["--repair"]);
    assert!(findings[0]["problem"].as_str().unwrap().contains("whole again"), "{findings:#?}");
    clean(&daemon);
    daemon.finish();
}

#[test]
fn lost_layers_are_unpacked_again_and_lost_containers_are_named() {
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ctl(&["create", "--name", "old", "bb:1", "echo", "old"]).ok();
    daemon.ctl(&["create", "--name", "lost", "bb:1", "echo", "lost"]).ok();
    let mut folders = entries(&snapshots(&daemon));
    folders.sort_by_key(|path| name(path).parse::<u64>().unwrap());
    let [base, _, lost] = folders.as_slice() else { panic!("{folders:?}") };
    // a file of the layer is gone, then all of it
    let file = base.join("fs/bin/busybox");
    std::fs::remove_file(&file).unwrap();
    let (status, findings) = check(&daemon, &[]);
    assert_eq!((status, findings.len()), (1, 1), "{findings:#?}");
    assert!(findings[0]["problem"].as_str().unwrap().contains("were committed"), "{findings:#?}");
    let users = findings[0]["usedBy"].to_string();
    assert!(users.contains("image docker.io/library/bb:1") && users.contains("container old ("), "{users}");
    std::fs::remove_dir_all(base).unwrap();
    std::fs::remove_dir_all(lost).unwrap();
    let error = daemon.ctl(&["start", "-a", "old"]);
    assert!(error.status != 0 && error.stderr.contains("system check --repair"), "{error:?}");
    let error = daemon.ctl(&["create", "bb:1", "true"]);
    assert!(error.status != 0 && error.stderr.contains("system check --repair"), "{error:?}");
    let (status, findings) = check(&daemon, &["--repair"]);
    assert_eq!((status, findings.len()), (1, 2), "{findings:#?}");
    let layer = findings.iter().find(|finding| finding["usedBy"].to_string().contains("image")).unwrap();
    assert_eq!(layer["open"], false, "{layer}");
    let container = findings.iter().find(|finding| finding["open"] == true).unwrap();
    assert!(container["remedy"].as_str().unwrap().contains("remove container lost"), "{container}");
    assert_eq!(daemon.ctl(&["start", "-a", "old"]).ok(), "old\n");
    assert_eq!(daemon.ctl(&["run", "--rm", "bb:1", "echo", "new"]).ok(), "new\n");
    daemon.ctl(&["rm", "lost"]).ok();
    clean(&daemon);
    daemon.kill();
    daemon.restart();
    clean(&daemon);
    daemon.finish();
}

#[test]
fn orphans_are_named_and_removed() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sleep", "100"]).ok();
    let digest = "0123456789abcdef".repeat(4);
    let state = daemon.state();
    let bundles = state.join("io.containerd.runtime.v2.task/default");
    let planted = [
        snapshots(&daemon).join("999999"),
        daemon.root().join("containers/default").join(&digest),
        bundles.join("nobody"),
        daemon.root().join("io.containerd.content.v1.content/ingest").join(&digest),
    ];
    let files = [blobs(&daemon).join(&digest), blobs(&daemon).join("notes.txt"), state.join("s/nobody")];
    // the collector, which the image's load has called, may be quicker with some of them than we are
    let (status, findings) = eventually("all are found", || {
        for folder in &planted {
            std::fs::create_dir_all(folder.join("inside")).unwrap();
        }
        for file in &files {
            std::fs::write(file, "x").unwrap();
        }
        let (status, findings) = check(&daemon, &[]);
        (findings.len() >= planted.len() + files.len()).then_some((status, findings))
    });
    assert_eq!((status, findings.len()), (1, planted.len() + files.len()), "{findings:#?}");
    for path in planted.iter().chain(&files) {
        let finding = of(&findings, &path.display().to_string());
        assert!(finding["open"] == true, "{finding}"); // it is there still, or the collector was quicker
    }
    let (status, findings) = check(&daemon, &["--repair"]);
    assert_eq!(status, 0, "{findings:#?}");
    for path in planted.iter().chain(&files) {
        assert!(!path.exists(), "{}", path.display());
    }
    assert!(of(&findings, "notes.txt")["outcome"].as_str().unwrap().contains("moved to"), "what is not ours is kept");
    clean(&daemon);
    assert_eq!(daemon.ctl(&["exec", "c1", "echo", "unharmed"]).ok(), "unharmed\n");
    daemon.finish();
}
