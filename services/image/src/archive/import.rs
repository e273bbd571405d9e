//! An archive into the content store and image records.
//!
//! The stream is read once: every file becomes a blob as it passes, `index.json` and `manifest.json` are kept in memory. When
//! the stream has ended the documents say what the blobs are; what nothing refers to goes with the lease.

use super::docker::{self, Files};
use super::tar::{EntryKind, Reader};
use super::{ANNOTATION_NAME, ANNOTATION_REF, DOCKER, INDEX, LAYOUT, blob_path, pipe};
use crate::manifest::{self, Document, Index, OciDescriptor};
use crate::progress::Progress;
use crate::registry::DOCUMENT_MAX;
use crate::service::Inner;
use crate::{inspect, labels, layer, lease, pull};
use bytes::Bytes;
use crated_core::pull::Import;
use crated_core::record::Image;
use crated_core::{Commit, ContentStore, Expected};
use crated_types::descriptor::media;
use crated_types::{Descriptor, Digest, Error, Fault, IngestRef, Kind, Labels, Reference, Result, Scope};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;

/// Bytes that are read before they are written on.
const CHUNK: usize = 1 << 20;

/// Imports; the records are written last.
pub(crate) async fn import(
    service: &Arc<Inner>,
    scope: &Scope,
    archive: BoxStream<'static, Result<Bytes>>,
    request: Import,
    progress: &Progress,
) -> Result<Vec<Image>> {
    let snapshotter = request.snapshotter.as_deref().map(|name| service.snapshotter(name)).transpose()?;
    crated_core::fail::point("image.import.scan")?;
    let (reader, pump) = pipe::reader(archive);
    let scanner = Scanner {
        content: service.content.clone(),
        scope: scope.clone(),
        handle: Handle::current(),
        progress: progress.clone(),
        unique: crate::unpack::random(),
    };
    let scan = crate::blocking(move || scanner.run(reader));
    let (scanned, ()) = tokio::join!(scan, pump);
    let found = named(service, scope, scanned.map_err(|error| error.at("read archive"))?).await?;
    let mut images = Vec::new();
    for (name, target) in found {
        crated_core::fail::point("image.import.label")?;
        label(&*service.content, scope, &target, 0).await.map_err(|error| error.at("read archive"))?;
        if let Some(snapshotter) = &snapshotter {
            service.unpack_stored(scope, &target, &request.platform, snapshotter.clone(), progress, &name).await?;
        }
        crated_core::fail::point("image.import.name")?;
        let image = Image { name, target: Some((&target).into()), ..Image::default() };
        images.push(pull::record(service, scope, image).await?);
    }
    Ok(images)
}

/// What a scan leaves.
#[derive(Debug, Default)]
struct Scanned {
    files: Files,
    documents: HashMap<String, Vec<u8>>,
}

struct Scanner {
    content: Arc<dyn ContentStore>,
    scope: Scope,
    handle: Handle,
    progress: Progress,
    /// Keeps the ingests of two imports apart.
    unique: u64,
}

impl Scanner {
    /// Blocking.
    fn run(&self, reader: impl Read) -> Result<Scanned> {
        let unreadable = |error| Error::new(Fault::Malformed, "archive: it cannot be read").caused_by(error);
        let plain = layer::compress::decompress(BufReader::with_capacity(1 << 16, reader)).map_err(unreadable)?;
        let mut tar = Reader::new(plain);
        let mut scanned = Scanned::default();
        while let Some(entry) = tar.next()? {
            match entry.kind {
                EntryKind::Other => {}
                EntryKind::Link => {
                    let target = if entry.symbolic && !entry.link.starts_with('/') {
                        let folder = entry.name.rsplit_once('/').map_or("", |(folder, _)| folder);
                        format!("{folder}/{}", entry.link)
                    } else {
                        entry.link
                    };
                    scanned.files.links.insert(entry.name, super::tar::normal(&target));
                }
                EntryKind::File if matches!(entry.name.as_str(), INDEX | LAYOUT | DOCKER) => {
                    let bytes = tar.whole(&entry.name, DOCUMENT_MAX)?;
                    scanned.documents.insert(entry.name, bytes);
                }
                EntryKind::File => {
                    let stored = self.store(&entry.name, entry.size, &mut tar)?;
                    scanned.files.blobs.insert(entry.name, stored);
                }
            }
        }
        tar.drain()?;
        Ok(scanned)
    }

    /// Makes a blob of the entry at hand.
    fn store(&self, name: &str, size: u64, tar: &mut Reader<impl Read>) -> Result<(Digest, u64)> {
        let digest = digest_of(name)?;
        let expected = Expected { digest: digest.clone(), size: Some(size) };
        let reference = IngestRef::new(&format!("import-{:016x}-{name}", self.unique))?;
        let ingest = self.handle.block_on(self.content.ingest(&self.scope, &reference, expected.clone()));
        let mut ingest = match (ingest, &digest) {
            (Ok(ingest), _) => ingest,
            (Err(error), Some(digest)) if error.is_already_exists() => {
                self.progress.bytes(name, "exists", size, size);
                return Ok((digest.clone(), size));
            }
            (Err(error), _) => return Err(error),
        };
        let write = || -> Result<(Digest, u64)> {
            // The store may offer the bytes of another namespace at once.
            let mut at = ingest.status().offset;
            if at != size {
                self.handle.block_on(ingest.truncate())?;
                at = 0;
            }
            let mut chunk = Vec::new();
            while at < size {
                tar.fill(&mut chunk, CHUNK)?;
                at += chunk.len() as u64;
                self.handle.block_on(ingest.write(Bytes::copy_from_slice(&chunk)))?;
                self.progress.bytes(name, "importing", at, size);
            }
            let computed = digest.unwrap_or_else(|| ingest.digest());
            let expected = Expected { digest: Some(computed.clone()), size: Some(size) };
            match self.handle.block_on(ingest.commit(Commit { expected, labels: Labels::new() })) {
                Err(error) if !error.is_already_exists() => Err(error),
                _ => Ok((computed, size)),
            }
        };
        let answer = write();
        match &answer {
            Ok(_) => self.progress.bytes(name, "done", size, size),
            Err(_) => drop(self.handle.block_on(self.content.abort(&self.scope, &reference))),
        }
        answer.map_err(|error| if error.object().is_some() { error } else { error.on(Kind::Content, name) })
    }
}

/// The digest that a path of a layout promises.
fn digest_of(name: &str) -> Result<Option<Digest>> {
    let Some((algorithm, hex)) = name.strip_prefix("blobs/").and_then(|rest| rest.split_once('/')) else {
        return Ok(None);
    };
    format!("{algorithm}:{hex}")
        .parse()
        .map(Some)
        .map_err(|_| Error::new(Fault::Malformed, format!("archive: {name:?} is no place of a blob")))
}

/// The images of the archive with their names.
async fn named(service: &Inner, scope: &Scope, scanned: Scanned) -> Result<Vec<(String, Descriptor)>> {
    let mut found: Vec<(String, Descriptor)> = Vec::new();
    let mut unnamed: Vec<Descriptor> = Vec::new();
    let docker = scanned.documents.get(DOCKER).map(|bytes| docker::parse(bytes)).transpose()?.unwrap_or_default();
    if let Some(bytes) = scanned.documents.get(INDEX) {
        let Document::Index(index) = manifest::parse(media::OCI_INDEX, bytes)
            .map_err(|error| Error::new(Fault::Malformed, "archive: index.json").caused_by(error))?
        else {
            return Err(Error::internal("an index was read as something else"));
        };
        for entry in &index.manifests {
            if !media::is_index(&entry.media_type) && !media::is_manifest(&entry.media_type) {
                continue;
            }
            if scanned.files.get(&blob_path(&entry.digest)).is_err()
                && service.content.info(scope, &entry.digest).await.is_err()
            {
                let what = format!("archive: index.json names {}, which is not in it", entry.digest);
                return Err(Error::new(Fault::Malformed, what));
            }
            let target = Descriptor { annotations: Default::default(), ..entry.into() };
            match own_name(entry)? {
                Some(name) => found.push((name, target)),
                None => match tags_of(service, scope, &target, &docker, &scanned.files).await {
                    tags if tags.is_empty() => unnamed.push(target),
                    tags => found.extend(tags.into_iter().map(|tag| (tag, target.clone()))),
                },
            }
        }
    } else {
        for item in &docker {
            let target = docker::manifest(service, scope, &scanned.files, item).await?;
            let tags = normalized(item.repo_tags.as_deref().unwrap_or_default())?;
            if tags.is_empty() {
                unnamed.push(target.clone());
            }
            found.extend(tags.into_iter().map(|tag| (tag, target.clone())));
        }
    }
    if found.is_empty() {
        // Nobody could find them again otherwise.
        for target in unnamed {
            found.push((format!("docker.io/library/{}@{}", prefix(), target.digest), target));
        }
    }
    if found.is_empty() {
        return Err(Error::new(
            Fault::Malformed,
            "archive: it holds no image (neither index.json nor manifest.json names one)",
        )
        .remedy_is(
            "load an OCI layout or a file of `docker save`; `docker export` makes a root file system, no image",
        ));
    }
    Ok(found)
}

/// The name that an entry of index.json gives itself.
fn own_name(entry: &OciDescriptor) -> Result<Option<String>> {
    let of = |text: &str| Reference::parse(text).map(|reference| Some(reference.to_string()));
    if let Some(name) = entry.annotations.get(ANNOTATION_NAME).filter(|name| !name.is_empty()) {
        return of(name);
    }
    match entry.annotations.get(ANNOTATION_REF).filter(|name| !name.is_empty()) {
        None => Ok(None),
        Some(name) if name.contains(['/', ':', '@']) => of(name),
        Some(tag) => of(&format!("{}:{tag}", prefix())),
    }
}

/// The tags that manifest.json has for the image at `target`: both name the same configuration.
async fn tags_of(
    service: &Inner,
    scope: &Scope,
    target: &Descriptor,
    docker: &[docker::Item],
    files: &Files,
) -> Vec<String> {
    let Ok(Document::Manifest(manifest)) = inspect::document(&*service.content, scope, target).await else {
        return Vec::new();
    };
    let same =
        |item: &&docker::Item| files.get(&item.config).is_ok_and(|(digest, _)| *digest == manifest.config.digest);
    let tags = docker.iter().find(same).and_then(|item| item.repo_tags.clone()).unwrap_or_default();
    normalized(&tags).unwrap_or_default()
}

fn normalized(tags: &[String]) -> Result<Vec<String>> {
    tags.iter().map(|tag| Reference::parse(tag).map(|reference| reference.to_string())).collect()
}

/// `import-<date>`, before a bare tag.
fn prefix() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let (year, month, day) = lease::civil(days);
    format!("import-{year:04}-{month:02}-{day:02}")
}

/// Sets references to children all the way down. A variant of an index may be missing, a part of an image may not.
fn label<'a>(
    content: &'a dyn ContentStore,
    scope: &'a Scope,
    target: &'a Descriptor,
    depth: usize,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        if depth > inspect::DEPTH_MAX {
            return Err(Error::new(Fault::Malformed, "archive: indexes are nested too deep"));
        }
        let document = inspect::document(content, scope, target).await?;
        labels::add(content, scope, &target.digest, labels::children(&document)).await?;
        match document {
            Document::Index(Index { manifests, .. }) => {
                for entry in manifests {
                    let known = media::is_index(&entry.media_type) || media::is_manifest(&entry.media_type);
                    if known && content.info(scope, &entry.digest).await.is_ok() {
                        label(content, scope, &(&entry).into(), depth + 1).await?;
                    }
                }
            }
            Document::Manifest(manifest) => {
                for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    if let Err(error) = content.info(scope, &part.digest).await {
                        if !error.is_not_found() || !part.urls.is_empty() {
                            continue;
                        }
                        return Err(Error::new(Fault::Malformed, format!("archive: {} is missing", part.digest))
                            .on(Kind::Content, &target.digest)
                            .remedy_is("the archive is incomplete: save it again"));
                    }
                }
            }
        }
        Ok(())
    })
}
