//! Paths below a root that someone else fills: never joined strings, always descriptors.
//!
//! [`Root`] resolves as if the process had called chroot there: `..` stops at the root, absolute links start at it,
//! magic links of procfs are refused. Looking up is one `openat2(RESOLVE_IN_ROOT)`; making what is missing walks
//! component by component over held descriptors, so that a link swapped in at any moment leads nowhere else.

use std::{
    ffi::{OsStr, OsString},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::fcntl::OFlag;
pub use rustix::fs::ResolveFlags as Resolve;

use crate::{
    error::{Context, Errno, Result, SysError},
    fs,
};

/// As many links as the kernel itself follows.
const MAX_LINKS: usize = 40;

/// A directory that bounds every path below it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// The directory at a path of the host.
    pub fn at(path: &Path) -> Result<Root> {
        Ok(Root { fd: fs::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)? })
    }

    /// An open directory (O_PATH is enough).
    pub fn from_fd(fd: OwnedFd) -> Root {
        Root { fd }
    }

    /// An O_PATH handle of what `path` leads to, links followed inside the root.
    pub fn resolve(&self, path: &Path) -> Result<OwnedFd> {
        self.open(path, OFlag::O_PATH, 0)
    }

    /// As [`Root::resolve`], but a link at the end is itself the answer.
    pub fn resolve_nofollow(&self, path: &Path) -> Result<OwnedFd> {
        self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)
    }

    /// Opens what `path` leads to. With O_CREAT only the last name may be missing.
    pub fn open(&self, path: &Path, flags: OFlag, mode: u32) -> Result<OwnedFd> {
        openat2(self.fd.as_fd(), path, flags, mode, Resolve::IN_ROOT | Resolve::NO_MAGICLINKS)
    }

    /// Reads a file, refusing more than `limit` bytes (EFBIG) and what is no regular file (EINVAL).
    pub fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>> {
        let file = self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?;
        if !fs::stat(file.as_fd())?.is_file() {
            return Err(SysError::new("read", format!("{}: no regular file", path.display()), Errno::EINVAL));
        }
        fs::read_bounded(file, limit)
            .map_err(|e| SysError { operands: format!("{}: {}", path.display(), e.operands), ..e })
    }

    /// The directory at `path`, made with all its parents where missing (also behind dangling links).
    pub fn mkdir_all(&self, path: &Path, mode: u32) -> Result<OwnedFd> {
        match self.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0) {
            Err(e) if e.errno == Errno::ENOENT => Walk::new(self)?.directory(path, Some(mode)),
            other => other,
        }
    }

    /// The directory that holds the last name of `path` (parents made if `make` gives a mode) and that name.
    /// A link at the end is not followed.
    pub fn parent(&self, path: &Path, make: Option<u32>) -> Result<(OwnedFd, OsString)> {
        let name = match path.components().next_back() {
            Some(Component::Normal(name)) => name.to_owned(),
            _ => return Err(SysError::new("openat2", format!("{}: no file name", path.display()), Errno::EISDIR)),
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = match make {
            Some(mode) => self.mkdir_all(parent, mode)?,
            None => self.open(
                if parent.as_os_str().is_empty() { Path::new(".") } else { parent },
                OFlag::O_PATH | OFlag::O_DIRECTORY,
                0,
            )?,
        };
        Ok((dir, name))
    }

    /// A handle (O_PATH) of the file at `path`: what is there, or an empty regular file, made with its parents
    /// (directories 0755). Links are followed inside the root, dangling ones too.
    pub fn create_file(&self, path: &Path, mode: u32) -> Result<OwnedFd> {
        match self.resolve(path) {
            Err(e) if e.errno == Errno::ENOENT => {}
            other => return other,
        }
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let (dir, name) = self.parent(&path, Some(0o755))?;
            let name = Path::new(&name);
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY;
            match fs::open_at(dir.as_fd(), name, flags, mode) {
                Ok(made) => {
                    drop(made);
                    return fs::open_at(dir.as_fd(), name, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0);
                }
                Err(e) if e.errno == Errno::EEXIST => {}
                Err(e) => return Err(e),
            }
            let there = fs::open_at(dir.as_fd(), name, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)?;
            if !fs::stat(there.as_fd())?.is_symlink() {
                return Ok(there);
            }
            let text = PathBuf::from(fs::read_link_at(there.as_fd(), Path::new(""))?);
            path = if text.is_absolute() { text } else { path.parent().unwrap_or(Path::new("")).join(text) };
        }
        Err(SysError::new("openat2", path.display(), Errno::ELOOP))
    }

    /// A symbolic link `path` with text `target`; parents are made. EEXIST if the name is taken.
    pub fn symlink(&self, target: &OsStr, path: &Path) -> Result<()> {
        let (dir, name) = self.parent(path, Some(0o755))?;
        fs::symlink_at(target, dir.as_fd(), Path::new(&name))
    }

    /// A node at `path`; parents are made; type bits are in `mode`; the umask applies.
    pub fn mknod(&self, path: &Path, mode: u32, dev: u64) -> Result<()> {
        let (dir, name) = self.parent(path, Some(0o755))?;
        fs::mknod_at(dir.as_fd(), Path::new(&name), mode, dev)
    }
}

/// `openat2` with CLOEXEC, retried on EINTR and on EAGAIN (a rename raced with `..`).
pub fn openat2(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: u32, resolve: Resolve) -> Result<OwnedFd> {
    use rustix::{fs as rfs, io::Errno as R};
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let oflags = rfs::OFlags::from_bits_retain(flags.bits() as u32) | rfs::OFlags::CLOEXEC;
    let mode = rfs::Mode::from_raw_mode(if flags.contains(OFlag::O_CREAT) { mode } else { 0 });
    let mut tries = 0;
    loop {
        match rfs::openat2(dir, path, oflags, mode, resolve) {
            Err(R::INTR) => {}
            Err(R::AGAIN) if tries < 128 => tries += 1,
            other => return other.of("openat2", || format!("fd {}, {}", dir.as_raw_fd(), path.display())),
        }
    }
}

/// Opens below `dir` with no links, no `..` out of it and no mount crossed: for a procfs of our own.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let resolve = Resolve::BENEATH | Resolve::NO_XDEV | Resolve::NO_SYMLINKS | Resolve::NO_MAGICLINKS;
    openat2(dir, path, flags, 0, resolve)
}

/// A walk over held directories, the last being where we are.
struct Walk {
    stack: Vec<OwnedFd>,
    links: usize,
}

impl Walk {
    fn new(root: &Root) -> Result<Walk> {
        let start = fs::open_at(root.as_fd(), Path::new("."), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
        Ok(Walk { stack: vec![start], links: 0 })
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.stack.last().expect("the root is never popped").as_fd()
    }

    fn directory(mut self, path: &Path, make: Option<u32>) -> Result<OwnedFd> {
        self.enter(path, make)?;
        Ok(self.stack.pop().expect("the root is never popped"))
    }

    fn enter(&mut self, path: &Path, make: Option<u32>) -> Result<()> {
        for component in path.components() {
            match component {
                Component::RootDir => self.stack.truncate(1),
                Component::ParentDir if self.stack.len() > 1 => drop(self.stack.pop()),
                Component::ParentDir | Component::CurDir | Component::Prefix(_) => {}
                Component::Normal(name) => self.step(Path::new(name), make)?,
            }
        }
        Ok(())
    }

    fn step(&mut self, name: &Path, make: Option<u32>) -> Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let next = match fs::open_at(self.here(), name, flags, 0) {
            Err(e) if e.errno == Errno::ENOENT && make.is_some() => {
                match fs::mkdir_at(self.here(), name, make.unwrap_or(0o755)) {
                    Err(e) if e.errno != Errno::EEXIST => return Err(e),
                    _ => fs::open_at(self.here(), name, flags, 0)?,
                }
            }
            other => other?,
        };
        let stat = fs::stat(next.as_fd())?;
        if stat.is_dir() {
            self.stack.push(next);
            return Ok(());
        }
        if !stat.is_symlink() {
            return Err(SysError::new("openat2", name.display(), Errno::ENOTDIR));
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(SysError::new("openat2", name.display(), Errno::ELOOP));
        }
        let text = fs::read_link_at(next.as_fd(), Path::new(""))?;
        self.enter(Path::new(&text), make)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        let root = Root::at(&root).unwrap();
        (tmp, root)
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        let (tmp, root) = tree();
        let base = tmp.path().join("root");
        symlink("../../outside", base.join("dev")).unwrap();
        symlink("/abs/dir", base.join("run")).unwrap();
        root.mkdir_all(Path::new("/dev/shm"), 0o755).unwrap();
        root.mkdir_all(Path::new("run/lock"), 0o755).unwrap();
        root.mkdir_all(Path::new("../../../x"), 0o755).unwrap();
        assert!(base.join("outside/shm").is_dir() && !tmp.path().join("outside").exists());
        assert!(base.join("abs/dir/lock").is_dir() && base.join("x").is_dir());
        root.mknod(Path::new("/dev/fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
        assert!(base.join("outside/fifo").exists());
    }

    #[test]
    fn files_are_made_behind_dangling_links_inside() {
        let (tmp, root) = tree();
        let base = tmp.path().join("root");
        symlink("/deep/er/file", base.join("etc/resolv.conf")).unwrap();
        root.create_file(Path::new("/etc/resolv.conf"), 0o644).unwrap();
        assert!(base.join("deep/er/file").is_file());
        symlink("loop", base.join("loop")).unwrap();
        assert_eq!(root.create_file(Path::new("loop"), 0o644).unwrap_err().errno, Errno::ELOOP);
        assert_eq!(root.mkdir_all(Path::new("loop/x"), 0o755).unwrap_err().errno, Errno::ELOOP);
        assert_eq!(root.mkdir_all(Path::new("deep/er/file/x"), 0o755).unwrap_err().errno, Errno::ENOTDIR);
    }

    #[test]
    fn reading_is_bounded_and_takes_regular_files_only() {
        let (tmp, root) = tree();
        std::fs::write(tmp.path().join("root/etc/passwd"), "12345").unwrap();
        assert_eq!(root.read(Path::new("/etc/passwd"), 5).unwrap(), b"12345");
        assert_eq!(root.read(Path::new("/etc/passwd"), 4).unwrap_err().errno, Errno::EFBIG);
        root.mknod(Path::new("etc/fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
        assert_eq!(root.read(Path::new("etc/fifo"), 4).unwrap_err().errno, Errno::EINVAL);
    }
}
