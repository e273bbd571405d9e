//! One daemon a root: an exclusive lock on `<root>/lock`, which holds the pid of its owner.

use crated_types::{Error, Fault, Kind, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The lock; dropped or with the process dead, the root is free.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

impl RootLock {
    /// Takes the lock of `root`.
    ///
    /// # Errors
    /// [`Fault::InUse`] that names the owner's pid; what the file system says.
    pub fn take(root: &Path) -> Result<Self> {
        let path = root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::os(format!("open {}", path.display()), error))?;
        match crated_sys::fs::lock_soon(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut owner);
                let owner = owner.trim();
                return Err(Error::new(
                    Fault::InUse,
                    format!("root is in use by crated pid {}", if owner.is_empty() { "?" } else { owner }),
                )
                .on(Kind::File, root.display())
                .remedy_is(format!(
                    "stop that daemon (kill {owner}), or start this one with another --root and --state"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Error::os(format!("lock {}", path.display()), error)),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        written.map_err(|error| Error::os(format!("write {}", path.display()), error))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_a_dying_owner_left_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let lock = RootLock::take(root.path()).unwrap();
        let copy = lock._file.try_clone().unwrap();
        drop(lock);
        let going = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            drop(copy);
        });
        RootLock::take(root.path()).unwrap();
        going.join().unwrap();
    }

    #[test]
    fn a_root_has_one_owner_and_the_error_names_it() {
        let root = tempfile::tempdir().unwrap();
        let lock = RootLock::take(root.path()).unwrap();
        let error = RootLock::take(root.path()).unwrap_err();
        assert_eq!(error.fault(), Fault::InUse);
        assert!(error.to_string().contains(&format!("in use by crated pid {}", std::process::id())), "{error}");
        drop(lock);
        RootLock::take(root.path()).unwrap();
    }
}
