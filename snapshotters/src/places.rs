//! The three folders that every backend keeps, and moving snapshots between them.

use crate::{SnapshotId, Usage};
use crated_types::{Error, Kind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// `<root>/{snapshots,new,trash}`.
#[derive(Debug)]
pub(crate) struct Places {
    root: PathBuf,
    next: AtomicU64,
}

impl Places {
    /// Makes the folders (0700) and puts what a crash left half-made into the trash.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let root =
            std::path::absolute(root).map_err(|error| Error::os(format!("resolve {}", root.display()), error))?;
        for name in ["", "snapshots", "new", "trash"] {
            make_folder(&root.join(name))?;
        }
        let places = Self { root, next: AtomicU64::new(0) };
        for name in names(&places.root.join("new"))? {
            places.discard(&places.root.join("new").join(name))?;
        }
        Ok(places)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a snapshot is, whether or not it is there.
    pub(crate) fn path(&self, id: SnapshotId) -> PathBuf {
        self.root.join("snapshots").join(id.0.to_string())
    }

    /// Where it is; `NotFound` where it is not.
    pub(crate) fn existing(&self, id: SnapshotId) -> Result<PathBuf> {
        let path = self.path(id);
        match rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(path),
            Err(rustix::io::Errno::NOENT) => Err(Error::not_found(Kind::Snapshot, id)),
            Err(errno) => Err(Error::os(format!("stat {}", path.display()), errno.into())),
        }
    }

    /// A path in `new/` that nothing has yet.
    pub(crate) fn fresh(&self, id: SnapshotId) -> PathBuf {
        self.root.join("new").join(self.unique(&id.0.to_string()))
    }

    /// Moves what was made in `new/` to its place.
    pub(crate) fn publish(&self, made: &Path, id: SnapshotId) -> Result<()> {
        let path = self.path(id);
        rustix::fs::renameat_with(CWD, made, CWD, &path, RenameFlags::NOREPLACE).map_err(|errno| match errno {
            rustix::io::Errno::EXIST => Error::already_exists(Kind::Snapshot, id),
            errno => Error::os(format!("rename {} to {}", made.display(), path.display()), errno.into()),
        })
    }

    /// Builds a snapshot in `new/` with `make` and publishes it; a failure leaves nothing but trash.
    pub(crate) fn build(&self, id: SnapshotId, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if self.path(id).exists() {
            return Err(Error::already_exists(Kind::Snapshot, id));
        }
        let fresh = self.fresh(id);
        make(&fresh).and_then(|()| self.publish(&fresh, id)).inspect_err(|_| {
            if let Err(error) = self.discard(&fresh) {
                tracing::warn!(%id, %error, "half-made snapshot stays until the next start");
            }
        })
    }

    /// Moves a folder into the trash; one that is not there is no error.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        loop {
            let target = self.root.join("trash").join(self.unique(&name));
            match rustix::fs::renameat_with(CWD, path, CWD, &target, RenameFlags::NOREPLACE) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
                Err(rustix::io::Errno::EXIST) => {} // left by an earlier process of the same number
                Err(errno) => {
                    return Err(Error::os(format!("rename {} to {}", path.display(), target.display()), errno.into()));
                }
            }
        }
    }

    /// Runs `free` on each thing in the trash; answers the first error after all were tried.
    pub(crate) fn empty_trash(&self, free: impl Fn(&OwnedFd, &str) -> io::Result<()>) -> Result<()> {
        let trash = self.root.join("trash");
        let folder = open_folder(&trash)?;
        let mut first = None;
        for name in names(&trash)? {
            match free(&folder, &name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    first.get_or_insert(Error::os(format!("remove {}", trash.join(&name).display()), error));
                }
                _ => {}
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// The ids in `snapshots/`, ascending.
    pub(crate) fn ids(&self) -> Result<Vec<SnapshotId>> {
        let mut ids: Vec<_> =
            names(&self.root.join("snapshots"))?.iter().filter_map(|name| name.parse().ok().map(SnapshotId)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Everything of this file system, and the names in `snapshots/`, on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let folder = open_folder(&self.root.join("snapshots"))?;
        rustix::fs::syncfs(&folder).map_err(|errno| Error::os(format!("syncfs {}", self.root.display()), errno.into()))
    }

    fn unique(&self, name: &str) -> String {
        format!("{name}-{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Makes a folder of mode 0700 with its parents; one that is there stays as it is.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::os(format!("make folder {}", path.display()), error))
}

/// Opens a folder for reading, refusing a symbolic link.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| Error::os(format!("open {}", path.display()), errno.into()))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let fail = |error| Error::os(format!("read {}", folder.display()), error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Bytes allocated and inodes below `path` (itself included), hard links counted once, other file systems left out.
pub(crate) fn disk_usage(path: &Path) -> Result<Usage> {
    let fail = |error: io::Error| Error::os(format!("count {}", path.display()), error);
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    crated_sys::tree::walk(&open_folder(path)?, &mut |stat| {
        if stat.st_nlink > 1 && stat.st_mode & 0o170_000 != 0o040_000 && !seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        usage.inodes += 1;
    })
    .map_err(fail)?;
    Ok(usage)
}
