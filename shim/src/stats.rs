//! The figures of a container's cgroup as containerd's messages.

use crated_api::io::containerd::cgroups::{v1, v2};
use crated_oci::cgroup::{BlkioEntry, HugetlbStat, Metrics, PsiStats, RdmaEntry, V1Memory, V1MemoryEntry, V1Metrics};
use crated_oci::cgroup::{V2Memory, V2Metrics};
use prost::Message;
use prost_types::Any;

/// Copies fields of one name between two structs.
macro_rules! fields {
    ($from:expr => $($to:ident)::+ { $($field:ident),+ $(,)? } $(, $($name:ident: $value:expr),+ $(,)?)?) => {
        $($to)::+ { $($field: $from.$field,)+ $($($name: $value,)+)? }
    };
}

/// The message of either version.
pub(crate) fn pack(metrics: &Metrics) -> Any {
    let (name, value) = match metrics {
        Metrics::V1(metrics) => ("io.containerd.cgroups.v1.Metrics", of_v1(metrics).encode_to_vec()),
        Metrics::V2(metrics) => ("io.containerd.cgroups.v2.Metrics", of_v2(metrics).encode_to_vec()),
    };
    Any { type_url: name.into(), value }
}

fn of_v1(from: &V1Metrics) -> v1::Metrics {
    let huge = |huge: &HugetlbStat| v1::HugetlbStat {
        usage: huge.usage,
        max: huge.max,
        failcnt: huge.failures,
        pagesize: huge.page_size.clone(),
    };
    // "No limit" is 0 in the messages of v1.
    let limit = if from.pids.1 == u64::MAX { 0 } else { from.pids.1 };
    v1::Metrics {
        hugetlb: from.hugetlb.iter().map(huge).collect(),
        pids: Some(v1::PidsStat { current: from.pids.0, limit }),
        cpu: Some(v1::CpuStat {
            usage: Some(fields!(from.cpu => v1::CpuUsage { total, kernel, user }, per_cpu: from.cpu.per_cpu.clone())),
            throttling: Some(fields!(from.cpu => v1::Throttle { periods, throttled_periods, throttled_time })),
        }),
        memory: Some(memory_of_v1(&from.memory)),
        blkio: Some(v1::BlkIoStat {
            io_service_bytes_recursive: from.io_service_bytes.iter().map(block).collect(),
            io_serviced_recursive: from.io_serviced.iter().map(block).collect(),
            ..v1::BlkIoStat::default()
        }),
        rdma: Some(v1::RdmaStat { current: rdma_v1(&from.rdma_current), limit: rdma_v1(&from.rdma_limit) }),
        network: Vec::new(),
        cgroup_stats: Some(v1::CgroupStats {
            nr_sleeping: from.processes.sleeping,
            nr_running: from.processes.running,
            nr_stopped: from.processes.stopped,
            nr_uninterruptible: from.processes.uninterruptible,
            nr_io_wait: from.processes.io_wait,
        }),
        memory_oom_control: Some(v1::MemoryOomControl {
            oom_kill_disable: from.oom.kill_disabled,
            under_oom: from.oom.under_oom,
            oom_kill: from.oom.kills,
        }),
    }
}

fn block(entry: &BlkioEntry) -> v1::BlkIoEntry {
    v1::BlkIoEntry {
        op: entry.operation.clone(),
        device: String::new(),
        major: entry.major,
        minor: entry.minor,
        value: entry.value,
    }
}

fn rdma_v1(entries: &[RdmaEntry]) -> Vec<v1::RdmaEntry> {
    let entry = |entry: &RdmaEntry| v1::RdmaEntry {
        device: entry.device.clone(),
        hca_handles: entry.handles,
        hca_objects: entry.objects,
    };
    entries.iter().map(entry).collect()
}

fn memory_of_v1(from: &V1Memory) -> v1::MemoryStat {
    let entry = |entry: &V1MemoryEntry| {
        Some(v1::MemoryEntry { limit: entry.limit, usage: entry.usage, max: entry.max, failcnt: entry.failures })
    };
    fields!(from => v1::MemoryStat {
        cache, rss, rss_huge, mapped_file, dirty, writeback, pg_pg_in, pg_pg_out, pg_fault, pg_maj_fault, inactive_anon,
        active_anon, inactive_file, active_file, unevictable, hierarchical_memory_limit, hierarchical_swap_limit,
        total_cache, total_rss, total_rss_huge, total_mapped_file, total_dirty, total_writeback, total_pg_pg_in,
        total_pg_pg_out, total_pg_fault, total_pg_maj_fault, total_inactive_anon, total_active_anon,
        total_inactive_file, total_active_file, total_unevictable,
    },
        usage: entry(&from.usage), swap: entry(&from.swap), kernel: entry(&from.kernel),
        kernel_tcp: entry(&from.kernel_tcp))
}

fn of_v2(from: &V2Metrics) -> v2::Metrics {
    let huge = |huge: &HugetlbStat| v2::HugeTlbStat {
        current: huge.usage,
        max: huge.max,
        pagesize: huge.page_size.clone(),
        failcnt: huge.failures,
    };
    v2::Metrics {
        pids: Some(v2::PidsStat { current: from.pids.0, limit: from.pids.1 }),
        cpu: Some(fields!(from.cpu => v2::CpuStat {
            usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, nr_bursts, burst_usec,
        }, psi: psi(from.cpu.psi.as_ref()))),
        memory: Some(memory_of_v2(&from.memory)),
        rdma: Some(v2::RdmaStat { current: rdma_v2(&from.rdma_current), limit: rdma_v2(&from.rdma_limit) }),
        io: Some(v2::IoStat {
            usage: from
                .io
                .iter()
                .map(|entry| fields!(entry => v2::IoEntry { major, minor, rbytes, wbytes, rios, wios }))
                .collect(),
            psi: psi(from.io_psi.as_ref()),
        }),
        hugetlb: from.hugetlb.iter().map(huge).collect(),
        memory_events: Some(fields!(from.memory_events => v2::MemoryEvents {
            low, high, max, oom, oom_kill, oom_group_kill,
        })),
        network: Vec::new(),
    }
}

fn psi(from: Option<&PsiStats>) -> Option<v2::PsiStats> {
    from.map(|from| v2::PsiStats {
        some: Some(fields!(from.some => v2::PsiData { avg10, avg60, avg300, total })),
        full: Some(fields!(from.full => v2::PsiData { avg10, avg60, avg300, total })),
    })
}

fn rdma_v2(entries: &[RdmaEntry]) -> Vec<v2::RdmaEntry> {
    let entry = |entry: &RdmaEntry| v2::RdmaEntry {
        device: entry.device.clone(),
        hca_handles: entry.handles,
        hca_objects: entry.objects,
    };
    entries.iter().map(entry).collect()
}

fn memory_of_v2(from: &V2Memory) -> v2::MemoryStat {
    fields!(from => v2::MemoryStat {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp, inactive_anon,
        active_anon, inactive_file, active_file, unevictable, slab_reclaimable, slab_unreclaimable, pgfault,
        pgmajfault, workingset_refault, workingset_activate, workingset_nodereclaim, pgrefill, pgscan, pgsteal,
        pgactivate, pgdeactivate, pglazyfree, pglazyfreed, thp_fault_alloc, thp_collapse_alloc, usage, usage_limit,
        swap_usage, swap_limit, max_usage, swap_max_usage,
    }, psi: psi(from.psi.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_in_their_fields() {
        let mut figures = V1Metrics { pids: (3, u64::MAX), ..V1Metrics::default() };
        figures.cpu.total = 7;
        figures.memory.usage.limit = 9;
        let any = pack(&Metrics::V1(Box::new(figures)));
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let message = v1::Metrics::decode(any.value.as_slice()).unwrap();
        assert_eq!(message.pids, Some(v1::PidsStat { current: 3, limit: 0 }));
        assert_eq!(message.cpu.unwrap().usage.unwrap().total, 7);
        assert_eq!(message.memory.unwrap().usage.unwrap().limit, 9);
        let figures = V2Metrics { pids: (3, u64::MAX), ..V2Metrics::default() };
        let any = pack(&Metrics::V2(Box::new(figures)));
        let message = v2::Metrics::decode(any.value.as_slice()).unwrap();
        assert_eq!(message.pids, Some(v2::PidsStat { current: 3, limit: u64::MAX }));
    }
}
