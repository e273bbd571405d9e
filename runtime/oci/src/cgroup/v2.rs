//! Limits and the freezer of cgroup v2 (kernel Documentation/admin-guide/cgroup-v2.rst).

use super::devices::State;
use super::error::{Error, Result};
use super::file::{self, read, read_optional, write};
use super::path::CgroupPath;
use super::{bpf, convert, make_dir};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Makes the folder. With `controllers` every ancestor hands down all it has; a host with v1 has none to hand down.
pub(super) fn create(mount: &Path, path: &CgroupPath, controllers: bool, made: &mut Vec<PathBuf>) -> Result<PathBuf> {
    let dir = path.below(mount);
    let new = make_dir(&dir, made, &mut |_| Ok(()))?;
    if !new && read(&dir, "cgroup.procs").is_ok_and(|text| text.lines().next().is_some()) {
        return Err(Error::NotEmpty { path: dir });
    }
    if controllers {
        let mut level = mount.to_owned();
        for part in dir.strip_prefix(mount).unwrap_or(&dir).components() {
            enable(&level)?;
            level.push(part);
        }
    }
    Ok(dir)
}

/// Hands the folder's controllers down to its children. A controller that cannot be is left out: only a limit needs it.
fn enable(dir: &Path) -> Result<()> {
    let (available, enabled) = (read(dir, "cgroup.controllers")?, read(dir, "cgroup.subtree_control")?);
    let enabled: Vec<&str> = enabled.split_whitespace().collect();
    let missing: Vec<String> =
        available.split_whitespace().filter(|name| !enabled.contains(name)).map(|name| format!("+{name}")).collect();
    if missing.is_empty() || write(dir, "cgroup.subtree_control", &missing.join(" ")).is_ok() {
        return Ok(());
    }
    for name in &missing {
        let _ = write(dir, "cgroup.subtree_control", name);
    }
    Ok(())
}

/// Writes what `resources` asks for.
pub(super) fn apply(dir: &Path, fd: BorrowedFd<'_>, resources: &LinuxResources, fresh: bool) -> Result<()> {
    if let Some(rules) = resources.devices().as_deref().filter(|rules| !rules.is_empty()) {
        let state = State::from_rules(rules)?;
        if state != State::open() || !fresh {
            guard_devices(fd, &state)?;
        }
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(dir, cpu)?;
    }
    if let Some(memory) = resources.memory() {
        apply_memory(dir, memory)?;
    }
    if let Some(pids) = resources.pids() {
        put(dir, "pids.max", &convert::pids_max(pids.limit()), "resources.pids")?;
    }
    if let Some(blkio) = resources.block_io() {
        apply_io(dir, blkio)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let name = format!("hugetlb.{}.max", page_size(limit.page_size())?);
        put(dir, &name, &convert::or_max(limit.limit()), "resources.hugepageLimits")?;
    }
    if let Some(network) = resources.network()
        && (network.class_id().is_some_and(|class| class != 0) || network.priorities().is_some())
    {
        return Err(Error::Unsupported { what: "resources.network (net_cls, net_prio) on cgroup v2".into() });
    }
    for line in rdma_lines(resources) {
        put(dir, "rdma.max", &line, "resources.rdma")?;
    }
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (name, value) in unified {
        if name.contains('/') || !name.contains('.') || name.starts_with('.') {
            return Err(Error::Resource { field: "unified", reason: format!("{name:?} is not a file of a cgroup") });
        }
        if name.starts_with("cgroup.") && name != "cgroup.max.depth" && name != "cgroup.max.descendants" {
            return Err(Error::Resource { field: "unified", reason: format!("{name:?} is the runtime's own") });
        }
        for line in value.lines() {
            put(dir, name, line, "resources.unified")?;
        }
    }
    Ok(())
}

/// Lets the program of `state` decide about devices.
pub(super) fn guard_devices(fd: BorrowedFd<'_>, state: &State) -> Result<()> {
    let failed = |operation| move |error: crated_sys::SysError| Error::System { operation, source: error.into() };
    let program = crated_sys::cgroup::load_device_program(&bpf::program(state)).map_err(failed("load device rules"))?;
    crated_sys::cgroup::replace_device_program(fd, &program).map_err(failed("attach device rules"))
}

/// Writes a file whose absence means that its controller is.
fn put(dir: &Path, name: &str, value: &str, asked: &'static str) -> Result<()> {
    write(dir, name, value).map_err(|error| {
        let controller = name.split('.').next().unwrap_or(name);
        let has =
            || read(dir, "cgroup.controllers").is_ok_and(|text| text.split_whitespace().any(|has| has == controller));
        if error.is_not_found() && dir.exists() && !has() {
            Error::Missing { controller: controller.into(), asked }
        } else {
            error
        }
    })
}

fn apply_cpu(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    let asked = "resources.cpu";
    for (name, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            put(dir, name, value, asked)?;
        }
    }
    // An idle cgroup has no weight: the kernel refuses one then.
    if let Some(idle) = cpu.idle() {
        put(dir, "cpu.idle", &idle.to_string(), asked)?;
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0)
        && cpu.idle() != Some(1)
    {
        put(dir, "cpu.weight", &convert::cpu_weight(shares).to_string(), asked)?;
    }
    if let Some(max) = convert::cpu_max(cpu.quota(), cpu.period()) {
        put(dir, "cpu.max", &max, asked)?;
    }
    if let Some(burst) = cpu.burst() {
        put(dir, "cpu.max.burst", &burst.to_string(), asked)?;
    }
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
        return Err(Error::Unsupported { what: "resources.cpu.realtimeRuntime on cgroup v2".into() });
    }
    Ok(())
}

fn apply_memory(dir: &Path, memory: &LinuxMemory) -> Result<()> {
    let asked = "resources.memory";
    let swap = convert::swap_max(memory.limit(), memory.swap())?;
    // Swap first: the kernel may have to push pages out to get below the new limit.
    if let Some(swap) = swap {
        match put(dir, "memory.swap.max", &swap, asked) {
            // Without swap accounting unlimited and none are the same.
            Err(error) if error.is_not_found() && (swap == "max" || swap == "0") => {}
            done => done?,
        }
    }
    if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
        put(dir, "memory.max", &convert::or_max(limit), asked)?;
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        put(dir, "memory.low", &convert::or_max(reservation), asked)?;
    }
    Ok(())
}

fn apply_io(dir: &Path, blkio: &LinuxBlockIo) -> Result<()> {
    let asked = "resources.blockIO";
    if let Some(weight) = blkio.weight().filter(|weight| *weight != 0) {
        match write(dir, "io.bfq.weight", &weight.to_string()) {
            Err(error) if error.is_not_found() => {
                put(dir, "io.weight", &format!("default {}", convert::io_weight(weight)), asked)?;
            }
            done => done?,
        }
    }
    for device in blkio.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let number = format!("{}:{}", device.major(), device.minor());
            match write(dir, "io.bfq.weight", &format!("{number} {weight}")) {
                Err(error) if error.is_not_found() => {
                    put(dir, "io.weight", &format!("{number} {}", convert::io_weight(weight)), asked)?;
                }
                done => done?,
            }
        }
    }
    let limits = [
        ("rbps", blkio.throttle_read_bps_device()),
        ("wbps", blkio.throttle_write_bps_device()),
        ("riops", blkio.throttle_read_iops_device()),
        ("wiops", blkio.throttle_write_iops_device()),
    ];
    for (key, devices) in limits {
        for device in devices.iter().flatten() {
            // 0 lifts a limit in v1 and is refused by v2.
            let rate = if device.rate() == 0 { "max".into() } else { device.rate().to_string() };
            put(dir, "io.max", &format!("{}:{} {key}={rate}", device.major(), device.minor()), asked)?;
        }
    }
    Ok(())
}

/// The page size as file names spell it; the spec's text must not reach a path unchecked.
pub(super) fn page_size(text: &str) -> Result<&str> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        Ok(text)
    } else {
        let reason = format!("page size {text:?} is not like 2MB");
        Err(Error::Resource { field: "hugepageLimits", reason })
    }
}

/// Lines of `rdma.max`.
pub(super) fn rdma_lines(resources: &LinuxResources) -> Vec<String> {
    let devices: BTreeMap<_, _> = resources.rdma().iter().flatten().collect();
    devices
        .into_iter()
        .filter(|(_, limit)| limit.hca_handles().is_some() || limit.hca_objects().is_some())
        .map(|(device, limit)| {
            let mut line = device.clone();
            if let Some(handles) = limit.hca_handles() {
                line.push_str(&format!(" hca_handle={handles}"));
            }
            if let Some(objects) = limit.hca_objects() {
                line.push_str(&format!(" hca_object={objects}"));
            }
            line
        })
        .collect()
}

/// Whether this kernel freezes v2 cgroups (Linux 5.2).
pub(super) fn has_freezer(dir: &Path) -> bool {
    dir.join("cgroup.freeze").exists()
}

/// Freezes, bounded by `patience`; the change of `cgroup.events` is awaited, not asked for again and again.
pub(super) fn freeze(dir: &Path, patience: Duration) -> Result<()> {
    let path = dir.join("cgroup.events");
    let mut events = File::open(&path).map_err(Error::file("open", &path))?;
    write(dir, "cgroup.freeze", "1")?;
    let end = Instant::now() + patience;
    loop {
        let mut text = String::new();
        events.rewind().and_then(|()| events.read_to_string(&mut text)).map_err(Error::file("read", &path))?;
        // Without processes nothing changes to frozen on old kernels.
        if file::keyed(&text, "frozen") == 1 || file::keyed(&text, "populated") == 0 {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Late { path: dir.into(), state: "frozen", after: patience });
        }
        let failed =
            |error: crated_sys::SysError| Error::System { operation: "wait for cgroup.events", source: error.into() };
        crated_sys::cgroup::wait_changed(events.as_fd(), left).map_err(failed)?;
    }
}

pub(super) fn thaw(dir: &Path) -> Result<()> {
    write(dir, "cgroup.freeze", "0")
}

pub(super) fn is_frozen(dir: &Path) -> Result<bool> {
    // The wish, not `frozen` of cgroup.events, where the cgroup has no processes.
    let Some(wish) = read_optional(dir, "cgroup.freeze")? else { return Ok(false) };
    if wish.trim() != "1" {
        return Ok(false);
    }
    let events = read(dir, "cgroup.events")?;
    Ok(file::keyed(&events, "frozen") == 1 || file::keyed(&events, "populated") == 0)
}
