//! Backend `native`: a snapshot is a full copy of its parent, for file systems that can do nothing better. Bytes are
//! shared where the file system has reflinks (xfs, btrfs), holes stay holes.
//!
//! A view copies nothing: it is the parent's folder, mounted read-only.

use crate::overlay::bind;
use crate::places::{Places, disk_usage, make_folder, open_folder};
use crate::{Access, Backend, SnapshotId, Usage};
use crated_types::{Error, Mount, Result};
use rustix::fs::{AtFlags, CWD, Mode};
use std::path::Path;

/// The copying backend.
#[derive(Debug)]
pub struct Native {
    places: Places,
}

impl Native {
    /// Opens (or makes) the backend at `root`.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { places: Places::open(root)? })
    }
}

impl Backend for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn root(&self) -> &Path {
        self.places.root()
    }

    fn create(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        let parent = parents.first().map(|parent| self.places.existing(*parent)).transpose()?;
        self.places.build(id, |folder| {
            empty(folder)?;
            let Some(parent) = &parent else { return Ok(()) };
            crated_sys::tree::copy(&open_folder(parent)?, &open_folder(folder)?)
                .map_err(|error| Error::os(format!("copy {} to {}", parent.display(), folder.display()), error))
        })
    }

    fn view(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        if let Some(parent) = parents.first() {
            self.places.existing(*parent)?;
        }
        self.places.build(id, empty)
    }

    fn mounts(&self, id: SnapshotId, parents: &[SnapshotId], access: Access) -> Result<Vec<Mount>> {
        let own = self.places.existing(id)?;
        let source = match (access, parents.first()) {
            (Access::ReadOnly, Some(parent)) => self.places.existing(*parent)?,
            _ => own,
        };
        Ok(vec![bind(&source, access)])
    }

    fn commit(&self, id: SnapshotId) -> Result<Usage> {
        let usage = self.usage(id)?;
        self.places.sync()?;
        Ok(usage)
    }

    fn remove(&self, id: SnapshotId) -> Result<()> {
        self.places.discard(&self.places.path(id))
    }

    /// Parents are no part of it, but a copy holds all their bytes.
    fn usage(&self, id: SnapshotId) -> Result<Usage> {
        disk_usage(&self.places.existing(id)?)
    }

    fn ids(&self) -> Result<Vec<SnapshotId>> {
        self.places.ids()
    }

    fn cleanup(&self) -> Result<()> {
        self.places.empty_trash(|folder, name| crated_sys::tree::remove(folder, name.as_ref()))
    }

    fn capabilities(&self) -> &[&'static str] {
        &[]
    }
}

/// Makes the root folder of a snapshot, which a container may enter: 0755.
fn empty(folder: &Path) -> Result<()> {
    make_folder(folder)?;
    rustix::fs::chmodat(CWD, folder, Mode::from_raw_mode(0o755), AtFlags::empty())
        .map_err(|errno| Error::os(format!("change mode of {}", folder.display()), errno.into()))
}
