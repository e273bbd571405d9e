//! The cgroups of a container: one folder a controller on cgroup v1, one folder on v2; made, limited, joined, read, removed.
//!
//! ```text
//! create ──▶ (clone with dir_fd) ──▶ join_files: the child writes "0" ──▶ set, freeze, thaw, stats … ──▶ kill_all ──▶ remove
//! ```
//!
//! How a process gets in decides how fast a container starts. On v2 `clone3` puts it there ([`Cgroup::dir_fd`]). On v1 each
//! hierarchy needs a write; when *another* process writes the pid to `cgroup.procs`, the kernel takes a lock that waits
//! for an RCU grace period, 5 to 15 ms. A single-threaded child that writes `0` to `tasks` needs no such lock
//! (kernel/cgroup/cgroup.c, `cgroup_attach_lock`): that is [`Cgroup::join_files`]. [`Cgroup::add`] is the slow way, for
//! processes that someone else made. Hosts with v1 and v2 side by side use v2 for what it does better: kill, freeze, list.

mod bpf;
mod convert;
mod devices;
mod error;
mod file;
mod host;
mod oom;
mod path;
mod stats;
mod v1;
mod v2;

pub use error::{Error, Result};
pub use oom::OomWatch;
pub use path::CgroupPath;
pub use stats::{
    BlkioEntry, CgroupProcesses, HugetlbStat, IoEntry, MemoryEvents, Metrics, PsiData, PsiStats, RdmaEntry, V1Cpu,
    V1Memory, V1MemoryEntry, V1Metrics, V1OomControl, V2Cpu, V2Memory, V2Metrics,
};

use host::Host;
use oci_spec::runtime::LinuxResources;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long freezing, killing and removing may take before it is an error.
const PATIENCE: Duration = Duration::from_secs(5);
/// Deepest tree of cgroups below a container that is walked.
const DEPTH_MAX: usize = 64;

/// The cgroups of one container.
#[derive(Debug)]
pub struct Cgroup {
    path: CgroupPath,
    /// One a hierarchy of v1; empty on a unified host.
    v1: Vec<v1::Dir>,
    /// The folder in v2, where that is mounted.
    unified: Option<Unified>,
}

#[derive(Debug)]
struct Unified {
    dir: PathBuf,
    fd: OwnedFd,
}

impl Cgroup {
    /// Makes the folders (and missing parents) and applies `resources`. A cgroup that exists is taken over where it has
    /// no processes. On failure nothing that this call made is left.
    ///
    /// # Errors
    /// [`Error::Missing`] for a limit whose controller the host does not have; [`Error::NotEmpty`]; else file and value.
    pub fn create(path: &CgroupPath, resources: Option<&LinuxResources>) -> Result<Self> {
        let host = Host::get()?;
        let mut made = Vec::new();
        Self::make(host, path, resources, &mut made).inspect_err(|_| {
            for dir in made.iter().rev() {
                let _ = std::fs::remove_dir(dir);
            }
        })
    }

    fn make(
        host: &'static Host,
        path: &CgroupPath,
        resources: Option<&LinuxResources>,
        made: &mut Vec<PathBuf>,
    ) -> Result<Self> {
        let mut v1 = Vec::with_capacity(host.v1.len());
        for hierarchy in &host.v1 {
            v1.push(v1::Dir::create(hierarchy, path, made)?);
        }
        let mut unified = None;
        if let Some(mount) = &host.unified {
            let dir = v2::create(mount, path, host.v1.is_empty(), made)?;
            let fd = open_dir(&dir)?;
            unified = Some(Unified { dir, fd });
        }
        let cgroup = Self { path: path.clone(), v1, unified };
        if let Some(resources) = resources {
            cgroup.apply(resources, true)?;
        }
        Ok(cgroup)
    }

    /// The cgroups of a container that exists.
    ///
    /// # Errors
    /// One for which [`Error::is_not_found`] holds where no hierarchy has them.
    pub fn open(path: &CgroupPath) -> Result<Self> {
        let host = Host::get()?;
        let v1: Vec<_> = host.v1.iter().filter_map(|hierarchy| v1::Dir::open(hierarchy, path)).collect();
        let mut unified = None;
        if let Some(mount) = &host.unified {
            let dir = path.below(mount);
            match open_dir(&dir) {
                Ok(fd) => unified = Some(Unified { dir, fd }),
                Err(error) if error.is_not_found() && !v1.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        if v1.is_empty() && unified.is_none() {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::File { operation: "open cgroup", path: path.absolute().into(), source });
        }
        Ok(Self { path: path.clone(), v1, unified })
    }

    /// The path below the root of every hierarchy.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Whether limits and figures are those of cgroup v2.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.v1.is_empty()
    }

    /// The folder in the v2 hierarchy, for `CLONE_INTO_CGROUP`; on a v1 host [`Cgroup::join_files`] is needed as well.
    #[must_use]
    pub fn dir_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|unified| unified.fd.as_fd())
    }

    /// Files to each of which a single-threaded child writes `0` to place itself, before it gives up its privileges.
    /// Complete together with [`Cgroup::dir_fd`]: empty on a unified host.
    ///
    /// # Errors
    /// The file that could not be opened.
    pub fn join_files(&self) -> Result<Vec<OwnedFd>> {
        self.v1.iter().map(|dir| open_write(&dir.path.join("tasks"))).collect()
    }

    /// Moves a process and all its threads into every hierarchy, from outside.
    ///
    /// # Errors
    /// The file that refused it.
    pub fn add(&self, pid: i32) -> Result<()> {
        let value = pid.to_string();
        self.folders().try_for_each(|dir| file::write(dir, "cgroup.procs", &value))
    }

    /// Applies limits to a cgroup in use; what `resources` does not name stays as it is.
    ///
    /// # Errors
    /// As [`Cgroup::create`]; limits that came before the refused one stay applied.
    pub fn set(&self, resources: &LinuxResources) -> Result<()> {
        self.apply(resources, false)
    }

    fn apply(&self, resources: &LinuxResources, fresh: bool) -> Result<()> {
        if self.v1.is_empty() {
            let unified = self.unified.as_ref().ok_or(Error::NoCgroups)?;
            v2::apply(&unified.dir, unified.fd.as_fd(), resources, fresh)
        } else {
            v1::apply(&self.v1, resources, fresh)
        }
    }

    /// Stops every process; answers when all are stopped.
    ///
    /// # Errors
    /// [`Error::Late`] where one does not stop (it is thawed again); [`Error::Missing`] without a freezer.
    pub fn freeze(&self) -> Result<()> {
        let frozen = match &self.unified {
            Some(unified) if v2::has_freezer(&unified.dir) => v2::freeze(&unified.dir, PATIENCE),
            _ => self.freezer()?.freeze(PATIENCE),
        };
        if frozen.is_err() {
            let _ = self.thaw();
        }
        frozen
    }

    /// Lets every process go on.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn thaw(&self) -> Result<()> {
        match &self.unified {
            Some(unified) if v2::has_freezer(&unified.dir) => v2::thaw(&unified.dir),
            _ => self.freezer()?.thaw(),
        }
    }

    /// Whether all processes are stopped by [`Cgroup::freeze`].
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn is_frozen(&self) -> Result<bool> {
        match &self.unified {
            Some(unified) if v2::has_freezer(&unified.dir) => v2::is_frozen(&unified.dir),
            _ => self.freezer()?.is_frozen(),
        }
    }

    fn freezer(&self) -> Result<&v1::Dir> {
        v1::find(&self.v1, "freezer", "freezing")
    }

    /// Every process of the cgroup and of those below it, in the caller's PID namespace.
    ///
    /// # Errors
    /// The file that could not be read; a cgroup that is gone has none.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let Some(dir) = self.primary() else { return Ok(Vec::new()) };
        let mut pids = Vec::new();
        walk(dir, DEPTH_MAX, &mut |dir| {
            match file::read_optional(dir, "cgroup.procs")? {
                // 0 is a process that the reader's PID namespace does not show.
                Some(text) => {
                    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0))
                }
                None => return Ok(()),
            }
            Ok(())
        })?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// The hierarchy that lists processes best.
    fn primary(&self) -> Option<&Path> {
        let v1 = || {
            let of = |name| self.v1.iter().find(|dir| dir.has(name));
            of("pids").or_else(|| of("freezer")).or(self.v1.first()).map(|dir| dir.path.as_path())
        };
        self.unified.as_ref().map(|unified| unified.dir.as_path()).or_else(v1)
    }

    /// Sends `signal` to every process, new ones included: SIGKILL by `cgroup.kill` (Linux 5.14) where there is v2; else, and
    /// for other signals, to all of them while they are frozen. It does not wait for their end.
    ///
    /// # Errors
    /// The file or process that refused; processes that are gone are none.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        const SIGKILL: i32 = 9;
        if signal == SIGKILL
            && let Some(unified) = &self.unified
        {
            match file::write(&unified.dir, "cgroup.kill", "1") {
                Ok(()) => return Ok(()),
                Err(error) if error.is_not_found() && !unified.dir.exists() => return Ok(()),
                Err(_) => {}
            }
        }
        // Not every cgroup can be frozen; then a fork may slip through and the next round finds it.
        let frozen = self.freeze().is_ok();
        let sent = self.pids().and_then(|pids| pids.into_iter().try_for_each(|pid| send(pid, signal)));
        if frozen {
            self.thaw()?;
        }
        sent?;
        if signal == SIGKILL && !frozen {
            for _ in 0..16 {
                let pids = self.pids()?;
                if pids.is_empty() {
                    break;
                }
                pids.into_iter().try_for_each(|pid| send(pid, signal))?;
            }
        }
        Ok(())
    }

    /// The figures of the moment.
    ///
    /// # Errors
    /// The file that could not be read; absent files and controllers count as zero.
    pub fn stats(&self) -> Result<Metrics> {
        match &self.unified {
            Some(unified) if self.v1.is_empty() => Ok(Metrics::V2(Box::new(stats::v2(&unified.dir)?))),
            _ => Ok(Metrics::V1(Box::new(stats::v1(&self.v1)?))),
        }
    }

    /// Watches for processes killed because memory ran out.
    ///
    /// # Errors
    /// [`Error::Missing`] without a memory controller.
    pub fn oom(&self) -> Result<OomWatch> {
        match &self.unified {
            Some(unified) if self.v1.is_empty() => OomWatch::v2(&unified.dir),
            _ => OomWatch::v1(&v1::find(&self.v1, "memory", "watching for lack of memory")?.path),
        }
    }

    /// Removes the folders and all below them; those that are gone are no error. The processes must have been killed; it
    /// waits a bounded time for the last of them to be reaped.
    ///
    /// # Errors
    /// The folder that stayed; the others are removed.
    pub fn remove(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut outcome = Ok(());
        for dir in self.folders() {
            if let Err(error) = remove_tree(dir, end) {
                outcome = Err(error);
            }
        }
        outcome
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        let unified = self.unified.iter().map(|unified| unified.dir.as_path());
        self.v1.iter().map(|dir| dir.path.as_path()).chain(unified)
    }
}

fn send(pid: i32, signal: i32) -> Result<()> {
    match crated_sys::cgroup::kill(pid, signal) {
        Ok(()) => Ok(()),
        Err(error) if error.errno as i32 == 3 => Ok(()), // ESRCH: it ended by itself
        Err(error) => Err(Error::System { operation: "kill a process of the cgroup", source: error.into() }),
    }
}

fn open_dir(dir: &Path) -> Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    const O_DIRECTORY: i32 = 0o200_000;
    let file = File::options().read(true).custom_flags(O_DIRECTORY).open(dir).map_err(Error::file("open", dir))?;
    Ok(file.into())
}

fn open_write(path: &Path) -> Result<OwnedFd> {
    Ok(File::options().write(true).open(path).map_err(Error::file("open", path))?.into())
}

/// Makes the folder; parents where needed. Answers whether it is new.
fn make_dir(dir: &Path, made: &mut Vec<PathBuf>, each: &mut dyn FnMut(&Path) -> Result<()>) -> Result<bool> {
    match std::fs::create_dir(dir) {
        Ok(()) => {
            made.push(dir.to_owned());
            each(dir)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = dir.parent().ok_or(Error::NoCgroups)?;
            make_dir(parent, made, each)?;
            // Parents are shared: another container may need them already, they are never taken back.
            made.retain(|path| path != parent);
            make_dir(dir, made, each)
        }
        Err(source) => Err(Error::File { operation: "mkdir", path: dir.into(), source }),
    }
}

/// Calls `each` for the folder and all below it, children last.
fn walk(dir: &Path, depth: usize, each: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    each(dir)?;
    for child in children(dir)? {
        if depth > 0 {
            walk(&child, depth - 1, each)?;
        }
    }
    Ok(())
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::File { operation: "list", path: dir.into(), source }),
    };
    let entries = entries.filter_map(std::result::Result::ok);
    Ok(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect())
}

fn remove_tree(dir: &Path, end: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        let error = match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        // EBUSY: children, or processes that are not reaped yet; the kernel offers nothing to wait on for all hierarchies.
        if error.raw_os_error() != Some(16) || Instant::now() >= end {
            return Err(Error::File { operation: "rmdir", path: dir.into(), source: error });
        }
        let below = children(dir)?;
        for child in &below {
            remove_tree(child, end)?;
        }
        if below.is_empty() {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests;
