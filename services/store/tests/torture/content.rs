//! Writers of blobs, some of them interrupted, and the comparison of a content store with what they were told.

use bytes::Bytes;
use crated_core::{Commit, ContentStore, Expected};
use crated_store::{Collector, Content, Metadata, Requests};
use crated_types::filter::Filters;
use crated_types::{Actor, Digest, Error, Fault, IngestRef, Labels, Namespace, Scope};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::child::Verdict;
use crate::dice::bytes;
use crate::metadata::options;

const BLOBS: u64 = 60;
const WRITERS: u64 = 2;
const LIVES: u64 = 2;
const CHUNK: usize = 16 << 10;
const NAMESPACES: [&str; 2] = ["first", "second"];

/// Each fourth blob has the bytes of the one before, in the other namespace: those are taken over, not sent.
fn data(number: u64) -> Vec<u8> {
    let source = if number % 4 == 3 { number - 1 } else { number };
    bytes(source, 1 + (source as usize * 7919) % (120 << 10))
}

fn scope(number: u64) -> Scope {
    let name = NAMESPACES[usize::from(number % 4 == 3)];
    Scope::new(Namespace::new(name).unwrap(), Actor::daemon("torture"))
}

fn reference(number: u64) -> IngestRef {
    IngestRef::new(&format!("layer-{number}")).unwrap()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::sha256(Sha256::digest(bytes).into())
}

fn open(folder: &Path) -> crated_types::Result<(Arc<Metadata>, Arc<Content>)> {
    let (metadata, _) = Metadata::open(&folder.join("metadata"), options())?;
    let content = Content::open(&folder.join("content"), metadata.clone(), Requests::new())?;
    Ok((metadata, content))
}

/// Writes a blob from where its ingest stands, a chunk at a time; `stop` bytes are the end of a writer that goes away.
async fn ingest(content: &Content, number: u64, stop: Option<usize>) -> crated_types::Result<()> {
    let data = data(number);
    let expected = Expected { digest: Some(digest(&data)), size: Some(data.len() as u64) };
    let mut ingest = content.ingest(&scope(number), &reference(number), expected.clone()).await?;
    let mut at = ingest.status().offset as usize;
    while at < data.len().min(stop.unwrap_or(usize::MAX)) {
        let end = (at + CHUNK).min(data.len());
        ingest.write(Bytes::copy_from_slice(&data[at..end])).await?;
        at = end;
    }
    if stop.is_some() {
        return Ok(());
    }
    let labels = Labels::from([("containerd.io/gc.root".into(), "now".into())]);
    ingest.commit(Commit { expected, labels }).await.map(drop)
}

/// The child that writes.
pub(crate) async fn write(folder: &Path, acks: &Path) {
    let acks = Arc::new(File::options().append(true).create(true).open(acks).unwrap());
    std::fs::create_dir(folder.join("content")).unwrap();
    for life in 0..LIVES {
        let (_metadata, content) = open(folder).unwrap();
        let writers = (0..WRITERS).map(|writer| {
            let (content, acks) = (content.clone(), acks.clone());
            tokio::spawn(async move {
                // four in a row belong to one writer: the last of them borrows from the one before
                let mine =
                    (0..BLOBS).filter(|number| number / 4 % WRITERS == writer && number / 4 / WRITERS % LIVES == life);
                for number in mine {
                    if number % 3 == 1 && number % 4 != 3 {
                        ingest(&content, number, Some(40_000)).await.unwrap();
                    }
                    ingest(&content, number, None).await.unwrap();
                    (&*acks).write_all(&number.to_le_bytes()).unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    }
}

/// The child that checks a folder after a cut, ends what was begun and collects what nothing refers to.
pub(crate) async fn check(folder: &Path, acks: &Path) -> Verdict {
    let acks = std::fs::read(acks).unwrap_or_default();
    let acked: BTreeSet<u64> = acks.chunks_exact(8).map(|ack| u64::from_le_bytes(ack.try_into().unwrap())).collect();
    std::fs::create_dir_all(folder.join("content")).unwrap();
    match compare(folder, &acked).await {
        Ok(note) => Verdict::Good(note.into()),
        Err(why) => Verdict::Wrong(why),
    }
}

async fn compare(folder: &Path, acked: &BTreeSet<u64>) -> Result<&'static str, String> {
    let text = |error: Error| error.to_string();
    let (metadata, content) = open(folder).map_err(text)?;
    for number in acked {
        whole(&content, &scope(*number), &digest(&data(*number)))
            .await
            .map_err(|why| format!("lost: blob {number}: {why}"))?;
    }
    every_record_is_whole(&content).await?;
    let mut note = "";
    for number in (0..BLOBS).filter(|number| !acked.contains(number)).take(6) {
        match ingest(&content, number, None).await {
            Ok(()) => {}
            Err(error) if error.is_already_exists() => {}
            // bytes of it were lost below its length: the writer is told and starts over
            Err(error) if error.fault() == Fault::DigestMismatch => {
                note = "an ingest restarted";
                content.abort(&scope(number), &reference(number)).await.map_err(text)?;
                ingest(&content, number, None).await.map_err(|error| format!("ingest {number} again: {error}"))?;
            }
            Err(error) => return Err(format!("ingest {number}: {error}")),
        }
        let there = whole(&content, &scope(number), &digest(&data(number))).await;
        there.map_err(|why| format!("blob {number}, written after the cut: {why}"))?;
    }
    let collector = Collector::new(metadata.clone(), content.clone(), Vec::new(), Requests::new());
    collector.collect().await.map_err(text)?;
    let recorded = every_record_is_whole(&content).await?;
    let names = |path: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder.join("content").join(path)).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    if names("blobs/sha256") != recorded {
        return Err(format!("{} blobs on disk, {} on record", names("blobs/sha256").len(), recorded.len()));
    }
    let mut open = 0;
    for number in [0, 3] {
        open += content.statuses(&scope(number), &Filters::default()).await.map_err(text)?.len();
    }
    if names("ingest").len() > open {
        return Err(format!("{} ingests on disk, {open} on record", names("ingest").len()));
    }
    Ok(note)
}

/// Reads a blob and compares its digest.
async fn whole(content: &Content, scope: &Scope, wanted: &Digest) -> Result<(), String> {
    let bytes = content.read_all(scope, wanted, u64::MAX).await.map_err(|error| error.to_string())?;
    let found = digest(&bytes);
    if found == *wanted { Ok(()) } else { Err(format!("{} bytes of {found}", bytes.len())) }
}

/// Every blob that has a record, in hexadecimal.
async fn every_record_is_whole(content: &Content) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    for number in [0, 3] {
        let scope = scope(number);
        for blob in content.list(&scope, &Filters::default()).await.map_err(|error| error.to_string())? {
            let digest: Digest = blob.digest.parse().unwrap();
            whole(content, &scope, &digest).await.map_err(|why| format!("short: {digest}: {why}"))?;
            found.insert(digest.hex().to_owned());
        }
    }
    Ok(found)
}
