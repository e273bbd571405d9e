//! Stores of every version that there was, kept as files, are opened by this program: what stood in them is there, in the shape of
//! today. `examples/kept.rs` wrote them; they are never written again.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use crated_core::record::{CONTAINERS, IMAGES, SNAPSHOTS, TASKS};
use crated_core::{Cursor, MetadataStore};
use crated_store::metadata::offline;
use crated_store::{Metadata, Options, Report};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

type Records = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// The newest version.
const NEWEST: u32 = 2;

fn kept(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/kept/v{version}"))
}

/// A copy that may be changed.
fn copy(version: u32) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-r").arg(kept(version).join("store")).arg(to.path()).status();
    assert!(status.unwrap().success());
    to
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

/// Newest revision, events and records that a kept store has.
fn expected(version: u32) -> (u64, usize, Records) {
    let text = std::fs::read_to_string(kept(version).join("expected")).unwrap();
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let records = lines.map(|line| {
        let parts: Vec<&str> = line.split(' ').collect();
        (bytes(parts[1]), (parts[0].parse().unwrap(), bytes(parts[2])))
    });
    (head[1].parse().unwrap(), head[3].parse().unwrap(), records.collect())
}

fn open(folder: &Path) -> (Arc<Metadata>, Report) {
    Metadata::open(folder, Options::default()).unwrap()
}

async fn records(store: &Metadata) -> Records {
    let all = store.scan_all(b"").await.unwrap();
    all.into_iter().map(|(key, stored)| (key, (stored.revision.0, stored.value.to_vec()))).collect()
}

/// What version 1 has more than version 0.
fn marks() -> Vec<Vec<u8>> {
    [("sha256:base", "sha256:top"), ("sha256:top", "rw")]
        .map(|(parent, child)| format!("snapshotchild/default/overlayfs\0{parent}\0{child}").into_bytes())
        .to_vec()
}

#[tokio::test]
async fn a_store_of_every_version_is_opened() {
    for version in 0..=NEWEST {
        let folder = copy(version);
        let store = folder.path().join("store");
        let (revision, events, wanted) = expected(version);
        assert!(wanted.len() > 20 && events > 10, "the kept store of version {version} is too small");
        for life in 0..3 {
            let (metadata, report) = open(&store);
            let old = life == 0 && version < NEWEST;
            assert_eq!(report.migrated, old.then_some(version), "version {version}: {report:?}");
            assert!(report.healed.is_none(), "version {version}: {report:?}");
            let mut found = records(&metadata).await;
            if version == 0 {
                for mark in marks() {
                    assert!(found.remove(&mark).unwrap().0 > revision, "its mark was made by the migration");
                }
            }
            assert_eq!(found, wanted, "version {version}, life {life}");
            assert_eq!(metadata.events(Cursor::default(), 10_000).await.unwrap().len(), events);
            drop(metadata);
            assert_eq!(std::fs::read_to_string(store.join("schema")).unwrap().trim(), NEWEST.to_string());
            assert!(!store.join("migrating").exists());
            if life == 1 {
                std::fs::remove_dir_all(store.join("index")).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn old_records_read_as_what_they_were() {
    for version in 0..=NEWEST {
        let folder = copy(version);
        let (metadata, _) = open(&folder.path().join("store"));
        let (_, image) =
            IMAGES.get(&*metadata, &IMAGES.key("default", "docker.io/library/busybox:1")).await.unwrap().unwrap();
        assert_eq!(image.target.unwrap().size, 529);
        let (_, container) = CONTAINERS.get(&*metadata, &CONTAINERS.key("default", "web")).await.unwrap().unwrap();
        assert_eq!((container.snapshot_key.as_str(), container.spec.unwrap().value.len()), ("rw", 20_000));
        let (_, task) = TASKS.get(&*metadata, &TASKS.key("default", "web")).await.unwrap().unwrap();
        assert!(task.exit.is_some_and(|exit| exit.status == 137 && exit.oom_killed) && task.own);
        let snapshots = SNAPSHOTS.list(&*metadata, &SNAPSHOTS.prefix("default")).await.unwrap();
        let parents: Vec<_> = snapshots.iter().map(|(_, _, one)| (one.name.as_str(), one.parent.as_str())).collect();
        assert_eq!(parents, [("rw", "sha256:top"), ("sha256:base", ""), ("sha256:top", "sha256:base")]);
    }
}

#[tokio::test]
async fn a_migration_that_was_interrupted_begins_again() {
    // begun, and one of its commits done
    let folder = copy(0);
    let store = folder.path().join("store");
    drop(open(&store));
    let (metadata, _) = open(&store);
    metadata.commit(vec![crated_core::Op::Delete(marks().remove(0))]).await.unwrap();
    drop(metadata);
    std::fs::write(store.join("migrating"), "0\n").unwrap();
    let (metadata, report) = open(&store);
    assert_eq!(report.migrated, Some(0));
    for mark in marks() {
        assert!(metadata.get(&mark).await.unwrap().is_some());
    }
    drop(metadata);
    assert_eq!(open(&store).1.migrated, None);
    // noted, and the version not yet raised
    let folder = copy(0);
    let store = folder.path().join("store");
    std::fs::write(store.join("migrating"), "0\n").unwrap();
    assert_eq!(open(&store).1.migrated, Some(0));
    assert!(!store.join("migrating").exists());
}

#[tokio::test]
async fn an_old_export_is_imported_and_migrated() {
    let folder = copy(0);
    let (mut header, mut lines) = (None, Vec::new());
    let begin = |found| {
        header = Some(found);
        Ok(())
    };
    offline::export(&folder.path().join("store"), begin, |key, stored| {
        lines.push(Ok((key.to_vec(), stored)));
        Ok(())
    })
    .unwrap();
    let header = header.unwrap();
    assert_eq!(header.schema, 0, "an export is what the store is");
    let check = offline::check(&folder.path().join("store")).unwrap();
    assert_eq!((check.schema, check.records), (0, header.records));
    let new = folder.path().join("new");
    offline::import(&new, header, lines).unwrap();
    let (metadata, report) = open(&new);
    assert_eq!(report.migrated, Some(0));
    assert_eq!(records(&metadata).await.len() as u64, header.records + marks().len() as u64);
}
