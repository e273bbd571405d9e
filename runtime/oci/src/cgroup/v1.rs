//! Limits and the freezer of cgroup v1 (kernel Documentation/admin-guide/cgroup-v1).

use super::devices::State;
use super::error::{Error, Result};
use super::file::{read, write};
use super::host::Hierarchy;
use super::path::CgroupPath;
use super::{convert, make_dir};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const EINVAL: i32 = 22;

/// The container's folder in one hierarchy.
#[derive(Debug)]
pub(super) struct Dir {
    controllers: &'static [String],
    pub(super) path: PathBuf,
}

/// The folder of `controller`, which `asked` needs.
pub(super) fn find<'a>(dirs: &'a [Dir], controller: &str, asked: &'static str) -> Result<&'a Dir> {
    dirs.iter().find(|dir| dir.has(controller)).ok_or_else(|| Error::Missing { controller: controller.into(), asked })
}

impl Dir {
    pub(super) fn create(hierarchy: &'static Hierarchy, path: &CgroupPath, made: &mut Vec<PathBuf>) -> Result<Self> {
        let dir = Self { controllers: &hierarchy.controllers, path: path.below(&hierarchy.mount) };
        let leaf = dir.path.clone();
        let cpuset = dir.has("cpuset");
        // A cpuset without CPUs and nodes takes no process (cpusets.rst §1.9). Parents of ours pass theirs on by
        // clone_children, so that a container costs one read instead of four files.
        let new = make_dir(&dir.path, made, &mut |new| {
            if !cpuset {
                return Ok(());
            }
            inherit_cpuset(new)?;
            if new == leaf { Ok(()) } else { write(new, "cgroup.clone_children", "1") }
        })?;
        if !new {
            if cpuset {
                inherit_cpuset(&dir.path)?;
            }
            if read(&dir.path, "cgroup.procs")?.lines().next().is_some() {
                return Err(Error::NotEmpty { path: dir.path });
            }
        }
        Ok(dir)
    }

    pub(super) fn open(hierarchy: &'static Hierarchy, path: &CgroupPath) -> Option<Self> {
        let path = path.below(&hierarchy.mount);
        path.is_dir().then_some(Self { controllers: &hierarchy.controllers, path })
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Freezes, bounded by `patience`.
    pub(super) fn freeze(&self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            // Written again each time: a process that was being born may have slipped through (freezer-subsystem.rst).
            write(&self.path, "freezer.state", "FROZEN")?;
            if self.is_frozen()? {
                return Ok(());
            }
            if start.elapsed() > patience {
                return Err(Error::Late { path: self.path.clone(), state: "frozen", after: patience });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    pub(super) fn thaw(&self) -> Result<()> {
        write(&self.path, "freezer.state", "THAWED")
    }

    pub(super) fn is_frozen(&self) -> Result<bool> {
        Ok(read(&self.path, "freezer.state")?.trim() == "FROZEN")
    }
}

fn inherit_cpuset(dir: &Path) -> Result<()> {
    if !read(dir, "cpuset.cpus")?.trim().is_empty() && !read(dir, "cpuset.mems")?.trim().is_empty() {
        return Ok(());
    }
    let parent = dir.parent().ok_or(Error::NoCgroups)?;
    if read(parent, "cpuset.cpus")?.trim().is_empty() || read(parent, "cpuset.mems")?.trim().is_empty() {
        inherit_cpuset(parent)?;
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if read(dir, name)?.trim().is_empty() {
            write(dir, name, read(parent, name)?.trim())?;
        }
    }
    Ok(())
}

/// Writes what `resources` asks for.
pub(super) fn apply(dirs: &[Dir], resources: &LinuxResources, fresh: bool) -> Result<()> {
    if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return Err(Error::Unsupported { what: "resources.unified on a host with cgroup v1".into() });
    }
    if let Some(rules) = resources.devices().as_deref().filter(|rules| !rules.is_empty()) {
        let wanted = State::from_rules(rules)?;
        if wanted != State::open() || !fresh {
            let dir = &find(dirs, "devices", "resources.devices")?.path;
            let held = State::parse(&read(dir, "devices.list")?).unwrap_or_else(State::open);
            for (file, line) in held.transition(&wanted) {
                write(dir, file, &line)?;
            }
        }
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(dirs, cpu)?;
    }
    if let Some(memory) = resources.memory() {
        apply_memory(dirs, memory)?;
    }
    if let Some(pids) = resources.pids() {
        let dir = find(dirs, "pids", "resources.pids")?;
        write(&dir.path, "pids.max", &convert::pids_max(pids.limit()))?;
    }
    if let Some(blkio) = resources.block_io() {
        apply_blkio(dirs, blkio)?;
    }
    apply_rest(dirs, resources)
}

fn apply_cpu(dirs: &[Dir], cpu: &LinuxCpu) -> Result<()> {
    let sets = [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())];
    for (name, value) in sets {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            write(&find(dirs, "cpuset", "resources.cpu.cpus")?.path, name, value)?;
        }
    }
    let asks = cpu.shares().is_some()
        || cpu.quota().is_some()
        || cpu.period().is_some()
        || cpu.realtime_period().is_some()
        || cpu.realtime_runtime().is_some()
        || cpu.idle().is_some()
        || cpu.burst().is_some();
    if !asks {
        return Ok(());
    }
    let dir = &find(dirs, "cpu", "resources.cpu")?.path;
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        write(dir, "cpu.shares", &shares.to_string())?;
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        write(dir, "cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        write(dir, "cpu.rt_runtime_us", &runtime.to_string())?;
    }
    let quota = cpu.quota().filter(|quota| *quota != 0).map(|quota| quota.to_string());
    let period = cpu.period().filter(|period| *period != 0).map(|period| period.to_string());
    match (quota, period) {
        (Some(quota), Some(period)) => match write(dir, "cpu.cfs_period_us", &period) {
            // The new period may be wrong for the old quota (a larger share than the parent's), so the quota goes first.
            Err(error) if error.errno() == Some(EINVAL) => {
                write(dir, "cpu.cfs_quota_us", &quota)?;
                write(dir, "cpu.cfs_period_us", &period)?;
            }
            done => {
                done?;
                write(dir, "cpu.cfs_quota_us", &quota)?;
            }
        },
        (Some(quota), None) => write(dir, "cpu.cfs_quota_us", &quota)?,
        (None, Some(period)) => write(dir, "cpu.cfs_period_us", &period)?,
        (None, None) => {}
    }
    if let Some(burst) = cpu.burst() {
        write(dir, "cpu.cfs_burst_us", &burst.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        write(dir, "cpu.idle", &idle.to_string())?;
    }
    Ok(())
}

fn apply_memory(dirs: &[Dir], memory: &LinuxMemory) -> Result<()> {
    let some = |value: Option<i64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    let limits = (some(memory.limit()), some(memory.swap()));
    let reservation = some(memory.reservation());
    let tcp = some(memory.kernel_tcp());
    let swappiness = memory.swappiness();
    let keep_alive = memory.disable_oom_killer().filter(|disable| *disable);
    if limits == (None, None) && (&reservation, &tcp) == (&None, &None) && swappiness.is_none() && keep_alive.is_none()
    {
        return Ok(());
    }
    let dir = &find(dirs, "memory", "resources.memory")?.path;
    let (limit, both) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
    match limits {
        (Some(memory), Some(swap)) => match write(dir, limit, &memory) {
            // The memory limit may not pass the limit of both (memory.rst §5.3): raising starts with that.
            Err(error) if error.errno() == Some(EINVAL) => {
                write(dir, both, &swap)?;
                write(dir, limit, &memory)?;
            }
            done => {
                done?;
                write(dir, both, &swap)?;
            }
        },
        (Some(memory), None) => write(dir, limit, &memory)?,
        (None, Some(swap)) => write(dir, both, &swap)?,
        (None, None) => {}
    }
    if let Some(value) = reservation {
        write(dir, "memory.soft_limit_in_bytes", &value)?;
    }
    if let Some(value) = tcp {
        write(dir, "memory.kmem.tcp.limit_in_bytes", &value)?;
    }
    match swappiness {
        // Docker's and runc's "not set" is -1 as an unsigned number.
        None | Some(u64::MAX) => {}
        Some(value @ 0..=200) => write(dir, "memory.swappiness", &value.to_string())?,
        Some(value) => {
            let reason = format!("{value} is not 0..=100");
            return Err(Error::Resource { field: "memory.swappiness", reason });
        }
    }
    if keep_alive.is_some() {
        write(dir, "memory.oom_control", "1")?;
    }
    Ok(())
}

fn apply_blkio(dirs: &[Dir], blkio: &LinuxBlockIo) -> Result<()> {
    let asked = "resources.blockIO";
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("blkio.throttle.read_bps_device", blkio.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", blkio.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", blkio.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", blkio.throttle_write_iops_device()),
    ];
    for (name, devices) in throttles {
        for device in devices.iter().flatten() {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            write(&find(dirs, "blkio", asked)?.path, name, &line)?;
        }
    }
    if let Some(weight) = blkio.weight().filter(|weight| *weight != 0) {
        // BFQ's since CFQ is gone (Linux 5.0); older kernels have the plain name.
        write_either(&find(dirs, "blkio", asked)?.path, ["blkio.bfq.weight", "blkio.weight"], &weight.to_string())?;
    }
    for device in blkio.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let line = format!("{}:{} {weight}", device.major(), device.minor());
            let names = ["blkio.bfq.weight_device", "blkio.weight_device"];
            write_either(&find(dirs, "blkio", asked)?.path, names, &line)?;
        }
    }
    Ok(())
}

fn write_either(dir: &Path, names: [&str; 2], value: &str) -> Result<()> {
    match write(dir, names[0], value) {
        Err(error) if error.is_not_found() => match write(dir, names[1], value) {
            Err(second) if second.is_not_found() => Err(error),
            done => done,
        },
        done => done,
    }
}

fn apply_rest(dirs: &[Dir], resources: &LinuxResources) -> Result<()> {
    for limit in resources.hugepage_limits().iter().flatten() {
        let dir = &find(dirs, "hugetlb", "resources.hugepageLimits")?.path;
        let size = super::v2::page_size(limit.page_size())?;
        write(dir, &format!("hugetlb.{size}.limit_in_bytes"), &limit.limit().to_string())?;
        match write(dir, &format!("hugetlb.{size}.rsvd.limit_in_bytes"), &limit.limit().to_string()) {
            Err(error) if error.is_not_found() => {} // before Linux 5.7
            done => done?,
        }
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|class| *class != 0) {
            let dir = find(dirs, "net_cls", "resources.network.classID")?;
            write(&dir.path, "net_cls.classid", &class.to_string())?;
        }
        for priority in network.priorities().iter().flatten() {
            let dir = find(dirs, "net_prio", "resources.network.priorities")?;
            write(&dir.path, "net_prio.ifpriomap", &format!("{} {}", priority.name(), priority.priority()))?;
        }
    }
    super::v2::rdma_lines(resources)
        .iter()
        .try_for_each(|line| write(&find(dirs, "rdma", "resources.rdma")?.path, "rdma.max", line))
}
