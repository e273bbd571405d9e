//! How many commits a second are durable, beside what the disk can do: `cargo run --release -p crated-store --example commits [FOLDER]`.

use bytes::Bytes;
use crated_core::{MetadataStore, Op};
use crated_store::{Metadata, Options};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SINGLE: usize = 3000;
const RUN: Duration = Duration::from_secs(3);

fn row(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[times.len() * share / 100];
    println!("{what:<34} p50 {:>9.1?}  p99 {:>9.1?}", at(50), at(99));
}

/// Append and `fdatasync` into a zero-filled file, as large as a frame of one commit.
fn floor(folder: &Path) -> std::io::Result<Vec<Duration>> {
    let size = 1200_u64;
    let mut file = std::fs::File::create(folder.join("floor"))?;
    file.write_all(&vec![0; (size * SINGLE as u64) as usize])?;
    file.sync_all()?;
    (0..SINGLE as u64)
        .map(|number| {
            let begun = Instant::now();
            file.write_all_at(&[7; 1200], number * size)?;
            file.sync_data()?;
            Ok(begun.elapsed())
        })
        .collect()
}

fn put(key: usize) -> Vec<Op> {
    vec![Op::Put(format!("bench/ns/{key:050}").into_bytes(), Bytes::from(vec![7; 1024]))]
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let folder = tempfile::tempdir_in(base)?;
    row("append + fdatasync", floor(folder.path())?);
    let (store, _) = Metadata::open(&folder.path().join("metadata"), Options::default())?;
    let mut times = Vec::new();
    for number in 0..SINGLE {
        let begun = Instant::now();
        store.commit(put(number)).await?;
        times.push(begun.elapsed());
    }
    row("one writer", times);
    row("append + fdatasync, once more", floor(folder.path())?);
    for writers in [8, 64] {
        let until = Instant::now() + RUN;
        let tasks = (0..writers).map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let begun = Instant::now();
                    store.commit(put((writer * 7919 + times.len() * 31) % 10_000)).await?;
                    times.push(begun.elapsed());
                }
                Ok::<_, crated_types::Error>(times)
            })
        });
        let mut times = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            times.extend(task.await??);
        }
        println!("{writers} writers: {:.0} durable commits a second", times.len() as f64 / RUN.as_secs_f64());
        row("", times);
    }
    Ok(())
}
