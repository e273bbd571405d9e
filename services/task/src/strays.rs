//! What shims and containers of an earlier life left and no task has: bundles, sockets, mounts, empty cgroups.

use crate::bundle::{self, Bundle};
use crate::manager::{Inner, Manager};
use async_trait::async_trait;
use crated_api::containerd::events::TaskCreate;
use crated_core::check::{Stray, Strays};
use crated_core::metadata::Cursor;
use crated_core::record::{CONTAINERS, TASKS, TaskRecord};
use crated_sys::mount::MntFlags;
use crated_types::{ContainerId, Error, Fault, Namespace, Result};
use prost::Message;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a container's cgroup is unless it asked for another place; other daemons on this host have theirs there, too.
const CGROUPS: &str = "crated";
/// An empty cgroup that is younger may be one in the making, also of another daemon.
const CGROUP_AGE: Duration = Duration::from_secs(60);

/// Events that are read at once.
const EVENTS: usize = 1000;

/// What is found on the host, before any record is read.
#[derive(Debug, Default)]
struct Found {
    bundles: Vec<PathBuf>,
    works: Vec<PathBuf>,
    sockets: Vec<PathBuf>,
    mounts: Vec<PathBuf>,
    cgroups: Vec<PathBuf>,
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Looks at the host. Blocking.
fn look(root: &Path, state: &Path) -> Found {
    let below = |folder: PathBuf| entries(&folder).iter().flat_map(|namespace| entries(namespace)).collect();
    Found {
        bundles: below(bundle::all(state)),
        works: below(bundle::all(root)),
        sockets: entries(&bundle::sockets(state)),
        mounts: mounts(&[bundle::all(state), bundle::all(root)]),
        cgroups: idle_cgroups(),
    }
}

/// Mount points of this mount namespace below some folders, innermost first.
fn mounts(folders: &[PathBuf]) -> Vec<PathBuf> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let mut found: Vec<PathBuf> =
        points.map(unescaped).filter(|point| folders.iter().any(|folder| point.starts_with(folder))).collect();
    found.reverse();
    found
}

/// Undoes the octal escapes of mountinfo (proc_pid_mountinfo(5)).
fn unescaped(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits = field.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| field[at] == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Cgroups named by a container's id in which nobody is, in each hierarchy.
fn idle_cgroups() -> Vec<PathBuf> {
    let mount = Path::new("/sys/fs/cgroup");
    let hierarchies = std::iter::once(mount.to_owned()).chain(entries(mount));
    let places = hierarchies.flat_map(|hierarchy| entries(&hierarchy.join(CGROUPS)));
    places.filter(|path| is_id(&name(path)) && is_idle(path)).collect()
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_idle(cgroup: &Path) -> bool {
    let empty = std::fs::read(cgroup.join("cgroup.procs")).is_ok_and(|text| text.is_empty());
    let old = || {
        std::fs::metadata(cgroup)
            .and_then(|found| found.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > CGROUP_AGE))
    };
    empty && old() && entries(cgroup).iter().filter(|path| path.is_dir()).all(|below| is_idle(below))
}

/// Removes a cgroup with those below it. Blocking.
fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    for below in entries(path).iter().filter(|path| path.is_dir()) {
        remove_cgroup(below)?;
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Inner {
    async fn strays(&self) -> Result<Vec<Stray>> {
        let (root, state) = (self.config.root.clone(), self.config.state.clone());
        // in this order: a task's record is there before anything of it, and goes last
        let found = tokio::task::spawn_blocking(move || look(&root, &state))
            .await
            .map_err(|gone| Error::internal("looking for strays").caused_by(gone))?;
        let records = TASKS.list(&*self.store, &TASKS.prefix("")).await?;
        let known: BTreeSet<PathBuf> = records.iter().map(|(_, _, record)| PathBuf::from(&record.bundle)).collect();
        let works: BTreeSet<PathBuf> = known.iter().map(|path| Bundle::at(&self.config.root, path).work).collect();
        let sockets: BTreeSet<PathBuf> =
            records.iter().filter_map(|(_, _, record)| crate::shim::socket_path(&record.address).ok()).collect();
        let keys = self.store.scan_all(&CONTAINERS.prefix("")).await?;
        let ids: BTreeSet<&str> = keys.iter().filter_map(|(key, _)| Some(CONTAINERS.parts(key)?.1)).collect();
        let mut strays = Vec::new();
        let mut add = |kind, path: &Path, why: &str| strays.push(Stray { kind, path: path.into(), why: why.into() });
        for path in found.mounts.iter().filter(|path| !known.iter().chain(&works).any(|own| path.starts_with(own))) {
            add("mount", path, "it is below the bundle of no task");
        }
        for path in found.bundles.iter().filter(|path| !known.contains(*path)) {
            add("bundle", path, "no task has it");
        }
        for path in found.works.iter().filter(|path| !works.contains(*path)) {
            add("folder", path, "it is the work folder of no task");
        }
        for path in &found.sockets {
            let text = path.display().to_string();
            let own = text.strip_suffix(crated_types::attach::SOCKET_SUFFIX).unwrap_or(&text);
            if !sockets.contains(Path::new(own)) {
                add("socket", path, "the shim of no task has it");
            }
        }
        let idle: Vec<&PathBuf> = found.cgroups.iter().filter(|path| !ids.contains(name(path).as_str())).collect();
        let ours = self.had(idle.iter().map(|path| name(path)).collect()).await?;
        for path in idle.into_iter().filter(|path| ours.contains(&name(path))) {
            add("cgroup", path, "nobody is in it and its container is gone");
        }
        Ok(strays)
    }

    /// Those of `ids` that the event log knows as containers of ours: other daemons on this host have cgroups beside ours.
    async fn had(&self, ids: BTreeSet<String>) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        let mut after = Cursor::default();
        while found.len() < ids.len() {
            let page = match self.store.events(after, EVENTS).await {
                Ok(page) => page,
                // What the log does not keep any more cannot be proven ours.
                Err(error) if error.fault() == Fault::OutOfRange => break,
                Err(error) => return Err(error),
            };
            let Some(last) = page.last() else { break };
            after = last.cursor;
            for logged in page.iter().filter(|logged| logged.event.topic == "/tasks/create") {
                let bytes = logged.event.event.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
                if let Ok(created) = TaskCreate::decode(bytes)
                    && ids.contains(&created.container_id)
                {
                    found.insert(created.container_id);
                }
            }
        }
        Ok(found)
    }

    /// Ends a shim that may still be behind a bundle, and removes the bundle.
    async fn clear_bundle(&self, path: &Path) -> Result<()> {
        let namespace = path.parent().map(name).unwrap_or_default().parse::<Namespace>();
        let (Ok(namespace), Ok(id)) = (namespace, name(path).parse::<ContainerId>()) else {
            return Bundle::at(&self.config.root, path).remove();
        };
        let record = TaskRecord {
            id: id.to_string(),
            bundle: path.display().to_string(),
            runtime: std::fs::read_to_string(path.join("shim-binary-path")).unwrap_or_default(),
            ..TaskRecord::default()
        };
        self.undo(&namespace, &id, &record).await
    }

    async fn clear_away(&self, stray: &Stray) -> Result<()> {
        let path = stray.path.as_path();
        let failed = |error| Error::os(format!("remove {}", path.display()), error);
        match stray.kind {
            "bundle" => self.clear_bundle(path).await,
            "mount" => crated_sys::mount::umount(path, MntFlags::MNT_DETACH)
                .map_err(|error| Error::os(format!("unmount {}", path.display()), error.into())),
            "cgroup" => remove_cgroup(path).map_err(failed),
            "socket" => match std::fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            },
            _ => {
                let parent = path.parent().unwrap_or(path);
                let removed = std::fs::File::open(parent)
                    .and_then(|parent| crated_sys::tree::remove(&parent, path.file_name().unwrap_or_default()));
                match removed {
                    Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
                    _ => Ok(()),
                }
            }
        }
    }
}

#[async_trait]
impl Strays for Manager {
    async fn strays(&self) -> Result<Vec<Stray>> {
        self.inner.strays().await
    }

    async fn clear(&self, stray: &Stray) -> Result<String> {
        // it may have become somebody's since it was found
        if !self.inner.strays().await?.contains(stray) {
            return Ok("gone or in use meanwhile".into());
        }
        self.inner.clear_away(stray).await.map(|()| "removed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_mountinfo_are_undone() {
        assert_eq!(unescaped(br"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescaped(br"/plain\0"), PathBuf::from(r"/plain\0"));
    }
}
