//! Copy: tar archives out of a container's files and into them, running or not. Every path is looked up by descriptors below
//! the container's root, so links and races lead nowhere else.

mod pack;
mod unpack;

use bytes::Bytes;
use crated_api::crated::engine::v1::{CopyChunk, CopyFromRequest, CopyToRequest};
use crated_sys::path::Root;
use crated_types::{Error, Fault, Kind, Result, Scope, SnapshotKey};
use futures::StreamExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

use crate::engine::{Engine, Stream, blocking};
use crate::lookup::Found;
use crate::record::MountRecord;
use crate::rootfs::{self, Access};

/// Chunks that wait between network and disk.
const QUEUE: usize = 8;

/// Where a container's files are reached.
enum Files {
    /// Through its process.
    Process(u32),
    /// Through what is mounted at a target; the path goes on below it.
    Mounted(PathBuf, PathBuf),
    /// Through its snapshot.
    Snapshot(Vec<crated_types::Mount>),
}

impl Engine {
    /// An archive of a path; its first chunk has the path's stat, and the archive's root entry its name.
    ///
    /// # Cancel safety
    /// Dropped, the reading ends.
    pub async fn copy_from(self: &Arc<Self>, scope: &Scope, request: CopyFromRequest) -> Result<Stream<CopyChunk>> {
        let path = inside(&request.path)?;
        let found = self.find(scope, &request.container).await?;
        let files = self.files(scope, &found, &path, Access::ReadOnly).await?;
        let follow = request.follow_link || request.path.ends_with('/') || request.path.ends_with("/.");
        let (opened, stat) = blocking(move || {
            let (root, below) = open(files, &path, Access::ReadOnly)?;
            pack::find(&root, &below, &path, follow)
        })
        .await?;
        Ok(self.answering(scope, move |_, _, answers| async move {
            let first = CopyChunk { stat: Some(stat.clone()), data: Bytes::new() };
            if answers.send(Ok(first)).await.is_err() {
                return Ok(());
            }
            blocking(move || pack::pack(opened, &stat.name, &answers)).await
        }))
    }

    /// Unpacks an archive into a folder of a container; the first message names it.
    ///
    /// # Errors
    /// [`Fault::Malformed`] for an archive that leads upwards; what was unpacked before stays.
    ///
    /// # Cancel safety
    /// Dropped, the archive ends there; whole entries stay.
    pub async fn copy_to(self: &Arc<Self>, scope: &Scope, mut requests: Stream<CopyToRequest>) -> Result<()> {
        let Some(first) = requests.next().await else {
            return Err(Error::invalid("container", "the first message is missing"));
        };
        let first = first?;
        let path = inside(&first.path)?;
        let found = self.find(scope, &first.container).await?;
        let files = self.files(scope, &found, &path, Access::ReadWrite).await?;
        let (sender, receiver) = mpsc::channel::<Result<Bytes>>(QUEUE);
        let how = unpack::How { keep_owner: first.copy_owner, keep_kinds: first.no_overwrite_dir_non_dir };
        let unpacking = blocking(move || {
            let (root, below) = open(files, &path, Access::ReadWrite)?;
            unpack::unpack(&root, &below, unpack::Source::new(receiver), how)
        });
        let feeding = async {
            let mut chunks =
                futures::stream::iter([Ok(first.data)]).chain(requests.map(|request| request.map(|r| r.data)));
            while let Some(chunk) = chunks.next().await {
                if sender.send(chunk).await.is_err() {
                    break; // the unpacking side has ended and says why
                }
            }
            drop(sender);
        };
        let ((), unpacked) = tokio::join!(feeding, unpacking);
        unpacked
    }

    async fn files(&self, scope: &Scope, found: &Found, path: &Path, access: Access) -> Result<Files> {
        match self.running(scope, found).await {
            Ok((_, pid)) => return Ok(Files::Process(pid)),
            Err(error) if error.fault() == Fault::Precondition => {}
            Err(error) => return Err(error),
        }
        let mounts = found.life.as_ref().map(|life| life.mounts.as_slice()).unwrap_or_default();
        if let Some((mount, below)) = mounted(mounts, path) {
            if access == Access::ReadWrite && mount.read_only {
                return Err(read_only(found, &mount.target));
            }
            return Ok(Files::Mounted(PathBuf::from(&mount.source), below));
        }
        if access == Access::ReadWrite
            && let Some(life) = &found.life
            && life.wanted(found.id.as_str())?.read_only
        {
            return Err(read_only(found, "its root file system"));
        }
        if found.record.snapshot_key.is_empty() {
            return Err(
                Error::new(Fault::Precondition, "has no snapshot and does not run").on(Kind::Container, found.name())
            );
        }
        let key = SnapshotKey::new(&found.record.snapshot_key)?;
        let mounts = self.snapshotter(&found.record.snapshotter)?.mounts(scope, &key).await?;
        Ok(Files::Snapshot(mounts))
    }
}

fn read_only(found: &Found, what: &str) -> Error {
    Error::new(Fault::Precondition, format!("{what} is read-only")).on(Kind::Container, found.name())
}

/// A path of a request below the container's root.
fn inside(path: &str) -> Result<PathBuf> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::invalid("path", "is empty or holds a NUL"));
    }
    Ok(Path::new("/").join(path))
}

/// The mount of a stopped container that holds a path, the innermost, and what of the path lies below it.
fn mounted<'m>(mounts: &'m [MountRecord], path: &Path) -> Option<(&'m MountRecord, PathBuf)> {
    if path.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    mounts
        .iter()
        .filter(|mount| !mount.source.is_empty())
        .filter_map(|mount| Some((mount, path.strip_prefix(&mount.target).ok()?.to_owned())))
        .max_by_key(|(mount, _)| mount.target.len())
}

fn open(files: Files, path: &Path, access: Access) -> Result<(Root, PathBuf)> {
    match files {
        Files::Process(pid) => Ok((rootfs::of_process(pid)?, path.to_owned())),
        Files::Snapshot(mounts) => Ok((rootfs::open(&mounts, access)?, path.to_owned())),
        Files::Mounted(source, below) => {
            let failed = |error: crated_sys::SysError| Error::os(format!("open {}", source.display()), error.into());
            if source.is_dir() {
                return Ok((Root::at(&source).map_err(failed)?, below));
            }
            let parent = source.parent().unwrap_or(Path::new("/"));
            let name = source.file_name().map(PathBuf::from).unwrap_or_default();
            Ok((Root::at(parent).map_err(failed)?, name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_holds_a_path() {
        let mount = |source: &str, target: &str| MountRecord {
            source: source.into(),
            target: target.into(),
            ..MountRecord::default()
        };
        let mounts = [mount("/v/a", "/data"), mount("/v/b", "/data/deep"), mount("", "/tmp")];
        let at = |path: &str| mounted(&mounts, Path::new(path)).map(|(mount, below)| (mount.source.clone(), below));
        assert_eq!(at("/data/x/y"), Some(("/v/a".into(), "x/y".into())));
        assert_eq!(at("/data/deep"), Some(("/v/b".into(), "".into())));
        assert!(at("/database").is_none() && at("/tmp/x").is_none() && at("/data/../etc").is_none());
    }

    #[test]
    fn paths_are_below_the_root() {
        assert_eq!(inside("etc/hosts").unwrap(), Path::new("/etc/hosts"));
        assert!(inside("").is_err() && inside("a\0b").is_err());
    }
}
