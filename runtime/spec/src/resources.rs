//! Limits of the cgroup, and resource limits of the process.

use crate::devices;
use crate::options::{BlockIo, Options, Resources, ThrottleDevice, Ulimit};
use crated_types::{Error, Result};
use oci_spec::runtime as oci;

/// Smallest memory limit, in bytes: less starts nothing (docker's bound).
const MEMORY_MIN: i64 = 6 << 20;
/// CFS period where `--cpus` is given, in microseconds.
const PERIOD: u64 = 100_000;

pub(crate) fn resources(options: &Options) -> Result<oci::LinuxResources> {
    let wanted = &options.resources;
    let mut all = oci::LinuxResources::default();
    all.set_devices(Some(devices::rules(options)?));
    all.set_memory(memory(wanted)?);
    all.set_cpu(cpu(wanted)?);
    if let Some(limit) = wanted.pids_limit {
        let mut pids = oci::LinuxPids::default();
        pids.set_limit(if limit <= 0 { -1 } else { limit });
        all.set_pids(Some(pids));
    }
    all.set_block_io(block_io(&wanted.blkio)?);
    if !wanted.unified.is_empty() {
        all.set_unified(Some(wanted.unified.clone().into_iter().collect()));
    }
    Ok(all)
}

fn memory(wanted: &Resources) -> Result<Option<oci::LinuxMemory>> {
    let bad = |reason: String| Error::invalid("memory", reason);
    let limit = wanted.memory.filter(|limit| *limit != 0);
    if let Some(limit) = limit.filter(|limit| (0..MEMORY_MIN).contains(limit)) {
        return Err(bad(format!("{limit} bytes are less than the smallest limit of 6 MiB")));
    }
    let swap = match (limit, wanted.memory_swap.filter(|swap| *swap != 0)) {
        (Some(limit), None) if limit > 0 => limit.checked_mul(2),
        (None, Some(swap)) if swap > 0 => return Err(bad("a limit of swap needs a limit of memory".into())),
        (Some(limit), Some(swap)) if swap >= 0 && swap < limit => {
            return Err(bad("memory and swap together are less than memory".into()));
        }
        (_, swap) => swap,
    };
    if let Some((limit, soft)) = limit.zip(wanted.memory_reservation)
        && limit > 0
        && soft > limit
    {
        return Err(bad("the soft limit is above the limit".into()));
    }
    if wanted.memory_swappiness.is_some_and(|value| value > 100) {
        return Err(bad("swappiness is not 0..=100".into()));
    }
    let mut memory = oci::LinuxMemory::default();
    memory
        .set_limit(limit)
        .set_swap(swap)
        .set_reservation(wanted.memory_reservation)
        .set_swappiness(wanted.memory_swappiness)
        .set_disable_oom_killer(Some(true).filter(|_| wanted.oom_kill_disable));
    Ok(Some(memory).filter(|memory| *memory != oci::LinuxMemory::default()))
}

fn cpu(wanted: &Resources) -> Result<Option<oci::LinuxCpu>> {
    let bad = |reason: &str| Error::invalid("cpu", reason);
    let (mut quota, mut period) = (wanted.cpu_quota, wanted.cpu_period);
    if let Some(nano) = wanted.nano_cpus.filter(|nano| *nano != 0) {
        if quota.is_some() || period.is_some() {
            return Err(bad("a number of CPUs excludes quota and period"));
        }
        // 10^9 a CPU, times 100 000 us: one billionth is 10^-4 us. The kernel's smallest quota is 1 ms.
        quota = Some(i64::try_from(nano / 10_000).unwrap_or(i64::MAX).max(1000));
        period = Some(PERIOD);
    }
    if period.is_some_and(|period| period != 0 && !(1000..=1_000_000).contains(&period)) {
        return Err(bad("the period is not 1000..=1000000 microseconds"));
    }
    if quota.is_some_and(|quota| quota > 0 && quota < 1000) {
        return Err(bad("the quota is less than 1000 microseconds"));
    }
    for (what, list) in [("CPUs", &wanted.cpuset_cpus), ("nodes", &wanted.cpuset_mems)] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty())
            && !is_list(list)
        {
            return Err(Error::invalid("cpuset", format_args!("{list:?} is no list of {what} like 0-3,5")));
        }
    }
    let mut cpu = oci::LinuxCpu::default();
    cpu.set_shares(wanted.cpu_shares)
        .set_quota(quota)
        .set_period(period)
        .set_cpus(wanted.cpuset_cpus.clone().filter(|list| !list.is_empty()))
        .set_mems(wanted.cpuset_mems.clone().filter(|list| !list.is_empty()));
    Ok(Some(cpu).filter(|cpu| *cpu != oci::LinuxCpu::default()))
}

/// `0-3,5`.
fn is_list(text: &str) -> bool {
    text.split(',').all(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
        number(low).zip(number(high)).is_some_and(|(low, high)| low <= high)
    })
}

fn block_io(wanted: &BlockIo) -> Result<Option<oci::LinuxBlockIo>> {
    let weights = wanted.weight.iter().chain(wanted.weight_device.iter().map(|device| &device.weight));
    if weights.into_iter().any(|weight| *weight != 0 && !(10..=1000).contains(weight)) {
        return Err(Error::invalid("blkio-weight", "it is not 10..=1000"));
    }
    let throttle = |devices: &[ThrottleDevice]| {
        let device = |device: &ThrottleDevice| {
            let limit = oci::LinuxThrottleDeviceBuilder::default();
            let limit = limit.major(device.major).minor(device.minor).rate(device.rate);
            limit.build().expect("every field has a default")
        };
        Some(devices.iter().map(device).collect::<Vec<_>>()).filter(|devices| !devices.is_empty())
    };
    let weights: Vec<_> = wanted
        .weight_device
        .iter()
        .map(|device| {
            let weight = oci::LinuxWeightDeviceBuilder::default();
            let weight = weight.major(device.major).minor(device.minor).weight(device.weight);
            weight.build().expect("every field has a default")
        })
        .collect();
    let mut io = oci::LinuxBlockIo::default();
    io.set_weight(wanted.weight)
        .set_weight_device(Some(weights).filter(|weights| !weights.is_empty()))
        .set_throttle_read_bps_device(throttle(&wanted.read_bps))
        .set_throttle_write_bps_device(throttle(&wanted.write_bps))
        .set_throttle_read_iops_device(throttle(&wanted.read_iops))
        .set_throttle_write_iops_device(throttle(&wanted.write_iops));
    Ok(Some(io).filter(|io| *io != oci::LinuxBlockIo::default()))
}

pub(crate) fn rlimits(ulimits: &[Ulimit]) -> Result<Option<Vec<oci::PosixRlimit>>> {
    let mut limits: Vec<oci::PosixRlimit> = Vec::new();
    for ulimit in ulimits {
        let typ = rlimit_type(&ulimit.name)
            .ok_or_else(|| Error::invalid("ulimit", format_args!("{:?} is not known", ulimit.name)))?;
        if ulimit.soft > ulimit.hard {
            return Err(Error::invalid(
                "ulimit",
                format_args!("{}: the soft limit is above the hard one", ulimit.name),
            ));
        }
        let limit = oci::PosixRlimitBuilder::default().typ(typ).soft(ulimit.soft).hard(ulimit.hard);
        let limit = limit.build().expect("every field has a default");
        limits.retain(|held| held.typ() != typ);
        limits.push(limit);
    }
    Ok(Some(limits).filter(|limits| !limits.is_empty()))
}

/// By docker's name.
pub(crate) fn rlimit_type(name: &str) -> Option<oci::PosixRlimitType> {
    use oci::PosixRlimitType as T;
    Some(match name {
        "as" => T::RlimitAs,
        "core" => T::RlimitCore,
        "cpu" => T::RlimitCpu,
        "data" => T::RlimitData,
        "fsize" => T::RlimitFsize,
        "locks" => T::RlimitLocks,
        "memlock" => T::RlimitMemlock,
        "msgqueue" => T::RlimitMsgqueue,
        "nice" => T::RlimitNice,
        "nofile" => T::RlimitNofile,
        "nproc" => T::RlimitNproc,
        "rss" => T::RlimitRss,
        "rtprio" => T::RlimitRtprio,
        "rttime" => T::RlimitRttime,
        "sigpending" => T::RlimitSigpending,
        "stack" => T::RlimitStack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_twice_the_memory_unless_said() {
        let memory = |limit: i64, swap: Option<i64>| {
            memory(&Resources { memory: Some(limit), memory_swap: swap, ..Resources::default() })
        };
        assert_eq!(memory(8 << 20, None).unwrap().unwrap().swap(), Some(16 << 20));
        assert_eq!(memory(8 << 20, Some(-1)).unwrap().unwrap().swap(), Some(-1));
        assert_eq!(memory(8 << 20, Some(8 << 20)).unwrap().unwrap().swap(), Some(8 << 20));
        assert_eq!(memory(-1, None).unwrap().unwrap().swap(), None);
        assert_eq!(memory(0, None).unwrap(), None);
        assert!(memory(8 << 20, Some(7 << 20)).is_err() && memory(1000, None).is_err());
        assert!(memory(0, Some(8 << 20)).is_err());
    }

    #[test]
    fn cpus_become_quota_and_period() {
        let wanted = Resources { nano_cpus: Some(1_500_000_000), ..Resources::default() };
        let limit = cpu(&wanted).unwrap().unwrap();
        assert_eq!((limit.quota(), limit.period()), (Some(150_000), Some(100_000)));
        assert!(cpu(&Resources { cpu_quota: Some(5000), ..wanted }).is_err());
        for (list, right) in
            [("0-3,5", true), ("0", true), ("3-1", false), ("a", false), ("0,", false), ("-1", false), ("+1", false)]
        {
            let wanted = Resources { cpuset_cpus: Some(list.into()), ..Resources::default() };
            assert_eq!(cpu(&wanted).is_ok(), right, "{list}");
        }
    }

    #[test]
    fn ulimits_are_checked() {
        let limit = |name: &str, soft, hard| rlimits(&[Ulimit { name: name.into(), soft, hard }]);
        assert_eq!(limit("nofile", 1, 2).unwrap().unwrap()[0].hard(), 2);
        assert!(limit("nofile", 2, 1).is_err() && limit("what", 1, 1).is_err());
        assert!(rlimits(&[]).unwrap().is_none());
    }
}
