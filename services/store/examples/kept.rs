//! Writes a small store in the shape of a version, to be kept under `tests/kept` and opened by tests for ever:
//! `cargo run -p crated-store --example kept -- VERSION FOLDER`. It is run once for a version, by the program that has it.
//!
//! | version | its shape |
//! |---|---|
//! | 0 | snapshots have no marks on their parents |
//! | 1 | they do |
//! | 2 | the log is `CRLOG3`: frames say how far the disk was behind them; some commits did not wait for it |
//!
//! Those of 0 and 1 were written by a crated that still wrote `CRLOG2`: this program makes them no more.

use bytes::Bytes;
use crated_core::operation::{OPERATIONS, Operation};
use crated_core::record::{
    BLOBS, Blob, CONTAINERS, Container, Event, ExitRecord, IMAGES, INGESTS, Image, IngestRecord, LEASED, LEASES, Lease,
    Mark, NAMESPACES, Namespace, SNAPSHOTS, Snapshot, TASKS, Target, TaskRecord,
};
use crated_core::{Cursor, MetadataStore, Op, Table};
use crated_store::metadata::offline;
use crated_store::{Metadata, Options};
use prost_types::{Any, Timestamp};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

type Failure = Box<dyn std::error::Error>;

const CHILDREN: Table<Mark> = Table::new("snapshotchild");
const DIGESTS: [&str; 3] = [
    "sha256:1111111111111111111111111111111111111111111111111111111111111111",
    "sha256:2222222222222222222222222222222222222222222222222222222222222222",
    "sha256:3333333333333333333333333333333333333333333333333333333333333333",
];

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_700_000_000 + seconds, nanos: 5 })
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn event(topic: &str) -> Op {
    let any = Any { type_url: "containerd.events.ImageCreate".into(), value: vec![10, 1, 105] };
    Op::event(&Event {
        namespace: "default".into(),
        topic: topic.into(),
        timestamp: at(9),
        event: Some(any),
        actor: "uid 0".into(),
        cause: "kept".into(),
    })
}

fn names_and_content() -> Vec<Vec<Op>> {
    let target = Target {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: DIGESTS[0].into(),
        size: 529,
        annotations: labels(&[("org.opencontainers.image.ref.name", "1")]),
    };
    let image = Image {
        name: "docker.io/library/busybox:1".into(),
        labels: labels(&[("a", "b")]),
        target: Some(target),
        created_at: at(1),
        updated_at: at(2),
    };
    let mut all = vec![
        vec![NAMESPACES.put(NAMESPACES.key("", "default"), &Namespace::default())],
        vec![NAMESPACES.put(NAMESPACES.key("", "k8s.io"), &Namespace { labels: labels(&[("team", "x")]) })],
        vec![IMAGES.put(IMAGES.key("default", &image.name), &image), event("/images/create")],
    ];
    for (number, digest) in DIGESTS.iter().enumerate() {
        let blob = Blob {
            digest: (*digest).into(),
            size: 529 + number as i64,
            labels: labels(&[("containerd.io/gc.ref.content.0", DIGESTS[(number + 1) % 3])]),
            created_at: at(3),
            updated_at: at(4),
        };
        all.push(vec![BLOBS.put(BLOBS.key("default", digest), &blob), event("/content/create")]);
    }
    let ingest = IngestRecord {
        reference: "layer-sha256:4".into(),
        expected: DIGESTS[1].into(),
        total: 4096,
        folder: "ab12".into(),
        ..IngestRecord::default()
    };
    all.push(vec![INGESTS.put(INGESTS.key("default", &ingest.reference), &ingest)]);
    let lease = Lease { id: "7-abcd".into(), created_at: at(5), labels: labels(&[("containerd.io/gc.flat", "1")]) };
    let held = LEASED.key2("default", &lease.id, &format!("content\0{}", DIGESTS[2]));
    all.push(vec![LEASES.put(LEASES.key("default", &lease.id), &lease), LEASED.put(held, &Mark {})]);
    all
}

fn snapshots() -> Vec<Vec<Op>> {
    let mut all = Vec::new();
    for (id, name, parent, kind) in
        [(1, "sha256:base", "", 3), (2, "sha256:top", "sha256:base", 3), (3, "rw", "sha256:top", 2)]
    {
        let snapshot = Snapshot {
            name: name.into(),
            parent: parent.into(),
            kind,
            labels: labels(&[("containerd.io/snapshot.ref", name)]),
            id,
            created_at: at(6),
            updated_at: at(7),
            size: 12_288,
            inodes: 7,
            pending: false,
        };
        let mut ops =
            vec![SNAPSHOTS.put(SNAPSHOTS.key2("default", "overlayfs", name), &snapshot), event("/snapshot/prepare")];
        if !parent.is_empty() {
            ops.push(CHILDREN.put(CHILDREN.key2("default", "overlayfs", &format!("{parent}\0{name}")), &Mark {}));
        }
        all.push(ops);
    }
    all
}

fn lives() -> Vec<Vec<Op>> {
    let container = Container {
        id: "web".into(),
        labels: labels(&[("io.x", "y")]),
        image: "docker.io/library/busybox:1".into(),
        runtime_name: "io.containerd.crated.v2".into(),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: vec![123; 20_000],
        }),
        snapshotter: "overlayfs".into(),
        snapshot_key: "rw".into(),
        created_at: at(8),
        updated_at: at(8),
        ..Container::default()
    };
    let exit = ExitRecord { status: 137, at: at(11), oom_killed: true, reason: String::new() };
    let task = TaskRecord {
        id: "web".into(),
        bundle: "/run/crated/web".into(),
        address: "unix:///run/crated/s/1".into(),
        runtime: "io.containerd.crated.v2".into(),
        shim_pid: 100,
        pid: 101,
        boot_id: "b-1".into(),
        api_version: 3,
        exit: Some(exit),
        own: true,
        created_at: at(9),
        started_at: at(10),
        ..TaskRecord::default()
    };
    let operation = Operation { id: "create-web".into(), ..Operation::default() };
    vec![
        vec![CONTAINERS.put(CONTAINERS.key("default", "web"), &container), event("/containers/create")],
        vec![TASKS.put(TASKS.key("default", "web"), &task), event("/tasks/exit"), event("/tasks/delete")],
        vec![OPERATIONS.put(OPERATIONS.key("default", "create-web"), &operation)],
        vec![Op::Put(b"engine//other".to_vec(), Bytes::from_static(b"bytes of a table that the store does not know"))],
    ]
}

async fn fill(folder: &Path) -> Result<usize, Failure> {
    let options = Options { segment: 16 << 10, snapshot_every: 40 << 10, keep_events: 1 << 20, ..Options::default() };
    let (store, _) = Metadata::open(folder, options)?;
    let mut all = names_and_content();
    all.extend(snapshots());
    all.extend(lives());
    for ops in all {
        store.commit(ops).await?;
    }
    // what was changed and deleted, over some segments
    for number in 0..90_usize {
        let key = format!("engine//{:02}", number % 12).into_bytes();
        let ops = match number % 7 {
            6 => vec![Op::Delete(key), event("/deleted")],
            _ => vec![Op::Put(key, vec![number as u8; number * 9].into())],
        };
        if number % 3 == 1 {
            store.commit_soon(ops).await?
        } else {
            store.commit(ops).await?
        };
    }
    store.commit(Vec::new()).await?;
    Ok(store.events(Cursor::default(), 10_000).await?.len())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let (Some(version), Some(folder)) = (words.next(), words.next()) else {
        return Err("usage: kept VERSION FOLDER".into());
    };
    let (version, folder) = (version.parse::<u32>()?, Path::new(&folder));
    if version != 2 {
        return Err(format!("this program writes version 2, not {version}").into());
    }
    let store = folder.join("store");
    let events = fill(&store).await?;
    let (mut lines, mut revision) = (Vec::new(), 0);
    let begin = |header: offline::Header| {
        revision = header.revision.0;
        Ok(())
    };
    offline::export(&store, begin, |key, stored| {
        lines.push(format!("{} {} {}", stored.revision.0, hex(key), hex(&stored.value)));
        Ok(())
    })?;
    lines.insert(0, format!("revision {revision} events {events}"));
    std::fs::write(folder.join("expected"), lines.join("\n") + "\n")?;
    std::fs::write(store.join("schema"), format!("{version}\n"))?;
    std::fs::remove_dir_all(store.join("index"))?;
    for part in ["lock", "log/spare"] {
        std::fs::remove_file(store.join(part))?;
    }
    Ok(())
}
