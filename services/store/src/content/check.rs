//! Blobs against their bytes: re-hashed from the disk, moved aside where they are damaged, and files that no record names.
//!
//! `<root>/quarantine/<algorithm>-<hex>` holds damaged bytes. Nothing is read from there; a blob whose file is there counts as
//! missing, so that a pull or an import writes it again. Once it is whole again its quarantined bytes are a stray.

use async_trait::async_trait;
use crated_core::check::{ContentCheck, Kept, Reading, Stray, Strays, Verdict};
use crated_core::record::{BLOBS, Blob, INGESTS};
use crated_types::{Digest, Error, Kind, Namespace, Result};
use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Content;
use super::disk::Disk;
use super::hash::Hasher;
use crate::blocking;

/// Bytes of a blob that are in memory at a time.
const BLOCK: usize = 1 << 20;

/// Reads a blob's file to its end. Blocking.
fn verify(disk: &Disk, blob: &Kept, reading: &Reading) -> Verdict {
    let unreadable = |error: std::io::Error| Verdict::Unreadable(error.to_string());
    let file = match File::open(disk.blob(&blob.digest)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Verdict::Missing,
        Err(error) => return unreadable(error),
    };
    match file.metadata() {
        Ok(found) if found.is_file() && found.len() == blob.size => {}
        Ok(found) if found.is_file() => return Verdict::Size(found.len()),
        Ok(_) => return Verdict::Unreadable("it is no regular file".into()),
        Err(error) => return unreadable(error),
    }
    // What the page cache has proves nothing about the disk, and a check must not push out what is in use. It is advice only.
    if !reading(0) {
        return Verdict::Stopped;
    }
    let forget = || {
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    };
    forget();
    let mut hasher = Hasher::new(blob.digest.algorithm());
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    while at < blob.size {
        let part = BLOCK.min(usize::try_from(blob.size - at).unwrap_or(BLOCK));
        if let Err(error) = file.read_exact_at(&mut block[..part], at) {
            return unreadable(error);
        }
        hasher.update(&block[..part]);
        at += part as u64;
        if !reading(part as u64) {
            return Verdict::Stopped;
        }
    }
    forget();
    let found = hasher.digest();
    if found == blob.digest { Verdict::Whole } else { Verdict::Digest(found) }
}

#[async_trait]
impl ContentCheck for Content {
    async fn kept(&self, after: &[u8], limit: usize) -> Result<(Vec<Kept>, Option<Vec<u8>>)> {
        let page = self.inner.metadata.scan(&BLOBS.prefix(""), after, limit).await?;
        let last = page.last().map(|(key, _)| key.clone());
        let kept = |(key, stored): &(Vec<u8>, crated_core::Stored)| {
            let (namespace, digest) = BLOBS.parts(key)?;
            let blob: Blob = BLOBS.decode(key, &stored.value).ok()?; // `RecordCheck` tells of those
            let size = u64::try_from(blob.size).ok()?;
            Some(Kept { namespace: namespace.parse().ok()?, digest: digest.parse().ok()?, size, labels: blob.labels })
        };
        Ok((page.iter().filter_map(kept).collect(), last))
    }

    async fn verify(&self, blob: &Kept, reading: Reading) -> Result<Verdict> {
        let (disk, kept) = (self.inner.disk.clone(), blob.clone());
        let verdict = blocking::run(move || verify(&disk, &kept, &reading)).await?;
        if matches!(verdict, Verdict::Whole | Verdict::Stopped) || self.is_recorded(&blob.digest).await? {
            return Ok(verdict);
        }
        Ok(Verdict::Whole) // removed meanwhile: nobody misses it
    }

    async fn quarantine(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let _alone = self.inner.locks.alone(digest).await;
        let (disk, digest) = (self.inner.disk.clone(), digest.clone());
        blocking::run(move || disk.quarantine(&digest)).await?
    }

    async fn release(&self, digest: &Digest) -> Result<()> {
        let (disk, digest) = (self.inner.disk.clone(), digest.clone());
        blocking::run(move || disk.remove_file(&disk.quarantine_of(&digest))).await?
    }
}

/// What is in the store's folders.
struct Found {
    blobs: Vec<Digest>,
    /// What is no blob.
    foreign: Vec<PathBuf>,
    ingests: Vec<String>,
    quarantined: Vec<Digest>,
}

fn list(disk: &Disk) -> Result<Found> {
    let (mut blobs, mut foreign) = (Vec::new(), Vec::new());
    for (path, digest) in disk.blob_files()? {
        match digest {
            Some(digest) => blobs.push(digest),
            None => foreign.push(path),
        }
    }
    Ok(Found { blobs, foreign, ingests: disk.list_ingests()?, quarantined: disk.quarantined()? })
}

#[async_trait]
impl Strays for Content {
    async fn strays(&self) -> Result<Vec<Stray>> {
        let inner = &self.inner;
        let disk = inner.disk.clone();
        // in this order: an ingest's record is there before its folder, and goes before it
        let Found { blobs, foreign, ingests, quarantined } = blocking::run(move || list(&disk)).await??;
        let mut strays: Vec<Stray> =
            foreign.into_iter().map(|path| Stray { kind: "file", path, why: "its name is no digest".into() }).collect();
        let records = INGESTS.list(&*inner.metadata, &INGESTS.prefix("")).await?;
        let named: HashSet<String> = records.into_iter().map(|(_, _, record)| record.folder).collect();
        strays.extend(ingests.into_iter().filter(|folder| !named.contains(folder)).map(|folder| Stray {
            kind: "folder",
            path: inner.disk.ingest(&folder),
            why: "no ingest has it".into(),
        }));
        for digest in blobs {
            if self.nobody_has(&digest).await? {
                let why = "no namespace has this blob".into();
                strays.push(Stray { kind: "file", path: inner.disk.blob(&digest), why });
            }
        }
        for digest in quarantined {
            let whole = inner.disk.blob_size(&digest).is_some();
            if whole || !self.is_recorded(&digest).await? {
                let why = "quarantined bytes of a blob that is whole again or gone".into();
                strays.push(Stray { kind: "file", path: inner.disk.quarantine_of(&digest), why });
            }
        }
        Ok(strays)
    }

    async fn clear(&self, stray: &Stray) -> Result<String> {
        let disk = self.inner.disk.clone();
        let path = stray.path.clone();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        if stray.kind == "folder" {
            blocking::run(move || disk.remove_ingest(&name)).await??;
            return Ok("removed".into());
        }
        if disk.is_quarantine(&folder) {
            blocking::run(move || disk.remove_file(&path)).await??;
            return Ok("removed".into());
        }
        let algorithm = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() else {
            let aside = blocking::run(move || disk.set_aside(&path)).await??;
            return Ok(format!("moved to {}", aside.display()));
        };
        let Some(_alone) = self.inner.locks.unused(&digest) else {
            return Err(Error::precondition(Kind::Content, &digest, "it is being written"));
        };
        if self.is_recorded(&digest).await? {
            return Ok("in use meanwhile".into());
        }
        blocking::run(move || disk.remove_blob(&digest)).await??;
        Ok("removed".into())
    }
}

impl Content {
    /// Whether a blob's file has no record, and none is about to be written.
    async fn nobody_has(&self, digest: &Digest) -> Result<bool> {
        let Some(_alone) = self.inner.locks.unused(digest) else { return Ok(false) };
        Ok(!self.is_recorded(digest).await?)
    }

    /// Whether any namespace has the blob now.
    pub(super) async fn is_recorded(&self, digest: &Digest) -> Result<bool> {
        for name in crate::namespaces::with_keys(&*self.inner.metadata, &BLOBS.prefix("")).await? {
            let key = BLOBS.key(Namespace::new(&name)?.as_str(), digest.as_str());
            if self.inner.metadata.get(&key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
