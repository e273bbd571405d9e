//! Check, export, import and repair.

use super::super::offline::{self, Header, Repair, State};
use super::upkeep::listing;
use super::*;
use crated_core::Stored;

type Records = Vec<(Vec<u8>, Stored)>;

fn exported(folder: &Path) -> crated_types::Result<(Header, Records)> {
    let (mut header, mut records) = (None, Vec::new());
    let begin = |found| {
        header = Some(found);
        Ok(())
    };
    offline::export(folder, begin, |key, stored| {
        records.push((key.to_vec(), stored));
        Ok(())
    })?;
    Ok((header.unwrap(), records))
}

fn copy(from: &Path, parts: &[&str]) -> TempDir {
    let to = folder();
    for part in parts {
        let status = std::process::Command::new("cp").arg("-r").arg(from.join(part)).arg(to.path()).status();
        assert!(status.unwrap().success());
    }
    to
}

#[tokio::test]
async fn a_sound_store_is_only_looked_at() {
    let folder = folder();
    fill(folder.path()).await;
    let before = listing(folder.path());
    let check = offline::check(folder.path()).unwrap();
    assert_eq!((check.state, check.revision, check.records), (State::Sound, Revision(300), 100), "{check:?}");
    assert!(check.problems.is_empty() && check.schema == 2);
    assert_eq!(exported(folder.path()).unwrap().1.len(), 100);
    assert_eq!(listing(folder.path()), before);
    let (_store, _) = open(folder.path(), small());
    let pid = std::process::id().to_string();
    for error in [
        offline::check(folder.path()).unwrap_err(),
        exported(folder.path()).unwrap_err(),
        offline::repair(folder.path()).unwrap_err(),
    ] {
        assert_eq!(error.fault(), Fault::InUse);
        assert!(error.to_string().contains(&pid), "{error}");
    }
    assert_eq!(offline::check(Path::new("/nonexistent")).unwrap_err().fault(), Fault::NotFound);
}

#[tokio::test]
async fn what_is_exported_is_imported_with_its_revisions() {
    let from = folder();
    fill(from.path()).await;
    let (header, records) = exported(from.path()).unwrap();
    let to = folder();
    let root = to.path().join("new/metadata");
    offline::import(&root, header, records.clone().into_iter().map(Ok)).unwrap();
    assert_eq!(exported(&root).unwrap(), (header, records.clone()));
    let (store, _) = open(&root, small());
    assert_filled(&store).await;
    assert_eq!(store.commit(vec![put("z", "1")]).await.unwrap(), Revision(301));
    drop(store);
    let again = offline::import(&root, header, records.clone().into_iter().map(Ok)).unwrap_err();
    assert_eq!(again.fault(), Fault::AlreadyExists);
    let short = offline::import(&to.path().join("short"), header, records.into_iter().skip(1).map(Ok)).unwrap_err();
    assert_eq!(short.fault(), Fault::Invalid);
    let newer = offline::import(&to.path().join("newer"), Header { schema: 3, ..header }, Vec::new()).unwrap_err();
    assert_eq!(newer.fault(), Fault::Unsupported);
}

#[tokio::test]
async fn what_heals_is_told_and_mended() {
    let folder = folder();
    fill(folder.path()).await;
    flip(&segments(folder.path())[1], 9000);
    let check = offline::check(folder.path()).unwrap();
    assert_eq!((check.state, check.records), (State::Heals, 100), "{check:?}");
    assert!(check.problems[0].contains(".seg at byte") && check.problems[0].contains("damaged"), "{check:?}");
    let Repair { records, why, lost, aside, .. } = offline::repair(folder.path()).unwrap();
    assert_eq!((records, lost.len(), aside.len()), (100, 0, 1));
    assert!(why.unwrap().contains("at byte"));
    assert_eq!(offline::check(folder.path()).unwrap().state, State::Sound);
    assert_filled(&open(folder.path(), small()).0).await;
}

#[tokio::test]
async fn what_does_not_heal_is_salvaged_and_set_aside() {
    let whole = folder();
    fill(whole.path()).await;
    let folder = copy(whole.path(), &["log"]);
    std::fs::create_dir(folder.path().join("snap")).unwrap();
    let segment = segments(folder.path()).swap_remove(1);
    flip(&segment, 9000);
    let check = offline::check(folder.path()).unwrap();
    assert_eq!(check.state, State::Damaged, "{check:?}");
    assert!(check.problems.iter().any(|why| why.contains(segment.to_str().unwrap())), "{check:?}");
    assert_eq!(exported(folder.path()).unwrap_err().fault(), Fault::Corrupt);
    let repair = offline::repair(folder.path()).unwrap();
    assert_eq!((repair.revision, repair.records), (Revision(300), 100), "{repair:?}");
    let lost: u64 = repair.lost.iter().map(|(first, last)| last - first + 1).sum();
    assert!((1..5).contains(&lost), "{repair:?}");
    assert!(repair.aside.contains(&folder.path().join("log.bad")), "{repair:?}");
    let check = offline::check(folder.path()).unwrap();
    assert!(check.state != State::Damaged && check.records == 100, "{check:?}");
    let (store, _) = open(folder.path(), small());
    assert_filled(&store).await;
    assert_eq!(store.commit(vec![put("z", "1")]).await.unwrap(), Revision(301));
    drop(store);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    assert_eq!(text(&open(folder.path(), small()).0, "z").await.unwrap(), "1");
}
