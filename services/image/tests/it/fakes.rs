//! Stores for tests: blobs and ingests in a folder, images and leases in memory.

use async_trait::async_trait;
use bytes::Bytes;
use crated_core::content::IngestStatus;
use crated_core::mask::update_labels;
use crated_core::record::{Blob, Image, Lease};
use crated_core::{
    BlobReader, Commit, ContentStore, Expected, ImageStore, Ingest, LeaseStore, Mask, Resource, ResourceKind,
};
use crated_types::filter::Filters;
use crated_types::{Digest, Error, Fault, IngestRef, Kind, Labels, LeaseId, Result, Scope};
use sha2::Digest as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

type Key = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Leases(pub(crate) Mutex<BTreeMap<Key, BTreeSet<Resource>>>);

impl Leases {
    pub(crate) fn hold(&self, scope: &Scope, kind: ResourceKind, id: &str) {
        if let Some(lease) = &scope.lease {
            let mut all = self.0.lock().unwrap();
            let held = all.get_mut(&(scope.namespace.to_string(), lease.to_string())).expect("lease does not exist");
            held.insert(Resource { kind, id: id.into() });
        }
    }
}

#[async_trait]
impl LeaseStore for Leases {
    async fn create(&self, scope: &Scope, id: Option<LeaseId>, labels: Labels) -> Result<Lease> {
        let id = id.unwrap();
        let mut all = self.0.lock().unwrap();
        let key = (scope.namespace.to_string(), id.to_string());
        if all.contains_key(&key) {
            return Err(Error::already_exists(Kind::Lease, id));
        }
        all.insert(key, BTreeSet::new());
        Ok(Lease { id: id.to_string(), created_at: None, labels })
    }

    async fn list(&self, scope: &Scope, _: &Filters) -> Result<Vec<Lease>> {
        let all = self.0.lock().unwrap();
        let own = all.keys().filter(|(namespace, _)| namespace == scope.namespace.as_str());
        Ok(own.map(|(_, id)| Lease { id: id.clone(), created_at: None, labels: Labels::new() }).collect())
    }

    async fn delete(&self, scope: &Scope, id: &LeaseId, _: bool) -> Result<()> {
        let key = (scope.namespace.to_string(), id.to_string());
        self.0.lock().unwrap().remove(&key).map(drop).ok_or_else(|| Error::not_found(Kind::Lease, id))
    }

    async fn add(&self, scope: &Scope, id: &LeaseId, resource: Resource) -> Result<()> {
        let key = (scope.namespace.to_string(), id.to_string());
        let mut all = self.0.lock().unwrap();
        all.get_mut(&key).ok_or_else(|| Error::not_found(Kind::Lease, id))?.insert(resource);
        Ok(())
    }

    async fn remove(&self, scope: &Scope, id: &LeaseId, resource: &Resource) -> Result<()> {
        let key = (scope.namespace.to_string(), id.to_string());
        let mut all = self.0.lock().unwrap();
        all.get_mut(&key).ok_or_else(|| Error::not_found(Kind::Lease, id))?.remove(resource);
        Ok(())
    }

    async fn resources(&self, scope: &Scope, id: &LeaseId) -> Result<Vec<Resource>> {
        let key = (scope.namespace.to_string(), id.to_string());
        let all = self.0.lock().unwrap();
        Ok(all.get(&key).ok_or_else(|| Error::not_found(Kind::Lease, id))?.iter().cloned().collect())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Images(pub(crate) Mutex<BTreeMap<Key, Image>>);

#[async_trait]
impl ImageStore for Images {
    async fn get(&self, scope: &Scope, name: &str) -> Result<Image> {
        let key = (scope.namespace.to_string(), name.to_owned());
        self.0.lock().unwrap().get(&key).cloned().ok_or_else(|| Error::not_found(Kind::Image, name))
    }

    async fn list(&self, scope: &Scope, _: &Filters) -> Result<Vec<Image>> {
        let all = self.0.lock().unwrap();
        Ok(all.iter().filter(|((ns, _), _)| ns == scope.namespace.as_str()).map(|(_, image)| image.clone()).collect())
    }

    async fn create(&self, scope: &Scope, image: Image) -> Result<Image> {
        let key = (scope.namespace.to_string(), image.name.clone());
        let mut all = self.0.lock().unwrap();
        if all.contains_key(&key) {
            return Err(Error::already_exists(Kind::Image, &image.name));
        }
        all.insert(key, image.clone());
        Ok(image)
    }

    async fn update(&self, scope: &Scope, image: Image, mask: &Mask) -> Result<Image> {
        assert_eq!(*mask, Mask::Paths(vec!["target".into()]));
        let key = (scope.namespace.to_string(), image.name.clone());
        let mut all = self.0.lock().unwrap();
        let stored = all.get_mut(&key).unwrap();
        stored.target = image.target;
        Ok(stored.clone())
    }

    async fn delete(&self, scope: &Scope, name: &str, _: Option<&Digest>, _: bool) -> Result<()> {
        self.0.lock().unwrap().remove(&(scope.namespace.to_string(), name.to_owned()));
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Content(Arc<State>);

#[derive(Debug)]
pub(crate) struct State {
    root: PathBuf,
    leases: Arc<Leases>,
    blobs: Mutex<BTreeMap<Key, Blob>>,
    ingests: Mutex<BTreeMap<Key, Expected>>,
    locked: Mutex<BTreeSet<Key>>,
}

impl std::ops::Deref for Content {
    type Target = State;
    fn deref(&self) -> &State {
        &self.0
    }
}

impl Content {
    pub(crate) fn new(root: &Path, leases: Arc<Leases>) -> Arc<Self> {
        std::fs::create_dir_all(root.join("blobs")).unwrap();
        std::fs::create_dir_all(root.join("ingest")).unwrap();
        Arc::new(Self(Arc::new(State {
            root: root.into(),
            leases,
            blobs: Mutex::default(),
            ingests: Mutex::default(),
            locked: Mutex::default(),
        })))
    }

    /// Digests of the blobs of every namespace.
    pub(crate) fn digests(&self) -> Vec<String> {
        self.blobs.lock().unwrap().keys().map(|(_, digest)| digest.clone()).collect()
    }

    /// References of ingests that are there.
    pub(crate) fn open_ingests(&self) -> Vec<String> {
        self.ingests.lock().unwrap().keys().map(|(_, reference)| reference.clone()).collect()
    }
}

impl State {
    fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest)
    }

    fn ingest_path(&self, key: &Key) -> PathBuf {
        self.root.join("ingest").join(format!("{}-{}", key.0, key.1.replace('/', "_")))
    }
}

#[derive(Debug)]
struct Reader(File, u64);

#[async_trait]
impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.1
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let mut bytes = vec![0; length];
        let read = self.0.read_at(&mut bytes, offset).unwrap();
        bytes.truncate(read);
        Ok(bytes.into())
    }

    fn file(&self) -> Result<File> {
        Ok(File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.0))).unwrap())
    }
}

#[async_trait]
impl ContentStore for Content {
    async fn info(&self, scope: &Scope, digest: &Digest) -> Result<Blob> {
        let key = (scope.namespace.to_string(), digest.to_string());
        self.blobs.lock().unwrap().get(&key).cloned().ok_or_else(|| Error::not_found(Kind::Content, digest))
    }

    async fn open(&self, scope: &Scope, digest: &Digest) -> Result<Arc<dyn BlobReader>> {
        let blob = self.info(scope, digest).await?;
        Ok(Arc::new(Reader(File::open(self.blob_path(&blob.digest)).unwrap(), blob.size as u64)))
    }

    async fn list(&self, _: &Scope, _: &Filters) -> Result<Vec<Blob>> {
        Ok(self.blobs.lock().unwrap().values().cloned().collect())
    }

    async fn update(&self, scope: &Scope, digest: &Digest, labels: &Labels, mask: &Mask) -> Result<Blob> {
        let key = (scope.namespace.to_string(), digest.to_string());
        let mut blobs = self.blobs.lock().unwrap();
        let blob = blobs.get_mut(&key).ok_or_else(|| Error::not_found(Kind::Content, digest))?;
        update_labels("content", &key.1, &mut blob.labels, labels, mask)?;
        Ok(blob.clone())
    }

    async fn delete(&self, scope: &Scope, digest: &Digest) -> Result<()> {
        self.blobs.lock().unwrap().remove(&(scope.namespace.to_string(), digest.to_string()));
        Ok(())
    }

    async fn ingest(&self, scope: &Scope, reference: &IngestRef, expected: Expected) -> Result<Box<dyn Ingest>> {
        if let Some(digest) = &expected.digest
            && self.info(scope, digest).await.is_ok()
        {
            self.leases.hold(scope, ResourceKind::Content, digest.as_str());
            return Err(Error::already_exists(Kind::Content, digest));
        }
        let key = (scope.namespace.to_string(), reference.to_string());
        if !self.locked.lock().unwrap().insert(key.clone()) {
            return Err(Error::new(Fault::Locked, "locked").on(Kind::Ingest, reference));
        }
        self.leases.hold(scope, ResourceKind::Ingest, reference.as_str());
        self.ingests.lock().unwrap().insert(key.clone(), expected.clone());
        let path = self.ingest_path(&key);
        let file = File::options().create(true).append(true).read(true).open(&path).unwrap();
        let mut hasher = sha2::Sha256::new();
        let bytes = std::fs::read(&path).unwrap();
        hasher.update(&bytes);
        Ok(Box::new(Writing {
            content: self.clone(),
            scope: scope.clone(),
            key,
            reference: reference.clone(),
            expected,
            file,
            path,
            hasher,
            offset: bytes.len() as u64,
        }))
    }

    async fn status(&self, scope: &Scope, reference: &IngestRef) -> Result<IngestStatus> {
        let key = (scope.namespace.to_string(), reference.to_string());
        let ingests = self.ingests.lock().unwrap();
        let expected = ingests.get(&key).ok_or_else(|| Error::not_found(Kind::Ingest, reference))?;
        let offset = std::fs::metadata(self.ingest_path(&key)).map_or(0, |meta| meta.len());
        Ok(status(reference, expected, offset))
    }

    async fn statuses(&self, _: &Scope, _: &Filters) -> Result<Vec<IngestStatus>> {
        unreachable!("the image service does not ask for it")
    }

    async fn abort(&self, scope: &Scope, reference: &IngestRef) -> Result<()> {
        let key = (scope.namespace.to_string(), reference.to_string());
        let _ = std::fs::remove_file(self.ingest_path(&key));
        self.ingests.lock().unwrap().remove(&key).map(drop).ok_or_else(|| Error::not_found(Kind::Ingest, reference))
    }
}

#[derive(Debug)]
struct Writing {
    content: Content,
    scope: Scope,
    key: Key,
    reference: IngestRef,
    expected: Expected,
    file: File,
    path: PathBuf,
    hasher: sha2::Sha256,
    offset: u64,
}

fn status(reference: &IngestRef, expected: &Expected, offset: u64) -> IngestStatus {
    IngestStatus {
        reference: reference.clone(),
        offset,
        total: expected.size.unwrap_or(0),
        expected: expected.digest.clone(),
        started_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.content.locked.lock().unwrap().remove(&self.key);
    }
}

#[async_trait]
impl Ingest for Writing {
    fn status(&self) -> IngestStatus {
        status(&self.reference, &self.expected, self.offset)
    }

    fn digest(&self) -> Digest {
        Digest::sha256(self.hasher.clone().finalize().into())
    }

    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.file.write_all(&chunk).unwrap();
        self.hasher.update(&chunk);
        self.offset += chunk.len() as u64;
        Ok(())
    }

    async fn truncate(&mut self) -> Result<()> {
        self.file.set_len(0).unwrap();
        self.hasher = sha2::Sha256::new();
        self.offset = 0;
        Ok(())
    }

    async fn commit(self: Box<Self>, commit: Commit) -> Result<Blob> {
        let digest = self.digest();
        if commit.expected.size.is_some_and(|size| size != self.offset) {
            return Err(Error::new(Fault::SizeMismatch, format!("{} bytes", self.offset)));
        }
        if commit.expected.digest.as_ref().is_some_and(|expected| *expected != digest) {
            return Err(Error::new(Fault::DigestMismatch, format!("{digest}")));
        }
        self.content.ingests.lock().unwrap().remove(&self.key);
        std::fs::rename(&self.path, self.content.blob_path(digest.as_str())).unwrap();
        self.content.leases.hold(&self.scope, ResourceKind::Content, digest.as_str());
        let mut blobs = self.content.blobs.lock().unwrap();
        let key = (self.key.0.clone(), digest.to_string());
        if blobs.contains_key(&key) {
            return Err(Error::already_exists(Kind::Content, &digest));
        }
        let blob =
            Blob { digest: digest.to_string(), size: self.offset as i64, labels: commit.labels, ..Blob::default() };
        blobs.insert(key, blob.clone());
        Ok(blob)
    }

    fn file(&self) -> Result<File> {
        Ok(File::open(&self.path).unwrap())
    }
}
