//! Whom a process runs as: `user[:group]` of an image or a person, read from the container's own files, never through a path
//! of the host.

use crated_spec::{User, passwd};
use crated_sys::Errno;
use crated_sys::path::Root;
use crated_types::{Error, Kind, Mount, Result, SnapshotKey};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::engine::blocking;
use crate::rootfs::{self, Access};

/// Longest passwd or group file that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// The home of root where no file says otherwise.
const ROOT_HOME: &str = "/root";

/// Identities that are remembered.
const KNOWN_MAX: usize = 256;

/// Identities found in images: the files below a chain id never change, so its file system need not be opened twice.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<VecDeque<(Asked, User)>>);

/// Chain id, user, further groups.
type Asked = (SnapshotKey, String, Vec<String>);

impl Known {
    /// The identity in a fresh snapshot above `chain`.
    pub(crate) async fn resolve(
        &self,
        chain: Option<&SnapshotKey>,
        mounts: Vec<Mount>,
        user: &str,
        groups: &[String],
    ) -> Result<User> {
        let Some(chain) = chain else { return resolve_mounts(mounts, user, groups).await };
        let asked = (chain.clone(), user.to_owned(), groups.to_vec());
        let known =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|(known, _)| *known == asked).cloned();
        if let Some((_, user)) = known {
            return Ok(user);
        }
        let user = resolve_mounts(mounts, user, groups).await?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.pop_front();
        }
        known.push_back((asked, user.clone()));
        Ok(user)
    }
}

/// The identity in a root file system that is not running.
async fn resolve_mounts(mounts: Vec<Mount>, user: &str, groups: &[String]) -> Result<User> {
    let (user, groups) = (user.to_owned(), groups.to_vec());
    blocking(move || {
        if is_root(&user) && groups.is_empty() && !has_etc(&mounts) {
            return Ok(root());
        }
        resolve(&rootfs::open(&mounts, Access::ReadOnly)?, &user, &groups)
    })
    .await
}

/// The identity in the file system of a running process.
pub(crate) async fn resolve_running(pid: u32, user: &str, groups: &[String]) -> Result<User> {
    let (user, groups) = (user.to_owned(), groups.to_vec());
    blocking(move || resolve(&rootfs::of_process(pid)?, &user, &groups)).await
}

fn resolve(root: &Root, user: &str, groups: &[String]) -> Result<User> {
    let users = read(root, "/etc/passwd")?;
    let names = read(root, "/etc/group")?;
    passwd::resolve(user, &users, &names, groups)
}

/// A file of the container; one that is not there (or is no file) counts as empty.
fn read(root: &Root, path: &str) -> Result<Vec<u8>> {
    match root.read(Path::new(path), FILE_MAX) {
        Ok(bytes) => Ok(bytes),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR | Errno::EINVAL | Errno::ELOOP) => {
            Ok(Vec::new())
        }
        Err(error) => Err(Error::os(format!("read {path} of the container"), error.into()).on(Kind::File, path)),
    }
}

fn is_root(user: &str) -> bool {
    matches!(user, "" | "0" | "root" | "0:0" | "root:root")
}

fn root() -> User {
    User { home: Some(ROOT_HOME.into()), ..User::default() }
}

/// Whether some layer has a folder `etc`; a root file system of one static program has none, and need not be opened at all.
fn has_etc(mounts: &[Mount]) -> bool {
    let folders = mounts.iter().flat_map(|mount| {
        let layers = mount.options.iter().filter_map(|option| option.strip_prefix("lowerdir="));
        layers.flat_map(|text| text.split(':')).chain((mount.fstype == "bind").then_some(mount.source.as_str()))
    });
    let mut folders = folders.peekable();
    if folders.peek().is_none() {
        return true;
    }
    folders.any(|folder| std::fs::symlink_metadata(Path::new(folder).join("etc")).is_ok())
}
