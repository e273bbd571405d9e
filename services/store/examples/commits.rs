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
struct Floor {
    file: std::fs::File,
    at: u64,
}

impl Floor {
    const SIZE: u64 = 1200;

    fn new(folder: &Path) -> std::io::Result<Self> {
        let mut file = std::fs::File::create(folder.join("floor"))?;
        file.write_all(&vec![0; (Self::SIZE * SINGLE as u64) as usize])?;
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    fn append(&mut self) -> std::io::Result<Duration> {
        let begun = Instant::now();
        self.file.write_all_at(&[7; Self::SIZE as usize], self.at)?;
        self.file.sync_data()?;
        self.at += Self::SIZE;
        Ok(begun.elapsed())
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}

fn put(key: usize) -> Vec<Op> {
    vec![Op::Put(format!("bench/ns/{key:050}").into_bytes(), Bytes::from(vec![7; 1024]))]
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let folder = tempfile::tempdir_in(base)?;
    let mut floor = Floor::new(folder.path())?;
    let (store, _) = Metadata::open(&folder.path().join("metadata"), Options::default())?;
    // the disk wanders: one of the one, one of the other
    let (mut bare, mut times) = (Vec::new(), Vec::new());
    for number in 0..SINGLE {
        bare.push(floor.append()?);
        let begun = Instant::now();
        store.commit(put(number)).await?;
        times.push(begun.elapsed());
    }
    let above = median(&times).saturating_sub(median(&bare));
    row("append + fdatasync", bare);
    row("one writer, in turns with it", times);
    println!("the median commit is {above:.1?} above the bare append (wanted: at most 100 µs)");
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
        println!(
            "{writers} writers: {:.0} durable commits a second (wanted with 64: 10,000)",
            times.len() as f64 / RUN.as_secs_f64()
        );
        row("", times);
    }
    Ok(())
}
