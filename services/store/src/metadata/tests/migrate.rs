//! A migration is cut short at each of its durable steps, and meets a full disk.

use super::super::migrate::STEPS;
use super::super::schema::SCHEMA;
use super::*;
use crate::snapshots::CHILDREN;
use crated_core::record::{SNAPSHOTS, Snapshot};

const SNAPSHOTS_OF_OLD: usize = 600;

/// A store of version 0, with more snapshots than a step reads at a time.
async fn old(folder: &Path) {
    let (store, _) = open(folder, small());
    for number in 0..SNAPSHOTS_OF_OLD {
        let parent = if number == 0 { String::new() } else { format!("s{:04}", (number - 1) / 2) };
        let name = format!("s{number:04}");
        let snapshot = Snapshot { name: name.clone(), parent, id: number as u64, ..Snapshot::default() };
        store.commit(vec![SNAPSHOTS.put(SNAPSHOTS.key2("default", "native", &name), &snapshot)]).await.unwrap();
    }
    drop(store);
    std::fs::write(folder.join("schema"), "0\n").unwrap();
}

async fn marks(store: &Metadata) -> usize {
    store.scan_all(&CHILDREN.prefix("")).await.unwrap().len()
}

#[test]
fn each_version_has_a_step_to_the_next() {
    assert_eq!(STEPS.len(), SCHEMA as usize);
}

#[tokio::test]
async fn a_migration_cut_short_at_each_step_is_ended_by_the_next_opening() {
    let whole = folder();
    old(whole.path()).await;
    let mut cut = 0;
    for point in 1.. {
        let folder = folder();
        let status = std::process::Command::new("cp").arg("-r").arg(whole.path()).arg(folder.path()).status();
        assert!(status.unwrap().success());
        let root = folder.path().join(whole.path().file_name().unwrap());
        let hook = Hook::after(point);
        let first = Metadata::open(&root, Options { crash: hook.clone(), ..small() });
        let ended = !hook.dead();
        assert_eq!(ended, first.is_ok(), "point {point}: {first:?}");
        drop(first);
        let (store, report) = open(&root, small());
        assert_eq!(report.migrated, (!ended).then_some(0), "point {point}: {report:?}");
        assert_eq!(marks(&store).await, SNAPSHOTS_OF_OLD - 1, "point {point}");
        assert!(!root.join("migrating").exists());
        if ended {
            break;
        }
        cut += 1;
    }
    assert!(cut > 3, "the migration had {cut} durable steps");
}

#[tokio::test]
async fn a_migration_meets_a_full_disk_and_is_ended_when_there_is_room() {
    let Some(tmpfs) = Tmpfs::new(4 << 20) else { return };
    let root = tmpfs.0.path().join("metadata");
    old(&root).await;
    for part in ["log/spare", "index"] {
        let path = root.join(part);
        let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
    }
    let ballast = tmpfs.0.path().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    while file.write_all(&[1; 512]).is_ok() {}
    drop(file);
    let error = Metadata::open(&root, small()).unwrap_err();
    assert_eq!(error.fault(), Fault::DiskFull, "{error}");
    std::fs::remove_file(&ballast).unwrap();
    let (store, report) = open(&root, small());
    assert_eq!(report.migrated, Some(0), "{report:?}");
    assert_eq!(marks(&store).await, SNAPSHOTS_OF_OLD - 1);
}
