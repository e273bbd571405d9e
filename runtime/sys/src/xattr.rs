//! Extended attributes of open files and of names, links not followed.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{fs as rfs, io::Errno as R};

use crate::error::{Context, Result};

/// The value of an attribute of an open file (not O_PATH); `None` if it has none by that name.
pub fn get(fd: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Vec<u8>>> {
    read(|buf| rfs::fgetxattr(fd, name, buf)).of("fgetxattr", || format!("fd {}, {}", fd.as_raw_fd(), name.display()))
}

/// Sets an attribute of an open file (not O_PATH).
pub fn set(fd: BorrowedFd<'_>, name: &OsStr, value: &[u8]) -> Result<()> {
    rfs::fsetxattr(fd, name, value, rfs::XattrFlags::empty())
        .of("fsetxattr", || format!("fd {}, {}", fd.as_raw_fd(), name.display()))
}

/// The names of all attributes of an open file (not O_PATH).
pub fn list(fd: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    read(|buf| rfs::flistxattr(fd, buf)).map(split).of("flistxattr", || format!("fd {}", fd.as_raw_fd()))
}

/// Takes an attribute off an open file (not O_PATH); that it was not there is success.
pub fn remove(fd: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    gone(rfs::fremovexattr(fd, name)).of("fremovexattr", || format!("fd {}, {}", fd.as_raw_fd(), name.display()))
}

/// As [`get`], by path, a link at the end not followed. With `/proc/self/fd/N/name` a name in an open directory.
pub fn lget(path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>> {
    read(|buf| rfs::lgetxattr(path, name, buf)).of("lgetxattr", || format!("{}, {}", path.display(), name.display()))
}

/// As [`set`], by path, a link at the end not followed.
pub fn lset(path: &Path, name: &OsStr, value: &[u8]) -> Result<()> {
    rfs::lsetxattr(path, name, value, rfs::XattrFlags::empty())
        .of("lsetxattr", || format!("{}, {}", path.display(), name.display()))
}

/// As [`list`], by path, a link at the end not followed.
pub fn llist(path: &Path) -> Result<Vec<OsString>> {
    read(|buf| rfs::llistxattr(path, buf)).map(split).of("llistxattr", || path.display().to_string())
}

/// As [`remove`], by path, a link at the end not followed.
pub fn lremove(path: &Path, name: &OsStr) -> Result<()> {
    gone(rfs::lremovexattr(path, name)).of("lremovexattr", || format!("{}, {}", path.display(), name.display()))
}

/// The path of `name` in an open directory, for the `l*` calls here.
pub fn path_at(dir: BorrowedFd<'_>, name: &Path) -> std::path::PathBuf {
    Path::new(&crate::fs::proc_path(dir)).join(name)
}

/// Reads a value of unknown length: 256 bytes at first, then the limit of the kernel (64 KiB).
fn read<T: Answer>(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<T> {
    let mut small = [0u8; 256];
    match call(&mut small) {
        Ok(n) => Ok(T::some(small[..n].to_vec())),
        Err(R::RANGE) => {
            let mut large = vec![0u8; 65536];
            let n = call(&mut large)?;
            large.truncate(n);
            Ok(T::some(large))
        }
        Err(R::NODATA | R::OPNOTSUPP) => Ok(T::none()),
        Err(error) => Err(error),
    }
}

trait Answer {
    fn some(bytes: Vec<u8>) -> Self;
    fn none() -> Self;
}

impl Answer for Option<Vec<u8>> {
    fn some(bytes: Vec<u8>) -> Self {
        Some(bytes)
    }
    fn none() -> Self {
        None
    }
}

impl Answer for Vec<u8> {
    fn some(bytes: Vec<u8>) -> Self {
        bytes
    }
    fn none() -> Self {
        Vec::new()
    }
}

fn split(bytes: Vec<u8>) -> Vec<OsString> {
    bytes.split(|b| *b == 0).filter(|n| !n.is_empty()).map(|n| OsStr::from_bytes(n).to_owned()).collect()
}

fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(R::NODATA | R::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    #[test]
    fn values_longer_than_the_first_buffer_come_whole() {
        let tmp = tempfile::NamedTempFile::new_in(".").unwrap();
        let file = File::open(tmp.path()).unwrap();
        let name = OsStr::new("user.long");
        let value = vec![7u8; 1000];
        set(file.as_fd(), name, &value).unwrap();
        assert_eq!(get(file.as_fd(), name).unwrap().unwrap(), value);
        assert_eq!(list(file.as_fd()).unwrap(), [name]);
        assert_eq!(lget(tmp.path(), OsStr::new("user.none")).unwrap(), None);
        remove(file.as_fd(), name).unwrap();
        lremove(tmp.path(), name).unwrap();
        assert!(llist(tmp.path()).unwrap().is_empty());
    }
}
