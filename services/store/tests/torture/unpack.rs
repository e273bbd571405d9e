//! Writers that import images, unpack them through two snapshotters and delete some again; and the comparison of what is left with what
//! they were told: a committed snapshot is never short, what was cut short is done again, orphans are collected.

use bytes::Bytes;
use crated_core::pull::{ImagePuller, Import};
use crated_core::{ContentStore, ImageStore, LeaseStore, SnapshotKind, Snapshotter};
use crated_image::layer::with_mounts;
use crated_image::{ImageService, Options, Ports};
use crated_snapshotters::{Backend, Native, Offload, Overlay};
use crated_store::{Collector, Content, Images, Leases, Metadata, Requests, Snapshots};
use crated_types::filter::Filters;
use crated_types::{Actor, Error, Labels, Namespace, Platform, Result, Scope, SnapshotKey};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

use crate::child::Verdict;
use crate::image::{Made, Tree, made, tree, trees};
use crate::metadata::options;

const IMAGES: u64 = 12;
const WRITERS: u64 = 2;
const LIVES: u64 = 2;
const SNAPSHOTTERS: [&str; 2] = ["native", "overlayfs"];

/// What was told of an image, in the upper half of an acknowledgement.
const IMPORTED: u64 = 0;
const DELETING: u64 = 1 << 32;
const DELETED: u64 = 2 << 32;

/// Every store over one folder, and the image service.
struct Rig {
    content: Arc<Content>,
    images: Arc<Images>,
    leases: Arc<Leases>,
    snapshots: BTreeMap<String, Arc<Snapshots>>,
    backends: Vec<(String, Arc<dyn Backend>)>,
    collector: Arc<Collector>,
    service: ImageService,
    scope: Scope,
}

impl Rig {
    async fn open(folder: &Path) -> Result<Self> {
        let (metadata, _) = Metadata::open(&folder.join("metadata"), options())?;
        let requests = Requests::new();
        let content = Content::open(&folder.join("content"), metadata.clone(), requests.clone())?;
        let backends: Vec<(String, Arc<dyn Backend>)> = vec![
            (SNAPSHOTTERS[0].into(), Arc::new(Native::open(&folder.join("native"))?)),
            (SNAPSHOTTERS[1].into(), Arc::new(Overlay::open(&folder.join("overlayfs"))?)),
        ];
        let mut snapshots = BTreeMap::new();
        for (name, backend) in &backends {
            let offload = Offload::new(backend.clone(), 4);
            snapshots.insert(name.clone(), Snapshots::open(name, offload, metadata.clone(), requests.clone()).await?);
        }
        let images = Images::new(metadata.clone(), requests.clone());
        let leases = Leases::new(metadata.clone(), requests.clone());
        let all = snapshots.values().cloned().collect();
        let collector = Collector::new(metadata, content.clone(), all, requests);
        let ports = Ports {
            content: content.clone(),
            images: images.clone(),
            leases: leases.clone(),
            snapshotters: snapshots
                .iter()
                .map(|(name, one)| (name.clone(), one.clone() as Arc<dyn Snapshotter>))
                .collect(),
        };
        let service = ImageService::new(ports, Options::default());
        let scope = Scope::new(Namespace::new("default").unwrap(), Actor::daemon("torture"));
        Ok(Self { content, images, leases, snapshots, backends, collector, service, scope })
    }

    async fn import(&self, image: &Made, number: u64) -> Result<()> {
        let chunks: Vec<Result<Bytes>> =
            image.archive.chunks(20_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let (sink, _progress) = mpsc::channel(64);
        let wanted = Import { platform: Platform::host(), snapshotter: Some(snapshotter(number).into()) };
        self.service.import(&self.scope, futures::stream::iter(chunks).boxed(), wanted, sink).await.map(drop)
    }

    /// What a container over a committed snapshot would see.
    async fn seen(&self, snapshots: &Snapshots, name: &str) -> Result<Tree> {
        let (key, parent) = (SnapshotKey::new("look")?, SnapshotKey::new(name)?);
        let mounts = snapshots.view(&self.scope, &key, Some(&parent), Labels::new()).await?;
        let seen = tokio::task::spawn_blocking(move || with_mounts(&mounts, |root| Ok(tree(root)))).await;
        snapshots.remove(&self.scope, &key).await?;
        seen.map_err(|_| Error::internal("a folder cannot be walked"))?
    }
}

fn snapshotter(number: u64) -> &'static str {
    SNAPSHOTTERS[(number % 2) as usize]
}

/// Some go again: their layers that nobody shares are garbage then.
fn goes(number: u64) -> bool {
    number % 5 == 3
}

/// The child that writes.
pub(crate) async fn write(folder: &Path, acks: &Path) {
    let acks = Arc::new(File::options().append(true).create(true).open(acks).unwrap());
    let tell = |acks: &File, what: u64| (&*acks).write_all(&what.to_le_bytes()).unwrap();
    for part in ["content", "native", "overlayfs"] {
        std::fs::create_dir(folder.join(part)).unwrap();
    }
    for life in 0..LIVES {
        let rig = Arc::new(Rig::open(folder).await.unwrap());
        let writers = (0..WRITERS).map(|writer| {
            let (rig, acks) = (rig.clone(), acks.clone());
            tokio::spawn(async move {
                let mine =
                    (0..IMAGES).filter(|number| number / 2 % WRITERS == writer && number * LIVES / IMAGES == life);
                for number in mine {
                    let image = made(number);
                    rig.import(&image, number).await.unwrap();
                    tell(&acks, number | IMPORTED);
                    if goes(number) {
                        tell(&acks, number | DELETING);
                        rig.images.delete(&rig.scope, &image.name, None, false).await.unwrap();
                        rig.collector.collect().await.unwrap();
                        tell(&acks, number | DELETED);
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    }
}

/// The child that checks a folder after a cut, does what was cut short again, and collects what nothing refers to.
pub(crate) async fn check(folder: &Path, acks: &Path) -> Verdict {
    let acks = std::fs::read(acks).unwrap_or_default();
    let told: BTreeSet<u64> = acks.chunks_exact(8).map(|ack| u64::from_le_bytes(ack.try_into().unwrap())).collect();
    for part in ["content", "native", "overlayfs"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    match compare(folder, &told).await {
        Ok(note) => Verdict::Good(note),
        Err(why) => Verdict::Wrong(why),
    }
}

async fn compare(folder: &Path, told: &BTreeSet<u64>) -> std::result::Result<String, String> {
    let text = |error: Error| error.to_string();
    let rig = Rig::open(folder).await.map_err(text)?;
    let expected = trees(IMAGES);
    let made: Vec<Made> = (0..IMAGES).map(made).collect();
    let there = |number: &u64| told.contains(number) && !told.contains(&(number | DELETING));
    for number in (0..IMAGES).filter(there) {
        image_is_whole(&rig, &made[number as usize], number)
            .await
            .map_err(|why| format!("lost: image {number}: {why}"))?;
    }
    for number in (0..IMAGES).filter(|number| told.contains(&(number | DELETED))) {
        let found = rig.images.get(&rig.scope, &made[number as usize].name).await;
        if found.is_ok() {
            return Err(format!("image {number} is back"));
        }
    }
    every_snapshot_is_whole(&rig, &expected).await?;
    // the next start of the daemon: what an unpack left goes, and the same requests come again
    let left = rig.service.recover(&rig.scope).await.map_err(text)?;
    let again = (0..IMAGES).filter(|number| !told.contains(number)).take(3);
    for number in again.clone() {
        rig.import(&made[number as usize], number).await.map_err(|error| format!("import {number} again: {error}"))?;
        image_is_whole(&rig, &made[number as usize], number)
            .await
            .map_err(|why| format!("image {number}, done again: {why}"))?;
    }
    // leases of what was cut short run a day; without them nothing keeps what they held
    for lease in rig.leases.list(&rig.scope, &Filters::default()).await.map_err(text)? {
        rig.leases
            .delete(&rig.scope, &crated_types::LeaseId::new(&lease.id).map_err(text)?, false)
            .await
            .map_err(text)?;
    }
    rig.collector.collect().await.map_err(text)?;
    every_snapshot_is_whole(&rig, &expected).await?;
    for number in (0..IMAGES).filter(there).chain(again) {
        image_is_whole(&rig, &made[number as usize], number)
            .await
            .map_err(|why| format!("collected: image {number}: {why}"))?;
    }
    nothing_is_left_over(&rig, folder).await?;
    Ok(if left > 0 { "an unpack began again".into() } else { String::new() })
}

/// The record, every blob that it leads to, every snapshot.
async fn image_is_whole(rig: &Rig, image: &Made, number: u64) -> std::result::Result<(), String> {
    let text = |error: Error| error.to_string();
    let record = rig.images.get(&rig.scope, &image.name).await.map_err(text)?;
    rig.service.view(&rig.scope, &record, &Platform::host()).await.map_err(text)?;
    for digest in &image.blobs {
        rig.content.open(&rig.scope, digest).await.map_err(text)?;
    }
    for chain in &image.chain {
        let key = SnapshotKey::new(chain).map_err(text)?;
        let found = rig.snapshots[snapshotter(number)].stat(&rig.scope, &key).await.map_err(text)?;
        if SnapshotKind::from_i32(found.kind) != Some(SnapshotKind::Committed) {
            return Err(format!("{chain} is not committed"));
        }
    }
    Ok(())
}

/// Every committed snapshot is exactly its layers, acknowledged or not.
async fn every_snapshot_is_whole(rig: &Rig, expected: &BTreeMap<String, Tree>) -> std::result::Result<(), String> {
    for (name, snapshots) in &rig.snapshots {
        for found in snapshots.list(&rig.scope, &Filters::default()).await.map_err(|error| error.to_string())? {
            if SnapshotKind::from_i32(found.kind) != Some(SnapshotKind::Committed) {
                continue;
            }
            let wanted = expected.get(&found.name).ok_or_else(|| format!("stray snapshot {}", found.name))?;
            let seen =
                rig.seen(snapshots, &found.name).await.map_err(|error| format!("{name} {}: {error}", found.name))?;
            if seen != *wanted {
                let differs = |one: &Tree, other: &Tree| {
                    one.iter()
                        .filter(|(path, what)| other.get(*path) != Some(*what))
                        .map(|(path, what)| format!("{path} {what}"))
                        .take(3)
                        .collect::<Vec<_>>()
                };
                let (more, less) = (differs(&seen, wanted), differs(wanted, &seen));
                return Err(format!("short: {name} {} ({}): has {more:?}, should have {less:?}", found.name, found.id));
            }
        }
    }
    Ok(())
}

/// Names on disk are names on record.
async fn nothing_is_left_over(rig: &Rig, folder: &Path) -> std::result::Result<(), String> {
    let text = |error: Error| error.to_string();
    for (name, backend) in &rig.backends {
        let records = rig.snapshots[name].list(&rig.scope, &Filters::default()).await.map_err(text)?;
        let wanted: BTreeSet<u64> = records.iter().map(|snapshot| snapshot.id).collect();
        let found: BTreeSet<u64> = backend.ids().map_err(text)?.iter().map(|id| id.0).collect();
        if found != wanted || wanted.len() != records.len() {
            return Err(format!("{name} has folders {found:?}, records {wanted:?}"));
        }
        if let Some(active) =
            records.iter().find(|one| SnapshotKind::from_i32(one.kind) != Some(SnapshotKind::Committed))
        {
            return Err(format!("{name}: {} is left over", active.name));
        }
        rig.snapshots[name].cleanup().await.map_err(text)?;
        for part in ["new", "trash"] {
            let left = std::fs::read_dir(folder.join(name).join(part)).unwrap().count();
            if left > 0 {
                return Err(format!("{left} folders in {name}/{part}"));
            }
        }
    }
    let blobs = rig.content.list(&rig.scope, &Filters::default()).await.map_err(text)?;
    let wanted: BTreeSet<String> =
        blobs.iter().filter_map(|blob| Some(blob.digest.split_once(':')?.1.to_owned())).collect();
    let names = |part: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder.join("content").join(part)).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    if names("blobs/sha256") != wanted || !names("ingest").is_empty() {
        return Err(format!(
            "{} blobs on disk, {} on record, ingests {:?}",
            names("blobs/sha256").len(),
            wanted.len(),
            names("ingest")
        ));
    }
    Ok(())
}
