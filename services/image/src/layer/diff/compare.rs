//! Whether a file is still the one below.

use super::super::write::Head;
use crated_sys::tree;
use rustix::fs::{AtFlags, FileType};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

/// Extended attributes, sorted.
pub(super) type Xattrs = Vec<(CString, Vec<u8>)>;

/// What `stat` says of a file, as far as a layer knows it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) kind: FileType,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: (i64, u64),
    pub(super) ctime: (i64, u64),
    pub(super) links: u64,
    /// Device and inode.
    pub(super) id: (u64, u64),
    pub(super) rdev: u64,
}

impl Item {
    pub(super) fn at(folder: &OwnedFd, name: &CStr) -> io::Result<Self> {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u64),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u64),
            links: stat.st_nlink as u64,
            id: (stat.st_dev, stat.st_ino),
            rdev: stat.st_rdev,
        })
    }

    pub(super) fn is_whiteout(&self) -> bool {
        self.kind == FileType::CharacterDevice && self.rdev == 0
    }

    /// A header without data.
    pub(super) fn head<'a>(&self, name: &'a [u8], flag: u8, mtime: i64, xattrs: &'a Xattrs) -> Head<'a> {
        let device = match self.kind {
            FileType::CharacterDevice | FileType::BlockDevice => {
                (rustix::fs::major(self.rdev), rustix::fs::minor(self.rdev))
            }
            _ => (0, 0),
        };
        Head { name, flag, mode: self.mode, uid: self.uid, gid: self.gid, size: 0, mtime, link: b"", device, xattrs }
    }
}

/// The attributes that belong into a layer: not those of overlayfs nor those that the host's security modules put.
pub(super) fn visible_xattrs(folder: &OwnedFd, name: &CStr) -> io::Result<Xattrs> {
    let mut xattrs = tree::xattrs(folder, name)?;
    xattrs.retain(|(key, _)| {
        let key = key.to_bytes();
        !key.starts_with(b"trusted.overlay.")
            && !key.starts_with(b"user.overlay.")
            && !matches!(key, b"security.selinux" | b"security.ima" | b"security.evm" | b"security.apparmor")
    });
    Ok(xattrs)
}

/// Whether nothing changed that a layer can say. Bytes are only compared where the times come from a tar and cannot tell.
pub(super) fn same(
    lower: (&OwnedFd, &Item),
    upper: (&OwnedFd, &Item),
    xattrs: &Xattrs,
    name: &CStr,
) -> io::Result<bool> {
    let ((below, old), (above, new)) = (lower, upper);
    if old.id == new.id {
        return Ok(true);
    }
    let attributes = |item: &Item| (item.mode, item.uid, item.gid, item.mtime, item.rdev);
    if old.kind != new.kind || attributes(old) != attributes(new) {
        return Ok(false);
    }
    if new.kind != FileType::Directory && (old.size, old.links) != (new.size, new.links) {
        return Ok(false);
    }
    // A snapshot of the file system, or the same file through two overlays: nobody can set the time of change back.
    if old.id.1 == new.id.1 && old.ctime == new.ctime {
        return Ok(true);
    }
    if visible_xattrs(below, name)? != *xattrs {
        return Ok(false);
    }
    match new.kind {
        FileType::Symlink => {
            Ok(rustix::fs::readlinkat(below, name, Vec::new())? == rustix::fs::readlinkat(above, name, Vec::new())?)
        }
        FileType::RegularFile if new.size > 0 && new.mtime.1 == 0 => same_bytes(below, above, name),
        _ => Ok(true),
    }
}

fn same_bytes(below: &OwnedFd, above: &OwnedFd, name: &CStr) -> io::Result<bool> {
    use std::io::Read;
    let mut files =
        [std::fs::File::from(tree::open_file(below, name)?), std::fs::File::from(tree::open_file(above, name)?)];
    let mut buffers = [vec![0; 128 << 10], vec![0; 128 << 10]];
    loop {
        let mut filled = [0; 2];
        for side in 0..2 {
            while filled[side] < buffers[side].len() {
                match files[side].read(&mut buffers[side][filled[side]..])? {
                    0 => break,
                    read => filled[side] += read,
                }
            }
        }
        if buffers[0][..filled[0]] != buffers[1][..filled[1]] {
            return Ok(false);
        }
        if filled[0] == 0 {
            return Ok(true);
        }
    }
}
