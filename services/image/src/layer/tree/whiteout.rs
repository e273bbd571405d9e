//! Whiteouts and opaque folders (OCI image-spec, layer.md §Whiteouts): they hide what is below the layer, never what the
//! layer itself has made.

use super::{Folder, OPAQUE, Tree, c_name, is_whiteout, open_folder, os};
use crated_types::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};
use rustix::io::Errno;
use std::ffi::CStr;

impl Tree {
    /// Hides `name` in `folder`.
    pub(in super::super) fn white_out(&mut self, folder: &Folder, name: &[u8]) -> Result<()> {
        let path = folder.join(name);
        let name = c_name(name)?;
        if self.is_made(&path) {
            return match open_folder(folder, &name) {
                Ok(fd) => self.make_opaque(&Folder::new(fd, path)?),
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(()), // what is no folder hides by itself
                Err(errno) => Err(os("open", &path, errno)),
            };
        }
        self.clear(folder, &name)?;
        if self.is_overlay() { self.set_whiteout(folder, &name) } else { Ok(()) }
    }

    /// Hides everything in `folder` that is from below.
    pub(in super::super) fn make_opaque(&mut self, folder: &Folder) -> Result<()> {
        self.drop_children(folder)?;
        if !self.is_overlay() {
            return Ok(());
        }
        if !folder.path.is_empty() {
            return self.set_opaque(folder);
        }
        // The root of an overlay is always merged: each name below gets its own whiteout.
        for name in self.lower_root_names()? {
            if !self.is_made(name.to_bytes()) {
                self.set_whiteout(folder, &name)?;
            } else if let Ok(fd) = open_folder(folder, &name) {
                self.set_opaque(&Folder::new(fd, name.to_bytes().to_vec())?)?;
            }
        }
        Ok(())
    }

    /// Removes what this layer did not make, in `folder` and in those of its folders that it made.
    fn drop_children(&mut self, folder: &Folder) -> Result<()> {
        let names = crated_sys::tree::names(&folder.fd)
            .map_err(|error| Error::os(format!("read {:?}", String::from_utf8_lossy(&folder.path)), error))?;
        for name in names {
            let path = folder.join(name.to_bytes());
            if !self.is_made(&path) {
                self.clear(folder, &name)?;
                continue;
            }
            match open_folder(folder, &name) {
                Ok(fd) => self.drop_children(&Folder::new(fd, path)?)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(os("open", &path, errno)),
            }
        }
        Ok(())
    }

    pub(in super::super) fn set_opaque(&self, folder: &Folder) -> Result<()> {
        rustix::fs::fsetxattr(&folder.fd, OPAQUE, b"y", XattrFlags::empty())
            .map_err(|errno| os("make opaque", &folder.path, errno))
    }

    fn set_whiteout(&self, folder: &Folder, name: &CStr) -> Result<()> {
        match rustix::fs::mknodat(&folder.fd, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(os("make whiteout", &folder.join(name.to_bytes()), errno)),
        }
    }

    /// Whether overlayfs takes what is there for a whiteout.
    pub(in super::super) fn is_whiteout(&self, folder: &Folder, name: &CStr) -> Result<bool> {
        match rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(is_whiteout(&stat)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(os("stat", &folder.join(name.to_bytes()), errno)),
        }
    }
}
