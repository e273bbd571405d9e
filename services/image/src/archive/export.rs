//! Images out, as an archive that OCI tools and docker read.

use super::{ANNOTATION_NAME, ANNOTATION_REF, DOCKER, INDEX, LAYOUT, blob_path, pipe};
use crate::inspect::{self, DEPTH_MAX};
use crate::manifest::{Document, Manifest, OciDescriptor, OciPlatform};
use crate::service::{Inner, target};
use bytes::Bytes;
use crated_core::BlobReader;
use crated_core::pull::Export;
use crated_types::descriptor::media;
use crated_types::{Descriptor, Digest, Error, Fault, Kind, Platform, Reference, Result, Scope};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;

/// What an archive is going to hold.
#[derive(Debug, Default)]
struct Plan {
    blobs: Vec<(Digest, Arc<dyn BlobReader>)>,
    seen: HashSet<Digest>,
    index: Vec<OciDescriptor>,
    docker: Vec<serde_json::Value>,
}

/// Checks that everything is there, then streams.
pub(crate) async fn export(
    service: &Arc<Inner>,
    scope: &Scope,
    request: Export,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    if request.names.is_empty() {
        return Err(Error::invalid("names", "no image to export is named"));
    }
    let mut plan = Plan::default();
    for name in &request.names {
        let image = service.images.get(scope, name).await?;
        add(service, scope, &mut plan, name, &target(&image)?, request.platform.as_ref()).await?;
    }
    let (writer, receiver) = pipe::writer();
    let failures = writer.sender();
    service.options.tracker.spawn_blocking(move || {
        if let Err(error) = write(&plan, writer)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let _ = failures.blocking_send(Err(Error::os("write the archive", error)));
        }
    });
    Ok(Box::pin(futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    })))
}

async fn add(
    service: &Inner,
    scope: &Scope,
    plan: &mut Plan,
    name: &str,
    target: &Descriptor,
    platform: Option<&Platform>,
) -> Result<()> {
    let host = Platform::host();
    let (own, manifest) = inspect::find(&*service.content, scope, target, platform.unwrap_or(&host), name).await?;
    let mut root: OciDescriptor = match platform {
        // One platform: the index would name what the archive has not.
        Some(_) => (&own).into(),
        None => target.into(),
    };
    if platform.is_some() {
        image(service, scope, plan, &own, &manifest).await.map_err(|error| missing(error, name))?;
        if let Ok(resolved) = inspect::image_config(&*service.content, scope, &own, &host, name).await {
            let Platform { os, architecture, variant } = resolved.config.platform();
            root.platform = Some(OciPlatform { os, architecture, variant, os_version: String::new() });
        }
    } else {
        tree(service, scope, plan, target, 0).await.map_err(|error| missing(error, name))?;
    }
    let reference = Reference::parse(name).ok();
    root.annotations = BTreeMap::from([(ANNOTATION_NAME.to_owned(), name.to_owned())]);
    if let Some(tag) = reference.as_ref().and_then(Reference::tag) {
        root.annotations.insert(ANNOTATION_REF.to_owned(), tag.to_owned());
    }
    plan.index.push(root);
    if media::is_config(&manifest.config.media_type) && plan.seen.contains(&manifest.config.digest) {
        let tags: Vec<String> =
            reference.iter().filter(|r| r.tag().is_some() && r.digest().is_none()).map(Reference::familiar).collect();
        plan.docker.push(serde_json::json!({
            "Config": blob_path(&manifest.config.digest),
            "RepoTags": tags,
            "Layers": manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect::<Vec<_>>(),
        }));
    }
    Ok(())
}

fn missing(error: Error, name: &str) -> Error {
    if !error.is_not_found() {
        return error;
    }
    Error::new(Fault::NotFound, "content of it is missing")
        .on(Kind::Image, name)
        .caused_by(error)
        .remedy_is("pull it again")
}

/// Everything below `at` that is here.
fn tree<'a>(
    service: &'a Inner,
    scope: &'a Scope,
    plan: &'a mut Plan,
    at: &'a Descriptor,
    depth: usize,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        match inspect::document(&*service.content, scope, at).await? {
            Document::Manifest(manifest) => image(service, scope, plan, at, &manifest).await,
            Document::Index(index) => {
                blob(service, scope, plan, &at.digest).await?;
                for entry in index.manifests.iter().filter(|_| depth < DEPTH_MAX) {
                    let known = media::is_index(&entry.media_type) || media::is_manifest(&entry.media_type);
                    match (known, tree_of(service, scope, plan, entry, depth).await) {
                        (true, Err(error)) if error.is_not_found() => {}
                        (true, Err(error)) => return Err(error),
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    })
}

async fn tree_of(service: &Inner, scope: &Scope, plan: &mut Plan, entry: &OciDescriptor, depth: usize) -> Result<()> {
    let descriptor = Descriptor::from(entry);
    tree(service, scope, plan, &descriptor, depth + 1).await
}

/// Manifest, configuration and layers: all, or an error and nothing.
async fn image(service: &Inner, scope: &Scope, plan: &mut Plan, at: &Descriptor, manifest: &Manifest) -> Result<()> {
    let parts: Vec<&Digest> = std::iter::once(&at.digest)
        .chain(std::iter::once(&manifest.config.digest))
        .chain(manifest.layers.iter().map(|layer| &layer.digest))
        .collect();
    for digest in &parts {
        service.content.info(scope, digest).await?;
    }
    for digest in parts {
        blob(service, scope, plan, digest).await?;
    }
    Ok(())
}

/// Opened here, so that a later removal does not break the stream.
async fn blob(service: &Inner, scope: &Scope, plan: &mut Plan, digest: &Digest) -> Result<()> {
    if plan.seen.contains(digest) {
        return Ok(());
    }
    let reader = service.content.open(scope, digest).await?;
    plan.seen.insert(digest.clone());
    plan.blobs.push((digest.clone(), reader));
    Ok(())
}

/// Blocking.
fn write(plan: &Plan, writer: impl Write) -> io::Result<()> {
    let mut tar = ::tar::Builder::new(writer);
    let json = |value: &serde_json::Value| serde_json::to_vec(value).map_err(io::Error::other);
    file(&mut tar, LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": plan.index });
    file(&mut tar, INDEX, &json(&index)?)?;
    if !plan.docker.is_empty() {
        file(&mut tar, DOCKER, &json(&serde_json::Value::Array(plan.docker.clone()))?)?;
    }
    for (digest, blob) in &plan.blobs {
        let reader = blob.file().map_err(io::Error::other)?;
        tar.append_data(&mut header(blob.size()), blob_path(digest), reader)?;
    }
    tar.into_inner()?.flush()
}

fn file(tar: &mut ::tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), name, bytes)
}

/// The same for every file, so that the same image gives the same archive.
fn header(size: u64) -> ::tar::Header {
    let mut header = ::tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
