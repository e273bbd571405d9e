//! The collector against plain reachability: random worlds of every kind of record, and workers that refer to things while it runs.

use super::*;
use crate::snapshots::CHILDREN;
use crated_core::Op;
use crated_core::record::{
    CONTAINERS, IMAGES, INGESTS, Image, IngestRecord, LEASED, LEASES, Lease, Mark, SNAPSHOTS, Snapshot,
};
use prost_types::Timestamp;

const BLOBS_MAX: u8 = 8;
const SNAPSHOTS_MAX: u8 = 6;
const OTHERS: u8 = 3;
const NS: &str = "default";
const PAST: &str = "2001-01-01T00:00:00Z";

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Blob(u8),
    Snapshot(u8),
    Image(u8),
    Container(u8),
    Ingest(u8),
}

impl What {
    fn name(self) -> String {
        match self {
            Self::Blob(number) => sha256(&[number]).to_string(),
            Self::Snapshot(number) => format!("s{number}"),
            Self::Image(number) => format!("i{number}"),
            Self::Container(number) => format!("c{number}"),
            Self::Ingest(number) => format!("g{number}"),
        }
    }

    fn key(self) -> Vec<u8> {
        let name = self.name();
        match self {
            Self::Blob(_) => BLOBS.key(NS, &name),
            Self::Snapshot(_) => SNAPSHOTS.key2(NS, "native", &name),
            Self::Image(_) => IMAGES.key(NS, &name),
            Self::Container(_) => CONTAINERS.key(NS, &name),
            Self::Ingest(_) => INGESTS.key(NS, &name),
        }
    }

    /// The label on another record that refers to this one; `back`: by which this one keeps that.
    fn label(self, back: bool, number: usize) -> Option<String> {
        let kind = match self {
            Self::Blob(_) => format!("content.{number}"),
            Self::Snapshot(_) => format!("snapshot.native/{number}"),
            Self::Image(_) => format!("image.{number}"),
            Self::Container(_) if back => format!("container.{number}"),
            Self::Container(_) | Self::Ingest(_) => return None,
        };
        Some(format!("containerd.io/gc.{}.{kind}", if back { "bref" } else { "ref" }))
    }

    /// What a lease holds it as.
    fn resource(self) -> Option<String> {
        let kind = match self {
            Self::Blob(_) => "content",
            Self::Snapshot(_) => "snapshots/native",
            Self::Image(_) => "images",
            Self::Ingest(_) => "ingests",
            Self::Container(_) => return None,
        };
        Some(format!("{kind}\0{}", self.name()))
    }
}

/// A lease: whether it has expired, whether it is flat, what it holds.
type Held = (bool, bool, BTreeSet<What>);

#[derive(Clone, Debug)]
struct World {
    missing: BTreeSet<What>,
    /// Carrier of the label, the other one, whether the other one keeps the carrier.
    labels: Vec<(What, What, bool)>,
    parents: Vec<Option<u8>>,
    roots: BTreeSet<What>,
    /// Target, and whether it has expired.
    images: Vec<(u8, bool)>,
    /// Snapshots of containers.
    containers: Vec<Option<u8>>,
    leases: Vec<Held>,
    /// Whether it has expired, what it expects.
    ingests: Vec<(bool, Option<u8>)>,
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        4 => (0..BLOBS_MAX).prop_map(What::Blob),
        3 => (0..SNAPSHOTS_MAX).prop_map(What::Snapshot),
        1 => (0..OTHERS).prop_map(What::Image),
        1 => (0..OTHERS).prop_map(What::Container),
        1 => (0..OTHERS).prop_map(What::Ingest),
    ]
}

fn set(most: usize) -> impl Strategy<Value = BTreeSet<What>> {
    proptest::collection::btree_set(what(), 0..most)
}

fn world() -> impl Strategy<Value = World> {
    let parents = proptest::collection::vec(proptest::option::of(0..SNAPSHOTS_MAX), SNAPSHOTS_MAX as usize);
    let images = proptest::collection::vec((0..BLOBS_MAX, any::<bool>()), OTHERS as usize);
    let containers = proptest::collection::vec(proptest::option::of(0..SNAPSHOTS_MAX), OTHERS as usize);
    let leases = proptest::collection::vec((any::<bool>(), any::<bool>(), set(3)), OTHERS as usize);
    let ingests = proptest::collection::vec((any::<bool>(), proptest::option::of(0..BLOBS_MAX)), OTHERS as usize);
    let labels = proptest::collection::vec((what(), what(), any::<bool>()), 0..16);
    (set(6), labels, parents, set(3), images, containers, leases, ingests).prop_map(
        |(missing, labels, parents, roots, images, containers, leases, ingests)| World {
            missing,
            labels,
            // a snapshot's parent was there before it
            parents: parents.into_iter().zip(0..).map(|(parent, own)| parent.filter(|parent| *parent < own)).collect(),
            roots,
            images,
            containers,
            leases,
            ingests,
        },
    )
}

impl World {
    fn all() -> impl Iterator<Item = What> {
        let others =
            (0..OTHERS).flat_map(|number| [What::Image(number), What::Container(number), What::Ingest(number)]);
        (0..BLOBS_MAX).map(What::Blob).chain((0..SNAPSHOTS_MAX).map(What::Snapshot)).chain(others)
    }

    fn there(&self) -> impl Iterator<Item = What> + '_ {
        Self::all().filter(|what| !self.missing.contains(what))
    }

    fn labels(&self, of: What) -> Labels {
        let mut labels = Labels::new();
        for (number, (carrier, other, back)) in self.labels.iter().enumerate() {
            if *carrier == of
                && let Some(label) = other.label(*back, number)
            {
                labels.insert(label, other.name());
            }
        }
        if self.roots.contains(&of) {
            labels.insert("containerd.io/gc.root".into(), "x".into());
        }
        if matches!(of, What::Image(number) if self.images[number as usize].1) {
            labels.insert("containerd.io/gc.expire".into(), PAST.into());
        }
        labels
    }

    fn record(&self, of: What) -> Vec<Op> {
        let (name, labels, key) = (of.name(), self.labels(of), of.key());
        match of {
            What::Blob(_) => vec![BLOBS.put(key, &Blob { digest: name, size: 1, labels, ..Blob::default() })],
            What::Snapshot(number) => {
                let parent =
                    self.parents[number as usize].map(|parent| What::Snapshot(parent).name()).unwrap_or_default();
                let id = 1000 + u64::from(number);
                let mark = CHILDREN.key2(NS, "native", &format!("{parent}\0{name}"));
                let mark = (!parent.is_empty()).then(|| CHILDREN.put(mark, &Mark {}));
                let record = Snapshot { name, parent, kind: 3, labels, id, ..Snapshot::default() };
                std::iter::once(SNAPSHOTS.put(key, &record)).chain(mark).collect()
            }
            What::Image(number) => {
                let target = sha256(&[self.images[number as usize].0]);
                vec![IMAGES.put(key, &Image { labels, ..image(&name, &target) })]
            }
            What::Container(number) => {
                let snapshot = self.containers[number as usize].map(|number| What::Snapshot(number).name());
                let record = Container {
                    labels,
                    snapshotter: "native".into(),
                    snapshot_key: snapshot.unwrap_or_default(),
                    ..container(&name)
                };
                vec![CONTAINERS.put(key, &record)]
            }
            What::Ingest(number) => {
                let (expired, expected) = self.ingests[number as usize];
                let record = IngestRecord {
                    reference: name.clone(),
                    folder: name,
                    expected: expected.map(|number| What::Blob(number).name()).unwrap_or_default(),
                    expires_at: Some(Timestamp { seconds: if expired { 1 } else { 99_999_999_999 }, nanos: 0 }),
                    ..IngestRecord::default()
                };
                vec![INGESTS.put(key, &record)]
            }
        }
    }

    fn ops(&self) -> Vec<Op> {
        let mut ops: Vec<Op> = self.there().flat_map(|what| self.record(what)).collect();
        for (number, (expired, flat, held)) in self.leases.iter().enumerate() {
            let mut labels = Labels::new();
            expired.then(|| labels.insert("containerd.io/gc.expire".into(), PAST.into()));
            flat.then(|| labels.insert("containerd.io/gc.flat".into(), "x".into()));
            let lease = Lease { id: format!("l{number}"), labels, ..Lease::default() };
            for resource in held.iter().filter_map(|what| what.resource()) {
                ops.push(LEASED.put(LEASED.key2(NS, &lease.id, &resource), &Mark {}));
            }
            ops.push(LEASES.put(LEASES.key(NS, &lease.id), &lease));
        }
        ops
    }

    /// What stays, by containerd's rules.
    fn stays(&self) -> BTreeSet<What> {
        let mut edges: BTreeSet<(What, What)> = BTreeSet::new();
        for (carrier, other, back) in &self.labels {
            // an ingest has no labels
            let says = !self.missing.contains(carrier) && !matches!(carrier, What::Ingest(_));
            if says && other.label(*back, 0).is_some() {
                edges.insert(if *back { (*other, *carrier) } else { (*carrier, *other) });
            }
        }
        let mut roots: BTreeSet<What> = BTreeSet::new();
        for what in self.there() {
            match what {
                What::Blob(_) | What::Snapshot(_) if self.roots.contains(&what) => drop(roots.insert(what)),
                What::Image(number) => {
                    let (target, expired) = self.images[number as usize];
                    edges.insert((what, What::Blob(target)));
                    (!expired).then(|| roots.insert(what));
                }
                What::Container(number) => {
                    roots.insert(what);
                    edges.extend(self.containers[number as usize].map(|snapshot| (what, What::Snapshot(snapshot))));
                }
                What::Ingest(number) => {
                    let (expired, expected) = self.ingests[number as usize];
                    edges.extend(expected.map(|blob| (what, What::Blob(blob))));
                    (!expired).then(|| roots.insert(what));
                }
                _ => {}
            }
            if let What::Snapshot(number) = what {
                edges.extend(self.parents[number as usize].map(|parent| (what, What::Snapshot(parent))));
            }
        }
        let mut flat: BTreeSet<What> = BTreeSet::new();
        for (expired, is_flat, held) in &self.leases {
            let held = held.iter().filter(|what| what.resource().is_some() && !expired);
            if *is_flat { flat.extend(held) } else { roots.extend(held) }
        }
        let mut todo: Vec<What> = roots.iter().copied().collect();
        while let Some(what) = todo.pop() {
            let next = edges.iter().filter(|(from, _)| *from == what).map(|(_, to)| *to);
            todo.extend(next.filter(|to| roots.insert(*to)).collect::<Vec<_>>());
        }
        roots.extend(flat);
        self.there().filter(|what| roots.contains(what) || matches!(what, What::Container(_))).collect()
    }
}

async fn there(bench: &Bench) -> BTreeSet<What> {
    let mut found = BTreeSet::new();
    for what in World::all() {
        if bench.metadata.get(&what.key()).await.unwrap().is_some() {
            found.insert(what);
        }
    }
    found
}

/// Number of cases: a hundred, or what the long form wants.
fn cases() -> u32 {
    std::env::var("TORTURE_WORLDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]
    #[test]
    fn of_a_world_of_every_kind_exactly_what_is_kept_stays(worlds in proptest::collection::vec(world(), 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new().await;
            for world in worlds {
                // the next world stands where the last one stood
                let old = bench.metadata.scan_all(b"").await.unwrap();
                let old = old.into_iter().filter(|(key, _)| !key.starts_with(b"counter/"));
                bench.metadata.commit(old.map(|(key, _)| Op::Delete(key)).collect()).await.unwrap();
                bench.metadata.commit(world.ops()).await.unwrap();
                bench.collector.collect().await.unwrap();
                assert_eq!(there(&bench).await, world.stays());
                let leases: BTreeSet<String> = (0..).zip(&world.leases).filter(|(_, lease)| !lease.0).map(|(number, _)| format!("l{number}")).collect();
                let left = bench.leases.list(&bench.scope, &Filters::default()).await.unwrap();
                assert_eq!(left.into_iter().map(|lease| lease.id).collect::<BTreeSet<_>>(), leases);
                for (key, _) in bench.metadata.scan_all(&LEASED.prefix("")).await.unwrap() {
                    let lease = LEASED.parts(&key).unwrap().1.split('\0').next().unwrap().to_owned();
                    assert!(leases.contains(&lease), "a mark of {lease}, which is gone");
                }
                for (key, _) in bench.metadata.scan_all(&CHILDREN.prefix("")).await.unwrap() {
                    let child = String::from_utf8(key).unwrap().rsplit('\0').next().unwrap().to_owned();
                    let key = SNAPSHOTS.key2(NS, "native", &child);
                    assert!(bench.metadata.get(&key).await.unwrap().is_some(), "a mark of {child}, which is gone");
                }
                assert_eq!(bench.collector.collect().await.unwrap(), Collected::default(), "one pass takes all");
            }
        });
    }
}
