//! Bundles on disk: `<state>/io.containerd.runtime.v2.task/<namespace>/<id>`, as containerd's tools expect them.

use crated_types::{ContainerId, Error, Namespace, Result};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Name of the folder below root and state.
const FOLDER: &str = "io.containerd.runtime.v2.task";

/// Paths of one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
    pub(crate) work: PathBuf,
}

fn private(path: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::os(format!("create folder {}", path.display()), error)),
    }
}

/// Makes the folders above all bundles, and the one of the sockets.
pub(crate) fn prepare(root: &Path, state: &Path) -> Result<()> {
    for base in [root, state] {
        fs::create_dir_all(base).map_err(|error| Error::os(format!("create folder {}", base.display()), error))?;
        private(&base.join(FOLDER), 0o711)?;
    }
    private(&sockets(state), 0o700)
}

/// Folder of the shims' sockets.
pub(crate) fn sockets(state: &Path) -> PathBuf {
    state.join("s")
}

/// Folder of all bundles.
pub(crate) fn all(state: &Path) -> PathBuf {
    state.join(FOLDER)
}

impl Bundle {
    pub(crate) fn new(root: &Path, state: &Path, namespace: &Namespace, id: &ContainerId) -> Self {
        let below = |base: &Path| base.join(FOLDER).join(namespace.as_str()).join(id.as_str());
        Self { path: below(state), work: below(root) }
    }

    /// The bundle of a path below `state` that was recorded or listed.
    pub(crate) fn at(root: &Path, path: &Path) -> Self {
        let id = path.file_name().unwrap_or_default();
        let namespace = path.parent().and_then(Path::file_name).unwrap_or_default();
        Self { path: path.into(), work: root.join(FOLDER).join(namespace).join(id) }
    }

    /// Writes the bundle: `config.json`, `rootfs/`, `work`, `shim-binary-path`.
    pub(crate) fn create(&self, spec: &[u8], shim: &Path) -> Result<()> {
        self.remove()?;
        for path in [&self.path, &self.work] {
            if let Some(parent) = path.parent() {
                private(parent, 0o711)?;
            }
            private(path, 0o700)?;
        }
        private(&self.path.join("rootfs"), 0o711)?;
        let work = self.path.join("work");
        symlink(&self.work, &work).map_err(|error| Error::os(format!("symlink {}", work.display()), error))?;
        self.write("config.json", spec)?;
        self.write("shim-binary-path", shim.as_os_str().as_encoded_bytes())
    }

    /// Writes a small file of the bundle.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, bytes)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .map_err(|error| Error::os(format!("write {}", path.display()), error))
    }

    /// Removes bundle and work folder. Repeatable; the name is free before the contents are gone.
    pub(crate) fn remove(&self) -> Result<()> {
        for path in [&self.path, &self.work] {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let aside = parent.join(format!(".{}", name.to_string_lossy()));
            gone(fs::remove_dir_all(&aside), "remove", &aside)?;
            gone(fs::rename(path, &aside), "rename", path)?;
            gone(fs::remove_dir_all(&aside), "remove", &aside)?;
        }
        Ok(())
    }
}

fn gone(answer: std::io::Result<()>, what: &str, path: &Path) -> Result<()> {
    match answer {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::os(format!("{what} {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_made_and_removed_whole() {
        let temp = tempfile::tempdir().unwrap();
        let (root, state) = (temp.path().join("root"), temp.path().join("state"));
        prepare(&root, &state).unwrap();
        let bundle = Bundle::new(&root, &state, &"ns".parse().unwrap(), &"c1".parse().unwrap());
        for _ in 0..2 {
            bundle.create(b"{}", Path::new("/bin/shim")).unwrap();
            assert_eq!(fs::read(bundle.path.join("config.json")).unwrap(), b"{}");
            assert_eq!(fs::metadata(&bundle.path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert_eq!(Bundle::at(&root, &bundle.path), bundle);
        bundle.remove().unwrap();
        bundle.remove().unwrap();
        assert_eq!(fs::read_dir(bundle.path.parent().unwrap()).unwrap().count(), 0);
    }
}
