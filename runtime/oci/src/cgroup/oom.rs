//! Lack of memory, seen: a descriptor that becomes readable and a counter of killed processes.

use super::error::{Error, Result};
use super::file;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Watches one container's memory.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    dir: PathBuf,
    unified: bool,
}

impl OomWatch {
    /// v1: an eventfd tied to `memory.oom_control` (memory.rst §10); the kernel also writes to it when the cgroup is removed.
    pub(super) fn v1(dir: &Path) -> Result<Self> {
        let fd = crated_sys::cgroup::eventfd().map_err(failed("make an eventfd"))?;
        let path = dir.join("memory.oom_control");
        let control = File::open(&path).map_err(Error::file("open", &path))?;
        file::write(dir, "cgroup.event_control", &format!("{} {}", fd.as_raw_fd(), control.as_raw_fd()))?;
        Ok(Self { fd, dir: dir.into(), unified: false })
    }

    /// v2: inotify on `memory.events`, which changes with every limit that is hit, too.
    pub(super) fn v2(dir: &Path) -> Result<Self> {
        let path = dir.join("memory.events");
        if !path.exists() {
            return Err(Error::Missing { controller: "memory".into(), asked: "watching for lack of memory" });
        }
        let fd = crated_sys::cgroup::watch_modified(&path).map_err(failed("watch memory.events"))?;
        Ok(Self { fd, dir: dir.into(), unified: true })
    }

    /// How many processes of the container were killed for lack of memory since it exists; after the descriptor was
    /// readable, call it to clear that. A cgroup that is gone counts 0.
    ///
    /// # Errors
    /// The file that could not be read.
    pub fn kills(&self) -> Result<u64> {
        if self.unified {
            crated_sys::cgroup::drain(&self.fd).map_err(failed("read inotify"))?;
        } else {
            crated_sys::cgroup::read_eventfd(&self.fd).map_err(failed("read an eventfd"))?;
        }
        let name = if self.unified { "memory.events" } else { "memory.oom_control" };
        // `oom_kill` of memory.oom_control is there since Linux 4.13.
        Ok(file::read_optional(&self.dir, name)?.map_or(0, |text| file::keyed(&text, "oom_kill")))
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn failed(operation: &'static str) -> impl FnOnce(crated_sys::SysError) -> Error {
    move |error| Error::System { operation, source: error.into() }
}
