//! The folders below an overlay's upper folder: what the merged tree shows where the upper one has nothing.

use super::{Folder, OPAQUE, Tree, c_name, is_whiteout, os};
use crated_types::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Something of a lower folder.
#[derive(Debug)]
pub(in super::super) struct Below {
    folder: OwnedFd,
    name: CString,
    stat: Stat,
}

impl Below {
    pub(in super::super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(super) fn read_link(&self) -> rustix::io::Result<CString> {
        rustix::fs::readlinkat(&self.folder, &self.name, Vec::new())
    }
}

impl Tree {
    /// What the lower folders show at `path` (a path without links), as overlayfs merges them.
    pub(in super::super) fn below(&self, path: &[u8]) -> Result<Option<Below>> {
        let Some(lower) = &self.lower else { return Ok(None) };
        let mut upper = dup(&self.root.fd).ok();
        let mut layers =
            lower.iter().map(dup).collect::<rustix::io::Result<Vec<_>>>().map_err(|e| os("dup", path, e))?;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            let name = c_name(part)?;
            let last = parts.peek().is_none();
            let mut next = Vec::new();
            for layer in layers {
                let stat = match rustix::fs::statat(&layer, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(os("stat", path, errno)),
                };
                if is_whiteout(&stat) {
                    break;
                }
                if last {
                    return Ok(Some(Below { folder: layer, name, stat }));
                }
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    break;
                }
                let folder = open(&layer, &name).map_err(|errno| os("open", path, errno))?;
                let opaque = is_opaque(&folder).map_err(|errno| os("read attributes of", path, errno))?;
                next.push(folder);
                if opaque {
                    break;
                }
            }
            upper = upper.and_then(|upper| open(&upper, &name).ok());
            if let Some(upper) = &upper
                && is_opaque(upper).map_err(|errno| os("read attributes of", path, errno))?
            {
                return Ok(None);
            }
            layers = next;
        }
        Ok(None)
    }

    /// Makes the folder `name` as it is below.
    pub(super) fn copy_up_folder(
        &mut self,
        parent: &Rc<Folder>,
        name: &CStr,
        path: Vec<u8>,
        below: &Below,
    ) -> Result<Rc<Folder>> {
        rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700))
            .map_err(|errno| os("make folder", &path, errno))?;
        copy_attributes(below, parent, name, &path)?;
        self.set_times_later(path.clone(), crated_sys::tree::times(&below.stat));
        self.reopen(parent, name, path)
    }

    /// Makes the file `name` as it is below, so that it can be linked to.
    pub(in super::super) fn copy_up_file(&mut self, parent: &Folder, name: &CStr, below: &Below) -> Result<()> {
        let path = parent.join(name.to_bytes());
        let failed = |error| Error::os(format!("copy up {:?}", String::from_utf8_lossy(&path)), error);
        match below.kind() {
            FileType::RegularFile => {
                crated_sys::tree::copy_file(&below.folder, &parent.fd, name, &below.stat).map_err(failed)?;
            }
            FileType::Symlink => {
                let target = below.read_link().map_err(|errno| os("read link", &path, errno))?;
                rustix::fs::symlinkat(target, &parent.fd, name).map_err(|errno| os("link", &path, errno))?;
            }
            kind => rustix::fs::mknodat(&parent.fd, name, kind, Mode::from_raw_mode(0o600), below.stat.st_rdev)
                .map_err(|errno| os("make", &path, errno))?,
        }
        copy_attributes(below, parent, name, &path)?;
        self.mark(&path);
        Ok(())
    }

    /// The names that the lower folders show in the root.
    pub(super) fn lower_root_names(&self) -> Result<Vec<CString>> {
        let mut names = Vec::new();
        for layer in self.lower.iter().flatten() {
            names.extend(crated_sys::tree::names(layer).map_err(|error| Error::os("read a lower folder", error))?);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}

fn copy_attributes(below: &Below, parent: &Folder, name: &CStr, path: &[u8]) -> Result<()> {
    crated_sys::tree::attributes((&below.folder, &below.name), &below.stat, (&parent.fd, name))
        .map_err(|error| Error::os(format!("copy attributes of {:?}", String::from_utf8_lossy(path)), error))
}

fn dup(fd: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
}

fn open(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn is_opaque(folder: &OwnedFd) -> rustix::io::Result<bool> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(folder, OPAQUE, value.as_mut_slice()) {
        Ok(1) => Ok(value == *b"y"),
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}
