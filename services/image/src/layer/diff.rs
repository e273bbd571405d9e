//! The difference of two trees, or what an overlay's upper folder holds, as a layer.
//!
//! Folders are walked side by side in the order of their names. A folder that did not change is written only before
//! something in it. Hard links stay links: where one name of a file is written, its unchanged names follow as links, so
//! that the layer holds the whole group.

mod compare;
mod sink;

use super::write::{Head, TarWriter};
use super::{DiffOptions, Written};
use compare::{Item, same, visible_xattrs};
use crated_sys::tree;
use crated_types::{Error, Fault, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use sink::Sink;
use std::collections::HashMap;
use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Compares two trees.
pub(super) fn trees(lower: Option<&Path>, upper: &Path, writer: impl Write, options: &DiffOptions) -> Result<Written> {
    let lower = lower.map(open_root).transpose()?;
    let upper = open_root(upper)?;
    Differ::run(writer, options, |differ| differ.beside(lower.as_ref(), &upper, &mut Vec::new()))
}

/// Reads an overlay's upper folder.
pub(super) fn upper(upper: &Path, writer: impl Write, options: &DiffOptions) -> Result<Written> {
    let root = open_root(upper)?;
    if may_redirect() {
        let mut strange = false;
        look_for_redirects(&root, &mut strange).map_err(|error| read_error(b"", error))?;
        if strange {
            return Err(Error::new(Fault::Unsupported, "the upper folder holds redirects or metadata-only copies"));
        }
    }
    Differ::run(writer, options, |differ| differ.upper(&root, &mut Vec::new()))
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::os(format!("open {}", path.display()), errno.into()))
}

/// Whether overlayfs of this kernel may write what only it can read.
fn may_redirect() -> bool {
    ["redirect_dir", "metacopy"].iter().any(|name| {
        let value = std::fs::read_to_string(format!("/sys/module/overlay/parameters/{name}"));
        value.map_or(true, |value| value.trim() != "N")
    })
}

fn look_for_redirects(folder: &OwnedFd, strange: &mut bool) -> io::Result<()> {
    for name in tree::names(folder)? {
        let item = Item::at(folder, &name)?;
        for key in [c"trusted.overlay.redirect", c"trusted.overlay.metacopy"] {
            *strange |= tree::xattr(folder, &name, key)?.is_some();
        }
        if item.kind == FileType::Directory {
            *strange |= tree::xattr(folder, &name, super::tree::OPAQUE)?.is_some_and(|value| value == b"x");
            look_for_redirects(&tree::open_folder(folder, &name)?, strange)?;
        }
        if *strange {
            return Ok(());
        }
    }
    Ok(())
}

/// A folder that is written as soon as something in it is.
struct Pending {
    path: Vec<u8>,
    item: Item,
    xattrs: compare::Xattrs,
}

/// Another name of a file, with what `stat` says of it.
type Sibling = (Vec<u8>, Item);

struct Differ<W: Write> {
    tar: TarWriter<Sink<W>>,
    epoch: Option<i64>,
    /// First written name of each file with several.
    written: HashMap<(u64, u64), Vec<u8>>,
    /// Unchanged names of files with several.
    unchanged: HashMap<(u64, u64), Vec<Sibling>>,
    pending: Vec<Pending>,
    buffer: Vec<u8>,
}

impl<W: Write> Differ<W> {
    fn run(writer: W, options: &DiffOptions, walk: impl FnOnce(&mut Self) -> Result<()>) -> Result<Written> {
        let sink = Sink::new(options.compression, writer).map_err(write_error)?;
        let mut differ = Self {
            tar: TarWriter::new(sink),
            epoch: options.source_date_epoch.map(seconds),
            written: HashMap::new(),
            unchanged: HashMap::new(),
            pending: Vec::new(),
            buffer: vec![0; 256 << 10],
        };
        walk(&mut differ)?;
        let entries = differ.tar.entries;
        differ.tar.finish().and_then(Sink::finish).map(|sums| sums.written(entries)).map_err(write_error)
    }

    /// Walks a folder beside the one below it.
    fn beside(&mut self, lower: Option<&OwnedFd>, upper: &OwnedFd, path: &mut Vec<u8>) -> Result<()> {
        let failed = |path: &[u8], error| read_error(path, error);
        let above = tree::names(upper).map_err(|error| failed(path, error))?;
        let below = lower.map(tree::names).transpose().map_err(|error| failed(path, error))?.unwrap_or_default();
        let (mut above, mut below) = (above.iter().peekable(), below.iter().peekable());
        let length = path.len();
        loop {
            let (name, in_upper, in_lower) = match (above.peek(), below.peek()) {
                (None, None) => return Ok(()),
                (Some(name), None) => (*name, true, false),
                (None, Some(name)) => (*name, false, true),
                (Some(one), Some(other)) if one == other => (*one, true, true),
                (Some(one), Some(other)) if one < other => (*one, true, false),
                (Some(_), Some(other)) => (*other, false, true),
            };
            if in_upper {
                above.next();
            }
            if in_lower {
                below.next();
            }
            push(path, name);
            if in_upper {
                let lower = lower.filter(|_| in_lower);
                self.changed(lower, upper, name, path)?;
            } else {
                self.white_out(path)?;
            }
            path.truncate(length);
        }
    }

    /// Writes `name` where it differs from the one below.
    fn changed(&mut self, lower: Option<&OwnedFd>, upper: &OwnedFd, name: &CStr, path: &mut Vec<u8>) -> Result<()> {
        let failed = |error| read_error(path, error);
        let item = Item::at(upper, name).map_err(failed)?;
        if skipped(&item, name) {
            return Ok(());
        }
        let old = lower.map(|lower| Item::at(lower, name)).transpose().map_err(failed)?;
        let xattrs = visible_xattrs(upper, name).map_err(failed)?;
        let unchanged = match (lower, &old) {
            (Some(lower), Some(old)) => same((lower, old), (upper, &item), &xattrs, name).map_err(failed)?,
            _ => false,
        };
        if item.kind == FileType::Directory {
            let below = match (lower, &old) {
                (Some(lower), Some(old)) if old.kind == FileType::Directory => {
                    Some(tree::open_folder(lower, name).map_err(failed)?)
                }
                _ => None,
            };
            let folder = tree::open_folder(upper, name).map_err(failed)?;
            self.pending.push(Pending { path: path.clone(), item, xattrs });
            let depth = self.pending.len();
            if !unchanged {
                self.flush()?;
            }
            self.beside(below.as_ref(), &folder, path)?;
            self.pending.truncate(depth - 1);
            return Ok(());
        }
        if !unchanged {
            return self.write(upper, name, &item, &xattrs, path);
        }
        if item.links > 1 {
            if self.written.contains_key(&item.id) {
                return self.write(upper, name, &item, &xattrs, path);
            }
            self.unchanged.entry(item.id).or_default().push((path.clone(), item));
        }
        Ok(())
    }

    /// Walks an upper folder alone.
    fn upper(&mut self, folder: &OwnedFd, path: &mut Vec<u8>) -> Result<()> {
        let length = path.len();
        for name in tree::names(folder).map_err(|error| read_error(path, error))? {
            push(path, &name);
            let failed = |error| read_error(path, error);
            let item = Item::at(folder, &name).map_err(failed)?;
            if item.is_whiteout() {
                self.white_out(path)?;
            } else if !skipped(&item, &name) {
                let xattrs = visible_xattrs(folder, &name).map_err(failed)?;
                if item.kind == FileType::Directory {
                    let opaque = tree::xattr(folder, &name, super::tree::OPAQUE).map_err(failed)?;
                    let below = tree::open_folder(folder, &name).map_err(failed)?;
                    self.folder(path, &item, &xattrs)?;
                    if opaque.is_some_and(|value| value == b"y") {
                        self.mark(&[path.as_slice(), b"/.wh..wh..opq"].concat())?;
                    }
                    self.upper(&below, path)?;
                } else {
                    self.write(folder, &name, &item, &xattrs, path)?;
                }
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn white_out(&mut self, path: &[u8]) -> Result<()> {
        let (up, name) = super::tree::split(path);
        let mut whiteout = up.to_vec();
        if !up.is_empty() {
            whiteout.push(b'/');
        }
        whiteout.extend_from_slice(b".wh.");
        whiteout.extend_from_slice(name);
        self.mark(&whiteout)
    }

    /// Writes an empty file: a whiteout or an opaque mark.
    fn mark(&mut self, name: &[u8]) -> Result<()> {
        self.flush()?;
        let mtime = self.epoch.unwrap_or(0);
        let head = Head {
            name,
            flag: b'0',
            mode: 0o600,
            uid: 0,
            gid: 0,
            size: 0,
            mtime,
            link: b"",
            device: (0, 0),
            xattrs: &[],
        };
        self.tar.head(&head).map_err(write_error)
    }

    /// Writes the folders that wait.
    fn flush(&mut self) -> Result<()> {
        for index in 0..self.pending.len() {
            let Pending { path, item, xattrs } = &mut self.pending[index];
            let path = std::mem::take(path); // empty: written
            if !path.is_empty() {
                let (item, xattrs) = (item.clone(), std::mem::take(xattrs));
                self.folder(&path, &item, &xattrs)?;
            }
        }
        Ok(())
    }

    fn folder(&mut self, path: &[u8], item: &Item, xattrs: &compare::Xattrs) -> Result<()> {
        let name = [path, b"/"].concat();
        let head = item.head(&name, b'5', self.clamp(item.mtime.0), xattrs);
        self.tar.head(&head).map_err(write_error)
    }

    /// Writes anything but a folder.
    fn write(
        &mut self,
        folder: &OwnedFd,
        name: &CStr,
        item: &Item,
        xattrs: &compare::Xattrs,
        path: &[u8],
    ) -> Result<()> {
        self.flush()?;
        if item.links > 1 {
            if let Some(first) = self.written.get(&item.id) {
                return self.link(path, &first.clone(), item);
            }
            self.written.insert(item.id, path.to_vec());
        }
        let mtime = self.clamp(item.mtime.0);
        let mut head = item.head(path, b'0', mtime, xattrs);
        let target;
        match item.kind {
            FileType::RegularFile => {
                head.size = item.size;
                self.tar.head(&head).map_err(write_error)?;
                self.contents(folder, name, item.size, path)?;
            }
            FileType::Symlink => {
                target =
                    rustix::fs::readlinkat(folder, name, Vec::new()).map_err(|errno| read_error(path, errno.into()))?;
                (head.flag, head.link) = (b'2', target.to_bytes());
                self.tar.head(&head).map_err(write_error)?;
            }
            kind => {
                head.flag = match kind {
                    FileType::CharacterDevice => b'3',
                    FileType::BlockDevice => b'4',
                    _ => b'6',
                };
                self.tar.head(&head).map_err(write_error)?;
            }
        }
        for (sibling, item) in self.unchanged.remove(&item.id).unwrap_or_default() {
            self.link(&sibling, path, &item)?;
        }
        Ok(())
    }

    fn link(&mut self, path: &[u8], first: &[u8], item: &Item) -> Result<()> {
        let mtime = self.clamp(item.mtime.0);
        let empty = compare::Xattrs::new();
        let mut head = item.head(path, b'1', mtime, &empty);
        (head.link, head.device) = (first, (0, 0));
        self.tar.head(&head).map_err(write_error)
    }

    /// Writes exactly `size` bytes of the file: cut, or filled with zeros, where it changes meanwhile.
    fn contents(&mut self, folder: &OwnedFd, name: &CStr, size: u64, path: &[u8]) -> Result<()> {
        let file =
            if size > 0 { Some(tree::open_file(folder, name).map_err(|error| read_error(path, error))?) } else { None };
        let mut left = size;
        while let (Some(file), true) = (&file, left > 0) {
            let wanted = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = rustix::io::retry_on_intr(|| rustix::io::read(file, &mut self.buffer[..wanted]))
                .map_err(|errno| read_error(path, errno.into()))?;
            let read = if read == 0 {
                self.buffer[..wanted].fill(0);
                wanted
            } else {
                read
            };
            self.tar.data(&self.buffer[..read]).map_err(write_error)?;
            left -= read as u64;
        }
        self.tar.pad(size).map_err(write_error)
    }

    fn clamp(&self, mtime: i64) -> i64 {
        self.epoch.map_or(mtime, |epoch| mtime.min(epoch))
    }
}

/// Sockets have no place in a tar; a name that would be read back as a whiteout cannot be said.
fn skipped(item: &Item, name: &CStr) -> bool {
    if name.to_bytes().starts_with(b".wh.") {
        tracing::warn!(name = %name.to_string_lossy(), "left out of the layer: its name is that of a whiteout");
        return true;
    }
    item.kind == FileType::Socket
}

fn push(path: &mut Vec<u8>, name: &CStr) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.to_bytes());
}

fn seconds(time: SystemTime) -> i64 {
    let whole = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -whole(before.duration()), whole)
}

fn read_error(path: &[u8], error: io::Error) -> Error {
    Error::os(format!("read {:?} for a layer", String::from_utf8_lossy(path)), error)
}

fn write_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => Error::os("write layer", error),
    }
}
