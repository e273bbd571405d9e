//! Files of the content store. All of it blocks.
//!
//! ```text
//! <root>/blobs/<algorithm>/<hex>                                0444, never changed
//! <root>/ingest/<sha256 of namespace/ref>/data                  the bytes so far
//!                                        /ref,startedat,updatedat,total   for people and tools
//! <root>/quarantine/<algorithm>-<hex>                           damaged bytes, read by nobody; made when it is needed
//! ```

use crated_types::digest::Algorithm;
use crated_types::{Digest, Error, IngestRef, Kind, Namespace, Result};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Folders of a content store.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    root: PathBuf,
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Disk {
    /// Makes the folders.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let disk = Self { root: root.into() };
        for folder in [disk.blobs(Algorithm::Sha256), disk.blobs(Algorithm::Sha512), disk.ingests()] {
            std::fs::create_dir_all(&folder)
                .and_then(|()| sync(&folder))
                .map_err(|source| Error::os(format!("create {}", folder.display()), source))?;
        }
        // every name on the way to a blob is durable before a blob is
        for folder in [&disk.root.join("blobs"), root].into_iter().chain(root.parent()) {
            sync(folder).map_err(|source| Error::os(format!("sync {}", folder.display()), source))?;
        }
        Ok(disk)
    }

    fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }

    fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    /// The file of an ingest's bytes.
    pub(crate) fn data(&self, folder: &str) -> PathBuf {
        self.ingests().join(folder).join("data")
    }

    /// Bytes of a blob; `None` where it is not here.
    pub(crate) fn blob_size(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.blob(digest)).ok().filter(std::fs::Metadata::is_file).map(|found| found.len())
    }

    /// Makes the folder of an ingest, or opens what is there.
    pub(crate) fn open_ingest(&self, folder: &str, reference: &IngestRef, total: u64) -> Result<File> {
        let path = self.ingests().join(folder);
        let data = path.join("data");
        let open = || -> io::Result<File> {
            std::fs::create_dir_all(&path)?;
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&data)?;
            let now = jiff::Timestamp::now().to_string();
            std::fs::write(path.join("ref"), reference.as_str())?;
            if !path.join("startedat").exists() {
                std::fs::write(path.join("startedat"), &now)?;
            }
            std::fs::write(path.join("updatedat"), &now)?;
            std::fs::write(path.join("total"), total.to_string())?;
            Ok(file)
        };
        open().map_err(|source| Error::os(format!("open {}", data.display()), source).on(Kind::Ingest, reference))
    }

    /// Makes an ingest's bytes a blob: synced, read-only, renamed, the folder synced. One that is there already stays.
    pub(crate) fn publish(&self, folder: &str, file: &File, digest: &Digest, size: u64) -> Result<()> {
        let (data, blob) = (self.data(folder), self.blob(digest));
        if self.blob_size(digest) == Some(size) {
            return self.settle(digest);
        }
        let publish = || -> io::Result<()> {
            file.set_permissions(Permissions::from_mode(0o444))?;
            file.sync_all()?;
            std::fs::rename(&data, &blob)?;
            sync(&self.blobs(digest.algorithm()))
        };
        publish().map_err(|source| Error::os(format!("rename {} to {}", data.display(), blob.display()), source))
    }

    /// Makes a blob durable that lay there already: whoever renamed it may have died before its folder was synced.
    pub(crate) fn settle(&self, digest: &Digest) -> Result<()> {
        let blob = self.blob(digest);
        let synced =
            File::open(&blob).and_then(|file| file.sync_all()).and_then(|()| sync(&self.blobs(digest.algorithm())));
        synced.map_err(|source| Error::os(format!("sync {}", blob.display()), source))
    }

    /// Removes an ingest's folder; one that is not there is no error.
    pub(crate) fn remove_ingest(&self, folder: &str) -> Result<()> {
        let path = self.ingests().join(folder);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(Error::os(format!("remove {}", path.display()), source))
            }
            _ => Ok(()),
        }
    }

    /// Removes a blob's file; one that is not there is no error.
    pub(crate) fn remove_blob(&self, digest: &Digest) -> Result<()> {
        self.remove_file(&self.blob(digest))
    }

    /// Every blob that has a file.
    pub(crate) fn list_blobs(&self) -> Result<Vec<Digest>> {
        Ok(self.blob_files()?.into_iter().filter_map(|(_, digest)| digest).collect())
    }

    /// Everything in the folders of blobs; the digest is none where the name is not one.
    pub(crate) fn blob_files(&self) -> Result<Vec<(PathBuf, Option<Digest>)>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = self.blobs(algorithm);
            found.extend(names(&folder)?.into_iter().map(|hex| {
                let digest = format!("{}:{hex}", algorithm.name()).parse().ok();
                (folder.join(hex), digest)
            }));
        }
        Ok(found)
    }

    fn quarantines(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Where the damaged bytes of a blob are, if it has any.
    pub(crate) fn quarantine_of(&self, digest: &Digest) -> PathBuf {
        self.quarantines().join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// Whether a folder is the quarantine.
    pub(crate) fn is_quarantine(&self, folder: &Path) -> bool {
        folder == self.quarantines()
    }

    /// Blobs that have damaged bytes in quarantine.
    pub(crate) fn quarantined(&self) -> Result<Vec<Digest>> {
        if !self.quarantines().exists() {
            return Ok(Vec::new());
        }
        Ok(names(&self.quarantines())?.iter().filter_map(|name| name.replacen('-', ":", 1).parse().ok()).collect())
    }

    /// Moves a blob's file into the quarantine; `None` where it has none.
    pub(crate) fn quarantine(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let (blob, aside) = (self.blob(digest), self.quarantine_of(digest));
        let moved = std::fs::create_dir_all(self.quarantines())
            .and_then(|()| std::fs::rename(&blob, &aside))
            .and_then(|()| sync(&self.blobs(digest.algorithm())));
        match moved {
            Ok(()) => Ok(Some(aside)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::os(format!("rename {} to {}", blob.display(), aside.display()), error)),
        }
    }

    /// Moves what is not ours into the quarantine, under its own name.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<PathBuf> {
        let aside = self.quarantines().join(path.file_name().unwrap_or_default());
        std::fs::create_dir_all(self.quarantines())
            .and_then(|()| std::fs::rename(path, &aside))
            .map_err(|error| Error::os(format!("rename {} to {}", path.display(), aside.display()), error))?;
        Ok(aside)
    }

    /// Removes a file; one that is not there is no error.
    pub(crate) fn remove_file(&self, path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(Error::os(format!("remove {}", path.display()), source))
            }
            _ => Ok(()),
        }
    }

    /// The folder of an ingest.
    pub(crate) fn ingest(&self, folder: &str) -> PathBuf {
        self.ingests().join(folder)
    }

    /// Every folder of an ingest.
    pub(crate) fn list_ingests(&self) -> Result<Vec<String>> {
        names(&self.ingests())
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries =
        std::fs::read_dir(folder).map_err(|source| Error::os(format!("list {}", folder.display()), source))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// The folder of an ingest.
pub(crate) fn folder(namespace: &Namespace, reference: &IngestRef) -> String {
    let digest = Sha256::digest(format!("{namespace}/{reference}"));
    Digest::sha256(digest.into()).hex().to_owned()
}

/// The same file once more, positioned at its start, even where its name is gone.
pub(crate) fn reopen(file: &File) -> Result<File> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::open(&path).map_err(|source| Error::os(format!("open {path}"), source))
}
