//! Backend `btrfs`: a snapshot is a subvolume, made in constant time from its parent's; a committed one is read-only.
//!
//! A view takes no subvolume: its folder is empty and its mount shows the parent. What a snapshot uses is what it holds
//! over its parent, whose number stands in `<root>/parents/<n>`.

use crate::overlay::bind;
use crate::places::{Places, disk_usage, make_folder, open_folder};
use crate::{Access, Backend, SnapshotId, Usage};
use crated_sys::btrfs;
use crated_types::{Error, Fault, Kind, Mount, Result};
use rustix::fs::{AtFlags, CWD, Mode};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The btrfs backend.
#[derive(Debug)]
pub struct Btrfs {
    places: Places,
}

impl Btrfs {
    /// Opens (or makes) the backend at `root`, which must lie on btrfs.
    ///
    /// # Errors
    /// `Unsupported` with the reason where it does not.
    pub fn open(root: &Path) -> Result<Self> {
        make_folder(root)?;
        let fits = btrfs::is_btrfs(open_folder(root)?.as_fd())
            .map_err(|error| Error::os(format!("look at {}", root.display()), error.into()))?;
        if !fits {
            return Err(Error::new(Fault::Unsupported, format!("{} is not on btrfs", root.display()))
                .on(Kind::Snapshotter, "btrfs")
                .remedy_is("put the root on btrfs, or use the overlayfs snapshotter"));
        }
        let places = Places::open(root)?;
        make_folder(&places.root().join("parents"))?;
        Ok(Self { places })
    }

    fn parent_mark(&self, id: SnapshotId) -> PathBuf {
        self.places.root().join("parents").join(id.to_string())
    }

    /// Remembers the parent, for [`Backend::usage`] alone.
    fn remember(&self, id: SnapshotId, parent: Option<&SnapshotId>) -> Result<()> {
        let mark = self.parent_mark(id);
        let failed = |error| Error::os(format!("write {}", mark.display()), error);
        match std::fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        parent.map_or(Ok(()), |parent| std::os::unix::fs::symlink(parent.to_string(), &mark).map_err(failed))
    }

    fn parent_of(&self, id: SnapshotId) -> Option<SnapshotId> {
        std::fs::read_link(self.parent_mark(id)).ok()?.to_str()?.parse().ok().map(SnapshotId)
    }

    fn is_subvolume(folder: &OwnedFd, path: &Path) -> Result<bool> {
        btrfs::is_subvolume(folder.as_fd())
            .map_err(|error| Error::os(format!("look at {}", path.display()), error.into()))
    }
}

impl Backend for Btrfs {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn root(&self) -> &Path {
        self.places.root()
    }

    fn create(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        let parent = parents.first().map(|parent| self.places.existing(*parent)).transpose()?;
        self.remember(id, parents.first())?;
        self.places.build(id, |folder| {
            let (new, name) = new_place(folder)?;
            let failed =
                |error: crated_sys::SysError| Error::os(format!("make subvolume {}", folder.display()), error.into());
            match &parent {
                Some(parent) => {
                    btrfs::snap_create(new.as_fd(), name, open_folder(parent)?.as_fd(), false).map_err(failed)
                }
                None => {
                    btrfs::subvol_create(new.as_fd(), name).map_err(failed)?;
                    rustix::fs::chmodat(CWD, folder, Mode::from_raw_mode(0o755), AtFlags::empty())
                        .map_err(|errno| Error::os(format!("change mode of {}", folder.display()), errno.into()))
                }
            }
        })
    }

    fn view(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        if let Some(parent) = parents.first() {
            self.places.existing(*parent)?;
        }
        self.remember(id, None)?;
        self.places.build(id, make_folder)
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
        let path = self.places.existing(id)?;
        let folder = open_folder(&path)?;
        if Self::is_subvolume(&folder, &path)? {
            btrfs::set_read_only(folder.as_fd(), true)
                .map_err(|error| Error::os(format!("freeze {}", path.display()), error.into()))?;
        }
        let usage = self.usage(id)?;
        self.places.sync()?;
        Ok(usage)
    }

    fn remove(&self, id: SnapshotId) -> Result<()> {
        let path = self.places.path(id);
        match open_folder(&path) {
            Ok(folder) if Self::is_subvolume(&folder, &path)? => {
                // A read-only subvolume cannot be moved to another folder.
                btrfs::set_read_only(folder.as_fd(), false)
                    .map_err(|error| Error::os(format!("thaw {}", path.display()), error.into()))?;
            }
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        self.places.discard(&path)?;
        self.remember(id, None)
    }

    fn usage(&self, id: SnapshotId) -> Result<Usage> {
        let own = disk_usage(&self.places.existing(id)?)?;
        let Some(parent) = self.parent_of(id).and_then(|parent| self.places.existing(parent).ok()) else {
            return Ok(own);
        };
        let below = disk_usage(&parent)?;
        Ok(Usage { bytes: own.bytes.saturating_sub(below.bytes), inodes: own.inodes.saturating_sub(below.inodes) })
    }

    fn ids(&self) -> Result<Vec<SnapshotId>> {
        self.places.ids()
    }

    fn cleanup(&self) -> Result<()> {
        self.places.empty_trash(|folder, name| destroy(folder, name.as_ref()))
    }

    fn capabilities(&self) -> &[&'static str] {
        &[]
    }
}

/// The open folder that `path` is to be made in, and its name there.
fn new_place(path: &Path) -> Result<(OwnedFd, &OsStr)> {
    let missing = || Error::internal(format!("{} has no name", path.display()));
    let folder = path.parent().ok_or_else(missing)?;
    Ok((open_folder(folder)?, path.file_name().ok_or_else(missing)?))
}

/// Removes a subvolume with those that a container made inside it, or a plain folder.
fn destroy(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let c_name = std::ffi::CString::new(name.as_bytes())?;
    let folder = crated_sys::tree::open_folder(parent, &c_name)?;
    if !btrfs::is_subvolume(folder.as_fd())? {
        return crated_sys::tree::remove(parent, name);
    }
    match btrfs::subvol_destroy(parent.as_fd(), name) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            btrfs::set_read_only(folder.as_fd(), false)?;
            destroy_nested(&folder)?;
            Ok(btrfs::subvol_destroy(parent.as_fd(), name)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn destroy_nested(folder: &OwnedFd) -> io::Result<()> {
    for name in crated_sys::tree::names(folder)? {
        let stat = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
            continue;
        }
        let below = crated_sys::tree::open_folder(folder, &name)?;
        if btrfs::is_subvolume(below.as_fd())? {
            destroy(folder, OsStr::from_bytes(name.to_bytes()))?;
        } else {
            destroy_nested(&below)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_system_is_refused_with_a_reason() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let error = Btrfs::open(root.path()).unwrap_err();
        assert_eq!(error.fault(), Fault::Unsupported);
        assert!(error.to_string().contains("not on btrfs"), "{error}");
    }
}
