//! What is remembered of a container between two commands: a folder with the spec, the state and the gate's socket.
//!
//! The truth about its process is the pidfd; a pid counts only with the start time that was noted for it.

use std::{
    fs::{File, Permissions},
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crated_sys::{fs::Lock, pidfd, process};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::{Cgroup, CgroupPath},
    container::{Container, Facets, base_state},
    error::{OciError, Result, Step},
    plan::{self, Facts},
};

/// The record of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// Clock ticks since boot at which the process began.
    pub(crate) start_time: u64,
    pub(crate) boot: String,
    pub(crate) bundle: PathBuf,
    pub(crate) created: String,
    pub(crate) no_new_keyring: bool,
}

/// How a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container as the store knows it.
pub(crate) struct Known {
    pub(crate) dir: PathBuf,
    pub(crate) record: Record,
    pub(crate) spec: Spec,
    /// `None`: the process is gone.
    pidfd: Option<OwnedFd>,
    _lock: Lock,
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> OciError + '_ {
    move |e| OciError::File { path: path.to_owned(), reason: e.to_string() }
}

/// Letters, digits and `_ + - .`, at most 1024, as runc takes them.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(fine) {
        return Err(OciError::spec("id", format!("{id:?}: letters, digits and _ + - . are allowed")));
    }
    Ok(())
}

/// Takes an id: its folder is new and ours, and holds the spec.
pub(crate) fn reserve(root: &Path, id: &str, bundle: &Path) -> Result<PathBuf> {
    check_id(id)?;
    std::fs::create_dir_all(root).map_err(file(root))?;
    std::fs::set_permissions(root, Permissions::from_mode(0o711)).map_err(file(root))?;
    let dir = root.join(id);
    match std::fs::create_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Err(OciError::Exists { id: id.to_owned() }),
        other => other.map_err(file(&dir))?,
    }
    let prepare = || {
        std::fs::set_permissions(&dir, Permissions::from_mode(0o700)).map_err(file(&dir))?;
        let source = bundle.join("config.json");
        std::fs::copy(&source, dir.join("config.json")).map(drop).map_err(file(&source))
    };
    prepare().inspect_err(|_| drop(std::fs::remove_dir_all(&dir)))?;
    Ok(dir)
}

/// Notes a container, whole or not at all.
pub(crate) fn save(dir: &Path, record: &Record) -> Result<()> {
    let (temporary, path) = (dir.join("state.json.new"), dir.join("state.json"));
    let bytes = serde_json::to_vec_pretty(record).map_err(|e| OciError::Protocol(e.to_string()))?;
    let mut out = File::create(&temporary).map_err(file(&temporary))?;
    out.write_all(&bytes).map_err(file(&temporary))?;
    std::fs::rename(&temporary, &path).map_err(file(&path))
}

impl Record {
    pub(crate) fn new(container: &Container, no_new_keyring: bool) -> Result<Record> {
        let step = || "note the process".to_owned();
        Ok(Record {
            id: container.id().to_owned(),
            pid: container.pid(),
            start_time: process::start_time(container.pid()).step(step)?,
            boot: crated_sys::kernel::boot_id().step(step)?,
            bundle: container.facets.bundle.clone(),
            created: now(),
            no_new_keyring,
        })
    }

    /// The process, if it is still the one that was noted.
    fn open(&self) -> Option<OwnedFd> {
        if crated_sys::kernel::boot_id().ok()? != self.boot {
            return None;
        }
        let fd = pidfd::open(self.pid).ok()?;
        let same = process::start_time(self.pid).is_ok_and(|t| t == self.start_time);
        (same && !pidfd::has_exited(fd.as_fd())).then_some(fd)
    }
}

/// Looks a container up and locks it against other commands.
pub(crate) fn open(root: &Path, id: &str) -> Result<Known> {
    check_id(id)?;
    let dir = root.join(id);
    let missing = || OciError::NotFound { id: id.to_owned() };
    let flags = crated_sys::OFlag::O_RDONLY | crated_sys::OFlag::O_DIRECTORY;
    let handle = crated_sys::fs::open(&dir, flags, 0).map_err(|_| missing())?;
    let lock = Lock::exclusive(handle).step(|| format!("lock {}", dir.display()))?;
    let path = dir.join("state.json");
    let text = std::fs::read(&path).map_err(|_| missing())?;
    let record: Record = serde_json::from_slice(&text).map_err(|e| file(&path)(e.into()))?;
    let pidfd = record.open();
    let spec = crate::spec::load(&dir)?;
    Ok(Known { dir, record, spec, pidfd, _lock: lock })
}

impl Known {
    pub(crate) fn gate(&self) -> PathBuf {
        self.dir.join("gate")
    }

    pub(crate) fn status(&self) -> Status {
        if self.pidfd.is_none() {
            return Status::Stopped;
        }
        if self.gate().exists() {
            return Status::Created;
        }
        match self.cgroup().and_then(|c| Ok(c.is_frozen()?)) {
            Ok(true) => Status::Paused,
            _ => Status::Running,
        }
    }

    pub(crate) fn path(&self) -> Result<CgroupPath> {
        let linux = self.spec.linux().as_ref();
        Ok(CgroupPath::new(linux.and_then(|l| l.cgroups_path().as_deref()), &self.record.id)?)
    }

    pub(crate) fn cgroup(&self) -> Result<Cgroup> {
        Ok(Cgroup::open(&self.path()?)?)
    }

    /// What of the spec later commands need, compiled again.
    pub(crate) fn facets(&self) -> Result<Facets> {
        let facts = Facts { id: self.record.id.clone(), root_given: true, ..crate::container::host_facts() };
        let plan = plan::compile(&self.spec, &facts)?;
        let state = base_state(&self.record.id, &self.record.bundle, &self.spec);
        Ok(Facets::of(&self.record.id, &self.record.bundle, state, &self.spec, &plan, self.record.no_new_keyring))
    }

    /// The container, if it lives.
    pub(crate) fn container(&mut self, action: &'static str) -> Result<Container> {
        let fd = self.pidfd.take().ok_or_else(|| OciError::State {
            id: self.record.id.clone(),
            state: "stopped".into(),
            action,
        })?;
        Ok(Container::adopt(self.facets()?, self.record.pid, fd, self.cgroup()?))
    }

    pub(crate) fn wrong_state(&self, action: &'static str) -> OciError {
        OciError::State { id: self.record.id.clone(), state: self.status().name().into(), action }
    }

    /// Forgets it. The folder goes last: until then the id is taken.
    pub(crate) fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.dir).map_err(file(&self.dir))
    }
}

/// Takes away what a create that was cut off has left: a folder without a record, and its cgroup.
pub(crate) fn remove_remains(root: &Path, id: &str) -> Result<()> {
    check_id(id)?;
    let dir = root.join(id);
    if let Ok(spec) = crate::spec::load(&dir) {
        let path = CgroupPath::new(spec.linux().as_ref().and_then(|l| l.cgroups_path().as_deref()), id)?;
        if let Ok(cgroup) = Cgroup::open(&path) {
            cgroup.kill_all(9)?;
            cgroup.remove()?;
        }
    }
    match std::fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file(&dir)(e)),
        _ => Ok(()),
    }
}

/// Ids of all containers.
pub(crate) fn ids(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut ids: Vec<String> = entries
        .filter(|e| e.path().join("state.json").exists())
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    ids.sort();
    ids
}

/// The time of day as RFC 3339, UTC.
pub(crate) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_secs(), since.subsec_nanos())
}

/// Days to a date by the rule of 400-year cycles that begin in March.
fn rfc3339(seconds: u64, nanos: u32) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_827_696, 5), "2000-02-29T12:34:56.000000005Z");
        assert_eq!(rfc3339(1_798_761_599, 0), "2026-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn ids_are_no_paths() {
        for id in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(check_id(id).is_err(), "{id}");
        }
        check_id("a-b_c+d.1").unwrap();
    }
}
