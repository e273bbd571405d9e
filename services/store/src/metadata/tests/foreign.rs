//! What is not the store's own: foreign files in its folder, a disk that takes no writes, a log that has lost its end.

use super::super::offline::{self, State};
use super::upkeep::listing;
use super::*;

/// Puts something foreign in the place of `name`.
fn plant(path: &Path, what: &str) {
    let _ = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
    match what {
        "folder" => std::fs::create_dir(path).unwrap(),
        "pipe" => {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }
        "text" => std::fs::write(path, "not ours\n").unwrap(),
        "empty" => std::fs::write(path, "").unwrap(),
        "link" => std::os::unix::fs::symlink("/nonexistent/x", path).unwrap(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_foreign_thing_in_a_place_of_ours_is_named() {
    let newest = "00000000000000099999";
    for (place, whats, fault) in [
        (format!("log/{newest}.seg"), &["folder", "pipe", "link", "text", "empty"][..], Fault::Corrupt),
        (format!("snap/{newest}.snap"), &["folder", "pipe", "link"], Fault::Corrupt),
        ("schema".into(), &["text", "empty"], Fault::Corrupt),
        ("schema".into(), &["folder"], Fault::Os),
        ("migrating".into(), &["text"], Fault::Corrupt),
        ("log".into(), &["text"], Fault::Os),
        ("snap".into(), &["text"], Fault::Os),
        ("lock".into(), &["folder"], Fault::Os),
        ("tail".into(), &["folder"], Fault::Os),
    ] {
        for what in whats {
            let folder = folder();
            fill(folder.path()).await;
            // with the index lost there is nothing to heal from
            std::fs::remove_dir_all(folder.path().join("index")).unwrap();
            plant(&folder.path().join(&place), what);
            let error = Metadata::open(folder.path(), small()).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.fault(), fault, "{what} in place of {place}: {text}");
            assert!(text.contains(place.as_str()), "{what} in place of {place}: {text}");
            assert!(fault != Fault::Corrupt || text.contains(" at byte "), "{what} in place of {place}: {text}");
        }
    }
}

#[tokio::test]
async fn what_is_foreign_and_in_nobodys_way_stays() {
    let folder = folder();
    fill(folder.path()).await;
    let strange = ["notes.txt", "log/README", "log/x.seg", "snap/x.snap", "snap/1.bak", "log/folder.old"];
    for place in strange {
        plant(&folder.path().join(place), if place.ends_with(".old") { "folder" } else { "text" });
    }
    // these can be made anew
    for (place, what) in [("index", "text"), ("tail", "text"), ("index.opening", "text"), ("log/spare", "text")] {
        plant(&folder.path().join(place), what);
    }
    for _ in 0..2 {
        let (store, report) = open(folder.path(), small());
        assert!(!report.in_memory, "{report:?}");
        assert_filled(&store).await;
        store.commit(vec![put("z", "1")]).await.unwrap();
    }
    assert!(strange.iter().all(|place| folder.path().join(place).exists()));
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_not_an_older_one() {
    let whole = folder();
    fill(whole.path()).await;
    assert_eq!(Segment::look(segments(whole.path()).last().unwrap(), Revision(300)).unwrap().next, Revision(301));
    for lost in ["frames", "segment", "log and snapshots"] {
        for index in [false, true] {
            let folder = folder();
            let parts = if index { "log snap index tail" } else { "log snap tail" };
            for part in parts.split(' ') {
                let status =
                    std::process::Command::new("cp").arg("-r").arg(whole.path().join(part)).arg(folder.path()).status();
                assert!(status.unwrap().success());
            }
            let last = segments(folder.path()).pop().unwrap();
            match lost {
                // exactly at a frame, so that no checksum fails
                "frames" => {
                    let mut bytes = std::fs::read(&last).unwrap();
                    let segment = Segment::read(&last, Revision(u64::MAX), |_, _| {}).unwrap();
                    let magic = frame::Format::Three.magic();
                    let from = (0..segment.end as usize).rfind(|at| bytes[*at..].starts_with(magic)).unwrap();
                    bytes[from..].fill(0);
                    std::fs::write(&last, bytes).unwrap();
                }
                "segment" => std::fs::remove_file(&last).unwrap(),
                _ => ["log", "snap"].iter().for_each(|part| std::fs::remove_dir_all(folder.path().join(part)).unwrap()),
            }
            // a snapshot behind the loss would tell, too
            for (_, path) in segment::list(&folder.path().join("snap"), "snap").unwrap_or_default() {
                std::fs::remove_file(path).unwrap();
            }
            if index {
                let (store, report) = open(folder.path(), small());
                assert!(report.healed.as_ref().is_some_and(|why| why.contains("are gone")), "{lost}: {report:?}");
                assert_filled(&store).await;
                continue;
            }
            let error = Metadata::open(folder.path(), small()).unwrap_err();
            assert_eq!(error.fault(), Fault::Corrupt, "{lost}: {error}");
            assert!(
                error.to_string().contains("..=300 ") && error.to_string().contains(" at byte "),
                "{lost}: {error}"
            );
            assert_eq!(offline::check(folder.path()).unwrap().state, State::Damaged, "{lost}");
            let repair = offline::repair(folder.path()).unwrap();
            assert_eq!(repair.revision, Revision(300), "{lost}: {repair:?}");
            assert!(repair.lost.last().is_some_and(|(_, last)| *last == 300), "{lost}: {repair:?}");
            let (store, _) = open(folder.path(), small());
            assert_eq!(store.commit(vec![put("z", "1")]).await.unwrap(), Revision(301), "{lost}: no number twice");
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_mounted_read_only_is_named_and_can_be_looked_at() {
    let Some(tmpfs) = Tmpfs::new(16 << 20) else { return };
    let root = tmpfs.0.path().join("metadata");
    fill(&root).await;
    tmpfs.read_only();
    let before = listing(&root);
    let error = Metadata::open(&root, small()).unwrap_err();
    assert_eq!(error.fault(), Fault::ReadOnly, "{error}");
    assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("mount")), "{error:?}");
    let fresh = Metadata::open(&tmpfs.0.path().join("other"), small()).unwrap_err();
    assert_eq!(fresh.fault(), Fault::ReadOnly, "{fresh}");
    let check = offline::check(&root).unwrap();
    assert_eq!((check.state, check.records), (State::Sound, 100), "{check:?}");
    assert_eq!(offline::repair(&root).unwrap_err().fault(), Fault::ReadOnly);
    assert_eq!(listing(&root), before);
}
