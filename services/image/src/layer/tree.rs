//! The tree that a layer is applied to, reached by descriptors only.
//!
//! A path is walked one component at a time with `O_NOFOLLOW`; a symbolic link on the way is read and walked by us, its
//! `/` and `..` ending at the layer's root. So no link, whoever planted it, leads out, and the folder of an entry is
//! opened once: open folders are kept by the path they were asked for.
//!
//! Over an overlay's upper folder the walk sees the merged tree: a folder that only the lower ones have is made above
//! with its owner, mode and attributes; a link that only they have is followed.

mod lower;
mod whiteout;

use super::limits::{NAME_MAX, PATH_MAX, malformed};
use super::{ApplyTarget, Mode as Target};
use crated_types::{Error, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Open folders kept; each is a descriptor.
const OPEN_MAX: usize = 96;
/// Symbolic links followed for one path (MAXSYMLINKS).
const LINKS_MAX: u32 = 40;

/// Marks a folder of an upper folder as hiding those below it (overlayfs.rst).
pub(super) const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// An open folder of the tree.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    /// Its path below the root, without symbolic links; empty for the root.
    pub(super) path: Vec<u8>,
    /// Whether what is made in it inherits its group.
    pub(super) setgid: bool,
}

impl Folder {
    fn new(fd: OwnedFd, path: Vec<u8>) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd).map_err(|errno| os("stat", &path, errno))?;
        Ok(Self { fd, path, setgid: stat.st_mode & 0o2000 != 0 })
    }

    /// The path of `name` in it.
    pub(super) fn join(&self, name: &[u8]) -> Vec<u8> {
        join(&self.path, name)
    }
}

/// The tree.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Rc<Folder>,
    /// Folders below an overlay's upper folder, nearest first; `None` for a whole tree.
    lower: Option<Vec<OwnedFd>>,
    open: HashMap<Vec<u8>, Rc<Folder>>,
    /// Hashes of the paths that this layer made, with the folders above them.
    made: HashSet<u64>,
    hasher: RandomState,
    /// Times that folders get when nothing is made in them any more.
    times: BTreeMap<Vec<u8>, Timestamps>,
    /// The process's file mode creation mask.
    pub(super) umask: u32,
}

impl Tree {
    pub(super) fn open(target: &ApplyTarget) -> Result<Self> {
        let open = |path: &std::path::Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path, flags, Mode::empty())
                .map_err(|errno| Error::os(format!("open {}", path.display()), errno.into()))
        };
        let lower = match &target.mode {
            Target::Direct => None,
            Target::Overlay { lower } => Some(lower.iter().map(|path| open(path)).collect::<Result<_>>()?),
        };
        Ok(Self {
            root: Rc::new(Folder::new(open(&target.root)?, Vec::new())?),
            lower,
            open: HashMap::new(),
            made: HashSet::new(),
            hasher: RandomState::new(),
            times: BTreeMap::new(),
            umask: umask(),
        })
    }

    /// Whether the root is an upper folder of overlayfs.
    pub(super) fn is_overlay(&self) -> bool {
        self.lower.is_some()
    }

    /// The folder at a clean path (see [`clean`]); links are followed, what is missing is made.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<Rc<Folder>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(folder) = self.open.get(path) {
            return Ok(Rc::clone(folder));
        }
        self.walk(path, &mut 0)
    }

    fn walk(&mut self, path: &[u8], links: &mut u32) -> Result<Rc<Folder>> {
        let mut folder = Rc::clone(&self.root);
        let mut start = 0;
        // The longest prefix that is open already.
        for (at, _) in path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/') {
            if let Some(known) = self.open.get(&path[..at]) {
                folder = Rc::clone(known);
                start = at + 1;
                break;
            }
        }
        while start < path.len() {
            let end = path[start..].iter().position(|byte| *byte == b'/').map_or(path.len(), |length| start + length);
            folder = self.step(&folder, &path[start..end], links)?;
            if self.open.len() >= OPEN_MAX {
                self.open.clear();
            }
            self.open.insert(path[..end].to_vec(), Rc::clone(&folder));
            start = end + 1;
        }
        Ok(folder)
    }

    /// One component down from `parent`.
    fn step(&mut self, parent: &Rc<Folder>, name: &[u8], links: &mut u32) -> Result<Rc<Folder>> {
        let path = parent.join(name);
        if path.len() > PATH_MAX {
            return Err(malformed(&path, "its path is too long once links are resolved"));
        }
        let name = c_name(name)?;
        match open_folder(parent, &name) {
            Ok(fd) => return Ok(Rc::new(Folder::new(fd, path)?)),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => match rustix::fs::readlinkat(&parent.fd, &name, Vec::new()) {
                Ok(target) => return self.follow(parent, &path, target.to_bytes(), links),
                Err(Errno::INVAL) if self.is_overlay() && self.is_whiteout(parent, &name)? => {
                    return self.make_folder_over_whiteout(parent, &name, path);
                }
                Err(Errno::INVAL) => return Err(malformed(&path, "is used as a folder and is none")),
                Err(errno) => return Err(os("read link", &path, errno)),
            },
            Err(errno) => return Err(os("open", &path, errno)),
        }
        match self.below(&path)? {
            Some(below) if below.kind() == FileType::Directory => self.copy_up_folder(parent, &name, path, &below),
            Some(below) if below.kind() == FileType::Symlink => {
                let target = below.read_link().map_err(|errno| os("read link", &path, errno))?;
                self.follow(parent, &path, target.to_bytes(), links)
            }
            Some(_) => Err(malformed(&path, "is used as a folder and is none")),
            None => {
                rustix::fs::mkdirat(&parent.fd, &name, Mode::from_raw_mode(0o755))
                    .map_err(|errno| os("make folder", &path, errno))?;
                self.reopen(parent, &name, path)
            }
        }
    }

    fn make_folder_over_whiteout(&mut self, parent: &Rc<Folder>, name: &CStr, path: Vec<u8>) -> Result<Rc<Folder>> {
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()).map_err(|errno| os("remove", &path, errno))?;
        rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| os("make folder", &path, errno))?;
        let folder = self.reopen(parent, name, path)?;
        self.set_opaque(&folder)?;
        Ok(folder)
    }

    fn reopen(&self, parent: &Folder, name: &CStr, path: Vec<u8>) -> Result<Rc<Folder>> {
        let fd = open_folder(parent, name).map_err(|errno| os("open", &path, errno))?;
        Ok(Rc::new(Folder::new(fd, path)?))
    }

    /// Walks the target of the link at `link`, which is in `parent`; never above the root.
    fn follow(&mut self, parent: &Rc<Folder>, link: &[u8], target: &[u8], links: &mut u32) -> Result<Rc<Folder>> {
        *links += 1;
        if *links > LINKS_MAX {
            return Err(malformed(link, "too many symbolic links on its way"));
        }
        let mut folder = if target.starts_with(b"/") { Rc::clone(&self.root) } else { Rc::clone(parent) };
        for name in target.split(|byte| *byte == b'/') {
            folder = match name {
                b"" | b"." => continue,
                b".." => {
                    let up = split(&folder.path).0.to_vec();
                    if up.is_empty() { Rc::clone(&self.root) } else { self.walk(&up, links)? }
                }
                name if name.len() > NAME_MAX => return Err(malformed(link, "a name in its target is too long")),
                name => self.step(&folder, name, links)?,
            };
        }
        Ok(folder)
    }

    /// Says that this layer made what is at `path`, a path without links.
    pub(super) fn mark(&mut self, mut path: &[u8]) {
        while self.made.insert(self.hasher.hash_one(path)) && !path.is_empty() {
            path = split(path).0;
        }
    }

    /// Whether this layer made it, or something in it.
    pub(super) fn is_made(&self, path: &[u8]) -> bool {
        self.made.contains(&self.hasher.hash_one(path))
    }

    /// Removes whatever is at `name`; the answer tells whether it was a folder.
    pub(super) fn clear(&mut self, folder: &Folder, name: &CStr) -> Result<bool> {
        let path = folder.join(name.to_bytes());
        let stat = match rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(os("stat", &path, errno)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            self.forget(&path);
            crated_sys::tree::remove(&folder.fd, as_os(name))
                .map_err(|error| Error::os(format!("remove {}", shown(&path)), error))?;
            return Ok(true);
        }
        if kind == FileType::Symlink {
            self.open.clear();
        }
        rustix::fs::unlinkat(&folder.fd, name, AtFlags::empty()).map_err(|errno| os("remove", &path, errno))?;
        Ok(false)
    }

    /// Forgets open folders and pending times at `path` and below.
    fn forget(&mut self, path: &[u8]) {
        self.open.clear();
        let below = join(path, b"");
        let gone: Vec<_> = self
            .times
            .range(path.to_vec()..)
            .take_while(|(key, _)| key.starts_with(path))
            .filter(|(key, _)| key.as_slice() == path || key.starts_with(&below))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.times.remove(&key);
        }
    }

    /// Closes the folder that was asked for as `path`: its mode changed.
    pub(super) fn close(&mut self, path: &[u8]) {
        self.open.remove(path);
    }

    /// Has the folder at `path` (without links) get these times at the end.
    pub(super) fn set_times_later(&mut self, path: Vec<u8>, times: Timestamps) {
        self.times.insert(path, times);
    }

    /// Sets the times of folders: the deepest first, since nothing changes in them any more.
    pub(super) fn finish(&mut self) -> Result<()> {
        for (path, times) in std::mem::take(&mut self.times).into_iter().rev() {
            let (up, name) = split(&path);
            let set = if path.is_empty() {
                rustix::fs::futimens(&self.root.fd, &times)
            } else {
                let folder = self.folder(up)?;
                rustix::fs::utimensat(&folder.fd, c_name(name)?, &times, AtFlags::SYMLINK_NOFOLLOW)
            };
            set.map_err(|errno| os("set times of", &path, errno))?;
        }
        Ok(())
    }

    /// Puts everything on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root.fd).map_err(|errno| os("syncfs", b"", errno))
    }
}

/// A path without its leading slash, empty components and `.`: what is left is below the root. `..` is refused.
pub(super) fn clean(name: &[u8]) -> Result<Vec<u8>> {
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(malformed(name, "a name with .. in it")),
            part if part.len() > NAME_MAX => return Err(malformed(name, "a name is too long")),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    if path.len() > PATH_MAX {
        return Err(malformed(name, "its path is too long"));
    }
    Ok(path)
}

/// Parent and last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(path.len() + 1 + name.len());
    whole.extend_from_slice(path);
    if !path.is_empty() {
        whole.push(b'/');
    }
    whole.extend_from_slice(name);
    whole
}

/// A component as the kernel wants it.
pub(super) fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| malformed(name, "a NUL in a name"))
}

/// A failed call on a path of the layer.
pub(super) fn os(call: &str, path: &[u8], errno: Errno) -> Error {
    Error::os(format!("{call} {}", shown(path)), errno.into())
}

fn shown(path: &[u8]) -> String {
    format!("{:?} of the layer", String::from_utf8_lossy(path))
}

pub(super) fn as_os(name: &CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes())
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn open_folder(parent: &Folder, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&parent.fd, name, flags, Mode::empty())
}

/// The mask of this process, from `/proc` (Linux 4.7): reading it by `umask(2)` would change it for every thread.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        assert_eq!(clean(b"./a//b/").unwrap(), b"a/b");
        assert_eq!(clean(b"/etc/x").unwrap(), b"etc/x");
        assert_eq!(clean(b"./").unwrap(), b"");
        assert!(clean(b"a/../b").is_err());
        assert!(clean(&[b'a'; 256]).is_err());
    }
}
