//! The index: sled that stands still, big values, versions.

use super::*;

fn patient(hook: Hook) -> Options {
    // a machine that is busy with other things must not look like a sled that stands still
    let patience = Duration::from_millis(1500);
    Options { segment: 16 << 10, snapshot_every: 8 << 10, patience, crash: hook, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sled_that_stands_still_holds_nobody_up_and_serves_again() {
    let folder = folder();
    let hook = Hook::after(i64::MAX);
    let (store, _) = open(folder.path(), patient(hook.clone()));
    store.commit(vec![put("a", "1")]).await.unwrap();
    hook.set_stalled(true);
    let mut number = 0;
    while store.health().is_none() {
        number += 1;
        store.commit(vec![put(&format!("k{number:06}"), "x")]).await.unwrap();
    }
    assert!(store.health().unwrap().contains("in memory"), "{:?}", store.health());
    assert_eq!(text(&store, "a").await.unwrap(), "1");
    assert_eq!(store.scan_all(b"k").await.unwrap().len(), number);
    hook.set_stalled(false);
    let mut more = 0;
    while store.health().is_some() {
        more += 1;
        store.commit(vec![put(&format!("m{:03}", more % 100), &"y".repeat(300))]).await.unwrap();
        assert!(more < 100_000, "sled never serves again");
    }
    assert_eq!(store.scan_all(b"k").await.unwrap().len(), number);
    store.commit(vec![put("z", "1")]).await.unwrap();
    drop(store);
    let (store, report) = open(folder.path(), patient(Hook::default()));
    assert!(report.rebuilt.is_none() && report.healed.is_none() && !report.in_memory, "{report:?}");
    assert_eq!(text(&store, "z").await.unwrap(), "1");
    assert_eq!(store.scan_all(b"k").await.unwrap().len(), number);
}

#[tokio::test]
async fn a_store_opens_though_sled_does_not() {
    let folder = folder();
    fill(folder.path()).await;
    let hook = Hook::after(i64::MAX);
    hook.set_stalled(true);
    let (store, report) = open(folder.path(), patient(hook.clone()));
    assert!(report.in_memory && report.rebuilt.unwrap().contains("no step"));
    assert_filled(&store).await;
    store.commit(vec![put("z", "1")]).await.unwrap();
    drop(store);
    hook.set_stalled(false);
    // the thread that stood still goes on now and has sled for a while, which in another process it could not
    let until = std::time::Instant::now() + Duration::from_secs(60);
    let (mut store, mut report) = open(folder.path(), small());
    while report.in_memory && std::time::Instant::now() < until {
        drop(store);
        std::thread::sleep(Duration::from_millis(100));
        (store, report) = open(folder.path(), small());
    }
    assert!(!report.in_memory, "{report:?}");
    assert_filled(&store).await;
    assert_eq!(text(&store, "z").await.unwrap(), "1");
}

#[tokio::test]
async fn a_value_over_what_sled_bears_lies_in_parts() {
    let folder = folder();
    let big = |fill: u8, length: usize| Op::Put(b"big".to_vec(), vec![fill; length].into());
    let mut size = 0;
    for (fill, length) in [(1, 300_000), (2, 70_000), (3, 10), (4, 2 << 20), (5, 65_536)] {
        let (store, report) = open(folder.path(), small());
        assert!(report.rebuilt.is_none() && report.healed.is_none(), "{report:?}");
        assert_eq!(store.get(b"big").await.unwrap().map_or(0, |stored| stored.value.len()), size);
        assert_eq!(store.scan_all(b"").await.unwrap().len(), usize::from(size > 0));
        store.commit(vec![big(fill, length)]).await.unwrap();
        size = length;
    }
    let blobs = folder.path().join("index/blobs");
    assert_eq!(std::fs::read_dir(blobs).map_or(0, Iterator::count), 0, "sled made a file of its own");
    let (store, _) = open(folder.path(), small());
    store.commit(vec![Op::Delete(b"big".to_vec())]).await.unwrap();
    drop(store);
    let (store, report) = open(folder.path(), small());
    assert!(report.rebuilt.is_none() && store.scan_all(b"").await.unwrap().is_empty(), "{report:?}");
    let refused = store.commit(vec![big(6, 9 << 20)]).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Invalid, "{refused}");
    assert!(refused.to_string().contains("at most 8388608"), "{refused}");
}

#[tokio::test]
async fn the_store_of_a_newer_program_is_not_touched() {
    let folder = folder();
    fill(folder.path()).await;
    std::fs::write(folder.path().join("schema"), "3\n").unwrap();
    let before = listing(folder.path());
    let error = Metadata::open(folder.path(), small()).unwrap_err();
    assert_eq!(error.fault(), Fault::Unsupported);
    assert!(error.to_string().contains("newer crated (schema 3)") && error.remedy().is_some(), "{error}");
    assert_eq!(listing(folder.path()), before);
    std::fs::remove_file(folder.path().join("schema")).unwrap();
    assert_filled(&open(folder.path(), small()).0).await;
}

/// Every file with its bytes.
pub(super) fn listing(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true => found.extend(listing(&path)),
            false => drop(found.insert(path.clone(), std::fs::read(path).unwrap())),
        }
    }
    found
}
