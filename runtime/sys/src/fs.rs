//! Files by descriptor: the `*at` calls, metadata, locks and flushing.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::fcntl::OFlag;
use rustix::fs as rfs;

use crate::error::{Context, Errno, Result, SysError};

/// What `stat` tells of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device of the file system, as `makedev` packs it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits (`S_IFMT` and below).
    pub mode: u32,
    /// Hard links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device that the node stands for.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Last change of the content: seconds and nanoseconds since 1970.
    pub mtime: (i64, i64),
    /// Last change of the inode: seconds and nanoseconds since 1970.
    pub ctime: (i64, i64),
    /// Last reading: seconds and nanoseconds since 1970.
    pub atime: (i64, i64),
}

impl Stat {
    /// The type bits.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }
    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind() == libc::S_IFLNK
    }
    /// Whether it is a character device `major:minor`.
    pub fn is_char_device(&self, major: u32, minor: u32) -> bool {
        self.kind() == libc::S_IFCHR && self.rdev == makedev(major, minor)
    }
    /// Allocated space in bytes.
    pub fn allocated(&self) -> u64 {
        self.blocks * 512
    }

    #[allow(clippy::unnecessary_cast, reason = "the widths differ by architecture")]
    fn from_rustix(s: &rfs::Stat) -> Self {
        Self {
            dev: s.st_dev,
            ino: s.st_ino,
            mode: s.st_mode,
            nlink: s.st_nlink as u64,
            uid: s.st_uid,
            gid: s.st_gid,
            rdev: s.st_rdev,
            size: s.st_size.max(0) as u64,
            blocks: s.st_blocks.max(0) as u64,
            mtime: (s.st_mtime as i64, s.st_mtime_nsec as i64),
            ctime: (s.st_ctime as i64, s.st_ctime_nsec as i64),
            atime: (s.st_atime as i64, s.st_atime_nsec as i64),
        }
    }
}

/// Packs a device number.
pub fn makedev(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

/// Unpacks a device number into major and minor.
pub fn split_dev(dev: u64) -> (u32, u32) {
    (libc::major(dev), libc::minor(dev))
}

/// The current directory as a directory descriptor for the `*at` calls.
pub fn cwd() -> BorrowedFd<'static> {
    rfs::CWD
}

fn name_of(dir: BorrowedFd<'_>, path: &Path) -> String {
    format!("fd {}, {}", dir.as_raw_fd(), path.display())
}

/// Opens a path of the host; CLOEXEC is always set.
pub fn open(path: &Path, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    open_at(cwd(), path, flags, mode)
}

/// Opens relative to a directory; CLOEXEC is always set.
pub fn open_at(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    let flags = rfs::OFlags::from_bits_retain(flags.bits() as u32) | rfs::OFlags::CLOEXEC;
    retry(|| rfs::openat(dir, path, flags, rfs::Mode::from_raw_mode(mode))).of("openat", || name_of(dir, path))
}

/// Opens the same file anew with other flags (a handle from O_PATH to one that reads, say); needs /proc.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlag) -> Result<OwnedFd> {
    open(Path::new(&proc_path(fd)), flags, 0)
}

/// The magic link that stands for a descriptor, for calls that know only paths.
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A second descriptor for the same open file, CLOEXEC, at least 3.
pub fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).of("fcntl", || format!("F_DUPFD_CLOEXEC, fd {}", fd.as_raw_fd()))
}

/// Sets or clears O_NONBLOCK.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    let flags = rfs::fcntl_getfl(fd).of("fcntl", || "F_GETFL")?;
    let wanted = if on { flags | rfs::OFlags::NONBLOCK } else { flags - rfs::OFlags::NONBLOCK };
    if wanted == flags { Ok(()) } else { rfs::fcntl_setfl(fd, wanted).of("fcntl", || "F_SETFL") }
}

/// Metadata of an open file.
pub fn stat(fd: BorrowedFd<'_>) -> Result<Stat> {
    rfs::fstat(fd).map(|s| Stat::from_rustix(&s)).of("fstat", || format!("fd {}", fd.as_raw_fd()))
}

/// Metadata of a name in a directory, never following a link at its end.
pub fn stat_at(dir: BorrowedFd<'_>, name: &Path) -> Result<Stat> {
    rfs::statat(dir, name, rfs::AtFlags::SYMLINK_NOFOLLOW)
        .map(|s| Stat::from_rustix(&s))
        .of("fstatat", || name_of(dir, name))
}

/// The magic number of its file system (`TMPFS_MAGIC` … of linux/magic.h).
pub fn filesystem_magic(fd: BorrowedFd<'_>) -> Result<u64> {
    rfs::fstatfs(fd).map(|s| s.f_type as u64).of("fstatfs", || format!("fd {}", fd.as_raw_fd()))
}

/// Free bytes for ordinary users on its file system.
pub fn free_bytes(fd: BorrowedFd<'_>) -> Result<u64> {
    rfs::fstatvfs(fd).map(|s| s.f_bavail * s.f_frsize).of("fstatvfs", || format!("fd {}", fd.as_raw_fd()))
}

/// Reads a whole file, refusing more than `limit` bytes (EFBIG).
pub fn read_bounded(fd: OwnedFd, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(fd).take(limit + 1).read_to_end(&mut bytes).of("read", || format!("at most {limit} bytes"))?;
    if bytes.len() as u64 > limit {
        return Err(SysError::new("read", format!("more than {limit} bytes"), Errno::EFBIG));
    }
    Ok(bytes)
}

/// Writes all bytes in one go to a file opened for writing (for procfs, sysfs and cgroupfs, where one write is one command).
pub fn write_once(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    let n =
        retry(|| rustix::io::write(fd, bytes)).of("write", || String::from_utf8_lossy(bytes).trim_end().to_owned())?;
    if n == bytes.len() {
        Ok(())
    } else {
        Err(SysError::new("write", format!("{n} of {} bytes", bytes.len()), Errno::EIO))
    }
}

/// Makes a directory. The umask applies.
pub fn mkdir_at(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<()> {
    rfs::mkdirat(dir, name, rfs::Mode::from_raw_mode(mode)).of("mkdirat", || name_of(dir, name))
}

/// Makes a node: type bits are in `mode`, `dev` counts for devices. The umask applies.
pub fn mknod_at(dir: BorrowedFd<'_>, name: &Path, mode: u32, dev: u64) -> Result<()> {
    let kind = rfs::FileType::from_raw_mode(mode);
    rfs::mknodat(dir, name, kind, rfs::Mode::from_raw_mode(mode & 0o7777), dev)
        .of("mknodat", || format!("{}, mode {mode:o}, {:?}", name_of(dir, name), split_dev(dev)))
}

/// Makes a symbolic link `name` with text `target`.
pub fn symlink_at(target: &OsStr, dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
    rfs::symlinkat(target, dir, name).of("symlinkat", || format!("{} -> {}", name_of(dir, name), target.display()))
}

/// Makes a hard link; a symbolic link at the end of `old` is linked itself.
pub fn link_at(old_dir: BorrowedFd<'_>, old: &Path, new_dir: BorrowedFd<'_>, new: &Path) -> Result<()> {
    rfs::linkat(old_dir, old, new_dir, new, rfs::AtFlags::empty())
        .of("linkat", || format!("{} => {}", name_of(old_dir, old), name_of(new_dir, new)))
}

/// The text of a symbolic link; an empty `name` reads the link that `dir` itself is (O_PATH|O_NOFOLLOW).
pub fn read_link_at(dir: BorrowedFd<'_>, name: &Path) -> Result<OsString> {
    rfs::readlinkat(dir, name, Vec::new())
        .map(|text| OsString::from_vec(text.into_bytes()))
        .of("readlinkat", || name_of(dir, name))
}

/// Removes a name that is not a directory.
pub fn unlink_at(dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
    rfs::unlinkat(dir, name, rfs::AtFlags::empty()).of("unlinkat", || name_of(dir, name))
}

/// Removes an empty directory.
pub fn rmdir_at(dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
    rfs::unlinkat(dir, name, rfs::AtFlags::REMOVEDIR).of("unlinkat", || format!("{}, AT_REMOVEDIR", name_of(dir, name)))
}

/// What happens to a name that a rename finds in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// It is replaced at once.
    Replace,
    /// EEXIST.
    NoReplace,
    /// The two change places.
    Exchange,
    /// Replaced, and a whiteout device is left at the old name.
    Whiteout,
}

/// Renames atomically.
pub fn rename_at(old_dir: BorrowedFd<'_>, old: &Path, new_dir: BorrowedFd<'_>, new: &Path, how: Rename) -> Result<()> {
    let flags = match how {
        Rename::Replace => rfs::RenameFlags::empty(),
        Rename::NoReplace => rfs::RenameFlags::NOREPLACE,
        Rename::Exchange => rfs::RenameFlags::EXCHANGE,
        Rename::Whiteout => rfs::RenameFlags::WHITEOUT,
    };
    rfs::renameat_with(old_dir, old, new_dir, new, flags)
        .of("renameat2", || format!("{} => {}, {how:?}", name_of(old_dir, old), name_of(new_dir, new)))
}

/// Changes the owner of a name, never following a link; an empty name means `dir` itself. `None` leaves it.
pub fn chown_at(dir: BorrowedFd<'_>, name: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let flags = rfs::AtFlags::SYMLINK_NOFOLLOW | rfs::AtFlags::EMPTY_PATH;
    rfs::chownat(dir, name, uid.map(rfs::Uid::from_raw), gid.map(rfs::Gid::from_raw), flags)
        .of("fchownat", || format!("{}, {uid:?}:{gid:?}", name_of(dir, name)))
}

/// Changes the mode of a name that is not a symbolic link. The name must not be swappable by others; else use [`chmod`].
pub fn chmod_at(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<()> {
    rfs::chmodat(dir, name, rfs::Mode::from_raw_mode(mode), rfs::AtFlags::empty())
        .of("fchmodat", || format!("{}, {mode:o}", name_of(dir, name)))
}

/// Changes the mode of an open file; an O_PATH handle goes through /proc.
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    match rfs::fchmod(fd, rfs::Mode::from_raw_mode(mode)) {
        Err(rustix::io::Errno::BADF) => chmod_at(cwd(), Path::new(&proc_path(fd)), mode),
        other => other.of("fchmod", || format!("fd {}, {mode:o}", fd.as_raw_fd())),
    }
}

/// Sets the times of reading and of writing, never following a link; an empty name means `dir` itself. `None` leaves it.
pub fn set_times_at(
    dir: BorrowedFd<'_>,
    name: &Path,
    accessed: Option<(i64, i64)>,
    modified: Option<(i64, i64)>,
) -> Result<()> {
    let spec = |time: Option<(i64, i64)>| match time {
        Some((tv_sec, tv_nsec)) => rfs::Timespec { tv_sec, tv_nsec: tv_nsec as _ },
        None => rfs::Timespec { tv_sec: 0, tv_nsec: rfs::UTIME_OMIT as _ },
    };
    let times = rfs::Timestamps { last_access: spec(accessed), last_modification: spec(modified) };
    let flags = rfs::AtFlags::SYMLINK_NOFOLLOW;
    let done = if name.as_os_str().is_empty() {
        rfs::utimensat(dir, name, &times, flags | rfs::AtFlags::EMPTY_PATH)
    } else {
        rfs::utimensat(dir, name, &times, flags)
    };
    done.of("utimensat", || name_of(dir, name))
}

/// A time as seconds and nanoseconds since 1970, for [`set_times_at`].
pub fn timespec(time: SystemTime) -> (i64, i64) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(d) => (d.as_secs() as i64, i64::from(d.subsec_nanos())),
        Err(e) => {
            let d = e.duration();
            let up = i64::from(d.subsec_nanos() > 0);
            (-(d.as_secs() as i64) - up, (up * 1_000_000_000) - i64::from(d.subsec_nanos()))
        }
    }
}

/// Flushes data and metadata of a file or a directory.
pub fn fsync(fd: BorrowedFd<'_>) -> Result<()> {
    rfs::fsync(fd).of("fsync", || format!("fd {}", fd.as_raw_fd()))
}

/// Flushes data and what is needed to read it.
pub fn fdatasync(fd: BorrowedFd<'_>) -> Result<()> {
    rfs::fdatasync(fd).of("fdatasync", || format!("fd {}", fd.as_raw_fd()))
}

/// Flushes the whole file system that holds `fd`.
pub fn syncfs(fd: BorrowedFd<'_>) -> Result<()> {
    rfs::syncfs(fd).of("syncfs", || format!("fd {}", fd.as_raw_fd()))
}

/// Starts writing a range back, without waiting and without any promise: it only spreads the work of a later fsync.
pub fn start_writeback(fd: BorrowedFd<'_>, offset: u64, length: u64) -> Result<()> {
    // SAFETY: numbers only; the descriptor is open for the length of the call.
    let done =
        unsafe { libc::sync_file_range(fd.as_raw_fd(), offset as i64, length as i64, libc::SYNC_FILE_RANGE_WRITE) };
    Errno::result(done).map(drop).of("sync_file_range", || format!("{offset}+{length}"))
}

/// Reserves space, growing the file.
pub fn allocate(fd: BorrowedFd<'_>, offset: u64, length: u64) -> Result<()> {
    rfs::fallocate(fd, rfs::FallocateFlags::empty(), offset, length).of("fallocate", || format!("{offset}+{length}"))
}

/// Takes the exclusive lock of a whole file (flock(2)). A process that its last owner was just forking when it was killed holds
/// a copy of the lock until its execve: that is waited for, a second at most.
///
/// # Errors
/// [`TryLockError::WouldBlock`](std::fs::TryLockError::WouldBlock) where somebody has it.
pub fn lock_soon(file: &std::fs::File) -> std::result::Result<(), std::fs::TryLockError> {
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) if tries < 100 => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            answer => return answer,
        }
    }
}

/// An exclusive or shared lock on an open file, let go when dropped with the file.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Lock {
    /// Takes an exclusive lock without waiting; `None`: someone else holds one.
    pub fn try_exclusive(file: OwnedFd) -> Result<Option<Lock>> {
        match rfs::flock(&file, rfs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).of("flock", || "LOCK_EX|LOCK_NB"),
        }
    }

    /// Waits for an exclusive lock.
    pub fn exclusive(file: OwnedFd) -> Result<Lock> {
        retry(|| rfs::flock(&file, rfs::FlockOperation::LockExclusive)).of("flock", || "LOCK_EX")?;
        Ok(Lock(file))
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Names in a directory, without `.` and `..`.
pub fn list(dir: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    let context = || format!("fd {}", dir.as_raw_fd());
    for entry in rfs::Dir::read_from(dir).of("getdents64", context)? {
        let name = entry.of("getdents64", context)?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// Removes a name with all below it, by descriptors, following no link. A missing name is success.
pub fn remove_all_at(dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
    match unlink_at(dir, name) {
        Ok(()) => return Ok(()),
        Err(e) if e.errno == Errno::ENOENT => return Ok(()),
        Err(e) if e.errno == Errno::EISDIR || e.errno == Errno::EPERM => {}
        Err(e) => return Err(e),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let below = open_at(dir, name, flags, 0)?;
    for child in list(below.as_fd())? {
        remove_all_at(below.as_fd(), Path::new(&child))?;
    }
    match rmdir_at(dir, name) {
        Err(e) if e.errno != Errno::ENOENT => Err(e),
        _ => Ok(()),
    }
}

pub(crate) fn retry<T>(mut f: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match f() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_before_the_epoch_keep_positive_nanoseconds() {
        assert_eq!(timespec(UNIX_EPOCH - Duration::from_millis(250)), (-1, 750_000_000));
        assert_eq!(timespec(UNIX_EPOCH - Duration::from_secs(2)), (-2, 0));
        assert_eq!(timespec(UNIX_EPOCH + Duration::from_millis(1500)), (1, 500_000_000));
    }

    #[test]
    fn remove_all_follows_no_link() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("a/b/c")).unwrap();
        std::fs::write(tmp.path().join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(tmp.path(), tmp.path().join("a/up")).unwrap();
        let dir = open(tmp.path(), OFlag::O_PATH, 0).unwrap();
        remove_all_at(dir.as_fd(), Path::new("a")).unwrap();
        remove_all_at(dir.as_fd(), Path::new("a")).unwrap();
        assert!(tmp.path().join("kept").exists() && !tmp.path().join("a").exists());
    }
}
