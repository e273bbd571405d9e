//! Whole folders by descriptor: walk, remove, copy. No symbolic link is followed, no path string is joined below the start.

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Folders nested deeper than this are moved up before they are emptied, so that descriptors do not run out.
const DEEP: usize = 64;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Opens the folder `name` in `parent`, refusing symbolic links.
///
/// # Errors
/// The kernel's; `ENOTDIR` for anything that is no folder.
pub fn open_folder(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(parent, name, FOLDER, Mode::empty())?)
}

/// Opens the regular file `name` in `parent` for reading, refusing symbolic links and without waiting for FIFOs.
///
/// # Errors
/// The kernel's.
pub fn open_file(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// The names in a folder without `.` and `..`, in the order of their bytes.
///
/// # Errors
/// The kernel's.
pub fn names(folder: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !is_dots(entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Calls `visit` with the attributes of `folder` and of everything below it; other file systems mounted there are left out.
///
/// # Errors
/// The kernel's. What vanishes meanwhile is no error.
pub fn walk(folder: &OwnedFd, visit: &mut dyn FnMut(&Stat)) -> io::Result<()> {
    let stat = rustix::fs::fstat(folder)?;
    visit(&stat);
    walk_below(folder, stat.st_dev, visit)
}

fn walk_below(folder: &OwnedFd, device: u64, visit: &mut dyn FnMut(&Stat)) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory && stat.st_dev != device {
            continue;
        }
        visit(&stat);
        if kind == FileType::Directory {
            match open_folder(folder, name) {
                Ok(below) => walk_below(&below, device, visit)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Removes `name` in `parent` with all that is below it: any depth, immutable files too. Never leaves the tree.
///
/// # Errors
/// `NotFound` where it is not there; else the first refusal of the kernel, with the rest left as it is.
pub fn remove(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let parent = parent.as_fd();
    let mut queue = vec![CString::new(name.as_bytes())?];
    while let Some(name) = queue.pop() {
        remove_one(&parent, &name, &parent, 0, &mut queue)?;
    }
    Ok(())
}

fn remove_one(
    folder: &impl AsFd,
    name: &CStr,
    top: &impl AsFd,
    depth: usize,
    queue: &mut Vec<CString>,
) -> io::Result<()> {
    match insist(folder, name, || rustix::fs::unlinkat(folder, name, AtFlags::empty())) {
        Ok(()) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    if depth >= DEEP {
        queue.push(move_up(folder, name, top)?);
        return Ok(());
    }
    loop {
        let below = open_folder(folder, name)?;
        let names = names(&below)?;
        for name in &names {
            match remove_one(&below, name, top, depth + 1, queue) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        match insist(folder, name, || rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)) {
            Ok(()) => return Ok(()),
            Err(Errno::NOTEMPTY) if !names.is_empty() => {} // someone wrote meanwhile
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn move_up(folder: &impl AsFd, name: &CStr, top: &impl AsFd) -> io::Result<CString> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let fresh = format!(".deep-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        match rustix::fs::renameat_with(folder, name, top, &fresh, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(CString::new(fresh)?),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Runs `act`; where the kernel forbids it, takes the immutable and append-only flags off `name` and its folder and tries again.
fn insist(folder: &impl AsFd, name: &CStr, act: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    match act() {
        Err(Errno::PERM) => {
            let mut changed = unlock(folder.as_fd());
            if let Ok(file) = open_file(folder, name) {
                changed |= unlock(file.as_fd());
            }
            if changed { act() } else { Err(Errno::PERM) }
        }
        answer => answer,
    }
}

fn unlock(file: impl AsFd) -> bool {
    let locks = IFlags::IMMUTABLE | IFlags::APPEND;
    match rustix::fs::ioctl_getflags(&file) {
        Ok(flags) if flags.intersects(locks) => rustix::fs::ioctl_setflags(&file, flags - locks).is_ok(),
        _ => false,
    }
}

/// Copies the bytes of a file of `size`: shared (reflink) where the file system can, else only what is no hole.
///
/// # Errors
/// The kernel's.
pub fn copy_data(from: &OwnedFd, to: &OwnedFd, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // a hole up to the end
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        copy_range(from, to, start, end)?;
        at = end;
    }
    Ok(())
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let wanted = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), wanted) {
            Ok(0) => return Ok(()), // cut meanwhile
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, to, read, end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut at = start;
    while at < end {
        let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let got = rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..wanted], at))?;
        if got == 0 {
            break;
        }
        let mut done = 0;
        while done < got {
            done += rustix::io::retry_on_intr(|| rustix::io::pwrite(to, &buffer[done..got], at + done as u64))?;
        }
        at += got as u64;
    }
    Ok(())
}

/// The path by which the kernel's path-only calls reach `name` in `folder` without following what `name` may be.
#[must_use]
pub fn proc_path(folder: impl AsFd, name: &CStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd()));
    path.push(OsStr::from_bytes(name.to_bytes()));
    path
}

/// Extended attributes of `name` in `folder` (symbolic links are not followed), sorted by name; none where the file system has none.
///
/// # Errors
/// The kernel's.
pub fn xattrs(folder: impl AsFd, name: &CStr) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let path = proc_path(folder, name);
    let mut list = match rustix::fs::llistxattr_query(&path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(size) => vec![0u8; size],
        Err(errno) => return Err(errno.into()),
    };
    let size = rustix::fs::llistxattr(&path, list.as_mut_slice())?;
    list.truncate(size);
    let mut pairs = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name)?;
        if let Some(value) = xattr_at(&path, &name)? {
            pairs.push((name, value));
        }
    }
    pairs.sort();
    Ok(pairs)
}

/// One extended attribute of `name` in `folder`; nothing where it is not set or the file system has none.
///
/// # Errors
/// The kernel's.
pub fn xattr(folder: impl AsFd, name: &CStr, attribute: &CStr) -> io::Result<Option<Vec<u8>>> {
    xattr_at(&proc_path(folder, name), attribute)
}

fn xattr_at(path: &std::path::Path, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0u8; 256];
    loop {
        match rustix::fs::lgetxattr(path, name, value.as_mut_slice()) {
            Ok(size) => {
                value.truncate(size);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => value.resize(64 << 10, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Copies everything in folder `from` into the empty folder `to`, and the attributes of `from` itself: hard links stay
/// links, devices, FIFOs, owners, modes, times, holes and extended attributes too; bytes are shared where the file
/// system can. Mounts below `from` are copied as empty folders.
///
/// # Errors
/// The kernel's; `to` then holds a part.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let mut copier = Copier { links: HashMap::new(), device: stat.st_dev, root: to };
    copier.below(from, to, &mut Vec::new())?;
    attributes((from, c"."), &stat, (to, c"."))
}

struct Copier<'a> {
    links: HashMap<u64, CString>,
    device: u64,
    root: &'a OwnedFd,
}

impl Copier<'_> {
    fn below(&mut self, from: &OwnedFd, to: &OwnedFd, path: &mut Vec<u8>) -> io::Result<()> {
        for name in names(from)? {
            let stat = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            self.one(from, to, &name, &stat, path)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn one(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat, path: &mut Vec<u8>) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                return Ok(rustix::fs::linkat(self.root, first, to, name, AtFlags::empty())?);
            }
            self.links.insert(stat.st_ino, CString::new(path.clone())?);
        }
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                if stat.st_dev == self.device {
                    self.below(&open_folder(from, name)?, &open_folder(to, name)?, path)?;
                }
            }
            FileType::RegularFile => copy_file(from, to, name, stat)?,
            FileType::Symlink => {
                rustix::fs::symlinkat(rustix::fs::readlinkat(from, name, Vec::new())?, to, name)?;
            }
            other => rustix::fs::mknodat(to, name, other, Mode::from_raw_mode(0o600), stat.st_rdev)?,
        }
        attributes((from, name), stat, (to, name))
    }
}

/// Copies the regular file `name` with its bytes from folder to folder; its attributes are not copied.
///
/// # Errors
/// The kernel's.
pub fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let source = open_file(from, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
    copy_data(&source, &target, u64::try_from(stat.st_size).unwrap_or(0))
}

/// Gives `to` (folder, name) the owner, mode, extended attributes and times of `from`, whose `stat` is known.
///
/// # Errors
/// The kernel's. Attributes of overlayfs and those that the target's file system does not know are left out.
pub fn attributes(from: (&OwnedFd, &CStr), stat: &Stat, to: (&OwnedFd, &CStr)) -> io::Result<()> {
    let (folder, name) = to;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    if !link {
        rustix::fs::chmodat(folder, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    for (key, value) in xattrs(from.0, from.1)? {
        if key.to_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        match rustix::fs::lsetxattr(proc_path(folder, name), &key, &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(rustix::fs::utimensat(folder, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Access and modification times of a file.
#[must_use]
pub fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_keeps_links_holes_and_times() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("a"), b"one").unwrap();
        fs::hard_link(from.path().join("a"), from.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/nowhere", from.path().join("l")).unwrap();
        let sparse = fs::File::create(from.path().join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        fs::create_dir(from.path().join("d")).unwrap();
        fs::write(from.path().join("d/x"), b"x").unwrap();
        copy(&fs::File::open(from.path()).unwrap().into(), &fs::File::open(to.path()).unwrap().into()).unwrap();
        let meta = |name: &str| fs::symlink_metadata(to.path().join(name)).unwrap();
        assert_eq!(meta("a").ino(), meta("b").ino());
        assert_eq!(meta("sparse").len(), 64 << 20);
        assert!(meta("sparse").blocks() < 1000);
        assert_eq!(fs::read(to.path().join("d/x")).unwrap(), b"x");
        let source = fs::symlink_metadata(from.path().join("d")).unwrap();
        assert_eq!((meta("d").mtime(), meta("d").mtime_nsec()), (source.mtime(), source.mtime_nsec()));
    }

    #[test]
    fn removal_reaches_any_depth_and_stays_inside() {
        let top = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("keep"), b"").unwrap();
        let folder: OwnedFd = fs::File::open(top.path()).unwrap().into();
        rustix::fs::mkdirat(&folder, c"deep", Mode::from_raw_mode(0o700)).unwrap();
        let mut at = open_folder(&folder, c"deep").unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&at, c"d", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::symlinkat(outside.path(), &at, c"l").unwrap();
            at = open_folder(&at, c"d").unwrap();
        }
        remove(&folder, OsStr::new("deep")).unwrap();
        assert_eq!(names(&folder).unwrap().len(), 0);
        assert!(outside.path().join("keep").exists());
        assert_eq!(remove(&folder, OsStr::new("deep")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
