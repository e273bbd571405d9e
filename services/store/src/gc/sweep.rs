//! Sweeping: deletes candidates in batches, each one commit that holds only where nothing of it was touched.

use crated_core::record::{IMAGES, SNAPSHOTS};
use crated_core::{MetadataStore, Op, Revision};
use crated_types::{Actor, Fault, Namespace, Result, Scope};
use std::collections::HashSet;
use std::time::Duration;

use super::Collected;
use super::graph;
use super::mark::{Marked, What};
use crate::metadata::Metadata;

/// Records that one commit deletes.
const BATCH: usize = 64;
/// Between two batches.
const PAUSE: Duration = Duration::from_millis(4);
/// Attempts of a batch that others touch again and again; then it waits for the next collection.
const TRIES: usize = 8;

/// Deletes what is not alive.
pub(super) async fn sweep(metadata: &Metadata, marked: Marked, collected: &mut Collected) -> Result<()> {
    sweep_leases(metadata, &marked, collected).await?;
    // for many records this takes a while, in which a thread of the reactor would serve nobody
    let (marked, order) = crate::blocking::run(move || {
        let order = marked.candidates();
        (marked, order)
    })
    .await?;
    for (number, batch) in order.chunks(BATCH).enumerate() {
        if number > 0 {
            // the index takes deletions more slowly than we find them, and others read it, too
            tokio::time::sleep(PAUSE).await;
        }
        for _ in 0..TRIES {
            let spared = spared(metadata, &marked);
            let left: Vec<usize> = batch.iter().copied().filter(|number| !spared.contains(number)).collect();
            if left.is_empty() {
                break;
            }
            match sweep_batch(metadata, &marked, &left).await {
                Ok(()) => {
                    left.iter().for_each(|number| count(marked.vertices[*number].what, collected));
                    break;
                }
                Err(error) if error.fault() == Fault::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn count(what: What, collected: &mut Collected) {
    match what {
        What::Blob => collected.blobs += 1,
        What::Snapshot => collected.snapshots += 1,
        What::Image => collected.images += 1,
        What::Ingest => collected.ingests += 1,
        What::Fixed => {}
    }
}

/// What was put or referred to since the collection began, and all that it keeps.
fn spared(metadata: &Metadata, marked: &Marked) -> HashSet<usize> {
    let touched = metadata.touched().all();
    let numbers: Vec<usize> = touched.iter().filter_map(|key| marked.number(key)).collect();
    marked.reached(&numbers)
}

async fn sweep_batch(metadata: &Metadata, marked: &Marked, batch: &[usize]) -> Result<()> {
    let mut ops = Vec::new();
    let mut untouched = Vec::new();
    for number in batch {
        let vertex = &marked.vertices[*number];
        untouched.push(vertex.key.clone());
        untouched.extend(vertex.kept_by.iter().map(|other| marked.vertices[*other].key.clone()));
        ops.push(Op::Expect(vertex.key.clone(), vertex.revision));
        ops.extend(removal(metadata, vertex.what, &vertex.key).await?);
    }
    metadata.sweep(ops, untouched).await.map(|_| ())
}

/// The operations that take one record away.
async fn removal(metadata: &Metadata, what: What, key: &[u8]) -> Result<Vec<Op>> {
    match what {
        What::Snapshot => {
            let found = SNAPSHOTS.get(metadata, key).await?;
            let parts = SNAPSHOTS.parts(key).zip(graph::snapshotter(key));
            if let (Some((_, snapshot)), Some(((namespace, _), snapshotter))) = (found, parts) {
                return Ok(crate::snapshots::removal(&scope(namespace)?, snapshotter, &snapshot));
            }
        }
        What::Image => {
            if let Some((namespace, name)) = IMAGES.parts(key) {
                return Ok(vec![Op::Delete(key.to_vec()), crate::images::deleted(&scope(namespace)?, name)]);
            }
        }
        What::Blob | What::Ingest | What::Fixed => {}
    }
    Ok(vec![Op::Delete(key.to_vec())])
}

fn scope(namespace: &str) -> Result<Scope> {
    Ok(Scope::new(Namespace::new(namespace)?, Actor::daemon("collector")))
}

/// Deletes expired leases, then marks without a lease.
async fn sweep_leases(metadata: &Metadata, marked: &Marked, collected: &mut Collected) -> Result<()> {
    for (key, revision) in &marked.leases {
        let ops = vec![Op::Expect(key.clone(), *revision), Op::Delete(key.clone())];
        match metadata.commit(ops).await {
            Ok(_) => collected.leases += 1,
            Err(error) if error.fault() == Fault::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    for batch in marked.marks.chunks(BATCH) {
        let ops = batch.iter().cloned().map(Op::Delete).collect();
        match metadata.sweep(ops, batch.to_vec()).await {
            Err(error) if error.fault() != Fault::Conflict => return Err(error),
            Ok(Revision(_)) | Err(_) => {}
        }
    }
    Ok(())
}
