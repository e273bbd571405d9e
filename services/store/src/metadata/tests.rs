//! The metadata store against its contract: order, groups, pages, events, crashes, damage, a full disk.

mod foreign;
mod migrate;
mod offline;
mod upkeep;

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder in memory where there is one: these tests sync thousands of times.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn small() -> Options {
    Options { segment: 16 << 10, snapshot_every: 40 << 10, keep_events: 1 << 20, ..Options::default() }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(key.into(), Bytes::copy_from_slice(value.as_bytes()))
}

fn event(topic: &str) -> Op {
    Op::event(&crated_core::record::Event { topic: topic.into(), ..Default::default() })
}

fn open(folder: &Path, options: Options) -> (Arc<Metadata>, Report) {
    Metadata::open(folder, options).unwrap()
}

async fn text(store: &Metadata, key: &str) -> Option<String> {
    let found = store.get(key.as_bytes()).await.unwrap();
    found.map(|stored| String::from_utf8(stored.value.to_vec()).unwrap())
}

#[tokio::test]
async fn expectations_are_judged_in_order_even_within_one_group() {
    let folder = folder();
    let (store, _) = open(folder.path(), Options::default());
    let race = (0..32)
        .map(|number| store.commit(vec![Op::Expect("k".into(), Revision::ABSENT), put("k", &number.to_string())]));
    let won = futures::future::join_all(race).await;
    assert_eq!(won.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert!(won.iter().flat_map(|answer| answer.as_ref().err()).all(|error| error.fault() == Fault::Conflict));
    let stored = store.get(b"k").await.unwrap().unwrap();
    let wrong = Revision(stored.revision.0 + 9);
    let refused = store.commit(vec![Op::Expect("k".into(), wrong), Op::Delete("k".into())]).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Conflict);
    store.commit(vec![Op::Expect("k".into(), stored.revision), Op::Delete("k".into())]).await.unwrap();
    assert_eq!(text(&store, "k").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_lose_no_update() {
    let folder = folder();
    let (store, _) = open(folder.path(), small());
    let workers = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..50 {
                loop {
                    let found = store.get(b"n").await.unwrap();
                    let revision = found.as_ref().map_or(Revision::ABSENT, |stored| stored.revision);
                    let number: u64 =
                        found.map_or(0, |stored| std::str::from_utf8(&stored.value).unwrap().parse().unwrap());
                    let ops = vec![Op::Expect("n".into(), revision), put("n", &(number + 1).to_string())];
                    match store.commit(ops).await {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.fault(), Fault::Conflict),
                    }
                }
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    assert_eq!(text(&store, "n").await.unwrap(), "400");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_sees_one_revision() {
    let folder = folder();
    let (store, _) = open(folder.path(), small());
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0..400 {
                store
                    .commit((0..20).map(|key| put(&format!("p/{key:02}"), &format!("{number:0100}"))).collect())
                    .await
                    .unwrap();
            }
        })
    };
    while !writer.is_finished() {
        let page = store.scan(b"p/", b"", 100).await.unwrap();
        assert!(page.is_empty() || page.len() == 20);
        assert!(page.windows(2).all(|pair| pair[0].1 == pair[1].1), "a page mixed two revisions");
    }
    writer.await.unwrap();
    let mut after = Vec::new();
    let mut keys = Vec::new();
    loop {
        let page = store.scan(b"p/", &after, 7).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after.clone_from(last);
        keys.extend(page.into_iter().map(|(key, _)| key));
    }
    assert_eq!(keys, (0..20).map(|key| format!("p/{key:02}").into_bytes()).collect::<Vec<_>>());
    assert_eq!(store.scan_all(b"p/1").await.unwrap().len(), 10);
    assert!(store.scan(b"q/", b"", 7).await.unwrap().is_empty());
}

#[tokio::test]
async fn events_are_read_from_a_cursor_across_restarts() {
    let folder = folder();
    for life in 0..3 {
        let (store, _) = open(folder.path(), small());
        for number in 0..50 {
            store.commit(vec![put("x", "y"), event(&format!("{life}.{number}")), event("twin")]).await.unwrap();
        }
    }
    let (store, _) = open(folder.path(), small());
    let mut watch = store.watch();
    let mut cursor = Cursor::default();
    let mut topics = Vec::new();
    loop {
        let page = store.events(cursor, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        cursor = last.cursor;
        topics.extend(page.into_iter().map(|logged| logged.event.topic));
    }
    assert_eq!(topics.len(), 300);
    assert_eq!((&topics[0][..], &topics[1][..], &topics[298][..]), ("0.0", "twin", "2.49"));
    let revision = store.commit(vec![event("live")]).await.unwrap();
    while watch.next().await.unwrap() < revision {}
    assert_eq!(store.events(cursor, 7).await.unwrap()[0].event.topic, "live");
}

#[tokio::test]
async fn old_events_are_pruned_and_a_late_cursor_is_told() {
    let folder = folder();
    let options = Options { keep_events: 0, ..small() };
    let (store, _) = open(folder.path(), options.clone());
    let mut written = 0;
    let error = loop {
        store.commit(vec![put(&format!("k{}", written % 5), &"x".repeat(500)), event("e")]).await.unwrap();
        written += 1;
        match store.events(Cursor::default(), 1).await {
            Err(error) => break error,
            // by memory alone a cursor is served for 2 MiB
            Ok(_) => assert!(written < 50_000, "nothing is pruned"),
        }
    };
    assert_eq!(error.fault(), Fault::OutOfRange, "{error}");
    drop(store);
    let (store, report) = open(folder.path(), options);
    assert_eq!(report.revision, Revision(written));
    let error = store.events(Cursor::default(), 10).await.unwrap_err();
    assert_eq!(error.fault(), Fault::OutOfRange, "{error}");
}

#[tokio::test]
async fn a_commit_happens_once_polled_even_if_nobody_waits() {
    let folder = folder();
    let (store, _) = open(folder.path(), small());
    {
        let mut commit = store.commit(vec![put("a", "1")]);
        let _ = futures::poll!(&mut commit);
    }
    store.commit(vec![put("b", "2")]).await.unwrap();
    assert_eq!(text(&store, "a").await.unwrap(), "1");
}

#[test]
fn the_second_opener_learns_who_has_the_folder() {
    let folder = folder();
    let (_store, _) = open(folder.path(), small());
    let error = Metadata::open(folder.path(), small()).unwrap_err();
    assert_eq!(error.fault(), Fault::InUse);
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
}

#[tokio::test]
async fn every_crash_point_keeps_what_was_acknowledged() {
    for point in 1..60 {
        let folder = folder();
        let hook = Hook::after(point);
        let options =
            Options { segment: 2048, snapshot_every: 5000, keep_events: 0, crash: hook.clone(), ..Options::default() };
        let mut acked = 0;
        if let Ok((store, _)) = Metadata::open(folder.path(), options) {
            for number in 1..=40_u64 {
                let pair = vec![
                    put(&format!("a{}", number % 7), &number.to_string()),
                    put(&format!("b{}", number % 7), &format!("{number}{}", " ".repeat(200))),
                ];
                match store.commit(pair).await {
                    Ok(_) => acked = number,
                    Err(error) => {
                        assert_eq!(error.fault(), Fault::ReadOnly, "{error}");
                        break;
                    }
                }
            }
        }
        let (store, report) = open(folder.path(), Options { segment: 2048, ..Options::default() });
        assert!(report.rebuilt.is_none() && report.healed.is_none(), "point {point}: {report:?}");
        let found = store.revision().0;
        assert!(found == acked || found == acked + 1, "point {point}: acknowledged {acked}, found {found}");
        for key in 0..7 {
            let (a, b) = (text(&store, &format!("a{key}")).await, text(&store, &format!("b{key}")).await);
            assert_eq!(a, b.map(|text| text.trim().to_owned()), "point {point}: half a commit");
        }
    }
}

async fn fill(folder: &Path) {
    let (store, _) = open(folder, small());
    let commits =
        (0..300).map(|number| store.commit(vec![put(&format!("k{:03}", number % 100), &format!("{number:0500}"))]));
    for commit in commits {
        commit.await.unwrap();
    }
}

async fn assert_filled(store: &Metadata) {
    assert_eq!(store.scan_all(b"k").await.unwrap().len(), 100);
    assert_eq!(text(store, "k099").await.unwrap(), format!("{:0500}", 299));
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    segment::list(&folder.join("log"), "seg").unwrap().into_iter().map(|(_, path)| path).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_index_is_rebuilt() {
    let folder = folder();
    fill(folder.path()).await;
    let db = folder.path().join("index/db");
    flip(&db, std::fs::metadata(&db).unwrap().len() as usize / 3);
    let (store, report) = open(folder.path(), small());
    assert_filled(&store).await;
    println!("{report:?}");
    drop(store);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let (store, report) = open(folder.path(), small());
    assert!(report.rebuilt.is_some() || report.replayed == 300, "{report:?}");
    assert_filled(&store).await;
}

#[tokio::test]
async fn a_damaged_log_is_healed_from_the_index_and_refused_without_one() {
    let folder = folder();
    fill(folder.path()).await;
    let segment = segments(folder.path()).swap_remove(1);
    flip(&segment, 9000);
    let copy = tempfile::tempdir_in(folder.path().parent().unwrap()).unwrap();
    for part in ["log", "snap"] {
        std::fs::create_dir(copy.path().join(part)).unwrap();
        for entry in std::fs::read_dir(folder.path().join(part)).unwrap().flatten() {
            std::fs::copy(entry.path(), copy.path().join(part).join(entry.file_name())).unwrap();
        }
    }
    for (_, path) in segment::list(&copy.path().join("snap"), "snap").unwrap() {
        std::fs::remove_file(path).unwrap();
    }
    let error = Metadata::open(copy.path(), small()).unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt);
    assert!(error.to_string().contains(".seg at byte"), "{error}");
    let (store, report) = open(folder.path(), small());
    assert!(report.healed.is_some(), "{report:?}");
    assert_filled(&store).await;
    store.commit(vec![put("k", "v")]).await.unwrap();
    drop(store);
    let (store, report) = open(folder.path(), small());
    assert!(report.healed.is_none() && report.rebuilt.is_none(), "{report:?}");
    assert_eq!(text(&store, "k").await.unwrap(), "v");
}

#[tokio::test]
async fn a_torn_tail_is_dropped_and_a_shortened_file_is_not_one() {
    let folder = folder();
    fill(folder.path()).await;
    let last = segments(folder.path()).pop().unwrap();
    let end = {
        let segment = Segment::read(&last, Revision(u64::MAX), |_, _| {}).unwrap();
        assert!(!segment.torn);
        segment.end as usize
    };
    let mut bytes = std::fs::read(&last).unwrap();
    let (frame, _) =
        frame::frame(frame::StoreId(1), 0, frame::Commits { first: Revision(301), count: 1, lag: 0 }, &[7; 300]);
    bytes[end..end + 200].copy_from_slice(&frame[..200]);
    std::fs::write(&last, &bytes).unwrap();
    let (store, report) = open(folder.path(), small());
    assert!(report.torn && report.healed.is_none(), "{report:?}");
    assert_filled(&store).await;
    assert_eq!(store.commit(vec![put("z", "1")]).await.unwrap(), Revision(301));
    drop(store);
    let last = segments(folder.path()).pop().unwrap();
    let bytes = std::fs::read(&last).unwrap();
    std::fs::write(&last, &bytes[..bytes.len() - 4096]).unwrap();
    let (store, report) = open(folder.path(), small());
    assert!(report.healed.is_some_and(|why| why.contains("lost its end")), "healed from the index");
    assert_eq!(text(&store, "z").await.unwrap(), "1");
}

#[tokio::test]
async fn a_commit_that_waits_for_nothing_is_seen_at_once_and_told_when_the_disk_has_it() {
    let folder = folder();
    let (store, _) = open(folder.path(), small());
    let mut told = store.watch();
    store.commit_soon(vec![put("soon", "1"), event("/a")]).await.unwrap();
    assert_eq!(text(&store, "soon").await.unwrap(), "1");
    assert_eq!(told.next().await, Some(Revision(1)), "synced by the indexer at the latest");
    assert_eq!(store.events(Cursor::default(), 10).await.unwrap().len(), 1);
    store.commit_soon(vec![event("/b")]).await.unwrap();
    store.commit(vec![put("late", "2"), event("/c")]).await.unwrap();
    let events = store.events(Cursor::default(), 10).await.unwrap();
    let places: Vec<_> = events.iter().map(|event| event.cursor.to_string()).collect();
    assert_eq!(places, ["1.0", "2.0", "3.0"], "in order, and all that came before a durable one with it");
    drop(store);
    let (store, report) = open(folder.path(), small());
    assert!(report.healed.is_none() && !report.torn, "{report:?}");
    assert_eq!((text(&store, "soon").await.unwrap(), store.revision()), ("1".into(), Revision(3)));
}

/// A power cut may keep a later page and lose an earlier one.
#[tokio::test]
async fn a_hole_among_unsynced_commits_is_a_torn_tail_and_one_among_synced_ones_is_damage() {
    for lag in [1, 0] {
        let folder = folder();
        fill(folder.path()).await;
        let last = segments(folder.path()).pop().unwrap();
        let segment = Segment::read(&last, Revision(u64::MAX), |_, _| {}).unwrap();
        let mut bytes = std::fs::read(&last).unwrap();
        let lost = frame::Commits { first: segment.next, count: 1, lag: 0 };
        let mut payload = Vec::new();
        frame::encode(&[put("x", "1")], &mut payload);
        let (hole, crc) = frame::frame(segment.id, segment.crc, lost, &payload);
        let kept = frame::Commits { first: Revision(segment.next.0 + 1), count: 1, lag };
        let (kept, _) = frame::frame(segment.id, crc, kept, &payload);
        let at = segment.end as usize + hole.len();
        bytes[at..at + kept.len()].copy_from_slice(&kept);
        std::fs::write(&last, &bytes).unwrap();
        let found = Segment::read(&last, Revision(u64::MAX), |_, _| {}).unwrap();
        assert!(found.torn);
        assert_eq!(found.later.is_none(), lag == 1, "{found:?}");
    }
}

/// A small tmpfs of its own; `None` without the right to mount.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn new(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", folder.path(), "tmpfs", flags, Some(options.as_c_str())) {
            Ok(()) => Some(Self(folder)),
            Err(why) => {
                println!("skip: tmpfs cannot be mounted ({why})");
                None
            }
        }
    }
}

impl Tmpfs {
    /// From now on it takes no writes.
    fn read_only(&self) {
        let flags = rustix::mount::MountFlags::RDONLY;
        // sled's threads may hold a file for a moment longer than its last handle
        for _ in 0..1000 {
            match rustix::mount::mount_remount(self.0.path(), flags, c"") {
                Err(rustix::io::Errno::BUSY) => std::thread::sleep(Duration::from_millis(10)),
                answer => return answer.unwrap(),
            }
        }
        panic!("somebody goes on writing");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_no_end() {
    let Some(tmpfs) = Tmpfs::new(4 << 20) else { return };
    let folder = tmpfs.0.path().join("metadata");
    std::fs::create_dir(&folder).unwrap();
    let ballast = tmpfs.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let options = || Options { segment: 256 << 10, snapshot_every: 64 << 20, ..Options::default() };
    let (store, _) = open(&folder, options());
    let mut written = 0;
    let full = loop {
        match store.commit(vec![put(&format!("k{written:05}"), &"x".repeat(4000))]).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 5000, "the disk never fills");
    };
    assert_eq!(full.fault(), Fault::DiskFull, "{full}");
    assert!(written > 100);
    assert_eq!(store.scan_all(b"k").await.unwrap().len(), written);
    store.commit(vec![Op::Delete(b"k00000".to_vec())]).await.expect("what shrinks has a reserve");
    std::fs::remove_file(&ballast).unwrap();
    store.commit(vec![put("after", "1")]).await.unwrap();
    drop(store);
    let (store, report) = open(&folder, options());
    assert_eq!(text(&store, "after").await.unwrap(), "1", "{report:?}");
    assert_eq!(store.scan_all(b"k").await.unwrap().len(), written - 1);
}

const STORM: &str = "CRATED_STORE_STORM";

/// Not a test: the child of [`a_killed_writer_loses_nothing`].
#[test]
#[ignore = "child process"]
fn storm_child() {
    use std::io::Write;
    let Some(folder) = std::env::var_os(STORM).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let acks = Arc::new(File::options().append(true).create(true).open(folder.join("acks")).unwrap());
    runtime.block_on(async move {
        let (store, _) = open(
            &folder.join("metadata"),
            Options { segment: 64 << 10, snapshot_every: 256 << 10, ..Options::default() },
        );
        let workers = (0..8_u64).map(|worker| {
            let (store, acks) = (Arc::clone(&store), Arc::clone(&acks));
            tokio::spawn(async move {
                for number in 0.. {
                    let value = format!("{number:010}{}", "x".repeat(100));
                    let pair = vec![put(&format!("a{worker}"), &value), put(&format!("b{worker}"), &value)];
                    let soon = number % 3 == 1; // a kill takes none of these either
                    let revision = if soon { store.commit_soon(pair).await } else { store.commit(pair).await }.unwrap();
                    (&*acks).write_all(format!("{worker} {number} {}\n", revision.0).as_bytes()).unwrap();
                }
            })
        });
        futures::future::join_all(workers.collect::<Vec<_>>()).await;
    });
}

#[test]
fn a_killed_writer_loses_nothing() {
    let home = folder();
    let rounds = std::env::var("CRATED_STORM_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8_u64);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for round in 0..rounds {
        let _ = std::fs::remove_file(home.path().join("acks"));
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "metadata::tests::storm_child", "--ignored", "--nocapture"])
            .env(STORM, home.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(150 + round * 40)); // the moment of the kill is the test's dice
        child.kill().unwrap();
        child.wait().unwrap();
        let acks = std::fs::read_to_string(home.path().join("acks")).unwrap_or_default();
        let (store, report) = open(&home.path().join("metadata"), Options::default());
        // killed while sled was opening, the index is built anew: that is no loss
        assert!(report.healed.is_none(), "round {round}: {report:?}");
        let mut newest = BTreeMap::new();
        for line in acks.lines().filter(|line| line.split(' ').count() == 3) {
            let mut parts = line.split(' ').map(|part| part.parse::<u64>().unwrap());
            let (worker, number) = (parts.next().unwrap(), parts.next().unwrap());
            newest.insert(worker, number);
            assert!(parts.next().unwrap() <= report.revision.0, "round {round}: an acknowledged revision is gone");
        }
        runtime.block_on(async {
            for (worker, number) in &newest {
                let (a, b) = (text(&store, &format!("a{worker}")).await, text(&store, &format!("b{worker}")).await);
                assert_eq!(a, b, "round {round}: half a commit");
                let found: u64 = a.unwrap()[..10].parse().unwrap();
                assert!(found == *number || found == number + 1, "round {round}: acknowledged {number}, found {found}");
            }
        });
        println!("round {round}: {} acknowledged", acks.lines().count());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Option<u8>)>),
    Refused(u8),
    Restart,
    LoseIndex,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => proptest::collection::vec((0..12_u8, proptest::option::weighted(0.7, any::<u8>())), 1..6).prop_map(Step::Commit),
        2 => (0..12_u8).prop_map(Step::Refused),
        1 => Just(Step::Restart),
        1 => Just(Step::LoseIndex),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn it_is_a_map_that_survives(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = folder();
        let mut store = Some(open(folder.path(), small()).0);
        let mut model: BTreeMap<Vec<u8>, (Bytes, Revision)> = BTreeMap::new();
        for step in steps {
            let now = store.clone().unwrap();
            match step {
                Step::Commit(changes) => {
                    let mut ops = Vec::new();
                    for (key, value) in &changes {
                        let key = format!("t/{key:02}").into_bytes();
                        ops.push(match value {
                            Some(value) => Op::Put(key, Bytes::from(vec![*value; 300])),
                            None => Op::Delete(key),
                        });
                    }
                    let revision = runtime.block_on(now.commit(ops.clone())).unwrap();
                    for op in ops {
                        match op {
                            Op::Put(key, value) => { model.insert(key, (value, revision)); }
                            Op::Delete(key) => { model.remove(&key); }
                            _ => {}
                        }
                    }
                }
                Step::Refused(key) => {
                    let ops = vec![Op::Expect(format!("t/{key:02}").into_bytes(), Revision(u64::MAX)), put("t/00", "never")];
                    prop_assert_eq!(runtime.block_on(now.commit(ops)).unwrap_err().fault(), Fault::Conflict);
                }
                Step::Restart | Step::LoseIndex => {
                    drop(now);
                    drop(store.take());
                    if matches!(step, Step::LoseIndex) {
                        std::fs::remove_dir_all(folder.path().join("index")).unwrap();
                    }
                    store = Some(open(folder.path(), small()).0);
                    continue;
                }
            }
            let found = runtime.block_on(now.scan_all(b"t/")).unwrap();
            let wanted: Vec<_> = model.iter().map(|(key, (value, revision))| {
                (key.clone(), Stored { revision: *revision, value: value.clone() })
            }).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
