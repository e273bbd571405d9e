//! Unix sockets by path: paths longer than the kernel's 107 bytes go through a descriptor of their folder.

use crated_types::{Error, Result};
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longest path of a socket address (unix(7)).
const SUN_PATH: usize = 107;

/// A path that fits, and what keeps it valid.
fn short(path: &Path) -> std::io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().len() <= SUN_PATH {
        return Ok((path.to_owned(), None));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(parent)?;
    Ok((Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name), Some(folder)))
}

/// Listens at `path`, for our user only.
///
/// # Errors
/// The operating system's, with the path; `AddrInUse` where something is there.
pub(crate) fn listen(path: &Path) -> Result<UnixListener> {
    let bind = || {
        let (short, _folder) = short(path)?;
        let listener = UnixListener::bind(&short)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error| Error::os(format!("listen at {}", path.display()), error))
}

/// Whether something answers at `path`.
pub(crate) fn answers(path: &Path) -> bool {
    short(path).and_then(|(short, _folder)| UnixStream::connect(short)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_works() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("x".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("s");
        assert!(!answers(&path));
        let listener = listen(&path).unwrap();
        assert!(answers(&path));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!answers(&path) && path.exists());
    }
}
