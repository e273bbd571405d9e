//! What a fresh tmpfs gets from the directory that it covers (`tmpcopyup`), by descriptors, following no link.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use crated_sys::{Errno, OFlag, SysError, fs};

use super::{Done, refuse};

/// Deepest tree that is copied.
const DEPTH: usize = 128;

/// Copies all below `from` into `to`, and the directory's own owner and mode.
pub(super) fn contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Done {
    let dir = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let (from, to) = (fs::open_at(from, Path::new("."), dir, 0)?, fs::open_at(to, Path::new("."), dir, 0)?);
    let stat = fs::stat(from.as_fd())?;
    fs::chown_at(to.as_fd(), Path::new(""), Some(stat.uid), Some(stat.gid))?;
    fs::chmod(to.as_fd(), stat.mode & 0o7777)?;
    below(from.as_fd(), to.as_fd(), DEPTH)
}

fn below(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Done {
    if depth == 0 {
        return Err(refuse("tmpcopyup", "the tree is too deep", Errno::ELOOP));
    }
    for name in fs::list(from)? {
        entry(from, to, Path::new(&name), depth)?;
    }
    Ok(())
}

fn entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &Path, depth: usize) -> Done {
    let stat = fs::stat_at(from, name)?;
    if stat.is_symlink() {
        fs::symlink_at(&fs::read_link_at(from, name)?, to, name)?;
    } else if stat.is_dir() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        fs::mkdir_at(to, name, 0o700)?;
        let (inner, made) = (fs::open_at(from, name, flags, 0)?, fs::open_at(to, name, flags, 0)?);
        below(inner.as_fd(), made.as_fd(), depth - 1)?;
    } else if stat.is_file() {
        let source = fs::open_at(from, name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK, 0)?;
        let made = fs::open_at(to, name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, 0o600)?;
        std::io::copy(&mut File::from(source), &mut File::from(made))
            .map_err(|e| SysError::from_io("copy", name.display(), &e))?;
    } else {
        fs::mknod_at(to, name, stat.mode, stat.rdev)?;
    }
    fs::chown_at(to, name, Some(stat.uid), Some(stat.gid))?;
    if !stat.is_symlink() {
        fs::chmod_at(to, name, stat.mode & 0o7777)?;
    }
    Ok(fs::set_times_at(to, name, Some(stat.atime), Some(stat.mtime))?)
}
