//! The figures of a cgroup, with the fields of containerd's metrics messages (`io.containerd.cgroups.v1` and `.v2`).

use super::error::Result;
use super::file::{self, number, pairs, read_optional};
use super::v1::Dir;
use std::path::Path;

/// Figures of either version.
#[derive(Clone, Debug, PartialEq)]
pub enum Metrics {
    /// Of cgroup v1.
    V1(Box<V1Metrics>),
    /// Of cgroup v2.
    V2(Box<V2Metrics>),
}

macro_rules! keyed {
    ($(#[$doc:meta])+ $name:ident { $($field:ident = $key:literal,)+ } $(also { $(#[$more_doc:meta] $more:ident: $type:ty,)+ })?) => {
        $(#[$doc])+
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name { $(#[doc = concat!("`", $key, "`.")] pub $field: u64,)+ $($(#[$more_doc] pub $more: $type,)+)? }

        impl $name {
            fn take(&mut self, text: &str) {
                for (key, value) in pairs(text) {
                    match key { $($key => self.$field = value,)+ _ => {} }
                }
            }
        }
    };
}

/// Figures of cgroup v1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct V1Metrics {
    /// Huge pages, by size.
    pub hugetlb: Vec<HugetlbStat>,
    /// Processes: current and limit, [`u64::MAX`] without one.
    pub pids: (u64, u64),
    /// CPU time.
    pub cpu: V1Cpu,
    /// Memory.
    pub memory: V1Memory,
    /// Bytes moved by device and operation.
    pub io_service_bytes: Vec<BlkioEntry>,
    /// Operations by device and operation.
    pub io_serviced: Vec<BlkioEntry>,
    /// RDMA: current.
    pub rdma_current: Vec<RdmaEntry>,
    /// RDMA: limits.
    pub rdma_limit: Vec<RdmaEntry>,
    /// Processes by state; the kernel gives them by netlink only, so all are zero.
    pub processes: CgroupProcesses,
    /// State of the out-of-memory killer.
    pub oom: V1OomControl,
}

/// Processes by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupProcesses {
    /// Asleep.
    pub sleeping: u64,
    /// Running.
    pub running: u64,
    /// Stopped.
    pub stopped: u64,
    /// In an uninterruptible wait.
    pub uninterruptible: u64,
    /// Waiting for a device.
    pub io_wait: u64,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugetlbStat {
    /// Bytes in use.
    pub usage: u64,
    /// v1: most bytes ever in use; v2: the limit.
    pub max: u64,
    /// Refusals.
    pub failures: u64,
    /// `2MB`, `1GB`.
    pub page_size: String,
}

/// CPU time of v1, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V1Cpu {
    /// All.
    pub total: u64,
    /// In the kernel.
    pub kernel: u64,
    /// In user space.
    pub user: u64,
    /// By CPU.
    pub per_cpu: Vec<u64>,
    /// Periods in which a quota counted.
    pub periods: u64,
    /// Of these, throttled.
    pub throttled_periods: u64,
    /// Time throttled.
    pub throttled_time: u64,
}

/// Usage and limit of one kind of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct V1MemoryEntry {
    /// Limit in bytes.
    pub limit: u64,
    /// Bytes in use.
    pub usage: u64,
    /// Most bytes ever in use.
    pub max: u64,
    /// Refusals.
    pub failures: u64,
}

/// `memory.oom_control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct V1OomControl {
    /// 1: processes wait instead of being killed.
    pub kill_disabled: u64,
    /// 1: they are waiting.
    pub under_oom: u64,
    /// Processes killed.
    pub kills: u64,
}

keyed! {
    /// `memory.stat` of v1, and the four kinds of memory.
    V1Memory {
        cache = "cache", rss = "rss", rss_huge = "rss_huge", mapped_file = "mapped_file", dirty = "dirty",
        writeback = "writeback", pg_pg_in = "pgpgin", pg_pg_out = "pgpgout", pg_fault = "pgfault",
        pg_maj_fault = "pgmajfault", inactive_anon = "inactive_anon", active_anon = "active_anon",
        inactive_file = "inactive_file", active_file = "active_file", unevictable = "unevictable",
        hierarchical_memory_limit = "hierarchical_memory_limit", hierarchical_swap_limit = "hierarchical_memsw_limit",
        total_cache = "total_cache", total_rss = "total_rss", total_rss_huge = "total_rss_huge",
        total_mapped_file = "total_mapped_file", total_dirty = "total_dirty", total_writeback = "total_writeback",
        total_pg_pg_in = "total_pgpgin", total_pg_pg_out = "total_pgpgout", total_pg_fault = "total_pgfault",
        total_pg_maj_fault = "total_pgmajfault", total_inactive_anon = "total_inactive_anon",
        total_active_anon = "total_active_anon", total_inactive_file = "total_inactive_file",
        total_active_file = "total_active_file", total_unevictable = "total_unevictable",
    } also {
        /// Memory.
        usage: V1MemoryEntry,
        /// Memory and swap.
        swap: V1MemoryEntry,
        /// Kernel memory.
        kernel: V1MemoryEntry,
        /// Buffers of TCP.
        kernel_tcp: V1MemoryEntry,
    }
}

/// A figure of a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`.
    pub operation: String,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// The figure.
    pub value: u64,
}

/// Use of an RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// Device.
    pub device: String,
    /// Handles, `u32::MAX` for no limit.
    pub handles: u32,
    /// Objects, `u32::MAX` for no limit.
    pub objects: u32,
}

/// Figures of cgroup v2.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct V2Metrics {
    /// Processes: current and limit, [`u64::MAX`] without one.
    pub pids: (u64, u64),
    /// CPU time.
    pub cpu: V2Cpu,
    /// Memory.
    pub memory: V2Memory,
    /// Events of memory.
    pub memory_events: MemoryEvents,
    /// RDMA: current.
    pub rdma_current: Vec<RdmaEntry>,
    /// RDMA: limits.
    pub rdma_limit: Vec<RdmaEntry>,
    /// Block devices.
    pub io: Vec<IoEntry>,
    /// Pressure of block devices.
    pub io_psi: Option<PsiStats>,
    /// Huge pages, by size.
    pub hugetlb: Vec<HugetlbStat>,
}

/// Pressure: the share of time in which some or all processes waited (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PsiStats {
    /// At least one process waited.
    pub some: PsiData,
    /// All of them did.
    pub full: PsiData,
}

/// One line of pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PsiData {
    /// Percent over 10 s.
    pub avg10: f64,
    /// Percent over 60 s.
    pub avg60: f64,
    /// Percent over 300 s.
    pub avg300: f64,
    /// Microseconds in all.
    pub total: u64,
}

keyed! {
    /// `cpu.stat`, microseconds.
    V2Cpu {
        usage_usec = "usage_usec", user_usec = "user_usec", system_usec = "system_usec", nr_periods = "nr_periods",
        nr_throttled = "nr_throttled", throttled_usec = "throttled_usec", nr_bursts = "nr_bursts",
        burst_usec = "burst_usec",
    } also {
        /// Pressure.
        psi: Option<PsiStats>,
    }
}

keyed! {
    /// `memory.stat` of v2 and the memory files.
    V2Memory {
        anon = "anon", file = "file", kernel_stack = "kernel_stack", slab = "slab", sock = "sock", shmem = "shmem",
        file_mapped = "file_mapped", file_dirty = "file_dirty", file_writeback = "file_writeback",
        anon_thp = "anon_thp", inactive_anon = "inactive_anon", active_anon = "active_anon",
        inactive_file = "inactive_file", active_file = "active_file", unevictable = "unevictable",
        slab_reclaimable = "slab_reclaimable", slab_unreclaimable = "slab_unreclaimable", pgfault = "pgfault",
        pgmajfault = "pgmajfault", workingset_refault = "workingset_refault_file",
        workingset_activate = "workingset_activate_file", workingset_nodereclaim = "workingset_nodereclaim",
        pgrefill = "pgrefill", pgscan = "pgscan", pgsteal = "pgsteal", pgactivate = "pgactivate",
        pgdeactivate = "pgdeactivate", pglazyfree = "pglazyfree", pglazyfreed = "pglazyfreed",
        thp_fault_alloc = "thp_fault_alloc", thp_collapse_alloc = "thp_collapse_alloc",
    } also {
        /// Bytes in use.
        usage: u64,
        /// Limit, [`u64::MAX`] without one.
        usage_limit: u64,
        /// Bytes of swap in use.
        swap_usage: u64,
        /// Limit of swap, [`u64::MAX`] without one.
        swap_limit: u64,
        /// Most bytes ever in use.
        max_usage: u64,
        /// Most bytes of swap ever in use.
        swap_max_usage: u64,
        /// Pressure.
        psi: Option<PsiStats>,
    }
}

keyed! {
    /// `memory.events`.
    MemoryEvents {
        low = "low", high = "high", max = "max", oom = "oom", oom_kill = "oom_kill", oom_group_kill = "oom_group_kill",
    }
}

/// `io.stat` of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes read.
    pub rbytes: u64,
    /// Bytes written.
    pub wbytes: u64,
    /// Reads.
    pub rios: u64,
    /// Writes.
    pub wios: u64,
}

/// Nanoseconds of a clock tick: `USER_HZ` is 100 on every architecture of ours.
const TICK: u64 = 10_000_000;

pub(super) fn v1(dirs: &[Dir]) -> Result<V1Metrics> {
    let mut all = V1Metrics::default();
    let of = |name: &str| dirs.iter().find(|dir| dir.has(name)).map(|dir| dir.path.as_path());
    if let Some(dir) = of("pids") {
        all.pids = (number(dir, "pids.current")?, number(dir, "pids.max")?);
    }
    if let Some(dir) = of("cpuacct") {
        all.cpu.total = number(dir, "cpuacct.usage")?;
        let stat = read_optional(dir, "cpuacct.stat")?.unwrap_or_default();
        all.cpu.user = file::keyed(&stat, "user").saturating_mul(TICK);
        all.cpu.kernel = file::keyed(&stat, "system").saturating_mul(TICK);
        let per_cpu = read_optional(dir, "cpuacct.usage_percpu")?.unwrap_or_default();
        all.cpu.per_cpu = per_cpu.split_whitespace().map(file::parse).collect();
    }
    if let Some(dir) = of("cpu") {
        let stat = read_optional(dir, "cpu.stat")?.unwrap_or_default();
        all.cpu.periods = file::keyed(&stat, "nr_periods");
        all.cpu.throttled_periods = file::keyed(&stat, "nr_throttled");
        all.cpu.throttled_time = file::keyed(&stat, "throttled_time");
    }
    if let Some(dir) = of("memory") {
        all.memory.take(&read_optional(dir, "memory.stat")?.unwrap_or_default());
        all.memory.usage = memory_entry(dir, "memory")?;
        all.memory.swap = memory_entry(dir, "memory.memsw")?;
        all.memory.kernel = memory_entry(dir, "memory.kmem")?;
        all.memory.kernel_tcp = memory_entry(dir, "memory.kmem.tcp")?;
        let control = read_optional(dir, "memory.oom_control")?.unwrap_or_default();
        all.oom = V1OomControl {
            kill_disabled: file::keyed(&control, "oom_kill_disable"),
            under_oom: file::keyed(&control, "under_oom"),
            kills: file::keyed(&control, "oom_kill"),
        };
    }
    if let Some(dir) = of("blkio") {
        for (name, to) in [("io_service_bytes", &mut all.io_service_bytes), ("io_serviced", &mut all.io_serviced)] {
            // BFQ counts only what goes through it; the throttler counts all.
            for prefix in ["blkio.bfq", "blkio.throttle"] {
                *to = blkio(&read_optional(dir, &format!("{prefix}.{name}_recursive"))?.unwrap_or_default());
                if !to.is_empty() {
                    break;
                }
            }
        }
    }
    if let Some(dir) = of("hugetlb") {
        all.hugetlb = hugetlb(dir, ".usage_in_bytes", ".max_usage_in_bytes", ".failcnt")?;
    }
    if let Some(dir) = of("rdma") {
        all.rdma_current = rdma(&read_optional(dir, "rdma.current")?.unwrap_or_default());
        all.rdma_limit = rdma(&read_optional(dir, "rdma.max")?.unwrap_or_default());
    }
    Ok(all)
}

fn memory_entry(dir: &Path, prefix: &str) -> Result<V1MemoryEntry> {
    Ok(V1MemoryEntry {
        limit: number(dir, &format!("{prefix}.limit_in_bytes"))?,
        usage: number(dir, &format!("{prefix}.usage_in_bytes"))?,
        max: number(dir, &format!("{prefix}.max_usage_in_bytes"))?,
        failures: number(dir, &format!("{prefix}.failcnt"))?,
    })
}

fn blkio(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let mut parts = line.split([' ', ':']);
        let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(BlkioEntry { major, minor, operation: parts.next()?.into(), value: parts.next()?.parse().ok()? })
    };
    text.lines().filter_map(entry).collect()
}

/// One entry a page size, found by the names of the files; `failures` is a file (v1) or the key `max` of a file (v2).
fn hugetlb(dir: &Path, usage: &str, max: &str, failures: &str) -> Result<Vec<HugetlbStat>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(std::result::Result::ok) {
        let name = entry.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(usage));
        let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
        let name = |suffix: &str| format!("hugetlb.{size}{suffix}");
        let text = read_optional(dir, &name(failures))?.unwrap_or_default();
        all.push(HugetlbStat {
            usage: number(dir, &name(usage))?,
            max: number(dir, &name(max))?,
            failures: text.trim().parse().unwrap_or_else(|_| file::keyed(&text, "max")),
            page_size: size.into(),
        });
    }
    all.sort_by(|a, b| a.page_size.cmp(&b.page_size));
    Ok(all)
}

fn rdma(text: &str) -> Vec<RdmaEntry> {
    let parse = |value: &str| if value == "max" { u32::MAX } else { value.parse().unwrap_or(0) };
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split_whitespace();
            let mut entry = RdmaEntry { device: parts.next()?.into(), ..RdmaEntry::default() };
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match key {
                    "hca_handle" => entry.handles = parse(value),
                    "hca_object" => entry.objects = parse(value),
                    _ => {}
                }
            }
            Some(entry)
        })
        .collect()
}

pub(super) fn v2(dir: &Path) -> Result<V2Metrics> {
    let mut all = V2Metrics { pids: (number(dir, "pids.current")?, number(dir, "pids.max")?), ..V2Metrics::default() };
    all.cpu.take(&read_optional(dir, "cpu.stat")?.unwrap_or_default());
    all.cpu.psi = psi(dir, "cpu.pressure")?;
    let memory = &mut all.memory;
    memory.take(&read_optional(dir, "memory.stat")?.unwrap_or_default());
    memory.usage = number(dir, "memory.current")?;
    memory.usage_limit = number(dir, "memory.max")?;
    memory.swap_usage = number(dir, "memory.swap.current")?;
    memory.swap_limit = number(dir, "memory.swap.max")?;
    memory.max_usage = number(dir, "memory.peak")?;
    memory.swap_max_usage = number(dir, "memory.swap.peak")?;
    memory.psi = psi(dir, "memory.pressure")?;
    all.memory_events.take(&read_optional(dir, "memory.events")?.unwrap_or_default());
    all.io = io(&read_optional(dir, "io.stat")?.unwrap_or_default());
    all.io_psi = psi(dir, "io.pressure")?;
    all.hugetlb = hugetlb(dir, ".current", ".max", ".events")?;
    all.rdma_current = rdma(&read_optional(dir, "rdma.current")?.unwrap_or_default());
    all.rdma_limit = rdma(&read_optional(dir, "rdma.max")?.unwrap_or_default());
    Ok(all)
}

fn io(text: &str) -> Vec<IoEntry> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split_whitespace();
            let (major, minor) = parts.next()?.split_once(':')?;
            let mut entry = IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = file::parse(value);
                match key {
                    "rbytes" => entry.rbytes = value,
                    "wbytes" => entry.wbytes = value,
                    "rios" => entry.rios = value,
                    "wios" => entry.wios = value,
                    _ => {}
                }
            }
            Some(entry)
        })
        .collect()
}

fn psi(dir: &Path, name: &str) -> Result<Option<PsiStats>> {
    Ok(read_optional(dir, name)?.map(|text| parse_psi(&text)))
}

fn parse_psi(text: &str) -> PsiStats {
    let mut stats = PsiStats::default();
    for line in text.lines() {
        let mut parts = line.split(' ');
        let data = match parts.next() {
            Some("some") => &mut stats.some,
            Some("full") => &mut stats.full,
            _ => continue,
        };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_texts_are_read() {
        let entries = blkio("8:0 Read 4096\n8:0 Write 0\nTotal 4096\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].major, entries[0].operation.as_str(), entries[0].value), (8, "Read", 4096));
        assert_eq!(io("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\nx\n")[0].wios, 4);
        assert_eq!(rdma("mlx4_0 hca_handle=2 hca_object=max\n")[0].objects, u32::MAX);
        let psi = parse_psi(
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.25 total=3\n",
        );
        assert_eq!((psi.some.avg10, psi.some.total, psi.full.avg300), (1.5, 7, 0.25));
        let mut memory = V1Memory::default();
        memory.take("cache 1\nhierarchical_memsw_limit 9\nrubbish\nrss x\n");
        assert_eq!((memory.cache, memory.hierarchical_swap_limit, memory.rss), (1, 9, 0));
    }
}
