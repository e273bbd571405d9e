//! Applying a layer: each entry becomes what it says, in as few system calls as it needs.

use super::limits::{PATH_MAX, malformed};
use super::read::{Entry, EntryKind, Tar, Time};
use super::tree::{self, Folder, Tree, c_name, clean, os, split};
use super::{Applied, ApplyOptions, ApplyTarget, pipe};
use crated_types::{Error, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io::{BufRead, Read};
use std::os::fd::OwnedFd;
use std::rc::Rc;

const WHITEOUT: &[u8] = b".wh.";
/// Names of aufs itself begin so; only [`OPAQUE_MARK`] means anything here.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";

pub(super) fn run(reader: impl Read + Send, target: &ApplyTarget, options: &ApplyOptions) -> Result<Applied> {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut applier = Applier { tree: Tree::open(target)?, own, default_acl: false };
    let (entries, diff_id, size) = pipe::with_stream(reader, options.limits.bytes, |stream| {
        let mut tar = Tar::new(stream, options.limits);
        while let Some(entry) = tar.next()? {
            applier.one(&entry, &mut tar)?;
        }
        applier.tree.finish()?;
        Ok(tar.entries())
    })?;
    if options.sync {
        applier.tree.sync()?;
    }
    Ok(Applied { diff_id, size, entries })
}

struct Applier {
    tree: Tree,
    /// User and group that the kernel gives what we make.
    own: (u32, u32),
    /// A folder of this layer has a default ACL: the kernel then makes other modes than it was asked for.
    default_acl: bool,
}

impl Applier {
    fn one(&mut self, entry: &Entry, tar: &mut Tar<impl BufRead>) -> Result<()> {
        let path = clean(&entry.name)?;
        if path.is_empty() {
            if entry.kind != EntryKind::Folder {
                return Err(malformed(&entry.name, "the root is no folder"));
            }
            let root = Rc::clone(&self.tree.root);
            return self.set_folder(&root, c".", entry, Vec::new());
        }
        let (up, name) = split(&path);
        if name == OPAQUE_MARK {
            let folder = self.tree.folder(up)?;
            return self.tree.make_opaque(&folder);
        }
        if path.split(|byte| *byte == b'/').any(|part| part.starts_with(AUFS)) {
            return Ok(());
        }
        if up.split(|byte| *byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return Err(malformed(&entry.name, "a whiteout is no folder"));
        }
        let folder = self.tree.folder(up)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if entry.kind == EntryKind::HardLink || matches!(hidden, b"" | b"." | b"..") {
                return Err(malformed(&entry.name, "a whiteout of nothing"));
            }
            return self.tree.white_out(&folder, hidden);
        }
        let c_name = c_name(name)?;
        match entry.kind {
            EntryKind::File => self.file(&folder, &c_name, entry, tar)?,
            EntryKind::Folder => self.folder(&folder, &c_name, entry, &path)?,
            EntryKind::HardLink => self.hard_link(&folder, &c_name, entry)?,
            EntryKind::Symlink => self.symlink(&folder, &c_name, entry)?,
            EntryKind::Character | EntryKind::Block | EntryKind::Fifo => self.node(&folder, &c_name, entry)?,
        }
        self.tree.mark(&folder.join(name));
        Ok(())
    }

    /// Runs `act`, which makes `name`; what is in its way is removed, then it runs again.
    fn make<T>(&mut self, folder: &Folder, name: &CStr, act: impl Fn() -> rustix::io::Result<T>) -> Result<T> {
        let failed = |errno| os("make", &folder.join(name.to_bytes()), errno);
        match act() {
            Err(Errno::EXIST) => {
                self.tree.clear(folder, name)?;
                act().map_err(failed)
            }
            answer => answer.map_err(failed),
        }
    }

    fn file(&mut self, folder: &Folder, name: &CStr, entry: &Entry, tar: &mut Tar<impl BufRead>) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let file = self.make(folder, name, || rustix::fs::openat(&folder.fd, name, flags, mode))?;
        let failed = |call, errno| os(call, &entry.name, errno);
        match &entry.segments {
            None => tar.data(&entry.name, entry.size, |bytes| write(&file, bytes, &entry.name))?,
            Some(segments) => {
                rustix::fs::ftruncate(&file, entry.size).map_err(|errno| failed("truncate", errno))?;
                for (offset, length) in segments.iter().filter(|(_, length)| *length > 0) {
                    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(*offset))
                        .map_err(|errno| failed("seek", errno))?;
                    tar.data(&entry.name, *length, |bytes| write(&file, bytes, &entry.name))?;
                }
            }
        }
        let owned = self.needs_owner(folder, entry);
        if owned {
            rustix::fs::fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
                .map_err(|errno| failed("change owner of", errno))?;
        }
        if self.needs_mode(entry) {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
                .map_err(|errno| failed("change mode of", errno))?;
        }
        if !entry.xattrs.is_empty() {
            self.xattrs(entry, |key, value| rustix::fs::fsetxattr(&file, key, value, XattrFlags::empty()))?;
        }
        rustix::fs::futimens(&file, &times(entry)).map_err(|errno| failed("set times of", errno))
    }

    fn folder(&mut self, parent: &Folder, name: &CStr, entry: &Entry, asked: &[u8]) -> Result<()> {
        let path = parent.join(name.to_bytes());
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let make = || rustix::fs::mkdirat(&parent.fd, name, mode);
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| os("stat", &path, errno))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    self.tree.close(asked);
                    drop_xattrs(parent, name, entry)?;
                } else {
                    self.tree.clear(parent, name)?;
                    make().map_err(|errno| os("make folder", &path, errno))?;
                    if self.tree.is_overlay() {
                        // What was replaced hid the folder below: so must this one.
                        let path = crated_sys::tree::proc_path(&parent.fd, name);
                        rustix::fs::lsetxattr(path, tree::OPAQUE, b"y", XattrFlags::empty())
                            .map_err(|errno| os("make opaque", &entry.name, errno))?;
                    }
                }
                return self.set_folder(parent, name, entry, path);
            }
            Err(errno) => return Err(os("make folder", &path, errno)),
        }
        if self.needs_owner(parent, entry) || self.needs_mode(entry) || parent.setgid || !entry.xattrs.is_empty() {
            return self.set_folder(parent, name, entry, path);
        }
        self.tree.set_times_later(path, times(entry));
        Ok(())
    }

    /// Owner, mode and attributes of a folder that is there; `name` is `.` for the root.
    fn set_folder(&mut self, parent: &Folder, name: &CStr, entry: &Entry, path: Vec<u8>) -> Result<()> {
        rustix::fs::chownat(
            &parent.fd,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| os("change owner of", &path, errno))?;
        rustix::fs::chmodat(&parent.fd, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(|errno| os("change mode of", &path, errno))?;
        self.xattrs_by_name(parent, name, entry)?;
        self.tree.set_times_later(path, times(entry));
        Ok(())
    }

    fn hard_link(&mut self, folder: &Folder, name: &CStr, entry: &Entry) -> Result<()> {
        let path = clean(&entry.link)?;
        let (up, target) = split(&path);
        if path.split(|byte| *byte == b'/').any(|part| part.starts_with(WHITEOUT)) || target.is_empty() {
            return Err(malformed(&entry.name, "a hard link to a whiteout or to the root"));
        }
        let from = self.tree.folder(up)?;
        let c_target = c_name(target)?;
        if from.join(target) == folder.join(name.to_bytes()) {
            return Err(malformed(&entry.name, "a hard link to itself"));
        }
        let nothing =
            || malformed(&entry.name, format_args!("a hard link to {:?}, which is not there", lossy(&entry.link)));
        if self.tree.is_overlay() {
            match rustix::fs::statat(&from.fd, &c_target, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if tree::is_whiteout(&stat) => return Err(nothing()),
                Ok(_) => {}
                Err(Errno::NOENT) => match self.tree.below(&from.join(target))? {
                    Some(below) if below.kind() != FileType::Directory => {
                        self.tree.copy_up_file(&from, &c_target, &below)?;
                    }
                    _ => return Err(nothing()),
                },
                Err(errno) => return Err(os("stat", &entry.link, errno)),
            }
        }
        let link = || rustix::fs::linkat(&from.fd, &c_target, &folder.fd, name, AtFlags::empty());
        let answer = match link() {
            Err(Errno::EXIST) => {
                self.tree.clear(folder, name)?;
                link()
            }
            answer => answer,
        };
        match answer {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(nothing()),
            Err(Errno::PERM) => Err(malformed(&entry.name, "a hard link to a folder")),
            Err(errno) => Err(os("link", &entry.name, errno)),
        }
    }

    fn symlink(&mut self, folder: &Folder, name: &CStr, entry: &Entry) -> Result<()> {
        if entry.link.is_empty() || entry.link.len() > PATH_MAX {
            return Err(malformed(&entry.name, "a symbolic link to nothing, or to a path that is too long"));
        }
        let target = CString::new(entry.link.as_slice()).map_err(|_| malformed(&entry.name, "a NUL in a name"))?;
        self.make(folder, name, || rustix::fs::symlinkat(&target, &folder.fd, name))?;
        if self.needs_owner(folder, entry) {
            self.owner_by_name(folder, name, entry)?;
        }
        self.xattrs_by_name(folder, name, entry)?;
        self.times_by_name(folder, name, entry)
    }

    fn node(&mut self, folder: &Folder, name: &CStr, entry: &Entry) -> Result<()> {
        let (major, minor) = entry.device;
        let kind = match entry.kind {
            EntryKind::Character if (major, minor) == (0, 0) => {
                return Err(malformed(&entry.name, "the device 0/0 is overlayfs's whiteout"));
            }
            EntryKind::Character => FileType::CharacterDevice,
            EntryKind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = if kind == FileType::Fifo { 0 } else { rustix::fs::makedev(major, minor) };
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.make(folder, name, || rustix::fs::mknodat(&folder.fd, name, kind, mode, device))?;
        if self.needs_owner(folder, entry) {
            self.owner_by_name(folder, name, entry)?;
        }
        if self.needs_mode(entry) {
            rustix::fs::chmodat(&folder.fd, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(|errno| os("change mode of", &entry.name, errno))?;
        }
        self.xattrs_by_name(folder, name, entry)?;
        self.times_by_name(folder, name, entry)
    }

    fn owner_by_name(&self, folder: &Folder, name: &CStr, entry: &Entry) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(&folder.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| os("change owner of", &entry.name, errno))
    }

    fn times_by_name(&self, folder: &Folder, name: &CStr, entry: &Entry) -> Result<()> {
        rustix::fs::utimensat(&folder.fd, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| os("set times of", &entry.name, errno))
    }

    /// Whether the owner that the kernel gives may differ from the entry's.
    fn needs_owner(&self, folder: &Folder, entry: &Entry) -> bool {
        (entry.uid, entry.gid) != self.own || folder.setgid
    }

    /// Whether the mode that the entry was made with may differ from the one it is to have.
    fn needs_mode(&self, entry: &Entry) -> bool {
        self.default_acl || entry.mode & (0o7000 | self.tree.umask) != 0
    }

    fn xattrs_by_name(&mut self, folder: &Folder, name: &CStr, entry: &Entry) -> Result<()> {
        if entry.xattrs.is_empty() {
            return Ok(());
        }
        let path = crated_sys::tree::proc_path(&folder.fd, name);
        self.xattrs(entry, |key, value| rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty()))
    }

    fn xattrs(&mut self, entry: &Entry, set: impl Fn(&CStr, &[u8]) -> rustix::io::Result<()>) -> Result<()> {
        for (key, value) in &entry.xattrs {
            if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
                return Err(malformed(&entry.name, format_args!("the attribute {} is overlayfs's own", lossy(key))));
            }
            self.default_acl |= key == b"system.posix_acl_default";
            match set(&c_name(key)?, value) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {} // the file system has none of this kind
                Err(Errno::PERM) if key.starts_with(b"user.") => {} // links and devices cannot have them (xattr(7))
                Err(Errno::RANGE | Errno::INVAL | Errno::TOOBIG) => {
                    return Err(malformed(&entry.name, format_args!("the attribute {} is malformed", lossy(key))));
                }
                Err(errno) => return Err(os(&format!("set {} of", lossy(key)), &entry.name, errno)),
            }
        }
        Ok(())
    }
}

fn write(file: &OwnedFd, mut bytes: &[u8], name: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(os("write", name, errno)),
        }
    }
    Ok(())
}

/// Takes from a folder that was there the attributes that its entry does not have.
fn drop_xattrs(parent: &Folder, name: &CStr, entry: &Entry) -> Result<()> {
    let failed = |error| Error::os(format!("read attributes of {:?}", lossy(&entry.name)), error);
    for (key, _) in crated_sys::tree::xattrs(&parent.fd, name).map_err(failed)? {
        let bytes = key.to_bytes();
        let host = bytes.starts_with(b"trusted.overlay.") || bytes == b"security.selinux";
        if host || entry.xattrs.iter().any(|(kept, _)| kept == bytes) {
            continue;
        }
        rustix::fs::lremovexattr(crated_sys::tree::proc_path(&parent.fd, name), &key)
            .map_err(|errno| os("remove an attribute of", &entry.name, errno))?;
    }
    Ok(())
}

/// The entry's times; one that has no time of access gets that of its modification.
fn times(entry: &Entry) -> Timestamps {
    let time = |(seconds, nanos): Time| Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps {
        last_access: time(entry.atime.unwrap_or(entry.mtime).max(entry.mtime)),
        last_modification: time(entry.mtime),
    }
}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
